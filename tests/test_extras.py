"""Tests skip for a missing extra only, and say which one it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests import extras


def without(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name in modules else object())


def test_every_extra_of_the_project_that_a_test_may_need_is_listed() -> None:
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    part = text.partition("[project.optional-dependencies]")[2].partition("[project.scripts]")[0]
    assert {*re.findall(r"^(\w+) = \[", part, re.MULTILINE)} - {"bench", "dev", "test"} == {*extras.EXTRAS}


@pytest.mark.parametrize(
    "error",
    [
        ModuleNotFoundError("No module named 'optuna.trial'", name="optuna.trial"),
        ValueError("--to optuna needs more than is installed: pip install 'evo-tune[optuna]'"),
    ],
)
def test_an_error_is_explained_by_the_extra_that_is_not_installed(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "optuna")
    assert extras.extra_missed_by(error) == "optuna"
    without(monkeypatch, "hyperopt")
    assert extras.extra_missed_by(error) is None


def test_other_errors_are_no_reason_to_skip(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, *(module for modules in extras.EXTRAS.values() for module in modules))
    assert extras.extra_missed_by(ModuleNotFoundError("No module named 'evo_tune.lost'", name="evo_tune.lost")) is None
    assert extras.extra_missed_by(AssertionError("1 == 2")) is None


def test_an_error_names_an_extra_of_the_project_where_there_is_one() -> None:
    package = Path(__file__).parents[1] / "evo_tune"
    named = {name for path in package.rglob("*.py") for name in re.findall(r"pip install (\w[\w-]*)", path.read_text())}
    assert named == set()


def test_need_skips_and_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "ray")
    with pytest.raises(pytest.skip.Exception, match=r"pip install 'evo-tune\[ray\]'"):
        extras.need("ray")
    extras.need("optuna")
