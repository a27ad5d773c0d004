"""What a GPU makes of this package's trainings: one command, ten minutes, on the day that there is one.

    python benchmarks/gpu.py                     all parts on the first GPU, what wants two where there are two
    python benchmarks/gpu.py --parts mfu waits   some of them
    python benchmarks/gpu.py --device cpu        the same code at toy sizes, so that no typing error is met on the day

Each part prints a table with the card's name and goes on where another fails, whose error stands in its place. Without
a card it says so and does nothing.

    mfu        share of the card's peak at 1M, 10M, 100M and 350M parameters (goal: 40 % at 100M on an H100)
    waits      how often the host waits for the card in a step, by torch's own warnings, and what reading late gains
    precision  tokens a second in bf16, fp16, tf32 and fp32
    windows    attention in a window by chunks and by flex_attention
    compile    what compiled blocks gain, and what they cost before
    memory     predicted against measured peaks
    survived   a step that is too large for what is left of the card, and goes on in smaller passes
    trials     trials an hour, small and medium: one at a time, and several processes on the card
    ranks      NCCL and SyncBN with two ranks, where there are two cards
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

SHAPES = {
    "1M": {"depth": 4, "width": 128, "heads": 2, "context": 256},
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
    """Trains models at random text, and times their steps.

    Args:
        device: Where.
        steps: That are timed.
    """

    def __init__(self, device: str, steps: int) -> None:
        import torch

        self.device, self.steps = device, steps
        self.gpu = device.startswith("cuda")
        self.shapes = SHAPES if self.gpu else TOYS
        self.vocabulary = VOCABULARY if self.gpu else 64
        self.card = torch.cuda.get_device_name(device) if self.gpu else "CPU"

    def trainer(self, shape: Mapping[str, int], tokens: int, precision: str = "fp32", **given: Any) -> Any:
        """Return a trainer of a GPT at step 0.

        Args:
            shape: Depth, width, heads, context.
            tokens: In a step.
            precision: By name.
            given: Of the model's config; `late`, `compiled` and `micro_batch` are the trainer's.
        """
        import torch

        from evo_tune import training
        from evo_tune.training import recipe

        own = {name: given.pop(name) for name in ("late", "compiled") if name in given}
        micro = given.pop("micro_batch", None)
        config = recipe.GPTConfig(vocab_size=self.vocabulary, init="fan_in", **{**shape, **given})
        text = torch.randint(0, self.vocabulary, (200_000,), dtype=torch.int32)
        batch = max(1, tokens // config.context)
        source = training.TrainingWindows(
            text, context=config.context, batch=batch, total=1000 * batch, seed=0, micro_batch=micro
        )
        recipe = training.Recipe(
            optimizer=training.AdamW(lr=1e-4),
            schedule=recipe.Schedule(steps=1000),
            weight_decay=recipe.WeightDecay(start=0.1),
            precision=training.Precision(name=precision),
        )
        model = training.GPT(config, seed=0).to(self.device)
        return training.Trainer(model, source, recipe, device=self.device, **own)

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


def mfu(bench: Bench) -> Iterator[dict[str, Any]]:
    from evo_tune import training
    from evo_tune.training import recipe

    name = bench.precision()
    peak = training.peak_flops(bench.card, name) if bench.gpu else None
    for size, shape in bench.shapes.items():
        tokens = bench.tokens(shape)
        micro = max(1, 16384 // shape["context"])
        trainer = bench.trainer(shape, tokens, name, micro_batch=micro)
        speed = tokens / bench.seconds(trainer)
        share = training.mfu(recipe.flops_per_token(trainer.model.config), speed, peak)
        yield {
            "model": size,
            "parameters": f"{trainer.model.config.parameters / 1e6:.1f}M",
            "precision": name,
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


def memory(bench: Bench) -> Iterator[dict[str, Any]]:
    from evo_tune import training
    from evo_tune.training import recipe

    name = bench.precision()
    for size, shape in bench.shapes.items():
        trainer = bench.trainer(shape, bench.tokens(shape), name)
        windows_in_step = bench.tokens(shape) // shape["context"]
        kind = "cuda" if bench.gpu else "cpu"
        predicted = recipe.predict_memory(trainer.model.config, windows_in_step, precision=name, device=kind)
        expected = predicted.peak - predicted.context
        took = training.measure_peak_memory(bench.device, lambda: trainer.run(2))  # noqa: B023 # run here and now
        yield {
            "model": size,
            "predicted, MiB": f"{expected / 2**20:,.0f}",
            "measured, MiB": "-" if took is None else f"{took / 2**20:,.0f}",
            "measured/predicted": "-" if took is None else f"{took / expected:.2f}",
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
    """Search runs of their own, each training for the same budget: how many an hour."""
    from evo_tune import Search

    sizes = {"small": 3e11, "medium": 3e13} if bench.gpu else {"small": 2e8}
    for size, flops in sizes.items():
        alone = None
        for many in (1, 4, "auto") if bench.gpu else (1,):
            with tempfile.TemporaryDirectory() as store:
                device = {"devices": "cuda", "per_device": many} if bench.gpu else {"devices": "cpu", "slots": 1}
                search = Search(
                    "language_model",
                    options={"size": size, "flops": flops, "eval_tokens": 8192},
                    strategy="random",
                    seed=1,
                    trials=12 if bench.gpu else 2,
                    store=store,
                    **device,
                )
                before = time.perf_counter()
                run = search.run()
                hour = 3600.0 * len(run.trials) / (time.perf_counter() - before)
            alone = alone or hour
            row = {"shape": size, "on the card at once": many, "trials an hour": f"{hour:,.0f}"}
            yield {**row, "times": f"{hour / alone:.2f}"}


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


PARTS: dict[str, Part] = {
    "mfu": mfu,
    "waits": waits,
    "precision": precision,
    "windows": windows,
    "compile": compiling,
    "memory": memory,
    "survived": survived,
    "trials": trials,
    "ranks": ranks,
}


def show(title: str, rows: list[dict[str, Any]]) -> None:
    """Print a table as Markdown has it."""
    print(f"\n{title}\n", flush=True)
    names = list(dict.fromkeys(name for row in rows for name in row))
    print("| " + " | ".join(names) + " |")
    print("|" + "---|" * len(names))
    for row in rows:
        print("| " + " | ".join(str(row.get(name, "")) for name in names) + " |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0", help="'cpu' tries the code at toy sizes")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--steps", type=int, default=20, help="that are timed, three times")
    given = parser.parse_args()

    import torch

    if given.device.startswith("cuda") and not torch.cuda.is_available():
        print("skipped: torch sees no GPU here (torch.cuda.is_available() is False); --device cpu tries the code")
        return 0
    if given.device == "cpu":
        torch.set_num_threads(1)
    bench = Bench(given.device, given.steps)
    print(f"{bench.card}, torch {torch.__version__}" + (f", CUDA {torch.version.cuda}" if bench.gpu else ""))
    failed = 0
    for name in given.parts:
        rows: list[dict[str, Any]] = []
        try:
            rows.extend(PARTS[name](bench))
        except Exception as error:  # the other parts are worth having
            failed += 1
            rows.append({name: f"failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}"})
            traceback.print_exc(file=sys.stderr)
        show(f"{name}, {bench.card}", rows)
        if bench.gpu:
            torch.cuda.empty_cache()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
