"""Slots of a cluster, seen from the parent: what Dask and Ray have in common.

An `Engine` knows one cluster and hands out seats: a `Host` in a process of the engine's, somewhere, that evaluates
for one slot at a time. Seats come and go; a slot whose seat is lost takes another and sends its candidate
again. What happens at the other end is `host.py`'s.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

from evo_tune.dispatch.slot import UNKNOWN, NoMachine, Slot, SlotClosed
from evo_tune.errors import RunError
from evo_tune.genome.trial import Candidate, Outcome

__all__ = ["ANSWER", "CLOSING", "Cluster", "Engine", "Lost", "RemoteSlot", "Seat"]

TICK = 0.5
"""Seconds between two looks at a seat that is silent."""

HEARD_EVERY = 10.0
"""Seconds between two signs of life to a seat that evaluates: it kills what nobody waits for (`host.LEASE`)."""

ANSWER = 10.0
"""Seconds that a seat has for a short answer: no call to a cluster goes without a deadline."""

CLOSING = 5.0
"""The same where somebody waits for it: at the end of a run, and once a training is overdue."""

PATIENCE = 30.0
"""Seconds that a candidate waits for another machine; then a slot that has one may take it."""

ELSEWHERE = 3
"""Seats on which a candidate is tried that loses them: a machine's death is no result, but a genome that takes
every machine down is."""


class Lost(Exception):
    """The seat is gone: its process died, its machine left the cluster, or it does not answer."""


class _Unfit(RunError):
    """Nothing can be trained in this seat, whatever the candidate."""


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
        """

    @abstractmethod
    def heard(self, within: float = ANSWER) -> int | None:
        """Give a sign of life; return the process id of the training.

        Args:
            within: Seconds that the answer may take.

        Raises:
            Lost: Nobody answers.
        """

    @abstractmethod
    def kill(self) -> None:
        """Kill the training; a machine that does not answer is none of the caller's concern.

        Raises:
            Lost: Nobody answers.
        """

    @abstractmethod
    def close(self) -> None:
        """Let the seat's processes go.

        Raises:
            Lost: Nobody answers.
        """


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
        run: Identifier of the run, the same in all its sessions and no other's. By it a session finds what an earlier
            one has left at work, and folders of several runs of one path are kept apart.
    """

    backend: str
    address: str | None = None
    slots: int | None = None
    devices: str | None = None
    per_device: int = 1
    ranks: int = 1
    run: str = field(default_factory=lambda: uuid.uuid4().hex)


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
            ClusterLost: The cluster itself does not answer any more.
        """

    @abstractmethod
    def refuse(self, seat: Seat, why: str) -> None:
        """Set the device of a seat aside for good, with a warning: nobody gets it again."""

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
        timeout: Seconds after which its host kills an evaluation; from then on a host that is silent is lost.
    """

    def __init__(self, name: str, engine: Engine, timeout: float | None = None) -> None:
        self.name = name
        self._timeout = timeout
        self.device = UNKNOWN
        self._engine: Engine | None = engine
        self._seat: Seat | None = None
        self._closed = False
        engine.join()

    @property
    def available(self) -> bool:
        """Whether it has a machine; if there is one, it is taken, so that its device is known from now on."""
        if self._closed or self._engine is None:
            return True
        if self._seat is None and self._engine.has_seat():
            self._take()
        return self._seat is not None

    @property
    def pid(self) -> int | None:
        seat = self._seat
        with contextlib.suppress(Lost):
            return None if seat is None else seat.heard()
        return None

    def move(self, why: str) -> bool:
        seat, self._seat = self._seat, None
        self.device = UNKNOWN
        if seat is not None and self._engine is not None:
            self._engine.refuse(seat, why)
        return True

    def run(self, candidate: Candidate, folder: str | None = None) -> Outcome:
        lost = 0
        while True:
            seat = self._taken()
            began = time.monotonic()
            try:
                return self._attempt(seat, candidate, folder)
            except Lost as error:
                self._give_up(seat)
                self._check_open()
                lost += 1
                if lost == ELSEWHERE:
                    seconds = time.monotonic() - began
                    return Outcome("crashed", seconds=seconds, device=seat.device, error=f"{error}")
            except _Unfit as error:
                self._check_open()
                self.move(str(error))
                if self._engine is not None and not self._engine.has_seat():
                    raise NoMachine(f"{self.name} has left its machine, and there is no other now") from None
            except BaseException:  # Ctrl-C in this very thread: the training must not go on behind its back
                with contextlib.suppress(Lost):
                    seat.kill()
                self._give_up(seat)
                raise

    def _give_up(self, seat: Seat) -> None:
        self._seat, self.device = None, UNKNOWN
        if self._engine is not None and not self._closed:
            self._engine.give_up(seat)

    def _take(self) -> None:
        self._seat = self._engine.take() if self._engine else None
        if self._seat is not None:
            self.device = self._seat.device

    def _taken(self) -> Seat:
        """Return the slot's seat, waiting for one if need be.

        Raises:
            NoMachine: None has come for too long.
        """
        end = time.monotonic() + PATIENCE
        while self._seat is None:
            self._check_open()
            self._take()
            if self._seat is None:
                if time.monotonic() > end:
                    raise NoMachine(f"{self.name} has lost its machine, and there is no other")
                time.sleep(TICK)
        return self._seat

    def _check_open(self) -> None:
        if self._closed:
            raise SlotClosed(f"{self.name} is closed")

    def _attempt(self, seat: Seat, candidate: Candidate, folder: str | None) -> Outcome:
        pending = seat.begin(vars(candidate), folder)
        spent, heard = 0.0, time.monotonic()
        while True:
            self._check_open()
            began = time.monotonic()
            try:
                reply = seat.wait(pending, TICK)
                break
            except TimeoutError:
                now = time.monotonic()
                spent += min(now - began, 1.0)  # as `LocalSlot` counts: a pause of this process is one tick
                overdue = self._timeout is not None and spent > self._timeout
                if now - heard > (TICK if overdue else HEARD_EVERY):
                    seat.heard(CLOSING if overdue else ANSWER)
                    heard = time.monotonic()
        self._check_open()
        if reply is None:
            raise Lost(f"{seat.device} ended the training: it heard nothing from here for too long")
        if "unfit" in reply:
            raise _Unfit(reply["unfit"])
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
