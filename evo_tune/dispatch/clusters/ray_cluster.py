"""Slots on a Ray cluster: an actor a slot, with CPUs or a share of a GPU reserved for it.

Ray places the actors, sets CUDA_VISIBLE_DEVICES for them, and ends them with the run's own process. An actor for
which there is no room yet waits in Ray's queue: its slot is not available until then. An actor whose place is set
aside stays there, idle: what it has reserved nobody gets again, so that Ray looks elsewhere for the next.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import platform
import signal
import threading
import warnings
from collections.abc import Iterator
from typing import Any

from evo_tune.dispatch.clusters.host import Host, Parcel
from evo_tune.dispatch.clusters.remote import ANSWER, CLOSING, Cluster, Engine, Lost, Seat
from evo_tune.dispatch.devices import CPU, Device, Plan
from evo_tune.dispatch.slot import Task
from evo_tune.errors import EvoTuneError, OptionError, RunError

__all__ = ["RayEngine"]


class _Actor:
    """In an actor's process: the slot's host, opened by `open` so that what is wrong with it can be told."""

    def open(self, host: tuple[Any, ...], on_gpu: bool, here: bool) -> tuple[str, str]:
        """Return the name of the device and, if this machine is not fit, why."""
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "") if on_gpu else ""
        device = Device(f"cuda:{visible}", visible) if visible else CPU
        name = device.name if here else f"{platform.node()}/{device.name}"
        try:
            parcel, *limits = host
            self._host = Host(parcel, name, device, *limits)
        except EvoTuneError as error:
            return name, str(error)
        return name, ""

    def run(self, candidate: dict[str, Any], folder: str | None) -> dict[str, Any] | None:
        return self._host.run(candidate, folder)

    def heard(self) -> int | None:
        return self._host.heard()

    def kill(self) -> None:
        self._host.kill()

    def close(self) -> None:
        self._host.close()


class RayEngine(Engine):
    """A Ray cluster.

    Args:
        task: What is to be evaluated.
        cluster: Which one.
        plan: Slots of this machine, for a cluster that is started here.
        timeout: See `LocalSlot`.
        retries: See `LocalSlot`.

    Raises:
        OptionError: Ray is not installed, or none answers at the address.
    """

    def __init__(self, task: Task, cluster: Cluster, plan: Plan, timeout: float | None, retries: int) -> None:
        super().__init__()
        try:
            ray: Any = importlib.import_module("ray")
        except ImportError:
            raise OptionError("--backend ray needs Ray: pip install 'evo-tune[ray]'") from None
        self._ray = ray
        self._here = cluster.address is None
        self._parcel = Parcel.of(task, cluster.run)
        self._host = (self._parcel, timeout, retries)
        self._mine = not ray.is_initialized()
        if self._mine:
            _connect(ray, cluster.address, plan, cluster.ranks)
        resources = ray.cluster_resources()
        self.on_gpu = cluster.devices != "cpu" and resources.get("GPU", 0) > 0
        ranks, cores = cluster.ranks, cluster.ranks * task.threads
        each = ranks if ranks > 1 else 1 / cluster.per_device  # Ray takes no fraction of several
        self._each, self._cores = each, cores
        self._share = {"num_cpus": cores, "num_gpus": each if self.on_gpu else 0}
        self._room = self._places()
        self._lock = threading.Lock()
        self._coming: list[RaySeat] = []
        self._parked: list[RaySeat] = []
        """Seats that are set aside."""
        self._refusal = ""
        """Why the last one was."""
        self._parcel.set_mark()

    @property
    def room(self) -> int:
        return self._room

    def join(self) -> None:
        super().join()
        self._coming.append(self._actor())

    def _actor(self) -> RaySeat:
        actor = self._ray.remote(_Actor).options(max_concurrency=4, max_restarts=0, **self._share).remote()
        return RaySeat(self._ray, actor, actor.open.remote(self._host, self.on_gpu, self._here))

    def has_seat(self) -> bool:
        return self._hopeless or any(seat.ready for seat in self._coming)

    def take(self) -> Seat | None:
        with self._lock:
            for seat in [seat for seat in self._coming if seat.ready]:
                self._coming.remove(seat)
                if (fit := self._checked(seat)) is not None:
                    return fit
            if self._hopeless:
                raise RunError(f"no device of the cluster can be used; the last one was set aside: {self._refusal}")
        return None

    @property
    def _hopeless(self) -> bool:
        """Whether everything that there is was set aside."""
        return len(self._parked) >= self._room and len(self._parked) >= self._places()

    def _places(self) -> int:
        """Return how many actors the cluster has room for now."""
        resources = self._ray.cluster_resources()
        return int(resources.get("GPU", 0) / self._each if self.on_gpu else resources.get("CPU", 0) / self._cores)

    def refuse(self, seat: Seat, why: str) -> None:
        assert isinstance(seat, RaySeat)
        seat.stop()
        with self._lock:
            self._park(seat, f"{seat.device}: {why}")
            self._coming.append(self._actor())

    def _park(self, seat: RaySeat, why: str) -> None:
        self._parked.append(seat)
        self._refusal = why
        warnings.warn(f"set aside: {why}", stacklevel=3)

    def _checked(self, seat: RaySeat) -> Seat | None:
        """Return the seat if its machine is fit; otherwise set it aside and ask for another."""
        try:
            seat.device, refusal = self._ray.get(seat.opened, timeout=ANSWER)
        except self._ray.exceptions.RayError:
            self._coming.append(self._actor())
            return None
        if not refusal:
            return seat
        self._park(seat, refusal)
        self._coming.append(self._actor())
        return None

    def give_up(self, seat: Seat) -> None:
        with self._lock:
            self._coming.append(self._actor())

    def close(self) -> None:
        self._parcel.remove_mark()
        for seat in (*self._parked, *self._coming):
            seat.end()
        if self._mine:
            self._ray.shutdown()


def _connect(ray: Any, address: str | None, plan: Plan, ranks: int) -> None:
    """Connect to a cluster, or start one here, which ends with this thread and which no other machine can reach.

    Raises:
        OptionError: There is none at the address.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    here: dict[str, Any] = {}
    if address is None:
        gpus = {id for device in plan.slots for id in device.visible.split(",") if id}
        cores = len(plan.slots) * plan.threads * ranks
        here = {"num_cpus": cores, "num_gpus": len(gpus), "include_dashboard": False}
    with _own_signals(), _to_itself(ray) if here else contextlib.nullcontext():
        try:
            ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **here)
        except (OSError, RuntimeError, ValueError) as error:
            raise OptionError(f"--address {address or 'local'}: no Ray answers there ({error})") from error


