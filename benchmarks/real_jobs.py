"""Real jobs: does our answer beat what users have today, our own default, and TPE with Hyperband, at equal time?

A job is a text or a data set. Each contestant has the same time T for a training. A search has the wall time of ten
trainings on all slots; with half of the slots, give twice --trainings. Then the genome of each contestant is trained
with fresh seeds, the same for all, and judged on the test part, which no search sees.

    python benchmarks/real_jobs.py text --text FILE --seconds 102     without --text: Python's standard library
    python benchmarks/real_jobs.py finetune users default tpe search
    python benchmarks/real_jobs.py labels users default tpe search
    python benchmarks/real_jobs.py --summary real_jobs.jsonl          the table of what was done so far

Contestants:
- users: the defaults of peft's LoraConfig and of transformers' TrainingArguments, with the learning rate of peft's
  examples (finetune); scikit-learn's MLPClassifier with its defaults (labels); none for text
- default: the default genome
- tpe: Optuna's TPE with its Hyperband pruner in our space, the default genome first
- search: `evo-tune run` with --hours and its defaults, final comparison included.

T is the time of the evaluator's own budget, or --seconds. The cost of a step is measured once for each job, with all
slots at work. Results are appended to --out, and what it already has is not done again.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import statistics
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from evo_tune import Search
from evo_tune.cli.flags import RUN_DEFAULTS
from evo_tune.genome.trial import trial_seed
from evo_tune.loop.plan import Request, plan_run
from evo_tune.plugins.context import Context, Pruned
from evo_tune.plugins.evaluator import BoundEvaluator
from evo_tune.plugins.find import find_evaluator
from evo_tune.report.recommendation import fresh_seed, recommend_trial
from evo_tune.settings import parse_settings

PARTS = ("users", "default", "tpe", "search")

FIRST_FRESH = 1001
"""Number of the first fresh seed; no search uses it."""

POINTS = 9
"""Points of the curve in TPE's trainings: the resource that Hyperband divides, by 3 and by 9."""

SCORED = 32768
"""Held-out bytes that judge a training on a text: the same for each contestant."""


class Rows:
    """A file of results, one JSON object per line; a result in the file is not computed again.

    Args:
        file: The file, created if missing.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        lines = file.read_text().splitlines() if file.exists() else []
        self.known = {json.dumps(row["of"], sort_keys=True): row["result"] for row in map(json.loads, lines)}

    def get(self, of: dict[str, Any], compute: Callable[[], Any]) -> Any:
        """Return the result of what `of` names, computed and kept if it is not known."""
        key = json.dumps(of, sort_keys=True)
        if key not in self.known:
            self.known[key] = compute()
            with self.file.open("a") as out:
                out.write(json.dumps({"of": of, "result": self.known[key]}) + "\n")
        return self.known[key]


@dataclass(frozen=True)
class Job:
    """A job.

    Args:
        options: Options of the evaluator, without a budget.
        slots: Trainings at the same time, one thread each.
        seconds: Time of a training in seconds; None: that of the evaluator's own budget.
        trainings: Wall time of a search, in trainings.
    """

    name: str
    evaluator: str
    options: dict[str, Any] = field(default_factory=dict)
    slots: int = 2
    fresh: int = 3
    seconds: float | None = None
    trainings: float = 10.0


JOBS = {"text": "language_model", "finetune": "fine_tuning", "labels": "image_classification"}


def standard_library() -> Path:
    """Write the sources of Python's standard library, a document each, to a temporary file; return its path."""
    top = Path(sysconfig.get_path("stdlib"))
    left_out = {"site-packages", "dist-packages", "test", "tests"}
    files = [path for path in sorted(top.rglob("*.py")) if not left_out & set(path.relative_to(top).parts)]
    path = Path(tempfile.gettempdir()) / f"stdlib-{sys.version_info.major}.{sys.version_info.minor}.txt"
    path.write_bytes(b"<|endoftext|>".join(one.read_bytes() for one in files))
    return path


