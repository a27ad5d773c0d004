"""A training that is killed at any step, and any number of times, ends as if it had not been killed, to the bit."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from evo_tune import Context
from evo_tune.plugins import context as names
from evo_tune.plugins.evaluator import Evaluator
from evo_tune.plugins.find import find_evaluator
from evo_tune.training import checkpoint

EVERY_STEP = 1e-9
TINY = {"size": "small", "tokens": 8192, "eval_tokens": 512, "checkpoint_minutes": EVERY_STEP, "save": True}
"""Sixteen steps."""

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "muon and average": {"optimizer": "muon", "ema": 0.5},
    "rung before its decay": {"schedule": "wsd", "fork": True, "decay_fraction": 0.4, "BUDGET": 0.7},
    "patience in a decay": {"schedule": "wsd", "fork": True, "decay_fraction": 0.4, "BUDGET": 0.7, "patience": 9},
    "gap": {"weight_decay_end": 0.3, "gap_patience": 1, "evaluations": 8},
    "patience": {"patience": 3, "min_delta": 9.0},
    "growing batch": {"ramp_from": 128, "ramp_share": 0.5},
    "longer text": {"context": 64, "extend_from": 32, "extend_share": 0.4},
}


SAVE = checkpoint.save_checkpoint


class Killed(BaseException):
    """Stands for a SIGKILL: nothing of the training runs after it."""


Train = Callable[..., tuple[dict[str, float], Context]]


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    return find_evaluator("bundled:language_model")


@pytest.fixture
def train(evaluator: Evaluator, tmp_path: Path) -> Train:
    """Train one genome in a folder; keywords are options, those in capitals go to the context."""

    def run(folder: str, **options: Any) -> tuple[dict[str, float], Context]:
        given = {name.lower(): options.pop(name) for name in list(options) if name.isupper()}
        bound = evaluator.bind({**TINY, **options})
        small = {"batch": 512, "depth": 1, "width": 32, "heads": 4}
        genome = {**bound.space.default(), **small, "dropout": 0.1, "lr": 1e-2}
        context = Context(**{"seed": 1, "folder": tmp_path / folder, **given})
        return bound.evaluate(genome, context), context

    return run


def killed_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Kill the next trainings while they write the first checkpoint at a step or after it."""

    def save(path: Path, state: dict[str, Any]) -> None:
        if state["trainer"]["step"] >= step:
            path.with_name(path.name + ".partial").write_bytes(b"half")
            raise Killed
        SAVE(path, state)

    monkeypatch.setattr(checkpoint, "save_checkpoint", save)


def without_clock(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name not in ("tokens_per_second", "resumed_step")}


def same(one: Any, other: Any) -> bool:
    """Return whether two states are equal to the bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other) or (isinstance(one, float) and math.isnan(one) and math.isnan(other))


def ended(context: Context) -> Any:
    return torch.load(context.folder / "checkpoint.pt", weights_only=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_killed_three_times_it_ends_with_the_same_weights(
    train: Train, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = dict(KINDS[kind])
    whole, undisturbed = train("whole", **options)
    for step in (3, 6, 9):
        killed_at(monkeypatch, step)
        with pytest.raises(Killed):
            train("killed", **options)
    monkeypatch.setattr(checkpoint, "save_checkpoint", SAVE)
    metrics, last = train("killed", **options)
    assert metrics["resumed_step"] >= 7
    assert without_clock(metrics) == without_clock(whole)
    assert last.curve == undisturbed.curve
    assert same(ended(last), ended(undisturbed))


def test_killed_before_its_first_checkpoint_it_starts_again(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_at(monkeypatch, 0)
    with pytest.raises(Killed):
        train("killed")
    monkeypatch.undo()
    metrics, _ = train("killed")
    assert "resumed_step" not in metrics
    assert without_clock(metrics) == without_clock(train("whole")[0])


def test_a_promotion_that_is_killed_continues_from_its_own_checkpoint(
    train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole, _ = train("whole")
    train("rung", BUDGET=0.4)
    killed_at(monkeypatch, 10)
    with pytest.raises(Killed):
        train("promoted", RESUME_FOLDER=tmp_path / "rung")
    monkeypatch.undo()
    metrics, last = train("promoted", RESUME_FOLDER=tmp_path / "rung")
    assert metrics["resumed_step"] > 7
    assert without_clock(metrics) == without_clock(whole)
    assert same(ended(last)["trainer"], torch.load(tmp_path / "whole" / "checkpoint.pt")["trainer"])


@pytest.fixture
def killed(train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return the folder of a training that was killed after nine steps."""
    killed_at(monkeypatch, 10)
    with pytest.raises(Killed):
        train("killed")
    monkeypatch.undo()
    return tmp_path / "killed"


