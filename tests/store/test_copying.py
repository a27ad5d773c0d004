"""Copies of runs: whole or not at all, and going on by themselves."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from evo_tune.errors import StoreError, UsageError
from evo_tune.loop.search import Search
from evo_tune.store.journal import JOURNAL
from evo_tune.store.run_folders import copy_run, list_runs
from evo_tune.trust import safe_files
from tests.conftest import drive, rows

Begin = Callable[..., Search]


def test_a_copy_goes_on_by_itself(begin: Begin, resume: Begin) -> None:
    original = drive(begin("mine", generations=2))
    before = {path.name: path.read_bytes() for path in original.saved.folder.iterdir()}
    copy = drive(resume("mine", copy_as="copy", generations=4))
    assert {path.name: path.read_bytes() for path in original.saved.folder.iterdir()} == before
    assert rows(copy) == rows(drive(begin("whole", generations=4)))
    assert [path.name for path in list_runs(original.saved.folder.parent)] == ["mine", "copy", "whole"]


def test_a_copy_of_a_run_in_use(begin: Begin, resume: Begin) -> None:
    search = begin("mine")
    for _ in range(6):
        candidate = search.ask()
        assert candidate is not None
        search.tell(candidate, {"loss": candidate.id + 1.0})
    (search.saved.folder / "_trials-0001.parquet.part").write_bytes(b"being written")
    copy = resume("mine", copy_as="copy")
    assert rows(copy) == rows(search)
    assert not list(copy.saved.folder.glob("*.part"))


def test_a_copy_onto_a_taken_name(begin: Begin, resume: Begin) -> None:
    drive(begin("mine"))
    drive(begin("other"))
    with pytest.raises(UsageError, match=r"other exists: choose another name"):
        resume("mine", copy_as="other")
    with pytest.raises(UsageError, match="a run cannot be named"):
        resume("mine", copy_as="../other")


def test_a_copy_that_fails_leaves_no_half(begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search = drive(begin("mine"))
    with monkeypatch.context() as patch:
        patch.setattr(
            os, "replace", lambda *paths, **folders: (_ for _ in ()).throw(OSError(28, "No space left on device"))
        )
        with pytest.raises(StoreError, match=r"cannot copy .*No space left on device"):
            copy_run(search.saved.folder, tmp_path / "store", "copy")
    assert [path.name for path in list_runs(tmp_path / "store")] == ["mine"]
    assert copy_run(search.saved.folder, tmp_path / "store", "copy").is_dir()


def test_of_copies_made_at_the_same_time_one_wins(
    begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = drive(begin("mine")).saved.folder
    copied, copy_file = threading.Barrier(3), safe_files.copy_file

    def wait_and_copy(source: int, target: int, name: str) -> None:
        if name == JOURNAL:
            copied.wait(10)
        copy_file(source, target, name)

    monkeypatch.setattr(safe_files, "copy_file", wait_and_copy)
    results: list[object] = []

    def copy() -> None:
        try:
            results.append(copy_run(folder, tmp_path, "same"))
        except UsageError as error:
            results.append(str(error))

    threads = [threading.Thread(target=copy) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result for result in results if isinstance(result, Path)] == [tmp_path / "same"]
    assert sum("exists: choose another name" in str(result) for result in results) == 2
    assert not [*tmp_path.glob(".same.*")]
