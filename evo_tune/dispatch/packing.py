"""Share a GPU between trainings: its memory is given out by what each training is predicted to need.

The evaluator predicts, and measurements of the same run correct it. `Forecast` and `Card` are the arithmetic;
`SharedCards` and `SharedSlot` make slots wait, and exchange the places of two slots where another card has room. All of
this decides when a candidate begins, never which one is proposed.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from evo_tune.dispatch.local import LocalSlot
from evo_tune.dispatch.slot import Slot, SlotClosed
from evo_tune.errors import EvoTuneError
from evo_tune.genome.trial import Candidate, Outcome
from evo_tune.genome.values import Genome

__all__ = ["CONTEXT", "Admitted", "Card", "Forecast", "SharedCards", "SharedSlot"]


PREDICTED = "gpu_memory"
"""The metric in which `estimate` predicts what torch will hold of a GPU at most, bytes."""

MEASURED = "peak_memory"
"""The metric in which `evaluate` tells what it did hold at most, bytes."""

CONTEXT = 768 * 2**20
"""What CUDA and its libraries take of a GPU for each process that uses it, bytes; an idle worker holds it as well."""

UNMEASURED = 2.0
"""By how much a prediction is multiplied until a training was measured: formulas of memory are off by 1.8 at worst."""


REACH = 4.0
"""Up to how many times the largest size that was measured a fit is believed."""

QUANTILE = 0.9
"""Share of the trainings that are to take no more than was set aside for them."""

KEPT = 64
"""Measurements that a fit is made of, the last ones."""


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

    def fits(self, needed: int) -> bool:
        """Return whether so many bytes could be given out now, to somebody who has waited for nobody here."""
        return not self.waiting and sum(self.running.values()) + needed <= self.memory

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
    """How much of a GPU a genome's training will take: a fixed part and a factor, by what trainings were measured.

    The fixed part is what a formula leaves out whatever the size (workspaces, rounding to blocks), so a small training
    that takes ten times what was predicted says nothing of the factor of a large one. Both are fitted by the quantile
    regression that lies above nine tenths (Koenker & Bassett 1978), since too little room costs a training that is
    done again, and too much only a wait. One odd measurement among ten moves neither.

    Args:
        estimate: Returns the metrics of a genome that are known before training.
    """

    def __init__(self, estimate: Callable[[Genome], Mapping[str, float]]) -> None:
        self._estimate = estimate
        self._measured: deque[tuple[float, float]] = deque(maxlen=KEPT)
        """Predicted and measured bytes."""
        self._line: tuple[float, float] | None = None

    def needed(self, genome: Genome) -> int | None:
        """Return the bytes that a training will take, its process's context included; None if nothing is known.

        What was measured is believed up to `REACH` times the largest size that it was measured at; what lies beyond is
        set aside as if nothing had been.
        """
        predicted = self._predicted(genome)
        if predicted is None:
            return None
        fixed, factor, known = *self._fitted(), 0.0
        if self._measured:
            known = min(predicted, REACH * max(size for size, _ in self._measured))
        return int(fixed + factor * known + max(factor, UNMEASURED) * (predicted - known)) + CONTEXT

    def learn(self, genome: Genome, metrics: Mapping[str, float]) -> None:
        """Note what a training was measured to take."""
        predicted, measured = self._predicted(genome), metrics.get(MEASURED, 0.0)
        if predicted is not None and measured > 0:
            self._measured.append((predicted, measured))
            self._line = None

    def _fitted(self) -> tuple[float, float]:
        line = self._line
        if line is None:
            line = self._line = _above_most(list(self._measured)) if self._measured else (0.0, UNMEASURED)
        return line

    def _predicted(self, genome: Genome) -> float | None:
        try:
            predicted = self._estimate(genome).get(PREDICTED, 0.0)
        except EvoTuneError:  # the training will say so
            return None
        return predicted if predicted > 0 else None


def _above_most(points: list[tuple[float, float]]) -> tuple[float, float]:
    """Return the fixed part and the factor, both 0 or more, of the line with the least loss of its quantile.

    An optimum passes through two of the points, or through one and what a line is taken for where only one size is
    known: predicted exactly but for a fixed part, or a share of what was predicted.

    Args:
        points: Predicted and measured, at least one.
    """
    import numpy as np

    x, y = np.array(points).T
    first, second = np.triu_indices(len(x), 1)
    apart = x[first] != x[second]
    first, second = first[apart], second[apart]
    slopes = (y[second] - y[first]) / (x[second] - x[first])
    fixed = [y[first] - slopes * x[first], y - x, np.zeros_like(x)]
    factors = [slopes, np.ones_like(x), y / x]
    a, b = np.concatenate(fixed), np.concatenate(factors)
    sound = (a >= 0.0) & (b >= 0.0)
    a, b = a[sound], b[sound]
    short = y - (a[:, None] + b[:, None] * x)
    losses = np.maximum(QUANTILE * short, (QUANTILE - 1.0) * short).sum(1)
    # Of lines that are as good, the one that trusts the formula most: ties are of few points.
    best = np.lexsort((np.abs(b - 1.0), losses.round(3)))[0]
    return float(a[best]), float(b[best])


class SharedCards:
    """The GPUs of a run, seen by the slots on them; any thread may call.

    Args:
        memory: What may be given out of each, bytes, by what a slot's device is called.
        forecast: Says what a genome's training takes.
    """

    def __init__(self, memory: Mapping[str, int], forecast: Forecast) -> None:
        self.forecast = forecast
        self._cards = {device: Card(amount) for device, amount in memory.items()}
        self._slots: list[SharedSlot] = []
        self._waiting: dict[SharedSlot, tuple[int, bool]] = {}
        """What each that waits needs, and whether it may go to another card; the first first."""
        self._busy: set[SharedSlot] = set()
        """Slots that train or wait to, or whose driver has yet to look at what came of it, and where."""
        self._changed = threading.Condition()

    def join(self, slot: SharedSlot) -> None:
        """Add a slot."""
        self._slots.append(slot)

    def memory(self, device: str) -> int:
        """Return what may be given out of a card, bytes."""
        return self._cards[device].memory

    def crowded(self, device: str) -> bool:
        """Whether somebody waits for memory of a card."""
        return bool(self._cards[device].waiting)

    def waits(self, slot: SharedSlot) -> bool:
        """Whether a slot waits for memory."""
        return slot in self._waiting

    @contextlib.contextmanager
    def room(self, slot: SharedSlot, needed: int, stays: bool = False) -> Iterator[LocalSlot]:
        """Hold so many bytes of a card for a slot, waiting for them, and give where it is to train.

        Args:
            slot: Whose place may be another one afterwards.
            needed: Bytes; more than a card has means the whole of it.
            stays: Whether no other card will do.

        Raises:
            SlotClosed: The slot was closed meanwhile.
        """
        try:
            with self._changed:
                self._busy.add(slot)
                self._waiting[slot] = needed, not stays
                self._cards[slot.device].enter(slot.place.name, needed)
                self._admit()
                self._changed.wait_for(lambda: slot.place.closed or slot not in self._waiting)
                place = slot.place
            if place.closed:
                raise SlotClosed(f"{slot.name} is closed")
            yield place
        finally:
            with self._changed:
                self._waiting.pop(slot, None)
                place = slot.place
                self._cards[slot.device].leave(place.name, 0 if place.pid is None else CONTEXT)
                self._admit()

    def _admit(self) -> None:
        """Let begin what can; it is done by whoever made room, so that nobody asks for a candidate in between."""
        for card in self._cards.values():
            self._let_begin(card)
        for slot, (needed, may_go) in list(self._waiting.items()):
            other = self._elsewhere(slot, needed) if may_go else None
            if other is not None:
                left = self._cards[slot.device]
                left.leave(slot.place.name)
                slot.place, other.place = other.place, slot.place
                card = self._cards[slot.device]
                card.enter(slot.place.name, needed)
                self._let_begin(card)
                self._let_begin(left)
        self._changed.notify_all()

    def _let_begin(self, card: Card) -> None:
        by_place = {slot.place.name: slot for slot in self._slots}
        while (admitted := card.admit()) is not None:
            self._waiting.pop(by_place[admitted.slot], None)
            for name in admitted.resting:
                by_place[name].place.rest()

    def _elsewhere(self, slot: SharedSlot, needed: int) -> SharedSlot | None:
        """Return an idle slot of another card with room; of a smaller card only if that holds all that is needed."""
        own = self._cards[slot.device].memory
        for other in self._slots:
            if other in self._busy or other.left or other.place.closed or other.device == slot.device:
                continue
            card = self._cards[other.device]
            if card.fits(min(needed, card.memory)) and card.memory >= min(needed, own):
                return other
        return None

    def rests(self, slot: SharedSlot) -> None:
        """Take note that a slot has nothing to do: its place may be another's."""
        with self._changed:
            if slot in self._busy:
                self._busy.discard(slot)
                self._admit()

    def wake(self) -> None:
        """Have those who wait look whether their slot was closed."""
        with self._changed:
            self._changed.notify_all()


