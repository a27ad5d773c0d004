"""What benchmarks/chaos.py evaluates: 50 to 150 ms, the same whenever and wherever it is done.

It fails if another process is or was in its folder, or if the checkpoint that it resumes is not the one that it left;
some genomes fail by themselves, and some print. Copied to the folder of the storm.
"""

import ctypes
import hashlib
import json
import os
import resource
import time
from pathlib import Path

from evo_tune import Choice, Float, Int, Minimize, SearchSpace

SPACE = SearchSpace(x=Float(-2.0, 2.0), y=Float(1e-4, 1.0, log=True), n=Int(1, 64), kind=Choice(("a", "b", "c")))
OBJECTIVES = [Minimize("loss")]
SUPPORTS = ["budget", "curve"]

STEPS = 9
"""Points of a full training's curve."""


def evaluate(genome, context):
    if os.listdir(context.folder):
        raise RuntimeError(f"{context.folder} is not empty: {os.listdir(context.folder)}")
    mine = context.folder / "owner"
    mine.write_text(str(os.getpid()))
    suffer(context)
    if genome["n"] % 3 == 0:
        print(f"training {genome} to {context.budget}")
    done = begun(genome, context)
    time.sleep(0.03 + (context.budget - done) * (0.02 + 0.1 * genome["n"] / 64))
    fail(hashlib.sha256(json.dumps(genome, sort_keys=True).encode()).digest()[0])
    end = genome["x"] ** 2 + abs(genome["y"] - 0.01) + genome["n"] / 64 + len(genome["kind"])
    end += (context.seed % 7) / 100
    for step in range(1, STEPS + 1):
        if done < step / STEPS <= context.budget:
            context.report(step / STEPS, loss=end + 1.0 - step / STEPS)
    if mine.read_text() != str(os.getpid()):
        raise RuntimeError(f"{context.folder} has another owner")
    mine.unlink()
    if context.budget < 1.0:
        state = {"genome": genome, "seed": context.seed, "budget": context.budget}
        (context.folder / "state").write_text(json.dumps(state))
    unlucky = float("nan") if genome["n"] % 16 == 5 else 0.0
    return {"loss": end + 1.0 - context.budget + unlucky, "trained": context.budget - done}


def begun(genome, context):
    """Return the share of the training that is done already."""
    if context.resume_folder is not None:
        state = json.loads((context.resume_folder / "state").read_text())
        if state["genome"] != genome or state["seed"] != context.seed or not state["budget"] < context.budget:
            raise RuntimeError(f"{context.resume_folder} holds {state}")
        return state["budget"]
    return 0.0


def suffer(context):
    """Die as the machine wants it, print without end, or write to the journal: one evaluation takes the fault."""
    for fault in ("exit", "segfault", "flood", "betray"):
        try:
            os.unlink(Path(__file__).with_name(fault))
        except FileNotFoundError:
            continue
        if fault == "flood":
            for _ in range(48):
                os.write(1, b"x" * (1 << 20))
        elif fault == "betray":
            with open(context.folder.parents[1] / "_journal.jsonl", "a") as file:
                file.write("loss 0.5\n")
        else:
            ctypes.string_at(0) if fault == "segfault" else os._exit(3)


def fail(draw):
    """Fail as this genome does: a result, the same whenever it is evaluated."""
    if draw < 8:
        raise ValueError("this genome cannot be trained")
    if draw < 12:
        time.sleep(3600)
    if draw < 20:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        limit = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), limit[1]))
        try:
            bytearray(1 << 30)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, limit)
