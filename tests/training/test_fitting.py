"""A classifier's training from beginning to end: it learns, goes on to the bit, and says what it spent."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from evo_tune import Context
from evo_tune.errors import OptionError, RecipeError
from evo_tune.training import (
    CLASSIFIER_METRICS,
    Diverged,
    DivergenceWatch,
    Examples,
    FTConfig,
    FTTransformer,
    Plan,
    Schedule,
    ViT,
    ViTConfig,
    fit,
)

RNG = torch.Generator().manual_seed(5)
IMAGES = torch.randint(0, 256, (60, 1, 4, 4), generator=RNG).to(torch.uint8)
BRIGHT = (IMAGES.float().mean((1, 2, 3)) > 127).long()
EXAMPLES = Examples(IMAGES[:40], BRIGHT[:40], IMAGES[40:], BRIGHT[40:])
SHAPE = {
    "classes": 2,
    "depth": 2,
    "width": 16,
    "heads": 2,
    "channels": 1,
    "image_height": 4,
    "image_width": 4,
    "patch": 2,
}
GENES: dict[str, Any] = {"lr": 3e-3, "batch": 16, "weight_decay": 0.05, "warmup": 0.1, "flops_per_sample": 10.0}
NOISE = {"label_smoothing": 0.1, "mixup": 0.3}


def train(
    folder: Path, plan: Plan, config: dict[str, Any] | None = None, **given: Any
) -> tuple[dict[str, float], Context]:
    run = Context(
        **{"seed": 3, "folder": folder, **{n: given.pop(n) for n in ("budget", "resume_folder") if n in given}}
    )
    model = ViT(ViTConfig(**{**SHAPE, **(config or {})}), seed=1)
    model.standardise(EXAMPLES.inputs)
    return fit(model, EXAMPLES, run, plan, **{**GENES, **given}), run


def without_clock(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name not in ("samples_per_second", "resumed_step")}


def test_it_learns_and_says_what_it_spent(tmp_path: Path) -> None:
    metrics, run = train(tmp_path / "a", Plan(epochs=30), {"dropout": 0.0})
    assert list(metrics) == list(CLASSIFIER_METRICS)
    assert metrics["train_loss"] < 0.5 < math.log(2)
    assert metrics["accuracy"] > 0.7
    assert metrics["samples"] == 1200
    assert metrics["epochs"] == 30
    assert metrics["steps"] == 90  # 40 samples are batches of 16, 16 and 8
    assert metrics["flops"] == 12000
    assert [fraction for fraction, _ in run.curve] == pytest.approx([0.25, 0.5, 0.75, 1.0], abs=0.02)
    assert run.curve[-1][1] == {"val_loss": metrics["val_loss"], "accuracy": metrics["accuracy"]}
    assert not (tmp_path / "a").exists()
    same, _ = train(tmp_path / "b", Plan(flops=12000.0), {"dropout": 0.0})
    assert without_clock(same) == without_clock(metrics)


@pytest.mark.parametrize("schedule", ["wsd", "constant", "cosine"])
@pytest.mark.parametrize(
    "config", [{"drop_path": 0.3, "dropout": 0.1}, {"stem": "conv", "pooling": "cls", "patch": 1}], ids=["drop", "conv"]
)
def test_a_training_in_pieces_is_one_training_to_the_bit(schedule: str, config: dict[str, Any], tmp_path: Path) -> None:
    plan = Plan(epochs=3, schedule=schedule)
    whole, _ = train(tmp_path / "whole", plan, config, **NOISE)
    part, _ = train(tmp_path / "1", plan, config, budget=0.25, **NOISE)
    assert part["steps"] == 3
    rest, _ = train(tmp_path / "2", plan, config, resume_folder=tmp_path / "1", **NOISE)
    assert rest["resumed_step"] == 3
    assert without_clock(rest) == without_clock(whole)
    lost, _ = train(tmp_path / "3", plan, config, resume_folder=tmp_path / "nowhere", **NOISE)
    assert lost["resumed_step"] == 0
    assert without_clock(lost) == without_clock(whole)


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    train(tmp_path / "1", Plan(epochs=3), budget=0.5, task={"data": "here"})
    with pytest.raises(OptionError, match="there"):
        train(tmp_path / "2", Plan(epochs=3), resume_folder=tmp_path / "1", task={"data": "there"})
    with pytest.raises(RecipeError, match="recipe"):
        train(tmp_path / "2", Plan(epochs=4), resume_folder=tmp_path / "1", task={"data": "here"})


def test_a_lost_training_is_diverged_and_a_loss_near_zero_may_triple(tmp_path: Path) -> None:
    rows = torch.tensor([[math.inf]] * 4)
    examples = Examples(rows, torch.tensor([0, 1, 0, 1]), rows, torch.tensor([0, 1, 0, 1]))
    model = FTTransformer(FTConfig(classes=2, depth=1, width=8, heads=1, numeric=1))
    with pytest.raises(Diverged):
        fit(model, examples, Context(folder=tmp_path), Plan(epochs=2), **GENES)
    watch = DivergenceWatch()
    for step, loss in enumerate([1e-3] * 20 + [0.2] * 200):
        watch.check(step, loss, 1.0)
    watch.average = 0.9
    watch.high_steps = DivergenceWatch.PATIENCE - 1
    with pytest.raises(Diverged, match="times its best"):
        watch.check(220, 0.9, 1.0)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"epochs": 1.0, "flops": 1.0}, "epochs"),
        ({"epochs": 0.0}, "epochs"),
        ({"flops": math.inf}, "flops"),
        ({"epochs": 1.0, "schedule": "steep"}, "schedule"),
        ({"epochs": 1.0, "min_lr_ratio": 1.5}, "min_lr_ratio"),
        ({"epochs": 1.0, "decay_fraction": 0.0}, "decay_fraction"),
        ({"epochs": 1.0, "clip": 0.0}, "clip"),
        ({"epochs": 1.0, "cycle": 0.0}, "cycle"),
    ],
)
def test_plans_out_of_bounds_are_refused(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Plan(**fields)
    assert caught.value.field == field


def test_a_plan_counts_samples() -> None:
    assert Plan(epochs=2.5).samples(10, 7.0) == 25
    assert Plan(flops=100.0).samples(10, 7.0) == 14
    assert Plan().samples(10, 1e9) == Plan(flops=Plan().default_flops).samples(10, 1e9) == 20
    assert Plan(epochs=1e-9).samples(10, 7.0) == 1


def test_schedules_end_at_zero_and_those_of_old_checkpoints_are_known() -> None:
    plan = Plan()
    assert plan.rates(20, 0.1) == Schedule(steps=20, warmup_fraction=0.1, min_lr_ratio=0.0)
    assert Plan(cycle=0.25, schedule="sgdr").rates(20, 0.0).first_cycle == 5
