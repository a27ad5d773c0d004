"""One process writes a run, whatever other programs do to its files, and what they do is named and costs no result."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evo_tune.errors import StoreError
from evo_tune.genome.trial import Candidate
from evo_tune.loop.search import Search
from evo_tune.store.run import Run
from evo_tune.store.run_folders import run_reference
from tests.conftest import drive, evaluate, rows
from tests.journals import line_of

Begin = Callable[..., Search]

HOLD = """
    import sys
    from pathlib import Path
    from evo_tune.store.run import Run
    run = Run.open(Path(sys.argv[1]), write=True)
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def search(begin: Begin) -> Search:
    """A run with four results that is open for writing, and has a fifth trial."""
    search = begin("mine", trials=8)
    for _ in range(4):
        candidate = search.ask()
        assert candidate is not None
        search.tell(candidate, evaluate(search, candidate))
    assert search.ask() is not None
    return search


def refused(search: Search) -> str:
    """Report the result of the pending trial, which must be refused, as the next one must; return the error."""
    candidate = search.saved.candidates[-1]
    messages = []
    for _ in range(2):
        with pytest.raises(StoreError) as caught:
            search.tell(candidate, evaluate(search, candidate))
        messages.append(str(caught.value))
    search.saved.close()
    assert "\n" not in messages[0]
    assert "nothing is lost" not in messages[0]
    return messages[0]


def test_no_other_file_lets_a_second_process_in(search: Search, resume: Begin) -> None:
    for path in search.saved.folder.iterdir():
        if path.name not in ("_run.json", "_journal.jsonl"):
            path.unlink()
    with pytest.raises(StoreError, match="in use by another process"):
        resume("mine")


@pytest.mark.slow
def test_a_stopped_process_keeps_its_run(search: Search, resume: Begin) -> None:
    search.saved.close()
    command = [sys.executable, "-c", textwrap.dedent(HOLD), search.saved.folder]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        other.send_signal(signal.SIGSTOP)
        with pytest.raises(StoreError, match="in use by another process"):
            resume("mine")
        other.kill()
    assert len(drive(resume("mine")).trials) == 8


def copied(journal: Path) -> None:
    """Put a copy in the place of the journal, as an editor or rsync does."""
    shutil.copy(journal, journal.with_name("new"))
    journal.with_name("new").replace(journal)


def linked(journal: Path) -> None:
    journal.rename(journal.with_name("moved"))
    journal.symlink_to("moved")


@pytest.mark.parametrize("change", [copied, linked, Path.unlink, lambda journal: shutil.rmtree(journal.parent)])
def test_a_run_whose_journal_is_gone_is_saved_beside_it(
    search: Search, resume: Begin, change: Callable[[Path], Any]
) -> None:
    change(search.saved.journal.path)
    folder = search.saved.folder.with_name("mine-rescued")
    assert f"saved in {folder}, without checkpoints; `evo-tune resume {run_reference(folder)} --trust`" in refused(
        search
    )
    saved = Run.open(folder)
    assert rows(saved)[:4] == rows(search)
    assert len(saved.outcomes) == 5, "the result at hand is saved too"
    assert len(drive(resume("mine-rescued", trust=True)).trials) == 8


def test_results_are_called_lost_where_they_are(search: Search) -> None:
    store = search.saved.folder.parent
    shutil.rmtree(store)
    store.touch()
    assert "results since its last copy are lost" in refused(search)


def test_a_removed_run_is_saved_once_and_its_end_says_nothing_else(search: Search) -> None:
    candidate = search.saved.candidates[-1]
    shutil.rmtree(search.saved.folder)
    with pytest.raises(StoreError, match="all results are saved in"):
        search.tell(candidate, evaluate(search, candidate))
    search.close()
    assert [path.name for path in search.saved.folder.parent.glob("mine*")] == ["mine-rescued"]


def test_the_last_rescue_has_the_results_of_all_slots(search: Search) -> None:
    other = search.ask()
    candidates = [search.saved.candidates[-2], other]
    assert not search.saved.outcomes.keys() & {candidate.id for candidate in candidates}
    shutil.rmtree(search.saved.folder)
    for candidate, name in zip(candidates, ("mine-rescued", "mine-rescued-2"), strict=True):
        with pytest.raises(StoreError, match=f"all results are saved in .*/{name}, "):
            search.tell(candidate, evaluate(search, candidate))
    assert len(Run.open(search.saved.folder.with_name("mine-rescued-2")).outcomes) == 6


def test_a_run_that_is_removed_before_its_end_is_saved_too(search: Search) -> None:
    shutil.rmtree(search.saved.folder)
    with pytest.raises(StoreError, match="all results are saved in"):
        search.close()
    assert len(Run.open(search.saved.folder.with_name("mine-rescued")).outcomes) == 4


def test_an_earlier_rescue_is_left_as_it_is(search: Search) -> None:
    search.saved.folder.with_name("mine-rescued").touch()
    shutil.rmtree(search.saved.folder)
    assert "mine-rescued-2, without checkpoints" in refused(search)


def test_two_writers_end_with_every_result(search: Search, resume: Begin) -> None:
    """The second one takes a copy of the journal, which is in the place of the first one's."""
    copied(search.saved.journal.path)
    other = drive(resume("mine"))
    assert len(other.trials) == 8
    before = other.saved.journal.path.read_bytes()
    refused(search)
    assert other.saved.journal.path.read_bytes() == before
    assert rows(Run.open(other.saved.folder)) == rows(other)


