"""Answer in half an hour what a rented GPU makes of this package: one command, one page.

    python benchmarks/gpu.py                        all parts on the first GPU; writes gpu.md and gpu.jsonl
    python benchmarks/gpu.py --parts mfu trials     some of them
    python benchmarks/gpu.py --text FILE --minutes 60
    python benchmarks/gpu.py --device cpu --out DIR  the same code at toy sizes

Each part is a process with a limit in time, and each row is on disk at once. So a part that fails, hangs or is too
slow costs only itself, and Ctrl-C leaves a page. Without a GPU, nothing is done.

    mfu          share of the card's peak FLOP/s at 10M, 100M and 350M weights, then with compiled blocks
    memory       predicted and measured peak memory: AdamW, Muon, EMA, recomputation
    study        a search at 100M weights, the default genome and nanoGPT's configuration; equal time for each training
    trials       trials per hour, with 1 to 8 at a time on the card
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from evo_tune import Context, Search, training
from evo_tune.plugins.find import find_evaluator
from evo_tune.training import recipe

SHAPES = {
    "10M": {"depth": 6, "width": 384, "heads": 6, "context": 512},
    "100M": {"depth": 12, "width": 768, "heads": 12, "context": 1024},
    "350M": {"depth": 24, "width": 1024, "heads": 16, "context": 1024},
}
VOCABULARY = 50304
TOYS = {
    "toy": {"depth": 1, "width": 32, "heads": 2, "context": 32},
    "toy 2": {"depth": 2, "width": 32, "heads": 2, "context": 64},
}


class Bench:
    """Trains models on random text, and times their steps.

    Args:
        device: Device of the models.
        steps: Number of steps to time, three times.
        limit: Seconds that the part has.
        text: Text of the study: a file, a folder or a glob.
    """

    def __init__(self, device: str, steps: int, limit: float = 60.0, text: str = "") -> None:
        self.device, self.steps, self.limit = device, steps, limit
        # On a GPU the sources of torch, which need no download; a toy has the evaluator's own text.
        self.text = text or (f"{sysconfig.get_path('purelib')}/torch/**/*.py" if device != "cpu" else "")
        self.gpu = device.startswith("cuda")
        self.shapes = SHAPES if self.gpu else TOYS
        self.vocabulary = VOCABULARY if self.gpu else 64
        self.card = torch.cuda.get_device_name(device) if self.gpu else "CPU"

    def trainer(self, shape: Mapping[str, int], tokens: int, precision: str = "fp32", **changes: Any) -> Any:
        """Return a trainer of a GPT at step 0.

        Args:
            shape: Depth, width, heads, context.
            tokens: Tokens in a step.
            precision: Name of the precision.
            changes: Fields of the model's config; `compiled` of the trainer; `micro_batch`; `optimizer`
                ('adamw' or 'muon'), `ema` (bool) and `recompute` of the training.
        """
        compiled = changes.pop("compiled", False)
        micro, recompute = changes.pop("micro_batch", None), changes.pop("recompute", None)
        optimizer = {"adamw": training.AdamW, "muon": training.Muon}[changes.pop("optimizer", "adamw")]
        ema = 0.999 if changes.pop("ema", False) else None
        config = recipe.GPTConfig(vocab_size=self.vocabulary, init="fan_in", **{**shape, **changes})
        text = torch.randint(0, self.vocabulary, (200_000,), dtype=torch.int32)
        batch = max(1, tokens // config.context)
        source = training.TrainingWindows(
            text, context=config.context, batch=batch, total=1000 * batch, seed=0, micro_batch=micro
        )
        own_recipe = training.Recipe(
            optimizer=optimizer(lr=1e-4),
            schedule=recipe.Schedule(steps=1000),
            weight_decay=recipe.WeightDecay(start=0.1),
            precision=training.Precision(name=precision),
            ema=ema,
        )
        model = training.GPT(config, seed=0).to(self.device)
        if recompute is not None:
            model.recompute = recompute
        return training.Trainer(model, source, own_recipe, device=self.device, compiled=compiled)

    def precision(self) -> str:
        """Return the precision in which trainings here are fastest."""
        return training.fastest_precision(self.device) if self.gpu else "fp32"

    def seconds(self, trainer: Any, warm: int = 3) -> float:
        """Return the seconds of a step, in the middle of many."""
        trainer.run(trainer.step + warm)
        self.wait()
        times = []
        for _ in range(3):
            before = time.perf_counter()
            trainer.run(trainer.step + self.steps)
            self.wait()
            times.append((time.perf_counter() - before) / self.steps)
        return statistics.median(times)

    def wait(self) -> None:
        if self.gpu:
            torch.cuda.synchronize()

    def tokens(self, shape: Mapping[str, int]) -> int:
        """Return how many tokens a step of a shape has: enough to keep a card busy, and what fits on 16 GiB."""
        return max(shape["context"], (32768 if shape["width"] < 1024 else 16384) if self.gpu else 64)


Part = Callable[[Bench], Iterator[dict[str, Any]]]


def mfu(bench: Bench) -> Iterator[dict[str, Any]]:
    name = bench.precision()
    peak = training.peak_flops(bench.card, name) if bench.gpu else None
    for compiled in (False, True) if bench.gpu else (False,):
        for size, shape in bench.shapes.items():
            tokens = bench.tokens(shape)
            micro = max(1, 16384 // shape["context"])
            trainer = bench.trainer(shape, tokens, name, micro_batch=micro, compiled=compiled)
            speed = tokens / bench.seconds(trainer)
            share = training.mfu(recipe.flops_per_token(trainer.model.config), speed, peak)
            yield {
                "model": size,
                "weights": f"{trainer.model.config.parameters / 1e6:.1f}M",
                "precision": name,
                "compiled": compiled,
                "tokens/s": f"{speed:,.0f}",
                "MFU": "?" if share is None else f"{share:.1%}",
            }


SETUPS: dict[str, dict[str, Any]] = {
    "AdamW": {},
    "Muon": {"optimizer": "muon"},
    "AdamW, EMA": {"ema": True},
    "AdamW, each block recomputed": {"recompute": 1},
}


def memory(bench: Bench) -> Iterator[dict[str, Any]]:
    name = bench.precision()
    for size, shape in bench.shapes.items():
        for setup_name, setup in SETUPS.items():
            trainer = bench.trainer(shape, bench.tokens(shape), name, **setup)
            windows_in_step = bench.tokens(shape) // shape["context"]
            kind = "cuda" if bench.gpu else "cpu"
            predicted = recipe.predict_memory(
                trainer.model.config, windows_in_step, precision=name, device=kind, **setup
            )
            expected = predicted.peak - predicted.context
            measured = training.measure_peak_memory(bench.device, lambda: trainer.run(2))  # noqa: B023 # run here and now
            yield {
                "model": size,
                "setup": setup_name,
                "predicted, MiB": f"{expected / 2**20:,.1f}",
                "measured, MiB": "-" if measured is None else f"{measured / 2**20:,.1f}",
                "measured/predicted": "-" if measured is None else f"{measured / expected:.2f}",
            }


def trials(bench: Bench) -> Iterator[dict[str, Any]]:
    """Search with small trainings of equal FLOPs, with 1 to 8 at a time on the card."""
    sizes = {"small": 1e13, "medium": 1e15} if bench.gpu else {"tiny": 1e8}
    for size, flops in sizes.items():
        alone = None
        for at_once in (1, 2, 4, 8) if bench.gpu else (1, 2):
            with tempfile.TemporaryDirectory() as store:
                card = {"devices": "cuda", "per_device": at_once}
                search = Search(
                    "bundled:language_model",
                    options={"size": size, "flops": flops, "eval_tokens": 8192, "deterministic": True},
                    strategy="random",
                    seed=1,
                    trials=max(6, 2 * at_once) if bench.gpu else 2,
                    final_seeds=0,
                    store=store,
                    **(card if bench.gpu else {"devices": "cpu", "slots": at_once}),
                )
                began = time.perf_counter()
                run = search.run()
                hourly = 3600.0 * len(run.trials) / (time.perf_counter() - began)
            alone = alone or hourly
            row = {"size": size, "FLOPs": f"{flops:.0e}", "at a time": at_once, "trials per hour": f"{hourly:,.0f}"}
            yield {**row, "times": f"{hourly / alone:.2f}"}


# config/train_gpt2.py and the defaults of train.py in nanoGPT: GPT-2 small, 0.5M tokens in a step.
NANOGPT_OPTIONS = {
    **{"position": "learned", "ffn_mult": 4.0},
    **{"lr_embedding": 1.0, "beta1": 0.9, "beta2": 0.95, "clip": 1.0},
    **{"schedule": "cosine", "min_lr_ratio": 0.1},
}
NANOGPT_GENES = {
    **{"optimizer": "adamw", "lr": 6e-4, "weight_decay": 0.1, "dropout": 0.0, "warmup": 2000 / 600_000},
    **{"qk_norm": False, "value_embeddings": False},
}
NANOGPT_BATCH = 491_520

# Trainings that the search of the study may take; with the other contestants and the timings, 12 fill the part.
SEARCHED = 6


def study(bench: Bench) -> Iterator[dict[str, Any]]:
    """Compare a search, the default genome and nanoGPT's configuration; each training has the same time."""
    plugin, shape = find_evaluator("bundled:language_model"), [*bench.shapes.values()][min(1, len(bench.shapes) - 1)]
    seconds = bench.limit / (SEARCHED + 6) if bench.gpu else 0.3
    options = {"data": bench.text, "context": shape["context"], "evaluations": 1, "deterministic": False}
    options |= {"eval_tokens": 2**20 if bench.gpu else 2048, "size": f"{shape['depth']}x{shape['width']}"}
    sizes = {"depth": shape["depth"], "width": shape["width"], "heads": shape["heads"]}
    usual = {**plugin.bind({**options, "tokens": 10**9}).space.default(), **sizes}
    batch = usual["batch"] if bench.gpu else 256
    usual["batch"] = batch
    nanogpt = {name: value for name, value in {**usual, **NANOGPT_GENES}.items() if name != "lr_embedding"}
    own_batch = NANOGPT_BATCH if bench.gpu else 4 * batch
    contestants = [
        ("default genome", usual, {}),
        ("nanoGPT's configuration", {**nanogpt, "batch": own_batch}, NANOGPT_OPTIONS),
        ("nanoGPT's configuration, batch of the default", nanogpt, NANOGPT_OPTIONS),
    ]
    for name, genome, own in contestants:
        yield {"contestant": name, **train_for(bench, plugin, {**options, **own}, genome, seconds)}
    device = {"devices": "cuda"} if bench.gpu else {"devices": "cpu", "slots": 1}
    with tempfile.TemporaryDirectory() as store:
        limits: dict[str, Any] = {"hours": SEARCHED * seconds / 3600} if bench.gpu else {"trials": 2}
        budget = {"seconds": seconds} if bench.gpu else {"tokens": 2048}  # a toy is not worth the timing of steps
        settings = {"options": {**options, **budget}, "seed": 1, "final_seeds": 0, "store": store}
        run = Search("bundled:language_model", **settings, **limits, **device).run()
        best = run.best
        count = len(run.trials)
    row = train_for(bench, plugin, options, best.genome, seconds)
    yield {"contestant": f"best of a search of {count} trials in {limits}", **row}


