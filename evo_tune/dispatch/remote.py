"""Slots of a cluster, seen from the parent: what Dask and Ray have in common.

An `Engine` knows one cluster and hands out seats: a `Host` in a process of the engine's, somewhere, that evaluates
for one slot at a time. Seats come and go; a slot whose seat is lost takes another and sends its candidate
again. What happens at the other end is `host.py`'s.
"""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from evo_tune.dispatch.slot import Slot, SlotClosed
from evo_tune.genome.trial import Candidate, Outcome

__all__ = ["Cluster", "Engine", "Lost", "RemoteSlot", "Seat"]

TICK = 0.5
"""Seconds between two looks at a seat that is silent."""

HEARD_EVERY = 10.0
"""Seconds between two signs of life to a seat that evaluates: it kills what nobody waits for (`host.LEASE`)."""

ELSEWHERE = 3
"""Seats on which a candidate is tried that loses them: a machine's death is no result, but a genome that takes
every machine down is."""


class Lost(Exception):
    """The seat is gone: its process died, its machine left the cluster, or it does not answer."""


class Seat(ABC):
    """A `Host` somewhere in a cluster.

    Attributes:
        device: As Outcomes report it, with the machine: 'node7/cuda:0'.
    """

    device: str

    @abstractmethod
    def begin(self, candidate: dict[str, Any], folder: str | None) -> Any:
        """Send a candidate, and return what `wait` waits for."""

    @abstractmethod
    def wait(self, pending: Any, seconds: float) -> dict[str, Any] | None:
        """Return what `Host.run` returned.

        Raises:
            TimeoutError: It has not returned yet.
            Lost: It never will.
            RunError: The machine is not fit for this run.
        """

    @abstractmethod
    def heard(self) -> int | None:
        """Give a sign of life; return the process id of the training.

        Raises:
            Lost: Nobody answers.
        """

    @abstractmethod
    def kill(self) -> None:
        """Kill the training."""

    @abstractmethod
    def close(self) -> None:
        """Let the seat's processes go."""


@dataclass(frozen=True)
class Cluster:
    """Where slots are that are not this machine's own.

    Args:
        backend: 'dask' or 'ray'.
        address: Of a cluster that runs already; None starts one on this machine.
        slots: How many slots there may be; None: as many as the cluster has room for at the start.
        devices: As the user typed it.
        per_device: Slots on each GPU.
        ranks: Processes of one training, which have a GPU each, or a core.
    """

    backend: str
    address: str | None = None
    slots: int | None = None
    devices: str | None = None
    per_device: int = 1
    ranks: int = 1


class Engine(ABC):
    """A cluster's connection, shared by all slots of a run; its methods may be called by any thread."""

    def __init__(self) -> None:
        self._users = 0

    @property
    @abstractmethod
    def room(self) -> int:
        """How many seats there are now."""

    @abstractmethod
    def has_seat(self) -> bool:
        """Say, without waiting, whether `take` would answer."""

    @abstractmethod
    def take(self) -> Seat | None:
        """Return a seat, which is the caller's for good; None if there is none now.

        Raises:
            RunError: No machine of the cluster is fit for the run.
        """

    @abstractmethod
    def give_up(self, seat: Seat) -> None:
        """Note that a seat is lost or was killed: another may take its place, if its machine is still there."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection, and end a cluster that was started here."""

    def join(self) -> None:
        """Note that a slot uses this connection."""
        self._users += 1

    def leave(self) -> None:
        """Note that a slot uses it no more; the last one closes it."""
        self._users -= 1
        if self._users == 0:
            self.close()


class RemoteSlot(Slot):
    """A slot of a cluster.

    Args:
        name: For people: 'slot 0'.
        engine: Gives it seats.
    """

    def __init__(self, name: str, engine: Engine) -> None:
        self.name = name
        self.device = "cluster"
        self._engine: Engine | None = engine
        self._seat: Seat | None = None
        self._closed = False
        engine.join()

    @property
    def available(self) -> bool:
        return self._closed or self._seat is not None or self._engine is None or self._engine.has_seat()

    @property
    def pid(self) -> int | None:
        seat = self._seat
        with contextlib.suppress(Lost):
            return None if seat is None else seat.heard()
        return None

    def run(self, candidate: Candidate, folder: str | None = None) -> Outcome:
        for _ in range(ELSEWHERE):
            seat = self._taken()
            began = time.monotonic()
            try:
                return self._attempt(seat, candidate, folder)
            except Lost as lost:
                self._give_up(seat)
                outcome = Outcome("crashed", seconds=time.monotonic() - began, device=seat.device, error=f"{lost}")
                self._check_open()
            except BaseException:  # Ctrl-C in this very thread: the training must not go on behind its back
                with contextlib.suppress(Lost):
                    seat.kill()
                self._give_up(seat)
                raise
        return outcome

    def _give_up(self, seat: Seat) -> None:
        self._seat = None
        if self._engine is not None and not self._closed:
            self._engine.give_up(seat)

    def _taken(self) -> Seat:
        """Return the slot's seat, waiting for one if need be."""
        while self._seat is None:
            self._check_open()
            self._seat = self._engine.take() if self._engine else None
            if self._seat is None:
                time.sleep(TICK)
        self.device = self._seat.device
        return self._seat

    def _check_open(self) -> None:
        if self._closed:
            raise SlotClosed(f"{self.name} is closed")

    def _attempt(self, seat: Seat, candidate: Candidate, folder: str | None) -> Outcome:
        pending = seat.begin(vars(candidate), folder)
        heard = time.monotonic()
        while True:
            self._check_open()
            try:
                reply = seat.wait(pending, TICK)
                break
            except TimeoutError:
                if time.monotonic() - heard > HEARD_EVERY:
                    seat.heard()
                    heard = time.monotonic()
        self._check_open()
        if reply is None:
            raise Lost(f"{seat.device} ended the training: it heard nothing from here for too long")
        return Outcome(**{**reply, "device": seat.device})

    def kill(self) -> None:
        self._closed = True
        seat = self._seat
        if seat is not None:
            with contextlib.suppress(Lost):
                seat.kill()

    def close(self) -> None:
        self._closed = True
        seat, self._seat = self._seat, None
        if seat is not None:
            with contextlib.suppress(Lost):
                seat.close()
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.leave()
