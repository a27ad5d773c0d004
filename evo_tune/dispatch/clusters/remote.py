"""Cluster slots on the parent's side: the code common to Dask and Ray.

An `Engine` knows one cluster and gives out seats. A seat is a `Host` in a process of the engine, on some machine, that
evaluates for one slot at a time. A slot that loses its seat takes another and sends its candidate again. The code on
the other machine is `host.py`.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

from evo_tune.dispatch.slot import UNKNOWN, NoMachine, Slot, SlotClosed, SlotInterrupted
from evo_tune.errors import RunError
from evo_tune.genome.trial import Candidate, Outcome

TICK = 0.5
"""Seconds between two checks of a silent seat."""

HEARD_EVERY = 10.0
"""Seconds between two signs of life to a busy seat, which kills abandoned training runs (`host.LEASE`)."""

ANSWER_SECONDS = 10.0
"""Seconds that a seat has for a short answer: every call to a cluster has a deadline."""

CLOSE_SECONDS = 5.0
"""Shorter deadline, used at the end of a run and once a training run is overdue."""

PATIENCE = 30.0
"""Seconds that a candidate waits for another machine; then another slot may take it."""

ELSEWHERE = 3
"""Lost seats after which a candidate counts as crashed: one loss may be the machine's fault, this many are the
genome's."""


class SeatLost(Exception):
    """The seat is gone: its process died, its machine left the cluster, or it does not answer."""


class _Unfit(RunError):
    """This seat cannot train any candidate."""


class Seat(ABC):
    """A `Host` somewhere in a cluster.

    Attributes:
        device: Machine and device, as Outcomes report them: 'node7/cuda:0'.
    """

    device: str

    @abstractmethod
    def begin(self, candidate: dict[str, Any], folder: str | None) -> Any:
        """Send a candidate, and return the handle for `wait`."""

    @abstractmethod
    def wait(self, pending: Any, seconds: float) -> dict[str, Any] | None:
        """Return the result of `Host.run`.

        Args:
            pending: Handle that `begin` returned.
            seconds: Longest wait in seconds.

        Raises:
            TimeoutError: The evaluation has not ended yet.
            Lost: The seat is gone, so no result will come.
        """

    @abstractmethod
    def sign_of_life(self, within: float = ANSWER_SECONDS) -> int | None:
        """Send a sign of life; return the process id of the worker.

        Args:
            within: Longest wait for the answer, seconds.

        Raises:
            Lost: The seat does not answer.
        """

    @abstractmethod
    def kill(self) -> None:
        """Kill the training run; callers may ignore a machine that does not answer.

        Raises:
            Lost: The seat does not answer.
        """

    @abstractmethod
    def close(self) -> None:
        """End the seat's processes.

        Raises:
            Lost: The seat does not answer.
        """


@dataclass(frozen=True)
class Cluster:
    """Settings of a cluster that runs the slots.

    Args:
        backend: 'dask' or 'ray'.
        address: Address of a running cluster; None starts one on this machine.
        slots: Maximum number of slots; None: as many as the cluster has room for at the start.
        devices: Value of --devices.
        per_device: Slots on each GPU.
        ranks: Processes of one training run, each with a GPU or a core.
        run: Unique identifier of the run, the same in all its sessions. A session uses it to find training runs that
            an earlier one left behind, and to separate the folders of runs with the same path.
    """

    backend: str
    address: str | None = None
    slots: int | None = None
    devices: str | None = None
    per_device: int = 1
    ranks: int = 1
    run: str = field(default_factory=lambda: uuid.uuid4().hex)


class Engine(ABC):
    """A connection to a cluster, shared by all slots of a run; any thread may call its methods."""

    def __init__(self) -> None:
        self._users = 0

    @property
    @abstractmethod
    def free_seats(self) -> int:
        """Number of seats that are available now."""

    @abstractmethod
    def take_returns_now(self) -> bool:
        """Return, without waiting, whether `take` would return a seat or raise."""

    @abstractmethod
    def take(self) -> Seat | None:
        """Return a seat, which the caller keeps; None if there is none now.

        Raises:
            RunError: No machine of the cluster can be used for the run.
            ClusterLost: The cluster itself does not answer any more.
        """

    @abstractmethod
    def refuse(self, seat: Seat, why: str) -> None:
        """Set a seat's device aside for good, with a warning: no slot gets it again."""

    @abstractmethod
    def note_lost(self, seat: Seat) -> None:
        """Note that a seat is lost or was killed; a new one may replace it if its machine is still there."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection, and end a cluster that was started here."""

    def join(self) -> None:
        """Note that a slot uses this connection."""
        self._users += 1

    def leave(self) -> None:
        """Note that a slot no longer uses this connection; the last one closes it."""
        self._users -= 1
        if self._users == 0:
            self.close()


