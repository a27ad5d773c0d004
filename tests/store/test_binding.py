"""What this machine remembers of results: kept by kills at any moment, and changed by every edit."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from evo_tune.loop.search import Search
from evo_tune.store import binding
from evo_tune.store.binding import CHANGED, changed_files, remember_file, remembered_count
from evo_tune.store.journal import Journal
from evo_tune.store.run import Run
from evo_tune.store.run_folders import copy_run, rename_run
from evo_tune.trust import decide
from tests.conftest import drive, evaluate

Begin = Callable[..., Search]

NOT_AS_LEFT = r"_journal\.jsonl is not as this machine left it: see `evo-tune verify`"


def remembered(folder: Path) -> int | None:
    run = Run.open(folder)
    return remembered_count(run.journal, run.manifest.identity)


def test_the_head_is_remembered_at_the_begin_and_the_end_and_in_intervals(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = begin("mine")
    folder = search.saved.folder
    assert remembered(folder) == 1
    for interval, count in ((1000.0, 1), (0.0, 7)):
        monkeypatch.setattr(binding, "INTERVAL", interval)
        search.saved._head_memory._next_time = time.monotonic() + interval
        candidate = search.ask()
        assert candidate is not None
        search.tell(candidate, evaluate(search, candidate))
        assert remembered(folder) == count
    search.close()
    assert remembered(folder) == search.saved.journal.count


def test_a_journal_may_be_longer_than_what_is_remembered_and_not_shorter_or_other(begin: Begin) -> None:
    """A kill between the write of a record and that of the memory leaves a longer one."""
    search = begin("mine")
    run = search.saved
    begun = decide.run_hashes(run.folder)["journal"]
    drive(search)
    whole = run.journal.path.read_bytes()
    lines = whole.splitlines(keepends=True)
    ended = decide.run_hashes(run.folder)["journal"]
    for count in range(1, len(lines) + 1):
        run.journal.path.write_bytes(b"".join(lines[:count]))
        decide.remember_run(run.folder, {"journal": begun})
        assert remembered(run.folder) == 1, "killed before the memory was written again"
        decide.remember_run(run.folder, {"journal": ended})
        assert remembered(run.folder) == (len(lines) if count == len(lines) else CHANGED), "records are missing"
    run.journal.path.write_bytes(whole.replace(b'"time":1', b'"time":2', 1))
    assert remembered_count(run.journal, run.manifest.identity) == CHANGED
    run.journal.path.write_bytes(whole)
    assert remembered_count(run.journal, run.manifest.identity) == len(lines)
    assert remembered_count(run.journal, "another") is None


KILLED = """
import sys
from evo_tune.loop.search import Search
from evo_tune.store import binding

binding.INTERVAL = 0.0
store, evaluator, *resumes = sys.argv[1:]
search = Search.resume("mine", store=store) if resumes else Search(
    evaluator, strategy="random", name="mine", store=store, trials=1_000_000)
print("begun", flush=True)
while True:
    candidate = search.ask()
    search.tell(candidate, {"loss": 1.0, "cost": 1.0})
