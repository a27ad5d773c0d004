"""Slots on a Dask cluster: one for each thread of a worker, or for each GPU that a worker sees.

The user starts scheduler and workers (`dask worker`, dask-jobqueue, dask-cuda). A slot of the run uses one seat: a
`SlotServer` in the process of a worker, known by its key. An evaluation is a future bound to one worker. Small messages
bypass the task queue by `Client.run`. Every call has a deadline. A worker that misses it is suspended until it answers;
a device that cannot be used is set aside for good. A scheduler that stays silent means a lost cluster.
"""

import asyncio
import contextlib
import functools
import importlib
import json
import signal
import threading
import time
import uuid
import warnings
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures import wait as wait_for_futures
from typing import Any

from evo_tune.dispatch.clusters.host import SlotServer, list_slot_devices
from evo_tune.dispatch.clusters.remote import (
    ANSWER_SECONDS,
    CLOSE_SECONDS,
    Cluster,
    Engine,
    Seat,
    SeatLeft,
    SeatLost,
)
from evo_tune.dispatch.devices import Device
from evo_tune.dispatch.slot import Task
from evo_tune.errors import OptionError, RunError, require_extra
from evo_tune.text import one_line

# Seconds between two reads of the list of workers.
LOOK_EVERY = 0.5

# Seconds that a scheduler has to answer, also after its connection breaks.
CONNECT_TIMEOUT = 10.0

# Seconds without an answer after which the scheduler counts as lost.
SCHEDULER_TIMEOUT = 30.0

# Seconds in which the scheduler of a scheduler file must answer: a job may start both at the same time.
FILE_TIMEOUT = 60.0

# Maximum bytes of a scheduler file.
LARGEST_FILE = 1 << 20

# Joining workers that are asked in parallel.
MAX_PARALLEL_JOINS = 16

# On a worker: its slot servers by seat key; None marks a closed seat, so that late messages do not reopen it.
_servers: dict[str, SlotServer | None] = {}

_servers_lock = threading.Lock()


# ---------------------------------------------------------------- on a worker


def _run(
    key: str, server_arguments: tuple[Any, ...], candidate: dict[str, Any], folder: str | None
) -> dict[str, Any] | None:
    """Evaluate a candidate in the seat of this key; its first candidate opens it."""
    import distributed

    distributed.secede()  # type: ignore[no-untyped-call] # leave the pool, so that its threads do not limit us
    with _servers_lock:
        if key not in _servers:
            try:
                _servers[key] = SlotServer(*server_arguments)
            except RunError as error:
                return {"unfit": str(error)}  # as from `SlotServer.run`
        server = _servers[key]
    return None if server is None else server.run(candidate, folder)


def _call(method: str, *keys: str) -> int | None:
    """Call `renew_lease`, `kill` or `close` of the seats with these keys; return the last result.

    The last two close a seat for good.
    """
    answer: int | None = None
    for key in keys:
        server = _servers.get(key)
        if method != "renew_lease":
            _servers[key] = None
        if server is not None:
            answer = getattr(server, method)()
    return answer


def _close_worker(worker: Any, number: int, frame: Any) -> None:
    """Close a worker on a signal; by itself it would end without telling the scheduler, as if its machine had died."""
    signal.signal(number, signal.SIG_DFL)
    worker.loop.add_callback(worker.close, timeout=CLOSE_SECONDS, executor_wait=False, reason=f"signal-{number}")


def _prepare_worker(run: str, device_request: tuple[Any, ...], dask_worker: Any = None) -> list[Device]:
    """Kill the training runs of earlier sessions of the same run; return the device of each slot.

    A session whose parent died leaves them behind. `device_request` has the arguments of `list_slot_devices`.
    Dask passes its worker, which from now on closes when its process gets SIGTERM.
    """
    with contextlib.suppress(ValueError):  # a worker in a thread of another program
        signal.signal(signal.SIGTERM, functools.partial(_close_worker, dask_worker))
    _call("kill", *(key for key, server in list(_servers.items()) if server is not None and key.startswith(f"{run}/")))
    return list_slot_devices(*device_request)


