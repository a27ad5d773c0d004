"""Boosted trees: gradients, splits by hand, missing numbers, categories, and a saved model that predicts the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evo_tune.training import BoostedTrees, model_outputs
from evo_tune.training.models.fitted import FitRows
from evo_tune.training.models.trees import Growth, _cuts, _Loss
from evo_tune.training.recipe import Columns, TreesConfig

GENOME: dict[str, Any] = {
    "shrinkage": 0.3,
    "tree_depth": 3,
    "leaf_rows": 5,
    "leaf_l2": 0.1,
    "row_share": 0.9,
    "column_share": 1.0,
    "bins": 32,
}


def fitted(
    inputs: np.ndarray, targets: np.ndarray, categories: int = 0, steps: int = 40, seed: int = 0
) -> BoostedTrees:
    """Return trees that were fitted to rows whose last column has categories, if any."""
    numeric, outputs = inputs.shape[1] - (categories > 0), 1 if targets.dtype == float else int(targets.max()) + 1
    sizes = (categories,) if categories else ()
    names = {"town": tuple(map(str, range(categories)))} if categories else {}
    columns = Columns(numeric=tuple(f"x{place}" for place in range(numeric)), categorical=names)
    config = TreesConfig(outputs=outputs, numeric=numeric, categories=sizes, rounds=0, levels=3)
    model = BoostedTrees(config, labels=[str(label) for label in range(outputs)], columns=columns, scale=None)
    rows = FitRows(inputs.astype(np.float32), targets, np.ones(len(targets)), inputs[:50].astype(np.float32))
    for held_out in model.fit(rows, GENOME, steps, seed):
        last = held_out
    model.finish(model.state())
    assert np.allclose(outputs_of(model, inputs[:50]), last, atol=1e-4), "thresholds and bins divide rows alike"
    return model


def outputs_of(model: BoostedTrees, inputs: np.ndarray) -> np.ndarray:
    rows = torch.from_numpy(inputs.astype(np.float32))
    return model_outputs(model, (rows, rows)).double().numpy()


@pytest.mark.parametrize("scores", [1, 3])
@pytest.mark.parametrize("kind", ["classes", "numbers"])
def test_derivatives_are_those_of_the_loss(kind: str, scores: int) -> None:
    if kind == "numbers" and scores == 3:
        return
    rng = np.random.default_rng(0)
    targets = rng.integers(0, max(2, scores), 20) if kind == "classes" else rng.normal(size=20)
    at, weights = rng.normal(size=(20, scores)), rng.uniform(0.5, 2, 20)
    gradients, hessians = _Loss(targets, weights, scores).derivatives(at)
    x = torch.from_numpy(at).requires_grad_()
    logits = torch.cat((torch.zeros_like(x), x), 1) if scores == 1 else x
    losses = (
        torch.nn.functional.cross_entropy(logits, torch.from_numpy(targets), reduction="none")
        if kind == "classes"
        else ((x[:, 0] - torch.from_numpy(targets)) ** 2 / 2)
    )
    (slope,) = torch.autograd.grad((torch.from_numpy(weights) * losses).sum(), x, create_graph=True)
    assert np.allclose(gradients, slope.detach().numpy())
    for score in range(scores):
        (curvature,) = torch.autograd.grad(slope[:, score].sum(), x, retain_graph=True)
        assert np.allclose(hessians[:, score], curvature[:, score].numpy())


def test_the_first_split_is_the_best_of_all() -> None:
    rng = np.random.default_rng(1)
    bins = rng.integers(0, 8, (200, 3)).astype(np.uint8)
    gradient, hessian = rng.normal(size=200) + (bins[:, 1] > 4), rng.uniform(0.5, 1.5, 200)
    tree = Growth(depth=1, bins=8, leaf_rows=10, l2=2.0).grow(bins, np.arange(3), gradient, hessian)

    def gain(column: int, place: int) -> float:
        sides = [bins[:, column] <= place, bins[:, column] > place]
        if min(side.sum() for side in sides) < 10:
            return 0.0
        return float(sum(gradient[side].sum() ** 2 / (hessian[side].sum() + 2.0) for side in sides))

    best = max(((column, place) for column in range(3) for place in range(8)), key=lambda split: gain(*split))
    assert (tree.feature[0], tree.threshold[0]) == best
    first = bins[:, best[0]] <= best[1]
    assert tree.value[0] == pytest.approx(-gradient[first].sum() / (hessian[first].sum() + 2.0))
    assert (tree.leaves(bins) == ~first).all()


def test_deep_trees_have_the_sums_of_their_own_rows() -> None:
    rng = np.random.default_rng(2)
    bins = rng.integers(0, 16, (500, 4)).astype(np.uint8)
    gradient = rng.normal(size=500) + bins[:, 0] * (bins[:, 1] > 7) - bins[:, 2]
    tree = Growth(depth=5, bins=16, leaf_rows=8, l2=1.0).grow(bins, np.arange(4), gradient, np.ones(500))
    leaf = tree.leaves(bins)
    for number in np.unique(leaf):
        assert (leaf == number).sum() >= 8
        assert tree.value[number] == pytest.approx(-gradient[leaf == number].sum() / ((leaf == number).sum() + 1.0))
    assert len(np.unique(leaf)) > 8


def test_without_a_gain_all_rows_stay_in_one_leaf() -> None:
    bins = np.arange(100, dtype=np.uint8)[:, None] % 4
    tree = Growth(depth=3, bins=4, leaf_rows=1, l2=1e-9).grow(bins, np.arange(1), np.ones(100), np.ones(100))
    assert set(tree.leaves(bins)) == {0}
    assert tree.value[0] == pytest.approx(-1.0)


def test_cuts_divide_evenly_and_leave_different_numbers_apart() -> None:
    column = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    sizes = np.bincount(np.searchsorted(_cuts(column, 8), column))
    assert len(sizes) == 8
    assert sizes.min() > 110
    assert _cuts(np.float32([1, 3, -np.inf, 3]), 8).tolist() == [-np.inf, 2.0]
    close = np.array([1, np.nextafter(np.float32(1), np.float32(2))], np.float32)
    assert (np.searchsorted(_cuts(close, 8), close) == [0, 1]).all()


def test_it_learns_numbers_missing_ones_and_categories() -> None:
    rng = np.random.default_rng(3)
    inputs = np.stack((rng.normal(size=600), rng.normal(size=600), rng.integers(0, 6, 600)), 1)
    inputs[::5, 1] = np.nan
    effect = np.array([0.0, 2, -2, 2, -2, 2])[inputs[:, 2].astype(int)]
    targets = inputs[:, 0] ** 2 + 3.0 * np.isnan(inputs[:, 1]) + effect
    model = fitted(inputs, (targets - targets.mean()) / targets.std(), categories=5)
    predicted = outputs_of(model, inputs)[:, 0] * targets.std() + targets.mean()
    assert np.mean((predicted - targets) ** 2) < 0.05 * targets.var()


@pytest.mark.parametrize("classes", [2, 3])
def test_classes_seeds_and_a_saved_model(classes: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    inputs = rng.normal(size=(400, 2))
    targets = np.digitize(inputs[:, 0] * inputs[:, 1], [0.0, 0.5][: classes - 1])
    model, same, other = (fitted(inputs, targets, seed=seed) for seed in (0, 0, 1))
    outputs = outputs_of(model, inputs)
    assert (outputs.argmax(1) == targets).mean() > 0.95
    assert (outputs == outputs_of(same, inputs)).all()
    assert not (outputs == outputs_of(other, inputs)).all()
    model.save(tmp_path / "model")
    assert (outputs_of(BoostedTrees.load(tmp_path / "model"), inputs) == outputs).all()


def test_fewer_rounds_are_the_beginning_of_the_same_model() -> None:
    rng = np.random.default_rng(5)
    inputs = rng.normal(size=(200, 2))
    short, long = (fitted(inputs, inputs[:, 0].copy(), steps=steps) for steps in (10, 20))
    assert (long.value[:10] == short.value).all()
    assert (long.threshold[:10] == short.threshold).all()
