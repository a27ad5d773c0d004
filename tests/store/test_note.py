"""The note on a run: a text of its user, read as untrusted text."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evo_tune.errors import StoreError, UsageError
from evo_tune.store.run_folders import LARGEST_NOTE, NOTE, read_note, write_note


@given(st.text(st.characters(codec="utf-8"), max_size=200))
def test_a_note_is_read_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.mktemp("run")
    write_note(folder, text)
    assert read_note(folder) == text.strip()
    write_note(folder, "")
    assert not (folder / NOTE).exists()


def test_what_is_no_text_is_no_note(tmp_path: Path) -> None:
    for data in (b"\xff", b"x" * (LARGEST_NOTE + 1)):
        (tmp_path / NOTE).write_bytes(data)
        assert read_note(tmp_path) == ""
    (tmp_path / NOTE).unlink()
    (tmp_path / NOTE).symlink_to("/etc/passwd")
    assert read_note(tmp_path) == ""
    write_note(tmp_path, "mine")
    assert not (tmp_path / NOTE).is_symlink()


def test_what_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected UTF-8 text of at most"):
        write_note(tmp_path, "x" * LARGEST_NOTE)
    with pytest.raises(StoreError, match=r"cannot write .*_note\.txt"):
        write_note(tmp_path / "missing", "text")
