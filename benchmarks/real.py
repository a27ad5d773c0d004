"""The real job: which search finds the better small language model in the same wall-clock on this machine?

Every method trains `language_model` for so many minutes on a core of its own, in one process of one thread; as many
searches run side by side as there are cores (`--side`). All begin with the default genome, and are given the same
training seed. Only what was finished in time counts. Then the genome that each recommends is trained again with
seeds that took no part, the same for all: that is the figure, since the best of many noisy results is partly luck. By
how much it is worse than what the search said is the luck of that search.

- evo-tune, rungs: through `Search`, with `--fidelity 1/9,1/3,1`; the best that was seen of what was trained in full
- evo-tune, rungs, no smooth births: without those that its Gaussian process judges alone, `-s smooth=0`
- evo-tune, rungs, 4 seeds: with `--seeds-per-trial 4` as well: the leader by the mean over its seeds gets extra seeds
  until it has four, inside the time; the best mean of those that have had them
- evo-tune, rungs, further seeds: with `--seeds-per-trial auto`: each genome has a seed of its own, any of the
  best is trained with further ones where that is worth more than a new genome, and the one that is expected to be the
  best with other seeds is recommended
- evo-tune, rungs, race: with the smallest closing race, `--final-seeds 1`, inside the time: of the best two the better
  one on a further seed, and then on two others that one and the default; what it says is its mean over these
- evo-tune, further seeds: with `--seeds-per-trial auto`: it spends its time on further seeds of the best where that is
  worth more than a new genome, and recommends what it expects to be the best with other seeds
- evo-tune, plain: neither; random: its random search, the same way
- Optuna: its TPE with Hyperband pruning, in a study of its own; it calls the evaluator directly, and prunes by the
  reports of the training's curve; the best that was seen

    python benchmarks/real.py                          6 searches of 6 minutes each: an hour and a half on two cores
    python benchmarks/real.py --best-of 8              the same, and then what a search might have recommended: of its 8
                                                       best genomes the best by fresh seeds, told by others; 25 minutes
    python benchmarks/real.py --seeds 8 --minutes 20   overnight
    python benchmarks/real.py --quick                  a few minutes, to see that it works; says nothing

Methods take turns, in another order for each seed, so that a machine that is busier for a while does not harm
one of them alone. Each line of the CSV is written as soon as it is known, and what it holds already is not
done again: a stop costs the searches at work and nothing else. The table is printed anew after each.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from evo_tune import Search
from evo_tune.genome.trial import Trial, trial_seed
from evo_tune.genome.values import genome_key
from evo_tune.plugins.context import Context, Pruned
from evo_tune.plugins.evaluator import BoundEvaluator
from evo_tune.plugins.find import find_evaluator
from evo_tune.report.recommendation import fresh_seed, fresh_values, predicted, recommended
from evo_tune.store.comparison import read_comparison, write_comparison
from evo_tune.store.run import Run

EVALUATOR = "bundled:language_model"
JOURNAL = "_journal.jsonl"
KEPT = 24
"""Genomes of a search that are noted, the best ones: any of them might have been recommended."""

FIRST_FRESH = 1001
"""Number of the first fresh seed: those below are the closing race's."""

CURVE = 4
"""Points of the evaluator's learning curve: the resource that Hyperband divides."""


@dataclass(frozen=True)
class Job:
    """What is the same for all methods.

    Args:
        minutes: Wall-clock of a search, the start of its processes included.
        options: Of the evaluator.
        retrain: Fresh seeds of the best genome.
        final_seeds: Seeds of the closing race of evo-tune's search, inside its time; 0: none.
    """

    minutes: float
    options: dict[str, Any]
    retrain: int
    final_seeds: int


