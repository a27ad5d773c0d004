"""What several trainings gain from being one: steps a second, packed and one after the other.

    python benchmarks/pack.py                      shapes of the tiny space, 1, 2, 4 and 8 trainings
    python benchmarks/pack.py --parts              where a step's time goes, one alone and eight as one
    python benchmarks/pack.py --processes          as many processes on the same core beside
    python benchmarks/pack.py --device cuda

Both sides train by turns in one process, on one thread, so that they share the machine's good and bad minutes; what is
given is the median of the rounds' ratios. On a machine that others use, --clock cpu counts the process's own seconds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

SHAPES: dict[str, dict[str, Any]] = {
    "tiny, its default": {"width": 48, "heads": 3, "context": 32, "tokens": 512, "optimizer": "muon"},
    "width 32, 512 tokens": {"width": 32, "heads": 4, "context": 32, "tokens": 512, "optimizer": "adamw"},
    "width 64, 512 tokens": {"width": 64, "heads": 4, "context": 32, "tokens": 512, "optimizer": "adamw"},
    "width 32, 128 tokens": {"width": 32, "heads": 4, "context": 32, "tokens": 128, "optimizer": "adamw"},
    "width 96, 512 tokens": {"width": 96, "heads": 4, "context": 128, "tokens": 512, "optimizer": "adamw"},
    "width 64, 1024 tokens": {"width": 64, "heads": 4, "context": 64, "tokens": 1024, "optimizer": "adamw"},
    "width 48, 2048 tokens": {"width": 48, "heads": 3, "context": 32, "tokens": 2048, "optimizer": "adamw"},
    "width 96, 4096 tokens": {"width": 96, "heads": 4, "context": 128, "tokens": 4096, "optimizer": "adamw"},
}
STEPS = 100_000  # of a schedule that none of the timings comes to the end of


def trainers(shape: dict[str, Any], count: int, device: str, dropout: float) -> list[Any]:
    """Return so many trainers of a shape, each with its own seed."""
    import torch

    from evo_tune import training
    from evo_tune.training.data.text import read_text

    text = torch.frombuffer(bytearray(read_text("")), dtype=torch.uint8)
    config = training.GPTConfig(
        depth=2, width=shape["width"], heads=shape["heads"], context=shape["context"], init="fan_in", dropout=dropout
    )
    batch = shape["tokens"] // config.context
    optimizer = {"adamw": training.AdamW, "muon": training.Muon}[shape["optimizer"]]
    recipe = training.Recipe(
        optimizer=optimizer(lr=3e-3),
        schedule=training.Schedule(steps=STEPS),
        weight_decay=training.WeightDecay(start=0.1),
        precision=training.Precision(name=training.fastest_precision(device)),
    )
    made = []
    for seed in range(count):
        source = training.TrainingWindows(text, context=config.context, batch=batch, total=STEPS * batch, seed=seed)
        model = training.GPT(config, seed=seed).to(device)
        made.append(training.Trainer(model, source, recipe, seed=seed, device=device))
    return made


def prepare(threads: int) -> None:
    import torch

    from evo_tune.training import keep_freed_memory

    torch.set_num_threads(threads)
    keep_freed_memory()


def clock_of(given: argparse.Namespace) -> Callable[[], float]:
    if given.device == "cpu":
        return time.process_time if given.clock == "cpu" else time.perf_counter

    def now() -> float:
        import torch

        torch.cuda.synchronize()
        return time.perf_counter()

    return now


def by_turns(shape: dict[str, Any], count: int, given: argparse.Namespace) -> tuple[float, float]:
    """Return steps a second of all trainings together, packed, and the ratio to one after the other."""
    from evo_tune.training import Pack

    now = clock_of(given)
    alone = trainers(shape, count, given.device, given.dropout)
    pack = Pack(trainers(shape, count, given.device, given.dropout))

    def one_after_the_other(steps: int) -> float:
        before = now()
        for trainer in alone:
            trainer.run(trainer.step + steps)
        return now() - before

    def packed(steps: int) -> float:
        before = now()
        pack.run(steps)
        return now() - before

    one_after_the_other(3), packed(3)  # what is done once is not timed
    steps = max(2, round(3 * given.seconds / max(1e-6, one_after_the_other(3))))
    rounds = [(one_after_the_other(steps), packed(steps)) for _ in range(given.rounds)]
    each = statistics.median(after for _, after in rounds) / (steps * count)
    return 1.0 / each, statistics.median(before / after for before, after in rounds)


def chosen(given: argparse.Namespace) -> list[tuple[str, dict[str, Any]]]:
    """Return the shapes that are asked for."""
    return [(name, shape) for name, shape in SHAPES.items() if not given.shapes or any(w in name for w in given.shapes)]


def speed(given: argparse.Namespace) -> None:
    """Print steps a second and ratios."""
    prepare(given.threads)
    print(f"{'':<24}" + "".join(f"{f'{n} as one':>20}" for n in given.members))
    print(f"{'':<24}" + f"{'steps/s':>12}{'times':>8}" * len(given.members), flush=True)
    for name, shape in chosen(given):
        print(f"{name:<24}", end="", flush=True)
        for count in given.members:
            found, ratio = by_turns(shape, count, given)
            print(f"{found:>12.1f}{ratio:>8.2f}", end="", flush=True)
        print(flush=True)


# ---------------------------------------------------------------- where the time goes


def parts(given: argparse.Namespace) -> None:
    """Print what torch's profiler counts of a step of one, and of eight as one, by operation."""
    from evo_tune.training import Pack

    prepare(given.threads)
    for name, shape in chosen(given):
        (alone,), eight = (trainers(shape, count, given.device, given.dropout) for count in (1, 8))
        times = [profiled(lambda steps, one=alone: one.run(one.step + steps), 1)]
        times.append(profiled(Pack(eight).run, 8))
        print(f"{name}: microseconds a training's step, by operation\n{'':<44}{'alone':>10}{'of eight':>10}")
        for key in sorted(times[0].keys() | times[1].keys(), key=lambda key: -max(one.get(key, 0.0) for one in times)):
            if max(one.get(key, 0.0) for one in times) >= 10.0:
                print(f"  {key[:42]:<42}{times[0].get(key, 0.0):>10.0f}{times[1].get(key, 0.0):>10.0f}")
        print(f"  {'all':<42}{sum(times[0].values()):>10.0f}{sum(times[1].values()):>10.0f}", flush=True)


