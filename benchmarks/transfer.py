"""Transfer from a small model to a larger one: the learning rate, whole recipes, predicted losses, and speed.

All trainings are language_model's, with one batch size, one context and no dropout. `param=completep` transfers a
recipe, and `param=standard` is the control.

    --part lr      The learning rate. The base's best rate is taken from a grid in steps of √2. Printed are the loss at
                   that rate under completep, the loss under standard at its own best rate, and both best rates, by
                   a parabola in log lr for each seed. With --flat all rates are bottoms of parabolas.
    --part genome  A recipe: a search of 40 trainings at width 64, transferred to 256, against a search there with
                   equal FLOPs.
    --part loss    The predicted loss of a training with about 8 times the compute of the largest training seen: how
                   often the loss is within the 80 % interval, and the width of the interval.
    --part speed   Time of a step under completep relative to standard, in pairs.

    python benchmarks/transfer.py --part lr --text FILE --size 2x128 2x256 --seeds 3 --rows rows.jsonl
    python benchmarks/transfer.py --part lr --text FILE --size 2x128 --optimizer muon --flat

A training in the file of rows is not repeated, so a part can be killed and started again. One thread; --clock cpu
counts the seconds of the process itself, for machines with other users.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from transfer_trainings import (
    BATCH,
    CONTEXT,
    HEAD,
    Rows,
    Trainer,
    Valley,
    excess,
    mean,
    plain,
    rate,
    scaling,
    valley,
)

from evo_tune import Choice, SearchSpace
from evo_tune.training.scale.laws import Observation, predict_loss

# ---------------------------------------------------------------- the learning rate

START = {"adamw": 0.0056, "muon": 0.016, "sgd": 0.13}
"""Learning rate at which the search for the base's best begins."""

RECIPE = {"position": "learned", "schedule": "cosine", "min_lr_ratio": 0.1, "lr_embedding": 1.0}
"""Options of --part lr, so that its figures do not depend on the evaluator's defaults."""

COLUMNS = {
    "": 17,
    "best lr, base": 17,
    "at that lr": 17,
    "best lr": 17,
    "standard's best": 17,
    "at": 17,
    "completep - standard": 22,
}


def learning_rates(trainer: Trainer, given: argparse.Namespace) -> None:
    print("".join(f"{name:>{width}}" for name, width in COLUMNS.items()))
    for size in given.size:
        print(f"\r{learning_rate(trainer, given, given.base, size)}", flush=True)


def learning_rate(trainer: Trainer, given: argparse.Namespace, base: tuple[int, int], size: tuple[int, int]) -> str:
    """Return a row of the table: means and standard errors over seeds, the difference paired by seed."""
    own = trained_with(given)
    tokens = given.tokens
    if given.per_weight is not None:
        tokens = round(given.per_weight * trainer.parameters(plain(size, 1e-3), **own))

    def losses(at: tuple[int, int], param: str) -> Callable[[float, int], float]:
        scaled = {**own, **scaling(param, base, at)}
        return lambda lr, seed: trainer.metrics(plain(at, lr), tokens, seed, **scaled)["loss"]

    def chosen(found: Valley) -> float:
        return math.exp(found.optimum[0]) if given.flat else rate(found.best)

    small = valley(losses(base, "standard"), START[given.optimizer], given.seeds, reach=2 if given.flat else 1)
    lr = chosen(small)
    transferred = valley(losses(size, "completep"), lr, given.seeds, descend=False)
    there = [losses(size, "completep")(lr, seed) for seed in range(given.seeds)]
    standard = valley(losses(size, "standard"), lr * base[1] / size[1], given.seeds)
    best = [losses(size, "standard")(chosen(standard), seed) for seed in range(given.seeds)]
    cells = [
        f"{base[0]}x{base[1]} to {size[0]}x{size[1]}",
        *(f"{lr:.4f}", mean(there)),
        *(_optimum(transferred), mean(best), _optimum(standard)),
        "{:+.2%} ± {:.2%}".format(*excess(there, best)),
    ]
    return "".join(f"{cell:>{width}}" for cell, width in zip(cells, COLUMNS.values(), strict=True))


def trained_with(given: argparse.Namespace) -> dict[str, Any]:
    """Return the options of all trainings that differ from the evaluator's defaults."""
    own: dict[str, Any] = {**({} if given.defaults else RECIPE), "optimizer": given.optimizer}
    if given.text is not None:
        own["data"] = str(given.text)
    if given.vocab is not None:
        own["vocab"] = given.vocab
    if given.ngrams is not None:
        own["ngrams"] = given.ngrams
    return own


def _optimum(found: Valley) -> str:
    at, error = found.optimum
    return f"{math.exp(at):.4f} ± {100 * error:.0f}%"


# ---------------------------------------------------------------- whole recipes


TRAININGS = 40
"""Of a search at the small size."""

