"""What outsiders build and check with: workflows, hooks, and what `make release` refuses."""

from __future__ import annotations

import importlib.util
import re
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")

_spec = importlib.util.spec_from_file_location("release", ROOT / ".ci" / "release.py")
assert _spec is not None
assert _spec.loader is not None
release = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(release)


def loaded(name: str) -> Any:
    return pytest.importorskip("yaml").safe_load((ROOT / name).read_text(encoding="utf-8"))


def commands_of(target: str) -> list[str]:
    recipe = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert recipe is not None, f"the Makefile has no target {target!r}"
    return [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe[1].splitlines()]


def test_hooks_before_a_commit_are_the_commands_of_make_lint() -> None:
    hooks = [hook for one in loaded(".pre-commit-config.yaml")["repos"] for hook in one["hooks"]]
    assert [hook["entry"] for hook in hooks] == commands_of("lint")
    assert not any(hook["pass_filenames"] for hook in hooks)


@pytest.mark.parametrize("name", ["checks", "release"])
def test_each_command_of_a_workflow_is_a_target_of_make(name: str) -> None:
    for job in loaded(f".github/workflows/{name}.yml")["jobs"].values():
        assert job["timeout-minutes"] <= 120
        commands = [step["run"] for step in job["steps"] if "run" in step]
        for command in commands:
            words = command.split()
            assert words[0] == "make" or words[:3] == ["gh", "release", "create"]
            assert words[0] != "make" or commands_of(words[1])


def test_the_oldest_python_that_is_promised_is_tested_without_and_with_all_extras() -> None:
    oldest = re.search(r'^requires-python = ">=(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert oldest is not None
    matrix = loaded(".github/workflows/checks.yml")["jobs"]["tests"]["strategy"]["matrix"]
    assert matrix["python"][0] == oldest[1]
    assert set(matrix["extras"]) == {"dev", "test"}


@pytest.mark.parametrize("name", [".readthedocs.yaml", "CITATION.cff", ".github/dependabot.yml"])
def test_settings_of_services_can_be_read(name: str) -> None:
    assert loaded(name)


CHANGES = "# Changelog\n\n## [Unreleased]\n\n- x\n\n## [1.1.0] - 2027-01-02\n\n### Added\n\n- y\n\n## [1.0.0]\n\n- z\n"


def test_the_notes_of_a_tag_are_its_part_of_the_changelog() -> None:
    assert release.notes(CHANGES, "1.1.0", tagged=True) == "## Added\n\n- y\n"
    assert release.notes(CHANGES, "1.0.0", tagged=True) == "- z\n"
    assert release.notes(CHANGES, "1.2.0", tagged=False) == "- x\n"
    with pytest.raises(release.Wrong, match=r"CHANGELOG\.md has no part '## \[1\.2\.0\] - DATE'"):
        release.notes(CHANGES, "1.2.0", tagged=True)


@pytest.mark.slow
def test_what_is_not_meant_to_be_released_is_refused(tmp_path: Path) -> None:
    sdist, wheel = release.build(tmp_path)
    release.check_contents(sdist, wheel)
    with zipfile.ZipFile(wheel) as archive:
        assert "evo_tune/plugins/templates/evaluator.py.txt" in archive.namelist()
        assert "evo_tune/evaluators/tabular.py" in archive.namelist()
    more = tmp_path / "more.whl"
    shutil.copy(wheel, more)
    with zipfile.ZipFile(more, "a") as archive:
        archive.writestr("evo_tune/secret.txt", "x")
    with pytest.raises(release.Wrong, match=r"not meant \['evo_tune/secret.txt'\], missing \[\]"):
        release.check_contents(sdist, more)
    less = tmp_path / "less.tar.gz"
    with tarfile.open(sdist) as content, tarfile.open(less, "w:gz") as copy:
        for one in content.getmembers():
            if not one.name.endswith("/LICENSE"):
                copy.addfile(one, content.extractfile(one) if one.isfile() else None)
    with pytest.raises(release.Wrong, match=r"not meant \[\], missing \['LICENSE'\]"):
        release.check_contents(less, wheel)


@pytest.mark.parametrize("tag", ["v0.0.0", "1.0"])
def test_a_tag_that_is_not_the_version_is_refused(tag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release, "built", lambda folder: "1.2.0")
    with pytest.raises(release.Wrong, match=f"the tag is {tag}, and the version 1.2.0: expected v1.2.0"):
        release.release(tmp_path / "dist", tag)