def profiled(run: Callable[[int], object], members: int, steps: int = 20) -> dict[str, float]:
    """Return the microseconds of a training's step by operation."""
    from torch.profiler import ProfilerActivity, profile

    run(3)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        run(steps)
    return {row.key: row.self_cpu_time_total / (steps * members) for row in seen.key_averages()}


# ---------------------------------------------------------------- processes on the same core


def serve(shape: dict[str, Any], given: argparse.Namespace) -> None:
    """Train when the process at the other end of standard input says how far, and say how long that took."""
    prepare(given.threads)
    (trainer,), now = trainers(shape, 1, given.device, given.dropout), clock_of(given)
    trainer.run(3)
    print("ready", flush=True)
    for line in sys.stdin:
        before = now()
        trainer.run(trainer.step + int(line))
        print(now() - before, flush=True)


def processes(given: argparse.Namespace) -> None:
    """Print how many steps a second as many processes on one core do, beside one after the other and packed.

    By --clock cpu it is steps a second of their processors' time, all together.
    """
    prepare(given.threads)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(f"{'':<24}{'trainings':>10}{'one by one':>12}{'processes':>12}{'packed':>12}   steps/s", flush=True)
    for name, shape in chosen(given):
        for count in [n for n in given.members if n > 1]:
            packed, ratio = by_turns(shape, count, given)
            command = [sys.executable, __file__, "--serve", name, "--device", given.device, "--clock", given.clock]
            own = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            runners = [subprocess.Popen(command, **own) for _ in range(count)]
            for one in runners:
                one.stdout.readline()
            steps, rounds = max(2, round(given.seconds * packed / ratio / count)), []
            for _ in range(given.rounds):
                before = time.perf_counter()
                for one in runners:
                    one.stdin.write(f"{steps}\n")
                    one.stdin.flush()
                took = sum(float(one.stdout.readline()) for one in runners)
                took = took if given.clock == "cpu" else time.perf_counter() - before
                rounds.append(count * steps / took)
            for one in runners:
                one.communicate()
            row = f"{count:>10}{packed / ratio:>12.1f}{statistics.median(rounds):>12.1f}{packed:>12.1f}"
            print(f"{name:<24}{row}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = {"type": lambda given: [int(number) for number in given.split(",")]}
    parser.add_argument("--members", default="1,2,4,8", help="trainings", **numbers)
    parser.add_argument("--shapes", nargs="*", help="only those whose names hold one of these")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7, help="of which the median is given")
    parser.add_argument("--seconds", type=float, default=0.5, help="about how long one side has in each")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--parts", action="store_true")
    parser.add_argument("--processes", action="store_true")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(SHAPES[given.serve], given)
    else:
        (parts if given.parts else processes if given.processes else speed)(given)


if __name__ == "__main__":
    main()
