"""Time a step of Muon with Newton-Schulz products in float32 and in bfloat16.

A step of the optimizer alone with random gradients, for a GPT of four blocks, on one thread, in CPU time; by turns,
shortest of all rounds.

    python benchmarks/muon.py
"""

from __future__ import annotations

import argparse
import time

import torch

from evo_tune.training import GPT, Muon, fastest_precision
from evo_tune.training.optim import optimizer as optim
from evo_tune.training.recipe import GPTConfig


def step_of(width: int, precision: str) -> torch.optim.Optimizer:
    """Return an optimizer whose parameters have gradients."""
    model = GPT(GPTConfig(depth=4, width=width, heads=4))
    for weight in model.parameters():
        weight.grad = torch.randn_like(weight)
    return Muon(lr=1e-3).build(model, precision)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", default="16,32,48,64,128,256", help="of the models")
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    torch.set_num_threads(1)
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
