"""Does it pay to let genomes begin with the trained weights of others? The small language model, at equal arithmetic.

Every method searches for `language_model`'s genome until the cost of so many full trainings is spent, one training at
a time; a full training has `--flops`. Then the best genome of each is trained from scratch with seeds that took no
part, the same for all: that is the figure. Differences are between runs of the same seed.

    python benchmarks/inherit.py                                about 12 minutes of one core
    python benchmarks/inherit.py --flops 1.5e11 --trainings 60  the default budget: hours
    python benchmarks/inherit.py --seeds 2 --trainings 16 --flops 2e9 --methods 0,1    says nothing, in a minute
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evo_tune import Context
from evo_tune.genome.history import History
from evo_tune.genome.operators import DEFAULT
from evo_tune.genome.trial import Candidate, Outcome, Proposal, trial_seed
from evo_tune.loop.calibration import calibration_seed
from evo_tune.plugins.find import find_evaluator, make_strategy
from evo_tune.report.summary import inheritance
from evo_tune.rules.ruled import Ruled, Rules
from evo_tune.training import Diverged

EVALUATOR = "bundled:language_model"

METHODS = {
    "from scratch": Rules(),
    "--inherit 1/3": Rules(inherit=1 / 3),
    "--inherit 1/9": Rules(inherit=1 / 9),
    "--fidelity 1/9,1/3,1": Rules(rungs=(1 / 9, 1 / 3, 1.0)),
}
"""By name: how genomes are trained; the first is what the others are compared with."""


@dataclass(frozen=True)
class Found:
    """What one search came to.

    Args:
        loss: Of the best genome, over fresh seeds.
        searched: Its loss in the search.
        genomes: Genomes that were tried.
        full: Of these, trained in full from scratch.
        correlation: Rank correlation of inherited losses with those from scratch; NaN if too few have both.
        seconds: Wall time of the search.
    """

    loss: float
    searched: float
    genomes: int
    full: int
    correlation: float
    seconds: float


def search(strategy: str, method: str, seed: int, trainings: float, options: dict[str, Any], retrain: int) -> Found:
    """Search once, as a run of one slot does and in this process, and train the best again."""
    evaluator, rules = find_evaluator(EVALUATOR), METHODS[method]
    bound = evaluator.bind(options)
    ruled = Ruled.of(
        make_strategy(strategy, {}),
        rules,
        lambda genome: {},
        lambda genome, other: evaluator.inherits(genome, other, bound),
    )
    history = History(evaluator.space(bound), evaluator.objectives)
    spent, began = 0.0, time.perf_counter()
    with tempfile.TemporaryDirectory() as place:

        def folder(id: int | None) -> Path | None:
            return None if id is None else Path(place) / str(id)

        while spent < trainings - 1e-9:
            id = history.born_count
            default = Proposal(history.space.default(), DEFAULT, budget=rules.rungs[0])
            proposal = ruled.propose(history, np.random.default_rng([seed, 0, id])) if id else default
            if proposal is None:
                break
            candidate = Candidate(id, 0, trial_seed(seed, 0), id, **vars(proposal))
            history.born(candidate)
            before = 0.0 if candidate.resumes is None else history.trials[candidate.resumes].candidate.budget
            spent += candidate.budget - before
            context = Context(
                seed=candidate.seed,
                budget=candidate.budget,
                folder=Path(place) / str(id),
                resume_folder=folder(candidate.resumes),
                inherit_folder=folder(candidate.inherits),
                keep=rules.inherit > 0.0 and candidate.whole,
            )
            try:
                outcome = Outcome("ok", evaluator.evaluate(candidate.genome, context, bound))
            except Diverged as error:
                outcome = Outcome("diverged", error=str(error))
            history.tell(id, outcome)
        best = history.best
        if best is None or best.losses is None:
            raise SystemExit(f"{method}, seed {seed}: no full training gave a value: give more --trainings")
        seconds = time.perf_counter() - began
        contexts = [Context(seed=calibration_seed(0, number), folder=place) for number in range(1, retrain + 1)]
        losses = [evaluator.evaluate(best.genome, context, bound)["val_loss"] for context in contexts]
    return Found(
        float(np.mean(losses)),
        best.losses[0],
        history.fresh_count,
        sum(trial.candidate.whole for trial in history.trials),
        inheritance(history.trials)[0],
        seconds,
    )


def spread(values: Sequence[float]) -> str:
    """Return mean and standard error."""
    return f"{np.mean(values):.4f} ± {np.std(values, ddof=1) / np.sqrt(len(values)):.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="What inheriting weights saves.")
    parser.add_argument("--seeds", type=int, default=5, help="searches of each method, 2 or more")
    parser.add_argument("--first-seed", type=int, default=0, help="where they begin")
    parser.add_argument("--trainings", type=float, default=36, help="cost of a search, in full trainings")
    parser.add_argument("--flops", type=float, default=1e10, help="arithmetic of a full training")
    parser.add_argument("--strategies", default="saea", help="who proposes")
    parser.add_argument("--methods", default=",".join(map(str, range(len(METHODS)))), help="by number, from 0")
    parser.add_argument("--retrain", type=int, default=3, help="fresh seeds of the best genome")
    given = parser.parse_args()
    options = {"size": "small", "flops": given.flops, "precision": "fp32"}
    methods = [list(METHODS)[int(number)] for number in given.methods.split(",")]
    for strategy in given.strategies.split(","):
        found: dict[str, list[Found]] = {method: [] for method in methods}
        for seed in range(given.first_seed, given.first_seed + given.seeds):
            for method in methods if seed % 2 == 0 else methods[::-1]:  # a machine may be busier for a while
                one = search(strategy, method, seed, given.trainings, options, given.retrain)
                found[method].append(one)
                print(f"{strategy}, seed {seed}, {method}: {one}", file=sys.stderr, flush=True)
        print(f"\n{strategy}: {given.trainings:g} trainings of {given.flops:.2g} FLOPs, {given.seeds} seeds")
        print("method                 best, fresh seeds     difference           genomes  full  correlation  seconds")
        for method, rows in found.items():
            difference = [row.loss - other.loss for row, other in zip(rows, found[methods[0]], strict=True)]
            correlations = [row.correlation for row in rows if not math.isnan(row.correlation)]
            agree = f"{np.mean(correlations):.2f}" if correlations else "-"
            means = [np.mean([getattr(row, name) for row in rows]) for name in ("genomes", "full", "seconds")]
            print(
                f"{method:22} {spread([row.loss for row in rows]):21} {spread(difference):20} "
                f"{means[0]:7.1f} {means[1]:5.1f} {agree:>12} {means[2]:8.0f}"
            )


if __name__ == "__main__":
    main()
