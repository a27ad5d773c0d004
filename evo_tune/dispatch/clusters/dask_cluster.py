"""Slots on a Dask cluster: one for each thread of a worker, or for each GPU that a worker sees.

The user starts the workers (dask-jobqueue, dask-cuda, `dask worker`); without an address a cluster is started on
this machine, which no other user of it can use. An evaluation is a future bound to one worker. Small messages bypass
the task queue by `Client.run`. Every call has a deadline. A worker that misses it is set aside until it answers. A
scheduler that stays silent means a lost cluster.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import threading
import time
import uuid
import warnings
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import Any

from evo_tune.dispatch.clusters.host import PackedTask, SlotServer, list_slot_devices
from evo_tune.dispatch.clusters.remote import ANSWER_SECONDS, CLOSE_SECONDS, Cluster, Engine, Seat, SeatLost
from evo_tune.dispatch.devices import CPU, Device, Plan
from evo_tune.dispatch.slot import Task
from evo_tune.errors import ClusterLost, OptionError, RunError


class PendingAnswer:
    """A pending answer.

    Args:
        loop: Event loop of the client.
        ask: Function called in the client's own thread, which awaits the returned object.
    """

    def __init__(self, loop: Any, ask: Callable[[], Awaitable[Any]]) -> None:
        self._result_queue: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        self._ask = ask
        loop.add_callback(self._ask_and_store)

    async def _ask_and_store(self) -> None:
        try:
            self._result_queue.put((await self._ask(), None))
        except BaseException as error:  # otherwise `get` would wait for ever
            self._result_queue.put((None, error))

    def get(self, seconds: float) -> Any:
        """Return the answer; it can be read only once.

        Args:
            seconds: Longest wait in seconds.

        Raises:
            queue.Empty: No answer came in time.
            BaseException: The exception that `ask` or its result ended with.
        """
        answer, error = self._result_queue.get(timeout=max(0.0, seconds))
        if error is not None:
            raise error
        return answer


LOOK_EVERY = 0.5
"""Seconds between two reads of the list of workers."""

CONNECT = 10.0
"""Seconds that a scheduler has to answer, also after its connection breaks."""

SCHEDULER_TIMEOUT = 30.0
"""Seconds without an answer after which the scheduler counts as lost."""

MAX_PARALLEL_JOINS = 16
"""Joining workers that are asked in parallel."""

_hosts: dict[str, SlotServer | None] = {}
"""On a worker: its hosts by seat key; None marks a closed seat, so that late messages do not reopen it."""

_hosts_lock = threading.Lock()


# ---------------------------------------------------------------- on a worker


def _run(
    key: str, host_arguments: tuple[Any, ...], candidate: dict[str, Any], folder: str | None
) -> dict[str, Any] | None:
    """Evaluate a candidate in the seat of this key; its first candidate opens it."""
    import distributed

    distributed.secede()  # type: ignore[no-untyped-call] # this module counts seats: GPUs may share a thread
    with _hosts_lock:
        if key not in _hosts:
            try:
                _hosts[key] = SlotServer(*host_arguments)
            except RunError as error:
                return {"unfit": str(error)}
        server = _hosts[key]
    return None if server is None else server.run(candidate, folder)


def _sign_of_life(key: str) -> int | None:
    host = _hosts.get(key)
    return None if host is None else host.sign_of_life()


def _kill(*keys: str) -> None:
    for key in keys:
        host, _hosts[key] = _hosts.get(key), None
        if host is not None:
            host.kill()


def _close(key: str) -> None:
    host, _hosts[key] = _hosts.get(key), None
    if host is not None:
        host.close()


def _prepare_worker(run: str, device_request: tuple[Any, ...]) -> list[Device]:
    """Kill the training runs of earlier sessions of the same run; return the device of each slot.

    A session whose parent died leaves them behind.
    """
    _kill(*(key for key, host in list(_hosts.items()) if host is not None and key.startswith(f"{run}/")))
    return list_slot_devices(*device_request)


# ---------------------------------------------------------------- in the parent


class DaskEngine(Engine):
    """A Dask cluster.

    Args:
        task: Settings common to all candidates.
        cluster: Address and options of the cluster.
        plan: Slots of this machine, for a cluster that is started here.
        timeout: See `LocalSlot`.
        retries: See `LocalSlot`.

    Raises:
        OptionError: Dask (for a cluster on this machine, cryptography as well) is not installed, or no scheduler
            answers at the address.
    """

    def __init__(self, task: Task, cluster: Cluster, plan: Plan, timeout: float | None, retries: int) -> None:
        super().__init__()
        try:
            distributed: Any = importlib.import_module("distributed")
            security = None if cluster.address else distributed.Security.temporary()
        except ImportError:
            raise OptionError("--backend dask needs Dask and cryptography: pip install 'evo-tune[dask]'") from None
        if cluster.address and cluster.address.startswith("tls://"):
            _check_certificate(distributed, cluster.address)
        self._parcel, self._slot_arguments = PackedTask.of(task, cluster.run), (timeout, retries)
        self._settings = cluster
        self._own_cluster = None if cluster.address else _local_cluster(distributed, plan, security)
        try:
            self._client = distributed.Client(
                cluster.address or self._own_cluster, timeout=CONNECT, set_as_default=False
            )
        except BaseException as error:
            if self._own_cluster is not None:
                self._own_cluster.close(timeout=CONNECT)
            if cluster.address and isinstance(error, OSError | ValueError | TimeoutError):
                raise OptionError(f"--address {cluster.address}: no Dask scheduler answers there ({error})") from None
            raise
        self._lock = threading.Lock()
        self._machine_by_worker: dict[str, str] = {}
        """Machine of each current worker, by address."""
        self._free: list[DaskSeat] = []
        self._usable_devices: dict[str, int] = {}
        """Number of usable devices, by worker address."""
        self._refusal: str | None = None
        """Reason why the last device was set aside."""
        self._silent: dict[str, list[DaskSeat]] = {}
        """Seats of workers that do not answer, by worker address."""
        self._last_answer_time = time.monotonic()
        self._closing = threading.Event()
        self._parcel.mark_shared_folder()
        try:
            self._update_workers()
        except SeatLost as error:
            self.close()
            raise OptionError(f"--address {cluster.address}: the Dask scheduler there gives {error}") from None
        threading.Thread(target=self._watch, name="dask workers", daemon=True).start()

    @property
    def free_seats(self) -> int:
        return len(self._free)

    @property
    def run(self) -> str:
        """The run's identifier, the prefix of its seats' keys."""
        return self._parcel.run

    def _watch(self) -> None:
        while not self._closing.wait(LOOK_EVERY):
            with contextlib.suppress(SeatLost):  # no answer: try again at the next look
                self._update_workers()
                self._last_answer_time = time.monotonic()
            for address in list(self._silent):
                with contextlib.suppress(SeatLost):
                    self._wake(address)

    def _update_workers(self) -> None:
        """Add the workers that have joined, and remove those that have left."""
        workers = self._ask_within(ANSWER_SECONDS, lambda: self._client.scheduler.identity(n_workers=-1))["workers"]
        machines = {address: str(worker["host"]) for address, worker in workers.items()}
        if new := machines.keys() - self._machine_by_worker.keys():
            with ThreadPoolExecutor(MAX_PARALLEL_JOINS) as threads:
                list(
                    threads.map(
                        lambda worker: self._join(worker, machines[worker], int(workers[worker]["nthreads"])), new
                    )
                )
        with self._lock:
            self._machine_by_worker = machines
            self._free = [seat for seat in self._free if seat.address in machines]
            self._silent = {address: seats for address, seats in self._silent.items() if address in machines}
            self._usable_devices = {
                address: count for address, count in self._usable_devices.items() if address in machines
            }

    def _join(self, address: str, machine: str, threads: int) -> None:
        device_request = (self._settings.devices, self._settings.per_device, threads, self._settings.ranks)
        try:
            devices = self.call(address, ANSWER_SECONDS, _prepare_worker, self._parcel.run, device_request)
        except SeatLost:
            # `_wake` asks again; this seat keeps the machine's name until then.
            with self._lock:
                self._silent.setdefault(address, []).append(DaskSeat(self, address, machine, CPU, threads))
            return
        except Exception as error:  # evo-tune is not installed there, or a requested GPU is missing
            self._exclude_device(address, 0, f"the Dask worker at {address} cannot be used: {error}")
            return
        place = "" if self._own_cluster else f"{machine}/"
        with self._lock:
            self._usable_devices[address] = len(devices)
            self._free += [DaskSeat(self, address, place + device.name, device) for device in devices]

    def _wake(self, address: str) -> None:
        """Ask a silent worker again; if it answers, kill its lost training runs and reuse its seats."""
        seats = self._silent.get(address, [])
        self._ask_within(
            ANSWER_SECONDS, lambda: self._client.run(_kill, *(seat.key for seat in seats), workers=[address])
        )
        with self._lock:
            seats = self._silent.pop(address, [])
            self._free += [seat.replacement() for seat in seats if not seat.threads]
        for seat in seats:
            if seat.threads:
                self._join(address, seat.device, seat.threads)

    def _ask_within(self, seconds: float, ask: Callable[[], Awaitable[Any]]) -> Any:
        """Return the answer to a request made in the client's own thread.

        Raises:
            Lost: No answer came within `seconds`, or the connection is broken.
        """
        try:
            return PendingAnswer(self._client.loop, lambda: asyncio.wait_for(ask(), seconds)).get(seconds)
        except Empty:
            raise SeatLost(f"no answer within {seconds:g} s") from None
        except (OSError, TimeoutError, asyncio.TimeoutError) as error:
            raise SeatLost(f"no answer within {seconds:g} s ({type(error).__name__})") from None
        except (RuntimeError, AttributeError, asyncio.CancelledError) as error:  # closed, or about to connect again
            raise SeatLost(f"no connection ({error})") from None

    def call(self, address: str, seconds: float, function: Any, *args: Any) -> Any:
        """Have a worker call a function at once, past its task queue; return the result.

        Raises:
            Lost: The worker has left, or does not answer within `seconds`.
        """
        if address in self._silent or not self.connected:
            raise SeatLost(f"the Dask worker at {address} does not answer")
        try:
            return self._ask_within(seconds, lambda: self._client.run(function, *args, workers=[address]))[address]
        except KeyError:
            raise SeatLost(f"the Dask worker at {address} is not there") from None
        except SeatLost as error:
            if self.connected and address in self._machine_by_worker:
                self._suspend_worker(address, str(error))
            raise SeatLost(f"the Dask worker at {address} does not answer: {error}") from None

    def _suspend_worker(self, address: str, why: str) -> None:
        with self._lock:
            first = address not in self._silent
            waiting = [seat for seat in self._free if seat.address == address]
            self._free = [seat for seat in self._free if seat.address != address]
            self._silent.setdefault(address, []).extend(waiting)
        if first and not self._closing.is_set():
            warnings.warn(f"the Dask worker at {address} is set aside until it answers: {why}", stacklevel=2)

    @property
    def connected(self) -> bool:
        """Whether there is a connection to the scheduler."""
        return bool(self._client.status == "running")

    def is_known(self, address: str) -> bool:
        """Return whether a worker is in the cluster."""
        return address in self._machine_by_worker

    def refuse(self, seat: Seat, why: str) -> None:
        assert isinstance(seat, DaskSeat)
        with contextlib.suppress(SeatLost):
            seat.close()
        self._exclude_device(
            seat.address, max(0, self._usable_devices.get(seat.address, 0) - 1), f"{seat.device}: {why}"
        )

    def _exclude_device(self, address: str, remaining: int, why: str) -> None:
        with self._lock:
            self._usable_devices[address] = remaining
            self._refusal = why
        warnings.warn(f"set aside: {why}", stacklevel=3)

    @property
    def _all_devices_excluded(self) -> bool:
        """Whether every device of the cluster is set aside."""
        return (
            self._refusal is not None
            and bool(self._machine_by_worker)
            and not any(self._usable_devices.values())
            and not self._silent
        )

    @property
    def _scheduler_lost(self) -> bool:
        silent = time.monotonic() - self._last_answer_time > SCHEDULER_TIMEOUT
        return not self._closing.is_set() and (silent or self._client.status in ("closing", "closed"))

    def take_returns_now(self) -> bool:
        return self._scheduler_lost or self._all_devices_excluded or (self.connected and bool(self._free))

    def take(self) -> Seat | None:
        if self._scheduler_lost:
            raise ClusterLost(
                f"the Dask scheduler at {self._settings.address or 'this machine'} does not answer any more; "
                "everything recorded is saved: `evo-tune resume` goes on once it is back"
            )
        with self._lock:
            if self._free and self.connected:
                return self._free.pop(0)
            if self._all_devices_excluded:
                raise RunError(f"no device of the cluster can be used; the last one was set aside: {self._refusal}")
        return None

    def note_lost(self, seat: Seat) -> None:
        assert isinstance(seat, DaskSeat)
        with self._lock:
            if seat.address in self._silent:
                self._silent[seat.address].append(seat)
            elif seat.address in self._machine_by_worker:
                self._free.append(seat.replacement())

    def close(self) -> None:
        self._closing.set()
        self._parcel.remove_mark()
        with contextlib.suppress(OSError, TimeoutError, asyncio.TimeoutError, RuntimeError):  # it may be gone
            self._client.close(timeout=CLOSE_SECONDS)
        if self._own_cluster is not None:
            with contextlib.suppress(OSError, TimeoutError, asyncio.TimeoutError, RuntimeError):
                self._own_cluster.close(timeout=CLOSE_SECONDS)

    def submit(self, seat: DaskSeat, candidate: dict[str, Any], folder: str | None) -> tuple[Any, PendingAnswer]:
        """Send a candidate to a seat's worker; return the Dask future and its pending answer.

        Raises:
            Lost: The worker cannot be reached.
        """
        host = (self._parcel, seat.device, seat.slot_device, *self._slot_arguments)
        try:
            future = self._client.submit(
                _run, seat.key, host, candidate, folder, workers=[seat.address], allow_other_workers=False, pure=False
            )
            return future, PendingAnswer(self._client.loop, lambda: future)
        except Exception as error:  # the client or its connection is closed
            raise SeatLost(f"the Dask worker at {seat.address} cannot be reached ({type(error).__name__})") from None

    def forget(self, future: Any) -> None:
        """Cancel a future whose worker has left."""
        with contextlib.suppress(SeatLost):
            self._ask_within(CLOSE_SECONDS, lambda: self._client.cancel([future]))


def _check_certificate(distributed: Any, address: str) -> None:
    """Require a certificate for a cluster with TLS: without one, Dask's client waits for 20 s to say that it has none.

    Raises:
        OptionError: None is configured, or it cannot be read.
    """
    try:
        context = distributed.Security().get_connection_args("client").get("ssl_context")
        reason = "" if context is not None else "none is configured"
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        reason = str(error)
    if reason:
        names = ", ".join(f"DASK_DISTRIBUTED__COMM__TLS__{name}" for name in ("CA_FILE", "CLIENT__CERT", "CLIENT__KEY"))
        raise OptionError(f"--address {address} needs a certificate ({reason}): set {names} to its files")


NO_PAGES: dict[str, list[str]] = {"distributed.scheduler.http.routes": [], "distributed.worker.http.routes": []}
"""Dask's HTTP servers answer anybody who reaches them, and cannot be switched off."""


