"""Answer in half an hour what a rented GPU makes of this package: one command, one page.

    python benchmarks/gpu.py                        all parts on the first GPU; writes gpu.md and gpu.jsonl
    python benchmarks/gpu.py --parts mfu waits      some of them
    python benchmarks/gpu.py --text FILE --minutes 60
    python benchmarks/gpu.py --device cpu --out DIR the same code at toy sizes

Each part is a process with a limit in time, the most important part first; what a part does not need is left to the
last ones. Each row is on disk at once, and the page is written again after each row. So a part that fails, hangs or is
too slow costs only itself, and Ctrl-C leaves a page with all rows so far. Without a GPU, nothing is done.

    tests        all tests marked `gpu`
    mfu          share of the card's peak FLOP/s at 10M, 100M and 350M weights, then with compiled blocks
    memory       predicted and measured peak memory: AdamW, Muon, EMA, recomputation
    study        a search at 100M weights, the default genome and nanoGPT's configuration; equal time for each training
    trials       trials per hour, with 1 to 8 at a time on the card
    determinism  cost of deterministic algorithms, and of the hash by which ranks compare weights
    ranks        NCCL and SyncBN with two ranks; needs two cards
    compile      gain of compiled blocks, and their start
    precision    tokens per second in bf16, fp16, tf32 and fp32
    windows      attention in a window by chunks and by flex_attention
    waits        how often the host waits for the card in a step, and the gain of reading late
    survived     a step that is too large for the free memory and continues in smaller passes
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
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

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
PRECISIONS = ("bf16", "fp16", "tf32", "fp32")


class Bench:
    """Trains models on random text, and times their steps.

    Args:
        device: Device of the models.
        steps: Number of steps to time, three times.
        limit: Seconds that the part has.
        text: Text of the study: a file, a folder or a glob.
    """

    def __init__(self, device: str, steps: int, limit: float = 60.0, text: str = "") -> None:
        import torch

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
            changes: Fields of the model's config; `late` and `compiled` of the trainer; `micro_batch`; `optimizer`
                ('adamw' or 'muon'), `ema` (bool) and `recompute` of the training.
        """
        import torch

        from evo_tune import training
        from evo_tune.training import recipe

        own = {name: changes.pop(name) for name in ("late", "compiled") if name in changes}
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
        return training.Trainer(model, source, own_recipe, device=self.device, **own)

    def precision(self) -> str:
        """Return the precision in which trainings here are fastest."""
        from evo_tune.training import fastest_precision

        return fastest_precision(self.device) if self.gpu else "fp32"

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
        import torch

        if self.gpu:
            torch.cuda.synchronize()

    def tokens(self, shape: Mapping[str, int]) -> int:
        """Return how many tokens a step of a shape has: enough to keep a card busy, and what fits on 16 GiB."""
        return max(shape["context"], (32768 if shape["width"] < 1024 else 16384) if self.gpu else 64)


Part = Callable[[Bench], Iterator[dict[str, Any]]]


def tests(bench: Bench) -> Iterator[dict[str, Any]]:
    """Run the tests marked `gpu`; at toy size, two of their twins on the CPU."""
    root = Path(__file__).parents[1]
    some = ["tests/training/test_on_a_card.py", "-k", "reading_late and adamw and cpu"]
    chosen = ["-m", "gpu", "tests"] if bench.gpu else some
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *chosen]
        began = time.perf_counter()
        subprocess.run(command, cwd=root, stdout=sys.stderr, check=False)
        suite = ElementTree.parse(report).getroot()[0]  # pytest wrote it just now
    counts = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
    yield {**counts, "seconds": f"{time.perf_counter() - began:.0f}"}
    for case in suite.iter("testcase"):
        for kind in ("failure", "error"):
            for problem in case.findall(kind):
                yield {"tests": case.get("name"), "failures": " ".join((problem.get("message") or kind).split())[:200]}


def mfu(bench: Bench) -> Iterator[dict[str, Any]]:
    from evo_tune import training
    from evo_tune.training import recipe

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


