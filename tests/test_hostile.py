"""A population from a stranger: opening it runs nothing, and writes nothing outside of its own folder."""

from __future__ import annotations

import json
import os
import pickle
import platform
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from evo_tune.cli import cli
from evo_tune.errors import EvoTuneError
from evo_tune.loop.search import Search
from tests.conftest import QUICK
from tests.journals import events_of, write_events

pytestmark = pytest.mark.xdist_group("hostile")  # one run is made, and copied

LOOKS = (["list"], ["show", "run"], ["best", "run"], ["status", "run"], ["show", "run", "--format", "csv"])


class Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return (os.system, (f"touch {self.mark}",))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run: it is made once."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "quick.py").write_text(QUICK)
    given = {"strategy": "ga", "population": 4, "seed": 1, "trials": 6, "slots": 1}
    with Search(str(folder / "quick.py"), store=folder / "store", name="run", **given) as search:
        search.run()
    return folder


@pytest.fixture
def stranger(finished: Path, quick: Path, tmp_path: Path) -> Path:
    """A copy of it, in a store below a folder in which nothing else may change."""
    assert quick.parent == tmp_path
    run = shutil.copytree(finished / "store", tmp_path / "store") / "run"
    manifest = (run / "_run.json").read_text()
    (run / "_run.json").write_text(manifest.replace(str(finished), str(tmp_path)))
    return run


def look(run: Path, *words: str) -> tuple[int, str]:
    """Type a command in the folder above the store; return its exit code and its error."""
    here = os.getcwd()
    os.chdir(run.parent.parent)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            done = CliRunner().invoke(cli, [*words, "--store", str(run.parent)])
    finally:
        os.chdir(here)
    if isinstance(done.exception, EvoTuneError):
        return done.exception.exit_code, str(done.exception)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stderr


def look_at_all(run: Path) -> list[tuple[int, str]]:
    """Have every command that only looks do so: what is wrong is an error of ours, not whatever comes."""
    outside = listing(run.parent.parent)
    done = [look(run, *words) for words in LOOKS]
    assert listing(run.parent.parent) == outside, "nothing is written"
    return done


def listing(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file() and "__pycache__" not in str(p)}


FILES = ("_run.json", "_journal.jsonl", "trials-0000.parquet", "_comparison.parquet", "_heartbeat.json")


@pytest.mark.parametrize("name", FILES)
def test_a_pickle_in_place_of_any_file_is_not_opened(stranger, tmp_path, name):
    mark = tmp_path / "ran"
    (stranger / name).write_bytes(pickle.dumps(Bomb(mark)))
    look_at_all(stranger)
    look(stranger, "verify", "run")
    assert not mark.exists()


def test_parquet_with_crafted_metadata_runs_nothing(stranger, tmp_path):
    mark = tmp_path / "ran"
    bomb = pickle.dumps(Bomb(mark))
    for file in stranger.glob("trials-*.parquet"):
        table = pq.read_table(file)
        crafted = {b"pandas": bomb, b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:schema": bomb}
        pq.write_table(table.replace_schema_metadata(crafted), file)
    extension = pa.field(
        "x",
        pa.binary(),
        metadata={b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": bomb},
    )
    pq.write_table(pa.table([pa.array([b"1"])], schema=pa.schema([extension])), stranger / "trials-0009.parquet")
    look_at_all(stranger)
    assert not mark.exists()


@pytest.mark.parametrize(
    "bomb", ["[" * 100_000, '{"a":' * 50_000, "9" * 100_000, '{"event": "proposed"}\n' * 3, "\x00" * 1000]
)
@pytest.mark.parametrize("name", ["_run.json", "_journal.jsonl"])
def test_a_bomb_of_json_is_one_line_of_error(stranger, name, bomb):
    (stranger / name).write_text(bomb)
    for code, error in look_at_all(stranger)[1:]:
        assert code == 1
        assert len(error.splitlines()) == 1, error


def test_a_journal_without_a_session_is_shown_all_the_same(stranger):
    write_events(stranger, [line for line in events_of(stranger) if line["event"] not in ("session", "ended")])
    slot = {"slot": "a", "device": "cpu", "work": "", "seconds": 1, "memory": None}
    sign = {"pid": os.getpid(), "host": platform.node(), "time": time.time(), "slots": [slot]}
    (stranger / "_heartbeat.json").write_text(json.dumps(sign))
    assert [code for code, _ in look_at_all(stranger)] == [0] * len(LOOKS)


def edited(run: Path, change: Callable[[dict], None]) -> None:
    lines = events_of(run)
    for line in lines:
        change(line)
    write_events(run, lines)


@pytest.mark.parametrize("id", ["../../../evil", -1, "000001/../../evil", 1e400])
def test_an_id_cannot_lead_out_of_the_folder(stranger, tmp_path, id):
    """Trials' folders are made and emptied by the id of a candidate, and of the one that it goes on from."""
    victim = tmp_path / "evil"
    victim.mkdir()
    (victim / "precious").write_text("x")

    def change(line: dict) -> None:
        if line["event"] == "proposed":
            line["candidate"]["resumes"] = id
        if line["event"] == "recorded" and line["id"] == 5:
            line["id"] = id

    edited(stranger, change)
    look_at_all(stranger)
    code, _ = look(stranger, "resume", "run", "--trials", "8", "--accept-changes")
    assert code != 0
    assert (victim / "precious").read_text() == "x"


def test_resume_runs_only_an_evaluator_that_the_user_has_or_names(stranger, tmp_path):
    """The stranger's manifest names a file that came with the run; it is not one of the user's own."""
    mark = tmp_path / "ran"
    evil = stranger / "evil.py"
    evil.write_text(f"open({str(mark)!r}, 'w').close()\n" + (tmp_path / "quick.py").read_text())
    manifest = json.loads((stranger / "_run.json").read_text())
    manifest["evaluator"] = str(evil)
    (stranger / "_run.json").write_text(json.dumps(manifest))
    look_at_all(stranger)
    assert not mark.exists()
    code, error = look(stranger, "resume", "run", "--trials", "8", "--accept-changes")
    assert code == 2, error
    assert "say --trust, or --evaluator PATH" in error
    assert not mark.exists(), "it was not run"
    code, error = look(stranger, "resume", "run", "--trials", "7", "--accept-changes", "--evaluator", str(evil))
    assert code == 0, error
    assert mark.exists(), "the user has said so"


def test_checkpoints_are_read_as_data(tmp_path):
    import torch

    from evo_tune.errors import EvoTuneError
    from evo_tune.training import GPT, load_checkpoint

    mark = tmp_path / "ran"
    bomb = {"model": Bomb(mark)}
    torch.save(bomb, tmp_path / "checkpoint.pt")
    with pytest.raises((EvoTuneError, pickle.UnpicklingError)):
        load_checkpoint(tmp_path / "checkpoint.pt")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    torch.save(bomb, tmp_path / "model" / "model.safetensors")
    with pytest.raises(Exception):  # noqa: B017, PT011 # whatever it is, nothing ran
        GPT.load(tmp_path / "model")
    assert not mark.exists()
    shutil.rmtree(tmp_path / "model")
