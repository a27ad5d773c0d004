"""Cluster slots on the parent's side: the code common to Dask and Ray.

An `Engine` knows one cluster and gives out seats. A seat is a `SlotServer` in a process of the engine, on some machine.
It evaluates for one slot at a time. A slot that loses its seat takes another and sends its candidate again. The code on
the other machine is `host.py`.
"""

import contextlib
import threading
import time
import uuid
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from evo_tune.dispatch.clusters.host import PackedTask
from evo_tune.dispatch.slot import UNKNOWN, NoMachine, Slot, SlotClosed, SlotInterrupted, Task
from evo_tune.errors import ClusterLost, RunError
from evo_tune.genome.trial import Candidate, Outcome

# Seconds between two checks of a silent seat.
TICK = 0.5

# Seconds between two signs of life to a busy seat, which kills abandoned training runs (`host.LEASE`).
HEARD_EVERY = 10.0

# Seconds that a seat has for a short answer: every call to a cluster has a deadline.
ANSWER_SECONDS = 10.0

# Shorter deadline, used at the end of a run and once a training run is overdue.
CLOSE_SECONDS = 5.0

# Seconds that a candidate waits for another machine; then another slot may take it.
PATIENCE = 30.0

# Lost seats after which a candidate counts as crashed: one loss may be the machine's fault, this many are the genome's.
ELSEWHERE = 3


class SeatLost(Exception):
    """The seat is gone: its process died, its machine left the cluster, or it does not answer."""


class SeatLeft(SeatLost):
    """The seat's worker was asked to end, by a preemption or a time limit: the training is not the cause."""


class Seat(ABC):
    """A `SlotServer` somewhere in a cluster.

    Attributes:
        device: Machine and device, as Outcomes report them: 'node7/cuda:0'.
    """

    device: str

    @property
    def ready(self) -> bool:
        """Whether a slot can take it now."""
        return True

    @abstractmethod
    def begin(self, candidate: dict[str, Any], folder: str | None) -> Any:
        """Send a candidate, and return the handle for `wait`."""

    @abstractmethod
    def wait(self, pending: Any, seconds: float) -> dict[str, Any] | None:
        """Return the result of `SlotServer.run`.

        Args:
            pending: Handle that `begin` returned.
            seconds: Longest wait in seconds.

        Raises:
            TimeoutError: The evaluation has not ended yet.
            SeatLost: The seat is gone, so no result will come.
        """

    @abstractmethod
    def call(self, method: str, seconds: float) -> Any:
        """Call a method of the seat's `SlotServer`; return the result.

        Args:
            method: Name of a method without arguments.
            seconds: Longest wait for the answer, seconds.

        Raises:
            SeatLost: The seat does not answer.
        """

    def renew_lease(self, seconds: float = ANSWER_SECONDS) -> int | None:
        """Tell the seat that this process is alive; return the process id of its worker. See `call`."""
        pid: int | None = self.call("renew_lease", seconds)
        return pid

    def kill(self) -> None:
        """Kill the training run, if the machine answers."""
        with contextlib.suppress(SeatLost):
            self.call("kill", CLOSE_SECONDS)

    def close(self) -> None:
        """End the seat's processes, if the machine answers."""
        with contextlib.suppress(SeatLost):
            self.call("close", CLOSE_SECONDS)


SeatT = TypeVar("SeatT", bound=Seat)


@dataclass(frozen=True)
class Cluster:
    """Settings of a cluster that runs the slots.

    Args:
        backend: 'dask' or 'ray'.
        address: Address of the cluster; None for Ray that this process has started.
        slots: Maximum number of slots; None: as many as the cluster has room for at the start.
        devices: Value of --devices.
        per_device: Slots on each GPU.
        ranks: Processes of one training run, each with a GPU or a core.
        run: Unique identifier of the run, the same in all its sessions. A session uses it to find training runs that
            an earlier one left behind, and to separate the folders of runs with the same path.
        scheduler_file: Dask's file with the address, instead of `address`.
    """

    backend: str
    address: str | None = None
    slots: int | None = None
    devices: str | None = None
    per_device: int = 1
    ranks: int = 1
    run: str = field(default_factory=lambda: uuid.uuid4().hex)
    scheduler_file: str | None = None

    @property
    def flag(self) -> str:
        """Flag that names a running cluster, with its value; '' if there is none."""
        if self.scheduler_file is not None:
            return f"--scheduler-file {self.scheduler_file}"
        return f"--address {self.address}" if self.address else ""


