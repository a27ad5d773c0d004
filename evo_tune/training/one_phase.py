"""What subjects that are trained in one phase have alike. Knows nothing of what is trained, or of what judges it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from evo_tune.recipe.hardware.memory import Memory
from evo_tune.training.trainer import Trainer

__all__ = ["OnePhase"]


class OnePhase:
    """A subject of one phase, whose steps are alike.

    Args:
        steps: Of the full training.
        memory: Predicts the memory of a training with so many samples in a pass.
    """

    def __init__(self, steps: int, memory: Callable[[int], Memory]) -> None:
        self.steps, self.memory = steps, memory

    @property
    def ends(self) -> Sequence[int]:
        return [self.steps]

    def share(self, step: int) -> float:
        return step / self.steps

    def further(self, trainer: Trainer) -> Trainer:
        raise AssertionError(f"{type(self).__name__} is trained in one phase")

    def largest_step(self, trainer: Trainer) -> int:
        return 0

    def predicted_peak(self, trainer: Trainer, largest: int) -> float:
        return self.memory(largest).peak
