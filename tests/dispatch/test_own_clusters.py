"""A cluster that evo-tune starts here: whoever lacks its secret gets no answer, from whatever port."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from slot_helpers import candidate

from evo_tune.dispatch.slot import Task

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

RUN = """
import sys

import psutil

from evo_tune.dispatch import open_slots
from evo_tune.dispatch.clusters.remote import Cluster
from evo_tune.dispatch.devices import CPU, Plan
from evo_tune.dispatch.slot import Task
from evo_tune.genome.trial import Candidate

if __name__ == "__main__":
    (slot,) = open_slots(Task(**{task!r}), Plan((CPU,), 1), cluster=Cluster({backend!r}))
    outcome = slot.run(Candidate(**{candidate!r}))
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        for one in process.net_connections("inet"):
            if one.status == "LISTEN":
                print(process.name(), f"{{one.laddr.ip.removeprefix('::ffff:')}}:{{one.laddr.port}}", end=" ")
    print(outcome.status, flush=True)
    sys.stdin.read()
    slot.close()
"""

PAGES = ("/", "/health", "/metrics", "/info/main/workers.html", "/json/counts.json", "/api/version")


@pytest.fixture
def started(task_of: Callable[..., Task], tmp_path: Path) -> Callable[[str], Any]:
    """Return a function that runs a trial on a cluster of its own: the name of a process by HOST:PORT of its port."""

    @contextlib.contextmanager
    def opened(backend: str) -> Iterator[dict[str, str]]:
        program = tmp_path / "program.py"
        task = vars(task_of("return {'loss': 0.5}"))
        program.write_text(RUN.format(task=task, backend=backend, candidate=vars(candidate())))
        environment = {name: text for name, text in os.environ.items() if not name.startswith("RAY_")}
        pipe = subprocess.PIPE
        with subprocess.Popen(
            [sys.executable, str(program)], stdin=pipe, stdout=pipe, text=True, env=environment
        ) as process:
            assert process.stdout is not None
            *found, status = process.stdout.readline().split()
            assert status == "ok"
            yield dict(zip(found[1::2], found[::2], strict=True))
            process.communicate()

    return opened


def page_of(address: str) -> str | None:
    """Return the first page that a port serves; None if it serves none."""
    for page in PAGES:
        try:
            with urllib.request.urlopen(f"http://{address}{page}", timeout=5.0) as answer:
                return f"{address}{page}: {answer.read(100)!r}"
        except (OSError, http.client.HTTPException):  # 404, 401, or no HTTP at all
            continue
    return None


def is_closed(ports: dict[str, str]) -> None:
    """Check that ports are this machine's own, and serve no page."""
    assert {address.rpartition(":")[0] for address in ports} == {"127.0.0.1"}, ports
    assert [page for page in map(page_of, ports) if page] == []


def test_dasks_ports_want_the_certificate(started: Callable[[str], Any]) -> None:
    import dask
    from distributed import Security
    from distributed.core import rpc

    async def identity(address: str, security: Security) -> object:
        async with rpc(address, connection_args=security.get_connection_args("client")) as other:
            return await asyncio.wait_for(other.identity(), 5.0)

    with started("dask") as ports, dask.config.set({"distributed.comm.timeouts.connect": "3s"}):
        is_closed(ports)
        for address in ports:
            for scheme, security in (("tcp", Security()), ("tls", Security.temporary())):
                with pytest.raises((OSError, TimeoutError, asyncio.TimeoutError)):
                    asyncio.run(identity(f"{scheme}://{address}", security))


@pytest.mark.slow
def test_rays_ports_want_the_token(started: Callable[[str], Any]) -> None:
    code = "import ray, sys; ray.init(sys.argv[1], log_to_driver=False); print(ray.nodes()[0]['Alive'])"
    before = {*Path("/tmp").glob("ray-*")}
    with started("ray") as ports:
        (folder,) = {*Path("/tmp").glob("ray-*")} - before
        assert folder.stat().st_mode & 0o777 == 0o700, "others write in Ray's own folders"
        is_closed(ports)
        (head,) = (address for address, name in ports.items() if name == "gcs_server")
        for mode in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "f" * 64}):
            with contextlib.suppress(subprocess.TimeoutExpired):
                environment = {**os.environ, **mode}
                command = [sys.executable, "-c", code, head]
                asked = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30.0)
                assert "True" not in asked.stdout, mode
    assert not folder.exists()
