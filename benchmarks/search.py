"""How many trainings a search needs: our strategies against Optuna on tables of networks that others trained.

Every method plays through ask and tell, and a look-up stands for the training. Ordered genes are ordered
for all (ours by `Choice(ordered=True)`, Optuna by an integer index, so that a grid in equal ratios is a log
scale), activations and schedules are categories for all, and a cell that the table lacks is a failure for
all. A table with several seeds is searched and scored on their mean. Ours begin with the middle of the
grid, as every run of `evo-tune` begins with the default; 'default first' gives it to Optuna as well.

Normalised regret is (best found - the table's best) / (the table's median - its best): 0 is the best there
is, 1 the median. A figure is the mean over tables of the mean over seeds, with the standard error over seeds.
The median of evaluations to a regret of 5% is that of all runs on all tables; a run that never came there
counts as infinite.

    python benchmarks/search.py --tables ../shared/tables --seeds 20
    python benchmarks/search.py --tables ../shared/tables --seeds 20 --ablation    the parts of saea instead
    python benchmarks/search.py --tables ../shared/tables --seeds 3 --quick        in a minute

The tables are no part of this project, and nothing is measured where they are absent.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from evo_tune import Choice, Minimize, SearchSpace
from evo_tune.history import History
from evo_tune.plugins import make_strategy
from evo_tune.trial import Candidate, Outcome, Proposal

BUDGETS = (10, 20, 40, 60, 100)
"""Numbers of evaluations after which the regret is told."""

CLOSE = 0.05
"""Regret that counts as found."""

NMT = ("bpe", "layers", "width", "ffn", "heads", "lr")
MLP = ("learning_rate_init", "batch_size", "depth", "width", "alpha")
FCNET = ("init_lr", "batch_size", "n_units_1", "n_units_2", "dropout_1", "dropout_2")
NANO = ("layers", "width", "heads", "dropout", "batch_size", "block_size", "max_iters")


@dataclass(frozen=True)
class Source:
    """Where a table lies and what its columns mean.

    Args:
        file: Path below the folder of tables.
        ordered: Columns that are genes with an order.
        loss: Column of the result.
        unordered: Columns that are genes without one.
        maximised: Whether more of the result is better.
        log: Whether the result spans powers of ten.
    """

    file: str
    ordered: tuple[str, ...]
    loss: str
    unordered: tuple[str, ...] = ()
    maximised: bool = False
    log: bool = False


SOURCES = {
    "sw-en": Source("nmthpo/sw-en.parquet", NMT, "dev_bleu", maximised=True),
    "ru-en": Source("nmthpo/ru-en.parquet", NMT, "dev_bleu", maximised=True),
    "ja-en": Source("nmthpo/ja-en.parquet", NMT, "dev_bleu", maximised=True),
    "australian": Source("mlp_hpobench_nn/australian.parquet", MLP, "val_acc_mean", maximised=True),
    "phoneme": Source("mlp_hpobench_nn/phoneme.parquet", MLP, "val_acc_mean", maximised=True),
    "naval": Source(
        "mlp_fcnet_hpolib/naval_propulsion.parquet",
        FCNET,
        "val_loss_mean",
        unordered=("activation_fn_1", "activation_fn_2", "lr_schedule"),
        log=True,
    ),
    "nanogpt": Source("nanogpt_shakespeare128/runs.parquet", NANO, "best_val_loss"),
}


class Table:
    """A search space whose trainings are all done.

    Args:
        name: For people.
        path: The Parquet file.
        source: What its columns mean.
    """

    def __init__(self, name: str, path: Path, source: Source) -> None:
        genes = (*source.ordered, *source.unordered)
        frame = pd.read_parquet(path, columns=[*genes, source.loss]).dropna()
        losses = -frame[source.loss] if source.maximised else frame[source.loss]
        losses = np.log(losses) if source.log else losses
        self.name = name
        values = {gene: tuple(sorted(set(frame[gene].tolist()))) for gene in genes}
        self.space = SearchSpace(None, **{gene: Choice(values[gene], ordered=gene in source.ordered) for gene in genes})
        self.losses = dict(zip(zip(*(frame[gene].tolist() for gene in genes), strict=True), losses, strict=True))
        self.best, self.median = float(losses.min()), float(losses.median())

    def look_up(self, genome: dict[str, Any]) -> float | None:
        """Return the loss of a genome, or None where it failed."""
        return self.losses.get(tuple(genome[gene] for gene in self.space.genes))

    def regrets(self, losses: Sequence[float | None]) -> np.ndarray:
        """Return the normalised regret after each evaluation; infinite until one has not failed."""
        found = np.minimum.accumulate([np.inf if loss is None else loss for loss in losses])
        return np.asarray((found - self.best) / (self.median - self.best))


class Player(Protocol):
    """A method, playing one run."""

    def ask(self) -> tuple[Any, dict[str, Any]]:
        """Return a handle for `tell` and the genome to be trained."""

    def tell(self, handle: Any, loss: float | None) -> None:
        """Take a result; None is a failure."""


class Ours:
    """A strategy of evo-tune, driven as `Search` drives it, without a journal.

    Args:
        space: Where to search.
        seed: Of the run.
        name: The strategy's.
        options: The strategy's.
    """

    def __init__(self, space: SearchSpace, seed: int, name: str, **options: Any) -> None:
        self.strategy = make_strategy(name, options)
        self.history = History(space, [Minimize("loss")])
        self.seed = seed

    def ask(self) -> tuple[Any, dict[str, Any]]:
        history, id = self.history, self.history.born_count
        rng = np.random.default_rng([self.seed, 0, id])
        proposal = self.strategy.propose(history, rng) if id else Proposal(history.space.default(), "default")
        if proposal is None:
            raise StopIteration("the strategy has no more to propose")
        generation = history.fresh_count // self.strategy.population
        history.born(Candidate(id, generation, 0, len(history.trials), **vars(proposal)))
        return id, proposal.genome

    def tell(self, handle: Any, loss: float | None) -> None:
        outcome = Outcome("failed", error="no such cell") if loss is None else Outcome("ok", {"loss": loss})
        self.history.tell(handle, outcome)


class Optuna:
    """A sampler of Optuna with its defaults.

    Args:
        space: Where to search.
        seed: Of the run.
        sampler: 'TPESampler' or another.
        default: Begin with the default genome.
    """

    def __init__(self, space: SearchSpace, seed: int, sampler: str, default: bool = False) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.failed = optuna.trial.TrialState.FAIL
        self.study = optuna.create_study(sampler=getattr(optuna.samplers, sampler)(seed=seed))
        self.genes: dict[str, Any] = dict(space.genes)
        if default:
            genome = space.default()
            self.study.enqueue_trial(
                {n: gene.values.index(genome[n]) if gene.ordered else genome[n] for n, gene in self.genes.items()}
            )

    def ask(self) -> tuple[Any, dict[str, Any]]:
        trial = self.study.ask()
        genome = {}
        for name, gene in self.genes.items():
            if gene.ordered:
                genome[name] = gene.values[trial.suggest_int(name, 0, len(gene.values) - 1)]
            else:
                genome[name] = trial.suggest_categorical(name, gene.values)
        return trial, genome

    def tell(self, handle: Any, loss: float | None) -> None:
        if loss is None:
            self.study.tell(handle, state=self.failed)
        else:
            self.study.tell(handle, loss)


Maker = Callable[[SearchSpace, int], Player]


def ours(name: str, **options: Any) -> Maker:
    return lambda space, seed: Ours(space, seed, name, **options)


def optuna(sampler: str, default: bool = False) -> Maker:
    return lambda space, seed: Optuna(space, seed, sampler, default)


METHODS: dict[str, Maker] = {
    "saea": ours("saea"),
    "ga": ours("ga"),
    "ga generational": ours("ga", generational=True),
    "random": ours("random"),
    "optuna tpe": optuna("TPESampler"),
    "optuna tpe, default first": optuna("TPESampler", default=True),
    "optuna random": optuna("RandomSampler"),
}

ABLATION: dict[str, Maker] = {
    "saea": ours("saea"),
    "without the screen": ours("saea", screen="none"),
    "kappa 0": ours("saea", kappa=0.0),
    "kappa 0.5": ours("saea", kappa=0.5),
    "expected improvement": ours("saea", screen="ei"),
    "no random candidates": ours("saea", immigrants=0),
}
"""The default, which has kappa 1, and what each of its parts does."""


@dataclass(frozen=True)
class Played:
    """One run.

    Args:
        regrets: After each evaluation, shape (evaluations,).
        asking: Milliseconds per proposal.
    """

    regrets: np.ndarray
    asking: float

    @property
    def needed(self) -> float:
        """Evaluations to a regret of at most CLOSE; infinite if it was not reached."""
        close = np.flatnonzero(self.regrets <= CLOSE)
        return float(close[0]) + 1 if len(close) else np.inf


def play(maker: Maker, table: Table, seed: int, evaluations: int, slots: int) -> Played:
    """Play one run with so many candidates out at a time, told in the order of their birth."""
    player = maker(table.space, seed)
    out: deque[tuple[Any, float | None]] = deque()
    losses: list[float | None] = []
    seconds = 0.0
    for _ in range(evaluations):
        began = time.perf_counter()
        if len(out) == slots:
            player.tell(*out.popleft())
        try:
            handle, genome = player.ask()
        except StopIteration:  # a small space, all of it known
            losses += [None] * (evaluations - len(losses))
            break
        seconds += time.perf_counter() - began
        loss = table.look_up(genome)
        losses.append(loss)
        out.append((handle, loss))
    return Played(table.regrets(losses), 1000 * seconds / evaluations)


def summary(runs: dict[str, list[Played]], budget: int) -> str:
    """Return mean and standard error over seeds of the mean over tables, of the regret after `budget`."""
    reached = np.array([[run.regrets[budget - 1] for run in played] for played in runs.values()])
    means = np.where(np.isinf(reached), 1.0, reached).mean(axis=0)  # nothing but failures: as good as the median
    return f"{means.mean():.3f} ± {means.std(ddof=1) / np.sqrt(len(means)):.3f}"


def report(results: dict[str, dict[str, list[Played]]], budgets: Sequence[int]) -> None:
    """Print the means over all tables, then each table."""
    width = max(map(len, results))
    columns = "".join(f"{f'regret at {budget}':>17}" for budget in budgets)
    print(f"{'method':{width}}{columns}{'median to 5%':>15}{'ms/proposal':>13}")
    for name, runs in results.items():
        needed = np.median([run.needed for played in runs.values() for run in played])
        asking = np.mean([run.asking for played in runs.values() for run in played])
        cells = "".join(f"{summary(runs, budget):>17}" for budget in budgets)
        print(f"{name:{width}}{cells}{needed:15.1f}{asking:13.1f}")
    tables = list(next(iter(results.values())))
    print(f"\nregret at {'/'.join(map(str, budgets))} and median evaluations to {CLOSE:.0%} for each table")
    for table in tables:
        print(table)
        for name, runs in results.items():
            cells = "".join(f"{summary({table: runs[table]}, budget):>17}" for budget in budgets)
            print(f"  {name:{width}}{cells}{np.median([run.needed for run in runs[table]]):11.1f}")


def write(path: Path, results: dict[str, dict[str, list[Played]]]) -> None:
    """Write the regrets of every run as CSV."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["method", "table", "seed", "evaluation", "regret"])
        for method, runs in results.items():
            for table, played in runs.items():
                for seed, run in enumerate(played):
                    rows.writerows([method, table, seed, n + 1, regret] for n, regret in enumerate(run.regrets))


