"""The storm of benchmarks/chaos.py on a cluster of this machine, which is not the run's own: Dask or Ray.

    stop       one of the cluster's workers is stopped for a while
    host       one of them is killed
    scheduler  the scheduler is killed, and with it the cluster: the run must stop and say so; then there is a new one
    raylet     (Ray) the process that keeps the only node is killed: as for the scheduler
    parent     the run's own process is killed

Here the run goes on after each; in the end it is compared as any other is, with the same run made on two slots of this
machine. It knows how such a cluster is started and which of its processes is what.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
from chaos_checks import Violation, comes_true
from chaos_faults import Chaos

FAULTS = {"dask": ("stop", "host", "scheduler", "parent"), "ray": ("stop", "host", "scheduler", "raylet", "parent")}

LONG = 12
"""Generations at first: a cluster is slow to begin."""

STARTING = 60.0
"""Seconds that a cluster may take until it answers."""

NOTICED = 180.0
"""Seconds in which a run must have noticed that its cluster is gone."""

STARVED = 300.0
"""Seconds without a result after which the cluster is taken to have lost what trains."""

SAID = ("ClusterLost", "no Dask scheduler answers", "no Ray answers")
"""One of these a run must say of it."""

HOSTS = {"dask": "spawn_main", "ray": "ray::"}
"""What the command lines of those processes have in common that trainings run below."""


class ClusterChaos(Chaos):
    """One run on a cluster, and what is done to both.

    Args:
        folder: An empty folder for it all.
        seed: Of the moments and the victims.
        backend: 'dask' or 'ray'.
        faults: Which are thrown; none: all of the backend's FAULTS.
        mutant: See `Chaos`.
    """

    def __init__(self, folder: Path, seed: int, backend: str, faults: Sequence[str] = (), mutant: str = "") -> None:
        super().__init__(folder, seed, faults or FAULTS[backend], mutant=mutant)
        self.backend, self.generations = backend, LONG
        self.members: list[subprocess.Popen[bytes]] = []
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # a Ray that no other machine can reach
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))  # nor another user of this one
        self.cluster = (backend, self.open_cluster())

    def open_cluster(self) -> str:
        """Start a cluster; return its address."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        if self.backend == "ray":
            head = ("ray.scripts.scripts", "start", "--head", "--port", port, "--num-cpus", "2", "--block")
            self.member(*head, "--include-dashboard", "false", "--node-ip-address", "127.0.0.1")
        else:
            self.member("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard")
            workers = ("--nworkers", "2", "--nthreads", "1", "--no-dashboard", "--local-directory", str(self.folder))
            self.member("distributed.cli.dask_worker", f"tcp://127.0.0.1:{port}", *workers)
        end = time.monotonic() + STARTING
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", int(port)), 1.0):
                time.sleep(5.0)  # the workers come after it
                return f"127.0.0.1:{port}"
            time.sleep(0.2)
        raise SystemExit(f"no {self.backend} cluster has started within {STARTING:g} s")

    def member(self, *command: str) -> None:
        nothing = subprocess.DEVNULL
        arguments = [sys.executable, "-m", *command]
        self.members.append(subprocess.Popen(arguments, stdout=nothing, stderr=nothing, start_new_session=True))

    def close_cluster(self) -> None:
        """Kill every process of the cluster."""
        for process in self.family():
            with contextlib.suppress(psutil.Error):
                process.kill()
        for member in self.members:
            member.wait()
        self.members = []

    def family(self) -> list[psutil.Process]:
        """Return the processes of the cluster."""
        found = []
        for member in self.members:
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(member.pid)
                found += [process, *process.children(recursive=True)]
        return found

    def hosts(self) -> list[psutil.Process]:
        """Return those below which trainings run, or will."""
        found = []
        for process in self.family():
            with contextlib.suppress(psutil.Error):
                if HOSTS[self.backend] in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def throw(self, fault: str) -> None:
        assert self.parent is not None
        self.wait_at_work()
        if fault == "parent":
            return super().throw(fault)
        self.thrown[fault] += 1
        hosts = self.hosts()
        if fault == "scheduler":
            self.lose(lambda one: one.pid == self.members[0].pid or "gcs_server" in one.name())
        elif fault == "raylet":
            psutil.Process(self.members[0].pid).suspend()  # it would end all the others
            self.lose(lambda one: one.name() == "raylet")
        elif hosts:
            victim = self.random.choice(hosts)
            with contextlib.suppress(psutil.Error):
                if fault == "host":
                    victim.kill()
                    return
                victim.suspend()
                time.sleep(self.random.uniform(1.0, 8.0))
                victim.resume()

    def wait_at_work(self) -> None:
        """Wait until a result has come through the cluster, which takes seconds, and a moment more.

        Raises:
            Violation: None comes: the cluster may have lost its only machine on a busy computer.
        """
        assert self.parent is not None
        told = self.folder / "told-chaos"
        before = told.stat().st_size if told.exists() else 0
        parent = self.parent

        def has_come() -> bool:
            return parent.poll() is not None or (told.exists() and told.stat().st_size > before)

        if not comes_true(has_come, STARVED):
            raise Violation(f"no result has come through the cluster for {STARVED:g} s of an idle machine")
        time.sleep(self.random.uniform(0.0, 0.5))

    def lose(self, is_needed: Callable[[psutil.Process], bool]) -> None:
        """Kill what holds the cluster together, and let the run go on with a new one.

        Args:
            is_needed: Returns whether a process is killed.

        Raises:
            Violation: The run does not notice.
        """
        assert self.parent is not None
        assert self.parent.stderr is not None
        for process in self.family():
            with contextlib.suppress(psutil.Error):
                if is_needed(process):
                    process.kill()
        parent = self.parent
        if not comes_true(lambda: parent.poll() is not None, NOTICED):
            raise Violation(f"{NOTICED:g} s of an idle machine after its cluster the run has not ended")
        code = parent.returncode
        text = self.parent.stderr.read()
        if code and not any(words in text for words in SAID):
            raise Violation(f"without its cluster the run ended with {code}:\n{text}")
        self.renew()

    def renew(self) -> None:
        """Put a new cluster in the place of one that the run has lost."""
        self.bury()
        self.close_cluster()
        self.cluster = (self.backend, self.open_cluster())

    def extend(self) -> None:
        """As for every run; but on a busy computer Ray may take its only machine for dead, and end it."""
        assert self.parent is not None
        while self.parent.wait() and self.backend == "ray" and not self.is_alive("raylet"):
            self.thrown["starved"] += 1
            self.renew()
            self.parent = self.start()
        super().extend()

    def is_alive(self, name: str) -> bool:
        """Return whether a process of the cluster with this name is alive."""
        with contextlib.suppress(psutil.Error):
            return any(one.name() == name and one.status() != psutil.STATUS_ZOMBIE for one in self.family())
        return False

    def compare_undisturbed(self) -> None:
        self.close_cluster()
        self.cluster = ("joblib", "")
        super().compare_undisturbed()

    def close(self) -> None:
        super().close()
        self.close_cluster()
