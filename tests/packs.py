"""An evaluator that trains several as one, needs no torch, and writes down what it was called with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["PACKS", "calls", "packs"]

PACKS = '''
"""Several as one."""
import json, os, random, signal, time
from pathlib import Path
from evo_tune import Float, Int, Minimize, SearchSpace
from evo_tune.plugins.context import Pruned

SPACE = SearchSpace(x=Float(0.0, 1.0, default=0.5), width=Int(1, 2, default=2))
OBJECTIVES = [Minimize("loss")]
SUPPORTS = ["budget", "curve", "pack"]
HERE = Path(__file__).parent


class Diverged(Exception):
    status = "diverged"


def loss(genome, context):
    luck = random.Random(f"{context.seed} {sorted(genome.items())}").random()
    return (genome["x"] - 0.3) ** 2 + genome["width"] / 10 + luck / 100 - context.budget


def train(genome, context):
    before = 0.0
    if context.resume_folder is not None:
        before = float((context.resume_folder / "state").read_text())
    (context.folder / "state").write_text(str(before + context.budget))
    context.report(context.budget, loss=loss(genome, context))
    if genome["x"] > 0.8:
        raise ValueError("no luck")
    return {"loss": loss(genome, context) + before}


def evaluate(genome, context, *, sleep: float = 0.0, broken: str = ""):
    note("alone", [genome], [context])
    time.sleep(sleep)
    return train(genome, context)


def note(how, genomes, contexts):
    budgets = [context.budget for context in contexts]
    names = [context._folder.name for context in contexts]
    with open(HERE / "calls.jsonl", "a") as file:
        told = {"pid": os.getpid(), "how": how, "folders": names}
        told |= {"budgets": budgets, "widths": [genome["width"] for genome in genomes]}
        file.write(json.dumps({**told, "seeds": [context.seed for context in contexts]}) + "\\n")


def pack_key(genome, options):
    return None if options["broken"] == "key" else str(genome["width"])


def pack_pays(genome, options, device):
    return 3 if device == "cpu" else 8


def evaluate_pack(genomes, contexts, options):
    note("pack", genomes, contexts)
    print("as one:", len(genomes))
    broken, found = options[0]["broken"], []
    time.sleep(options[0]["sleep"])
    if broken == "raises":
        raise RuntimeError("the pack is too large")
    if broken == "few":
        return [{"loss": 1.0}]
    if broken == "dict":
        return {"loss": 1.0}
    if broken == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if broken == "hangs":
        time.sleep(600)
    for genome, context in zip(genomes, contexts):
        try:
            found.append(train(genome, context))
        except Exception as error:
            found.append(error)
    for place, what in enumerate(broken.split()):
        if what != "ok":
            found[place] = {"fails": ValueError("no luck"), "diverges": Diverged("loss is nan"),
                            "nan": {"loss": float("nan")}, "prunes": Pruned("loss=2 at 50% is beyond its bound"),
                            "memory": MemoryError(), "none": None, "class": ValueError, "lacks": {"other": 1.0},
                            "poison": RuntimeError("CUDA error: device-side assert triggered")}[what]
    return found
'''


def packs(folder: Path) -> Path:
    """Write the evaluator into a folder, and return its file."""
    path = folder / "packing.py"
    path.write_text(PACKS.lstrip())
    return path


def calls(folder: Path) -> list[dict[str, Any]]:
    """Return what the evaluator in a folder was called with, in its order."""
    path = folder / "calls.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
