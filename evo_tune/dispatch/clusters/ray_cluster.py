"""Slots on a Ray cluster: one actor for each slot, with CPUs or a share of a GPU reserved for it.

Ray places the actors, sets CUDA_VISIBLE_DEVICES for them, and ends them with the run's own process. An actor without
resources waits in Ray's queue, and its slot is not available until Ray places it. An actor on a device that is set
aside stays there, idle: it keeps its resources reserved, so that Ray places the next actor elsewhere.

Ray waits a minute for a lost head and then ends the process that asked, and it waits for ever for a node where none is
alive. So a thread here watches both. Nothing is asked of a silent cluster, and a long silence means a lost one. Only
that thread makes requests that may stay unanswered, and nothing waits for it.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import logging
import os
import platform
import signal
import socket
import sys
import threading
import time
import warnings
from typing import Any

from evo_tune.dispatch.clusters.host import SlotServer
from evo_tune.dispatch.clusters.remote import ANSWER_SECONDS, CLOSE_SECONDS, Cluster, Engine, Seat, SeatLost
from evo_tune.dispatch.devices import CPU, Device
from evo_tune.dispatch.slot import Task
from evo_tune.errors import EvoTuneError, OptionError, explain_error, require_extra

# Seconds that a head has to answer the first connection.
CONNECT = 10.0


def import_ray() -> Any:
    """Import Ray and return the module; keep this process's exception hook.

    Ray's own hook reports a fatal exception to the head. With a lost head it blocks until Ray kills the process.

    Raises:
        UsageError: Ray is not installed.
    """
    hook = sys.excepthook
    try:
        with require_extra("--backend ray", "ray"):
            return importlib.import_module("ray")
    finally:
        sys.excepthook = hook


def connect(ray: Any, address: str) -> None:
    """Connect to a running cluster.

    Raises:
        OptionError: No Ray cluster answers at the address.
    """
    if (place := _place(address)) is not None:
        with explain_error(OptionError, f"--address {address}: no Ray answers there"):
            socket.create_connection(place, timeout=CONNECT).close()  # Ray itself would retry for over a minute
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    sigterm_handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        raise OptionError(f"--address {address}: no Ray answers there ({error})") from error
    finally:
        if threading.current_thread() is threading.main_thread():  # Ray's own handler exits and saves nothing
            signal.signal(signal.SIGTERM, sigterm_handler)


def _place(address: str) -> tuple[str, int] | None:
    """Return host and port of an address HOST:PORT; None for any other, such as 'auto'."""
    host, _, port = address.rpartition(":")
    return (host.strip("[]"), int(port)) if host and "/" not in host and port.isdecimal() else None


# Seconds between two checks of the cluster.
LOOK_EVERY = 1.0

# Seconds without an answer of the head, or without a live node, after which the cluster counts as lost. Ray itself ends
# this process after 60 s without an answer of the head.
CLUSTER_TIMEOUT = 20.0


class _Actor(SlotServer):
    """A Ray actor with the slot's server, which `open` initialises, so that its error can be returned."""

    def __init__(self) -> None:
        """Initialise nothing."""

    def open(self, arguments: tuple[Any, ...], on_gpu: bool) -> tuple[str, str]:
        """Return the device's name and the reason why this machine cannot be used, '' if it can."""
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "") if on_gpu else ""
        device = Device(f"cuda:{visible}", visible) if visible else CPU
        name = f"{platform.node()}/{device.name}"
        try:
            packed_task, *limits = arguments
            super().__init__(packed_task, name, device, *limits)
        except EvoTuneError as error:
            return name, str(error)
        return name, ""


