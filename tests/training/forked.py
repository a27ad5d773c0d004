"""Ranks as forks of one process that has imported torch, where each would import it again for two seconds.

The process is started once for a session of tests, by the first that needs it, as a child of none: tests of slots look
for processes that are left over. It and its forks end with the tests. `python -m tests.training.forked` is it.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import IO

import pytest

from evo_tune.plugins import ranks as launcher

ROOT = Path(__file__).parents[2]
STARTS = ["forked", pytest.param("fresh", marks=pytest.mark.proof)] if sys.platform == "linux" else ["fresh"]
"""How ranks are started: as forks, and in the proofs as anywhere else."""

_asked: list[socket.socket] = []
_lock = threading.Lock()


class Forked:
    """What `subprocess.Popen` is, as far as starting ranks needs it."""

    def __init__(
        self,
        words: list[str],
        *,
        env: Mapping[str, str],
        stdin: int | None = None,
        pass_fds: tuple[int, ...] = (),
    ) -> None:
        with _lock:
            if not _asked:
                _asked.append(_served())
        self.returncode: int | None = None
        self.stdin: IO[bytes] | None = None
        given, writing = os.pipe() if stdin == subprocess.PIPE else (os.open(os.devnull, os.O_RDONLY), None)
        if writing is not None:
            self.stdin = open(writing, "wb")  # noqa: SIM115 # for life
        self._said, saying = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        order = {"module": words[words.index("-m") + 1], "arguments": words[words.index("-m") + 2 :]}
        order |= {"env": dict(env), "folder": os.getcwd(), "passed": list(pass_fds)}
        with tempfile.TemporaryFile() as file:
            file.write(json.dumps(order).encode())
            file.flush()
            socket.send_fds(_asked[0], [b"a rank"], [file.fileno(), saying.fileno(), given, 1, 2, *pass_fds])
        saying.close()
        os.close(given)
        self.pid = int(self._said.recv(32))

    def kill(self) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self._said.settimeout(timeout)
            try:
                self.returncode = int(self._said.recv(32))
            except TimeoutError:
                raise subprocess.TimeoutExpired("a rank", timeout or 0.0) from None
            self._said.close()
        return self.returncode


def _served() -> socket.socket:
    """Start the process that forks, and return where it is asked."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, "-m", "tests.training.forked", str(theirs.fileno())],
        cwd=ROOT,
        env=env,
        pass_fds=(theirs.fileno(),),
        check=True,
    )
    theirs.close()
    atexit.register(ours.close)  # which ends it
    return ours


@pytest.fixture(params=STARTS)
def forked_ranks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have ranks be forks; in the proofs, a Python of its own each, as anywhere else."""
    if request.param == "forked":
        own = SimpleNamespace(Popen=Forked, PIPE=subprocess.PIPE, TimeoutExpired=subprocess.TimeoutExpired)
        monkeypatch.setattr(launcher, "subprocess", own)


# ---------------------------------------------------------------- in the process that forks


def main() -> None:
    """Import what ranks need, and fork for each that is asked for, until nobody can ask any more."""
    import evo_tune.plugins.find  # noqa: F401
    import tests.training.ranks_program  # noqa: F401

    if os.fork():
        os._exit(0)  # whoever started this waits no longer, and has no child
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for place in range(3):
        os.dup2(nothing, place)
    asked = socket.socket(fileno=int(sys.argv[1]))
    while True:
        word, passed, _, _ = socket.recv_fds(asked, 32, 16)
        if not word:
            return
        if not os.fork():
            asked.close()
            _keep(passed)
        for file in passed:
            os.close(file)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _keep(passed: list[int]) -> None:
    """Fork the rank, say its number and how it ended; keep the number its own until that is read."""
    saying = passed[1]
    rank = os.fork()
    if not rank:
        _be(passed)
    for file in {*passed} - {saying}:
        os.close(file)
    with contextlib.suppress(OSError):
        os.write(saying, str(rank).encode())
        ended = os.waitid(os.P_PID, rank, os.WEXITED | os.WNOWAIT)
        assert ended is not None
        os.write(saying, str(ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status).encode())
        os.read(saying, 1)
    os._exit(0)


def _be(passed: list[int]) -> None:
    """Be the rank: what a fresh Python with these words and this environment would be."""
    code = 1
    try:
        told, saying, given, out, error, *others = passed
        with open(told, encoding="utf-8") as file:
            file.seek(0)
            order = json.load(file)
        os.close(saying)
        wanted = dict(zip(order["passed"], others, strict=True))
        spare = {number: os.dup2(file, 200 + place) for place, (number, file) in enumerate(wanted.items())}
        for place, file in enumerate((given, out, error)):
            os.dup2(file, place)
        for file in {given, out, error, *others} - {0, 1, 2}:
            os.close(file)
        for number, file in spare.items():
            os.dup2(file, number)
            os.close(file)
        os.environ.clear()
        os.environ.update(order["env"])
        os.chdir(order["folder"])
        sys.argv = [order["module"], *order["arguments"]]
        sys.path[:] = [*order["env"].get("PYTHONPATH", str(ROOT)).split(os.pathsep), *sys.path]
        code = int(sys.modules[order["module"]].main() or 0)
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
