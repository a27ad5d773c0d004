"""Compare the time that attention windows take with the FLOPs that they are charged.

Forward and backward pass of one GPT with and without a window, by turns, on one thread, in CPU time. The charged FLOPs
are those of `flops_per_token`; both columns are ratios to full causal attention.

    python benchmarks/windows.py
    python benchmarks/windows.py --context 256 --longest-whole 0      # in chunks, or with 256 by one mask
"""

from __future__ import annotations

import argparse
import time
from functools import partial

import torch

from evo_tune.training import GPT, Precision, accumulate
from evo_tune.training.recipe import GPTConfig, flops_per_token
from evo_tune.training.recipe.models import gpt_config


def seconds(models: list[GPT], context: int, precision: str, rounds: int) -> list[float]:
    """Return the shortest CPU time of a pass for each model, in seconds."""
    tokens = torch.randint(0, 256, (2, context + 1))
    autocast = partial(Precision(name=precision).autocast, torch.device("cpu"))
    best = [float("inf")] * len(models)
    for number in range(rounds + 1):
        for place, model in enumerate(models):
            began = time.thread_time()
            accumulate(model, [(tokens[:, :-1], tokens[:, 1:])], autocast=autocast)
            if number:  # the first round warms up
                best[place] = min(best[place], time.thread_time() - began)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--longest-whole", type=int, default=gpt_config.LONGEST_WHOLE)
    given = parser.parse_args()
    gpt_config.LONGEST_WHOLE = given.longest_whole
    torch.set_num_threads(1)
    windows = [None, given.context * 3 // 4, given.context // 2, given.context // 4, given.context // 8]
    print(f"{'precision':<11}{'width':>6}{'window':>8}{'time':>7}{'FLOPs':>7}", flush=True)
    for precision in ("fp32", "bf16"):
        for width in (64, 128):
            configs = [
                GPTConfig(context=given.context, depth=2, width=width, heads=width // 32, window=window)
                for window in windows
            ]
            taken = seconds([GPT(config) for config in configs], given.context, precision, given.rounds)
            charged = [flops_per_token(config) for config in configs]
            for window, took, flops in zip(windows, taken, charged, strict=True):
                shown = "-" if window is None else window
                ratios = f"{took / taken[0]:>7.2f}{flops / charged[0]:>7.2f}"
                print(f"{precision:<11}{width:>6}{shown:>8}{ratios}", flush=True)


if __name__ == "__main__":
    main()