@dataclass(frozen=True)
class Found:
    """What a search found in time.

    Args:
        genome: What is recommended.
        loss: Its loss in the search, the mean over its seeds.
        said: Its loss as the search tells it: by the seeds of its closing race, what is expected with other seeds, or
            what was seen.
        seeds: Their number.
        full: Full trainings.
        stopped: Those that failed, were pruned or ended at a rung.
        trained: Losses and genomes of the best, the first of them first.
        rungs: Whether it had rungs: its options are settled another way then, and its genomes are for these.
    """

    genome: dict[str, Any]
    loss: float
    said: float
    seeds: int
    full: int
    stopped: int
    trained: list[tuple[float, dict[str, Any]]]
    rungs: bool = False


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
    said_loss: float
    searched_seeds: int
    retrained_loss: float
    retrained_error: float
    genome: str
    trained: str
    rungs: int = 0

    @property
    def luck(self) -> float:
        """By how much the genome is worse with fresh seeds than the search saw it."""
        return self.retrained_loss - self.searched_loss

    @property
    def boast(self) -> float:
        """By how much it is worse than the search said."""
        return self.retrained_loss - self.said_loss


class NothingFoundError(Exception):
    """Not one training was finished in time."""


def best_of(results: Iterable[tuple[float, float | None, dict[str, Any]]], seconds: float) -> Found:
    """Return the best of (finished after so many seconds, loss or None, genome), late ones left out."""
    timely = [(loss, genome) for at, loss, genome in results if at <= seconds]
    good = [(loss, genome) for loss, genome in timely if loss is not None]
    if not good:
        raise NothingFoundError(f"not one of {len(timely)} trainings was finished well in {seconds:.0f} s")
    good.sort(key=lambda one: one[0])
    loss, genome = good[0]
    return Found(genome, loss, loss, 1, len(good), len(timely) - len(good), good[:KEPT])


def ours(strategy: str | None, job: Job, seed: int, folder: Path, spare: float = 0.0, **rules: Any) -> Found:
    """Search with a strategy of evo-tune; None is its default. What came late is taken out of the run again.

    Args:
        strategy: Its name.
        job: What to do.
        seed: Of the run.
        folder: Where its files go.
        spare: Seconds that it is given less: a run with a race ends as often a little after its hours as before.
        rules: Other arguments of `Search`.
    """
    began = time.time()
    search = Search(
        EVALUATOR,
        options=job.options,
        strategy=strategy,
        seed=seed,
        hours=(job.minutes - spare / 60) / 60,
        slots=1,
        threads=1,
        store=folder,
        **rules,
    ).run()
    run = in_time(search.saved.folder, folder / "in-time" / "run", began + 60 * job.minutes)
    best, ranked = recommended(run), run.ranked()
    if best is None or best.losses is None:
        raise NothingFoundError(f"not one of {len(run.outcomes)} trainings was finished well in time")
    key = genome_key(best.genome)
    full = [trial for trial in run.trials() if trial.losses is not None and trial.candidate.budget == 1.0]
    seeds = sum(genome_key(trial.genome) == key for trial in full)
    trained = [(trial.losses[0], trial.genome) for trial in ranked[:KEPT] if trial.losses]
    fresh = next((len(row.values) for row in fresh_values(run) if row.id == best.id), 0)
    said = by_race(run, best, fresh) if fresh else predicted(run, best)
    return Found(
        best.genome,
        best.losses[0],
        best.losses[0] if said is None else said,
        seeds,
        len(full),
        len(run.outcomes) - len(full),
        trained,
        "fidelity" in rules,
    )


def by_race(run: Run, best: Trial, count: int) -> float:
    """Return the mean loss of a genome over so many reporting seeds of a race, which tells its loss on the test set."""
    seeds = {fresh_seed(run.manifest.settings.seed, number) for number in range(1, count + 1)}
    mine = [trial for trial in read_comparison(run) if trial.key == best.key and trial.candidate.seed in seeds]
    return float(np.mean([trial.losses[0] for trial in mine if trial.losses]))