def waits(bench: Bench) -> Iterator[dict[str, Any]]:
    import torch

    name, shape = bench.precision(), next(iter(bench.shapes.values()))
    for late in (0, 8):
        trainer = bench.trainer(shape, bench.tokens(shape), name, late=late)
        trainer.run(3)
        trainer.feed.prepare(trainer.source, trainer.step)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if bench.gpu:
                torch.cuda.set_sync_debug_mode("warn")
            try:
                before = time.perf_counter()
                trainer.advance()
                host = time.perf_counter() - before
            finally:
                if bench.gpu:
                    torch.cuda.set_sync_debug_mode("default")
        trainer.catch_up()
        asked = sum("synchroniz" in str(one.message) for one in caught)
        yield {
            "host reads": "at once" if not late else f"{late} steps late",
            "waits a step": asked if bench.gpu else "-",
            "host, ms": f"{1e3 * host:.2f}",
            "a step, ms": f"{1e3 * bench.seconds(trainer):.2f}",
        }


def precision(bench: Bench) -> Iterator[dict[str, Any]]:
    shape = list(bench.shapes.values())[-2]
    from evo_tune.errors import EvoTuneError

    for name in PRECISIONS:
        try:
            trainer = bench.trainer(shape, bench.tokens(shape), name)
        except EvoTuneError as error:  # a card without it
            yield {"precision": name, "tokens/s": str(error)}
            continue
        yield {"precision": name, "tokens/s": f"{bench.tokens(shape) / bench.seconds(trainer):,.0f}"}


def windows(bench: Bench) -> Iterator[dict[str, Any]]:
    name = bench.precision()
    shape = {**list(bench.shapes.values())[-2], "context": 4096 if bench.gpu else 64}
    for window in (None, 256 if bench.gpu else 16):
        for compiled in (False, True) if bench.gpu else (False,):
            trainer = bench.trainer(shape, bench.tokens(shape), name, window=window, compiled=compiled)
            how = "whole" if window is None else "by flex_attention" if compiled else "by chunks"
            speed = bench.tokens(shape) / bench.seconds(trainer)
            yield {"window": window or "-", "attention": how, "compiled": compiled, "tokens/s": f"{speed:,.0f}"}


def compiling(bench: Bench) -> Iterator[dict[str, Any]]:
    name = bench.precision()
    for size, shape in list(bench.shapes.items())[: 3 if bench.gpu else 1]:
        usual = None
        for compiled in (False, True) if bench.gpu else (False,):
            trainer, before = bench.trainer(shape, bench.tokens(shape), name, compiled=compiled), time.perf_counter()
            trainer.run(3)
            began, each = time.perf_counter() - before, bench.seconds(trainer)
            usual = usual or each
            row = {"model": size, "compiled": compiled, "first 3 steps, s": f"{began:.1f}"}
            yield {**row, "a step, ms": f"{1e3 * each:.2f}", "times": f"{usual / each:.2f}"}


SETUPS: dict[str, dict[str, Any]] = {
    "AdamW": {},
    "Muon": {"optimizer": "muon"},
    "AdamW, EMA": {"ema": True},
    "AdamW, each block recomputed": {"recompute": 1},
}


def memory(bench: Bench) -> Iterator[dict[str, Any]]:
    from evo_tune import training
    from evo_tune.training import recipe

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


def survived(bench: Bench) -> Iterator[dict[str, Any]]:
    """Fill the card but for what half of a step takes; the trainer is to meet that with smaller passes."""
    import torch

    name, shape = bench.precision(), next(iter(bench.shapes.values()))
    whole = bench.trainer(shape, 4 * bench.tokens(shape), name)
    whole.run(1)
    if not bench.gpu:
        yield {"passes": whole.parts, "loss": f"{whole.train_step().loss:.3f}", "held back, MiB": "-"}
        return
    took = torch.cuda.max_memory_allocated()
    del whole
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    held = torch.empty(max(0, int(free - 0.6 * took)), dtype=torch.uint8, device=bench.device)
    tight = bench.trainer(shape, 4 * bench.tokens(shape), name)
    loss = tight.train_step().loss
    yield {"passes": tight.parts, "loss": f"{loss:.3f}", "held back, MiB": f"{held.numel() / 2**20:,.0f}"}


def trials(bench: Bench) -> Iterator[dict[str, Any]]:
    """Search with small trainings of equal FLOPs, with 1 to 8 at a time on the card."""
    from evo_tune import Search

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
    from evo_tune import Search
    from evo_tune.plugins.find import find_evaluator

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