# ---------------------------------------------------------------- in the parent


class DaskEngine(Engine["DaskSeat"]):
    """A Dask cluster.

    Args:
        task: Settings common to all candidates.
        cluster: Address and options of the cluster.
        timeout: See `LocalSlot`.
        retries: See `LocalSlot`.

    Raises:
        UsageError: Dask is not installed, or no scheduler answers at the address.
    """

    def __init__(self, task: Task, cluster: Cluster, timeout: float | None, retries: int) -> None:
        with require_extra("--backend dask", "dask"):
            distributed: Any = importlib.import_module("distributed")
        if not cluster.flag:
            raise OptionError("--backend dask needs a cluster: give --address or --scheduler-file")
        super().__init__(task, cluster)
        self.limits = (timeout, retries)
        try:
            self.client = _connect(distributed, cluster)
        except (OSError, ValueError, TimeoutError) as error:
            raise OptionError(f"{cluster.flag}: no Dask scheduler answers there ({one_line(str(error))})") from None
        # Addresses of the current workers.
        self.workers: set[str] = set()
        # Number of usable devices, by worker address.
        self._usable_devices: dict[str, int] = {}
        # Seats of workers that do not answer, by worker address.
        self._silent: dict[str, list[DaskSeat]] = {}
        try:
            self._update_workers()
            self.seats_at_start = len(self._free)
        except SeatLost as error:
            self.close()
            raise OptionError(f"{cluster.flag}: the Dask scheduler there gives {error}") from None
        self.start()

    def watch(self) -> None:
        while not self._closing.wait(LOOK_EVERY):
            with contextlib.suppress(SeatLost):  # no answer: try again at the next look
                self._update_workers()
                self._last_answer_time = time.monotonic()
            for address in list(self._silent):
                with contextlib.suppress(SeatLost):
                    self._retry_silent_worker(address)

    def _update_workers(self) -> None:
        """Add the workers that have joined, and remove those that have left."""
        workers = self.ask_within(ANSWER_SECONDS, lambda: self.client.scheduler.identity(n_workers=-1))["workers"]
        if new := [*(workers.keys() - self._usable_devices.keys() - self._silent.keys())]:
            with ThreadPoolExecutor(MAX_PARALLEL_JOINS) as pool:
                list(pool.map(self._add_worker, new, [workers[address] for address in new]))
        with self._lock:
            self.workers = {*workers}
            self._free = [seat for seat in self._free if seat.address in workers]
            self._silent = {address: seats for address, seats in self._silent.items() if address in workers}
            self._usable_devices = {
                address: count for address, count in self._usable_devices.items() if address in workers
            }

    def _add_worker(self, address: str, facts: dict[str, Any]) -> None:
        cluster = self._cluster_settings
        device_request = (cluster.devices, cluster.per_device, int(facts["nthreads"]), cluster.ranks)
        try:
            devices = self.call(address, ANSWER_SECONDS, _prepare_worker, cluster.run, device_request)
        except SeatLost:  # `_update_workers` adds it once it has answered `_retry_silent_worker`
            with self._lock:
                self._silent.setdefault(address, [])
            return
        except Exception as error:  # evo-tune is not installed there, or a requested GPU is missing
            self._set_usable_devices(address, 0, f"the Dask worker at {address} cannot be used: {error}")
            return
        with self._lock:
            self._usable_devices[address] = len(devices)
            self._free += [DaskSeat(self, address, f"{facts['host']}/{device.name}", device) for device in devices]

    def _retry_silent_worker(self, address: str) -> None:
        """Ask a silent worker again; if it answers, kill its lost training runs and reuse its seats."""
        keys = [seat.key for seat in self._silent.get(address, [])]
        self.ask_within(ANSWER_SECONDS, lambda: self.client.run(_call, "kill", *keys, workers=[address]))
        with self._lock:
            self._free += [seat.replacement() for seat in self._silent.pop(address, [])]

    def ask(self, request: Callable[[], Awaitable[Any]]) -> Future[Any]:
        """Call `request` in the client's own thread, and await its result there; return the pending answer."""

        async def answer() -> Any:
            return await request()

        return asyncio.run_coroutine_threadsafe(answer(), self.client.loop.asyncio_loop)

    def ask_within(self, seconds: float, request: Callable[[], Awaitable[Any]]) -> Any:
        """Return the answer to a request; see `ask`.

        Raises:
            SeatLost: No answer came within `seconds`, or the connection is broken.
        """
        try:
            return self.ask(lambda: asyncio.wait_for(request(), seconds)).result(seconds)
        except (OSError, TimeoutError, asyncio.TimeoutError, FutureTimeoutError) as error:
            raise SeatLost(f"no answer within {seconds:g} s ({type(error).__name__})") from None
        except (RuntimeError, AttributeError, CancelledError) as error:
            raise SeatLost(f"no connection ({error})") from None  # closed, or about to connect again

    def call(self, address: str, seconds: float, function: Any, *args: Any) -> Any:
        """Have a worker call a function at once, past its task queue; return the result.

        Raises:
            SeatLost: The worker has left, or does not answer within `seconds`.
        """
        if address in self._silent or not self.connected:
            raise SeatLost(f"the Dask worker at {address} does not answer")
        try:
            return self.ask_within(seconds, lambda: self.client.run(function, *args, workers=[address]))[address]
        except KeyError:
            raise SeatLost(f"the Dask worker at {address} is not there") from None
        except SeatLost as error:
            if self.connected and address in self.workers:
                with self._lock:
                    is_new = address not in self._silent
                    waiting = [seat for seat in self._free if seat.address == address]
                    self._free = [seat for seat in self._free if seat.address != address]
                    self._silent.setdefault(address, []).extend(waiting)
                if is_new and not self._closing.is_set():
                    text = f"the Dask worker at {address} is suspended until it answers: {error}"
                    warnings.warn(text, stacklevel=2)
            raise SeatLost(f"the Dask worker at {address} does not answer: {error}") from None

    @property
    def connected(self) -> bool:  # type: ignore[override] # the client knows
        return bool(self.client.status == "running")

    def exclude_device(self, seat: "DaskSeat", why: str) -> None:
        seat.close()
        remaining = max(0, self._usable_devices.get(seat.address, 0) - 1)
        self._set_usable_devices(seat.address, remaining, f"{seat.device}: {why}")

    def _set_usable_devices(self, address: str, remaining: int, why: str) -> None:
        """Note how many devices of a worker remain, and warn why one is set aside for good."""
        with self._lock:
            self._usable_devices[address] = remaining
            self._exclusion_reason = why
        warnings.warn(f"set aside: {why}", stacklevel=3)

    @property
    def all_devices_excluded(self) -> bool:
        # A worker that has not reported its devices yet may have some.
        return bool(self.workers) and not any(self._usable_devices.get(address, 1) for address in self.workers)

    @property
    def loss(self) -> str:
        silent = time.monotonic() - self._last_answer_time > SCHEDULER_TIMEOUT
        lost = not self._closing.is_set() and (silent or self.client.status in ("closing", "closed"))
        return f"the Dask scheduler at {self.place} does not answer" if lost else ""

    def note_lost(self, seat: "DaskSeat") -> None:
        with self._lock:
            if seat.address in self._silent:
                self._silent[seat.address].append(seat)
            elif seat.address in self.workers:
                self._free.append(seat.replacement())

    def close(self) -> None:
        super().close()
        with contextlib.suppress(OSError, TimeoutError, asyncio.TimeoutError, RuntimeError):  # it may be gone
            self.client.close(timeout=CLOSE_SECONDS)

    def lost_seat(self, address: str) -> SeatLost:
        """Return the error for a worker that has left: `SeatLeft` if it announced its end, as a signal makes it do."""
        events: Any = ()
        with contextlib.suppress(SeatLost):
            events = self.ask_within(CLOSE_SECONDS, lambda: self.client.scheduler.events(topic=address))
        closed = any(isinstance(event, dict) and event.get("action") == "closing-worker" for _, event in events)
        return (SeatLeft if closed else SeatLost)(f"the Dask worker at {address} has left the cluster")