@pytest.mark.parametrize("other", [{"SEED": 2}, {"clip": 0.5}, {"tokens": 4096}, {"BUDGET": 0.9}, {"data": "text"}])
def test_another_training_does_not_continue_from_it(
    train: Train, killed: Path, other: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "text").write_bytes(b"another text\n" * 9999)
    other = {name: str(tmp_path / "text") if name == "data" else value for name, value in other.items()}
    assert "resumed_step" not in train("killed", **other)[0]


@pytest.mark.parametrize("how", ["a link", "another user's", "a folder"])
def test_a_promotion_does_not_continue_from_somebody_elses_checkpoint(
    train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    whole, _ = train("whole")
    train("rung", BUDGET=0.4)
    path = tmp_path / "rung" / "checkpoint.pt"
    owner = os.geteuid()
    if how == "another user's":
        monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    else:
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere") if how == "a link" else path.mkdir()
    metrics, _ = train("promoted", RESUME_FOLDER=tmp_path / "rung")
    assert metrics["resumed_step"] == 0
    assert without_clock(metrics) == without_clock(whole)
    assert f"{path} is not loaded: expected a regular file that belongs to you" in capsys.readouterr().err


def _link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "no checkpoint": lambda path: path.write_bytes(b"PK"),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a link": _link,
    "another kind": lambda path: torch.save([1], path),
    "a part missing": lambda path: torch.save({"task": {}}, path),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_wrong_file_is_ignored(train: Train, killed: Path, damage: Callable[[Path], Any]) -> None:
    damage(killed / "unfinished.pt")
    metrics, _ = train("killed", checkpoint_minutes=None)
    assert "resumed_step" not in metrics


def test_a_decay_without_the_state_before_it_starts_again(
    train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    options = KINDS["rung before its decay"]
    _, undisturbed = train("whole", **options)
    killed_at(monkeypatch, 10)
    with pytest.raises(Killed):
        train("killed", **options)
    monkeypatch.undo()
    shutil.copytree(tmp_path / "killed", tmp_path / "without")
    (tmp_path / "without" / "checkpoint.pt").unlink()
    assert train("killed", **options)[0]["resumed_step"] > 6
    metrics, last = train("without", **options)
    assert "resumed_step" not in metrics
    assert same(ended(last), ended(undisturbed))


def test_without_the_option_or_in_a_short_training_nothing_is_written(train: Train, tmp_path: Path) -> None:
    for minutes in (None, 10.0):
        train("short", checkpoint_minutes=minutes, save=False)
        assert not (tmp_path / "short").exists()


def test_a_checkpoint_is_written_once_in_so_many_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written, now = list[float](), [100.0]
    monkeypatch.setattr(checkpoint, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(checkpoint, "save_checkpoint", lambda path, state: written.append(now[0]))
    options = SimpleNamespace(checkpoint_minutes=2.0, to_json=dict)
    plan: Any = SimpleNamespace(options=options, identity={})
    training_run: Any = SimpleNamespace(report=None, state=dict)
    checkpoint.Unfinished(plan, Context(folder=tmp_path), writes=True).attend(training_run)
    for now[0] in range(150, 701, 50):  # seconds at the ends of steps
        assert training_run.between() == (written[-1:] == now)
    assert written == [250, 400, 550, 700]


def test_the_worker_keeps_the_files_that_the_training_reads() -> None:
    assert names.UNFINISHED == (checkpoint.UNFINISHED, checkpoint.CHECKPOINT)