def main() -> None:
    parser = argparse.ArgumentParser(description="How many trainings a search needs, on tables of trained networks.")
    parser.add_argument("--tables", type=Path, default=Path("../shared/tables"), help="folder of the tables")
    parser.add_argument("--seeds", type=int, default=20, help="runs of each method on each table, 2 or more")
    parser.add_argument("--evaluations", type=int, default=100, help="trainings of a run, 20 or more")
    parser.add_argument("--slots", type=int, default=1, help="candidates out at a time")
    parser.add_argument("--ablation", action="store_true", help="the parts of saea instead of its opponents")
    parser.add_argument("--quick", action="store_true", help="40 evaluations on the small tables")
    parser.add_argument("--csv", type=Path, help="write the regrets of every run here")
    given = parser.parse_args()
    sources = {name: source for name, source in SOURCES.items() if (given.tables / source.file).is_file()}
    if not sources:
        print(f"nothing to measure: {given.tables} holds none of the tables; they are no part of this project")
        return
    if given.seeds < 2 or given.evaluations < 20 or given.slots < 1:
        parser.error("expected --seeds of 2 or more, --evaluations of 20 or more and --slots of 1 or more")
    if given.quick:
        given.evaluations = 40
        sources = {name: source for name, source in sources.items() if source.file.startswith("n")}
    tables = [Table(name, given.tables / source.file, source) for name, source in sources.items()]
    methods = ABLATION if given.ablation else METHODS
    results: dict[str, dict[str, list[Played]]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna's, of what is experimental
        for name, maker in methods.items():
            results[name] = {}
            for table in tables:
                print(f"\r{name} on {table.name}".ljust(60), end="", file=sys.stderr, flush=True)
                results[name][table.name] = [
                    play(maker, table, seed, given.evaluations, given.slots) for seed in range(given.seeds)
                ]
    print(file=sys.stderr)
    report(results, [budget for budget in BUDGETS if budget <= given.evaluations])
    if given.csv:
        write(given.csv, results)


if __name__ == "__main__":
    main()
