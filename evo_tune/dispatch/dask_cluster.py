"""Slots on a Dask cluster: one for each of its workers' threads, or for each GPU that a worker sees.

The workers are the user's (dask-jobqueue, dask-cuda, `dask worker`); without an address a cluster is started on
this machine. An evaluation is a future that is bound to one worker; small messages go past the queue of tasks
by `Client.run`.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import threading
import time
import uuid
import warnings
from typing import Any

from evo_tune.dispatch.devices import CPU, Device, Plan
from evo_tune.dispatch.host import Host, Parcel, offer
from evo_tune.dispatch.remote import Cluster, Engine, Lost, Seat
from evo_tune.dispatch.slot import Task
from evo_tune.errors import OptionError, RunError

__all__ = ["DaskEngine"]

LOOK_EVERY = 0.5
"""Seconds between two looks at which workers there are."""

CONNECT = 10.0
"""Seconds that a scheduler has to answer."""

_hosts: dict[str, Host | None] = {}
"""On a worker: its seats by key; None: closed, whatever message comes late."""

_opening = threading.Lock()


# ---------------------------------------------------------------- on a worker


def _run(key: str, host: tuple[Any, ...], candidate: dict[str, Any], folder: str | None) -> dict[str, Any] | None:
    """Evaluate a candidate in the seat of this key, opened at its first one."""
    import distributed

    distributed.secede()  # type: ignore[no-untyped-call] # seats are counted by us: many GPUs may have one thread
    with _opening:
        if key not in _hosts:
            _hosts[key] = Host(*host)
        seat = _hosts[key]
    return None if seat is None else seat.run(candidate, folder)


def _heard(key: str) -> int | None:
    host = _hosts.get(key)
    return None if host is None else host.heard()


def _kill(key: str) -> None:
    host, _hosts[key] = _hosts.get(key), None
    if host is not None:
        host.kill()


def _close(key: str) -> None:
    host, _hosts[key] = _hosts.get(key), None
    if host is not None:
        host.close()


def _evict(trials_folder: str) -> None:
    """Kill what an earlier session of the same run, whose parent died, has left on this worker."""
    for key in [key for key, host in _hosts.items() if host is not None and host.trials_folder == trials_folder]:
        _kill(key)


# ---------------------------------------------------------------- in the parent


class DaskEngine(Engine):
    """A Dask cluster.

    Args:
        task: What is to be evaluated.
        cluster: Which one.
        plan: Slots of this machine, for a cluster that is started here.
        timeout: See `LocalSlot`.
        retries: See `LocalSlot`.

    Raises:
        OptionError: Dask is not installed, or no scheduler answers at the address.
    """

    def __init__(self, task: Task, cluster: Cluster, plan: Plan, timeout: float | None, retries: int) -> None:
        super().__init__()
        try:
            distributed: Any = importlib.import_module("distributed")
        except ImportError:
            raise OptionError("--backend dask needs Dask: pip install 'evo-tune[dask]'") from None
        self._parcel, self._limits = Parcel.of(task), (timeout, retries)
        self._wanted, self._ranks = (cluster.devices, cluster.per_device), cluster.ranks
        self._cluster = None if cluster.address else _local_cluster(distributed, plan)
        try:
            self._client = distributed.Client(cluster.address or self._cluster, timeout=CONNECT, set_as_default=False)
        except BaseException as error:
            if self._cluster is not None:
                self._cluster.close(timeout=CONNECT)
            if cluster.address and isinstance(error, OSError | ValueError | TimeoutError):
                raise OptionError(f"--address {cluster.address}: no Dask scheduler answers there ({error})") from None
            raise
        self._lock = threading.Lock()
        self._known: dict[str, str] = {}
        self._free: list[DaskSeat] = []
        self._refused: dict[str, RunError] = {}
        self._closing = threading.Event()
        self._look()
        threading.Thread(target=self._watch, name="dask workers", daemon=True).start()

    @property
    def room(self) -> int:
        return len(self._free)

    def _watch(self) -> None:
        while not self._closing.wait(LOOK_EVERY):
            with contextlib.suppress(OSError, TimeoutError, RuntimeError, KeyError):  # no scheduler: nothing new
                self._look()

    def _look(self) -> None:
        """Take up workers that have joined, and forget those that have left."""
        found = {address: str(one["host"]) for address, one in self._workers().items()}
        for address in found.keys() - self._known.keys():
            self._join(address, found[address])
        with self._lock:
            self._known = found
            self._free = [seat for seat in self._free if seat.address in found]

    def _workers(self) -> dict[str, Any]:
        workers: dict[str, Any] = self._client.scheduler_info(n_workers=-1)["workers"]
        return workers

    def _join(self, address: str, machine: str) -> None:
        threads = int(self._workers()[address]["nthreads"])
        try:
            self.call(address, _evict, self._parcel.task.trials_folder)
            devices = self.call(address, offer, *self._wanted, threads, self._ranks)
        except Lost:
            return
        except Exception as error:  # evo-tune is not installed there, or a GPU that was asked for is missing
            self.refuse(address, RunError(f"the Dask worker at {address} cannot be used: {error}"))
            return
        with self._lock:
            place = "" if self._cluster else f"{machine}/"
            self._free += [DaskSeat(self, address, place + device.name, device) for device in devices]

    def call(self, address: str, function: Any, *args: Any) -> Any:
        """Have a worker call a function at once, past its queue.

        Raises:
            Lost: It is not there any more.
        """
        try:
            return self._client.run(function, *args, workers=[address])[address]
        except (OSError, TimeoutError, KeyError) as error:
            raise Lost(f"the Dask worker at {address} does not answer ({type(error).__name__})") from None

    def known(self, address: str) -> bool:
        """Whether a worker is in the cluster."""
        return address in self._known

    def refuse(self, address: str, error: RunError) -> None:
        """Set a worker aside that is not fit; see `take`."""
        with self._lock:
            self._refused[address] = error
            self._free = [seat for seat in self._free if seat.address != address]
        warnings.warn(f"set aside: {error}", stacklevel=2)

    def has_seat(self) -> bool:
        return bool(self._free) or bool(self._known and self._known.keys() <= self._refused.keys())

    def take(self) -> Seat | None:
        with self._lock:
            if self._free:
                return self._free.pop(0)
            if self._known and self._known.keys() <= self._refused.keys():
                raise next(iter(self._refused.values()))
        return None

    def give_up(self, seat: Seat) -> None:
        assert isinstance(seat, DaskSeat)
        with self._lock:
            if seat.address in self._known and seat.address not in self._refused:
                self._free.append(DaskSeat(self, seat.address, seat.device, seat.pinned))

    def close(self) -> None:
        self._closing.set()
        self._client.close(timeout=CONNECT)
        if self._cluster is not None:
            self._cluster.close(timeout=CONNECT)

    def submit(self, seat: DaskSeat, candidate: dict[str, Any], folder: str | None) -> Any:
        """Send a candidate to a seat's worker, and return the future of what comes of it."""
        host = (self._parcel, seat.device, seat.pinned, *self._limits)
        return self._client.submit(
            _run, seat.key, host, candidate, folder, workers=[seat.address], allow_other_workers=False, pure=False
        )


