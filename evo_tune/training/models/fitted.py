"""Base classes of models that are no networks: they learn from all training rows at once.

Such a model has the interface of an encoder: it is a module whose buffers are what it has learned, with `save` and
`load`. So exported folders, predictions and scores are those of all models.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evo_tune.training.models.model_files import SavedModel, TableFacts
from evo_tune.training.recipe.data.tables import Columns
from evo_tune.training.recipe.families import TableConfig

M = TypeVar("M", bound="FittedModel")

Floats = NDArray[np.float64]


class FitRows(NamedTuple):
    """Rows to fit a model to.

    Args:
        inputs: (n, values), training rows as the model reads them.
        targets: (n,), class numbers (int64), or standardised real numbers (float64).
        weights: (n,), weight of each row; their mean is 1.
        held_out: (m, values), rows whose outputs are wanted after each step.
    """

    inputs: NDArray[Any]
    targets: NDArray[Any]
    weights: Floats
    held_out: NDArray[Any]


class FittedModel(SavedModel):
    """A model that is fitted in steps.

    Args:
        config: Shape of the model.
        labels: Names of the outputs: of the classes in order, or of the predicted number.

    Raises:
        RecipeError: The labels do not fit the shape.
    """

    # Names of the buffers that the steps of a fit change.
    fitted: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: Any, *, labels: Sequence[str]) -> None:
        super().__init__(config, labels)
        self.build(config)
        add_hook: Any = self.register_load_state_dict_post_hook  # untyped
        add_hook(lambda module, _: module.check())

    @abstractmethod
    def build(self, config: Any) -> None:
        """Make the buffers."""

    @abstractmethod
    def fit(self, rows: FitRows, genome: Mapping[str, Any], steps: int, seed: int) -> Iterator[Floats]:
        """Learn from rows, and yield the outputs of the held-out rows after each step, (m, outputs).

        Args:
            rows: Rows to learn from.
            genome: Gene values.
            steps: Number of steps; fewer if the fit has converged.
            seed: Seed of everything random.
        """

    def state(self) -> Any:
        """Return the present state of a fit, for `finish`."""
        return [getattr(self, name).detach().clone() for name in self.fitted]

    def finish(self, state: Any) -> None:
        """Set the buffers to a state of the fit."""
        for name, tensor in zip(self.fitted, state, strict=True):
            getattr(self, name).detach().copy_(tensor)

    def check(self) -> None:
        """Check the content of the buffers.

        Raises:
            ValueError: A number in them is out of its range.
        """

    def outputs(self, scores: Tensor) -> Tensor:
        """Return outputs, (batch, outputs), of scores; with two classes the score is the logit of the second."""
        return torch.cat((torch.zeros_like(scores), scores), 1) if self.config.outputs == 2 else scores


class TableModel(TableFacts, FittedModel):
    """A model of tables that is fitted in steps.

    Args:
        config: Shape of the model.
        labels: See `FittedModel`.
        columns: Names of the columns and their known categories.
        scale: Mean and standard deviation of the predicted number, whose standardised value is the output; None: the
            outputs are logits of classes.

    Raises:
        RecipeError: The labels or the columns do not fit the shape.
    """

    config: TableConfig
    columns: Columns

    def __init__(
        self, config: Any, *, labels: Sequence[str], columns: Columns, scale: Sequence[float] | None = None
    ) -> None:
        super().__init__(config, labels=labels)
        self.set_table(config, columns, scale)

    def places(self, rows: Tensor) -> Tensor:
        """Return the place of each category in tables of all categories, (batch, categorical columns)."""
        return rows[:, self.config.numeric :].long() + self.first
