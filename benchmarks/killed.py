"""Kill a run with one long training several times, and compare its end with that of an undisturbed run.

    python benchmarks/killed.py --tokens 6000000 --every 20 --apart 60 --kills 3

A kill is a SIGKILL of the run's process; its worker ends with it. It comes when most of a pause between two checkpoints
is over. It loses the time since the last checkpoint, and the time that `evo-tune resume` needs until the training
continues: the time to its next checkpoint minus the pause. Both runs keep their last checkpoint (`-o save=true`), whose
tensors are compared: weights, moments of the optimizer, states of generators.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from evo_tune import load
from evo_tune.training import load_checkpoint

SESSION = ["--trials", "1", "--slots", "1", "--final-seeds", "0", "--quiet"]


def evo_tune(*words: str) -> subprocess.Popen[bytes]:
    """Start a command of evo-tune."""
    return subprocess.Popen([sys.executable, "-m", "evo_tune", *words])


def newer(file: Path, than: float) -> float:
    """Wait for a checkpoint that was written after a time, and return when it was written."""
    while not (file.is_file() and file.stat().st_mtime > than):
        time.sleep(0.05)
    return file.stat().st_mtime


def tensors(state: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Yield all tensors of a nested state with the path to each; a number is a tensor of no dimensions."""
    if isinstance(state, torch.Tensor):
        yield name, state
    elif isinstance(state, dict):
        for key, value in state.items():
            yield from tensors(value, f"{name}/{key}")
    elif isinstance(state, (list, tuple)):
        for place, value in enumerate(state):
            yield from tensors(value, f"{name}/{place}")
    elif isinstance(state, (int, float)):
        yield name, torch.tensor(state, dtype=torch.float64)


def compare_weights() -> None:
    """Print which tensors differ between the last checkpoints of both runs."""
    whole, killed = (
        dict(tensors(load_checkpoint(Path(f"populations/{name}/_trials/000000/checkpoint.pt"))["trainer"]))
        for name in ("whole", "killed")
    )
    assert whole.keys() == killed.keys()
    different = [name for name, tensor in whole.items() if not torch.equal(tensor, killed[name])]
    print(f"of {len(whole)} tensors and numbers in the checkpoints differ: {', '.join(different) or 'none'}")


def main() -> None:
    """Train twice, once with kills, and print what they cost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=6_000_000)
    parser.add_argument("--every", type=float, default=20.0, help="seconds between checkpoints")
    parser.add_argument(
        "--apart", type=float, default=0.0, help="seconds of a session before the checkpoint of its kill"
    )
    parser.add_argument("--together", action="store_true", help="train the undisturbed run at the same time")
    parser.add_argument("--kills", type=int, default=3)
    given = parser.parse_args()
    os.chdir(tempfile.mkdtemp())
    options = {"size": "small", "tokens": given.tokens, "save": True, "checkpoint_minutes": given.every / 60.0}
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    undisturbed = ("run", "language_model", *SESSION, *words, "--name", "whole")
    twin = evo_tune(*undisturbed) if given.together else None
    file = Path("populations/killed/_trials/000000/unfinished.pt")
    process, began = evo_tune("run", "language_model", *SESSION, *words, "--name", "killed"), time.time()
    for kill in range(given.kills + 1):
        written = newer(file, began)
        print(
            f"checkpoint of {file.stat().st_size / 1e6:.1f} MB",
            f"{written - began - given.every:.1f} s to begin",
            flush=True,
        )
        if kill == given.kills:
            break
        newer(file, began + given.apart)
        time.sleep(0.9 * given.every)
        process.kill()
        process.wait()
        print(f"kill {kill + 1}: {time.time() - file.stat().st_mtime:.1f} s of training lost", flush=True)
        time.sleep(2.0)  # the worker ends
        process, began = evo_tune("resume", "killed", *SESSION), time.time()
    assert process.wait() == 0
    assert (twin or evo_tune(*undisturbed)).wait() == 0
    whole, killed = (load(f"populations/{name}").trials[0].outcome for name in ("whole", "killed"))
    print(f"undisturbed: {whole.seconds:.0f} s; killed, its last attempt: {killed.seconds:.0f} s")
    compare_weights()
    different = {name for name in whole.metrics if whole.metrics[name] != killed.metrics[name]}
    print(f"metrics that differ: {', '.join(sorted(different)) or 'none'}; curves equal: {whole.curve == killed.curve}")


if __name__ == "__main__":
    main()
