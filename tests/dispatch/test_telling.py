"""What a worker tells of the training in flight: written beside the trials while it goes on, gone when it ends."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from evo_tune.dispatch.log import MOST, CurveFile, remove_stale_files, worker_file_name


@pytest.fixture
def trials(tmp_path: Path) -> Path:
    (tmp_path / "run" / "_trials").mkdir(parents=True)
    return tmp_path / "run" / "_trials"


def test_a_curve_is_told_as_it_grows_and_taken_away_at_its_end(trials: Path) -> None:
    path = trials / worker_file_name(7, "json")
    telling = CurveFile(str(path))
    curve: list[tuple[float, dict[str, float]]] = []
    telling.begin(17, curve)
    telling.publish()
    assert not path.exists(), "a training that reports nothing costs nothing"
    curve.append((0.25, {"loss": 2.0, "bad": math.nan}))
    telling.publish()
    assert json.loads(path.read_text()) == {"trial": 17, "curve": [[0.25, {"loss": 2.0, "bad": None}]]}
    before = path.stat().st_mtime_ns
    telling.publish()
    assert path.stat().st_mtime_ns == before, "what has not grown is not written again"
    curve.append((0.5, {"loss": 1.0}))
    telling.publish()
    assert len(json.loads(path.read_text())["curve"]) == 2
    telling.end()
    telling.publish()
    assert list(trials.iterdir()) == []


def test_a_long_curve_is_thinned_and_keeps_its_end(trials: Path) -> None:
    telling = CurveFile(str(trials / worker_file_name(7, "json")))
    telling.begin(0, [(i / 5000, {"loss": float(i)}) for i in range(1, 5001)])
    telling.publish()
    told = json.loads((trials / worker_file_name(7, "json")).read_text())["curve"]
    assert len(told) <= MOST
    assert told[-1] == [1.0, {"loss": 5000.0}]


def test_no_link_is_written_through_and_no_disk_ends_a_training(trials: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("mine")
    (trials / worker_file_name(7, "json")).symlink_to(mine)
    telling = CurveFile(str(trials / worker_file_name(7, "json")))
    telling.begin(0, [(0.5, {"loss": 1.0})])
    telling.publish()
    assert mine.read_text() == "mine"
    away = CurveFile(str(tmp_path / "none" / "_trials" / worker_file_name(7, "json")))
    away.begin(0, [(0.5, {"loss": 1.0})])
    away.publish()
    away.end()
    assert not (tmp_path / "none").exists()


def test_last_words_of_dead_workers_are_swept_away(trials: Path) -> None:
    for name in (worker_file_name(7, "json"), f"{worker_file_name(7, 'json')}.part", ".worker-7.log"):
        (trials / name).write_text("x")
    (trials / ".worker-x.json").write_text("not a worker's")
    remove_stale_files(str(trials))
    assert [path.name for path in trials.iterdir()] == [".worker-x.json"]
