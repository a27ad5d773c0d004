"""A run's folder from a stranger: what each file of the store refuses, with one line, and what stays untouched."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evo_tune.errors import EvoTuneError, StoreError, UsageError
from evo_tune.loop.search import Search
from evo_tune.store import journal as journals
from evo_tune.store.heartbeat import Heartbeat, SlotWork, last_beat
from evo_tune.store.journal import Journal
from evo_tune.store.manifest import read_manifest
from evo_tune.store.run import Run
from evo_tune.store.run_folders import HEARTBEAT, copy_run, list_runs, new_run_folder
from evo_tune.store.table import file_is_whole, read_comparison
from tests.conftest import drive
from tests.journals import events_of, make_older, save_comparison, write_events

Begin = Callable[..., Search]


@pytest.fixture
def run(begin: Begin) -> Path:
    """A run of six trials, with a final comparison."""
    search = drive(begin("mine", trials=6))
    save_comparison(search.saved.folder, [search.saved.trial(0), search.saved.trial(1)])
    return search.saved.folder


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A folder beside the store that is the same in the end."""
    folder = tmp_path / "outside"
    (folder / "000000").mkdir(parents=True)
    files = [folder / "precious", folder / "000000" / "precious"]
    for file in files:
        file.write_text("precious")
    before = [file.stat().st_mtime_ns for file in files]
    yield folder
    assert sorted(str(path) for path in folder.rglob("*") if path.is_file()) == sorted(str(file) for file in files)
    assert [file.stat().st_mtime_ns for file in files] == before


def refused(do: Callable[[], object], *said: str, kind: type[EvoTuneError] = StoreError) -> None:
    with pytest.raises(kind) as caught:
        do()
    message = str(caught.value)
    assert "\n" not in message
    for text in said:
        assert text in message


def change_journal(run: Path, change: Callable[[list[dict[str, Any]]], object]) -> None:
    lines = events_of(run)
    change(lines)
    write_events(run, lines)


@pytest.mark.parametrize("name", ["_run.json", "_journal.jsonl"])
@pytest.mark.parametrize(
    ("kind", "said"),
    [("link", "it is a link"), ("fifo", "no regular file"), ("folder", "no regular file"), ("huge", "at most")],
)
def test_a_run_whose_files_are_none_is_refused_at_once(
    run: Path, outside: Path, name: str, kind: str, said: str
) -> None:
    path = run / name
    path.unlink()
    if kind == "link":
        path.symlink_to(outside / "precious")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.touch()
        os.truncate(path, 1 << 40)
    refused(lambda: Run.open(run), f"cannot read {path}", said)
    refused(lambda: Run.open(run, write=True), said)
    assert list_runs(run.parent) == [run]


def test_a_journal_with_a_second_name_is_not_written(run: Path, outside: Path, resume: Begin) -> None:
    (run / "_journal.jsonl").replace(outside.parent / "journal")
    os.link(outside.parent / "journal", run / "_journal.jsonl")
    before = (run / "_journal.jsonl").read_bytes()
    assert len(Run.open(run).trials()) == 6
    refused(lambda: resume("mine", trials=8), "second name (a hard link)")
    assert (run / "_journal.jsonl").read_bytes() == before
    assert len(drive(resume("mine", copy_as="copy", trials=8)).trials) == 8, "a copy has no other name"


def test_a_line_that_is_too_long_is_named(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = run / "_journal.jsonl"
    longest = max(map(len, path.read_bytes().splitlines(keepends=True)))
    monkeypatch.setattr(journals, "LONGEST", longest)
    assert len(Run.open(run).trials()) == 6
    with path.open("ab") as file:
        file.write(b"x" * longest + b"\n")
    count = path.read_bytes().count(b"\n")
    refused(lambda: Run.open(run), f"line {count} is longer than")


def test_a_journal_cannot_be_made_larger_than_it_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "LARGEST", 200)
    journal = Journal(tmp_path / "_journal.jsonl")
    journal.append([b"x" * 90], sync=False)
    refused(lambda: journal.append([b"x" * 90], sync=False), "larger than")
    assert (tmp_path / "_journal.jsonl").stat().st_size == 193


