"""Ranks started from within a process. The functions at the top run in the ranks."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from evo_tune.errors import PluginError, RecipeError
from evo_tune.training import RankFailed, Ranks, launch

ROOT = Path(__file__).parents[3]

Tell = Callable[[dict[str, Any]], None]


def add_up(ranks: Ranks, tell: Tell, *, mine: list[float]) -> dict[str, Any]:
    tell({"from": ranks.rank})
    total = ranks.sum(torch.tensor(mine[ranks.rank], dtype=torch.float64))
    return {"total": float(total), "threads": torch.get_num_threads(), "folder": os.getcwd()}


def no_room_on_one(ranks: Ranks, tell: Tell) -> None:
    """As a trainer does: rank 1 has too little memory in its second micro-batch, the others are in a reduction."""
    del tell
    from tests.training.ranks_program import trainer_of

    trainer = trainer_of(ranks)
    if ranks.rank == 1:
        passes = iter(range(100))

        def limited(module: torch.nn.Module, inputs: object) -> None:
            if next(passes) == 1:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

        trainer.model.register_forward_pre_hook(limited)
    trainer.run(4)


def die(ranks: Ranks, tell: Tell) -> None:
    del tell
    del ranks
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for_ever(ranks: Ranks, tell: Tell) -> None:
    tell({"pid": os.getpid()})
    del ranks
    time.sleep(600)


def side_by_side(*calls: Callable[[], Any]) -> list[Any]:
    """Return what each returned or raised, all having run at once, as the slots of a run do."""
    found: list[Any] = [None] * len(calls)

    def do(place: int) -> None:
        try:
            found[place] = calls[place]()
        except BaseException as error:
            found[place] = error

    threads = [threading.Thread(target=do, args=(place,)) for place in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.xdist_group("ranks")
def test_results_messages_and_failures_come_back(forked_ranks: None) -> None:
    """Four launches at once: they never meet. No failure waits for the ranks' own timeout."""
    messages: list[dict[str, Any]] = []

    def enough(message: dict[str, Any]) -> None:
        os.kill(message["pid"], 0)
        messages.append(message)
        raise InterruptedError("enough")

    began = time.monotonic()
    result, no_room, dead, ended = side_by_side(
        lambda: launch(add_up, {"mine": [1.5, 2.25]}, ranks=2, threads=1, on_message=messages.append),
        lambda: launch(no_room_on_one, {}, ranks=2),
        lambda: launch(die, {}, ranks=1),
        lambda: launch(wait_for_ever, {}, ranks=1, on_message=enough),
    )
    assert time.monotonic() - began < 120
    assert result == {"total": 3.75, "threads": 1, "folder": os.getcwd()}
    assert {"from": 0} in messages
    assert {"from": 1} not in messages
    assert isinstance(ended, InterruptedError)  # what a listener raises ends the ranks
    assert gone(next(message["pid"] for message in messages if "pid" in message))
    assert isinstance(no_room, RankFailed)
    assert (no_room.rank, no_room.status) == (1, "out_of_memory")
    assert "rank 1 is out of memory" in str(no_room)
    assert "Tried to allocate" in str(no_room)
    assert "no pass of it can be smaller" in str(no_room)
    assert isinstance(dead, RankFailed)
    assert (dead.rank, dead.status, str(dead)) == (0, "crashed", "rank 0: killed by signal 9")


@pytest.mark.slow
def test_ranks_end_with_the_process_that_started_them() -> None:
    code = (
        "from evo_tune.training import launch\n"
        "from tests.training.hardware.test_launcher import wait_for_ever\n"
        "launch(wait_for_ever, {}, ranks=1, on_message=lambda told: print(told['pid'], flush=True))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    rank = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 30
    while not gone(rank) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert gone(rank)


def test_what_cannot_be_launched_is_refused_at_once() -> None:
    for ranks in (0, -1, 2.0, True):
        with pytest.raises(RecipeError, match="ranks"):
            launch(add_up, {}, ranks=ranks)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="threads"):
        launch(add_up, {}, ranks=2, threads=0)
    with pytest.raises(PluginError, match="function"):
        launch(lambda ranks, tell: None, {}, ranks=2)
    if not torch.cuda.is_available():
        with pytest.raises(RecipeError, match="at most 0, the number of GPUs"):
            launch(add_up, {}, ranks=2, device="cuda:0")
    error = RankFailed(1, "no room", "out_of_memory")
    made = error.__reduce__()
    assert str(made[0](*made[1])) == str(error) == "rank 1: no room"