class Engine(ABC, Generic[SeatT]):
    """A connection to a cluster, shared by all slots of a run; any thread may call its methods.

    Args:
        task: Settings common to all candidates.
        cluster: Address and options of the cluster.
    """

    # Whether the cluster answers now.
    connected: bool

    # Number of seats that the cluster had at the start.
    seats_at_start: int

    def __init__(self, task: Task, cluster: Cluster) -> None:
        self._cluster_settings = cluster
        # Address or scheduler file of the cluster, for messages.
        self.place = cluster.address or cluster.scheduler_file or "this machine"
        self.packed_task = PackedTask.of(task, cluster.run)
        self._users = 0
        # Seats without a slot.
        self._free: list[SeatT] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._last_answer_time = 0.0
        # Reason why the last device was set aside.
        self._exclusion_reason: str | None = None
        # Exception that ended the watching thread.
        self._failure: Exception | None = None

    @property
    @abstractmethod
    def loss(self) -> str:
        """Description of what does not answer any more; '' unless the cluster has been silent for too long."""

    @property
    @abstractmethod
    def all_devices_excluded(self) -> bool:
        """Whether every device of the cluster is set aside."""

    def next_seat(self) -> SeatT | None:
        """Return a seat of a connected cluster, which the caller keeps; None if there is none now."""
        with self._lock:
            seat = next((seat for seat in self._free if seat.ready), None)
            if seat is not None:
                self._free.remove(seat)
            return seat

    def take_seat(self) -> SeatT | None:
        """Return a seat, which the caller keeps; None if there is none now.

        Raises:
            RunError: No machine of the cluster can be used for the run, or the cluster refuses a request.
            ClusterLost: The cluster itself does not answer any more.
        """
        if loss := self.loss:
            raise ClusterLost(f"{loss} any more; everything recorded is saved: `evo-tune resume` it once it is back")
        if self._failure is not None:
            backend = self._cluster_settings.backend.title()
            raise RunError(f"{backend} gives no place: {self._failure}") from self._failure
        if self.connected and (seat := self.next_seat()) is not None:
            return seat
        if self.all_devices_excluded:
            raise RunError(f"no device of the cluster can be used; the last one: {self._exclusion_reason}")
        return None

    @abstractmethod
    def exclude_device(self, seat: SeatT, why: str) -> None:
        """Set a seat's device aside for good, with a warning: no slot gets it again."""

    @abstractmethod
    def note_lost(self, seat: SeatT) -> None:
        """Note that a seat is lost or was killed; a new one may replace it if its machine is still there."""

    def close(self) -> None:
        """Close the connection."""
        self._closing.set()
        self.packed_task.remove_mark()

    def start(self) -> None:
        """Mark the trials' folder as shared, and start the thread that watches the cluster; call it once."""
        self.packed_task.mark_shared_folder()
        self._last_answer_time = time.monotonic()
        name = f"{self._cluster_settings.backend} cluster"
        self._watcher = threading.Thread(target=self.watch, name=name, daemon=True)
        self._watcher.start()

    @abstractmethod
    def watch(self) -> None:
        """Watch the cluster until the engine closes."""

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

    def __init__(self, name: str, engine: Engine[Any], timeout: float | None = None) -> None:
        self.name = name
        self._timeout = timeout
        self.device = UNKNOWN
        self._engine: Engine[Any] | None = engine
        self._seat: Seat | None = None
        self._closed = False
        self._interrupted = False
        engine.join()

    @property
    def available(self) -> bool:
        """Whether it has a machine; takes a free one, so that its device is known from now on."""
        if self._closed or self._engine is None:
            return True
        if self._seat is None:
            self._take()
        return self._seat is not None

    @property
    def pid(self) -> int | None:
        seat = self._seat
        with contextlib.suppress(SeatLost):
            return None if seat is None else seat.renew_lease()
        return None

    def move(self, why: str) -> bool:
        seat, self._seat = self._seat, None
        self.device = UNKNOWN
        if seat is not None and self._engine is not None:
            self._engine.exclude_device(seat, why)
        return True

    def run(self, candidate: Candidate, folder: str | None = None) -> Outcome:
        lost, self._interrupted = 0, False
        while True:
            end = time.monotonic() + PATIENCE
            while self._seat is None:
                self._check_open()
                self._take()
                if self._seat is None:
                    if time.monotonic() > end:
                        raise NoMachine(f"{self.name} has lost its machine, and there is no other")
                    time.sleep(TICK)
            seat = self._seat
            began = time.monotonic()
            try:
                reply = self._wait_for_reply(seat, seat.begin(vars(candidate), folder))
                if reply is None:
                    raise SeatLost(f"{seat.device} ended the training: it heard nothing from here for too long")
            except SeatLost as error:
                self._drop_seat(seat)
                self._check_open()
                lost += not isinstance(error, SeatLeft)
                if lost == ELSEWHERE:
                    seconds = time.monotonic() - began
                    return Outcome("crashed", seconds=seconds, device=seat.device, error=f"{error}")
                continue
            except BaseException:  # an interrupt, or Ctrl-C in this thread: stop the training run too
                seat.kill()
                self._drop_seat(seat)
                raise
            if "unfit" not in reply:
                return Outcome(**{**reply, "device": seat.device})
            self.move(reply["unfit"])
            self._check_open()
            self._take()
            if self._seat is None:
                raise NoMachine(f"{self.name} has left its machine, and there is no other now")

    def _wait_for_reply(self, seat: Seat, pending: Any) -> dict[str, Any] | None:
        """Return the result of `SlotServer.run`; meanwhile send signs of life.

        Raises:
            SeatLost: The seat is gone.
            SlotClosed: The slot was closed meanwhile.
            SlotInterrupted: The slot was interrupted meanwhile.
        """
        spent, heard = 0.0, time.monotonic()
        while True:
            self._check_open()
            began = time.monotonic()
            try:
                reply = seat.wait(pending, TICK)
            except TimeoutError:
                now = time.monotonic()
                spent += min(now - began, 1.0)  # like `LocalSlot`: a pause of this process counts as one tick
                overdue = self._timeout is not None and spent > self._timeout
                if now - heard > (TICK if overdue else HEARD_EVERY):
                    seat.renew_lease(CLOSE_SECONDS if overdue else ANSWER_SECONDS)
                    heard = time.monotonic()
            else:
                self._check_open()
                return reply

    def _drop_seat(self, seat: Seat) -> None:
        self._seat, self.device = None, UNKNOWN
        if self._engine is not None and not self._closed:
            self._engine.note_lost(seat)

    def _take(self) -> None:
        self._seat = self._engine.take_seat() if self._engine else None
        if self._seat is not None:
            self.device = self._seat.device

    def _check_open(self) -> None:
        if self._closed:
            raise SlotClosed(f"{self.name} is closed")
        if self._interrupted:
            raise SlotInterrupted(f"{self.name} was interrupted")

    def interrupt(self) -> None:
        self._interrupted = True  # the thread in `run` sees it at its next check

    def kill(self) -> None:
        self._closed = True
        seat = self._seat
        if seat is not None:
            seat.kill()

    def close(self) -> None:
        self._closed = True
        seat, self._seat = self._seat, None
        if seat is not None:
            seat.close()
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.leave()