@pytest.mark.parametrize(
    "field", ["slots", "per_device", "retries", "final_seeds", "finalists", "trials", "generations"]
)
def test_a_session_cannot_ask_for_what_no_machine_can_hold(run: Path, field: str) -> None:
    change_journal(run, lambda lines: lines[0]["session"].update({field: 10**20}))
    refused(lambda: Run.open(run), "line 1 is not understood")


@pytest.mark.parametrize(
    "change",
    [
        lambda fields: fields["strategy_options"].update(population=10**18),
        lambda fields: fields.update(threads=10**9),
        lambda fields: fields["settings"].update(seed=10**400),
        lambda fields: fields.update(format_version="x" * 10**6),
        lambda fields: fields.update(options={"a": json.loads("[" * 100 + "]" * 100)}),
    ],
)
def test_a_manifest_of_strange_numbers_is_one_line(run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    fields = json.loads((run / "_run.json").read_text())
    change(fields)
    (run / "_run.json").write_text(json.dumps(fields))
    refused(lambda: read_manifest(run), "_run.json")
    with pytest.raises(StoreError) as caught:
        read_manifest(run)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", ["_trials", "_trials/000000"])
def test_nothing_is_written_or_removed_through_a_link(run: Path, outside: Path, resume: Begin, name: str) -> None:
    shutil.rmtree(run / "_trials", ignore_errors=True)
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).symlink_to(outside / name.removeprefix("_trials/"))
    if name == "_trials":
        (run / name).unlink()
        (run / name).symlink_to(outside)
    if name == "_trials/000000":
        search = resume("mine", trials=7)
        search.close()
    else:
        refused(lambda: resume("mine", trials=8), "cannot write", "it is a link")


@pytest.mark.parametrize("name", [HEARTBEAT, "_heartbeat.part"])
def test_a_sign_of_life_is_not_written_through_a_link(run: Path, outside: Path, name: str) -> None:
    (run / name).symlink_to(outside / "precious")
    assert last_beat(run) is None
    Heartbeat(run).beat(lambda: [SlotWork("slot 0", "cpu", "", 0.0, None)])
    assert last_beat(run) is not None
    Heartbeat(run).stop()
    assert not os.path.lexists(run / HEARTBEAT)


@pytest.mark.parametrize(
    "change", [{"pid": -1}, {"pid": 0}, {"pid": 10**30}, {"time": None}, {"host": 1}, {"slots": None}, {"slots": [{}]}]
)
def test_a_sign_of_strange_values_is_none(run: Path, change: dict[str, Any]) -> None:
    sign = {"pid": os.getpid(), "host": platform.node(), "time": time.time(), "slots": []}
    (run / HEARTBEAT).write_text(json.dumps(sign))
    assert last_beat(run) is not None
    (run / HEARTBEAT).write_text(json.dumps({**sign, **change}))
    assert last_beat(run) is None


