"""The real job: which search finds the better small language model in the same wall-clock on this machine?

Every method trains `language_model` for so many minutes in two processes of one thread each, begins with the
default genome, and is given the same training seed. Only what was finished in time counts. Then the best
genome of each is trained again with three seeds that took no part, the same for all: that is the figure, since
the best of many noisy results is partly luck.

- default: evo-tune as it is, through `Search`
- random: evo-tune's random search, the same way
- optuna: Optuna's TPE with Hyperband pruning, its own study in a journal file shared by two processes, each
  with a sampler of its own; it calls the evaluator directly, and prunes by the reports of the training's curve

    python benchmarks/real.py                          about 70 minutes
    python benchmarks/real.py --seeds 8                overnight
    python benchmarks/real.py --quick                  a few minutes, to see that it works; says nothing

Methods take turns, in another order for each seed, so that a machine that is busier for a while does not harm
one of them alone. Each line of the CSV is written as soon as it is known, and what it holds already is not
done again: a stop costs the method at work and nothing else.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from evo_tune import Search
from evo_tune.genome.trial import trial_seed
from evo_tune.plugins.context import Context, Pruned
from evo_tune.plugins.evaluator import Evaluator
from evo_tune.plugins.find import find_evaluator
from evo_tune.report.calibration import calibration_seed

EVALUATOR = "bundled:language_model"
SLOTS = 2
CURVE = 4
"""Points of the evaluator's learning curve: the resource that Hyperband divides."""


@dataclass(frozen=True)
class Job:
    """What is the same for all methods.

    Args:
        minutes: Wall-clock of a search, the start of its processes included.
        options: Of the evaluator.
        retrain: Fresh seeds of the best genome.
    """

    minutes: float
    options: dict[str, Any]
    retrain: int


@dataclass(frozen=True)
class Found:
    """What a search found in time.

    Args:
        genome: The best.
        loss: Its loss in the search.
        full: Full trainings.
        stopped: Those that failed or were pruned.
    """

    genome: dict[str, Any]
    loss: float
    full: int
    stopped: int


@dataclass(frozen=True)
class Row:
    """One line of the CSV: a method with one seed."""

    method: str
    seed: int
    minutes: float
    options: str
    full: int
    stopped: int
    searched_loss: float
    retrained_loss: float
    retrained_error: float
    genome: str


class NothingFoundError(Exception):
    """Not one training was finished in time."""


def best_of(results: Iterable[tuple[float, float | None, dict[str, Any]]], seconds: float) -> Found:
    """Return the best of (finished after so many seconds, loss or None, genome), late ones left out."""
    timely = [(loss, genome) for at, loss, genome in results if at <= seconds]
    good = [(loss, genome) for loss, genome in timely if loss is not None]
    if not good:
        raise NothingFoundError(f"not one of {len(timely)} trainings was finished well in {seconds:.0f} s")
    loss, genome = min(good, key=lambda one: one[0])
    return Found(genome, loss, len(good), len(timely) - len(good))


def ours(strategy: str | None, job: Job, seed: int, folder: Path) -> Found:
    """Search with a strategy of evo-tune; None is its default."""
    began = time.time()
    search = Search(
        EVALUATOR,
        options=job.options,
        strategy=strategy,
        seed=seed,
        hours=job.minutes / 60,
        slots=SLOTS,
        threads=1,
        calibrate=0,
        store=folder,
    ).run()
    events = map(json.loads, (search.saved.folder / "_journal.jsonl").read_bytes().splitlines())
    at = {event["id"]: event["time"] - began for event in events if event["event"] == "recorded"}
    results = [(at[t.id], None if t.losses is None else t.losses[0], t.genome) for t in search.trials]
    return best_of(results, 60 * job.minutes)


