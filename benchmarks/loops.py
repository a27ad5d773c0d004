"""How fast each bundled evaluator's training goes at its default genome, beside the loop that one would write by hand.

The plain loop is the same model and the same batches, each passed whole: eager float32, torch.optim.AdamW with
fused=True, F.cross_entropy, torch's attention, clip_grad_norm_, no accumulation, no averages. Ours is the trainer that
the evaluator itself makes (caught before its first step), in the precision that it chooses, with `adamw` and with the
optimizer of its default genome where that is another. Each in a process of its own, by turns, as in trainer.py.

    python benchmarks/loops.py                   samples per second and times, five evaluators
    python benchmarks/loops.py --profile NAME    where the time of ours goes, by torch's profiler
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

NAMES = ("language_model", "fine_tuning", "image_classification", "tabular", "text_classification")
KINDS = ("plain", "adamw", "default")
WARM = 3


def caught(name: str, options: dict[str, Any]) -> Any:
    """Return the trainer of an evaluator's own training of its default genome, before the first step."""
    from evo_tune import Context
    from evo_tune.plugins.find import find_evaluator
    from evo_tune.training import Trainer

    class Caught(Exception):
        pass

    def catch(self: Trainer, *_: object) -> None:
        raise Caught(self)

    evaluator = find_evaluator(name)
    bound = evaluator.bind(options).for_run(rungs=False)  # as a run's are
    genome = bound.space.default()
    if "optimizer" in options:
        genome.pop("optimizer", None)
    run, Trainer.run = Trainer.run, catch  # type: ignore[assignment, method-assign]
    try:
        bound.evaluate(genome, Context(seed=0, folder=tempfile.mkdtemp()))
    except Caught as found:
        return found.args[0]
    finally:
        Trainer.run = run  # type: ignore[method-assign]
    raise AssertionError(f"{name} trained nothing")


def plain_step(trainer: Any) -> Callable[[], float]:
    """Return a function that does one step of the same model on the same batches by hand, and gives its loss."""
    import torch
    import torch.nn.functional as F

    model, source = trainer.model.train(), trainer.source
    moving = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(moving, lr=1e-3, fused=True)
    number = 0

    def once() -> float:
        nonlocal number
        window = source.window(number % trainer.recipe.schedule.steps)
        x, y = (torch.cat(parts) for parts in zip(*window, strict=True))
        logits = model(x)
        aims = y if y.is_floating_point() else y.reshape(-1)
        loss = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), aims)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(moving, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        number += 1
        return loss.item()

    return once


def prepared(name: str, kind: str) -> tuple[Callable[[], Any], int]:
    """Return one row's step, and the samples that are in it."""
    from evo_tune.training import keep_freed_memory
    from evo_tune.training.models import block as attention

    options = {"plain": {"precision": "fp32", "optimizer": "adamw"}, "adamw": {"optimizer": "adamw"}}.get(kind, {})
    if kind == "plain":
        attention.uses_plain_products = lambda precision, keys: False
    else:  # a training sets this itself
        keep_freed_memory()
    trainer = caught(name, options)
    samples = sum(len(inputs) for inputs, _ in trainer.source.window(0))
    if kind == "plain":
        return plain_step(trainer), samples
    trainer.model.train()

    def once() -> float:
        trainer.step %= trainer.recipe.schedule.steps  # a timing may be longer than the training
        return float(trainer.train_step().loss)

    return once, samples


def serve(name: str, kind: str) -> None:
    """Time steps for the process at the other end of standard input: so many, for each line that comes."""
    import torch

    torch.set_num_threads(1)
    once, samples = prepared(name, kind)
    for _ in range(WARM):
        once()
    print(samples, flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        for _ in range(int(line)):
            once()
        print((time.perf_counter() - began) / int(line), flush=True)


class Runner:
    """A process that trains, and times itself when it is asked to."""

    def __init__(self, name: str, kind: str) -> None:
        command = [sys.executable, __file__, "--serve", name, kind]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.samples = int(self._read())

    def seconds(self, steps: int) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        return float(self._read())

    def _read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def close(self) -> None:
        self.process.communicate()


def times(name: str, rounds: int, seconds: float) -> tuple[int, dict[str, list[float]]]:
    """Return the samples of a step, and each kind's seconds a step by rounds."""
    runners = {kind: Runner(name, kind) for kind in KINDS}
    steps = max(1, round(seconds / runners["plain"].seconds(2)))
    found = [{kind: runner.seconds(steps) for kind, runner in runners.items()} for _ in range(rounds)]
    for runner in runners.values():
        runner.close()
    return runners["plain"].samples, {kind: [one[kind] for one in found] for kind in KINDS}


def table(given: argparse.Namespace) -> None:
    print(
        f"{'':<24}{'samples a step':>15}{'plain, a second':>17}{'ours':>10}{'times':>7}{'by default':>12}", flush=True
    )
    for name in given.evaluators:
        samples, found = times(name, given.rounds, given.seconds)
        plain, ours = (samples / statistics.median(found[kind]) for kind in ("plain", "adamw"))
        ratio = {
            kind: statistics.median(a / b for a, b in zip(found["plain"], found[kind], strict=True)) for kind in KINDS
        }
        print(f"{name:<24}{samples:>15}{plain:>17,.0f}{ours:>10,.0f}", end="")
        print(f"{ratio['adamw']:>7.2f}{ratio['default']:>12.2f}", flush=True)


def profiled(name: str) -> None:
    """Print where the time of 20 steps goes, beside the plain loop's."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    torch.set_num_threads(1)
    for kind in KINDS[:2]:
        once, _ = prepared(name, kind)
        for _ in range(WARM):
            once()
        with profile(activities=[ProfilerActivity.CPU]) as found:
            for _ in range(20):
                once()
        print(f"{name}, {kind}")
        print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=14, max_name_column_width=48))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evaluators", nargs="*", default=NAMES)
    parser.add_argument("--rounds", type=int, default=9, help="the median of them is shown")
    parser.add_argument("--seconds", type=float, default=1.0, help="about how long the plain loop has in each")
    parser.add_argument("--profile", metavar="NAME")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(*given.serve)
    elif given.profile:
        profiled(given.profile)
    else:
        table(given)


if __name__ == "__main__":
    main()