def test_a_process_of_another_user_is_alive(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, signal: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    Heartbeat(run).beat(list)
    monkeypatch.setattr(os, "kill", refuse)
    beat = last_beat(run)
    assert beat is not None
    assert beat.alive


def test_a_copy_is_without_links_and_what_is_no_file(run: Path, outside: Path) -> None:
    (run / "_trials" / "000000").mkdir(parents=True, exist_ok=True)
    (run / "_trials" / "000000" / "state").write_text("x")
    (run / "_trials" / "000000" / "link").symlink_to(outside / "precious")
    (run / "folder").symlink_to(outside)
    os.mkfifo(run / "fifo")
    with pytest.warns(UserWarning, match=r"the copy is without \S+ and 2 more: neither file nor folder, or a link"):
        copy = copy_run(run, run.parent, "copy")
    assert [path.name for path in (copy / "_trials" / "000000").iterdir()] == ["state"]
    assert not any(os.path.lexists(copy / name) for name in ("folder", "fifo"))
    assert len(Run.open(copy).trials()) == 6


def test_a_copy_that_is_refused_leaves_nothing(run: Path) -> None:
    here = run
    for _ in range(70):
        here /= "d"
    here.mkdir(parents=True)
    refused(lambda: copy_run(run, run.parent, "copy"), "within each other")
    assert [path.name for path in run.parent.iterdir()] == ["mine"]


def test_a_name_that_is_a_link_is_taken(run: Path, outside: Path) -> None:
    (run.parent / "new").symlink_to(outside)
    refused(lambda: new_run_folder(run.parent, "new"), "exists", kind=UsageError)
    refused(lambda: copy_run(run, run.parent, "new"), "exists", kind=UsageError)


def bomb(table: pa.Table, kind: str) -> tuple[pa.Table, str]:
    """Return a small file that stands for much, or for what is no result, and its codec."""
    one = table.slice(0, 1)

    def column(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
        return table.set_column(table.schema.get_field_index(name), name, values)

    if kind == "rows":
        return one.take(pa.array(np.zeros(2_000_000, dtype=np.int64))), "snappy"
    if kind == "texts":
        long = pa.DictionaryArray.from_arrays(pa.array(np.zeros(3000, dtype=np.int32)), pa.array(["x" * 5_000_000]))
        return column(one.take(pa.array(np.zeros(3000, dtype=np.int64))), "error", long), "snappy"
    return {
        "codec": (table, "zstd"),
        "id": (column(table, "id", pa.array([-1] * len(table))), "snappy"),
        "status": (column(table, "status", pa.array(["great"] * len(table))), "snappy"),
        "seed": (column(table, "seed", pa.nulls(len(table), pa.int64())), "snappy"),
        "null": (pa.table({f.name: pa.nulls(len(table), f.type) for f in table.schema}), "snappy"),
        "types": (column(table, "seconds", pa.array(["1"] * len(table))), "snappy"),
    }[kind]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rows", "texts", "codec", "id", "status", "seed", "null", "types"])
def test_a_final_comparison_that_stands_for_much_counts_as_none(run: Path, kind: str) -> None:
    make_older(run)
    path, saved = run / "_comparison.parquet", Run.open(run)
    assert [trial.id for trial in read_comparison(saved)] == [0, 1]
    table, codec = bomb(pq.read_table(path, partitioning=None), kind)
    pq.write_table(table, path, compression=codec)
    assert path.stat().st_size < 3_000_000
    before = pa.total_allocated_bytes()
    with pytest.warns(UserWarning, match="is damaged: the final comparison is done again"):
        assert read_comparison(saved) == []
    assert pa.total_allocated_bytes() - before < 1 << 24


def test_a_generation_that_is_a_link_or_huge_is_written_again(run: Path, outside: Path, resume: Begin) -> None:
    path = run / "trials-0000.parquet"
    whole = path.read_bytes()
    for kind in ("link", "huge"):
        path.unlink()
        if kind == "link":
            path.symlink_to(outside / "precious")
        else:
            path.touch()
            os.truncate(path, 1 << 40)
        assert not file_is_whole(Run.open(run), 0, 6)
        (run / "_trials-0000.parquet.part").symlink_to(outside / "precious")
        resume("mine", trials=6).close()
        assert path.read_bytes() == whole
        assert not path.is_symlink()


@pytest.mark.parametrize("name", ["trials-\u00b2\u00b2.parquet", "trials-1.parquet", "trials-x\n.parquet"])
def test_files_with_the_name_of_no_file_of_trials_are_set_aside(run: Path, resume: Begin, name: str) -> None:
    (run / name).write_bytes(b"x")
    with pytest.warns(UserWarning, match="renamed to") as told:
        resume("mine", trials=6).close()
    assert "\n" not in str(told[0].message)
    assert (run / f"_{name}.aside").exists()


@contextlib.contextmanager
def nobody() -> Iterator[Path]:
    """Go on as a user who may nothing that others own, with a store of root's."""
    if os.geteuid() != 0:
        pytest.skip("only root can be somebody else for a while")
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        os.seteuid(0)
        shutil.rmtree(folder)


def test_runs_of_other_users_do_not_hide_the_rest(run: Path) -> None:
    with nobody() as store:
        for name in ("a", "b", "c"):
            shutil.copytree(run, store / name)
        (store / "a").chmod(0o000)
        (store / "b" / "_journal.jsonl").chmod(0o000)
        os.seteuid(65534)
        assert {"b", "c"} <= {path.name for path in list_runs(store)}
        assert len(Run.open(store / "c").trials()) == 6
        refused(lambda: Run.open(store / "a"), "Permission denied")
        refused(lambda: Run.open(store / "b"), "Permission denied")
        refused(lambda: Run.open(store / "c", write=True), "cannot write", "Permission denied")