def train_for(
    bench: Bench, plugin: Any, options: dict[str, Any], genome: dict[str, Any], seconds: float
) -> dict[str, Any]:
    """Train a genome for some seconds, by timed steps, with a fresh seed, and return its row."""
    with tempfile.TemporaryDirectory() as folder:
        bound = plugin.bind({**options, "tokens": 100 * genome["batch"]})
        timing = bound.evaluate(genome, Context(device=bench.device, folder=folder, timing=bench.steps))
    tokens = max(1, round(seconds / timing["step"])) * genome["batch"]
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        context = Context(device=bench.device, folder=folder, seed=1001, test=True)
        metrics = plugin.bind({**options, "tokens": tokens}).evaluate(genome, context)
    row = {"weights": f"{metrics['params'] / 1e6:.1f}M", "batch": genome["batch"], "tokens": f"{tokens:,}"}
    row |= {"steps": tokens // genome["batch"], "seconds": f"{time.perf_counter() - began:.1f}"}
    return {**row, "val_loss": f"{metrics['val_loss']:.4f}", "test_loss": f"{metrics['test_loss']:.4f}"}


# The parts, and the share of the time that each may take at most.
PARTS: dict[str, tuple[Part, float]] = {
    "mfu": (mfu, 0.20),
    "memory": (memory, 0.10),
    "study": (study, 0.40),
    "trials": (trials, 0.30),
}


def measure_part(name: str, device: str, steps: int, limit: float, text: str, out: Path) -> None:
    """Run one part in this process, and append each row to `gpu.jsonl` at once."""
    if device == "cpu":
        torch.set_num_threads(1)
    for row in PARTS[name][0](Bench(device, steps, limit, text)):
        with (out / "gpu.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"part": name, "row": row}) + "\n")


def run_part(name: str, arguments: argparse.Namespace, limit: float, out: Path) -> tuple[bool, str]:
    """Run one part in a process of its own; return whether it finished, and how it ended in words."""
    began = time.monotonic()
    command = [sys.executable, __file__, "--only", name, "--device", arguments.device, "--limit", str(limit)]
    command += ["--steps", str(arguments.steps), "--text", arguments.text, "--out", str(out)]
    with (out / "gpu.log").open("a", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            while process.poll() is None and time.monotonic() - began < limit:
                time.sleep(0.2)
            if process.poll() is None:
                return False, f"stopped at its limit of {limit:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError):  # also what the part has started, on Ctrl-C too
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    took = time.monotonic() - began
    failed = process.returncode != 0
    return not failed, f"failed after {took:.0f} s, see gpu.log" if failed else f"{took:.0f} s"


def write_page(out: Path) -> None:
    """Write gpu.md from the rows of gpu.jsonl so far; atomically, since somebody may be looking at it."""
    lines = [json.loads(line) for line in (out / "gpu.jsonl").read_text(encoding="utf-8").splitlines()]
    heads = {name: value for line in lines if "machine" in line for name, value in line["machine"].items()}
    ends = {line["part"]: line["end"] for line in lines if "end" in line}
    text = [f"# {heads['card']}", "", "| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in heads.items())]
    for name in ends:
        rows = [line["row"] for line in lines if line.get("part") == name and "row" in line]
        text += ["", f"## {name} ({ends[name]})", "", *table(rows)]
    page = out / "gpu.md.part"
    page.write_text("\n".join(text) + "\n", encoding="utf-8")
    page.replace(out / "gpu.md")


def table(rows: list[dict[str, Any]]) -> list[str]:  # in Markdown
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, ["---"] * len(names), *([str(row.get(name, "")) for name in names] for row in rows)]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines if names]


def machine(device: str) -> dict[str, str]:
    """Return what the figures depend on: card, memory, driver, versions, commit."""
    root = Path(__file__).parents[1]
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True, check=False
    )
    facts = {"card": "CPU"}
    if device != "cpu":
        card = torch.cuda.get_device_properties(device)
        query = ["nvidia-smi", "--query-gpu=driver_version,power.limit,clocks.max.sm", "--format=csv,noheader", "-i0"]
        driver = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
        facts = {
            "card": card.name,
            "cards": str(torch.cuda.device_count()),
            "memory": f"{card.total_memory / 2**30:.1f} GiB",
        }
        facts |= {"driver, power limit, clock": driver, "CUDA": str(torch.version.cuda)}
    facts |= {"torch": torch.__version__, "Python": platform.python_version(), "cores": str(os.cpu_count())}
    now = datetime.datetime.now(datetime.timezone.utc)
    return {**facts, "commit": commit.stdout.strip(), "date": now.isoformat(timespec="minutes")}


def run_parts(arguments: argparse.Namespace, out: Path) -> int:
    """Run the parts one after the other; return the number of those that failed or were stopped."""
    out.mkdir(parents=True, exist_ok=True)
    results = out / "gpu.jsonl"
    results.write_text(json.dumps({"machine": machine(arguments.device)}) + "\n", encoding="utf-8")
    began, budget, incomplete = time.monotonic(), 60.0 * arguments.minutes, 0
    for name in arguments.parts:
        left = budget - (time.monotonic() - began)
        limit = min(left, budget * PARTS[name][1]) if len(arguments.parts) > 1 else left
        try:
            finished, end = run_part(name, arguments, limit, out) if left > 0 else (False, "no time left")
        except KeyboardInterrupt:
            finished, end = False, "interrupted"
        incomplete += not finished
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"part": name, "end": end}) + "\n")
        write_page(out)
        print((out / "gpu.md").read_text(encoding="utf-8").partition(f"## {name} ")[2], flush=True)
        if end == "interrupted":
            break
    print(f"\n{time.monotonic() - began:.0f} s; the page: {out / 'gpu.md'}")
    return incomplete


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0", help="'cpu': toy sizes")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--steps", type=int, default=20, help="steps to time, three times")
    parser.add_argument("--minutes", type=float, default=30.0, help="time of all parts")
    parser.add_argument("--text", default="", help="text of the study: a file, a folder or a glob")
    parser.add_argument("--out", type=Path, default=Path(), help="folder of gpu.md, gpu.jsonl and gpu.log")
    parser.add_argument("--only", choices=list(PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    out = arguments.out.resolve()

    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        print("skipped: torch sees no GPU here (torch.cuda.is_available() is False); --device cpu tries the code")
        return 0
    if arguments.only:
        measure_part(arguments.only, arguments.device, arguments.steps, arguments.limit, arguments.text, out)
        return 0
    return 1 if run_parts(arguments, out) else 0


if __name__ == "__main__":
    sys.exit(main())
