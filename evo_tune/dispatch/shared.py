"""Slots that share GPUs: a candidate's training begins when a card has room for it.

`packing` decides for a card; here threads wait for what it decides, and idle workers end that hold what another needs.
A worker is pinned to its card for life, and a slot is not: one whose candidate waits changes places with one that is
idle on a card with room. A slot of a card on which somebody waits asks for no candidate, so that at most one or two are
born ahead of their time.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping

from evo_tune.dispatch.local import LocalSlot
from evo_tune.dispatch.packing import CONTEXT, Card, Forecast
from evo_tune.dispatch.slot import Slot, SlotClosed
from evo_tune.genome.trial import Candidate, Outcome

__all__ = ["SharedCards", "SharedSlot"]


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