@contextlib.contextmanager
def _to_itself(ray: Any) -> Iterator[None]:
    """Have a Ray that starts now listen to this machine only, as it does by itself on macOS and Windows.

    Elsewhere it takes no address of that kind, not even one that is asked for.
    """
    constants, name = importlib.import_module("ray._private.ray_constants"), "ENABLE_RAY_CLUSTER"
    before, variable = getattr(constants, name, None), "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
    given = os.environ.get(variable)
    os.environ[variable] = "0"  # for the processes of Ray; this one may have read it long ago
    setattr(constants, name, False)
    try:
        yield
    finally:
        setattr(constants, name, before)
        os.environ.pop(variable)
        if given is not None:
            os.environ[variable] = given
    if not ray.is_initialized():
        return
    address = str(ray.nodes()[0]["NodeManagerAddress"])
    if not address.startswith("127."):
        warnings.warn(f"this version of Ray can be reached from other machines, at {address}", stacklevel=2)


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Keep the handler of SIGTERM, which Ray would replace by an exit that saves nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class RaySeat(Seat):
    """An actor.

    Args:
        ray: The module.
        actor: Its handle.
        opened: What its `open` will give.
    """

    def __init__(self, ray: Any, actor: Any, opened: Any) -> None:
        self._ray, self._actor = ray, actor
        self.opened = opened
        self.device = "ray"

    @property
    def ready(self) -> bool:
        """Whether Ray has found a place for it."""
        return bool(self._ray.wait([self.opened], timeout=0)[0])

    def begin(self, candidate: dict[str, Any], folder: str | None) -> Any:
        return self._actor.run.remote(candidate, folder)

    def wait(self, pending: Any, seconds: float) -> dict[str, Any] | None:
        try:
            reply: dict[str, Any] | None = self._ray.get(pending, timeout=seconds)
            return reply
        except self._ray.exceptions.GetTimeoutError:
            raise TimeoutError from None
        except self._ray.exceptions.RayError as error:
            raise Lost(f"the Ray actor on {self.device} is lost ({type(error).__name__})") from None

    def heard(self, within: float = ANSWER) -> int | None:
        pid: int | None = self._ask(self._actor.heard, within)
        return pid

    def kill(self) -> None:
        with contextlib.suppress(Exception):
            self._ask(self._actor.kill, CLOSING)
        self.end()

    def close(self) -> None:
        self.stop()
        self.end()

    def stop(self) -> None:
        """Let the training's process go, and keep the place."""
        with contextlib.suppress(Exception):
            self._ask(self._actor.close, CLOSING)

    def end(self) -> None:
        """Let the place go."""
        with contextlib.suppress(Exception):  # Ray may be gone already
            self._ray.kill(self._actor)

    def _ask(self, method: Any, within: float) -> Any:
        try:
            return self._ray.get(method.remote(), timeout=within)
        except self._ray.exceptions.RayError as error:
            raise Lost(f"the Ray actor on {self.device} does not answer ({type(error).__name__})") from None