def _connect(distributed: Any, cluster: Cluster) -> Any:
    """Return a client of a running scheduler. A scheduler file may come later, or be that of an earlier scheduler.

    Raises:
        OptionError: The address needs a certificate.
        OSError: No scheduler answers at the address, or at that of the file within FILE_TIMEOUT seconds.
        ValueError: The address, or the content of the file, is malformed.
    """
    end = time.monotonic() + (FILE_TIMEOUT if cluster.scheduler_file is not None else 0.0)
    while True:
        try:
            address = cluster.address or read_scheduler_file(cluster.scheduler_file or "")
            if address.startswith("tls://"):
                _check_certificate(distributed, cluster.flag)
            return distributed.Client(address, timeout=CONNECT_TIMEOUT, set_as_default=False)
        except (OSError, ValueError):
            if time.monotonic() > end:
                raise
            time.sleep(LOOK_EVERY)


def read_scheduler_file(path: str) -> str:
    """Return the address in a file that `dask scheduler --scheduler-file` wrote.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is something else.
    """
    with open(path, "rb") as file:
        text = file.read(LARGEST_FILE + 1)
    try:
        address = json.loads(text)["address"] if len(text) <= LARGEST_FILE else None
    except (ValueError, KeyError, TypeError, RecursionError):
        address = None
    if not isinstance(address, str) or not address.isprintable():
        raise ValueError("expected the file that `dask scheduler --scheduler-file` writes, with an address")
    return address


