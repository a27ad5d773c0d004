"""A packed run is the run without what its trainings left; an archive of a stranger writes nothing else."""

from __future__ import annotations

import os
import stat
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evo_tune import Search
from evo_tune.errors import StoreError, UsageError
from evo_tune.store.archive import LARGEST, pack_run, unpack_run
from evo_tune.store.run import Run
from evo_tune.store.run_folders import HEARTBEAT, REPORT, TRIALS

SAMPLE = Path(__file__).parents[2] / "populations" / "sample"


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_run_survives(tmp_path: Path) -> None:
    file = tmp_path / "sample.zip"
    (tmp_path / ".sample.zip.part").write_text("left by a command that was killed")
    size = pack_run(SAMPLE, file)
    assert size == file.stat().st_size
    folder = unpack_run(file, tmp_path / "store", "theirs")
    packed = {name: data for name, data in files_of(SAMPLE).items() if name not in (REPORT, HEARTBEAT)}
    assert files_of(folder) == packed
    assert len(Run.open(folder).outcomes) == len(Run.open(SAMPLE).outcomes)


def test_what_trainings_left_is_not_packed(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for name in ("_run.json", "_journal.jsonl", HEARTBEAT, REPORT, f"{TRIALS}/0/weights", "patches/a.patch", "x.part"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(name)
    (run / "link").symlink_to("/etc/passwd")
    pack_run(run, tmp_path / "run.zip")
    with zipfile.ZipFile(tmp_path / "run.zip") as archive:
        assert sorted(archive.namelist()) == ["_journal.jsonl", "_run.json", "patches/a.patch"]


def test_an_existing_file_and_a_taken_name_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "sample.zip"
    pack_run(SAMPLE, file)
    with pytest.raises(UsageError, match=r"sample\.zip exists: choose another name with -o"):
        pack_run(SAMPLE, file)
    unpack_run(file, tmp_path, "theirs")
    with pytest.raises(UsageError, match="theirs exists: choose another name"):
        unpack_run(file, tmp_path, "theirs")


def archive(file: Path, entries: dict[str, bytes], mode: int = 0) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as target:
        for name, data in entries.items():
            info = zipfile.ZipInfo(name)
            info.external_attr, info.compress_type = mode << 16, zipfile.ZIP_DEFLATED
            target.writestr(info, data)
    return file


@pytest.mark.parametrize(
    "name",
    [
        "../out",
        "/out",
        "a/../../out",
        "a//b",
        ".hidden",
        "a/.git/config",
        f"{TRIALS}/0/x",
        "/".join("abcdefghijkl"),
        "a/",
    ],
)
def test_no_name_leaves_the_folder(tmp_path: Path, name: str) -> None:
    file = archive(tmp_path / "evil.zip", {"_run.json": b"{}", name: b"evil"})
    with pytest.raises(StoreError, match="is no file of a run"):
        unpack_run(file, tmp_path / "store", "evil")
    assert os.listdir(tmp_path / "store") == []
    assert sorted(os.listdir(tmp_path)) == ["evil.zip", "store"]


def test_a_link_becomes_a_file(tmp_path: Path) -> None:
    file = archive(tmp_path / "link.zip", {"_run.json": b"{}", "data": b"/etc/passwd"}, stat.S_IFLNK | 0o777)
    folder = unpack_run(file, tmp_path, "linked")
    assert not (folder / "data").is_symlink()
    assert (folder / "data").read_bytes() == b"/etc/passwd"


def test_a_bomb_writes_nothing(tmp_path: Path) -> None:
    file = archive(tmp_path / "bomb.zip", {"_run.json": b"{}", "zeros": bytes(LARGEST + 1)})
    with pytest.raises(StoreError, match="more than"):
        unpack_run(file, tmp_path / "store", "bomb")
    assert os.listdir(tmp_path / "store") == []


def test_a_stated_size_that_is_too_small_writes_nothing(tmp_path: Path) -> None:
    file = archive(tmp_path / "lie.zip", {"_run.json": b"{}", "zeros": bytes(1 << 20)})
    data = file.read_bytes()
    lie = data.replace((1 << 20).to_bytes(4, "little"), (16).to_bytes(4, "little"))
    assert lie != data
    file.write_bytes(lie)
    with pytest.raises(StoreError, match="cannot unpack"):
        unpack_run(file, tmp_path / "store", "lie")
    assert os.listdir(tmp_path / "store") == []


def test_twice_the_same_name_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "twice.zip"
    with zipfile.ZipFile(file, "w") as target:
        target.writestr("_run.json", b"{}")
        with pytest.warns(UserWarning, match="Duplicate"):
            target.writestr("_run.json", b"[]")
    with pytest.raises(StoreError, match=r"it has '_run\.json' twice"):
        unpack_run(file, tmp_path / "store", "twice")


@given(st.binary(max_size=400), st.integers(0, 10_000))
def test_damaged_archives_are_one_error(tmp_path_factory: pytest.TempPathFactory, noise: bytes, position: int) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    file = archive(folder / "run.zip", {"_run.json": b"{}" * 50, "_journal.jsonl": b"x" * 5000})
    data = bytearray(file.read_bytes())
    at = position % len(data)
    data[at : at + len(noise)] = noise
    file.write_bytes(bytes(data))
    try:
        unpack_run(file, folder / "store", "run")
    except (StoreError, UsageError):
        assert not (folder / "store" / "run").exists()
        assert os.listdir(folder / "store") == []


def loss(genome: dict[str, float], context: object) -> dict[str, float]:
    return {"loss": genome["x"]}


def test_a_packed_run_continues(tmp_path: Path) -> None:
    search = Search(
        loss, space={"x": "float(0,1)"}, objectives=["loss:min"], trials=3, store=tmp_path, name="mine", final_seeds=0
    )
    search.run()
    pack_run(tmp_path / "mine", tmp_path / "mine.zip")
    unpack_run(tmp_path / "mine.zip", tmp_path, "copy")
    continued = Search.resume("copy", store=tmp_path, trials=5)  # nothing asks for trust: it is the user's own
    continued.run()
    assert len(continued.trials) == 5


def test_a_device_is_no_archive(tmp_path: Path) -> None:
    """/dev/zero filled the memory; /dev/null only shows that nothing is read."""
    with pytest.raises(StoreError, match="it is no regular file"):
        unpack_run(Path("/dev/null"), tmp_path, "run")
