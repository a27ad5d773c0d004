"""One script as a process: its output line by line, and nothing of it left behind, however it ends.

The script stays in the process group of whoever calls it, a worker, so that killing that group reaches it too; what
is to end alone (a pruned script, what a finished one left running) is found by a mark in its environment.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence

from evo_tune.errors import RunError, tells_of_memory
from evo_tune.genome.trial import Status
from evo_tune.text import one_line

__all__ = ["Ended", "call", "kill_marked"]

LONGEST = 1 << 16
"""Bytes of a line; what is longer comes in parts."""

TICK = 0.1
"""Seconds between two looks at a script whose output is silent."""

ROUNDS = 50
"""How often processes are looked for as they are killed: they may start others meanwhile."""

TAIL = 50
"""Last lines of each stream in which the reason for a bad end is looked for."""

MARK = "EVO_TUNE_CALL"
"""What marks a script, and all that it starts."""


class Ended(RunError):
    """A script came to a bad end; its text is the reason of the failed trial.

    Args:
        text: It.
        status: Of the trial.
    """

    def __init__(self, text: str, status: Status = "failed") -> None:
        super().__init__(text)
        self.status = status


def call(words: Sequence[str], environment: Mapping[str, str], shell: bool, take: Callable[[str], None]) -> str:
    """Run a script to its end and return the last line that it printed, '' if none; what it prints is printed.

    Args:
        words: The program and its arguments; with `shell`, one text.
        environment: The whole of it.
        shell: Whether /bin/sh runs the text.
        take: Is given every line of output and error output as it comes; whatever it raises ends the script.

    Raises:
        Ended: It cannot be started, or ends with another code than 0.
    """
    argv = ["/bin/sh", "-c", words[0]] if shell else list(words)
    mark = uuid.uuid4().hex
    tails: dict[str, deque[str]] = {"out": deque(maxlen=TAIL), "err": deque(maxlen=TAIL)}
    last = ""
    try:
        script = subprocess.Popen(
            argv,
            env={**environment, MARK: mark},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) else error
        raise Ended(f"cannot start {one_line(argv[0], 100)!r}: {what}; check the command") from None
    try:
        for name, line in _lines(script):
            print(line, file=sys.stdout if name == "out" else sys.stderr)
            if line.strip():
                tails[name].append(line)
                last = line
            take(line)
        code = script.wait()
    finally:
        _end(script, f"{MARK}={mark}")
    if code:
        raise _bad_end(code, tails)
    return one_line(last, 120)


def _bad_end(code: int, tails: Mapping[str, Sequence[str]]) -> Ended:
    lines = tails["err"] or tails["out"]
    said = one_line(lines[-1], 300) if lines else "it printed nothing"
    if any(map(tells_of_memory, lines)):
        return Ended(f"{said} (exit code {code})", "out_of_memory")
    if code > 0:
        return Ended(f"{said} (exit code {code})")
    with contextlib.suppress(ValueError):
        return Ended(f"the script was killed by {signal.Signals(-code).name}; its last line: {said}", "crashed")
    return Ended(f"the script was killed by signal {-code}; its last line: {said}", "crashed")


def _lines(script: subprocess.Popen[bytes]) -> Iterator[tuple[str, str]]:
    """Yield (stream, line) as they come, until the script has ended and what it wrote is read.

    Carriage returns end lines too: bars of progress are written by them. What a process that the script left behind
    holds open is not waited for.
    """
    assert script.stdout is not None
    assert script.stderr is not None
    rest = {"out": b"", "err": b""}
    with selectors.DefaultSelector() as ready:
        ready.register(script.stdout, selectors.EVENT_READ, "out")
        ready.register(script.stderr, selectors.EVENT_READ, "err")
        while ready.get_map():
            events = ready.select(TICK)
            if not events and script.poll() is not None:
                break
            for key, _ in events:
                data, name = os.read(key.fd, LONGEST), key.data
                if not data:
                    ready.unregister(key.fileobj)
                *lines, rest[name] = (rest[name] + data).replace(b"\r", b"\n").split(b"\n")
                if len(rest[name]) >= LONGEST:
                    lines, rest[name] = [*lines, rest[name]], b""
                yield from ((name, line.decode("utf-8", "replace")) for line in lines)
    yield from ((name, line.decode("utf-8", "replace")) for name, line in rest.items() if line)


def _end(script: subprocess.Popen[bytes], mark: str) -> None:
    """Kill what is left of a script: itself, and all that it started."""
    if script.poll() is None:
        script.kill()
    kill_marked(mark)
    script.wait()
    for stream in (script.stdout, script.stderr):
        if stream is not None:
            stream.close()


def kill_marked(mark: str) -> None:
    """Kill every process of this user's, but this one, that was started with a mark in its environment.

    It reaches what left its process group, or lost its parent (torchrun puts each rank into a session of its own).
    Where there is no /proc, nothing is found, and the process group is what is killed.

    Args:
        mark: NAME=VALUE, of a value that no other has.
    """
    for _ in range(ROUNDS):
        found = _marked(mark)
        for pid in found:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        if not found:
            break
        time.sleep(0.002)


def _marked(mark: str) -> list[int]:
    wanted, found = mark.encode(), []
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc"):
            if name.isdecimal() and int(name) != os.getpid():
                with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
                    if wanted in file.read(1 << 20).split(b"\0"):  # a dead one's is empty
                        found.append(int(name))
    return found