"""


def test_no_kill_at_any_moment_looks_like_a_forgery(quick: Path, tmp_path: Path) -> None:
    draw, counts = random.Random(3), []
    store = tmp_path / "store"
    for session in range(3):
        words = [sys.executable, "-W", "ignore", "-c", KILLED, str(store), str(quick), *["resume"] * (session > 0)]
        process = subprocess.Popen(words, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        time.sleep(draw.uniform(0.0, 0.3))
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        journal = Run.open(store / "mine").journal
        known = remembered(store / "mine")
        assert known is not None
        assert 0 <= journal.count - known <= 3, "the records of one result, and the next proposal"
        assert journal.first_broken is None
        counts.append(known)
    assert counts == sorted(set(counts))


def test_a_changed_journal_stays_changed_after_it_was_continued(begin: Begin, resume: Begin) -> None:
    folder = drive(begin("mine", trials=4)).saved.folder
    lines = (folder / "_journal.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "_journal.jsonl").write_bytes(b"".join(lines[:-4]))
    assert remembered(folder) == CHANGED
    with pytest.warns(UserWarning, match=NOT_AS_LEFT):
        drive(resume("mine", trials=6))
    assert remembered(folder) == CHANGED


def test_a_copy_is_known_and_another_run_in_the_folder_is_not(begin: Begin, tmp_path: Path) -> None:
    store = tmp_path / "store"
    folder = drive(begin("mine", trials=4)).saved.folder
    moved = store / "moved"
    shutil.copytree(folder, moved)
    assert remembered(moved) == remembered(folder)
    copied = copy_run(folder, store, "copied")
    shutil.rmtree(folder)
    copied.rename(folder)
    assert remembered(folder) is None
    shutil.rmtree(folder)
    again = drive(begin("mine", trials=3)).saved
    assert remembered(folder) == again.journal.count


def test_a_moved_run_is_known_by_its_identity_and_each_edit_of_it_is_too(begin: Begin, tmp_path: Path) -> None:
    store = tmp_path / "store"
    folder = drive(begin("mine", trials=4)).saved.folder
    drive(begin("other", trials=4))
    identity, count = Run.open(folder).manifest.identity, remembered(folder)
    whole = (folder / "_journal.jsonl").read_bytes()
    edits = whole.replace(b'"time":1', b'"time":2', 1), whole[: whole.rindex(b"\n", 0, -1) + 1], b""
    shutil.copytree(folder, store / "copied")
    renamed = rename_run(folder, "renamed")
    moved = renamed.rename(tmp_path / "moved")
    for place in (store / "copied", moved):
        assert remembered(place) == count
        journal = place / "_journal.jsonl"
        for data in edits:
            journal.write_bytes(data)
            assert remembered_count(Journal(journal), identity) == CHANGED
        journal.write_bytes(whole)
        assert remembered_count(Journal(journal), "another") is None


def test_a_folder_tells_what_its_own_run_was_and_not_what_a_copy_was(begin: Begin, tmp_path: Path) -> None:
    store = tmp_path / "store"
    folder = drive(begin("mine", trials=4)).saved.folder
    shutil.copytree(folder, store / "copied")
    drive(Search.resume("copied", store=store, trials=6))
    drive(Search.resume("mine", store=store, trials=8))
    shutil.rmtree(folder)
    shutil.copytree(store / "copied", folder)
    assert remembered(folder) == CHANGED
    shutil.rmtree(folder)
    rename_run(store / "copied", "mine")
    assert remembered(folder) == Run.open(folder).journal.count, "a renamed run brings what is remembered of it"


def test_a_memory_that_cannot_be_written_stops_nothing_and_is_said_once(
    begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(binding, "INTERVAL", 0.0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        folder = drive(begin("mine", trials=4)).saved.folder
    said = [str(warning.message) for warning in caught if "cannot remember that mine is yours" in str(warning.message)]
    assert len(said) == 2, "of the journal, and of the run"
    assert remembered(folder) is None


def test_files_of_a_known_run_are_remembered(begin: Begin, tmp_path: Path) -> None:
    folder = drive(begin("mine", trials=2)).saved.folder
    identity = Run.open(folder).manifest.identity
    remember_file(folder, identity, "_scale.json", b"{}")
    (folder / "_scale.json").write_bytes(b"{}")
    assert not list(changed_files(folder, identity))
    (folder / "_scale.json").write_bytes(b"{ }")
    assert list(changed_files(folder, identity)) == ["_scale.json"]
    (folder / "_scale.json").unlink()
    (folder / "_scale.json").symlink_to(tmp_path / "other")
    assert list(changed_files(folder, identity)) == ["_scale.json"], "a link is no file of a run"
    (folder / "_scale.json").unlink()
    assert not list(changed_files(folder, identity)), "a removed file says nothing false"
    remember_file(tmp_path, "another", "_scale.json", b"{}")
    assert decide.run_hashes(tmp_path) == {}, "a stranger's run is not remembered because it was looked at"