def planned(job: Job, rows: Rows, seconds: float | None) -> dict[str, Any]:
    """Return all options of a training of the job, with the cost of a step, which is measured once."""

    def measure() -> dict[str, Any]:
        given = job.options if seconds is None else {**job.options, "seconds": seconds}
        settings = parse_settings({"slots": job.slots, "fidelity": "1"})
        return plan_run(find_evaluator(job.evaluator), Request(options=given), *settings, Path()).manifest.options

    found: dict[str, Any] = {**rows.get({"job": job.name, "part": "plan"}, measure), **job.options}
    if seconds is not None and found["seconds"] != seconds:
        raise SystemExit(f"--seconds {seconds:g}: the file has trainings of {found['seconds']:g} s: give another --out")
    return found


def bound_of(job: Job, options: dict[str, Any]) -> BoundEvaluator:
    """Return the evaluator with the options of a plan or a run."""
    return find_evaluator(job.evaluator).bind(options)


def train(job: Job, options: dict[str, Any], genome: dict[str, Any], seed: int) -> dict[str, float]:
    """Train a genome and return test_loss, val_loss and the seconds it took."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        found = bound_of(job, options).evaluate(genome, Context(seed=seed, folder=folder, test=True))
        return {"seconds": time.monotonic() - began, **{name: found[name] for name in ("test_loss", "val_loss")}}


def one_thread() -> None:
    """Give this process one thread, as a slot of a run has."""
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    import sklearn.metrics  # before any training is timed, like torch
    import torch

    del sklearn
    torch.set_num_threads(1)


def pool_of(job: Job) -> ProcessPoolExecutor:
    """Return as many processes of one thread as the job has slots."""
    return ProcessPoolExecutor(job.slots, mp_context=multiprocessing.get_context("spawn"), initializer=one_thread)


def judged(job: Job, options: dict[str, Any], genome: dict[str, Any], seed: int) -> dict[str, Any]:
    """Train a genome with fresh seeds that follow from the contestant's, all slots at work, and return its result."""
    seeds = [fresh_seed(seed, FIRST_FRESH + number) for number in range(job.fresh)]
    with pool_of(job) as pool:
        found = list(pool.map(train, *zip(*[(job, options, genome, one) for one in seeds], strict=True)))
    lists = {name: [one[name] for one in found] for name in ("test_loss", "val_loss", "seconds")}
    return {**lists, "genome": genome, "searched": 0.0}


def default(job: Job, options: dict[str, Any], seed: int) -> dict[str, Any]:
    """Train the default genome."""
    return judged(job, options, bound_of(job, options).space.default(), seed)


def search(job: Job, options: dict[str, Any], seed: int) -> dict[str, Any]:
    """Search with the defaults of `evo-tune run`."""
    budget = {"seconds": options["seconds"], "cost": options["cost"]}
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        found = Search(
            job.evaluator,
            options={**job.options, **budget},
            hours=job.trainings * options["seconds"] / 3600,
            slots=job.slots,
            seed=seed,
            store=folder,
            **RUN_DEFAULTS,
        ).run()
        searched = time.monotonic() - began
        best, run = recommend_trial(found.saved), found.saved
        own = run.manifest.options
        full = sum(trial.candidate.whole for trial in run.trials())
        told = {"searched": searched, "trainings": len(run.outcomes), "full": full}
        genome = bound_of(job, options).space.default() if best is None else best.genome
    return {**judged(job, own, genome, seed), **told}


class Reporting(Context):
    """A context that reports the learning curve to Optuna, and stops where its pruner or the time says so."""

    def __init__(self, trial: Any, deadline: float, **given: Any) -> None:
        super().__init__(**given)
        self.trial, self.deadline = trial, deadline

    def report_all(self, fraction: float, metrics: Any, decayed: bool | None = None) -> None:
        super().report_all(fraction, metrics, decayed)
        self.trial.report(metrics["val_loss"], max(1, round(fraction * POINTS)))
        if time.time() > self.deadline or (fraction < 1.0 and self.trial.should_prune()):
            raise Pruned


