"""A linear model of tables: a generalised additive model (Hastie & Tibshirani 1986) of piecewise linear effects.

The effect of a number is a line that may bend at some quantiles of the training rows; that of a category is a number.
The fit minimises the mean loss and l2 / 2 times the sum of the squared weights, by L-BFGS with a line search.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from evo_tune.training.models.model_files import FitRows, Floats, TableModel
from evo_tune.training.recipe.families import LBFGS_ITERATIONS, LinearConfig

# Largest standardised number: a row far outside of the training rows would dominate all terms.
MOST_DEVIATIONS = 10.0


def fit_loss(outputs: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Return the mean weighted loss: half of the squared error of real numbers, else the cross-entropy.

    Args:
        outputs: (n, outputs).
        targets: (n,), real numbers or class numbers.
        weights: (n,).
    """
    if targets.is_floating_point():
        losses = (outputs[:, 0] - targets.float()) ** 2 / 2
    else:
        losses = F.cross_entropy(outputs, targets, reduction="none")
    return (weights * losses).mean()


def descend(
    parameters: list[Tensor], loss: Callable[[], Tensor], steps: int, history: int = 100, tolerance: float = 0.0
) -> Iterator[None]:
    """Minimise a loss by L-BFGS, and yield after each step of `LBFGS_ITERATIONS`, until it falls no more.

    Args:
        parameters: Tensors to change in place; they need no gradients afterwards.
        loss: Function that returns the loss of the present parameters.
        steps: Most steps.
        history: Iterations that a direction is made of; each takes twice the memory of the parameters.
        tolerance: Share of the loss by which a step must lower it for another one to follow.
    """
    for parameter in parameters:
        parameter.requires_grad_()
    settings: dict[str, Any] = {"max_iter": LBFGS_ITERATIONS, "line_search_fn": "strong_wolfe"}
    optimizer = torch.optim.LBFGS(parameters, history_size=history, **settings)

    def closure() -> Tensor:
        optimizer.zero_grad()
        total = loss()
        total.backward()  # type: ignore[no-untyped-call]
        return total.detach()

    step: Any = optimizer.step  # untyped
    previous = np.inf
    try:
        for _ in range(steps):
            value = float(step(closure))
            yield
            if not value < previous * (1.0 - tolerance):
                return
            previous = value
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)


class LinearModel(TableModel):
    """A linear model; see `TableModel` for the arguments."""

    config_class = LinearConfig
    fitted = ("weight", "effects", "bias")
    config: LinearConfig
    mean: Tensor
    deviation: Tensor
    knots: Tensor
    weight: Tensor
    effects: Tensor
    bias: Tensor

    def build(self, config: LinearConfig) -> None:
        self.register_buffer("mean", torch.zeros(config.numeric))
        self.register_buffer("deviation", torch.ones(config.numeric))
        self.register_buffer("knots", torch.zeros(config.numeric, config.knots))
        self.register_buffer("weight", torch.zeros(config.scores, config.numeric * config.terms))
        # Effect of each category of all columns.
        self.register_buffer("effects", torch.zeros(config.positions, config.scores))
        self.register_buffer("bias", torch.zeros(config.scores))

    def forward(self, rows: Tensor) -> Tensor:
        """Return outputs, (batch, outputs), of rows as `Columns.encode` gives them, (batch, columns)."""
        return self.outputs(self._scores(self._terms(rows), self.places(rows)))

    def _scores(self, terms: Tensor, places: Tensor) -> Tensor:
        effects = self.effects[places].sum(1) if places.shape[1] else 0.0
        return terms @ self.weight.T + effects + self.bias

    def _terms(self, rows: Tensor) -> Tensor:
        """Return the terms of the numbers, (batch, numeric · terms)."""
        numbers = rows[:, : self.config.numeric].float()
        missing = numbers.isnan()
        x = ((numbers - self.mean) / self.deviation).clamp(-MOST_DEVIATIONS, MOST_DEVIATIONS)
        x = torch.where(missing, 0.0, x)[..., None]
        return torch.cat((x, missing[..., None].float(), torch.relu(x - self.knots)), 2).flatten(1)

    def fit(self, rows: FitRows, genome: Mapping[str, Any], steps: int, seed: int) -> Iterator[Floats]:
        inputs, held_out = torch.from_numpy(rows.inputs), torch.from_numpy(rows.held_out)
        self._standardise(rows.inputs[:, : self.config.numeric])
        terms, places, weights = self._terms(inputs), self.places(inputs), torch.from_numpy(rows.weights).float()
        targets = torch.from_numpy(rows.targets)

        def loss() -> Tensor:
            outputs = self.outputs(self._scores(terms, places))
            penalty: Any = sum((parameter**2).sum() for parameter in (self.weight, self.effects))
            total: Tensor = fit_loss(outputs, targets, weights) + genome["l2"] / 2 * penalty
            return total

        for _ in descend([self.weight, self.effects, self.bias], loss, steps):
            with torch.no_grad():  # not while another fit has its turn
                outputs = self.forward(held_out).double().numpy()
            yield outputs

    def _standardise(self, numbers: NDArray[np.float32]) -> None:
        """Set mean, deviation and knots by the training rows, (n, numeric); missing numbers do not count."""
        for column, values in enumerate(numbers.T.astype(np.float64)):
            present = values[~np.isnan(values)]
            if len(present):
                mean, deviation = present.mean(), present.std() or 1.0
                self.mean[column], self.deviation[column] = mean, deviation
                shares = np.arange(1, self.config.knots + 1) / (self.config.knots + 1)
                self.knots[column] = torch.from_numpy((np.quantile(present, shares) - mean) / deviation)
