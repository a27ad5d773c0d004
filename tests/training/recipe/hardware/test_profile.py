"""A space that is snapped to a machine: only where that is free, and once."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from typing import Any

import numpy as np
import pytest

from evo_tune.errors import OptionError
from evo_tune.plugins.find import find_evaluator
from evo_tune.training.recipe.hardware.computing import ProfileOptions, sizes_for_device
from tests.training.probing.test_probing import CARD

H100 = "width 8, heads 64 128"


@pytest.mark.parametrize(
    ("profile", "width", "expected"),
    [
        ("width 64, heads 64", (64, 384, 32, 256), (64, 384, 64, 256)),
        ("width 64, heads 64", (96, 400, 8, 128), (128, 384, 64, 128)),
        ("width 8, heads 64", (64, 384, 32, 256), (64, 384, 32, 256)),  # a step of 32 is one of 8 as well
        ("width 128, heads 64", (64, 384, 32, 256), (64, 384, 32, 256)),  # three would be left
        ("width 64, heads 64", (64, 384, 32, 96), (64, 384, 32, 96)),  # the default would be lost
        ("false", (64, 384, 32, 256), (64, 384, 32, 256)),
    ],
)
def test_widths_are_snapped_where_that_is_free(
    profile: str, width: tuple[int, int, int, int], expected: tuple[int, int, int, int]
) -> None:
    assert ProfileOptions(profile=profile).fast_widths(width) == expected


def test_heads_of_a_good_size_are_taken_where_there_are_some() -> None:
    options = ProfileOptions(profile=H100)
    assert options.fast_heads(256, [1, 2, 4, 8]) == [2, 4]
    assert options.fast_heads(96, [1, 2, 4]) == [1, 2, 4]
    assert ProfileOptions().fast_heads(256, [1, 2, 4, 8]) == [1, 2, 4, 8]


def test_a_space_keeps_its_default_and_takes_fast_heads() -> None:
    evaluator = find_evaluator("bundled:language_model")
    plain, snapped = (
        evaluator.bind({"size": "medium", "profile": profile}).space for profile in ("false", "width 64, heads 64")
    )
    assert plain.default()["width"] == snapped.default()["width"] == 256
    assert [space.genes["width"].step for space in (plain, snapped)] == [32, 64]  # type: ignore[attr-defined]
    rng = np.random.default_rng(1)
    for genome in (snapped.sample(rng) for _ in range(50)):
        assert genome["width"] % 64 == 0
        assert genome["width"] // genome["heads"] == 64


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Have a machine that says what an H100 might; the commands that were run."""
    asked: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        text = json.dumps({"suited": dataclasses.asdict(sizes_for_device(CARD))})
        return subprocess.CompletedProcess(command, 0, text, "")

    monkeypatch.setattr("evo_tune.training.recipe.hardware.computing.subprocess.run", run)
    return asked


def test_the_machine_is_timed_once_and_stands_in_the_manifest(answer: list[list[str]]) -> None:
    evaluator = find_evaluator("bundled:language_model")
    settled = evaluator.bind({"profile": "true"}).for_run(rungs=False)
    assert settled.options["profile"] == H100
    assert evaluator.bind(settled.options).for_run(rungs=False).options["profile"] == H100
    assert len(answer) == 1
    assert evaluator.bind({}).for_run(rungs=False).options["profile"] == "false"
    assert len(answer) == 1


def test_what_it_is_not_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match="profile=fast: expected true, false"):
        ProfileOptions(profile="fast")

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "RuntimeError: no kernel image\n")

    monkeypatch.setattr("evo_tune.training.recipe.hardware.computing.subprocess.run", run)
    with pytest.raises(OptionError, match=r"could not be timed \(RuntimeError: no kernel image\)"):
        ProfileOptions(profile="true").settled(False)