def study_of(journal: str, seed: int) -> Any:
    """Return the study of a search by Optuna, which several processes share by a file."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        study_name="job",
        storage=JournalStorage(JournalFileBackend(journal)),
        sampler=optuna.samplers.TPESampler(seed=seed, constant_liar=True),
        pruner=optuna.pruners.HyperbandPruner(min_resource=1, max_resource=POINTS, reduction_factor=3),
        load_if_exists=True,
    )


def tpe_worker(journal: str, job: Job, options: dict[str, Any], seed: int, number: int, deadline: float) -> None:
    """Train what TPE proposes until the deadline, as one of several processes."""
    from optuna.trial import TrialState

    from evo_tune.strategies.tpe import distribution_of, value_of

    bound = bound_of(job, options)
    distributions = {name: distribution_of(gene) for name, gene in bound.space.genes.items()}
    study = study_of(journal, seed + 1000 * number)
    while time.time() < deadline:
        trial = study.ask(distributions)
        genome = {name: value_of(gene, trial.params[name]) for name, gene in bound.space.genes.items()}
        genome = bound.space.check(genome)
        trial.set_user_attr("genome", genome)
        with tempfile.TemporaryDirectory() as folder:
            context = Reporting(trial, deadline, seed=trial_seed(seed, 0), folder=folder)
            try:
                value = bound.evaluate(genome, context)["val_loss"]
                study.tell(trial, value if time.time() <= deadline else None, state=TrialState.COMPLETE)
            except Pruned:
                study.tell(trial, state=TrialState.PRUNED)
            except Exception:  # most likely it diverged; Optuna would record the same
                study.tell(trial, state=TrialState.FAIL)


def tpe(job: Job, options: dict[str, Any], seed: int) -> dict[str, Any]:
    """Search with Optuna's TPE and Hyperband."""
    from optuna.trial import TrialState

    from evo_tune.strategies.tpe import parameter_of

    space, curve = bound_of(job, options).space, {**options, "evaluations": POINTS}
    with tempfile.TemporaryDirectory() as folder:
        journal, began = str(Path(folder) / "optuna.log"), time.time()
        deadline = began + job.trainings * options["seconds"]
        first = {name: parameter_of(space.genes[name], value) for name, value in space.default().items()}
        study_of(journal, seed).enqueue_trial(first)
        with pool_of(job) as pool:
            at_work = [
                pool.submit(tpe_worker, journal, job, curve, seed, number, deadline) for number in range(job.slots)
            ]
            for one in at_work:
                one.result()
        trials = study_of(journal, seed).trials
        complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    best = min(complete, key=lambda trial: trial.value, default=None)
    genome = space.default() if best is None else best.user_attrs["genome"]
    told = {"searched": time.time() - began, "trainings": len(trials), "full": len(complete)}
    return {**judged(job, options, genome, seed), **told}


# ---------------------------------------------------------------- what users have today

PEFT = {"rank": 8, "alpha_ratio": 1.0, "dropout": 0.0, "targets": "qv", "lr": 1e-3, "batch": 8, "warmup": 0.0}
"""peft's LoraConfig and transformers' TrainingArguments by default, and the learning rate of peft's examples."""


def users(job: Job, options: dict[str, Any], seed: int) -> dict[str, Any]:
    """Train what users of the job's evaluator have today."""
    if job.name == "finetune":
        linear = {**options, "schedule": "linear", "min_lr_ratio": 0.0}
        return judged(job, linear, {**bound_of(job, options).space.default(), **PEFT}, seed)
    with pool_of(job) as pool:
        return pool.submit(perceptrons, job, options, seed).result()


def perceptrons(job: Job, options: dict[str, Any], seed: int) -> dict[str, Any]:
    """Fit scikit-learn's MLPClassifier with its defaults to the pixels, in [0, 1], of the same training part."""
    from sklearn.metrics import log_loss
    from sklearn.neural_network import MLPClassifier

    values = bound_of(job, options).values
    images = values.images
    training, held_out, test = images.parts(values.validation, values.test)
    pixels = images.pixels.reshape(len(images.pixels), -1).astype(np.float64)
    pixels /= pixels.max()
    found: dict[str, list[float]] = {"test_loss": [], "val_loss": [], "seconds": []}
    for number in range(job.fresh):
        began = time.monotonic()
        model = MLPClassifier(random_state=fresh_seed(seed, FIRST_FRESH + number) % 2**32)
        model.fit(pixels[training], images.classes[training])
        found["seconds"].append(time.monotonic() - began)
        for name, part in (("test_loss", test), ("val_loss", held_out)):
            found[name].append(float(log_loss(images.classes[part], model.predict_proba(pixels[part]))))
    return {**found, "genome": {"sklearn": "MLPClassifier()"}, "searched": 0.0}


