"""Starts ranks on this machine from within a process, and hands back what rank 0 returns.

For a training inside an evaluator: the process that asks stays as it is, and each rank is a fresh Python.
They find each other through a file of their own, so two launches at once never meet; they end with the
process that started them, however it ends; and whatever goes wrong in any of them comes back as one error.

    def train(ranks, tell, *, steps):   # at the top of a file; runs in each rank
        ...
        return {"loss": 1.5}

    metrics = launch(train, {"steps": 100}, ranks=2)

Arguments, messages and the result travel as JSON. Knows nothing of what is trained.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FunctionType
from typing import Any, NamedTuple, NoReturn

from evo_tune.errors import EvoTuneError, RecipeError, RunError
from evo_tune.options.bounds import check_integer
from evo_tune.training.hardware.capacity import is_out_of_memory
from evo_tune.training.hardware.distributed import PassTooLarge, check_ranks, process_group

__all__ = ["RankFailed", "launch"]

GRACE = 2.0
"""Seconds in which the other ranks may say what they saw, once one has failed: the first to fail is not
always the first to be heard."""

_ECHOES = ("connection", "gloo", "nccl", "peer", "abort")
"""Words of an error that a rank has because another is gone."""


class RankFailed(RunError):
    """A rank failed, and with it all.

    Args:
        rank: Which one, as far as can be told the first.
        text: What it said.
        status: 'diverged', 'out_of_memory' and the like, where the rank's error had one; else 'failed'.
        smaller: Whether it was for a pass that could be smaller (see `PassTooLarge`).
    """

    def __init__(self, rank: int, text: str, status: str = "failed", smaller: bool = False) -> None:
        super().__init__(f"rank {rank}: {text}")
        self.rank = rank
        self.text = text
        self.status = status
        self.smaller = smaller

    def __reduce__(self) -> tuple[type[RankFailed], tuple[int, str, str, bool]]:
        return type(self), (self.rank, self.text, self.status, self.smaller)


class _Word(NamedTuple):
    """What the launching process hears of a rank: one line, or with None that there will be no more."""

    rank: int
    line: dict[str, Any] | None


def launch(
    function: FunctionType | Callable[..., Any],
    arguments: Mapping[str, Any],
    *,
    ranks: int,
    device: str = "cpu",
    threads: int = 1,
    timeout: float = 600.0,
    on_message: Callable[[dict[str, Any]], None] | None = None,
    parts: int = 1,
) -> Any:
    """Run `function(ranks, tell, **arguments)` in several processes and return what it returns in rank 0.

    Args:
        function: Stands at the top level of a file. It gets a `Ranks`, and a function that sends a dict to
            this process.
        arguments: Plain data.
        ranks: How many processes; on GPUs each has one of its own.
        device: 'cpu' or 'cuda'.
        threads: CPU threads of each.
        timeout: Seconds that a rank waits for the others.
        on_message: Called here with what rank 0 sends; what it raises ends the ranks and is raised here.
        parts: See `Ranks`.

    Raises:
        RecipeError: More ranks than GPUs, or a function that cannot be found again by its file and name.
        RankFailed: A rank raised something, or died.
    """
    check_ranks(ranks, device)
    check_integer("threads", threads, 1)
    code = getattr(function, "__code__", None)
    if code is None or function.__qualname__ != function.__name__:
        raise RecipeError("function", getattr(function, "__qualname__", repr(function)), "a function of a file")
    with tempfile.TemporaryDirectory(prefix="evo-tune-ranks-") as folder:
        order = {
            "file": os.path.abspath(code.co_filename),
            "function": function.__name__,
            "arguments": dict(arguments),
            "device": device,
            "timeout": timeout,
            "parts": parts,
            "store": Path(folder, "store").as_uri(),
        }
        words: queue.SimpleQueue[_Word] = queue.SimpleQueue()
        processes: list[subprocess.Popen[bytes]] = []
        try:
            for rank in range(ranks):
                processes.append(_start(rank, ranks, order, threads, words))
            return _listen(processes, words, on_message)
        finally:
            for process in processes:
                process.kill()
                process.wait()
                if process.stdin is not None:
                    process.stdin.close()


def _start(
    rank: int, size: int, order: Mapping[str, Any], threads: int, words: queue.SimpleQueue[_Word]
) -> subprocess.Popen[bytes]:
    """Start one rank and a thread that reads what it says."""
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    env = {**os.environ, **{name: str(value) for name, value in places.items()}}
    env["OMP_NUM_THREADS"] = str(threads)
    env["PYTHONSAFEPATH"] = "1"  # nothing but what this process itself would import, and that is the next line's
    env["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    if sys.platform == "linux":  # one machine: nothing has to be open to others
        env.setdefault("GLOO_SOCKET_IFNAME", "lo")
        env.setdefault("NCCL_SOCKET_IFNAME", "lo")
    reading, writing = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "evo_tune.training.hardware.launcher"],
            stdin=subprocess.PIPE,
            env=env,
            pass_fds=(writing,),
        )
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    threading.Thread(target=_hear, args=(rank, reading, words), daemon=True).start()
    assert process.stdin is not None
    # The pipe stays open as long as this process lives: its end is what a rank ends by.
    process.stdin.write(json.dumps({**order, "channel": writing, "threads": threads}).encode() + b"\n")
    process.stdin.flush()
    return process


def _hear(rank: int, channel: int, words: queue.SimpleQueue[_Word]) -> None:
    with open(channel, encoding="utf-8") as lines:
        for line in lines:
            words.put(_Word(rank, json.loads(line)))
    words.put(_Word(rank, None))


def _listen(
    processes: list[subprocess.Popen[bytes]],
    words: queue.SimpleQueue[_Word],
    on_message: Callable[[dict[str, Any]], None] | None,
) -> Any:
    """Return rank 0's result once all have one, or raise the error that came first."""
    results: dict[int, Any] = {}
    while len(results) < len(processes):
        rank, line = words.get()
        if line is None and rank in results:
            continue
        if line is None or "error" in line:
            _fail(processes, words, _Word(rank, line))
        if "result" in line:
            results[rank] = line["result"]
        elif rank == 0 and on_message is not None:
            on_message(line["message"])
    return results[0]