class RemoteSlot(Slot):
    """A slot of a cluster.

    Args:
        name: Name in messages: 'slot 0'.
        engine: Cluster that gives it seats.
        timeout: Seconds after which its host kills an evaluation; a host that is silent after that counts as lost.
    """

    def __init__(self, name: str, engine: Engine, timeout: float | None = None) -> None:
        self.name = name
        self._timeout = timeout
        self.device = UNKNOWN
        self._engine: Engine | None = engine
        self._seat: Seat | None = None
        self._closed = False
        self._interrupted = False
        engine.join()

    @property
    def available(self) -> bool:
        """Whether it has a machine; takes a free one, so that its device is known from now on."""
        if self._closed or self._engine is None:
            return True
        if self._seat is None and self._engine.take_returns_now():
            self._take()
        return self._seat is not None

    @property
    def pid(self) -> int | None:
        seat = self._seat
        with contextlib.suppress(SeatLost):
            return None if seat is None else seat.sign_of_life()
        return None

    def move(self, why: str) -> bool:
        seat, self._seat = self._seat, None
        self.device = UNKNOWN
        if seat is not None and self._engine is not None:
            self._engine.refuse(seat, why)
        return True

    def run(self, candidate: Candidate, folder: str | None = None) -> Outcome:
        lost, self._interrupted = 0, False
        while True:
            seat = self._wait_for_seat()
            began = time.monotonic()
            try:
                return self._attempt(seat, candidate, folder)
            except SeatLost as error:
                self._drop_seat(seat)
                self._check_open()
                lost += 1
                if lost == ELSEWHERE:
                    seconds = time.monotonic() - began
                    return Outcome("crashed", seconds=seconds, device=seat.device, error=f"{error}")
            except _Unfit as error:
                self._check_open()
                self.move(str(error))
                if self._engine is not None and not self._engine.take_returns_now():
                    raise NoMachine(f"{self.name} has left its machine, and there is no other now") from None
            except BaseException:  # an interrupt, or Ctrl-C in this thread: stop the training run too
                with contextlib.suppress(SeatLost):
                    seat.kill()
                self._drop_seat(seat)
                raise

    def _drop_seat(self, seat: Seat) -> None:
        self._seat, self.device = None, UNKNOWN
        if self._engine is not None and not self._closed:
            self._engine.note_lost(seat)

    def _take(self) -> None:
        self._seat = self._engine.take() if self._engine else None
        if self._seat is not None:
            self.device = self._seat.device

    def _wait_for_seat(self) -> Seat:
        """Return the slot's seat; wait for one if it has none.

        Raises:
            NoMachine: No seat became free within `PATIENCE` seconds.
            SlotClosed: The slot was closed meanwhile.
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
        if self._interrupted:
            raise SlotInterrupted(f"{self.name} was interrupted")

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
                spent += min(now - began, 1.0)  # like `LocalSlot`: a pause of this process counts as one tick
                overdue = self._timeout is not None and spent > self._timeout
                if now - heard > (TICK if overdue else HEARD_EVERY):
                    seat.sign_of_life(CLOSE_SECONDS if overdue else ANSWER_SECONDS)
                    heard = time.monotonic()
        self._check_open()
        if reply is None:
            raise SeatLost(f"{seat.device} ended the training: it heard nothing from here for too long")
        if "unfit" in reply:
            raise _Unfit(reply["unfit"])
        return Outcome(**{**reply, "device": seat.device})

    def interrupt(self) -> None:
        self._interrupted = True  # the thread in `run` sees it at its next check

    def kill(self) -> None:
        self._closed = True
        seat = self._seat
        if seat is not None:
            with contextlib.suppress(SeatLost):
                seat.kill()

    def close(self) -> None:
        self._closed = True
        seat, self._seat = self._seat, None
        if seat is not None:
            with contextlib.suppress(SeatLost):
                seat.close()
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.leave()
