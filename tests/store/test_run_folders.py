"""Where runs are: names, stores, one writer at a time, and finding them again."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from evo_tune.errors import StoreError, UsageError
from evo_tune.loop.search import Search
from evo_tune.store.run import Run
from evo_tune.store.run_folders import copy_run, find_run, list_runs
from tests.conftest import drive, rows

Begin = Callable[..., Search]


def one_line(error: pytest.ExceptionInfo[BaseException]) -> bool:
    return "\n" not in str(error.value)


def test_a_taken_name_is_refused_and_left_alone(begin: Begin) -> None:
    first = begin("mine")
    with pytest.raises(UsageError, match=r"store/mine exists: choose another name.*evo-tune resume mine") as caught:
        begin("mine")
    assert one_line(caught)
    assert drive(first).trials


@pytest.mark.parametrize("name", ["a/b", "..", ".hidden", "_private", "a b", "x.parquet", "-n", "é", "a\n"])
def test_names_that_are_none(begin: Begin, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"a run cannot be named .*expected up to 100 letters, digits"):
        begin(name)
    assert not (tmp_path / "store").exists()


def test_a_store_below_a_file_is_refused(begin: Begin, tmp_path: Path) -> None:
    (tmp_path / "store").write_text("I am a file")
    with pytest.raises(StoreError, match=r"cannot make .*store/run-0: .*choose another --store") as caught:
        begin()
    assert one_line(caught)


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """Yield a store that nobody can write, root included."""
    store = tmp_path / "store"
    store.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(store)]
    if os.geteuid() != 0:
        store.chmod(0o500)
        yield store
        store.chmod(0o700)
    elif subprocess.run(command, capture_output=True).returncode == 0:
        yield store
        subprocess.run(["umount", str(store)], check=True)
    else:
        pytest.skip("root may write anything here, and may not mount")


def test_a_read_only_store_is_refused(begin: Begin, read_only: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot make .*choose another --store"):
        begin()
    assert list(read_only.iterdir()) == []


def test_a_read_only_run_can_be_read_but_not_gone_on_with(begin: Begin, tmp_path: Path) -> None:
    search = drive(begin("mine"))
    command = ["mount", "--bind", str(search.saved.folder), str(search.saved.folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("mounting needs root and the right to mount")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(search.saved.folder)], check=True)
        assert rows(Run.open(search.saved.folder)) == rows(search)
        with pytest.raises(StoreError, match=r"cannot write .*mine: Read-only file system"):
            Search.resume("mine", store=tmp_path / "store")
    finally:
        subprocess.run(["umount", str(search.saved.folder)], check=True)


def test_a_disk_that_fills_up_at_the_start_leaves_the_name_free(
    begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: int) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "store").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr("evo_tune.store.journal.os.fsync", refuse)
        with pytest.raises(StoreError, match="No space left on device"):
            begin("mine")
    assert list((tmp_path / "store").iterdir()) == []
    assert drive(begin("mine")).trials


KILL = """
    import os, sys
    from pathlib import Path
    from evo_tune.store import run, run_folders
    saved = run.Run.open(Path(sys.argv[1]))
    def die(*arguments):
        os._exit(9)
    def die_at_run(source, target, rename=os.replace, **folders):
        die() if Path(target).name == "mine" else rename(source, target, **folders)
    if sys.argv[2] == "manifest":
        run.write_manifest = die
    run_folders.os.replace = die_at_run
    files = [die] if sys.argv[2] == "files" else []
    run.Run.create(saved.folder.parent, "mine", saved.manifest, saved.session, *files)
