"""Boosted trees: the outputs of LightGBM, missing numbers, categories, and a saved model that predicts the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from evo_tune.training import BoostedTrees
from evo_tune.training.hardware.device import reproducible
from evo_tune.training.models.model_files import FitRows
from evo_tune.training.recipe import Columns, TreesConfig
from tests.extras import need

need("boosting")

GENOME: dict[str, Any] = {
    "shrinkage": 0.3,
    "leaves": 15,
    "leaf_rows": 5,
    "leaf_l2": 0.1,
    "row_share": 0.9,
    "column_share": 1.0,
}


def fitted(
    inputs: NDArray[Any],
    targets: NDArray[Any],
    categories: int = 0,
    steps: int = 40,
    seed: int = 0,
    weights: NDArray[np.float64] | None = None,
    **genes: Any,
) -> BoostedTrees:
    """Return trees that were fitted to rows whose last column has categories, if any."""
    numeric, outputs = inputs.shape[1] - (categories > 0), 1 if targets.dtype == float else int(targets.max()) + 1
    sizes = (categories,) if categories else ()
    names = {"town": tuple(map(str, range(categories)))} if categories else {}
    columns = Columns(numeric=tuple(f"x{place}" for place in range(numeric)), categorical=names)
    config = TreesConfig(outputs=outputs, numeric=numeric, categories=sizes)
    model = BoostedTrees(config, labels=[str(label) for label in range(outputs)], columns=columns, scale=None)
    weights = np.ones(len(targets)) if weights is None else weights
    rows = FitRows(inputs.astype(np.float32), targets, weights, inputs[:50].astype(np.float32))
    for held_out in model.fit(rows, GENOME | genes, steps, seed):
        last = held_out
    model.finish(model.state())
    assert np.allclose(outputs_of(model, inputs[:50]), last, rtol=0, atol=1e-9)
    return model


def outputs_of(model: BoostedTrees, inputs: NDArray[Any]) -> NDArray[Any]:
    outputs: NDArray[Any] = model(torch.from_numpy(inputs.astype(np.float32))).numpy()
    return outputs


def mixed_rows(count: int, seed: int = 3) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return rows of two numbers, one of them often missing, and a category, and what they tell."""
    rng = np.random.default_rng(seed)
    inputs = np.stack((rng.normal(size=count), rng.normal(size=count), rng.integers(0, 9, count)), 1)
    inputs[::5, 1] = np.nan
    effect = np.array([0.0, 2, -2, 2, -2, 2, 1, -1, 0])[inputs[:, 2].astype(int)]
    return inputs, inputs[:, 0] ** 2 + 3.0 * np.isnan(inputs[:, 1]) + effect


@pytest.mark.parametrize("kind", ["a number", "two classes", "four classes"])
def test_outputs_are_those_of_lightgbm(kind: str) -> None:
    inputs, values = mixed_rows(2000)
    cuts = {"two classes": [1.0], "four classes": [-1.0, 1.0, 3.0]}
    targets = np.digitize(values, cuts[kind]) if kind in cuts else values
    model = fitted(inputs, targets, categories=8)
    assert len(model.passing), "some splits are by categories"
    assert model.missing_first.any()
    others = mixed_rows(1000, seed=4)[0]
    others[::7, 0] = np.nan  # never missing in training
    others[1::7, 0], others[2::7, 0] = np.inf, -np.inf
    expected = model._booster.predict(others.astype(np.float32), raw_score=True).reshape(len(others), -1)
    outputs = outputs_of(model, others)
    if kind == "two classes":
        assert (outputs[:, 0] == 0).all()
        outputs = outputs[:, 1:]
    assert np.abs(outputs - expected).max() < 1e-6
    assert expected.std() > 0.5


def test_it_learns_numbers_missing_ones_and_categories() -> None:
    inputs, targets = mixed_rows(2000)
    model = fitted(inputs, (targets - targets.mean()) / targets.std(), categories=8, steps=80)
    others, truth = mixed_rows(500, seed=5)
    predicted = outputs_of(model, others)[:, 0] * targets.std() + targets.mean()
    assert np.mean((predicted - truth) ** 2) < 0.05 * truth.var()


@pytest.mark.parametrize("classes", [2, 3])
def test_classes_seeds_and_a_saved_model(classes: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    inputs = rng.normal(size=(400, 2))
    targets = np.digitize(inputs[:, 0] * inputs[:, 1], [0.0, 0.5][: classes - 1])
    model, same, other = (fitted(inputs, targets, seed=seed) for seed in (0, 0, 2**62 + 1))
    outputs = outputs_of(model, inputs)
    assert (outputs.argmax(1) == targets).mean() > 0.95
    assert (outputs == outputs_of(same, inputs)).all()
    assert not (outputs == outputs_of(other, inputs)).all()
    model.save(tmp_path / "model")
    # LightGBM computed these; the loaded model has arrays.
    assert outputs_of(BoostedTrees.load(tmp_path / "model"), inputs) == pytest.approx(outputs, rel=1e-12, abs=1e-12)


def test_threads_do_not_change_a_model() -> None:
    inputs, targets = mixed_rows(600)
    models = []
    for threads in (1, 3):
        with reproducible(threads):
            models.append(fitted(inputs, targets, categories=8))
            assert models[-1]._booster.params["num_threads"] == threads
    assert (models[0].value == models[1].value).all()


@pytest.mark.parametrize(
    "genes",
    [
        {"leaves": 4},
        {"leaf_rows": 60},
        {"leaf_l2": 30.0},
        {"row_share": 0.5},
        {"column_share": 0.4},
        {"shrinkage": 0.1},
    ],
)
def test_each_gene_changes_the_model(genes: dict[str, Any]) -> None:
    inputs, targets = mixed_rows(400)
    default, other = (fitted(inputs, targets, steps=5, **given) for given in ({}, genes))
    assert not np.allclose(outputs_of(default, inputs), outputs_of(other, inputs), atol=1e-3)
    sizes = torch.diff(default.root, append=torch.tensor([len(default.value)]))
    assert int(sizes.max()) == 2 * GENOME["leaves"] - 1
    if "leaves" in genes:
        assert int(torch.diff(other.root).max()) == 7


def test_weights_of_rows_count() -> None:
    inputs = np.zeros((200, 1))
    inputs[:, 0] = np.arange(200) % 7
    targets = np.repeat([0, 1], 100)
    model = fitted(inputs, targets, weights=np.repeat([0.5, 1.5], 100), row_share=1.0, steps=1)
    assert outputs_of(model, inputs)[:, 1].mean() > 0.5


def test_without_a_split_that_gains_the_mean_is_predicted() -> None:
    rng = np.random.default_rng(6)
    for inputs in (np.ones((60, 2)), rng.normal(size=(9, 2))):  # constant columns; too few rows for two leaves
        targets = rng.normal(size=len(inputs))
        model = fitted(inputs, targets, leaf_rows=20, row_share=1.0)
        assert len(model.root) == 1
        assert np.allclose(outputs_of(model, inputs), targets.mean(), atol=1e-6)


def test_fewer_rounds_are_the_beginning_of_the_same_model() -> None:
    rng = np.random.default_rng(5)
    inputs = rng.normal(size=(200, 2))
    short, long = (fitted(inputs, inputs[:, 0].copy(), steps=steps) for steps in (10, 20))
    nodes = len(short.value)
    assert len(long.root) == 2 * len(short.root) == 20
    assert (long.value[:nodes] == short.value).all()
    assert (long.threshold[:nodes] == short.threshold).all()
    long.finish(10)
    assert (long.value == short.value).all()
