"""Time a step of Muon with Newton-Schulz products in float32 and in bfloat16.

A step of the optimizer alone with random gradients, for a GPT of four blocks, on one thread, in CPU time; by turns,
shortest of all rounds.

    python benchmarks/muon.py
    python benchmarks/muon.py --ranks 2     steps of several processes: each does all, and the matrices shared out
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from evo_tune.training import GPT, Muon, Ranks, fastest_precision, launch
from evo_tune.training.optim import optimizer as optim
from evo_tune.training.recipe import GPTConfig


def step_of(width: int, precision: str, ranks: Ranks | None = None) -> torch.optim.Optimizer:
    """Return an optimizer whose parameters have gradients."""
    model = GPT(GPTConfig(depth=4, width=width, heads=4))
    for weight in model.parameters():
        weight.grad = torch.randn_like(weight)
    return Muon(lr=1e-3).build(model, precision, ranks)


def time_rank(ranks: Ranks, tell: Callable[[Any], None], *, width: int, rounds: int) -> list[float]:
    """Return the shortest wall time of a step without and with shared work, fp32 then bf16. Unit: ms."""
    del tell
    torch.manual_seed(0)  # all ranks need the same gradients
    optim.SMALLEST_TO_SHARE = 2
    shortest = []
    for precision in ("fp32", "bf16"):
        optimizers = [step_of(width, precision, group) for group in (None, ranks)]
        seconds: list[list[float]] = [[], []]
        for _ in range(rounds + 1):
            for optimizer, row in zip(optimizers, seconds, strict=True):
                dist.barrier()
                began = time.perf_counter()
                optimizer.step()
                row.append(time.perf_counter() - began)
        shortest += [1e3 * min(row[1:]) for row in seconds]
    return shortest


def print_ranks(widths: list[int], ranks: int, rounds: int) -> None:
    """Print the wall time of a step of several processes."""
    print(f"{'width':>6}{'fp32, ms':>10}{'shared':>8}{'bf16, ms':>10}{'shared':>8}")
    for width in widths:
        row = launch(time_rank, {"width": width, "rounds": rounds}, ranks=ranks)
        print(f"{width:>6}{row[0]:>10.2f}{row[1]:>8.2f}{row[2]:>10.2f}{row[3]:>8.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", default="16,32,48,64,128,256", help="of the models")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--ranks", type=int, default=1, help="processes")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.ranks > 1:
        print_ranks(list(map(int, given.widths.split(","))), given.ranks, given.rounds)
        return
    optim.SMALLEST_IN_BF16 = 0  # so that each row shows both
    print(f"fastest precision of this CPU: {fastest_precision()}")
    print(f"{'width':>6}{'fp32, ms':>10}{'bf16, ms':>10}{'fp32 / bf16':>13}")
    for width in map(int, given.widths.split(",")):
        steps = {precision: step_of(width, precision) for precision in ("fp32", "bf16")}
        best = dict.fromkeys(steps, float("inf"))
        for _ in range(given.rounds):
            for precision, made in steps.items():
                began = time.thread_time()
                made.step()
                best[precision] = min(best[precision], time.thread_time() - began)
        plain, low = (1e3 * best[precision] for precision in ("fp32", "bf16"))
        print(f"{width:>6}{plain:>10.2f}{low:>10.2f}{plain / low:>13.2f}", flush=True)


if __name__ == "__main__":
    main()