def _local_cluster(distributed: Any, plan: Plan) -> Any:
    """Start a cluster here: a worker a slot on CPUs, one for all GPUs."""
    many = len(plan.slots)
    workers, threads = (many, 1) if plan.slots[0] == CPU else (1, many)
    return distributed.LocalCluster(
        n_workers=workers,
        threads_per_worker=threads,
        dashboard_address="127.0.0.1:0",
        silence_logs=logging.CRITICAL,
        memory_limit=0,
    )


class DaskSeat(Seat):
    """A seat on a Dask worker.

    Args:
        engine: The cluster.
        address: The worker's.
        device: For people, with the machine.
        pinned: The device, as its machine knows it.
    """

    def __init__(self, engine: DaskEngine, address: str, device: str, pinned: Device) -> None:
        self._engine = engine
        self.address = address
        self.device = device
        self.pinned = pinned
        self.key = uuid.uuid4().hex

    def begin(self, candidate: dict[str, Any], folder: str | None) -> Any:
        return self._engine.submit(self, candidate, folder)

    def wait(self, pending: Any, seconds: float) -> dict[str, Any] | None:
        end = time.monotonic() + seconds
        while True:
            try:
                reply: dict[str, Any] | None = pending.result(timeout=max(0.0, min(0.1, end - time.monotonic())))
                return reply
            except TimeoutError:
                if not self._engine.known(self.address):
                    pending.cancel()
                    raise Lost(f"the Dask worker at {self.address} has left the cluster") from None
                if time.monotonic() >= end:
                    raise TimeoutError from None
            except RunError as error:
                self._engine.refuse(self.address, error)
                raise Lost(str(error)) from None
            except Exception as error:  # KilledWorker, CancelledError, a broken connection
                raise Lost(f"the Dask worker at {self.address} is lost ({type(error).__name__})") from None

    def heard(self) -> int | None:
        pid: int | None = self._engine.call(self.address, _heard, self.key)
        return pid

    def kill(self) -> None:
        self._engine.call(self.address, _kill, self.key)

    def close(self) -> None:
        self._engine.call(self.address, _close, self.key)
