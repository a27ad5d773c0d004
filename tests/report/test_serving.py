"""`evo-tune watch`: a page that follows a run, for whoever has its address, and for nobody else."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evo_tune.store.run_folders import open_locked_journal
from tests.conftest import cut_copy
from tests.extras import need
from tests.report.conftest import Made, Open


@pytest.fixture
def run(made: Made, tmp_path: Path) -> Path:
    return cut_copy(made(), tmp_path / "store" / "going", 160)


@pytest.fixture
def address(run: Path) -> Iterator[str]:
    """Where a run is watched, while another process holds its lock."""
    need("web")
    journal = open_locked_journal(run)
    words = [sys.executable, "-m", "evo_tune", "watch", "going", "--store", str(run.parent)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = process.stdout.readline()
        assert told.startswith("open http://127.0.0.1:"), told
        yield told.split()[1]
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) in (0, 130)
    journal.close()


def ask(address: str, method: str = "GET", **headers: str) -> tuple[int, str, Any]:
    request = urllib.request.Request(address, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read().decode(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, "", error.headers


def test_only_who_has_the_address_is_answered_and_nothing_is_written(run: Path, address: str) -> None:
    before = sorted((path.name, path.stat().st_mtime_ns) for path in run.iterdir())
    status, page, headers = ask(address)
    assert status == 200
    assert "<h1>going</h1>" in page
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["Referrer-Policy"] == "no-referrer"
    root, token = address.rsplit("/", 2)[:2]
    assert len(token) > 20
    strange = [
        "/",
        "/x/",
        f"/{token[:-1]}/",
        f"/{token}x/",
        "/changes",
        f"/x/changes?since={token}",
        "/x/plotly.min.js",
    ]
    for path in strange:
        assert ask(root + path)[0] == 404, path
    assert ask(address, Host="evil.example")[0] == 400, "so would a page elsewhere ask"
    for method in ("POST", "PUT", "DELETE"):
        assert ask(address, method)[0] in (404, 405)
    assert ask(f"{address}../../etc/passwd")[0] == 404
    told = json.loads(ask(f"{address}changes?since=")[1])
    assert told["order"][:2] == ["now", "verdict"]
    again = json.loads(ask(f"{address}changes?since={told['version']}")[1])
    assert list(again["parts"]) == ["now"], "what has not changed is not sent again"
    assert sorted((path.name, path.stat().st_mtime_ns) for path in run.iterdir()) == before


def impatient(page: Any) -> None:
    """Have a page ask ten times as often as its two seconds."""
    page.add_init_script("const later = setTimeout; window.setTimeout = (call, wait = 0) => later(call, wait / 10)")


@pytest.mark.slow
@pytest.mark.xdist_group("browser")
def test_the_page_follows_the_run(run: Path, address: str, made: Made, browse: Open) -> None:
    opened = browse(address, before=impatient)
    page = opened.page
    before = opened.marks("history-0")
    assert "Not running" in page.locator("#state").inner_text()
    lines = (made().folder / "_journal.jsonl").read_bytes().splitlines(keepends=True)
    with (run / "_journal.jsonl").open("ab") as journal:
        journal.write(b"".join(lines[160:]))
    page.locator("#state", has_text="Ended: the limit of 80 trials is reached").wait_for(timeout=30_000)
    opened.until(f"document.querySelectorAll('#history-0 .trace.scatter .point').length > {before}")
    assert opened.said == []
    assert all(asked.startswith(address) for asked in opened.asked)


def test_without_the_extra_it_says_what_to_install(run: Path) -> None:
    code = (
        "import sys; sys.modules['starlette'] = None; sys.argv = ['evo-tune', 'watch', 'going', '--store', "
        f"{str(run.parent)!r}]; from evo_tune.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "pip install 'evo-tune[web]'" in done.stderr


def test_idle_connections_neither_fill_the_server_nor_stay(address: str) -> None:
    """1,400 connections that ask nothing used to keep everybody else out."""
    from evo_tune.report import connections

    port = int(address.split(":")[2].split("/")[0])
    idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(300)]
    try:
        assert ask(address)[0] == 200
        ended = sum(is_ended(connection) for connection in idle)
        assert ended >= 300 - connections.MOST
    finally:
        for connection in idle:
            connection.close()


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: "])
def test_a_connection_whose_request_does_not_come_ends(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    import uvicorn

    from evo_tune.report import connections

    monkeypatch.setattr(connections, "SECONDS", 0.3)

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("asked")

    config = uvicorn.Config(answer, http=connections.BoundedConnection, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            with socket.create_connection(listening.getsockname()) as connection:
                connection.settimeout(20)
                for byte in sent:
                    connection.sendall(bytes([byte]))
                assert connection.recv(1) == b""
        except ConnectionResetError:
            pass
        finally:
            server.should_exit = True
            thread.join()


def is_ended(connection: socket.socket) -> bool:
    connection.settimeout(0.01)
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionResetError:
        return True
