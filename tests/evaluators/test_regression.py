"""Targets that are real numbers: trained with the whole recipe, judged and taken up again by a short evaluator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evo_tune import Context
from evo_tune.errors import RecipeError
from evo_tune.plugins.evaluator import Evaluator
from evo_tune.plugins.find import find_evaluator
from evo_tune.training import CrossEntropy, Epochs, SampleTraining, SquaredError, accumulate, train
from evo_tune.training.training_run import TrainingRun

RECIPE: dict[str, Any] = {
    "epochs": 40.0,
    "schedule": "wsd",
    "clip": 0.5,
    "ema": 0.9,
    "micro_batch": 7,
    "patience": 20,
    "evaluations": 8,
}


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    return find_evaluator(str(Path(__file__).with_name("regression.py")))


def fit(evaluator: Evaluator, folder: Path, options: dict[str, Any], **run: Any) -> dict[str, float]:
    bound = evaluator.bind(options)
    found: dict[str, float] = bound.evaluate(bound.space.default(), Context(seed=3, folder=folder, **run))
    return {name: value for name, value in found.items() if name != "samples_per_second"}


def test_it_learns_numbers_below_zero_with_the_whole_recipe(evaluator: Evaluator, tmp_path: Path) -> None:
    metrics = fit(evaluator, tmp_path, RECIPE, test=True)
    assert set(metrics) >= set(evaluator.metrics) - {"samples_per_second", "gpu_memory", "mfu", "peak_memory"}
    assert metrics["val_loss"] < 1.0  # the mean of the targets leaves 1.6
    assert metrics["val_loss"] != metrics["val_loss_ema"]
    assert metrics["test_loss"] != metrics["val_loss"]
    assert metrics["samples"] == 40 * 90
    assert metrics["epochs"] == 40
    assert metrics["micro_batch"] == 7
    assert 0.0 < metrics["clipped_fraction"] < 1.0


def test_in_parts_it_is_the_same_training(evaluator: Evaluator, tmp_path: Path) -> None:
    whole = fit(evaluator, tmp_path / "whole", RECIPE)
    fit(evaluator, tmp_path / "part", RECIPE, budget=0.4)
    rest = fit(evaluator, tmp_path / "rest", RECIPE, resume_folder=tmp_path / "part")
    assert rest.pop("resumed_step") > 0
    assert rest == whole


@settings(max_examples=20)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5), outputs=st.integers(1, 3))
def test_micro_batches_of_any_size_give_the_gradient_of_torchs_mse_loss(sizes: list[int], outputs: int) -> None:
    rng = torch.Generator().manual_seed(sum(sizes))
    inputs, targets = (torch.randn(sum(sizes), n, generator=rng, dtype=torch.float64) for n in (4, outputs))
    targets -= 2.0  # most of them are below zero
    whole, parts = (torch.nn.Linear(4, outputs).double() for _ in range(2))
    parts.load_state_dict(whole.state_dict())
    expected = torch.nn.functional.mse_loss(whole(inputs), targets)
    expected.backward()
    window = list(zip(inputs.split(sizes), targets.split(sizes), strict=True))  # type: ignore[no-untyped-call]
    loss, count = accumulate(parts, window, loss=SquaredError())
    assert count == targets.numel()
    assert float(loss) == pytest.approx(expected.item(), rel=1e-12)
    for mine, torchs in zip(parts.parameters(), whole.parameters(), strict=True):
        assert torch.allclose(mine.grad, torchs.grad, rtol=1e-12, atol=1e-15)  # type: ignore[arg-type]


def test_shapes_that_would_be_broadcast_are_refused() -> None:
    with pytest.raises(RecipeError, match="the shape of the targets"):
        SquaredError().sum_losses(torch.zeros(3, 1), torch.zeros(3))


def test_all_numbers_count_and_of_classes_only_those_that_are_no_padding() -> None:
    assert SquaredError().count(torch.full((3, 2), -100.0)) == 6
    assert CrossEntropy().count(torch.tensor([[-100, 2], [0, -100]])) == 2
    assert CrossEntropy().count(torch.full((3, 2), 0.5)) == 3


def test_mixup_averages_numbers_and_label_smoothing_is_refused() -> None:
    inputs, numbers = torch.randn(8, 2), torch.arange(8.0)[:, None] - 4.0
    given_: dict[str, Any] = {"classes": None, "batch": 8, "total": 8, "seed": 1}
    ((x, y),) = Epochs(inputs, numbers, mixup=1.0, **given_).window(0)
    assert y.shape == numbers.shape
    assert y.sum() == pytest.approx(numbers.sum())
    assert not torch.equal(x.sort(0).values, inputs.sort(0).values)
    with pytest.raises(RecipeError, match="label_smoothing"):
        Epochs(inputs, numbers, label_smoothing=0.1, **given_)


def test_the_loss_that_is_told_is_torchs_on_all_that_is_held_out(evaluator: Evaluator, tmp_path: Path) -> None:
    options = evaluator.options_type(**RECIPE)  # type: ignore[misc]
    plan = evaluator.module._task(evaluator.bind({}).space.default(), options)
    training_run, metrics = train(plan, Context(seed=3, folder=tmp_path), SampleTraining)
    inputs, numbers = training_run.task.held_out  # type: ignore[attr-defined]
    with torch.no_grad():
        expected = torch.nn.functional.mse_loss(training_run.model(inputs), numbers)
    assert metrics["val_loss"] == pytest.approx(float(expected), rel=1e-6)


def test_speed_counts_samples_and_not_their_numbers(
    evaluator: Evaluator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrainingRun, "speed", property(lambda self: 60.0))  # numbers a second, two for each sample
    bound = evaluator.bind({"epochs": 1.0})
    assert bound.evaluate(bound.space.default(), Context(folder=tmp_path))["samples_per_second"] == 30.0


def test_every_step_counts_as_clipped_under_a_tiny_limit(evaluator: Evaluator, tmp_path: Path) -> None:
    assert fit(evaluator, tmp_path, {"epochs": 1.0, "clip": 1e-9})["clipped_fraction"] == 1.0