def mean(losses: Sequence[float]) -> str:
    """Return the mean of losses with its standard error, as text."""
    error = statistics.stdev(losses) / math.sqrt(len(losses)) if len(losses) > 1 else math.nan
    return f"{statistics.fmean(losses):.4f} ± {error:.4f}"


def summary(rows: Rows) -> None:
    """Print a table for each job: losses on the test part, and differences paired by seed."""
    results: dict[str, dict[str, dict[int, Any]]] = {}
    for key, result in rows.known.items():
        of = json.loads(key)
        if of["part"] in PARTS:
            results.setdefault(of["job"], {}).setdefault(of["part"], {})[of["seed"]] = result
    for job, parts in results.items():
        of_seed = {part: {at: one["test_loss"] for at, one in of.items()} for part, of in parts.items()}
        print(f"\n### {job}\n\n| contestant | seeds | test loss | - default | - tpe | s a training | s of search |")
        print("|---|---|---|---|---|---|---|")
        losses = {part: {at: statistics.fmean(one) for at, one in of.items()} for part, of in of_seed.items()}
        for part in (one for one in PARTS if one in parts):
            mine = losses[part]
            apart = []
            for other in ("default", "tpe"):
                pairs = [loss - losses[other][at] for at, loss in mine.items() if at in losses.get(other, {})]
                apart.append(mean(pairs) if pairs and other != part else "")
            took = statistics.fmean(second for one in parts[part].values() for second in one["seconds"])
            searched = statistics.fmean(one["searched"] for one in parts[part].values())
            cells = [part, str(len(mine)), mean(list(mine.values())), *apart, f"{took:.3g}", f"{searched:.3g}"]
            print("| " + " | ".join(cells) + " |")
    print("\n± is the standard error over seeds. A loss is a mean over fresh seeds.")


def main() -> None:
    parser = argparse.ArgumentParser(description="Real jobs at equal time.")
    parser.add_argument("job", nargs="?", choices=JOBS)
    parser.add_argument("parts", nargs="*", help="contestants: users, default, tpe, search; default: all")
    parser.add_argument("--summary", type=Path, metavar="FILE", help="print the table of a file of results")
    parser.add_argument("--out", type=Path, default=Path("real_jobs.jsonl"), help="file of results, read first")
    parser.add_argument("--text", type=Path, metavar="FILE", help="text of the jobs text and finetune")
    parser.add_argument("--seconds", type=float, help="time of a training")
    parser.add_argument("--seeds", default="0,1,2", help="seeds of each contestant")
    parser.add_argument("--fresh", type=int, default=3, help="fresh seeds of each genome")
    parser.add_argument("--slots", type=int, default=os.cpu_count() or 1, help="trainings at the same time")
    parser.add_argument("--trainings", type=float, default=10.0, help="wall time of a search, in trainings")
    given = parser.parse_args()
    if given.summary is not None:
        summary(Rows(given.summary))
        return
    unknown = [part for part in given.parts if part not in PARTS]
    if given.job is None or unknown:
        parser.error(f"expected a job, and contestants of {', '.join(PARTS)}")
    play(job_of(given), given.parts or list(PARTS), [int(seed) for seed in given.seeds.split(",")], Rows(given.out))


def job_of(given: argparse.Namespace) -> Job:
    """Return the job that the command line names."""
    options: dict[str, Any] = {}
    if given.job != "labels":
        options["data"] = str((given.text or standard_library()).resolve())
        options["eval_tokens"] = SCORED
    return Job(
        name=given.job,
        evaluator=JOBS[given.job],
        options=options,
        slots=given.slots,
        fresh=given.fresh,
        seconds=given.seconds,
        trainings=given.trainings,
    )


def play(job: Job, parts: list[str], seeds: list[int], rows: Rows) -> None:
    """Have each contestant do the job with every seed, and print the table after each."""
    programs = {"users": users, "default": default, "tpe": tpe, "search": search}
    for seed in seeds:
        for part in parts:
            if part == "users" and job.name == "text":
                continue
            options = planned(job, rows, job.seconds)
            of = {"job": job.name, "part": part, "seed": seed}
            rows.get(of, lambda: programs[part](job, options, seed))  # noqa: B023
            summary(rows)


if __name__ == "__main__":
    main()