class SharedSlot(Slot):
    """A slot on a GPU that others use as well.

    Args:
        place: Where it trains first.
        cards: All GPUs.
    """

    def __init__(self, place: LocalSlot, cards: SharedCards) -> None:
        self.name = place.name
        self.place = place
        """Where it trains; changed by the cards only."""
        self.left = False
        """Whether it has left its device for good."""
        self._cards = cards
        cards.join(self)

    @property
    def device(self) -> str:  # type: ignore[override] # that of its place, which may change
        return self.place.device

    def run(self, candidate: Candidate, folder: str | None = None) -> Outcome:
        return self._run(candidate, folder, stays=False)

    def run_here(self, candidate: Candidate, folder: str | None = None) -> Outcome:
        return self._run(candidate, folder, stays=True)

    def _run(self, candidate: Candidate, folder: str | None, stays: bool) -> Outcome:
        needed = self._cards.forecast.needed(candidate.genome)
        whole = self._cards.memory(self.device)
        needed = whole if needed is None else needed
        with self._cards.room(self, needed, stays) as place:
            outcome = place.run(candidate, folder)
        whole = self._cards.memory(self.device)
        if outcome.status == "out_of_memory" and needed < whole:  # its neighbours must not be its fate
            with self._cards.room(self, whole, stays=True) as place:
                outcome = place.run(candidate, folder)
        self._cards.forecast.learn(candidate.genome, outcome.metrics)
        return outcome

    def move(self, why: str) -> bool:
        self.left = True
        return False

    @property
    def available(self) -> bool:
        self._cards.rests(self)
        return self.place.closed or not self._cards.crowded(self.device)

    @property
    def waits(self) -> bool:
        return self._cards.waits(self)

    @property
    def pid(self) -> int | None:
        return self.place.pid

    @property
    def memory(self) -> int | None:
        return self.place.memory

    def kill(self) -> None:
        self.place.kill()
        self._cards.wake()

    def close(self) -> None:
        self.place.close()
        self._cards.wake()
