"""Train a model that is kept, and print the progress: one model, or an ensemble of several of a run.

The candidates of an ensemble are the best genome, the best ones of other families with nearly its loss, the next ones
in the ranking, and the best genome on fresh seeds. They are chosen by their predictions for the validation part, before
a model is fitted to that part too. The gain over the first model alone is measured on the test part, which the choice
has not seen.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evo_tune.cli import shared
from evo_tune.dispatch import open_slots
from evo_tune.dispatch.devices import CPU, Plan, cpu_count
from evo_tune.dispatch.slot import Task
from evo_tune.errors import EvoTuneError, PluginError
from evo_tune.forecast.clock import Clock
from evo_tune.forecast.timing import TIMING, Timing, time_genomes
from evo_tune.genome.trial import Candidate, Objective
from evo_tune.genome.values import Genome, genome_key
from evo_tune.plugins.context import Context
from evo_tune.plugins.evaluator import BoundEvaluator
from evo_tune.report.recommendation import comparison_objective, fresh_seed, fresh_values, rank_trials
from evo_tune.report.summary import RunResult, verdict
from evo_tune.store.run import Run
from evo_tune.text import one_line, with_plural
from evo_tune.training.recipe.families import TRANSFORMER

if TYPE_CHECKING:
    from evo_tune.training.prediction.ensemble import Member
    from evo_tune.training.samples import PartPredictions

# Shortest training in seconds for which numbers of threads are compared: the comparison takes some seconds itself.
SHORTEST_TO_COMPARE = 60.0

# Least seconds between two lines of progress: an evaluator may report after each step.
PROGRESS_EVERY = 5.0

# Metrics of `estimate` by which trainings of one genome are compared, the best one first.
WORK = ("seconds", "flops", "tokens", "samples", "steps")

# Factor on the predicted time of the final training, which no later training can make up for.
SLACK = 1.05

# Last fits of a model without gradient steps that is kept, by the option `refit` (`training.fitting.fit_task`).
LAST_FITS = {"none": 0, "validation": 1, "all": 2}

# Metric of the trials by which families come first in an ensemble: those whose best loss is no more than so many times
# that of the best trial.
VALIDATION_LOSS, LARGEST_RATIO = "val_loss", 1.2

# Entry in SUPPORTS of an evaluator whose `export` notes predictions in its context, and gene with a model's family.
ENSEMBLE, FAMILY = "ensemble", "family"


@dataclass(frozen=True)
class Pace:
    """How a training is run.

    Args:
        threads: Number of CPU threads.
        seconds: Predicted duration; NaN if unknown.
        reason: Why so many threads, in words.
    """

    threads: int
    seconds: float
    reason: str


def count_trainings(bound: BoundEvaluator, genome: Genome) -> float:
    """Return the time of a training whose model is kept, as a multiple of its trial's: last fits are further ones."""
    family = genome.get(FAMILY, bound.options.get("families"))
    last_fits = 0 if family == TRANSFORMER else LAST_FITS.get(bound.options.get("refit", ""), 0)
    return 1.0 + last_fits / getattr(bound.values, "fits", 1)


def choose_pace(run: Run, bound: BoundEvaluator, candidate: Candidate, planned: Plan, threads: int | None) -> Pace:
    """Choose the threads of a training: those of the run's trials, or all cores if that is measured to be faster.

    Args:
        run: Run with the trial.
        bound: Evaluator with the options of the training.
        candidate: Trial to train again.
        planned: Plan of the slots, with the device of the training.
        threads: Number of threads that the user gives; None for the choice.
    """
    trial_threads, all_cores = run.manifest.threads, cpu_count()
    if threads not in (None, trial_threads):
        return Pace(threads, math.nan, "as given")
    seconds, trial_seconds = math.nan, Clock(run).own_seconds(candidate.id) if run.candidates else 0.0
    with contextlib.suppress(EvoTuneError):  # the work of the training, compared with that of the trial
        trial_work = bound.plugin.bind(run.manifest.options).estimate(candidate.genome)
        work = bound.estimate(candidate.genome)
        name = next((name for name in WORK if trial_work.get(name, 0.0) > 0.0 and name in work), None)
        if trial_seconds and name is not None:
            seconds = count_trainings(bound, candidate.genome) * trial_seconds * work[name] / trial_work[name]
    pace = Pace(trial_threads, seconds, "as in the trial")
    can_compare = planned.slots[0] == CPU and all_cores > trial_threads and TIMING in bound.plugin.supports
    if threads is not None or not can_compare or not seconds >= SHORTEST_TO_COMPARE:
        return pace
    times = {count: _measure_seconds(bound, candidate, planned, count) for count in (trial_threads, all_cores)}
    fastest = min(times, key=lambda count: times[count])
    if not math.isfinite(times[fastest]):
        return pace
    times_text = ", ".join(
        f"{with_plural(count, 'thread')}: {shared.show_seconds(time)}" for count, time in times.items()
    )
    return Pace(fastest, times[fastest], f"measured by a few steps; {times_text}")


