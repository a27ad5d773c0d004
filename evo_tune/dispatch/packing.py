"""Which trainings share a GPU: a card's memory is given out by what each training is predicted to need.

Predictions are the evaluator's, corrected by what trainings of the same run were measured to take. This decides
when a candidate begins and never which one is born. Knows no threads, no processes and no GPU: see `shared.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from evo_tune.errors import EvoTuneError
from evo_tune.genome.values import Genome

__all__ = ["CONTEXT", "Admitted", "Card", "Forecast"]

PREDICTED = "gpu_memory"
"""The metric in which `estimate` predicts what torch will hold of a GPU at most, bytes."""

MEASURED = "peak_memory"
"""The metric in which `evaluate` tells what it did hold at most, bytes."""

CONTEXT = 768 * 2**20
"""What CUDA and its libraries take of a GPU for each process that uses it, bytes; an idle worker holds it as well."""

UNMEASURED = 2.0
"""By how much a prediction is multiplied until a training was measured: formulas of memory are off by 1.8 at worst."""


class Admitted(NamedTuple):
    """A training may begin.

    Args:
        slot: Whose.
        resting: Slots whose idle workers must end before, because it needs what they hold.
    """

    slot: str
    resting: tuple[str, ...]


class Card:
    """The memory of one GPU and who has it; first come, first served.

    A training that does not fit waits, and none that came later begins before it, so small ones cannot starve a large
    one. One that is predicted to need more than there is gets the card to itself: it fits itself to the whole card,
    or fails there.

    Args:
        memory: What may be given out, bytes.
    """

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self.running: dict[str, int] = {}
        """Bytes of each slot that trains."""
        self.waiting: dict[str, int] = {}
        """The same of those whose turn has not come, the first first."""
        self.idle: dict[str, int] = {}
        """Bytes that idle workers hold."""

    @property
    def given(self) -> int:
        """Bytes given out, idle workers' among them."""
        return sum(self.running.values()) + sum(self.idle.values())

    def enter(self, slot: str, needed: int) -> None:
        """Let a slot wait for so many bytes, its own worker's context included."""
        self.waiting[slot] = min(needed, self.memory)

    def admit(self) -> Admitted | None:
        """Give the first that waits its memory, if it is free or held by idle workers; None if nothing can begin."""
        if not self.waiting:
            return None
        slot, needed = next(iter(self.waiting.items()))
        if sum(self.running.values()) + needed > self.memory:
            return None
        del self.waiting[slot]
        self.idle.pop(slot, None)
        self.running[slot] = needed
        resting = []
        while self.given > self.memory:
            resting.append(next(iter(self.idle)))  # the one that has been idle for longest
            del self.idle[resting[-1]]
        return Admitted(slot, tuple(resting))

    def leave(self, slot: str, held: int = 0) -> None:
        """Take a slot's memory back, or its place among those that wait.

        Args:
            slot: Whose training has ended.
            held: Bytes that its idle worker goes on holding.
        """
        self.waiting.pop(slot, None)
        held = min(held, self.running.pop(slot, 0))
        if held:
            self.idle[slot] = held


class Forecast:
    """How much of a GPU a genome's training will take.

    Args:
        estimate: Returns the metrics of a genome that are known before training.
    """

    def __init__(self, estimate: Callable[[Genome], Mapping[str, float]]) -> None:
        self._estimate = estimate
        self._factor: float | None = None

    def needed(self, genome: Genome) -> int | None:
        """Return the bytes that a training will take, its process's context included; None if nothing is known."""
        predicted = self._predicted(genome)
        factor = UNMEASURED if self._factor is None else self._factor
        return None if predicted is None else int(factor * predicted) + CONTEXT

    def learn(self, genome: Genome, metrics: Mapping[str, float]) -> None:
        """Note what a training was measured to take.

        Of all ratios of measured to predicted the largest counts: too little room costs more than too much.
        """
        predicted, measured = self._predicted(genome), metrics.get(MEASURED, 0.0)
        if predicted is not None and measured > 0:
            self._factor = max(self._factor or 0.0, measured / predicted)

    def _predicted(self, genome: Genome) -> float | None:
        try:
            predicted = self._estimate(genome).get(PREDICTED, 0.0)
        except EvoTuneError:  # the training will say so
            return None
        return predicted if predicted > 0 else None
