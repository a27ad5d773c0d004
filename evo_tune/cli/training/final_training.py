"""Train a model that is kept: by `evo-tune export`, and at the end of a run of `evo-tune auto`.

A run of `auto` is a run like any other. Beside its files it has `_auto.json`, which asks for a model at the end, and
`_model`, that model. So `resume` finishes it after a kill. A language model trains for the rest of the hours; where
these are enough, its recipe is transferred to a larger size first. Other models get the budget of a trial, for which
their genome was chosen. If no trial has ended in time, the default genome is trained for the time that is left.
"""

from __future__ import annotations

import contextlib
import math
import os
import shlex
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta, Struct

from evo_tune.cli import shared
from evo_tune.cli.training.ensemble import ENSEMBLE, member_candidates, write_ensemble
from evo_tune.dispatch import open_slots
from evo_tune.dispatch.devices import CPU, Plan, cpu_count, plan
from evo_tune.dispatch.slot import Task
from evo_tune.errors import EvoTuneError, StoreError
from evo_tune.forecast.timing import TIMING, Timing, time_genomes
from evo_tune.genome.trial import Candidate, Objective
from evo_tune.loop.budget import SHORTEST
from evo_tune.loop.deadline import own_seconds
from evo_tune.plugins.context import Context
from evo_tune.plugins.evaluator import BoundEvaluator
from evo_tune.report.recommendation import comparison_objective, fresh_values
from evo_tune.report.summary import run_result, verdict
from evo_tune.store.run import Run
from evo_tune.store.run_folders import TRIALS
from evo_tune.text import with_plural
from evo_tune.trust import safe_files

if TYPE_CHECKING:
    from evo_tune.loop.search import Search
    from evo_tune.training.prediction.card import Origin

# Shortest training in seconds for which numbers of threads are compared: the comparison takes some seconds itself.
SHORTEST_TO_COMPARE = 60.0

# Seconds after which a line is printed if the training has reported nothing.
SILENCE = 30.0

# Least seconds between two lines of progress: an evaluator may report after each step.
PROGRESS_EVERY = 5.0

# Metrics of `estimate` by which trainings of one genome are compared, the best one first.
WORK = ("seconds", "flops", "tokens", "samples", "steps")

# Files in a run's folder: the wish for a model, the model, and the folder of its training in `_trials`.
WISH_FILE, MODEL, TRAINING = "_auto.json", "_model", "auto"

# Share of the hours for the final training, where it gets more budget than a trial.
MODEL_SHARE = {"language_model": 0.3}

# Factor on the predicted time of the final training, which no later training can make up for.
SLACK = 1.05

# Least seconds for the final training to import torch and read the data, and for the model to be written.
STARTING_SECONDS = 5.0

# Share of the hours for the evaluation and the files of a model whose training the hours end.
WRITING_SHARE = 0.03

# Trainings for an ensemble, and the largest share of the hours that is reserved for those beside the first one: with
# 15 %, short searches on a busy machine had too few trials (benchmarks/LOG.md).
MEMBERS, MEMBERS_SHARE = 4, 0.05

# Least share by which the validation loss of an ensemble is lower than that of one model (benchmarks/LOG.md).
LEAST_GAIN = 0.01

# Least ratio of the tokens of the final training to those that suit its size (`GPTSize.tokens`) for a larger model: it
# has twice the weights and reads half of the tokens. With fewer, the larger model was worse (benchmarks/LOG.md).
LARGER_FROM_RATIO = 4.0

Size = Annotated[int, Meta(ge=1, le=2**40)]


