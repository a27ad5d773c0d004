"""A classifier's training from beginning to end: it learns, goes on to the bit, and honours the whole recipe."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from evo_tune import Context
from evo_tune.errors import OptionError, RecipeError
from evo_tune.plugins.cost import Cost
from evo_tune.training import (
    ClassifierTraining,
    Diverged,
    FTTransformer,
    TrainingRun,
    ViT,
    score_classifier,
    train,
)
from evo_tune.training.hardware import precision as probe
from evo_tune.training.recipe import (
    ClassifierTask,
    EncoderOptions,
    FTConfig,
    SampleOptions,
    Schedule,
    ViTConfig,
    metric_units,
    split_stratified,
)
from evo_tune.training.recipe.metrics import names_on_test_set

RNG = torch.Generator().manual_seed(5)
IMAGES = torch.randint(0, 256, (60, 1, 4, 4), generator=RNG).to(torch.uint8)
BRIGHT = (IMAGES.float().mean((1, 2, 3)) > 127).long()
SHAPE = {
    "outputs": 2,
    "depth": 2,
    "width": 16,
    "heads": 2,
    "channels": 1,
    "image_height": 4,
    "image_width": 4,
    "patch": 2,
}
GENES: dict[str, Any] = {"lr": 3e-3, "batch": 16, "weight_decay": 0.05, "warmup": 0.1, "width": 16}
NOISE = {"label_smoothing": 0.1, "mixup": 0.3}
FP32 = {"precision": "fp32", "validation": 1 / 6, "test": 1 / 6}
SOMETIMES = {"val_loss_ema", "mfu", "gpu_memory"}  # the last is the evaluator's to say


def fit(
    folder: Path, options: dict[str, Any], config: dict[str, Any] | None = None, **given: Any
) -> tuple[dict[str, float], Context, TrainingRun]:
    """Train a small ViT; keywords go to the context, the task, or the genome."""
    own = {name: given.pop(name) for name in ("budget", "resume_folder", "test") if name in given}
    run = Context(**{"seed": 3, "folder": folder, **own})
    shape = ViTConfig(**{**SHAPE, **(config or {})})  # type: ignore[arg-type]
    task = ClassifierTask(
        options=EncoderOptions(**{**FP32, **options}),
        build=lambda seed: ViT(shape, seed=seed),
        inputs=IMAGES.numpy(),
        classes=BRIGHT.numpy(),
        flops_per_sample=10.0,
        reference=16,
        data=given.pop("data", "here"),
        whole=shape.stem == "conv",
        genome={**GENES, **given},
    )
    training_run, metrics = train(task, run, ClassifierTraining)
    return metrics, run, training_run


def without_clock(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name not in ("samples_per_second", "resumed_step")}


@pytest.mark.slow
def test_it_learns_and_says_what_it_spent(tmp_path: Path) -> None:
    metrics, run, _ = fit(tmp_path / "a", {"epochs": 30.0})
    assert set(metrics) == set(metric_units("classes")) - SOMETIMES
    assert metrics["train_loss"] < 0.5 < math.log(2)
    assert metrics["accuracy"] > 0.7
    assert metrics["samples"] == 1200
    assert metrics["epochs"] == 30
    assert metrics["steps"] == 90  # 40 samples are batches of 16, 16 and 8
    assert metrics["flops"] == 12000
    assert metrics["micro_batch"] == 16
    assert [fraction for fraction, _ in run.curve] == pytest.approx([0.25, 0.5, 0.75, 1.0], abs=0.02)
    assert run.curve[-1][1] == {"val_loss": metrics["val_loss"], "accuracy": metrics["accuracy"], "decayed": 1.0}
    assert not (tmp_path / "a").exists()
    same, _, _ = fit(tmp_path / "b", {"flops": 12000.0})
    assert without_clock(same) == without_clock(metrics)


def test_the_test_set_is_judged_where_it_is_asked_for_and_changes_nothing_else(tmp_path: Path) -> None:
    metrics, _, _ = fit(tmp_path / "a", {"epochs": 6.0, "patience": 2, "evaluations": 6})
    more, _, training_run = fit(tmp_path / "b", {"epochs": 6.0, "patience": 2, "evaluations": 6}, test=True)
    told = {name: more.pop(name) for name in names_on_test_set("classes").values()}
    assert without_clock(more) == without_clock(metrics)
    parts = split_stratified(BRIGHT.numpy(), 1 / 6, 1 / 6)
    held, test = (score_classifier(training_run.model, (IMAGES[part], BRIGHT[part])) for part in parts[1:])
    scores = ("accuracy", "balanced_accuracy", "macro_f1", "auc")
    assert metrics["val_loss"] == held.loss
    assert {name: metrics[name] for name in scores} == {name: getattr(held, name) for name in scores}
    assert told == {"test_loss": test.loss, **{f"test_{name}": getattr(test, name) for name in scores}}
    assert told["test_loss"] != metrics["val_loss"]


WHOLE = [
    ({"schedule": "wsd"}, {"drop_path": 0.3, "dropout": 0.1}),
    ({"schedule": "constant"}, {"stem": "conv", "patch": 1}),
    ({"schedule": "cosine", "optimizer": "muon", "ema": 0.9, "precision": "bf16"}, {}),
    ({"precision": "fp16", "patience": 9, "evaluations": 9, "weight_decay_end": 0.5, "gap_patience": 1}, {}),
    ({"optimizer": "sgd", "recompute": 1, "clip": None, "micro_batch": 5}, {"dropout": 0.1}),
]


@pytest.mark.parametrize(("options", "config"), WHOLE)
def test_a_training_in_pieces_is_one_training_to_the_bit(
    options: dict[str, Any], config: dict[str, Any], tmp_path: Path
) -> None:
    options = {"epochs": 3.0, **options}
    whole, _, _ = fit(tmp_path / "whole", options, config, **NOISE)
    part, _, _ = fit(tmp_path / "1", options, config, budget=0.25, **NOISE)
    assert part["steps"] == 3
    rest, _, _ = fit(tmp_path / "2", options, config, resume_folder=tmp_path / "1", **NOISE)
    assert rest["resumed_step"] == 3
    assert without_clock(rest) == without_clock(whole)


def test_without_its_checkpoint_a_training_starts_anew(tmp_path: Path) -> None:
    options, config = WHOLE[0]
    options = {"epochs": 3.0, **options}
    whole, _, _ = fit(tmp_path / "whole", options, config, **NOISE)
    lost, _, _ = fit(tmp_path / "3", options, config, resume_folder=tmp_path / "nowhere", **NOISE)
    assert lost["resumed_step"] == 0
    assert without_clock(lost) == without_clock(whole)


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    fit(tmp_path / "1", {"epochs": 3.0}, budget=0.5)
    with pytest.raises(OptionError, match="there"):
        fit(tmp_path / "2", {"epochs": 3.0}, resume_folder=tmp_path / "1", data="there")
    with pytest.raises(RecipeError, match="recipe"):
        fit(tmp_path / "2", {"epochs": 3.0, "clip": 0.5}, resume_folder=tmp_path / "1")


def test_passes_change_no_gradient(tmp_path: Path) -> None:
    options = {"epochs": 3.0, "optimizer": "sgd"}  # Adam makes much of rounding where gradients are nearly zero
    whole, _, _ = fit(tmp_path, options, **NOISE, lr=0.1)
    for micro_batch in (1, 5, 16, None):
        split, _, _ = fit(tmp_path, {**options, "micro_batch": micro_batch}, **NOISE, lr=0.1)
        assert split["micro_batch"] == (micro_batch or 16)
        assert split["val_loss"] == pytest.approx(whole["val_loss"], rel=1e-5)


def test_what_does_not_fit_is_halved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from evo_tune.training.hardware import device as passes

    whole, _, training_run = fit(tmp_path, {"epochs": 3.0})
    needed = training_run.task.predict_peak_memory(training_run.trainer, 5)
    monkeypatch.setattr(passes, "device_memory", lambda device: needed / 0.9)
    split, _, _ = fit(tmp_path, {"epochs": 3.0})
    assert split["micro_batch"] == 4  # by halving 16
    assert split["peak_memory"] < whole["peak_memory"]
    assert split["val_loss"] == pytest.approx(whole["val_loss"], rel=1e-5)
    monkeypatch.setattr(passes, "device_memory", lambda device: 1000.0)
    with pytest.raises(RecipeError, match="for one sample"):
        fit(tmp_path, {"epochs": 3.0})


def test_the_average_is_judged_and_early_stopping_keeps_the_best(tmp_path: Path) -> None:
    plain, _, _ = fit(tmp_path, {"epochs": 6.0})
    raw, _, training_run = fit(tmp_path, {"epochs": 6.0, "ema": 0.0})
    assert raw["val_loss"] == plain["val_loss"] == pytest.approx(raw["val_loss_ema"], rel=1e-6)
    averaged, _, training_run = fit(tmp_path, {"epochs": 6.0, "ema": 0.9})
    average = cast(ViT, training_run.trainer.averaged.module)  # type: ignore[union-attr]
    held_out = training_run.task.examples.held_out  # type: ignore[attr-defined]
    own = training_run.task.evaluate(training_run.trainer, held_out, average).loss  # type: ignore[attr-defined]
    assert averaged["val_loss"] == plain["val_loss"]
    assert averaged["val_loss_ema"] == own != averaged["val_loss"]
    stopped, run, _ = fit(tmp_path, {"epochs": 6.0, "patience": 1, "min_delta": 9.0, "evaluations": 9})
    assert stopped["steps"] == 4  # the first evaluation is an improvement on nothing, the second is none
    assert stopped["val_loss"] == run.curve[0][1]["val_loss"]


def test_a_batch_norm_sees_whole_steps_only(tmp_path: Path) -> None:
    conv = {"stem": "conv"}
    whole, _, _ = fit(tmp_path, {"epochs": 1.0}, conv)
    assert fit(tmp_path, {"epochs": 1.0, "micro_batch": 16}, conv)[0]["val_loss"] == whole["val_loss"]
    with pytest.raises(OptionError, match="micro_batch=8: a batch norm"):
        fit(tmp_path, {"epochs": 1.0, "micro_batch": 8}, conv)
    with pytest.raises(OptionError, match="ranks=2: torch has no batch norm"):
        fit(tmp_path, {"epochs": 1.0, "ranks": 2}, conv)


def test_a_step_with_a_batch_norm_is_not_halved_when_memory_runs_out(tmp_path: Path) -> None:
    @dataclass
    class Scarce:
        of: Callable[..., Any]

        def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
            if len(inputs) > 8:
                raise RuntimeError("not enough memory")
            found: torch.Tensor = self.of(inputs)
            return found

    for stem in ("none", "conv"):
        _, _, training_run = fit(tmp_path, {"epochs": 1.0}, {"stem": stem}, budget=0.3)
        training_run.trainer.replica = cast(torch.nn.Module, Scarce(training_run.trainer.model))
        if stem == "conv":
            with pytest.raises(RuntimeError, match="not enough memory"):
                training_run.run(training_run.steps)
        else:
            training_run.run(training_run.steps)
            assert training_run.trainer.parts == 2


@pytest.mark.parametrize(("width", "bf16"), [(16, 0), (256, 1)])
def test_narrow_classifiers_gain_nothing_from_bf16(
    width: int, bf16: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(probe, "_measure_gain", lambda: 2.0)
    monkeypatch.setattr(probe, "cache_folder", lambda: tmp_path / "cache")
    options = {"epochs": 0.5, "precision": "auto"}
    assert fit(tmp_path, options, {"width": width}, width=width)[0]["bf16"] == bf16


def test_a_lost_training_is_diverged(tmp_path: Path) -> None:
    class Lost(FTTransformer):
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return super().forward(rows) * math.inf

    config = FTConfig(outputs=2, depth=1, width=8, heads=1, numeric=1)
    task = ClassifierTask(
        options=EncoderOptions(epochs=2.0, **FP32),  # type: ignore[arg-type]
        build=lambda seed: Lost(config),
        inputs=np.arange(8, dtype=np.float32)[:, None],
        classes=np.arange(8) % 2,
        flops_per_sample=10.0,
        reference=16,
        data="",
        genome=GENES,
    )
    with pytest.raises(Diverged):
        train(task, Context(folder=tmp_path), ClassifierTraining)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"epochs": 1.0, "micro_batch": 0}, "micro_batch"),
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
        SampleOptions(**fields)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epochs": 1.0, "flops": 1.0}, "-o epochs and -o flops are both given: give one budget"),
        ({"flops": 1.0, "seconds": 1.0}, "-o flops and -o seconds are both given: give one budget"),
        ({"seconds": 1.0, "ranks": 2}, "-o ranks and -o seconds are both given: give another budget"),
    ],
)
def test_a_plan_has_one_budget(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        SampleOptions(**fields)


def test_a_plan_counts_samples() -> None:
    assert SampleOptions(epochs=2.5).samples(10, 7.0) == 25
    assert SampleOptions(flops=100.0).samples(10, 7.0) == 14
    assert SampleOptions().samples(10, 1e9) == SampleOptions(flops=SampleOptions().default_flops).samples(10, 1e9) == 20
    assert SampleOptions(epochs=1e-9).samples(10, 7.0) == 1
    cost = Cost({"step": 0.5}, start=1.0).text()
    assert SampleOptions(seconds=6.0, cost=cost).samples(10, 7.0, 32, {"step": 1.0}) == 10 * 32


def test_schedules_of_classifiers_end_at_zero() -> None:
    plan = SampleOptions()
    expected = Schedule(steps=20, warmup_fraction=0.1, min_lr_ratio=0.0, decay_fraction=plan.decay_fraction)
    assert plan.rates(20, 0.1) == expected
    assert SampleOptions(cycle=0.25, schedule="sgdr").rates(20, 0.0).cycle_steps == 5