def _measure_seconds(bound: BoundEvaluator, candidate: Candidate, planned: Plan, threads: int) -> float:
    """Return the seconds of a training with so many threads, by a few timed steps; infinite if they failed."""
    with tempfile.TemporaryDirectory() as folder:
        task = Task.of(bound, (), Path(folder) / "trials", threads)
        slots = open_slots(task, Plan(planned.slots[:1], threads))
        try:
            rows, _ = time_genomes(slots, [candidate.genome], Timing(folder=Path(folder) / "trials"))
        finally:
            for slot in slots:
                slot.close()
    return rows[0]["seconds"] if 0 in rows else math.inf


@dataclass(frozen=True)
class Training:
    """The training of a model that is kept.

    Args:
        run: The run.
        bound: Evaluator with the options of the training.
        candidate: The trial whose genome is trained.
        planned: Device of the training.
        pace: How it is trained.
        seed: Seed of the training.
        command: The command, for the model card.
        ends_at: Time by which the training ends, in seconds of `time.monotonic`; infinite: no limit.
    """

    run: Run
    bound: BoundEvaluator
    candidate: Candidate
    planned: Plan
    pace: Pace
    seed: int
    command: str
    ends_at: float = math.inf

    def write(
        self, target: Path, scratch: Path, err: bool, members: int = 1, least_gain: float = 0.0
    ) -> dict[str, Any]:
        """Train, and write the model or an ensemble with its card; print the progress. Return the metrics.

        Args:
            target: Folder of the model.
            scratch: Folder of the training.
            err: Whether to print on standard error.
            members: Number of models to train for an ensemble; 1: no ensemble.
            least_gain: See `write_ensemble`.
        """
        if members > 1:
            return write_ensemble(self.candidates(members), target, scratch, err, self.fits, least_gain)
        metrics = self.export(target, scratch, err)
        self.write_card(target, metrics)
        return metrics

    def candidates(self, count: int) -> Iterator[Training]:
        """Yield this training and others, whose models may form an ensemble with its model.

        Args:
            count: Number of trainings.
        """
        own = self._seconds_of(self.candidate)
        for candidate in member_candidates(self.run, replace(self.candidate, seed=self.seed), count):
            ratio = self._seconds_of(candidate) / own if own else math.nan
            pace = replace(self.pace, seconds=ratio * self.pace.seconds)
            yield replace(self, candidate=candidate, pace=pace, seed=candidate.seed)

    def _seconds_of(self, candidate: Candidate) -> float:
        return count_trainings(self.bound, candidate.genome) * Clock(self.run).own_seconds(candidate.id)

    def fits(self, training: Training) -> bool:
        """Return whether there is time for another training; true without a limit."""
        return self.ends_at == math.inf or time.monotonic() + SLACK * training.pace.seconds <= self.ends_at

    def export(
        self, target: Path, scratch: Path, err: bool, predictions: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Train, and write the model without its card; print the progress. Return the metrics.

        Args:
            target: Folder of the model.
            scratch: Folder of the training.
            err: Whether to print on standard error.
            predictions: Receives predictions for held-out samples (see `Context.predictions`); None: not wanted.
        """
        candidate, slot, pace = self.candidate, self.planned.slots[0], self.pace
        genome = shared.show_genome(self.run.active_genes(candidate))
        shared.echo(f"training trial {candidate.id} of {self.run.name}: {genome}", err=err)
        duration = "its duration is unknown"
        if not math.isnan(pace.seconds):
            duration = f"about {shared.show_seconds(pace.seconds)}"
        shared.echo(f"on {slot.name} with {with_plural(pace.threads, 'thread')}, {pace.reason}; {duration}", err=err)
        os.environ["CUDA_VISIBLE_DEVICES"] = slot.visible  # before torch is imported
        context = ProgressContext(
            pace.seconds,
            self.run.objectives[0],
            err,
            device=slot.inside,
            threads=pace.threads,
            seed=self.seed,
            folder=scratch,
            ends_at=self.ends_at,
        )
        context.predictions = predictions
        return self.bound.export(candidate.genome, context, target)

    def write_card(self, target: Path, metrics: Mapping[str, Any]) -> None:
        """Write the card of a model of this training into its folder.

        It has the final comparison of the model's run, its baseline and its verdict.
        """
        from evo_tune.training.prediction.card import Origin, Result, write_card

        run, candidate, plugin = self.run, self.candidate, self.bound.plugin
        metric, results = comparison_objective(run).metric, []
        names = {0: "the default genome", candidate.id: "this genome"}
        for row in fresh_values(run):
            if row.values:
                error = None if math.isnan(row.error) else row.error
                name = names.get(row.id, f"trial {row.id}")
                results.append(Result(metric, row.mean, error, f"{name}, {len(row.values)} fresh seeds"))
        if run.baseline is not None and metric in run.baseline[1].metrics:
            results.append(Result(metric, run.baseline[1].metrics[metric], None, f"{run.baseline[0]}, the baseline"))
        origin = Origin(
            run=run.name,
            trial=candidate.id,
            evaluator=plugin.name,
            summary=plugin.summary,
            command=self.command,
            results=results,
            verdict=verdict(RunResult(run)),
        )
        write_card(target, origin, metrics, candidate.genome)


class ProgressContext(Context):
    """Context of a training that prints its progress.

    Args:
        expected: Predicted seconds of the training; NaN if unknown.
        objective: Objective whose metric is printed.
        err: Whether to print on standard error.
        fields: Arguments of `Context`.
    """

    def __init__(self, expected: float, objective: Objective, err: bool, **fields: Any) -> None:
        super().__init__(objectives=[objective], **fields)
        self._metric, self._err = objective.metric, err
        self._expected = expected  # from the beginning, with the time that libraries take to load
        self._began = self._next_line = time.monotonic()

    def report_all(self, fraction: float, metrics: Mapping[str, float], decayed: bool | None = None) -> None:
        super().report_all(fraction, metrics, decayed)
        elapsed = time.monotonic() - self._began
        if self._began + elapsed < self._next_line:
            return
        self._next_line = self._began + elapsed + PROGRESS_EVERY
        value = f"  {self._metric} {shared.show_value(metrics[self._metric])}" if self._metric in metrics else ""
        # By the prediction, later by the pace so far.
        remaining = (
            self._expected - elapsed if elapsed < 0.1 * self._expected else elapsed * (1.0 / max(fraction, 1e-9) - 1.0)
        )
        remaining_text = f", about {shared.show_seconds(remaining)} left" if remaining > 0.5 else ""
        shared.echo(f"{fraction:>5.0%}{value}  {shared.show_seconds(elapsed)}{remaining_text}", err=self._err)


# ---------------------------------------------------------------------------------------------------------
# Ensembles


class TrainedModel:
    """A model that may become a member of an ensemble; it is trained into a folder.

    Args:
        training: The training.
        folder: Folder of the model.
        scratch: Folder of the training.
        err: Whether to print on standard error.

    Raises:
        PluginError: The evaluator has noted no predictions.
    """

    def __init__(self, training: Training, folder: Path, scratch: Path, err: bool) -> None:
        self.training, self.folder = training, folder
        began, predictions = time.monotonic(), dict[str, Any]()
        self.metrics = training.export(folder, scratch, err, predictions)
        self.seconds = time.monotonic() - began
        if not {"held_out", "test"} <= predictions.keys():
            missing = f"the evaluator's SUPPORTS has {ENSEMBLE!r}, but its export noted no predictions"
            raise PluginError(f"{missing} in context.predictions: leave --ensemble out (`auto`: give --single)")
        # Predictions for the validation part, by a model that has not learned from it, and for the test part.
        self.held_out: PartPredictions = predictions["held_out"]
        self.test: PartPredictions = predictions["test"]
        # Its weight in an ensemble; 0: it is no member.
        self.weight = 0


def member_candidates(run: Run, best: Candidate, count: int) -> list[Candidate]:
    """Return the candidates of an ensemble, the most useful first; they differ in genome or seed.

    Args:
        run: The run.
        best: The candidate whose model is exported without an ensemble: the first one.
        count: Number of candidates.
    """
    genomes: dict[str, Candidate] = {genome_key(best.genome): best}
    for trial in rank_trials(run):
        if trial.feasible:
            genomes.setdefault(trial.key, trial.candidate)

    def loss(candidate: Candidate) -> float:
        return run.outcomes[candidate.id].metrics.get(VALIDATION_LOSS, 0.0)

    best_of_families: dict[Any, Candidate] = {}
    for candidate in genomes.values():
        if loss(candidate) <= LARGEST_RATIO * loss(best):
            best_of_families.setdefault(candidate.genome.get(FAMILY), candidate)
    others = [candidate for candidate in genomes.values() if candidate not in best_of_families.values()]
    candidates = [*best_of_families.values(), *others][:count]
    seeds = [fresh_seed(run.manifest.settings.seed, number) for number in range(1, 1 + count - len(candidates))]
    return [*candidates, *(replace(best, seed=seed) for seed in seeds)]


def write_ensemble(
    trainings: Iterable[Training],
    target: Path,
    scratch: Path,
    err: bool,
    fits: Callable[[Any], bool],
    least_gain: float,
) -> dict[str, Any]:
    """Train models, and write an ensemble, or the first model where none is better; return the metrics.

    Args:
        trainings: Trainings of the candidates; the first one is that of the model without an ensemble.
        target: Folder of the result, which exists or is made.
        scratch: Folder of the trainings.
        err: Whether to print on standard error.
        fits: Returns whether there is time for one more training.
        least_gain: Share by which the validation loss of an ensemble has to be lower than that of the first model and
            of each member. Otherwise a single model is as good, and the final comparison has chosen the first one.
    """
    from evo_tune.training.prediction.ensemble import choose_members

    models: list[TrainedModel] = []
    for number, training in enumerate(trainings):
        if models and not fits(training):
            shared.echo(f"trial {training.candidate.id} is no member: no time is left for its training", err=err)
            continue
        try:
            models.append(TrainedModel(training, target / f"candidate-{number}", scratch / str(number), err))
        except EvoTuneError as error:
            if not models:
                raise
            shared.echo(f"trial {training.candidate.id} is no member: {error}", err=err)
    for model, weight in zip(models, choose_members([model.held_out for model in models]), strict=True):
        model.weight = weight
    members, first = sorted((model for model in models if model.weight), key=lambda model: -model.weight), models[0]
    loss = mean_predictions(members, "held_out").loss
    single_loss = min(model.held_out.loss for model in (first, *members))
    if len(members) > 1 and loss < (1.0 - least_gain) * single_loss:
        metrics = _write_members(members, first, target, err)
    else:
        means = f"a mean has a validation loss of {loss:.4g}, the best of them alone {single_loss:.4g}"
        reason = means if len(members) > 1 else "no mean of them is better than one of them"
        shared.echo(f"{len(models)} models are trained, and the first is written: {reason}", err=err)
        metrics = first.metrics
        for file in first.folder.iterdir():
            file.rename(target / file.name)
    for folder in target.glob("candidate-*"):
        shutil.rmtree(folder)
    first.training.write_card(target, metrics)
    return metrics


def mean_predictions(members: Sequence[TrainedModel], part: str) -> PartPredictions:
    """Return the weighted mean of members' predictions for a part: 'held_out' or 'test'."""
    from evo_tune.training.prediction.ensemble import combine

    return combine([getattr(member, part) for member in members], [member.weight for member in members])


def _write_members(members: Sequence[TrainedModel], first: TrainedModel, target: Path, err: bool) -> dict[str, Any]:
    """Give the members' folders their names, write the config of the ensemble, and return its metrics.

    Args:
        members: The members, whose folders are in that of the ensemble.
        first: The model without an ensemble.
        target: Folder of the ensemble.
        err: Whether to print on standard error.
    """
    from evo_tune.training.fitting import score_metrics
    from evo_tune.training.prediction.ensemble import Ensemble, member_name, sha256_of, write_config

    held_out, test = (mean_predictions(members, part) for part in ("held_out", "test"))
    metrics = score_metrics("classes" if test.deviation is None else "regression", held_out.scores, test.scores)
    entries = [_describe_member(members, number, held_out.loss) for number in range(len(members))]
    files = {}
    for number, member in enumerate(members):
        member.folder.rename(target / member_name(number))
        files[member_name(number)] = sha256_of(target / member_name(number))
    gains = first.test.losses - test.losses
    error = float(gains.std(ddof=1) / math.sqrt(len(gains))) if len(gains) > 1 else None
    ensemble = Ensemble(entries, float(gains.mean()), error, len(gains), files)
    write_config(target, ensemble, metrics)
    shared.echo(ensemble.verdict, err=err)
    return metrics


def _describe_member(members: Sequence[TrainedModel], number: int, loss: float) -> Member:
    """Return a member of an ensemble as its config.json describes it.

    Args:
        members: The members.
        number: Which of them.
        loss: Validation loss of the ensemble.
    """
    from evo_tune.training.prediction.ensemble import Member

    member, others = members[number], [*members[:number], *members[number + 1 :]]
    training, family = member.training, member.training.candidate.genome.get(FAMILY)
    return Member(
        weight=member.weight,
        trial=training.candidate.id,
        family="" if family is None else one_line(str(family), 40),
        seed=training.seed,
        loss=member.held_out.loss,
        gain=mean_predictions(others, "held_out").loss - loss,
        training_seconds=member.seconds,
        prediction_seconds=member.test.seconds / max(1, len(member.test.truth)),
        size=sum(file.stat().st_size for file in member.folder.rglob("*") if file.is_file()),
    )