SMALL, LARGE = (2, 64), (2, 256)
"""Depth and width where recipes are looked for, and where they are wanted."""


def searched(trainer: Trainer, size: tuple[int, int], tokens: int, seed: int, count: int) -> dict[str, Any]:
    """Return the genome of the lowest loss that `saea` found in so many trainings of a size.

    Each has a seed of its own, and the first is the default, as in any run.
    """
    from search import Ours

    options = trainer.options(tokens)
    space, (depth, width) = options.space, size
    fixed = {"width": Choice((width,)), "depth": Choice((depth,)), "heads": Choice((width // HEAD,))}
    genes = {**space.genes, **fixed}
    player = Ours(SimpleNamespace(space=SearchSpace(None, **genes), objectives=1), seed, "saea")  # type: ignore[arg-type]
    found: list[tuple[float, dict[str, Any]]] = []
    for number in range(count):
        handle, genome = player.ask()
        loss = trainer.metrics(genome, tokens, 1000 * seed + number)["loss"]
        found.append((loss, genome))
        player.tell(handle, (loss,))
    return min(found, key=lambda one: one[0])[1]


def genomes(trainer: Trainer, given: argparse.Namespace) -> None:
    tokens, differences = given.tokens, []
    for seed in range(given.seeds):
        small = searched(trainer, SMALL, tokens, seed, TRAININGS)
        target = {"depth": LARGE[0], "width": LARGE[1], "tokens": tokens, "batch": None, "memory": None}
        transferred = trainer.options(tokens).transfer(small, target)
        own = {name: transferred["options"][name] for name in ("param", "base_width", "base_depth", "base_head")}
        # As much arithmetic: that of the search, and of the training that it is transferred to.
        each, one = transferred["found"]["flops"], transferred["target"]["flops"]
        count = math.ceil((TRAININGS * each + one) / one)
        large = searched(trainer, LARGE, tokens, seed, count)
        fresh = [9000 + 2 * seed, 9001 + 2 * seed]
        ours = [trainer.metrics(transferred["genome"], tokens, one, **own)["loss"] for one in fresh]
        theirs = [trainer.metrics(large, tokens, one)["loss"] for one in fresh]
        differences.append(statistics.fmean(ours) / statistics.fmean(theirs) - 1.0)
        print(
            f"\rsearch {seed}: {TRAININGS} trainings at width {SMALL[1]}, transferred to {LARGE[1]}: "
            f"{statistics.fmean(ours):.4f}; {count} trainings there: {statistics.fmean(theirs):.4f}; "
            f"{differences[-1]:+.1%} (asked: below 0)",
            flush=True,
        )
    print(f"mean {statistics.fmean(differences):+.1%}, lower in {sum(one < 0 for one in differences)} of {given.seeds}")


# ---------------------------------------------------------------- the loss at another size


SEEN = (32, 64)
"""Widths of the trainings from which a loss is told, each at a quarter, a half and the whole of the text."""

AHEAD = ((64, 8), (96, 4), (128, 2), (192, 1))
"""Widths of targets, and by how much more text they see: about 8 times the compute of the largest training seen."""

TEXT = 410_000
"""Most tokens of a training: 1.2 times the text's bytes, which is about as good as new (arXiv:2305.16264)."""

CARRIED = 0.0055
"""Learning rate of all of them: the best at width 32, which completep transfers."""


def losses_ahead(trainer: Trainer, given: argparse.Namespace) -> None:
    base = (2, SEEN[0])

    def trained(width: int, tokens: int, seed: int) -> dict[str, float]:
        own = scaling("completep", base, (2, width))
        return trainer.metrics(plain((2, width), CARRIED), tokens, seed, **own)

    tries: dict[int, list[tuple[bool, float, float]]] = {}
    for tokens in (given.tokens // 2, given.tokens, 2 * given.tokens):
        for seed in range(given.seeds):
            of_seeds = [2 * seed, 2 * seed + 1]
            found = [trained(w, tokens // part, one) for w in SEEN for part in (4, 2, 1) for one in of_seeds]
            seen = [Observation(one["params"], one["tokens"], one["loss"]) for one in found]
            for width, longer in [one for one in AHEAD if one[1] * tokens <= TEXT]:
                target = trained(width, longer * tokens, 100 + seed)
                told, reached = predict_loss(seen, target["params"], target["tokens"]), target["loss"]
                half, miss = (told.high - told.low) / 2 / told.loss, reached / told.loss - 1.0
                tries.setdefault(longer, []).append((told.low <= reached <= told.high, half, abs(miss)))
                larger = target["flops"] / max(one["flops"] for one in found)
                print(
                    f"\r{tokens:>7} tokens seen, {width:>3} wide and {longer} times the text, "
                    f"{larger:.1f} times the compute: told {told.loss:.3f}, {told.low:.3f} to {told.high:.3f}; "
                    f"reached {reached:.3f}, {miss:+.1%}{'' if tries[longer][-1][0] else ', outside'}",
                    flush=True,
                )
    both = [one for tried in tries.values() for one in tried]
    for name, rows in [*((f"{longer} times the text", rows) for longer, rows in sorted(tries.items())), ("all", both)]:
        holds, halves, misses = zip(*rows, strict=True)
        print(
            f"{name}: inside in {sum(holds)} of {len(holds)} (asked: 9 of 12); half the interval: median "
            f"{statistics.median(halves):.1%}, at most {max(halves):.1%} (asked: 3%); off by "
            f"{statistics.fmean(misses):.1%} in the mean"
        )


# ---------------------------------------------------------------- speed


def stepper(param: str, width: int) -> Callable[[], None]:
    """Return a function that trains a step of a model twice as wide and deep as its base, in float32 and plainly."""
    import torch
    import torch.nn.functional as F

    from evo_tune.training import GPT, AdamW
    from evo_tune.training.recipe import GPTConfig
    from evo_tune.training.recipe.models.rules import Parametrisation

    torch.set_num_threads(1)
    base = Parametrisation(name="completep", width=width // 2, depth=1, head=HEAD)
    config = GPTConfig(
        context=CONTEXT,
        depth=2,
        width=width,
        heads=width // HEAD,
        init="fan_in",
        scaling=None if param == "standard" else base,
    )
    model = GPT(config, seed=0)
    optimizer = AdamW(lr=1e-3).build(model)
    tokens = torch.randint(0, 256, (BATCH // CONTEXT, CONTEXT + 1), generator=torch.Generator().manual_seed(0))

    def step() -> None:
        F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def paired(first: Callable[[], None], second: Callable[[], None], pairs: int, now: Callable[[], float]) -> list[float]:
    """Return how many times as long the second takes as the first, for each of so many pairs, in turning order."""

    def seconds(step: Callable[[], None]) -> float:
        start = now()
        for _ in range(4):
            step()
        return now() - start

    ratios = []
    for number in range(pairs + 1):
        if number % 2:
            one, other = seconds(first), seconds(second)
        else:
            other, one = seconds(second), seconds(first)
        ratios.append(other / one)
    return ratios[1:]  # the first pair warms up


def speeds(trainer: Trainer, given: argparse.Namespace) -> None:
    now = time.process_time if given.clock == "cpu" else time.perf_counter
    for width in (64, 256):
        ratios = trainer.rows.get(
            {"speed": width, "pairs": given.pairs},
            lambda width=width: paired(stepper("standard", width), stepper("completep", width), given.pairs, now),
        )
        low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
        error = 1.25 * np.std(ratios, ddof=1) / math.sqrt(len(ratios))  # of a median
        print(
            f"\rwidth {width}: a step under completep takes {middle:.3f} ± {error:.3f} times what it takes under "
            f"standard (median of {len(ratios)} pairs, half of them between {low:.3f} and {high:.3f})"
        )


def size_of(text: str) -> tuple[int, int]:
    """Return the depth and width in a text such as 2x256."""
    depth, width = map(int, text.split("x"))
    if depth > width:
        raise argparse.ArgumentTypeError(f"{text}: expected DEPTHxWIDTH: did you mean {width}x{depth}?")
    return depth, width


PARTS: dict[str, Callable[[Trainer, argparse.Namespace], None]] = {
    "lr": learning_rates,
    "genome": genomes,
    "loss": losses_ahead,
    "speed": speeds,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=sorted(PARTS), nargs="+", default=list(PARTS))
    parser.add_argument("--text", type=Path, help="text of --part lr, a file or folder; none: language_model's own")
    parser.add_argument("--base", type=size_of, default=(2, 32), help="DEPTHxWIDTH of the base, for --part lr")
    parser.add_argument("--size", type=size_of, nargs="+", default=[(2, 256), (8, 64)], help="DEPTHxWIDTH of targets")
    parser.add_argument("--optimizer", choices=sorted(START), default="adamw", help="for --part lr")
    parser.add_argument("--vocab", type=int, help="byte pairs, for --part lr; none: bytes")
    parser.add_argument("--ngrams", type=int, help="longest n-gram with an embedding, for --part lr")
    parser.add_argument("--defaults", action="store_true", help="use the evaluator's defaults in --part lr")
    parser.add_argument(
        "--flat", action="store_true", help="train at the bottoms of parabolas, at the base through five rates"
    )
    parser.add_argument("--per-weight", type=float, help="tokens of a training for each weight of the target")
    parser.add_argument("--tokens", type=int, default=200_000, help="of text in a training")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=Path, help="file of results, to which each training is added")
    parser.add_argument("--pairs", type=int, default=30, help="of four steps each, for --part speed")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    given = parser.parse_args()
    trainer = Trainer(Rows(given.rows))
    for part in given.part:
        PARTS[part](trainer, given)


if __name__ == "__main__":
    main()