class RayEngine(Engine["RaySeat"]):
    """Slots on a Ray cluster, each of them an actor; a program that has started Ray needs no address.

    Args:
        task: Settings common to all candidates.
        cluster: Address and options of the cluster.
        timeout: Time limit of one evaluation, in seconds; None for no limit.
        retries: Number of retries after a crash of a worker process.

    Raises:
        UsageError: Ray is not installed, or no Ray cluster answers at the address.
    """

    def __init__(self, task: Task, cluster: Cluster, timeout: float | None, retries: int) -> None:
        self.ray = ray = import_ray()
        super().__init__(task, cluster)
        # Whether the head answered the last check, and a node was alive.
        self.connected = True
        self._no_head = self._silence = f"the Ray head at {self.place} does not answer"
        self._server_arguments = (self.packed_task, timeout, retries)
        self._mine = not ray.is_initialized()
        if self._mine:
            if cluster.address is None:
                raise OptionError("--backend ray needs a cluster: give --address, or leave out --backend")
            connect(ray, cluster.address)
        self._on_gpu = cluster.devices != "cpu" and ray.cluster_resources().get("GPU", 0) > 0
        ranks = cluster.ranks
        gpus = ranks if ranks > 1 else 1 / cluster.per_device  # Ray allows fractions only below one GPU
        # Resources of one actor.
        self._share = {"num_cpus": ranks * task.threads, "num_gpus": gpus if self._on_gpu else 0}
        self.seats_at_start = self._count_places()
        # Seats that are set aside.
        self._parked: list[RaySeat] = []
        # Number of actors to create as soon as the head answers.
        self._owed = 0
        # Largest number of actors that the cluster had resources for, at the start or at the last check.
        self._places = self.seats_at_start
        # Host and port of the head's service; None if this version of Ray does not report them.
        self._head = _place(str(getattr(ray.get_runtime_context(), "gcs_address", "")))
        self._woken = threading.Event()
        self.start()

    def join(self) -> None:
        super().join()
        self._owe()

    def _owe(self) -> None:
        """Request one more actor."""
        with self._lock:
            self._owed += 1
        self._woken.set()

    def watch(self) -> None:
        """Check the head until the engine closes; while it answers, create the requested actors."""
        while not self._closing.is_set():
            try:
                answers = self._answers()
                self.connected = answers and any(node["Alive"] for node in self.ray.nodes())
                if self.connected:
                    self._last_answer_time = time.monotonic()
                    self._places = max(self.seats_at_start, self._count_places())
                    self._create_actors()
                else:
                    self._silence = f"no node of the Ray cluster at {self.place} is alive" if answers else self._no_head
            except self.ray.exceptions.RayError:  # retry a second later, unless the head is gone
                pass
            except Exception as error:  # `take` raises it
                self._failure = error
                return
            self._woken.wait(LOOK_EVERY)
            self._woken.clear()

    def _create_actors(self) -> None:
        """Create the requested actors."""
        while self._owed and not self._closing.is_set():
            actor = self.ray.remote(_Actor).options(max_concurrency=4, max_restarts=0, **self._share).remote()
            opened = actor.open.remote(self._server_arguments, self._on_gpu)
            with self._lock:
                self._owed -= 1
                self._free.append(RaySeat(self, actor, opened))

    def _answers(self) -> bool:
        """Return whether the head node accepts a connection."""
        if self._head is not None:
            try:
                socket.create_connection(self._head, timeout=LOOK_EVERY).close()
            except OSError:
                return False
        return True

    @property
    def loss(self) -> str:
        lost = time.monotonic() - self._last_answer_time > CLUSTER_TIMEOUT and not self._closing.is_set()
        return self._silence if lost else ""

    @property
    def all_devices_excluded(self) -> bool:
        return self.connected and 0 < self._places <= len(self._parked)

    def next_seat(self) -> RaySeat | None:
        while (seat := super().next_seat()) is not None:
            with contextlib.suppress(self.ray.exceptions.RayError):
                seat.device, refusal = self.ray.get(seat.opened, timeout=ANSWER_SECONDS)
                if not refusal:
                    return seat
                self._park(seat, refusal)
            self._owe()
        return None

    def _count_places(self) -> int:
        """Return how many actors the cluster has room for now."""
        resource, share = ("GPU", "num_gpus") if self._on_gpu else ("CPU", "num_cpus")
        return int(self.ray.cluster_resources().get(resource, 0) / self._share[share])

    def exclude_device(self, seat: RaySeat, why: str) -> None:
        seat.stop()
        self._park(seat, f"{seat.device}: {why}")
        self._owe()

    def _park(self, seat: RaySeat, why: str) -> None:
        with self._lock:
            self._parked.append(seat)
            self._exclusion_reason = why
        warnings.warn(f"set aside: {why}", stacklevel=3)

    def note_lost(self, seat: RaySeat) -> None:
        self._owe()

    def close(self) -> None:
        super().close()
        self._woken.set()
        self._watcher.join(CLOSE_SECONDS)
        self.connected = self.connected and not self._watcher.is_alive() and self._answers()
        for seat in (*self._parked, *self._free):
            seat.end()
        if self._mine and self.connected:
            # If another thread frees a reference of Ray while Ray ends, Ray ends this process with status 1.
            was_enabled = gc.isenabled()
            gc.collect()
            gc.disable()
            try:
                self.ray.shutdown()
            finally:
                if was_enabled:
                    gc.enable()
        elif self._mine:  # shutdown may wait for the lost head; Ray's processes end by themselves
            atexit.unregister(self.ray.shutdown)
            ending = threading.Thread(target=self.ray.shutdown, name="ray shutdown", daemon=True)
            ending.start()
            ending.join(CLOSE_SECONDS)


class RaySeat(Seat):
    """A seat in a Ray actor.

    Args:
        engine: Cluster of the seat; a lost one is asked nothing.
        actor: Handle of the actor.
        opened: Ray's reference to the result of its `open`.
    """

    def __init__(self, engine: RayEngine, actor: Any, opened: Any) -> None:
        self._engine, self._ray, self._actor = engine, engine.ray, actor
        self.opened = opened
        self.device = "ray"

    @property
    def ready(self) -> bool:
        """Whether Ray has placed the actor."""
        return bool(self._ray.wait([self.opened], timeout=0)[0])

    def begin(self, candidate: dict[str, Any], folder: str | None) -> Any:
        self._check_cluster()
        return self._actor.run.remote(candidate, folder)

    def wait(self, pending: Any, seconds: float) -> dict[str, Any] | None:
        try:
            reply: dict[str, Any] | None = self._ray.get(pending, timeout=seconds)
            return reply
        except self._ray.exceptions.GetTimeoutError:
            self._check_cluster()
            raise TimeoutError from None
        except self._ray.exceptions.RayError as error:
            raise SeatLost(f"the Ray actor on {self.device} is lost ({type(error).__name__})") from None

    def call(self, method: str, seconds: float) -> Any:
        self._check_cluster()
        try:
            return self._ray.get(getattr(self._actor, method).remote(), timeout=seconds)
        except self._ray.exceptions.RayError as error:
            raise SeatLost(f"the Ray actor on {self.device} does not answer ({type(error).__name__})") from None

    def _check_cluster(self) -> None:
        if self._engine.loss:  # a surviving actor still answers, until Ray ends this process
            raise SeatLost("the Ray cluster is gone")

    def kill(self) -> None:
        with contextlib.suppress(Exception):  # Ray may be gone already
            super().kill()
        self.end()

    def close(self) -> None:
        self.stop()
        self.end()

    def stop(self) -> None:
        """End the worker, and keep the place reserved."""
        with contextlib.suppress(Exception):
            super().close()

    def end(self) -> None:
        """Kill the actor and free its place."""
        if self._engine.connected:
            with contextlib.suppress(Exception):  # Ray may be gone already
                self._ray.kill(self._actor)