def _local_cluster(distributed: Any, plan: Plan, security: Any) -> Any:
    """Start a cluster on this machine: one worker for each slot on CPUs, or one for all GPUs.

    Everybody who reaches a scheduler can run code as its user. So only processes with the cluster's certificate get an
    answer, on 127.0.0.1 too, and no port serves pages.
    """
    slot_count = len(plan.slots)
    workers, threads = (slot_count, 1) if plan.slots[0] == CPU else (1, slot_count)
    with importlib.import_module("dask").config.set(NO_PAGES):
        return distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=threads,
            security=security,
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
            silence_logs=logging.CRITICAL,
            memory_limit=0,
        )


class DaskSeat(Seat):
    """A seat on a Dask worker.

    Args:
        engine: Cluster of the seat.
        address: Address of the worker.
        device: Machine and device, for messages.
        pinned: Device, as its machine knows it.
        threads: Threads of a worker that has not reported its devices yet, else 0; `device` is its machine's name
            until it does.
    """

    def __init__(self, engine: DaskEngine, address: str, device: str, pinned: Device, threads: int = 0) -> None:
        self._engine = engine
        self.address = address
        self.device = device
        self.slot_device = pinned
        self.threads = threads
        self.key = f"{engine.run}/{uuid.uuid4().hex}"

    def replacement(self) -> DaskSeat:
        """Return a new seat that replaces this lost one."""
        return DaskSeat(self._engine, self.address, self.device, self.slot_device)

    def begin(self, candidate: dict[str, Any], folder: str | None) -> Any:
        return self._engine.submit(self, candidate, folder)

    def wait(self, pending: Any, seconds: float) -> dict[str, Any] | None:
        future, answer = pending
        end = time.monotonic() + seconds
        while True:
            try:
                reply: dict[str, Any] | None = answer.get(min(0.1, end - time.monotonic()))
                return reply
            except Empty:
                if not self._engine.is_known(self.address):
                    self._engine.forget(future)
                    raise SeatLost(f"the Dask worker at {self.address} has left the cluster") from None
                if time.monotonic() >= end:
                    raise TimeoutError from None
            except (Exception, asyncio.CancelledError) as error:  # KilledWorker, a broken connection
                raise SeatLost(f"the Dask worker at {self.address} is lost ({type(error).__name__})") from None

    def sign_of_life(self, within: float = ANSWER_SECONDS) -> int | None:
        pid: int | None = self._engine.call(self.address, within, _sign_of_life, self.key)
        return pid

    def kill(self) -> None:
        self._engine.call(self.address, CLOSE_SECONDS, _kill, self.key)

    def close(self) -> None:
        self._engine.call(self.address, CLOSE_SECONDS, _close, self.key)
