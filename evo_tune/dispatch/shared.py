"""Slots that share a GPU: a candidate's training begins when its card has room for it.

`packing` decides; here threads wait for what it decides, and idle workers end that hold what another needs. A slot
of a card on which somebody waits asks for no candidate, so that at most one or two are born ahead of their time.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from evo_tune.dispatch.local import LocalSlot
from evo_tune.dispatch.packing import CONTEXT, Card, Forecast
from evo_tune.dispatch.slot import Slot, SlotClosed
from evo_tune.genome.trial import Candidate, Outcome

__all__ = ["SharedCard", "SharedSlot"]


class SharedCard:
    """One GPU, seen by the slots on it; any thread may call.

    Args:
        memory: What may be given out, bytes.
        forecast: Says what a genome's training takes.
    """

    def __init__(self, memory: int, forecast: Forecast) -> None:
        self.forecast = forecast
        self._card = Card(memory)
        self._slots: dict[str, LocalSlot] = {}
        self._changed = threading.Condition()

    def join(self, slot: LocalSlot) -> None:
        """Add a slot."""
        self._slots[slot.name] = slot

    @property
    def memory(self) -> int:
        """What may be given out, bytes."""
        return self._card.memory

    @property
    def crowded(self) -> bool:
        """Whether somebody waits for memory."""
        return bool(self._card.waiting)

    def waits(self, slot: LocalSlot) -> bool:
        """Whether a slot waits for memory."""
        return slot.name in self._card.waiting

    @contextlib.contextmanager
    def room(self, slot: LocalSlot, needed: int) -> Iterator[None]:
        """Hold so many bytes for a slot, waiting for them.

        Raises:
            SlotClosed: The slot was closed meanwhile.
        """
        try:
            with self._changed:
                self._card.enter(slot.name, needed)
                self._admit()
                self._changed.wait_for(lambda: slot.closed or slot.name in self._card.running)
            if slot.closed:
                raise SlotClosed(f"{slot.name} is closed")
            yield
        finally:
            with self._changed:
                self._card.leave(slot.name, 0 if slot.pid is None else CONTEXT)
                self._admit()

    def _admit(self) -> None:
        """Let begin what can; it is done by whoever made room, so that nobody asks for a candidate in between."""
        while (admitted := self._card.admit()) is not None:
            for name in admitted.resting:
                self._slots[name].rest()
        self._changed.notify_all()

    def wake(self) -> None:
        """Have those who wait look whether their slot was closed."""
        with self._changed:
            self._changed.notify_all()


class SharedSlot(Slot):
    """A slot on a GPU that others use as well.

    Args:
        slot: The slot itself.
        card: Its GPU.
    """

    def __init__(self, slot: LocalSlot, card: SharedCard) -> None:
        self.name, self.device = slot.name, slot.device
        self._slot, self._card = slot, card
        card.join(slot)

    def run(self, candidate: Candidate, folder: str | None = None) -> Outcome:
        needed = self._card.forecast.needed(candidate.genome)
        whole = self._card.memory
        needed = whole if needed is None else min(needed, whole)
        with self._card.room(self._slot, needed):
            outcome = self._slot.run(candidate, folder)
        if outcome.status == "out_of_memory" and needed < whole:  # its neighbours must not be its fate
            with self._card.room(self._slot, whole):
                outcome = self._slot.run(candidate, folder)
        self._card.forecast.learn(candidate.genome, outcome.metrics)
        return outcome

    @property
    def available(self) -> bool:
        return self._slot.closed or not self._card.crowded

    @property
    def waits(self) -> bool:
        return self._card.waits(self._slot)

    @property
    def pid(self) -> int | None:
        return self._slot.pid

    @property
    def memory(self) -> int | None:
        return self._slot.memory

    def kill(self) -> None:
        self._slot.kill()
        self._card.wake()

    def close(self) -> None:
        self._slot.close()
        self._card.wake()
