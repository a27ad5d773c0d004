"""Which texts of a run are paths that lead out of its folder, by name or by a link."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from evo_tune.trust import decide
from evo_tune.trust.decide import describe_paths, paths_outside_folder


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run with data in its folder; the working directory has a secret."""
    (tmp_path / "secret").write_text("x")
    (tmp_path / "run" / "data" / "below").mkdir(parents=True)
    (tmp_path / "run" / "data" / "below" / "text").write_text("x")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("secret", "secret"),
        ("./secret", "secret"),
        ("run/../secret", "secret"),
        ("run/data/../../secret", "secret"),
        ("run/link", "secret"),
        ("run/linked/secret", "secret"),
        ("sec*", "."),
        ("[", ""),
        ("*", "."),
        ("s/**/*.txt", "s"),
        ("/etc/*", "/etc"),
        ("/etc/missing", "/etc/missing"),
        ("~", "home"),
        ("~/x", "home/x"),
        (".", "."),
        ("../", ".."),
        ("run", ""),
        ("run/data", ""),
        ("run/data/*", ""),
        ("run/missing", ""),
        ("run-other/x", "run-other/x"),
        *((text, "") for text in ("", "auto", "attention.qkv,ffn.*", "a\0/etc", "\ud800/etc")),
    ],
)
def test_a_text_that_leads_out_of_the_run_is_named(run: Path, text: str, place: str) -> None:
    (run / "link").symlink_to("../secret")
    (run / "linked").symlink_to("..")
    found = paths_outside_folder([text], run)
    wanted = [os.path.realpath(place)] if place else []
    if text == "run":  # the folder itself has the two links
        wanted = sorted(map(os.path.realpath, ("secret", ".")))
    assert [path for path in found if path in wanted] == wanted
    assert bool(found) == bool(wanted)


@pytest.mark.parametrize("target", ["../../../secret", "../../..", "/etc", "../../other", "/missing", "loop"])
def test_a_link_that_leads_out_of_the_data_is_named(run: Path, target: str) -> None:
    (run / "other").mkdir()
    (run / "data" / "below" / "loop").symlink_to(target)
    leads = os.path.realpath(run / "data" / "below" / "loop")
    assert paths_outside_folder(["run/data"], run) == ([] if target == "loop" else [leads])
    assert set(paths_outside_folder(["run/data/**"], run)) == set(paths_outside_folder(["run/data"], run))


def test_a_link_within_the_data_is_followed(run: Path) -> None:
    (run / "data" / "again").symlink_to("below")
    assert paths_outside_folder(["run/data"], run) == []


def test_a_link_in_a_folder_that_is_named_is_named_as_well(run: Path, tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "link").symlink_to("../secret")
    assert paths_outside_folder(["far"], run) == [str(tmp_path.resolve() / "far"), str(tmp_path.resolve() / "secret")]


def test_a_second_name_of_a_file_is_named(run: Path, tmp_path: Path) -> None:
    os.link(tmp_path / "secret", run / "data" / "hard")
    for text in ("run/data", "run/data/hard"):
        assert paths_outside_folder([text], run) == [os.path.realpath(run / "data" / "hard")]


def test_a_folder_without_end_and_texts_without_number_are_said_to_be_so(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decide, "MOST_FILES", 2)
    assert paths_outside_folder(["run/data"], run) == ["~ more than 2 files, not all of which were looked at"]
    monkeypatch.setattr(decide, "MOST_TEXTS", 2)
    assert paths_outside_folder(map(str, range(3)), run) == ["~ more than 2 texts, not all of which were looked at"]


def test_many_paths_are_counted() -> None:
    assert describe_paths(["/a", "/b\n"]) == r"'/a', '/b\n'"
    assert describe_paths(list(map(str, range(1234)))).endswith("'9' and 1224 more paths")