def tokens_in(bench: Bench, plugin: Any, options: dict[str, Any], genome: dict[str, Any], seconds: float) -> float:
    """Return the training tokens that a genome sees in some seconds, evaluations aside, by timed steps."""
    from evo_tune import Context

    with tempfile.TemporaryDirectory() as folder:
        bound = plugin.bind({**options, "tokens": 100 * genome["batch"]})
        timing = bound.evaluate(genome, Context(device=bench.device, folder=folder, timing=bench.steps))
    return float(max(1, round(seconds / timing["step"])) * genome["batch"])


def train_for(
    bench: Bench, plugin: Any, options: dict[str, Any], genome: dict[str, Any], seconds: float
) -> dict[str, Any]:
    """Train a genome for some seconds with a fresh seed, and return its row."""
    from evo_tune import Context

    tokens = int(tokens_in(bench, plugin, options, genome, seconds))
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        context = Context(device=bench.device, folder=folder, seed=1001, test=True)
        metrics = plugin.bind({**options, "tokens": tokens}).evaluate(genome, context)
    row = {"weights": f"{metrics['params'] / 1e6:.1f}M", "batch": genome["batch"], "tokens": f"{tokens:,}"}
    row |= {"steps": tokens // genome["batch"], "seconds": f"{time.perf_counter() - began:.1f}"}
    return {**row, "val_loss": f"{metrics['val_loss']:.4f}", "test_loss": f"{metrics['test_loss']:.4f}"}


def determinism(bench: Bench) -> Iterator[dict[str, Any]]:
    """Time steps with and without deterministic algorithms in turn, and the hash of the weights."""
    from evo_tune.training.hardware.device import be_deterministic
    from evo_tune.training.hardware.distributed import weight_hash

    name = bench.precision()
    for size, shape in bench.shapes.items():
        trainer = bench.trainer(shape, bench.tokens(shape), name)
        seconds: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(3):
            for deterministic, row in seconds.items():
                be_deterministic(deterministic)
                row.append(bench.seconds(trainer))
        be_deterministic(False)
        free, required = (statistics.median(row) for row in seconds.values())
        began = time.perf_counter()
        for _ in range(3):
            int(weight_hash(list(trainer.parameters)))
        hashed = (time.perf_counter() - began) / 3
        yield {
            "model": size,
            "step, ms": f"{1e3 * free:.2f}",
            "deterministic, ms": f"{1e3 * required:.2f}",
            "cost": f"{required / free - 1:.1%}",
            "hash of the weights, ms": f"{1e3 * hashed:.2f}",
            "hash, share of 100 steps": f"{hashed / free / 100:.2%}",
        }


def ranks(bench: Bench) -> Iterator[dict[str, Any]]:
    import torch

    from evo_tune import training

    cards = torch.cuda.device_count() if bench.gpu else 2
    if cards < 2:
        yield {"ranks": "skipped: there is one GPU, and NCCL wants two"}
        return
    device = "cuda" if bench.gpu else "cpu"
    for size in (1, 2):
        arguments = {"steps": bench.steps, "batch_norm": bench.gpu}
        answer = training.launch(one_rank, arguments, ranks=size, device=device, threads=1)
        yield {"ranks": size, **answer}


def one_rank(group: Any, tell: Callable[[Any], None], *, steps: int, batch_norm: bool) -> dict[str, Any]:
    """Train a small model with convolutions as one of several processes; all must hold the same weights."""
    import torch

    from evo_tune import training
    from evo_tune.training import recipe

    del tell
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, padding=1),
        torch.nn.BatchNorm2d(16) if batch_norm else torch.nn.Identity(),
        torch.nn.GELU(),
        torch.nn.Flatten(),
        torch.nn.Linear(16 * 64, 10),
    ).to(group.device)
    images, classes = torch.randint(0, 255, (256, 3, 8, 8)).float(), torch.arange(256) % 10
    source = training.Epochs(images, classes, classes=10, batch=64, total=64 * 1000, seed=0)
    recipe = training.Recipe(
        optimizer=training.AdamW(lr=1e-3),
        schedule=recipe.Schedule(steps=1000),
        weight_decay=recipe.WeightDecay(start=0.1),
    )
    trainer = training.Trainer(model, source, recipe, device=str(group.device), ranks=group)
    trainer.run(3)
    before = time.perf_counter()
    trainer.run(3 + steps)
    seconds = (time.perf_counter() - before) / steps
    group.compare(trainer.model, trainer.step)
    norm = "SyncBN" if any(isinstance(m, torch.nn.SyncBatchNorm) for m in trainer.model.modules()) else "-"
    return {"a step, ms": f"{1e3 * seconds:.2f}", "norms": norm, "weights": "the same on all"}