def in_time(folder: Path, copy: Path, deadline: float) -> Run:
    """Return a copy of a run of one slot as if it had been killed at its deadline.

    Trainings of the closing race have no time of their own: they follow one another, and on the search.
    """
    copy.parent.mkdir()
    shutil.copytree(folder, copy)
    lines = (copy / JOURNAL).read_bytes().splitlines(keepends=True)
    events = [json.loads(line) for line in lines]
    kept = [line for line, event in zip(lines, events, strict=True) if event.get("time", 0.0) <= deadline]
    (copy / JOURNAL).write_bytes(b"".join(kept))
    run = Run.open(copy)
    searched = max(event["time"] for event in events if event["event"] == "told")
    race = read_comparison(run)
    ends = searched + np.cumsum([trial.outcome.seconds for trial in race])
    write_comparison(run, race[: int((ends <= deadline).sum())])
    return Run.open(copy)


def optuna(job: Job, seed: int, folder: Path) -> Found:
    """Search with Optuna's TPE and Hyperband in a process of its own, over a journal file."""
    deadline = time.time() + 60 * job.minutes
    journal = str(folder / "optuna.log")
    _study(journal, seed).enqueue_trial(_default_parameters(job))
    context = multiprocessing.get_context("spawn")
    worker = context.Process(target=_optuna_worker, args=(journal, job, seed, deadline))
    worker.start()
    worker.join()
    if worker.exitcode:
        raise SystemExit(f"the worker of Optuna ended with exit code {worker.exitcode}: its error stands above")
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

    space = _bound(job).space
    return {name: parameter_of(space.genes[name], value) for name, value in space.default().items()}


def _bound(job: Job, rungs: bool = False) -> BoundEvaluator:
    """Return the options as a run settles them, or others would search another space than evo-tune."""
    evaluator = find_evaluator(EVALUATOR)
    return evaluator.bind(job.options).settled(rungs=rungs)


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


def _optuna_worker(journal: str, job: Job, seed: int, deadline: float) -> None:
    from optuna.trial import TrialState

    from evo_tune.strategies.tpe import distribution_of, value_of

    options = _ready(job)
    space = options.space
    distributions = {name: distribution_of(gene) for name, gene in space.genes.items()}
    study = _study(journal, seed)
    while time.time() < deadline:
        trial = study.ask(distributions)
        genome = space.check({name: value_of(gene, trial.params[name]) for name, gene in space.genes.items()})
        trial.set_user_attr("genome", genome)
        with tempfile.TemporaryDirectory() as folder:
            context = Reporting(trial, seed=trial_seed(seed, 0), folder=folder)
            try:
                study.tell(trial, options.evaluate(genome, context)["val_loss"])
            except Pruned:
                study.tell(trial, state=TrialState.PRUNED)
            except Exception:  # diverged, most likely: a failed trial, as a user would have it
                study.tell(trial, state=TrialState.FAIL)


def _ready(job: Job, rungs: bool = False) -> BoundEvaluator:
    """Pin this process to one thread, as evo-tune's workers are, and import what a training needs."""
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    import torch

    torch.set_num_threads(1)
    return _bound(job, rungs)


def _train(job: Job, genome: dict[str, Any], seed: int, rungs: bool) -> float:
    options = _ready(job, rungs)
    with tempfile.TemporaryDirectory() as folder:
        loss: float = options.evaluate(genome, Context(seed=seed, folder=folder))["val_loss"]
    return loss


def retrained(job: Job, genome: dict[str, Any], seed: int, rungs: bool, first: int = FIRST_FRESH) -> list[float]:
    """Return the losses of a genome over fresh seeds, which are the same for every method.

    Args:
        job: Says how many.
        genome: It.
        seed: Of the search.
        rungs: Whether it had rungs.
        first: Number of the first of them.
    """
    seeds = [fresh_seed(seed, number) for number in range(first, first + job.retrain)]
    return [_train(job, genome, one, rungs) for one in seeds]


def default_genome(job: Job, seed: int, folder: Path) -> Found:
    """Search for nothing: what there is without a search."""
    space = _bound(job).space
    return Found(space.default(), float("nan"), float("nan"), 0, 0, 0, [])


def _rule(**rules: Any) -> Callable[[Job, int, Path], Found]:
    """Return the default strategy's search under a rule."""
    return lambda job, seed, folder: ours(None, job, seed, folder, **{"final_seeds": job.final_seeds, **rules})


