"""Files of trials: written when generations close and when a run ends, and left alone by one that only reads them."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from evo_tune.store import table
from evo_tune.strategies.ga import GA
from tests.conftest import drive, rows, survivors
from tests.loop.cases import Begin, some_fail

pytestmark = pytest.mark.usefixtures("fast_disk", "small_files")


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Return when each file was written, and which it is: a file that was replaced is another one."""
    return {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.glob("trials-*.parquet")}


@pytest.mark.parametrize("order", ["arrival", "proposal"])
def test_a_run_that_is_at_its_limit_follows_nothing_and_writes_no_file(
    begin: Begin, resume: Begin, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = drive(begin("run", generations=None, trials=14, order=order), 3, some_fail).saved.folder
    before, kept = files(folder), survivors(folder)
    assert len(before) == 4
    asked: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(GA, "survivors", lambda self, history: asked.append(len(history.trials)) or [])
        drive(resume("run", trials=14))
    assert files(folder) == before
    assert asked == []
    drive(resume("run", trials=30), 3, some_fail)
    whole = drive(begin("whole", generations=None, trials=30, order=order), 3, some_fail).saved.folder
    if order == "proposal":
        assert survivors(folder) == survivors(whole)
    after = files(folder)
    assert all(after[name] == before[name] for name in sorted(before)[:3])  # those that had closed
    assert survivors(folder)[:12] == kept[:12]


@pytest.mark.parametrize("population", [1, 7, 12, 500, 1023, 1024, 5000])
def test_ten_thousand_trials_are_at_most_ten_files(monkeypatch: pytest.MonkeyPatch, population: int) -> None:
    monkeypatch.undo()  # files of the usual size
    run: Any = SimpleNamespace(manifest=SimpleNamespace(population=population))
    assert len({table.file_number(run, number // population) for number in range(10_000)}) <= 10


@pytest.mark.parametrize("order", ["arrival", "proposal"])
def test_a_reader_finds_each_trial_once_after_each_write(
    begin: Begin, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "GENOMES_PER_FILE", 12)
    write, found, counts = table.write, set[int](), []

    def watched(path: Path, rows: Any) -> None:
        write(path, rows)
        ids = pd.read_parquet(path.parent)["id"].tolist()
        assert len(ids) == len(set(ids))
        assert found <= set(ids)
        found.update(ids)
        counts.append(len(ids))

    monkeypatch.setattr(table, "write", watched)
    search = drive(begin("run", generations=None, trials=30, order=order), 3, some_fail)
    assert found == set(range(30))
    assert len(counts) > 6
    assert sorted(files(search.saved.folder)) == [f"trials-{number:04d}.parquet" for number in range(3)]


KILLED = """
import os, signal, sys
from evo_tune.loop.search import Search
from evo_tune.store import table
from tests.conftest import drive

def write(path, rows, whole=table.write):
    if left.pop() == "die before":
        os.kill(os.getpid(), signal.SIGKILL)
    whole(path, rows)
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)

left = ["then die" if sys.argv[2] == "after" else "die before"] + ["write"] * int(sys.argv[3])
table.GENOMES_PER_FILE, table.write = 12, write
drive(Search.resume("run", store=sys.argv[1], trials=30))
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("writes", [0, 2, 4])
def test_a_kill_next_to_a_rename_changes_nothing(
    begin: Begin, resume: Begin, monkeypatch: pytest.MonkeyPatch, moment: str, writes: int
) -> None:
    monkeypatch.setattr(table, "GENOMES_PER_FILE", 12)
    folder = drive(begin("run", generations=None, trials=5)).saved.folder
    words = [sys.executable, "-c", KILLED, str(folder.parent), moment, str(writes)]
    ended = subprocess.run(words, cwd=Path(__file__).parents[2], timeout=60)
    assert ended.returncode == -signal.SIGKILL
    ids = pd.read_parquet(folder)["id"].tolist()
    assert len(ids) == len(set(ids)) >= 5
    whole = drive(begin("whole", generations=None, trials=30))
    again = drive(resume("run", trials=30))
    assert rows(again) == rows(whole)
    assert survivors(folder) == survivors(whole.saved.folder)