def optuna(job: Job, seed: int, folder: Path) -> Found:
    """Search with Optuna's TPE and Hyperband in processes of their own, over one journal file."""
    deadline = time.time() + 60 * job.minutes
    journal = str(folder / "optuna.log")
    _study(journal, seed).enqueue_trial(_default_parameters(job))
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=_optuna_worker, args=(journal, job, seed, number, deadline)) for number in range(SLOTS)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        if worker.exitcode:
            raise SystemExit(f"a worker of Optuna ended with exit code {worker.exitcode}: its error stands above")
    trials = [trial for trial in _study(journal, seed).trials if trial.state.is_finished()]
    began = deadline - 60 * job.minutes
    results = [
        (
            trial.datetime_complete.timestamp() - began,
            trial.value if trial.state.name == "COMPLETE" else None,
            trial.user_attrs.get("genome", {}),
        )
        for trial in trials
        if trial.datetime_complete is not None
    ]
    return best_of(results, 60 * job.minutes)


def _study(journal: str, seed: int) -> Any:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        study_name="real",
        storage=JournalStorage(JournalFileBackend(journal)),
        sampler=optuna.samplers.TPESampler(seed=seed),
        pruner=optuna.pruners.HyperbandPruner(min_resource=1, max_resource=CURVE),
        load_if_exists=True,
    )


def _default_parameters(job: Job) -> dict[str, Any]:
    from evo_tune.strategies.tpe import parameter_of

    space = find_evaluator(EVALUATOR).space(_bound(job))
    return {name: parameter_of(space.genes[name], value) for name, value in space.default().items()}


def _bound(job: Job) -> dict[str, Any]:
    return find_evaluator(EVALUATOR).bind(job.options)


class Reporting(Context):
    """A context that tells Optuna of the curve, and stops where its pruner says so."""

    def __init__(self, trial: Any, **given: Any) -> None:
        super().__init__(**given)
        self.trial = trial

    def report(self, fraction: float, **metrics: float) -> None:
        super().report(fraction, **metrics)
        self.trial.report(metrics["val_loss"], len(self.curve))
        if fraction < 1.0 and self.trial.should_prune():
            raise Pruned


def _optuna_worker(journal: str, job: Job, seed: int, number: int, deadline: float) -> None:
    from optuna.trial import TrialState

    from evo_tune.strategies.tpe import distribution_of, value_of

    evaluator, options = _ready(job)
    space = evaluator.space(options)
    distributions = {name: distribution_of(gene) for name, gene in space.genes.items()}
    study = _study(journal, SLOTS * seed + number)
    while time.time() < deadline:
        trial = study.ask(distributions)
        genome = space.check({name: value_of(gene, trial.params[name]) for name, gene in space.genes.items()})
        trial.set_user_attr("genome", genome)
        with tempfile.TemporaryDirectory() as folder:
            context = Reporting(trial, seed=trial_seed(seed, 0), folder=folder)
            try:
                study.tell(trial, evaluator.evaluate(genome, context, options)["val_loss"])
            except Pruned:
                study.tell(trial, state=TrialState.PRUNED)
            except Exception:  # diverged, most likely: a failed trial, as a user would have it
                study.tell(trial, state=TrialState.FAIL)


def _ready(job: Job) -> tuple[Evaluator, dict[str, Any]]:
    """Pin this process to one thread, as evo-tune's workers are, and import what a training needs."""
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    import torch

    torch.set_num_threads(1)
    return find_evaluator(EVALUATOR), _bound(job)


def _train(job: Job, genome: dict[str, Any], seed: int) -> float:
    evaluator, options = _ready(job)
    with tempfile.TemporaryDirectory() as folder:
        loss: float = evaluator.evaluate(genome, Context(seed=seed, folder=folder), options)["val_loss"]
    return loss