"""


@pytest.mark.parametrize("at", ["files", "manifest", "rename"])
def test_a_death_while_a_run_is_made_leaves_the_name_free(begin: Begin, tmp_path: Path, at: str) -> None:
    other = begin("other").saved
    other.close()
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(KILL), str(other.folder), at], timeout=60)
    assert ended.returncode == 9
    assert [path.name for path in list_runs(tmp_path / "store")] == ["other"]
    with pytest.raises(StoreError, match="there is no run 'mine'"):
        find_run(tmp_path / "store", "mine")
    copy_run(other.folder, tmp_path / "store", "mine") if at == "rename" else begin("mine").saved.close()
    mine = Run.open(tmp_path / "store" / "mine")
    assert len(mine.sessions) == 1
    assert mine.sessions[0].generations == 3


@pytest.mark.parametrize("name", ["notes.txt", "trials-0000.parquet", "_journal.jsonl"])
def test_a_folder_that_holds_anything_else_is_taken(begin: Begin, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "store" / "mine"
    folder.mkdir(parents=True)
    (folder / name).write_text('{"event":"proposed"}')
    with pytest.raises(UsageError, match="mine exists"):
        begin("mine")
    assert [path.name for path in folder.iterdir()] == [name]


HOLD = """
    import sys
    from pathlib import Path
    from evo_tune.store.run import Run
    run = Run.open(Path(sys.argv[1]), write=True)
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_two_processes_on_one_run(begin: Begin, resume: Begin) -> None:
    search = drive(begin("mine", trials=5))
    command = [sys.executable, "-c", textwrap.dedent(HOLD), search.saved.folder]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        before = search.saved.journal.path.read_bytes()
        with pytest.raises(
            StoreError, match=r"mine is in use by another process: .*resume mine --store .* --as NAME"
        ) as caught:
            resume("mine")
        assert one_line(caught)
        assert search.saved.journal.path.read_bytes() == before
        assert len(Run.open(search.saved.folder).trials()) == 5, "reading needs no lock"
        assert len(drive(resume("mine", copy_as="beside", trials=6)).trials) == 6
        other.kill()
    assert len(drive(resume("mine", trials=7)).trials) == 7, "the lock ends with its process"


def test_two_searches_in_one_process(begin: Begin, resume: Begin) -> None:
    search = begin("mine")
    with pytest.raises(StoreError, match="in use"):
        resume("mine")
    candidate = search.ask()
    assert candidate is not None
    search.tell(candidate, {"loss": 1.0})
    search.close()
    assert len(resume("mine").trials) == 1


def test_any_thread_may_close_a_run(begin: Begin, resume: Begin) -> None:
    search = begin("mine")
    thread = threading.Thread(target=search.close)
    thread.start()
    thread.join()
    assert resume("mine").name == "mine"


def test_a_closed_run_is_not_written(begin: Begin, resume: Begin) -> None:
    search = begin("mine")
    candidate = search.ask()
    assert candidate is not None
    search.close()
    search.close()
    before = search.saved.journal.path.read_bytes()
    with pytest.raises(StoreError, match="mine is not open for writing"):
        search.tell(candidate, {"loss": 1.0})
    with pytest.raises(StoreError, match="mine is not open for writing"):
        search.ask()
    with pytest.raises(StoreError, match="mine is not open for writing"):
        Run.open(search.saved.folder).tell([0])
    assert search.saved.journal.path.read_bytes() == before


def test_a_failed_resume_lets_the_lock_go(begin: Begin, resume: Begin, quick: Path) -> None:
    drive(begin("mine", trials=5))
    text = quick.read_text()
    quick.write_text("SPACE = 1 / 0")
    with pytest.raises(UsageError, match="ZeroDivisionError"):
        resume("mine", accept_changes=True)
    quick.write_text(text)
    assert len(resume("mine", accept_changes=True).trials) == 5


def test_the_latest_run_is_found_and_unknown_names_are_told(begin: Begin, tmp_path: Path) -> None:
    store = tmp_path / "store"
    with pytest.raises(StoreError, match=r"there is no saved run in .*store: start one"):
        find_run(store, None)
    for name in ("one", "two"):
        drive(begin(name))
    os.utime(store / "one" / "_journal.jsonl", (2e9, 2e9))
    assert find_run(store, None) == store / "one"
    assert find_run(store, "two") == store / "two"
    assert find_run(tmp_path, str(store / "two")) == store / "two"
    with pytest.raises(StoreError, match=r"there is no run 'three' in .*store: it holds two, one"):
        find_run(store, "three")
    with pytest.raises(StoreError, match=r"is no saved run: it has no _run.json"):
        Run.open(tmp_path)