def _fail(processes: list[subprocess.Popen[bytes]], words: queue.SimpleQueue[_Word], first: _Word) -> NoReturn:
    """Raise the failure that explains the others: one that does not tell of another's, the earliest heard."""
    heard = {first.rank: first}
    deadline = time.monotonic() + GRACE
    while len(heard) < len(processes) and (left := deadline - time.monotonic()) > 0:
        try:
            word = words.get(timeout=left)
        except queue.Empty:
            break
        if word.line is None or "error" in word.line:
            heard.setdefault(word.rank, word)
    failures = [_failure(word, processes[word.rank]) for word in heard.values()]
    raise next((failure for failure in failures if not _is_echo(failure)), failures[0])


def _failure(word: _Word, process: subprocess.Popen[bytes]) -> RankFailed:
    if word.line is not None:
        return RankFailed(word.rank, word.line["error"], word.line["status"], word.line["smaller"])
    try:
        code = process.wait(GRACE)
    except subprocess.TimeoutExpired:
        return RankFailed(word.rank, "ended without a word", "crashed")
    return RankFailed(word.rank, f"killed by signal {-code}" if code < 0 else f"exit code {code}", "crashed")


def _is_echo(failure: RankFailed) -> bool:
    return failure.status == "failed" and any(word in failure.text.lower() for word in _ECHOES)


# ---------------------------------------------------------------- in a rank


def main() -> int:
    """Be a rank: read the order, do it, say how it went."""
    order = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    channel = open(order["channel"], "w", encoding="utf-8", buffering=1)  # noqa: SIM115 # for life

    def say(line: dict[str, Any]) -> None:
        channel.write(json.dumps(line) + "\n")
        channel.flush()

    try:
        import torch

        torch.set_num_threads(order["threads"])
        function = _load(Path(order["file"]), order["function"])
        with process_group(
            order["device"], timeout=order["timeout"], init_method=order["store"], parts=order["parts"]
        ) as ranks:
            try:
                result = function(ranks, lambda message: say({"message": message}), **order["arguments"])
                say({"result": result if ranks.rank == 0 else None})
            except BaseException as error:  # said before the group breaks, which makes the others fail as well
                say(_told(error))
                raise
    except BaseException as error:
        with contextlib.suppress(OSError):  # said twice, perhaps, and then nobody listens any more
            say(_told(error))
        if not isinstance(error, EvoTuneError | PassTooLarge) and not hasattr(error, "status"):
            traceback.print_exc()
        return 1
    return 0


def _told(error: BaseException) -> dict[str, Any]:
    text = " ".join(str(error).split())
    expected = isinstance(error, EvoTuneError | PassTooLarge) or hasattr(error, "status")
    status = "out_of_memory" if is_out_of_memory(error) else getattr(error, "status", "failed")
    said = text if expected and text else f"{type(error).__name__}: {text}"
    return {"error": said, "status": status, "smaller": isinstance(error, PassTooLarge)}


def _load(path: Path, name: str) -> Callable[..., Any]:
    """Import a file by its path, as plug-ins are, and return a function of it."""
    spec = importlib.util.spec_from_file_location(f"evo_tune_rank_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise RecipeError("file", str(path), "a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and typing look their module up
    spec.loader.exec_module(module)
    function: Callable[..., Any] = getattr(module, name)
    return function


def _end_with_parent() -> None:
    """End at once when the process that started this one is gone, and with it the other end of the pipe."""
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
