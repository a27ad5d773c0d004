"""What rungs and pruning save, on tables of learning curves that others measured.

Every method plays by itself through the rules of a run (`evo_tune.rules.ruled`), and a look-up in a curve stands for
the training. Cost is counted in full trainings: a promotion costs what it adds, a pruned training what it had.
A run ends when its cost is spent. Quality is the normalised regret of the best genome that was trained in full:
(best found - the table's best) / (the table's median - its best), as in search.py.

    python benchmarks/fidelity.py --tables ../shared/tables --seeds 20
    python benchmarks/fidelity.py --tables ../shared/tables --seeds 20 --strategies ga,saea,random
    python benchmarks/fidelity.py --tables ../shared/tables --strategies saea,saea:gp_only=0 --trainings 30
    python benchmarks/fidelity.py --tables ../shared/tables --methods 1 1/3,1 1/9,1/3,1 --at 5 10 20 30
    python benchmarks/fidelity.py --tables ../shared/tables --strategies saea --only algoperf --at 3 5 8 12
    python benchmarks/fidelity.py --tables ../shared/tables --strategies saea --default .03 .12 --at 2 3 5 10

With --default the run of each seed begins with a genome of another rank, as an expert's guess would be, and each method
is played without and with priors around it (`SearchSpace.near_default`).

'halving' is the same without the guard: no audits but the default, and the rungs' ratio whatever it misses.
The tables are no part of this project, and nothing is measured where they are absent.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from itertools import product, repeat
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd

from evo_tune import Choice, Minimize, SearchSpace
from evo_tune.genome.history import RunHistory
from evo_tune.genome.trial import DEFAULT, Candidate, Outcome, Proposal
from evo_tune.plugins.find import make_strategy
from evo_tune.rules.ruled import StrategyWithRules
from evo_tune.settings import RunSettings

THIRDS = "1/9,1/3,1"

METHODS = {
    "full trainings": RunSettings(),
    "halving": RunSettings(fidelity=THIRDS),
    "rungs": RunSettings(fidelity=THIRDS),
    "prune": RunSettings(prune=True),
    "rungs, prune": RunSettings(fidelity=THIRDS, prune=True),
}
"""By name: how genomes are trained; `naive` takes the guard out of the second. Any other name is taken as rungs."""

SCRATCH = ("bpe_or_vocab", "layers", "width", "ffn", "heads", "lr")
LORA = ("model", "lr", "batch_size", "lora_rank")
NANO = ("layers", "width", "heads", "dropout", "batch_size", "block_size")


class Table:
    """A search space whose learning curves are all known.

    Args:
        name: For people.
        space: Search space.
        curves: Losses at equal steps up to the full training, by the values of the genes; NaN once it has diverged.
    """

    def __init__(self, name: str, space: SearchSpace, curves: Mapping[tuple[Any, ...], np.ndarray]) -> None:
        self.name, self.space = name, space
        # The trainers of these tables keep their best weights, so a curve is its best so far.
        self.curves = {key: np.minimum.accumulate(curve) for key, curve in curves.items()}
        final = np.array([curve[-1] for curve in self.curves.values()])
        self.best, self.median = float(np.nanmin(final)), float(np.nanmedian(final))

    @classmethod
    def of(cls, name: str, genes: Sequence[str], frame: pd.DataFrame, unordered: Sequence[str] = ()) -> Table:
        """Return the table of a frame.

        Args:
            name: For people.
            genes: Columns that are genes; text has no order.
            frame: One row per genome: genes, and `curve`.
            unordered: Columns of numbers without an order.
        """
        frame = frame.drop_duplicates(list(genes))
        values = {gene: tuple(sorted(set(frame[gene].tolist()))) for gene in genes}
        ordered = {gene: not isinstance(values[gene][0], str) and gene not in unordered for gene in genes}
        space = SearchSpace(None, **{gene: Choice(values[gene], ordered=ordered[gene]) for gene in genes})
        keys = zip(*(frame[gene].tolist() for gene in genes), strict=True)
        return cls(name, space, dict(zip(keys, frame["curve"], strict=True)))

    def at(self, seed: int) -> Table:
        """Return the table on which the run of a seed is played."""
        del seed
        return self

    def train(self, candidate: Candidate, start: float) -> tuple[Outcome, float]:
        """Return what comes of a candidate whose training has come to `start`, and where it ended.

        A budget between two points of a curve goes on, and is counted, to the later one.
        """
        curve = self.curves.get(tuple(candidate.genome[gene] for gene in self.space.genes))
        if curve is None:
            return Outcome("failed", error="no such cell"), candidate.budget
        fractions = np.arange(1, len(curve) + 1) / len(curve)
        end = float(fractions[np.searchsorted(fractions, candidate.budget - 1e-9)])
        points: list[tuple[float, dict[str, float]]] = []
        for fraction, loss in zip(fractions.tolist(), curve.tolist(), strict=True):
            if start < fraction <= end:
                if np.isnan(loss):
                    return Outcome("diverged", curve=tuple(points)), fraction
                points.append((fraction, {"loss": loss}))
                if any(fraction >= at and loss > bound for at, _, bound in candidate.stop_if):
                    return Outcome("pruned", curve=tuple(points)), fraction
        return Outcome("ok", {"loss": float(curve[round(end * len(curve)) - 1])}, tuple(points)), end


class Studies(Table):
    """Tables of the same genomes, each trained with other random numbers; each seed of a run plays on one of them.

    Args:
        name: For people.
        studies: The tables.
    """

    def __init__(self, name: str, studies: Sequence[Table]) -> None:
        self.name, self.studies, self.curves = name, studies, studies[0].curves

    def at(self, seed: int) -> Table:
        return self.studies[seed % len(self.studies)]


FRACTIONS = np.arange(1, 28) / 27
"""Shares of the longest training at which an AlgoPerf curve is read."""


def algoperf(folder: Path) -> Iterator[Table]:
    """Yield the workloads of AlgoPerf that are there, by framework: 25 or 30 genomes, in five studies.

    A genome is an optimizer and the number of one of its five settings, neither of which has an order. A full training
    has the steps of the workload's longest one; one that ended before keeps its best.
    """
    if not (folder / "algoperf_curves/trials.parquet").is_file():
        return
    trials = pd.read_parquet(folder / "algoperf_curves/trials.parquet")
    points = pd.read_parquet(folder / "algoperf_curves/curves_long.parquet").dropna(subset="objective")
    curves = dict(list(points.sort_values("step").groupby("trial")))
    trials = trials[trials.trial.isin(curves.keys())]
    for (workload, framework), group in trials.groupby(["workload", "framework"]):
        steps = FRACTIONS * group.last_step.max()
        sign = 1.0 if group.lower_is_better.iloc[0] else -1.0
        best = [np.minimum.accumulate(sign * curves[trial].objective.to_numpy()) for trial in group.trial]
        last = [np.searchsorted(curves[trial].step, steps, side="right") - 1 for trial in group.trial]
        group = group.assign(curve=[one[np.maximum(0, at)] for one, at in zip(best, last, strict=True)])
        genes, name = ("submission", "point"), f"algoperf, {workload}, {framework}"
        studies = [Table.of(name, genes, study, unordered=genes) for _, study in group.groupby("study")]
        yield Studies(name, studies)


def tables(folder: Path) -> Iterator[Table]:
    """Yield the tables that are there."""
    yield from transformers(folder)
    yield from algoperf(folder)


def transformers(folder: Path) -> Iterator[Table]:
    """Yield the tables of Transformers that are there."""
    if (folder / "nanogpt_shakespeare128/runs.parquet").is_file():
        runs = pd.read_parquet(folder / "nanogpt_shakespeare128/runs.parquet")
        curves = pd.read_parquet(folder / "nanogpt_shakespeare128/curves_long.parquet")
        curves = dict(list(curves.sort_values("iter").groupby("exp")))
        runs = runs[runs.max_iters == 2000].reset_index(drop=True)
        steps = np.arange(250, 2001, 250)  # some were measured there, the others every 100 steps
        runs["curve"] = [np.interp(steps, curves[exp].iter, curves[exp].val_loss) for exp in runs.exp]
        yield Table.of("nanogpt", NANO, runs)
    if (folder / "nmthpo/curves_meta.parquet").is_file():
        meta = pd.read_parquet(folder / "nmthpo/curves_meta.parquet")
        curves = pd.read_parquet(folder / "nmthpo/curves_long.parquet").sort_values("checkpoint")
        size = meta.layers.astype(str) + "x" + meta.width.astype(str)
        meta["model"] = meta.base_model + " " + size
        for metric, sign in (("ppl", 1), ("bleu", -1)):
            known = curves.dropna(subset=metric)
            meta[f"curve_{metric}"] = meta.curve_id.map(sign * known.groupby("curve_id")[metric].apply(np.array))
        for name, dataset, genes, metric in (
            ("ja-en", "robust19-ja-en", SCRATCH, "ppl"),
            ("ru-en", "ted-ru-en", SCRATCH, "ppl"),
            ("LoRA, BLEU", "fr-en", LORA, "bleu"),
            ("LoRA, perplexity", "fr-en", LORA, "ppl"),
        ):
            frame = (
                meta[meta.dataset == dataset]
                .rename(columns={f"curve_{metric}": "curve"})
                .dropna(subset=["curve", *genes])
            )
            yield Table.of(name, genes, frame)


@contextmanager
def naive(method: str) -> Iterator[None]:
    """Take the guard out of 'halving'."""
    if method != "halving":
        yield
        return
    with (
        mock.patch("evo_tune.rules.promotions.Rungs._share_to_promote", return_value=0.0),
        mock.patch("evo_tune.rules.ruled.is_audit", lambda number: number == 0),
        mock.patch("evo_tune.rules.ruled.audit_numbers", lambda count: [0][:count]),
    ):
        yield


@dataclass(frozen=True)
class Played:
    """One run: costs, increasing, and the regret once each was spent."""

    costs: np.ndarray
    regrets: np.ndarray

    def at(self, cost: float) -> float:
        """Return the regret when `cost` is spent; that of the median while nothing is trained in full."""
        done = np.searchsorted(self.costs, cost + 1e-9, side="right")
        return float(min(1.0, self.regrets[done - 1])) if done else 1.0


def play(table: Table, strategy: str, rules: RunSettings, seed: int, cost: float) -> Played:
    """Play one run, one training at a time."""
    table = table.at(seed)
    name, *options = strategy.split(":")
    ruled = StrategyWithRules(inner=make_strategy(name, dict(one.split("=", 1) for one in options)), settings=rules)
    history = RunHistory(table.space, [Minimize("loss")])
    spent, best = 0.0, np.inf
    ended: dict[int, float] = {}
    costs, regrets = [], []
    while spent < cost - 1e-9:
        id = history.proposed_count
        rng = np.random.default_rng([seed, 0, id])
        default = Proposal(table.space.default(), DEFAULT, budget=rules.rungs[0])
        proposal: Any = ruled.propose(history, rng) if id else default
        if proposal is None:  # a small space, all of it known
            break
        candidate = Candidate(id, 0, 0, len(history.trials), **vars(proposal))
        history.add_candidate(candidate)
        start = ended[candidate.resumes] if candidate.resumes is not None else 0.0
        outcome, ended[id] = table.train(candidate, start)
        spent += ended[id] - start
        trial = history.tell(id, outcome)
        if trial.rankable and trial.losses is not None:
            best = min(best, trial.losses[0])
        costs.append(spent)
        regrets.append((best - table.best) / (table.median - table.best))
    return Played(np.array(costs), np.array(regrets))


def begun(table: Table, seed: int, ranks: Sequence[float], near: bool) -> Table:
    """Return a table of one seed whose default genome has a rank between two shares of the ranked genomes.

    Args:
        table: The table.
        seed: Seed of the run.
        ranks: Lowest and highest share.
        near: Whether the genes have priors around this default.
    """
    table = copy(table.at(seed))
    known = sorted((float(curve[-1]), key) for key, curve in table.curves.items() if np.isfinite(curve[-1]))
    key = known[int(len(known) * np.random.default_rng([seed, 99]).uniform(*ranks))][1]
    genes = {
        name: replace(gene, default=value) for (name, gene), value in zip(table.space.genes.items(), key, strict=True)
    }
    space = SearchSpace(table.space.repair, **genes)
    table.space = space.near_default() if near else space
    return table


def rules_of(method: str) -> RunSettings:
    """Return the rules of a method: one of METHODS, or rungs as `--fidelity` takes them."""
    return METHODS[method] if method in METHODS else RunSettings(fidelity=method)


def against(runs: Sequence[Played], first: Sequence[Played], cost: float) -> str:
    """Return the mean and standard error of the difference in regret to other runs of the same seeds."""
    found = np.array([one.at(cost) - other.at(cost) for one, other in zip(runs, first, strict=True)])
    return f"{found.mean():+.3f} ± {found.std(ddof=1) / np.sqrt(len(found)):.3f}"


def mean(runs: Sequence[Played], cost: float) -> float:
    """Return the mean regret of runs at a cost."""
    return float(np.mean([run.at(cost) for run in runs]))


def shown(runs: Sequence[Played], cost: float) -> str:
    """Return mean and standard error of the regret at a cost."""
    found = np.array([run.at(cost) for run in runs])
    return f"{found.mean():.3f} ± {found.std(ddof=1) / np.sqrt(len(found)):.3f}"


def reached(runs: Sequence[Played], regret: float, cost: float) -> float:
    """Return the least cost at which the mean regret is no higher; infinite if it never is."""
    return next((c for c in np.arange(0.25, cost + 0.25, 0.25) if mean(runs, c) <= regret + 1e-12), np.inf)


def tell(methods: Mapping[str, Sequence[Played]], costs: Sequence[float]) -> None:
    """Print the regret of the last method, and its difference to the first."""
    first, (name, runs) = next(iter(methods.values())), list(methods.items())[-1]
    needed = reached(runs, mean(first, max(costs)), max(costs))
    print(f"  {name:15}{''.join(f'{shown(runs, one):>17}' for one in costs)}{needed:10.2f}{needed / max(costs):8.2f}")
    if runs is not first:
        print(f"  {'':15}{''.join(f'{against(runs, first, one):>17}' for one in costs)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="What rungs and pruning save, on tables of learning curves.")
    parser.add_argument("--tables", type=Path, default=Path("../shared/tables"), help="folder of the tables")
    parser.add_argument("--seeds", type=int, default=20, help="runs of each method on each table, 2 or more")
    parser.add_argument("--strategies", default="ga,saea", help="who proposes, options after colons")
    parser.add_argument("--trainings", type=int, default=60, help="cost of the longest runs, in full trainings")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), help="names, or rungs such as 1/3,1")
    parser.add_argument("--at", nargs="+", type=float, help="costs to tell; without it shares of --trainings")
    parser.add_argument("--default", nargs=2, type=float, metavar="SHARE", help="rank of the default, from and to")
    parser.add_argument("--only", default="", help="tables whose names begin like this")
    parser.add_argument("--first", type=int, default=0, help="first seed")
    given = parser.parse_args()
    found = [table for table in tables(given.tables) if table.name.startswith(given.only)]
    if not found:
        print(f"nothing to measure: {given.tables} holds none of the tables; they are no part of this project")
        return
    cost = given.trainings
    for strategy in given.strategies.split(","):
        costs = given.at or [cost / 3, cost / 2, cost * 2 / 3, cost]
        cost = max(costs)
        print(
            f"\n{strategy}: regret after {', '.join(f'{one:g}' for one in costs)} full trainings' cost, and cost to the"
        )
        print(f"regret that the first method has after {cost:g}; below each, its difference to the first, by seed")
        every: dict[str, list[Played]] = {}
        for table in found:
            print(f"{table.name} ({len(table.curves)} curves)")
            here: dict[str, list[Played]] = {}
            for name, near in product(given.methods, (False, True) if given.default else (False,)):
                print(f"\r{strategy}, {name} on {table.name}".ljust(70), end="\r", file=sys.stderr, flush=True)
                with naive(name):
                    seeds = range(given.first, given.first + given.seeds)
                    played = [begun(table, seed, given.default, near) if given.default else table for seed in seeds]
                    runs = [play(*one, cost) for one in zip(played, repeat(strategy), repeat(rules_of(name)), seeds)]
                here[name + near * ", near"] = runs
                every.setdefault(name + near * ", near", []).extend(runs)
                tell(here, costs)
        if len(found) > 1:
            print("all of these")
            for count in range(1, len(every) + 1):
                tell(dict(list(every.items())[:count]), costs)
        print(f"{time.process_time():.0f} s of a processor in all")


if __name__ == "__main__":
    main()
