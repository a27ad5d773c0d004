"""Share a GPU between training runs, by the memory that each is predicted to need.

The evaluator predicts the memory (`MemoryForecast`), and measurements of the same run correct it. A `Card` makes its
`SharedSlot`s wait. This decides when a candidate starts, never which one is proposed.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from evo_tune.dispatch.local import TICK, LocalSlot
from evo_tune.dispatch.slot import SlotClosed, SlotInterrupted
from evo_tune.errors import EvoTuneError
from evo_tune.genome.trial import Candidate, Outcome
from evo_tune.genome.values import Genome

# Metric in which `estimate` predicts torch's peak GPU memory, bytes.
PREDICTED = "gpu_memory"

# Metric in which `evaluate` reports the measured peak, bytes.
MEASURED = "peak_memory"

# GPU memory that CUDA and its libraries use in each process, bytes; an idle worker keeps it as well.
CONTEXT = 768 * 2**20

# Factor on a prediction until a training run was measured: memory formulas are off by at most 1.8.
UNMEASURED = 2.0


# Multiple of its predicted size up to which a measured training run tells of others.
REACH = 4.0

# Target share of training runs that use no more memory than was reserved for them.
QUANTILE = 0.9

# Number of most recent measurements that count.
MAX_MEASUREMENTS = 64


class Admission(NamedTuple):
    """Permission to start a training.

    Args:
        slot: Slot that may start.
        resting: Slots whose idle workers must end first, to free their memory.
    """

    slot: Any
    resting: list[Any]


class Card:
    """The memory of one GPU and its users; first come, first served. Any thread may call `reserve`.

    A training run that does not fit waits, and no later one starts before it, so small runs cannot starve a large
    one. A run predicted to need more than the whole GPU gets the GPU to itself: it adapts to it or fails.

    Args:
        memory: Memory to share out, bytes.
    """

    def __init__(self, memory: int) -> None:
        self.memory = memory
        # Bytes reserved by each slot that trains.
        self.running: dict[Any, int] = {}
        # Bytes needed by each slot that waits, in order of arrival.
        self.waiting: dict[Any, int] = {}
        # Bytes that each slot's idle worker keeps.
        self.idle: dict[Any, int] = {}
        self._changed = threading.Condition()

    def enter(self, slot: Any, needed: int) -> None:
        """Add a slot to the queue for this GPU's memory.

        Args:
            slot: The slot.
            needed: Bytes that its training needs, those of its worker process included.
        """
        self.waiting[slot] = min(needed, self.memory)

    def admit(self) -> Admission | None:
        """Give the first slot in the queue its memory, if it is free or kept by idle workers; else return None."""
        if not self.waiting:
            return None
        slot, needed = next(iter(self.waiting.items()))
        if sum(self.running.values()) + needed > self.memory:
            return None
        del self.waiting[slot]
        self.idle.pop(slot, None)
        self.running[slot] = needed
        resting = []
        while sum(self.running.values()) + sum(self.idle.values()) > self.memory:
            resting.append(next(iter(self.idle)))  # idle for longest
            del self.idle[resting[-1]]
        return Admission(slot, resting)

    def leave(self, slot: Any, idle_bytes: int = 0) -> None:
        """Take back a slot's memory, or its place in the queue.

        Args:
            slot: Slot whose training run has ended.
            idle_bytes: Bytes that its idle worker keeps.
        """
        self.waiting.pop(slot, None)
        idle_bytes = min(idle_bytes, self.running.pop(slot, 0))
        if idle_bytes:
            self.idle[slot] = idle_bytes

    @contextlib.contextmanager
    def reserve(self, slot: SharedSlot, needed: int) -> Iterator[None]:
        """Wait for memory, and reserve it for a slot inside this context.

        Args:
            slot: Slot that needs memory.
            needed: Memory in bytes; more than the GPU has means the whole GPU.

        Raises:
            SlotClosed: The slot was closed meanwhile.
            SlotInterrupted: The slot was interrupted while it waited.
        """
        try:
            with self._changed:
                self.enter(slot, needed)
                self._admit_all()
                while slot in self.waiting and not (slot.closed or slot.interrupted):
                    self._changed.wait(TICK)
            if slot.closed:
                raise SlotClosed(f"{slot.name} is closed")
            if slot.interrupted:
                raise SlotInterrupted(f"{slot.name} was interrupted")
            yield
        finally:
            with self._changed:
                self.leave(slot, 0 if slot.pid is None else CONTEXT)
                self._admit_all()

    def _admit_all(self) -> None:
        """Start all slots that can; the thread that freed memory does it, before any other asks for a candidate."""
        while (admission := self.admit()) is not None:
            for slot in admission.resting:
                slot.rest()
        self._changed.notify_all()


class MemoryForecast:
    """Forecast of a training run's GPU memory: a factor times the evaluator's prediction.

    The factor is the 0.9 quantile of measured by predicted memory: too little memory repeats a training run, too much
    only delays one. Memory that does not depend on size (workspaces, rounding to blocks) makes this ratio large for
    small runs. So only runs of about the same size, or larger ones, count.

    Args:
        estimate: Function that returns the metrics of a genome known before training.
    """

    def __init__(self, estimate: Callable[[Genome], Mapping[str, float]]) -> None:
        self._estimate = estimate
        # Predicted and measured bytes.
        self._measurements: deque[tuple[float, float]] = deque(maxlen=MAX_MEASUREMENTS)

    def bytes_needed(self, genome: Genome) -> int | None:
        """Return the bytes that a training run needs, its process's context included; None if unknown."""
        predicted = self._predict(genome)
        if predicted is None:
            return None
        ratios = sorted(measured / size for size, measured in self._measurements if REACH * size >= predicted)
        factor = ratios[math.ceil(QUANTILE * (len(ratios) - 1))] if ratios else UNMEASURED
        return int(factor * predicted) + CONTEXT

    def learn(self, genome: Genome, metrics: Mapping[str, float]) -> None:
        """Note a training run's measured memory."""
        predicted, measured = self._predict(genome), metrics.get(MEASURED, 0.0)
        if predicted is not None and measured > 0:
            self._measurements.append((predicted, measured))

    def _predict(self, genome: Genome) -> float | None:
        try:
            predicted = self._estimate(genome).get(PREDICTED, 0.0)
        except EvoTuneError:  # the training run will report it
            return None
        return predicted if predicted > 0 else None


class SharedSlot(LocalSlot):
    """A local slot on a GPU that other slots share.

    Args:
        card: Memory of its GPU.
        forecast: Forecast of a training run's memory.
        settings: Arguments of `LocalSlot`.
    """

    def __init__(self, card: Card, forecast: MemoryForecast, *settings: Any) -> None:
        super().__init__(*settings)
        self._card, self._forecast = card, forecast

    def run(self, candidate: Candidate, folder: str | None = None) -> Outcome:
        self.interrupted = False
        needed, whole = self._forecast.bytes_needed(candidate.genome), self._card.memory
        if needed is None:
            needed = whole
        with self._card.reserve(self, needed):
            outcome = super().run(candidate, folder)
        if outcome.status == "out_of_memory" and needed < whole:  # its neighbours may have caused it
            with self._card.reserve(self, whole):
                outcome = super().run(candidate, folder)
        self._forecast.learn(candidate.genome, outcome.metrics)
        return outcome

    @property
    def available(self) -> bool:
        return self.closed or not self._card.waiting

    @property
    def waits(self) -> bool:
        return self in self._card.waiting
