"""The linear model: its optimum, bends, missing numbers and categories."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from evo_tune.training import LinearModel
from evo_tune.training.models.model_files import FitRows
from evo_tune.training.recipe import Columns, LinearConfig


def fitted(
    inputs: np.ndarray, targets: np.ndarray, knots: int, l2: float, **shape: Any
) -> tuple[LinearModel, np.ndarray]:
    """Return a model that was fitted to rows, and its outputs for them."""
    sizes = shape.get("categories", ())
    numeric = inputs.shape[1] - len(sizes)
    columns = Columns(
        numeric=tuple(f"x{place}" for place in range(numeric)),
        categorical={f"c{place}": tuple(map(str, range(size))) for place, size in enumerate(sizes)},
    )
    outputs = 1 if targets.dtype == float else int(targets.max()) + 1
    config = LinearConfig(outputs=outputs, numeric=numeric, categories=sizes, knots=knots)
    model = LinearModel(config, labels=[str(label) for label in range(outputs)], columns=columns)
    rows = FitRows(inputs.astype(np.float32), targets, np.ones(len(targets)), inputs.astype(np.float32))
    for result in model.fit(rows, {"l2": l2}, 30, 0):
        last = result
    model.finish(model.state())
    return model, last


def test_it_finds_the_optimum_of_ridge_regression() -> None:
    rng = np.random.default_rng(0)
    inputs, noise = rng.normal(size=(100, 3)), rng.normal(size=100)
    targets = inputs @ [1.0, -2.0, 0.5] + noise
    _, outputs = fitted(inputs, targets, knots=0, l2=0.3)
    x = (inputs - inputs.mean(0)) / inputs.std(0)
    weights = np.linalg.solve(x.T @ x / 100 + 0.3 * np.eye(3), x.T @ (targets - targets.mean()) / 100)
    assert np.allclose(outputs[:, 0], x @ weights + targets.mean(), atol=1e-3)


def test_knots_bend_missing_numbers_and_categories_have_effects() -> None:
    rng = np.random.default_rng(1)
    inputs = np.stack((rng.uniform(-1, 1, 500), rng.normal(size=500), rng.integers(0, 4, 500)), 1)
    inputs[::4, 1] = np.nan
    targets = np.abs(inputs[:, 0]) + 2.0 * np.isnan(inputs[:, 1]) + (inputs[:, 2] == 2)
    errors = [
        float(np.mean((fitted(inputs, targets, knots, 1e-6, categories=(3,))[1][:, 0] - targets) ** 2))
        for knots in (0, 8)
    ]
    assert errors[1] < 1e-3 < 0.03 < errors[0]


@pytest.mark.parametrize("classes", [2, 4])
def test_classes(classes: int) -> None:
    inputs = np.random.default_rng(2).uniform(-1, 1, (300, 1))
    targets = np.digitize(inputs[:, 0], np.linspace(-1, 1, classes + 1)[1:-1])
    model, outputs = fitted(inputs, targets, knots=4, l2=1e-6)
    assert outputs.shape == (300, classes)
    assert (outputs.argmax(1) == targets).mean() > 0.97
    far = model(torch.tensor([[1e30], [-torch.inf]]))
    assert far.isfinite().all(), "a row far outside has finite outputs"
