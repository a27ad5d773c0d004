"""Class weights against scikit-learn's and torch's: by the training rows alone, and the same gradient however cut."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("sklearn")
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight

from evo_tune import Context
from evo_tune.errors import OptionError, UsageError
from evo_tune.plugins.find import find_evaluator
from evo_tune.training import (
    IGNORE,
    ClassifierTraining,
    CrossEntropy,
    Epochs,
    FTTransformer,
    RankRun,
    Ranks,
    TrainingRun,
    accumulate,
    score_classifier,
    train,
)
from evo_tune.training.recipe import ClassifierOptions, ClassifierTask, FTConfig, split_stratified
from evo_tune.training.recipe.classifying import balanced_weights
from evo_tune.training.session import train_together

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(123, 3)).astype(np.float32)
CLASSES = np.array([0] * 103 + [1] * 13 + [2] * 7)
OPTIONS: dict[str, Any] = {"epochs": 2.0, "precision": "fp32", "optimizer": "sgd", "class_weights": "balanced"}
GENOME = {"lr": 0.05, "batch": 16, "weight_decay": 0.0, "warmup": 0.0, "width": 8, "label_smoothing": 0.1}


@given(data=st.data(), k=st.integers(1, 5))
def test_weights_are_scikit_learns_and_zero_for_absent_classes(data: st.DataObject, k: int) -> None:
    classes = np.array(data.draw(st.lists(st.integers(0, k - 1), min_size=1, max_size=40)))
    present = np.unique(classes)
    weights = balanced_weights(classes, 6)
    assert weights.shape == (6,)
    assert weights[present] == pytest.approx(compute_class_weight("balanced", classes=present, y=classes))
    assert not np.delete(weights, present).any()
    assert weights[classes].mean() == pytest.approx(1.0)


def task_of(**options: Any) -> ClassifierTask:
    shape = FTConfig(outputs=3, depth=1, width=8, heads=2, numeric=3)
    return ClassifierTask(
        options=ClassifierOptions(**{**OPTIONS, **options}),
        build=lambda seed: FTTransformer(shape, seed=seed),
        inputs=ROWS,
        classes=CLASSES,
        flops_per_sample=1.0,
        reference=16,
        data="these",
        genome=GENOME,
    )


def fit(folder: Path, **options: Any) -> tuple[TrainingRun, dict[str, float]]:
    return train(task_of(**options), Context(seed=3, folder=folder), ClassifierTraining)


def test_only_the_training_rows_are_counted() -> None:
    training = CLASSES[split_stratified(CLASSES, 0.2, 0.2)[0]]
    everywhere, of_training = (compute_class_weight("balanced", classes=np.arange(3), y=y) for y in (CLASSES, training))
    assert task_of().class_weights(3) == pytest.approx(of_training)
    assert task_of().class_weights(3) != pytest.approx(everywhere)
    assert task_of(class_weights="none").class_weights(3) == ()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_smoothed_loss_has_the_weight_of_its_class(smoothing: float) -> None:
    logits = torch.from_numpy(RNG.normal(size=(123, 3)))
    numbers, weights = torch.from_numpy(CLASSES), tuple(balanced_weights(CLASSES, 3).tolist())
    by_sample = torch.from_numpy(compute_sample_weight("balanced", CLASSES))
    expected = (by_sample * F.cross_entropy(logits, numbers, label_smoothing=smoothing, reduction="none")).mean()
    soft = (1.0 - smoothing) * F.one_hot(numbers, 3).double() + smoothing / 3
    for targets in (soft, *([numbers] if not smoothing else [])):
        reported, minimised = CrossEntropy(weights, smoothing).shares(logits, targets, 123)
        assert float(minimised) == pytest.approx(float(expected), rel=1e-12)
        assert float(reported) == pytest.approx(float(F.cross_entropy(logits, targets)), rel=1e-12)


def test_mixed_samples_have_the_mixed_weight_and_padding_none() -> None:
    logits, weights = torch.from_numpy(RNG.normal(size=(2, 3))), (0.5, 2.0, 4.0)
    smoothed = 0.9 * torch.tensor([[0.25, 0.75, 0.0], [0.0, 0.0, 1.0]]).double() + 0.1 / 3
    expected = torch.tensor([1.625, 4.0]).double() @ F.cross_entropy(logits, smoothed, reduction="none")
    loss = CrossEntropy(weights, 0.1)
    assert float(loss.shares(logits, smoothed, 1)[1]) == pytest.approx(float(expected), rel=1e-6)
    numbers = torch.tensor([2, IGNORE])
    assert float(loss.shares(logits, numbers, 1)[1]) == pytest.approx(
        4 * float(F.cross_entropy(logits[:1], numbers[:1]))
    )
    assert loss.of_pieces(numbers, torch.ones(())) is None


@pytest.mark.parametrize("noise", [{}, {"label_smoothing": 0.1}, {"label_smoothing": 0.1, "mixup": 0.4}])
def test_micro_batches_of_any_size_give_the_gradient_of_one_pass(noise: dict[str, float]) -> None:
    loss = CrossEntropy(tuple(balanced_weights(CLASSES, 3).tolist()), noise.get("label_smoothing", 0.0))

    def gradient(micro_batch: int | None) -> torch.Tensor:
        source = Epochs(
            torch.from_numpy(ROWS),
            torch.from_numpy(CLASSES),
            classes=3,
            batch=100,
            total=100,
            seed=1,
            micro_batch=micro_batch,
            **noise,
        )
        model = torch.nn.Linear(3, 3, dtype=torch.float64)
        torch.nn.init.constant_(model.weight, 0.1)
        torch.nn.init.zeros_(model.bias)
        window = [(x.double(), y.double() if y.is_floating_point() else y) for x, y in source.window(0)]
        accumulate(model, window, loss=loss)
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    whole = gradient(None)
    for micro_batch in (1, 7, 99):
        assert torch.allclose(gradient(micro_batch), whole, rtol=0, atol=1e-14)


def test_passes_change_no_training_and_val_loss_has_no_weights(tmp_path: Path) -> None:
    training_run, whole = fit(tmp_path)
    held_out = training_run.task.examples.held_out  # type: ignore[attr-defined]
    scores = score_classifier(training_run.model, held_out)
    assert (whole["val_loss"], whole["macro_f1"]) == (scores.loss, scores.macro_f1)
    assert fit(tmp_path, micro_batch=5)[1]["val_loss"] == pytest.approx(whole["val_loss"], rel=1e-5)
    assert fit(tmp_path, class_weights="none")[1]["val_loss"] < whole["val_loss"]


def weigh(ranks: Ranks, tell: Callable[[dict[str, float]], None], *, run: Any, options: Any) -> dict[str, float]:
    return train(task_of(**options), RankRun.of(ranks, tell, run), ClassifierTraining, ranks)[1]


@pytest.mark.xdist_group("ranks")
def test_ranks_change_no_training(tmp_path: Path, forked_ranks: None) -> None:
    alone = fit(tmp_path / "alone")[1]
    together = train_together(weigh, Context(seed=3, folder=tmp_path / "ranks"), {**OPTIONS, "ranks": 2})
    for metric in ("val_loss", "train_loss"):
        assert together[metric] == pytest.approx(alone[metric], rel=1e-5)


def test_a_checkpoint_with_other_weights_is_refused(tmp_path: Path) -> None:
    for weights, other in (("balanced", "none"), ("none", "balanced")):
        folder = tmp_path / weights
        train(task_of(class_weights=weights), Context(seed=3, folder=folder, budget=0.5), ClassifierTraining)
        run = Context(seed=3, folder=tmp_path / "rest", resume_folder=folder)
        with pytest.raises(UsageError, match=r"class_weights|genome"):
            train(task_of(class_weights=other), run, ClassifierTraining)


def test_numbers_have_no_class_weights(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("a,kind,height\n" + "".join(f"{n},{n % 2},{n / 7}\n" for n in range(60)), encoding="utf-8")
    tabular, given = find_evaluator("bundled:tabular"), {"data": str(table), "class_weights": "balanced"}
    assert tabular.bind({**given, "target": "kind"}).space
    with pytest.raises(OptionError, match="class_weights=balanced: the target height is regression") as caught:
        _ = tabular.bind({**given, "target": "height"}).space
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="class_weights"):
        find_evaluator("bundled:forecasting").bind({"class_weights": "balanced"})