def test_a_second_name_stops_the_run(search: Search, resume: Begin) -> None:
    journal = search.saved.journal.path
    os.link(journal, journal.with_name("backup"))
    before = journal.read_bytes()
    assert "second name" in refused(search)
    journal.with_name("backup").unlink()
    assert journal.read_bytes() == before
    assert len(drive(resume("mine")).trials) == 8


@pytest.mark.parametrize(
    "text", ["loss 0.5\n", "loss 0.5", line_of({"event": "reported", "id": 3, "time": 1.0, "spent": 0})]
)
def test_what_another_program_appends_stops_the_run_and_is_named(search: Search, resume: Begin, text: str) -> None:
    journal = search.saved.journal.path
    before = journal.read_bytes()
    with journal.open("a") as file:
        file.write(text)
    assert "was changed by another program" in refused(search)
    assert journal.read_bytes() == before + text.encode(), "nothing is cut, and nothing is written behind it"
    if text.endswith("\n"):
        with pytest.raises(StoreError, match=f"line {before.count(bytes([10])) + 1} is "):
            resume("mine")
        journal.write_bytes(before)
        assert len(drive(resume("mine")).trials) == 8
    else:
        with pytest.warns(UserWarning, match="torn tail of 8 bytes"):
            assert len(drive(resume("mine")).trials) == 8


def test_what_another_program_cuts_stops_the_run(search: Search) -> None:
    journal = search.saved.journal.path
    os.truncate(journal, journal.stat().st_size - 1)
    assert "was changed by another program" in refused(search)


def test_a_line_between_check_and_append_costs_no_result(
    search: Search, resume: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, write = search.saved.journal.path, os.write

    def written(file: int, data: Any) -> int:
        monkeypatch.undo()
        with journal.open("ab") as other:
            other.write(b"noise\n")
        return write(file, data)

    monkeypatch.setattr(os, "write", written)
    assert "was changed by another program" in refused(search)
    with pytest.raises(StoreError, match=r"line (\d+) is damaged .*remove the line"):
        resume("mine")
    journal.write_bytes(journal.read_bytes().replace(b"noise\n", b""))
    assert len(resume("mine").saved.outcomes) == 5


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP])
def test_a_file_system_without_locks_is_named(
    begin: Begin, resume: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    flock = fcntl.flock

    def refuse(file: int, how: int) -> None:
        if (tmp_path / "store") not in Path(os.readlink(f"/proc/self/fd/{file}")).parents:
            return flock(file, how)
        raise OSError(number, os.strerror(number))

    folder = drive(begin("mine", trials=5)).saved.folder
    before = (folder / "_journal.jsonl").read_bytes()
    monkeypatch.setattr(fcntl, "flock", refuse)
    for do in (lambda: begin("new"), lambda: resume("mine", trials=8)):
        with pytest.raises(StoreError, match=r"cannot lock files \(flock: .*\).*choose another --store") as caught:
            do()
        assert "\n" not in str(caught.value)
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["mine"]
    assert (folder / "_journal.jsonl").read_bytes() == before
    assert len(Run.open(folder).trials()) == 5, "reading needs no lock"


def test_an_evaluator_that_removes_its_run_loses_no_result(begin: Begin, resume: Begin) -> None:
    search = begin("mine", trials=8)

    def evil(search: Search, candidate: Candidate) -> dict[str, float]:
        if candidate.id == 5:
            shutil.rmtree(search.saved.folder)
        return evaluate(search, candidate)

    with pytest.raises(StoreError, match=r"was removed while the run wrote it: all results are saved in .*-rescued"):
        drive(search, evaluate=evil)
    assert len(resume("mine-rescued", trust=True).saved.outcomes) == 6


def test_a_folder_that_is_gone_before_its_table_is_written_is_saved_too(
    begin: Begin, here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = begin("mine", trials=8, slots=1)
    record, folder = search.saved.record, search.saved.folder

    def recorded(*given: Any, **named: Any) -> None:
        record(*given, **named)
        if len(search.saved.outcomes) == 4:
            shutil.rmtree(folder)

    monkeypatch.setattr(search.saved, "record", recorded)
    with pytest.raises(StoreError, match=r"was removed while the run wrote it: all results are saved in .*-rescued"):
        search.run()
    assert len(Run.open(folder.with_name("mine-rescued")).outcomes) == 4


def test_the_error_of_a_run_says_where_another_slot_has_saved_it(
    begin: Begin, here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = begin("mine", trials=8, slots=1)
    record, folder = search.saved.record, search.saved.folder

    def recorded(*given: Any, **named: Any) -> None:
        record(*given, **named)
        if len(search.saved.outcomes) == 4:
            shutil.rmtree(folder)
            with pytest.raises(StoreError, match="all results are saved in"):
                search.saved.end("in another slot")  # before this one cannot write the table

    monkeypatch.setattr(search.saved, "record", recorded)
    with pytest.raises(StoreError, match=r"was removed while the run wrote it: all results are saved in .*-rescued,"):
        search.run()
    assert [path.name for path in folder.parent.glob("mine*")] == ["mine-rescued"]