class Wish(Struct, forbid_unknown_fields=True, kw_only=True):
    """The final training of a run of `auto`. A larger size is given by width, depth and tokens together.

    Args:
        seconds: Budget of the final training; None: not chosen yet, or that of a trial.
        threads: CPU threads of the final training; None: not chosen yet.
        single: Whether to train one model, and no ensemble.
        width: Width of a larger model.
        depth: Its number of blocks.
        tokens: Tokens for which its recipe is transferred.
    """

    seconds: float | None = None
    threads: Annotated[int, Meta(ge=1, le=1024)] | None = None
    single: bool = False
    width: Size | None = None
    depth: Size | None = None
    tokens: Size | None = None


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
    seconds, trial_seconds = math.nan, own_seconds(run, candidate.id) if run.candidates else 0.0
    with contextlib.suppress(EvoTuneError):  # the work of the training, compared with that of the trial
        trial_work = bound.plugin.bind(run.manifest.options).estimate(candidate.genome)
        work = bound.estimate(candidate.genome)
        name = next((name for name in WORK if trial_work.get(name, 0.0) > 0.0 and name in work), None)
        if trial_seconds and name is not None:
            seconds = trial_seconds * work[name] / trial_work[name]
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
        own = own_seconds(self.run, self.candidate.id)
        for candidate in member_candidates(self.run, replace(self.candidate, seed=self.seed), count):
            ratio = own_seconds(self.run, candidate.id) / own if own else math.nan
            pace = replace(self.pace, seconds=ratio * self.pace.seconds)
            yield replace(self, candidate=candidate, pace=pace, seed=candidate.seed)

    def fits(self, training: Training) -> bool:
        """Return whether there is time for another training; true without a limit."""
        return self.ends_at == math.inf or time.monotonic() + SLACK * training.pace.seconds <= self.ends_at

    def write_card(self, target: Path, metrics: Mapping[str, Any]) -> None:
        """Write the card of a model of this training into its folder."""
        from evo_tune.training.prediction.card import write_card

        write_card(target, self.card_origin(), metrics, self.candidate.genome)

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
        genome = shared.show_genome(candidate.genome)
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
        with context.lines():
            return self.bound.export(candidate.genome, context, target)

    def card_origin(self) -> Origin:
        """Return what the model card says of the model's run: its final comparison, its baseline and its verdict."""
        from evo_tune.training.prediction.card import Origin, Result

        run, candidate, plugin = self.run, self.candidate, self.bound.plugin
        metric, results = comparison_objective(run).metric, []
        names = {0: "the default genome", candidate.id: "this genome"}
        if run.candidates and candidate.genome != run.candidates[candidate.id].genome:
            names[candidate.id] = f"trial {candidate.id}, the recipe at its size in the search"
        for row in fresh_values(run):
            if row.values:
                error = None if math.isnan(row.error) else row.error
                name = names.get(row.id, f"trial {row.id}")
                results.append(Result(metric, row.mean, error, f"{name}, {len(row.values)} fresh seeds"))
        if run.baseline is not None and metric in run.baseline[1].metrics:
            results.append(Result(metric, run.baseline[1].metrics[metric], None, f"{run.baseline[0]}, the baseline"))
        return Origin(
            run=run.name,
            trial=candidate.id,
            evaluator=plugin.name,
            summary=plugin.summary,
            command=self.command,
            results=results,
            verdict=verdict(run_result(run)),
        )


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
        self._first_report: tuple[float, float] | None = None  # its share, and its seconds
        self._began = self._last_line = time.monotonic()
        self._next_line = self._began

    def report_all(self, fraction: float, metrics: Mapping[str, float], decayed: bool | None = None) -> None:
        super().report_all(fraction, metrics, decayed)
        elapsed = time.monotonic() - self._began
        if self._first_report is None:  # by the prediction, later by the pace since the first report
            self._first_report = fraction, elapsed
            total = elapsed / fraction if math.isnan(self._expected) else self._expected
        else:
            share, seconds = self._first_report
            total = (elapsed - seconds) / max(fraction - share, 1e-9)
        self._expected = elapsed + (1.0 - fraction) * total
        if self._began + elapsed < self._next_line:
            return
        self._next_line = self._began + elapsed + PROGRESS_EVERY
        value = f"  {self._metric} {shared.show_value(metrics[self._metric])}" if self._metric in metrics else ""
        self._print(f"{fraction:>5.0%}{value}", elapsed)

    @contextlib.contextmanager
    def lines(self) -> Iterator[None]:
        """Print a line now and then while the training reports nothing."""
        ended = threading.Event()

        def print_lines() -> None:
            while not ended.wait(SILENCE / 10):
                if time.monotonic() - self._last_line >= SILENCE:
                    self._print("  ...", time.monotonic() - self._began)

        thread = threading.Thread(target=print_lines, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _print(self, text: str, elapsed: float) -> None:
        self._last_line = time.monotonic()
        remaining = self._expected - elapsed
        remaining_text = f", about {shared.show_seconds(remaining)} left" if remaining > 0.5 else ""
        shared.echo(f"{text}  {shared.show_seconds(elapsed)}{remaining_text}", err=self._err)


# ---------------------------------------------------------------------------------------------------------
# The model at the end of a run of `auto`


def write_wish(run: Run, wish: Wish) -> None:
    """Note beside a run that it is to end with a model.

    Raises:
        StoreError: The disk refuses.
    """
    try:
        safe_files.replace(run.folder, WISH_FILE, msgspec.json.encode(wish), f"{WISH_FILE}.part")
    except OSError as error:
        raise StoreError(f"cannot write {run.folder / WISH_FILE}: {error.strerror}") from None


def read_wish(run: Run) -> Wish | None:
    """Return what `write_wish` noted; None for a run that was not begun by `auto`."""
    try:
        return msgspec.json.decode(safe_files.read(run.folder, WISH_FILE, limit=1 << 12), type=Wish)
    except (OSError, msgspec.DecodeError, RecursionError):
        return None


def time_for_model(search: Search) -> Callable[[float], float]:
    """Return the function that gives the seconds of the hours to leave for the final training; 0 without one.

    Its argument is the predicted time of one more training of the best genome in seconds; 0 while nothing is known.
    """
    wish, plugin = read_wish(search.saved), search.evaluator.plugin
    if wish is None:
        return lambda training: 0.0
    share, seconds = MODEL_SHARE.get(plugin.name, 0.0), 3600.0 * (search.session.hours or 0.0)
    others = 0 if wish.single or ENSEMBLE not in plugin.supports else MEMBERS - 1

    def seconds_to_reserve(training: float) -> float:
        if search.pace is None and search.plan_timed_steps:  # the machine is too busy even to time a step
            return math.inf
        # A worker starts as the final training does.
        start = max(STARTING_SECONDS, 0.0 if search.pace is None else search.pace.start)
        members = min(others * SLACK * training, MEMBERS_SHARE * seconds)
        return max(share * seconds, SLACK * training + members + start)

    return seconds_to_reserve


def train_final_model(search: Search, elapsed: Callable[[], float], err: bool) -> Path | None:
    """Train the recommended genome once more at the end of a run of `auto`, and keep the model in the run's folder.

    Budget, threads and size are chosen once and noted, so an attempt after a kill trains the same model. The hours end
    the training of the first attempt, which is then shorter than planned.

    Args:
        search: The run, at its end.
        elapsed: Returns the seconds that count towards the hours.
        err: Whether to print on standard error.

    Returns:
        Folder of the model; None if the run asked for none, was interrupted, or has no value although trials ended.

    Raises:
        StoreError: A file of the run is a link, or the disk refuses.
    """
    run, wish, best, ends_at = search.saved, read_wish(search.saved), model_candidate(search), math.inf
    if wish is None or search.stopping or best is None:
        return None
    target = run.folder / MODEL
    try:
        if not safe_files.exists(run.folder, MODEL):
            if wish.threads is None:
                if search.session.hours is not None:
                    seconds = 3600.0 * search.session.hours
                    ends_at = time.monotonic() + (1.0 - WRITING_SHARE) * seconds - elapsed()
                wish = msgspec.structs.replace(_choose_wish(search, best, elapsed, err), single=wish.single)
                write_wish(run, wish)
            bound, candidate = _final_training(search, best, wish)
            part = run.folder / f"{MODEL}.part"
            safe_files.remove(run.folder, part.name)
            with safe_files.folder(run.folder, TRIALS, TRAINING, make=True):  # neither is a link
                pass
            pace, command = _final_pace(search, best, wish), f"evo-tune resume {shlex.quote(run.name)}"
            training = Training(run, bound, candidate, plan(1, None, 1, None), pace, candidate.seed, command, ends_at)
            can_average = ENSEMBLE in bound.plugin.supports and not wish.single and search.best is not None
            members = MEMBERS if can_average else 1
            metrics = training.write(part, run.folder / TRIALS / TRAINING, err, members, LEAST_GAIN)
            safe_files.move(run.folder, (part.name,), (MODEL,))
            safe_files.remove(run.folder, TRIALS, TRAINING)
            tests = {name: value for name, value in metrics.items() if name in run.manifest.tests.values()}
            shared.echo(*shared.metric_lines(tests), err=err)
        with safe_files.folder(run.folder, MODEL):
            return target
    except OSError as error:
        raise StoreError(f"cannot keep the model in {target}: {error.strerror}") from None


def model_candidate(search: Search) -> Candidate | None:
    """Return the candidate of the final training: the best; the default if no trial has ended in time; None: no value.

    If trials ended without a value, the training of a model would most likely do so too.
    """
    run, best = search.saved, search.best
    if best is not None:
        return best.candidate
    statuses = {outcome.status for outcome in run.outcomes.values()}
    if search.session.hours is None or not statuses <= {"ok", "pruned"}:  # partial trainings
        return None
    genome = search.space.default()
    return Candidate(0, 0, run.manifest.seed_of(genome, 0), 0, genome, "default")


def _choose_wish(search: Search, best: Candidate, elapsed: Callable[[], float], err: bool) -> Wish:
    """Return budget, threads and size of the final training for the time that is left."""
    hours, trial_seconds = search.session.hours, search.evaluator.options.get("seconds") or 0.0

    def seconds_left() -> float:
        return ((hours or 0.0) * 3600.0 - elapsed() - STARTING_SECONDS) / SLACK

    can_be_longer = search.evaluator.plugin.name in MODEL_SHARE and hours and trial_seconds
    if not can_be_longer or seconds_left() <= trial_seconds:
        # A trial may have ended long ago, when the machine was faster; without one, less time may be left.
        shorter = hours and trial_seconds and search.best is None and seconds_left() < trial_seconds
        seconds = max(0.1, round(max(seconds_left(), SHORTEST * trial_seconds), 1)) if shorter else None
        return Wish(seconds=seconds, threads=_final_pace(search, best, Wish()).threads)
    wish = Wish(seconds=seconds_left())
    pace = _final_pace(search, best, wish)
    if pace.seconds > 0.0:  # at the speed of the trials, and of all threads
        wish.seconds = max(trial_seconds, seconds_left() * seconds_left() / pace.seconds)
    wish.seconds, wish.threads = max(0.1, round(wish.seconds or trial_seconds, 1)), pace.threads
    wish, explanation = _choose_size(search, best, wish)
    shared.echo(explanation, err=err)
    return wish


def _choose_size(search: Search, best: Candidate, wish: Wish) -> tuple[Wish, str]:
    """Return the wish with the largest size for which its seconds are enough, and the choice in words."""
    from evo_tune.training.recipe import GPTSize, shape_with_more_weights

    bound, _ = _final_training(search, best, wish)
    genome: dict[str, Any] = dict(best.genome)
    tokens = bound.estimate(best.genome)["tokens"]
    ratio = tokens / GPTSize(width=genome["width"], depth=genome["depth"], context=0, batch=0).tokens
    budget = (
        f"the final training has {wish.seconds or 0.0:g} s, for {ratio:.3g} times the tokens that suit the size of the "
        "trial"
    )
    shape = None
    if ratio >= LARGER_FROM_RATIO:
        head = genome["width"] // genome["heads"]
        shape = shape_with_more_weights(genome["width"], genome["depth"], head, math.sqrt(ratio))
    if shape is None:
        return wish, f"{budget}: a larger model needs {LARGER_FROM_RATIO:g} times or more, so this size trains longer"
    width, depth = shape
    larger = msgspec.structs.replace(wish, width=width, depth=depth, tokens=int(tokens))
    try:
        for _ in range(2):  # the rates depend on the tokens, and these on the size
            bound, candidate = _final_training(search, best, larger)
            larger.tokens = int(bound.estimate(candidate.genome)["tokens"])
        _final_training(search, best, larger)
    except EvoTuneError as error:
        return wish, f"{budget}; it keeps its size: {error}"
    sizes = f"from {genome['depth']}x{genome['width']} to {depth}x{width} (blocks x width)"
    return larger, f"{budget}: the recipe is transferred {sizes}, for {larger.tokens:,} tokens"


def _final_training(search: Search, best: Candidate, wish: Wish) -> tuple[BoundEvaluator, Candidate]:
    """Return the evaluator with the options of the final training, and the candidate with its genome.

    Raises:
        EvoTuneError: The recipe cannot be transferred to the size.
    """
    plugin, options = search.evaluator.plugin, search.saved.manifest.options
    budget = {} if wish.seconds is None else {"seconds": wish.seconds}
    if wish.width is None or wish.depth is None or wish.tokens is None:
        return plugin.bind({**options, **budget}).for_run(rungs=False), best
    # The transfer needs a budget in tokens; the training itself ends by its seconds.
    tokens = int(search.evaluator.estimate(best.genome)["tokens"])
    bound = plugin.bind({**options, "seconds": None, "cost": "", "tokens": tokens}).for_run(rungs=False)
    recipe = bound.transfer(best.genome, {"width": wish.width, "depth": wish.depth, "tokens": wish.tokens})
    changes = {name: value for name, value in recipe["options"].items() if name not in ("flops", "tokens", "seconds")}
    bound = plugin.bind({**options, **changes, **budget}).for_run(rungs=False)
    return bound, replace(best, genome=recipe["genome"])


def _final_pace(search: Search, best: Candidate, wish: Wish) -> Pace:
    bound, _ = _final_training(search, best, Wish(seconds=wish.seconds))
    return choose_pace(search.saved, bound, best, plan(1, None, 1, None), wish.threads)
