"""A training run: done in parts it is told as one, evaluations on the way leave no trace, the best is kept."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from evo_tune.errors import RecipeError
from evo_tune.plugins.context import DETERMINISM, NOT_DETERMINISTIC
from evo_tune.training import (
    EarlyStopping,
    LanguageTraining,
    Trainer,
    TrainingRun,
    TrainingWindows,
    evaluation_blocks,
    evaluation_windows,
    reproducible,
)
from evo_tune.training.recipe import GapDecay, TrainingOptions
from evo_tune.training.recipe.plan import Phase
from evo_tune.training.session import _predict_cost as predict_cost


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
        plan: Any = SimpleNamespace(options=TrainingOptions(precision="fp32", evaluations=evaluations))
        nothing: Any = None
        task: Any = LanguageTraining(plan, nothing)
        task.material = Text(text)
        task.phases = [Phase(config=trainer.model.config, windows=80, per_step=4)]  # type: ignore[arg-type]
        training_run = TrainingRun(trainer, task)
        training_run.stopping, training_run.report = stopping, lambda share, point, decayed: None
        return training_run

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


def test_a_point_of_the_curve_is_of_every_fourth_block(make_training_run: Callable[..., TrainingRun]) -> None:
    training_run = make_training_run()
    task, trainer = training_run.task, training_run.trainer
    blocks = task.held_out(trainer)  # type: ignore[attr-defined]
    assert len(blocks) == 8
    expected = task.evaluate(trainer, [blocks[0], blocks[4]])  # type: ignore[attr-defined]
    assert task.curve_point(trainer) == {"val_loss": expected.loss}


def test_losses_of_a_text_of_bytes_are_bits_per_byte_and_means_of_their_halves(
    make_training_run: Callable[..., TrainingRun],
) -> None:
    training_run = make_training_run()
    metrics, windows = told(training_run), training_run.task.held_out(training_run.trainer)  # type: ignore[attr-defined]
    losses = [
        F.cross_entropy(training_run.model.eval()(inputs).transpose(1, 2), targets, reduction="none")
        for inputs, targets in windows
    ]
    by_position = torch.cat(losses).detach().double().mean(0)
    assert metrics["val_loss_first_half"] == pytest.approx(float(by_position[:4].mean()), rel=1e-6)
    assert metrics["val_loss_second_half"] == pytest.approx(float(by_position[4:].mean()), rel=1e-6)
    assert metrics["val_bpb"] == pytest.approx(float(by_position.mean()) / math.log(2), rel=1e-6)


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


def test_what_determinism_costs_is_the_median_of_steps_in_turn(
    make_training_run: Callable[..., TrainingRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    training_run, now, states = make_training_run(steps=40), [0.0], list[bool]()
    advance = training_run.trainer.advance

    def slow_advance(another: bool = False) -> list[Any]:
        states.append(torch.are_deterministic_algorithms_enabled())
        slow = 50.0 if len(states) == 2 else 1.0  # the first step after the probe, as where a kernel is chosen
        now[0] += slow * (1.25 if states[-1] else 1.0)
        return advance(another)

    monkeypatch.setattr("evo_tune.training.training_run.clock_for", lambda device: lambda: now[0])
    monkeypatch.setattr(training_run.trainer, "advance", slow_advance)
    with reproducible(1):
        assert training_run.time_determinism(3) == {DETERMINISM: pytest.approx(0.25)}
        assert torch.are_deterministic_algorithms_enabled()
        assert make_training_run(steps=40).time_determinism(12) == {}  # only 20 steps: too few
    assert states == [True] + 4 * [False, False, True, True]


def test_operators_without_a_deterministic_algorithm_are_found_in_a_step_and_in_an_evaluation(
    make_training_run: Callable[..., TrainingRun],
) -> None:
    training_run = make_training_run(steps=40)

    def put(module: torch.nn.Module, args: Any, out: torch.Tensor) -> None:
        if not module.training:
            out.detach().put_(torch.tensor([0]), out.detach().flatten()[:1].clone())

    training_run.model.register_forward_hook(put)
    with reproducible(1):
        assert training_run.time_determinism(3) == {NOT_DETERMINISTIC + "put_": 1.0}
        assert not torch.are_deterministic_algorithms_enabled()  # the rest of the timing is of such steps
    training_run.trainer.run(10)
    message = (
        r"deterministic=True is not allowed: expected auto or false, since put_ has no deterministic algorithm on cpu"
    )
    with warnings.catch_warnings(), pytest.raises(RecipeError, match=message), reproducible(1):  # noqa: PT012
        warnings.simplefilter("ignore")
        training_run.run(15)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(("device", "option", "measured"), [("cuda", "auto", 1), ("cuda", True, 0), ("cpu", "auto", 0)])
def test_only_an_open_determinism_is_timed_and_only_on_a_gpu(
    make_training_run: Callable[..., TrainingRun],
    device: str,
    option: Any,
    measured: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    training_run = make_training_run()
    plan = training_run.task.plan
    plan.options = replace(plan.options, deterministic=option)
    monkeypatch.setattr(TrainingRun, "time_steps", lambda *_: {"seconds": 1.0, "judging": 0.1, "step": 0.1})
    monkeypatch.setattr(TrainingRun, "time_determinism", lambda *_: {DETERMINISM: 0.1})
    monkeypatch.setattr(TrainingRun, "peak_memory", 1.0)
    training_run.trainer.device = torch.device(device)
    assert (DETERMINISM in predict_cost(training_run, 10, 0.0, saves=False)) == bool(measured)


def test_reports_come_at_fixed_steps_of_the_whole(make_training_run: Callable[..., TrainingRun]) -> None:
    seen: list[float] = []
    training_run = make_training_run()
    training_run.report = lambda fraction, point, decayed: seen.append(fraction)
    for stop in (3, 12, 20):
        training_run.run(stop)
    assert seen == [0.15, 0.25, 0.5, 0.6, 0.75, 1.0]


@pytest.mark.parametrize(("evaluations", "marks"), [(3, {7, 14, 20}), (40, set(range(1, 21)))])
def test_evaluations_that_do_not_divide_the_steps_come_after_their_share(
    make_training_run: Callable[..., TrainingRun], evaluations: int, marks: set[int]
) -> None:
    assert make_training_run(evaluations=evaluations).marks == marks


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


def test_a_training_with_too_little_time_ends_with_a_decay_and_an_evaluation(
    make_training_run: Callable[..., TrainingRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_for(seconds: float) -> tuple[TrainingRun, list[tuple[float, bool]]]:
        training_run, points = make_training_run(), list[tuple[float, bool]]()
        training_run.report = lambda share, point, decayed: points.append((share, decayed))
        # One step takes one second.
        monkeypatch.setattr("evo_tune.training.training_run.time.monotonic", lambda: training_run.trainer.step)
        training_run.run_in_time(20, seconds)
        return training_run, points

    whole, unlimited = make_training_run(), run_for(20.0)
    whole.run(20)
    assert told(unlimited[0]) == told(whole)
    assert [share for share, _ in unlimited[1]] == [0.25, 0.5, 0.75, 1.0]
    half, points = run_for(10.0)
    assert (half.trainer.step, half.decaying) == (10, (8, 10))
    assert points == [(0.25, False), (0.4, False), (0.5, True)]
    assert half.metrics()["val_loss"] > 0.0
    too_late, points = run_for(-1.0)
    assert (too_late.trainer.step, points) == (1, [(0.05, False)]), "a model needs one step"