METHODS: dict[str, Callable[[Job, int, Path], Found]] = {
    "evo-tune, rungs": _rule(fidelity="1/9,1/3,1"),
    "evo-tune, rungs, no smooth births": _rule(fidelity="1/9,1/3,1", strategy_options={"smooth": 0.0}),
    "evo-tune, rungs, further seeds": _rule(fidelity="1/9,1/3,1", seeds_per_trial="auto"),
    "evo-tune, rungs, race": _rule(fidelity="1/9,1/3,1", final_seeds=1, finalists=2, spare=10.0),
    "evo-tune, rungs, 4 seeds": _rule(fidelity="1/9,1/3,1", seeds_per_trial=4),
    "evo-tune, further seeds": _rule(seeds_per_trial="auto"),
    "evo-tune, plain": _rule(),
    "Optuna TPE + Hyperband": optuna,
    "random search": lambda job, seed, folder: ours("random", job, seed, folder, final_seeds=0),
    "default genome": default_genome,
}


def play(method: str, job: Job, seed: int) -> Row:
    """Search, and train what is recommended again; in a process of its own, on one core."""
    with tempfile.TemporaryDirectory() as folder:
        found = METHODS[method](job, seed, Path(folder))
    losses = retrained(job, found.genome, seed, found.rungs)
    return Row(
        method,
        seed,
        job.minutes,
        json.dumps(job.options, sort_keys=True),
        found.full,
        found.stopped,
        found.loss,
        found.said,
        found.seeds,
        float(np.mean(losses)),
        float(np.std(losses, ddof=1) / np.sqrt(len(losses))) if len(losses) > 1 else 0.0,
        json.dumps(found.genome),
        json.dumps(found.trained),
        int(found.rungs),
    )


def best_by_fresh_seeds(job: Job, row: Row, most: int) -> list[float]:
    """Return the losses of the best genome of a search: chosen on fresh seeds, and told on those of the figure."""
    genomes = [genome for _, genome in json.loads(row.trained)[:most]]
    if not genomes:
        return []
    rungs, first = bool(row.rungs), FIRST_FRESH + job.retrain
    chosen = [float(np.mean(retrained(job, genome, row.seed, rungs, first))) for genome in genomes]
    return retrained(job, genomes[int(np.argmin(chosen))], row.seed, rungs)


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


def report(rows: list[Row], best: dict[tuple[str, int], float]) -> None:
    """Print, for each method, the means over searches, each with its standard error.

    Args:
        rows: What was done so far.
        best: By method and seed, the loss of the best genome of a search by fresh seeds.
    """
    titles = ("retrained val_loss", "seen", "luck", "luck of what it said", "of the best")
    print(f"\n{'method':25}" + "".join(f"{title:>22}" for title in titles) + f"{'full':>6}{'cut':>5}{'n':>4}")
    for method in METHODS:
        mine = [row for row in rows if row.method == method]
        if not mine:
            continue
        columns = [
            [row.retrained_loss for row in mine],
            [row.searched_loss for row in mine],
            [row.luck for row in mine],
        ]
        columns.append([row.boast for row in mine])
        columns.append([best[method, row.seed] for row in mine if (method, row.seed) in best])
        full, stopped = (np.mean([getattr(row, name) for row in mine]) for name in ("full", "stopped"))
        cells = "".join(f"{with_error(column):>22}" for column in columns)
        print(f"{method:25}{cells}{full:6.0f}{stopped:5.0f}{len(mine):4}")
    of = {(row.method, row.seed): row.retrained_loss for row in rows}
    first = next(iter(METHODS))
    for method in list(METHODS)[1:]:
        pairs = [loss - of[first, seed] for (one, seed), loss in of.items() if one == method and (first, seed) in of]
        if pairs:
            print(f"{first} is lower than {method} by {with_error(pairs)}, paired by seed")
    print("± is the standard error over searches", flush=True)


def with_error(values: list[float]) -> str:
    """Return the mean of some values and its standard error, as text."""
    if not values:
        return "-"
    error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
    return f"{np.mean(values):.4f} ± {error:.4f}"


