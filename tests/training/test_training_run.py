"""A training run: done in parts it is told as one, evaluations on the way leave no trace, the best is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from evo_tune.training import (
    EarlyStopping,
    LanguageTraining,
    Trainer,
    TrainingRun,
    TrainingWindows,
    evaluation_blocks,
    evaluation_windows,
)
from evo_tune.training.recipe import GapDecay, Phase


@dataclass
class Text:
    text: torch.Tensor

    def source(self, phase: Phase, micro_batch: int) -> TrainingWindows:
        raise NotImplementedError

    def held_out(self, context: int, testing: bool = False) -> list[tuple[torch.Tensor, torch.Tensor]]:
        text = bytes(self.text[-400:].tolist())
        return evaluation_blocks(text, lambda part: torch.tensor(list(part)), context=context, count=256, block=32)

    def training_windows(self, context: int) -> tuple[torch.Tensor, torch.Tensor]:
        return evaluation_windows(self.text, context=context, count=64, block=32)

    def held_out_bytes(self, testing: bool = False) -> int:
        return 256


@pytest.fixture
def make_training_run(make_trainer: Callable[..., Trainer], text: torch.Tensor) -> Callable[..., TrainingRun]:
    def make(stopping: EarlyStopping | None = None, evaluations: int = 4, **options: object) -> TrainingRun:
        trainer = make_trainer(**options)
        options = SimpleNamespace(optimizer_name="adamw", ema=None, precision="fp32", z_loss=0.0)
        plan: Any = SimpleNamespace(options=options)
        nothing: Any = None
        task = LanguageTraining(plan, nothing, material=Text(text))
        task.phases = [Phase(config=trainer.model.config, windows=80, per_step=4)]  # type: ignore[arg-type]
        return TrainingRun(trainer, task, evaluations=evaluations, stopping=stopping)

    return make


def told(training_run: TrainingRun) -> dict[str, float]:
    return {name: value for name, value in training_run.metrics().items() if name != "tokens_per_second"}


@pytest.mark.parametrize("stops", [[5, 20], [1, 7, 13, 20], [10, 10, 20]])
def test_in_parts_it_is_told_as_one(make_training_run: Callable[..., TrainingRun], stops: list[int]) -> None:
    def fresh() -> TrainingRun:
        gap = GapDecay(patience=1)
        return make_training_run(EarlyStopping(patience=3), weight_decay=gap, recipe={"ema": 0.5}, evaluations=10)

    whole, part = fresh(), fresh()
    whole.run(20)
    for stop in stops:
        part.run(stop)
        state = part.state()
        part = fresh()
        part.restore(state)
    assert told(part) == told(whole)
    assert set(told(part)) >= {"val_loss", "val_bpb", "val_loss_ema", "train_loss", "flops"}


def test_a_resume_at_an_evaluation_counts_it_once(make_training_run: Callable[..., TrainingRun]) -> None:
    def fresh() -> TrainingRun:
        return make_training_run(EarlyStopping(patience=3, min_delta=100.0), weight_decay=GapDecay(patience=3))

    first, again = fresh(), fresh()
    first.run(10)
    state = first.state()
    again.restore(state)
    again.run(10)
    assert again.stopping is not None
    assert again.stopping.waited == 1
    assert again.state()["trainer"]["gap"] == state["trainer"]["gap"]


def test_evaluations_leave_no_trace(make_training_run: Callable[..., TrainingRun]) -> None:
    training_runs = [make_training_run(evaluations=count, dropout=0.1) for count in (1, 20)]
    for training_run in training_runs:
        training_run.run(20)
    assert told(training_runs[0]) == told(training_runs[1])


def test_a_small_last_step_is_not_the_time_of_a_step(
    make_training_run: Callable[..., TrainingRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    training_run, now = make_training_run(), [0.0]
    training_run.task.phases = [Phase(config=training_run.model.config, windows=10, per_step=4)]  # type: ignore[arg-type,attr-defined]
    windows = iter([4, 4, 2])

    def run(until: int, on_step: Callable[[SimpleNamespace], None]) -> None:
        training_run.trainer.step, done = until, next(windows)
        now[0] += done
        on_step(SimpleNamespace(targets=done))

    monkeypatch.setattr("evo_tune.training.training_run.clock_for", lambda device: lambda: now[0])
    monkeypatch.setattr(training_run.trainer, "run", run)
    assert training_run.time_steps(10)["step"] == 4.0


def test_reports_come_at_fixed_steps_of_the_whole(make_training_run: Callable[..., TrainingRun]) -> None:
    seen: list[float] = []
    training_run = make_training_run()
    training_run.report = lambda fraction, point, decayed: seen.append(fraction)
    for stop in (3, 12, 20):
        training_run.run(stop)
    assert seen == [0.15, 0.25, 0.5, 0.6, 0.75, 1.0]


def test_it_stops_without_improvement_and_has_the_best_weights(
    make_training_run: Callable[..., TrainingRun],
) -> None:
    training_run = make_training_run(EarlyStopping(patience=2, min_delta=100.0), evaluations=10)
    training_run.run(20)
    assert training_run.trainer.step == 6  # the first counts as an improvement on nothing
    training_run.run(20)
    assert training_run.trainer.step == 6
    best = make_training_run()
    best.run(2)
    assert told(training_run)["val_loss"] == told(best)["val_loss"]