# The parts, the most important one first, and the share of the time that each may take at most.
PARTS: dict[str, tuple[Part, float]] = {
    "tests": (tests, 0.17),
    "mfu": (mfu, 0.15),
    "memory": (memory, 0.08),
    "study": (study, 0.30),
    "trials": (trials, 0.22),
    "determinism": (determinism, 0.05),
    "ranks": (ranks, 0.05),
    "compile": (compiling, 0.10),
    "precision": (precision, 0.05),
    "windows": (windows, 0.10),
    "waits": (waits, 0.05),
    "survived": (survived, 0.05),
}


def measure_part(name: str, device: str, steps: int, limit: float, text: str, out: Path) -> None:
    """Run one part in this process, and append each row to `gpu.jsonl` at once."""
    import torch

    if device == "cpu":
        torch.set_num_threads(1)
    for row in PARTS[name][0](Bench(device, steps, limit, text)):
        with (out / "gpu.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"part": name, "row": row}) + "\n")


def run_part(name: str, arguments: argparse.Namespace, limit: float, out: Path) -> tuple[bool, str]:
    """Run one part in a process of its own; return whether it finished, and how it ended in words."""
    began, size = time.monotonic(), -1
    command = [sys.executable, __file__, "--only", name, "--device", arguments.device, "--limit", str(limit)]
    command += ["--steps", str(arguments.steps), "--text", arguments.text, "--out", str(out)]
    with (out / "gpu.log").open("a", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            while process.poll() is None and time.monotonic() - began < limit:
                time.sleep(0.2)
                if (now := (out / "gpu.jsonl").stat().st_size) != size:
                    size = now
                    write_page(out, {name: "running"})
            if process.poll() is None:
                return False, f"stopped at its limit of {limit:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError):  # also what the part has started, on Ctrl-C too
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    took = time.monotonic() - began
    finished = process.returncode == 0
    return finished, f"{took:.0f} s" if finished else f"failed after {took:.0f} s, see gpu.log"


def write_page(out: Path, ends: Mapping[str, str]) -> None:
    """Write gpu.md from the rows so far; atomically, since somebody may be looking at it.

    Args:
        out: Folder of the page.
        ends: How parts ended, in words, by name; those of earlier calls are kept in gpu.jsonl.
    """
    lines = [json.loads(line) for line in (out / "gpu.jsonl").read_text(encoding="utf-8").splitlines()]
    heads = {name: value for line in lines if "machine" in line for name, value in line["machine"].items()}
    ends = {**{line["part"]: line["end"] for line in lines if "end" in line}, **ends}
    text = [f"# {heads['card']}", "", "| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in heads.items())]
    for name in PARTS:
        rows = [line["row"] for line in lines if line.get("part") == name and "row" in line]
        if rows or name in ends:
            text += ["", f"## {name} ({ends.get(name, 'running')})", "", *table(rows)]
    page = out / "gpu.md.part"
    page.write_text("\n".join(text) + "\n", encoding="utf-8")
    page.replace(out / "gpu.md")


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return the lines of a Markdown table."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, ["---"] * len(names), *([str(row.get(name, "")) for name in names] for row in rows)]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines if names]


def machine(device: str) -> dict[str, str]:
    """Return what the figures depend on: card, memory, driver, versions, commit."""
    import torch

    root = Path(__file__).parents[1]
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True, check=False
    )
    facts = {"card": platform.processor() or "CPU"}
    if device != "cpu":
        card = torch.cuda.get_device_properties(device)
        query = [
            "nvidia-smi",
            "--query-gpu=driver_version,power.limit,clocks.max.sm",
            "--format=csv,noheader",
            "-i",
            "0",
        ]
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
    """Run the parts one after the other, and return the number of those that failed or were stopped."""
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
        write_page(out, {})
        rows = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
        print(
            f"\n{name}: {end}\n",
            *table([row["row"] for row in rows if row.get("part") == name and "row" in row]),
            sep="\n",
        )
        sys.stdout.flush()
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

    import torch

    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        print("skipped: torch sees no GPU here (torch.cuda.is_available() is False); --device cpu tries the code")
        return 0
    if arguments.only:
        measure_part(arguments.only, arguments.device, arguments.steps, arguments.limit, arguments.text, out)
        return 0
    return 1 if run_parts(arguments, out) else 0


if __name__ == "__main__":
    sys.exit(main())