def _check_certificate(distributed: Any, flag: str) -> None:
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
        raise OptionError(f"{flag} needs a certificate ({reason}): set {names} to its files")


class DaskSeat(Seat):
    """A seat on a Dask worker.

    Args:
        engine: Cluster of the seat.
        address: Address of the worker.
        device: Machine and device, for messages.
        slot_device: Device, as its machine knows it.
    """

    def __init__(self, engine: DaskEngine, address: str, device: str, slot_device: Device) -> None:
        self._engine = engine
        self.address = address
        self.device = device
        self.slot_device = slot_device
        self.key = f"{engine.packed_task.run}/{uuid.uuid4().hex}"

    def replacement(self) -> "DaskSeat":
        """Return a new seat that replaces this lost one."""
        return DaskSeat(self._engine, self.address, self.device, self.slot_device)

    def begin(self, candidate: dict[str, Any], folder: str | None) -> Any:
        server_arguments = (self._engine.packed_task, self.device, self.slot_device, *self._engine.limits)
        arguments = (self.key, server_arguments, candidate, folder)
        try:
            future = self._engine.client.submit(
                _run, *arguments, workers=[self.address], allow_other_workers=False, pure=False
            )
            return future, self._engine.ask(lambda: future)
        except Exception as error:  # the client or its connection is closed
            raise SeatLost(f"the Dask worker at {self.address} cannot be reached ({type(error).__name__})") from None

    def wait(self, pending: Any, seconds: float) -> dict[str, Any] | None:
        future, answer = pending
        end = time.monotonic() + seconds
        while not wait_for_futures([answer], min(0.1, max(0.0, end - time.monotonic()))).done:
            if self.address not in self._engine.workers:
                with contextlib.suppress(SeatLost):
                    self._engine.ask_within(CLOSE_SECONDS, lambda: self._engine.client.cancel([future]))
                raise self._engine.lost_seat(self.address)
            if time.monotonic() >= end:
                raise TimeoutError
        try:
            reply: dict[str, Any] | None = answer.result()
            return reply
        except Exception as error:  # KilledWorker, a broken connection, a cancelled future
            raise SeatLost(f"the Dask worker at {self.address} is lost ({type(error).__name__})") from None

    def call(self, method: str, seconds: float) -> Any:
        return self._engine.call(self.address, seconds, _call, method, self.key)
