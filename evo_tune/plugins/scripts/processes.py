"""Run a script as a process: read its output line by line, and leave no process behind.

The script stays in the process group of its worker, so that killing the group reaches it too. To end a script alone, or
what a finished script left running, its processes are found by a mark in their environment, or as descendants.
"""

import contextlib
import ctypes
import os
import selectors
import signal
import subprocess
import sys
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil  # type: ignore[import-untyped] # it has no types

from evo_tune.errors import RunError, tells_of_memory
from evo_tune.genome.trial import Status
from evo_tune.text import one_line

# Bytes of a line; longer lines come in parts.
LONGEST = 1 << 16

# Seconds between two looks at a silent script.
TICK = 0.1

# Number of searches for processes to kill: they may start others meanwhile.
ROUNDS = 50

# Last lines of each stream that are searched for the reason of a failure.
TAIL_LINES = 50

# Beginning of the last line of a script of Hydra that failed: its error is above, with indented details behind it.
HYDRA_ADVICE = "Set the environment variable HYDRA_FULL_ERROR=1"

# Option of prctl(2).
PR_SET_CHILD_SUBREAPER = 36

# Environment variable that marks a script and all its processes.
MARK = "EVO_TUNE_CALL"


class Ended(RunError):
    """A script failed.

    Args:
        text: Reason of the failure.
        status: Status of the trial.
    """

    def __init__(self, text: str, status: Status = "failed") -> None:
        super().__init__(text)
        self.status = status


def run_script(
    words: Sequence[str],
    environment: Mapping[str, str],
    shell: bool,
    take: Callable[[str], None],
    working_folder: Path | None = None,
    look: Callable[[], None] = lambda: None,
) -> None:
    """Run a script, and pass on its output.

    Args:
        words: Program and arguments; with `shell`, one text.
        environment: The whole environment.
        shell: Whether /bin/sh runs the text.
        take: Function called with every line of output; any error that it raises ends the script.
        working_folder: Working directory of the script; None: that of this process.
        look: Function called again and again while the script runs; any error that it raises ends the script.

    Raises:
        Ended: The script cannot be started, or its exit code is not 0.
    """
    mark = uuid.uuid4().hex
    tails: dict[str, deque[str]] = {"out": deque(maxlen=TAIL_LINES), "err": deque(maxlen=TAIL_LINES)}
    try:
        script = subprocess.Popen(
            words[0] if shell else list(words),
            shell=shell,
            env={**environment, MARK: mark},
            cwd=working_folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        program = "/bin/sh" if shell else one_line(words[0], 100)
        raise Ended(f"cannot start {program!r}: {reason}; check the command") from None
    with script:
        try:
            for name, line in _lines(script, look):
                print(line, file=sys.stdout if name == "out" else sys.stderr)
                if line.strip():
                    tails[name].append(line)
                take(line)
            code = script.wait()
        finally:
            script.kill()  # nothing if it has ended
            kill_marked(f"{MARK}={mark}")
    if code:
        raise _failure(code, tails)


def _failure(code: int, tails: Mapping[str, Sequence[str]]) -> Ended:
    lines = list(tails["err"] or tails["out"])
    if lines and lines[-1].startswith(HYDRA_ADVICE):
        lines = [line for line in lines[:-1] if not line.startswith(" ")] or lines
    reason = "it printed nothing"
    if lines:  # the exception of Python's first traceback, else the last line: launchers print more after it
        begun = [number for number, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")]
        after = lines[begun[0] + 1 :] if begun else []
        reason = one_line(next((line for line in after if line[:1] not in (" ", "|")), lines[-1]), 300)
    if any(map(tells_of_memory, lines)):
        return Ended(f"{reason} (exit code {code})", "out_of_memory")
    if code > 0:
        return Ended(f"{reason} (exit code {code})")
    with contextlib.suppress(ValueError):
        return Ended(f"the script was killed by {signal.Signals(-code).name}; its last line: {reason}", "crashed")
    return Ended(f"the script was killed by signal {-code}; its last line: {reason}", "crashed")


def _lines(script: subprocess.Popen[bytes], look: Callable[[], None]) -> Iterator[tuple[str, str]]:
    """Yield (stream, line) as they come, until the script has ended and its output is read; call `look` meanwhile.

    Carriage returns end lines too, because progress bars use them. Pipes that another process keeps open are ignored.
    """
    assert script.stdout is not None
    assert script.stderr is not None
    unfinished = {"out": b"", "err": b""}
    with selectors.DefaultSelector() as ready:
        ready.register(script.stdout, selectors.EVENT_READ, "out")
        ready.register(script.stderr, selectors.EVENT_READ, "err")
        while ready.get_map():
            events = ready.select(TICK)
            look()
            if not events and script.poll() is not None:
                break
            for key, _ in events:
                data, name = os.read(key.fd, LONGEST), key.data
                if not data:
                    ready.unregister(key.fileobj)
                *lines, unfinished[name] = (unfinished[name] + data).replace(b"\r", b"\n").split(b"\n")
                if len(unfinished[name]) >= LONGEST:
                    lines, unfinished[name] = [*lines, unfinished[name]], b""
                yield from ((name, line.decode("utf-8", "replace")) for line in lines)
    yield from ((name, line.decode("utf-8", "replace")) for name, line in unfinished.items() if line)


def kill_marked(mark: str) -> None:
    """Kill all other processes of this user that have a mark in their environment.

    This reaches processes that left the group or lost their parent (torchrun puts each rank into its own session).

    Args:
        mark: NAME=VALUE with a unique value.
    """
    name, _, value = mark.partition("=")

    def is_marked(process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.Error, OSError):
            return process.pid != os.getpid() and bool(process.environ().get(name) == value)  # empty for a dead process
        return False

    _kill_all(lambda: [*filter(is_marked, psutil.process_iter())])


def kill_strays(root: int) -> None:
    """Kill the descendants of a process that left its group: they may have another environment, hence no mark.

    Args:
        root: Process id of the ancestor, which is alive and, after `adopt_orphans`, the parent of all its orphans.
    """

    def is_stray(process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.Error, OSError):
            return os.getpgid(process.pid) != root and bool(process.status() != psutil.STATUS_ZOMBIE)
        return False

    def strays() -> list[psutil.Process]:
        with contextlib.suppress(psutil.Error):
            return [*filter(is_stray, psutil.Process(root).children(recursive=True))]
        return []

    _kill_all(strays)


def adopt_orphans() -> None:
    """Make orphaned descendants children of this process (a subreaper), so that `kill_strays` finds them."""
    with contextlib.suppress(OSError, AttributeError):  # Linux only
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class AdoptedOrphans:
    """Orphans that this process inherited. It must reap them, and nobody waits for them."""

    def __init__(self) -> None:
        self._dead: set[int] = set()

    def reap(self) -> None:
        """Reap the children that were dead at the last call already: other code may wait for a newer one."""
        with contextlib.suppress(psutil.Error, OSError, AttributeError):
            if os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return
            children = psutil.Process().children()
            dead = {child.pid for child in children if child.status() == psutil.STATUS_ZOMBIE}
            for pid in dead & self._dead:
                os.waitpid(pid, os.WNOHANG)
            self._dead = dead


def _kill_all(find: Callable[[], Sequence[psutil.Process]]) -> None:
    """Kill the processes that a function finds until it finds none."""
    for _ in range(ROUNDS):
        processes = find()
        for process in processes:
            with contextlib.suppress(psutil.Error):
                process.kill()  # not if its id belongs to another process by now
        if not processes:
            break
        time.sleep(0.002)
