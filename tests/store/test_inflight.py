"""Curves in flight, read from a folder that may be a stranger's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evo_tune.store.heartbeat import LARGEST, running_curves


@pytest.fixture
def trials(tmp_path: Path) -> Path:
    (tmp_path / "_trials").mkdir()
    return tmp_path / "_trials"


def test_curves_are_read_by_trial(tmp_path: Path, trials: Path) -> None:
    assert running_curves(tmp_path / "none") == running_curves(tmp_path) == {}
    (trials / ".worker-12.json").write_text(json.dumps({"trial": 3, "curve": [[0.5, {"loss": 1.5, "bad": None}]]}))
    assert running_curves(tmp_path) == {3: ((0.5, {"loss": 1.5, "bad": None}),)}


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"trial": -1, "curve": []}', '{"trial": 1, "curve": [[2.0, {}]]}', '{"trial": 1, "curve": "x"}',
     '{"trial": 1, "curve": [[0.5, {"loss": "small"}]]}', "[" * 100_000, " " * (LARGEST + 1)],
    ids=range(9),
)  # fmt: skip
def test_what_is_none_is_left_out(tmp_path: Path, trials: Path, text: str) -> None:
    (trials / ".worker-1.json").write_text(text)
    (trials / ".worker-2.json").write_text('{"trial": 2, "curve": []}')
    assert running_curves(tmp_path) == {2: ()}


def test_links_are_not_followed(tmp_path: Path, trials: Path) -> None:
    (tmp_path / "other.json").write_text('{"trial": 2, "curve": []}')
    (trials / ".worker-1.json").symlink_to(tmp_path / "other.json")
    assert running_curves(tmp_path) == {}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "_trials").symlink_to(trials)
    assert running_curves(tmp_path / "run") == {}
