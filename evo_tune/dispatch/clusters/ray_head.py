"""A Ray cluster is connected to, or one is begun here that no other machine can reach.

Knows nothing of slots; Ray itself is given, so that this is imported without it. What Ray changes in the process that
connects is put back: its handlers would lose what a run has to save, or wait for a head that is gone.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

from evo_tune.dispatch.devices import Plan
from evo_tune.errors import OptionError

__all__ = ["connect", "head_of", "imported"]

CONNECT = 10.0
"""Seconds that a head has to answer at first."""


def imported() -> Any:
    """Return the module, with what is raised in this process left to who had it before.

    Ray's own hook tells the head of an exception that ends the process: of a head that is gone it waits for an answer
    until Ray does away with the process.

    Raises:
        OptionError: Ray is not installed.
    """
    hook = sys.excepthook
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise OptionError("--backend ray needs Ray: pip install 'evo-tune[ray]'") from None
    finally:
        sys.excepthook = hook


def connect(ray: Any, address: str | None, plan: Plan, ranks: int) -> None:
    """Connect to a cluster, or start one here, which ends with this thread and which no other machine can reach.

    Raises:
        OptionError: There is none at the address.
    """
    if address is not None and (place := _place(address)) is not None:
        try:
            socket.create_connection(place, timeout=CONNECT).close()
        except OSError as error:  # Ray would try for a minute and more
            raise OptionError(f"--address {address}: no Ray answers there ({error})") from None
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


def head_of(ray: Any) -> tuple[str, int] | None:
    """Return where the head's service listens, or None where this version of Ray does not say."""
    try:
        return _place(str(ray.get_runtime_context().gcs_address))
    except AttributeError:
        return None


def _place(address: str) -> tuple[str, int] | None:
    """Return host and port of an address that is made of these; None of another, such as 'auto'."""
    host, _, port = address.rpartition(":")
    return (host.strip("[]"), int(port)) if host and "/" not in host and port.isdecimal() else None


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