def _own_core(cores: Any) -> None:
    """Keep this process, and all that it starts, to a core of its own and one thread."""
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {cores.get()})


def main() -> None:
    parser = argparse.ArgumentParser(description="Which search finds the better model in the same wall-clock?")
    parser.add_argument("--minutes", type=float, default=6.0, help="wall-clock of each search")
    parser.add_argument("--seeds", type=int, default=6, help="searches of each method")
    parser.add_argument("--first-seed", type=int, default=0, help="seed of the first one")
    parser.add_argument("--retrain", type=int, default=3, help="fresh seeds of the best genome")
    parser.add_argument("--final-seeds", type=int, default=0, help="seeds of evo-tune's closing race, inside its time")
    parser.add_argument("--best-of", type=int, default=0, help="genomes of each search that are then trained anew")
    parser.add_argument("--side", type=int, help="searches side by side, each on one core; default: all cores")
    parser.add_argument("--flops", type=float, help="budget of a training instead of the evaluator's default")
    parser.add_argument("--quick", action="store_true", help="tiny trainings for 30 s a search: does it work?")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="default: all")
    parser.add_argument("--csv", type=Path, default=Path("real.csv"), help="read first, then written to")
    given = parser.parse_args()
    if not given.minutes > 0 or min(given.seeds, given.retrain) < 1 or min(given.first_seed, given.best_of) < 0:
        parser.error("expected --minutes above 0, --seeds and --retrain of 1 or more, --first-seed of 0 or more")
    flops = 1e9 if given.quick else given.flops
    options = {} if flops is None else {"flops": flops}
    job = Job(0.5 if given.quick else given.minutes, options, given.retrain, given.final_seeds)
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    cores = cores[: given.side]
    spawn = multiprocessing.get_context("spawn")
    queue = spawn.Manager().Queue()
    for core in cores:
        queue.put(core)
    with ProcessPoolExecutor(len(cores), mp_context=spawn, initializer=_own_core, initargs=(queue,)) as pool:
        seeds = range(given.first_seed, given.first_seed + given.seeds)
        rows = search(pool, job, given.methods, seeds, given.csv)
        if given.best_of:
            name_best(pool, job, rows, given.best_of)


def search(pool: ProcessPoolExecutor, job: Job, methods: list[str], seeds: range, path: Path) -> list[Row]:
    """Have each method search with every seed, several side by side, and return what came of it."""
    same = (job.minutes, json.dumps(job.options, sort_keys=True))
    rows = [row for row in read(path) if (row.minutes, row.options) == same]
    done = {(row.method, row.seed) for row in rows}
    out: dict[Future[Row], tuple[str, int]] = {}
    for seed in seeds:
        for method in methods[seed % len(methods) :] + methods[: seed % len(methods)]:
            if (method, seed) not in done:
                out[pool.submit(play, method, job, seed)] = (method, seed)
    for future in as_completed(out):
        method, seed = out[future]
        try:
            row = future.result()
        except NothingFoundError as error:  # the others, and the night, go on
            print(f"seed {seed}: {method}: {error}: give more --minutes, or smaller trainings with --flops", flush=True)
            continue
        rows.append(row)
        append(path, row)
        told = f"{row.retrained_loss:.4f}, seen {row.searched_loss:.4f}, said {row.said_loss:.4f}"
        print(f"seed {seed}: {method}: {told}, with {row.genome}")
        report(rows, {})
    return rows


def name_best(pool: ProcessPoolExecutor, job: Job, rows: list[Row], most: int) -> None:
    """Print what the best of the best genomes of each search is worth, by fresh seeds."""
    out = {pool.submit(best_by_fresh_seeds, job, row, most): (row.method, row.seed) for row in rows}
    best: dict[tuple[str, int], float] = {}
    for future in as_completed(out):
        losses = future.result()
        if losses:
            best[out[future]] = float(np.mean(losses))
            report(rows, best)


if __name__ == "__main__":
    main()
