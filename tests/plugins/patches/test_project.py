"""The files of a project that patches change, where somebody else has made the project."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from evo_tune.plugins.patches.project import Project, check_protected, scan_project
from evo_tune.plugins.scripts.processes import Ended


def scan(folder: Path, protect: Sequence[str] = ()) -> Project:
    (folder / "train.py").write_text("a\n")
    return scan_project(folder, (), protect, folder / "populations")


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_no_program_of_a_repository_is_started(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    for words in (["init", "-q"], ["config", "core.fsmonitor", f"touch {mark}; false"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    scan(tmp_path)
    assert not mark.exists()


def test_links_in_a_circle_are_links(tmp_path: Path) -> None:
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "above").symlink_to(".")
    assert scan(tmp_path).listing.links == {"self": "self", "above": "."}


def test_a_protected_file_that_became_a_device_was_changed(tmp_path: Path) -> None:
    (tmp_path / "judge.py").write_text("a\n")
    (tmp_path / "zero").symlink_to("/dev/zero")
    listing = scan(tmp_path, ["judge.py", "zero"]).listing
    assert listing.protected.keys() == {"judge.py"}
    (tmp_path / "judge.py").unlink()
    os.symlink("/dev/zero", tmp_path / "judge.py")
    with pytest.raises(Ended, match=r"the trial removed judge\.py, which is protected"):
        check_protected(listing, tmp_path)