def retrained(job: Job, genome: dict[str, Any], seed: int) -> list[float]:
    """Return the losses of a genome over fresh seeds, which are the same for every method."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(SLOTS, mp_context=spawn) as pool:
        seeds = [calibration_seed(seed, number) for number in range(1, job.retrain + 1)]
        return list(pool.map(_train, [job] * job.retrain, [genome] * job.retrain, seeds))


def default_genome(job: Job, seed: int, folder: Path) -> Found:
    """Search for nothing: what there is without a search."""
    space = find_evaluator(EVALUATOR).space(_bound(job))
    return Found(space.default(), float("nan"), 0, 0)


METHODS: dict[str, Callable[[Job, int, Path], Found]] = {
    "evo-tune, default strategy": lambda job, seed, folder: ours(None, job, seed, folder),
    "Optuna TPE + Hyperband": optuna,
    "random search": lambda job, seed, folder: ours("random", job, seed, folder),
    "default genome": default_genome,
}


def play(method: str, job: Job, seed: int) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        found = METHODS[method](job, seed, Path(folder))
    losses = retrained(job, found.genome, seed)
    return Row(
        method,
        seed,
        job.minutes,
        json.dumps(job.options, sort_keys=True),
        found.full,
        found.stopped,
        found.loss,
        float(np.mean(losses)),
        float(np.std(losses, ddof=1) / np.sqrt(len(losses))) if len(losses) > 1 else 0.0,
        json.dumps(found.genome),
    )


def read(path: Path) -> list[Row]:
    """Return the lines of a CSV; none where there is no file yet."""
    if not path.is_file():
        return []
    kinds = {field.name: {"int": int, "float": float}.get(str(field.type), str) for field in fields(Row)}
    with open(path, newline="", encoding="utf-8") as file:
        return [Row(**{name: kinds[name](text) for name, text in line.items()}) for line in csv.DictReader(file)]


def append(path: Path, row: Row) -> None:
    is_new = not path.is_file()
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        if is_new:
            writer.writeheader()
        writer.writerow(asdict(row))


def report(rows: list[Row]) -> None:
    """Print, for each method, the mean over search seeds of the retrained loss, and its standard error."""
    print(f"\n{'method':28}{'retrained val_loss':>22}{'best in search':>16}{'full':>8}{'stopped':>9}{'seeds':>7}")
    for method in METHODS:
        mine = [row for row in rows if row.method == method]
        if mine:
            losses = [row.retrained_loss for row in mine]
            error = np.std(losses, ddof=1) / np.sqrt(len(losses)) if len(losses) > 1 else mine[0].retrained_error
            full, stopped = (np.mean([getattr(row, name) for row in mine]) for name in ("full", "stopped"))
            searched = np.mean([row.searched_loss for row in mine])
            print(
                f"{method:28}{f'{np.mean(losses):.4f} ± {error:.4f}':>22}{searched:16.4f}{full:8.0f}{stopped:9.0f}"
                f"{len(mine):7}"
            )
    print("± is the standard error: over searches, or with one search over the seeds of its retraining")


def main() -> None:
    parser = argparse.ArgumentParser(description="Which search finds the better model in the same wall-clock?")
    parser.add_argument("--minutes", type=float, default=20.0, help="wall-clock of each search")
    parser.add_argument("--seeds", type=int, default=1, help="searches of each method")
    parser.add_argument("--first-seed", type=int, default=0, help="seed of the first one")
    parser.add_argument("--retrain", type=int, default=3, help="fresh seeds of the best genome")
    parser.add_argument("--flops", type=float, help="budget of a training instead of the evaluator's default")
    parser.add_argument("--quick", action="store_true", help="tiny trainings for 30 s a search: does it work?")
    parser.add_argument("--csv", type=Path, default=Path("real.csv"), help="read first, then written to")
    given = parser.parse_args()
    if not given.minutes > 0 or given.seeds < 1 or given.retrain < 1 or given.first_seed < 0:
        parser.error("expected --minutes above 0, --seeds and --retrain of 1 or more, --first-seed of 0 or more")
    flops = 1e9 if given.quick else given.flops
    job = Job(0.5 if given.quick else given.minutes, {} if flops is None else {"flops": flops}, given.retrain)
    same = (job.minutes, json.dumps(job.options, sort_keys=True))
    rows = [row for row in read(given.csv) if (row.minutes, row.options) == same]
    for seed in range(given.first_seed, given.first_seed + given.seeds):
        methods = list(METHODS)
        for method in methods[seed % len(methods) :] + methods[: seed % len(methods)]:
            if not any(row.method == method and row.seed == seed for row in rows):
                print(f"seed {seed}: {method} …", flush=True)
                try:
                    rows.append(play(method, job, seed))
                except NothingFoundError as error:  # the others, and the night, go on
                    print(f"  {error}: give more --minutes, or smaller trainings with --flops", flush=True)
                    continue
                append(given.csv, rows[-1])
                print(f"  {rows[-1].retrained_loss:.4f} with {rows[-1].genome}", flush=True)
    report(rows)


if __name__ == "__main__":
    main()
