"""The model at the end of a run of `evo-tune auto`.

A run of `auto` is a run like any other. Beside its files it has `_auto.json`, which asks for a model at the end, and
`_model`, that model. So `resume` finishes it after a kill. A language model trains for the rest of the hours. Other
models get the budget of a trial, for which their genome was chosen. If no trial has ended in time, the default genome
is trained for the time that is left.
"""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta, Struct

from evo_tune.cli import shared
from evo_tune.cli.training.model_training import ENSEMBLE, SLACK, Pace, Training, choose_pace, count_trainings
from evo_tune.dispatch.devices import plan
from evo_tune.errors import StoreError, explain_error
from evo_tune.genome.trial import Candidate
from evo_tune.loop.budget import SHORTEST
from evo_tune.plugins.evaluator import BoundEvaluator
from evo_tune.store.run import Run
from evo_tune.store.run_folders import TRIALS, read_json_file
from evo_tune.trust import safe_files

if TYPE_CHECKING:
    from evo_tune.loop.search import Search

# Files in a run's folder: the wish for a model, the model, and the folder of its training in `_trials`.
WISH_FILE, MODEL, TRAINING = "_auto.json", "_model", "auto"

# Share of the hours for the final training, where it gets more budget than a trial.
MODEL_SHARE = {"language_model": 0.3}

# Least seconds for the final training to import torch and read the data, and for the model to be written.
STARTING_SECONDS = 5.0

# Share of the hours for the evaluation and the files of a model whose training the hours end.
WRITING_SHARE = 0.03

# Trainings for an ensemble, and the largest share of the hours that is reserved for those beside the first one: with
# 15 %, short searches on a busy machine had too few trials (benchmarks/LOG.md).
MEMBERS, MEMBERS_SHARE = 4, 0.05

# Largest share of the hours that is reserved for fits to the validation and the test rows.
FITS_SHARE = 0.15

# Least share by which the validation loss of an ensemble is lower than that of one model (benchmarks/LOG.md).
LEAST_GAIN = 0.01


Size = Annotated[int, Meta(ge=1, le=2**40)]


class Wish(Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """The final training of a run of `auto`.

    Args:
        seconds: Budget of the final training; None: not chosen yet, or that of a trial.
        threads: CPU threads of the final training; None: not chosen yet.
        single: Whether to train one model, and no ensemble.
        width: Width of the larger model that version 1.0 trained; ignored, as the next two.
        depth: Its number of blocks.
        tokens: Its tokens.
    """

    seconds: float | None = None
    threads: Annotated[int, Meta(ge=1, le=1024)] | None = None
    single: bool = False
    width: Size | None = None
    depth: Size | None = None
    tokens: Size | None = None


def write_wish(run: Run, wish: Wish) -> None:
    """Note beside a run that it is to end with a model.

    Raises:
        StoreError: The disk refuses.
    """
    with explain_error(StoreError, f"cannot write {run.folder / WISH_FILE}"):
        safe_files.replace(run.folder, WISH_FILE, msgspec.json.encode(wish), f"{WISH_FILE}.part")


def read_wish(run: Run) -> Wish | None:
    """Return what `write_wish` noted; None for a run that was not begun by `auto`."""
    return read_json_file(run.folder, WISH_FILE, Wish, limit=1 << 12)


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
        if search.clock.pace is None and search.plan_timed_steps:  # the machine is too busy even to time a step
            return math.inf
        # A worker starts as the final training does.
        start = max(STARTING_SECONDS, 0.0 if search.clock.pace is None else search.clock.pace.start)
        members = min(others * SLACK * training, MEMBERS_SHARE * seconds)
        best = search.best
        genome = search.space.default() if best is None else best.candidate.genome
        fits = min((count_trainings(search.evaluator, genome) - 1) * SLACK * training, FITS_SHARE * seconds)
        return max(share * seconds, SLACK * training + fits + members + start + WRITING_SHARE * seconds)

    return seconds_to_reserve


def train_final_model(search: Search, elapsed: Callable[[], float], err: bool) -> Path | None:
    """Train the recommended genome once more at the end of a run of `auto`, and keep the model in the run's folder.

    Budget and threads are chosen once and noted, so an attempt after a kill trains the same model. The hours end
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
    with explain_error(StoreError, f"cannot keep the model in {target}"):
        if not safe_files.exists(run.folder, MODEL):
            if wish.threads is None:
                if search.session.hours is not None:
                    seconds = 3600.0 * search.session.hours
                    ends_at = time.monotonic() + (1.0 - WRITING_SHARE) * seconds - elapsed()
                wish = msgspec.structs.replace(_choose_wish(search, best, elapsed, err), single=wish.single)
                write_wish(run, wish)
            bound = _bind_final(search, wish)
            part = run.folder / f"{MODEL}.part"
            safe_files.remove(run.folder, part.name)
            with safe_files.folder(run.folder, TRIALS, TRAINING, make=True):  # neither is a link
                pass
            pace, command = _final_pace(search, best, wish), f"evo-tune resume {shlex.quote(run.name)}"
            training = Training(run, bound, best, plan(1, None, 1, None), pace, best.seed, command, ends_at)
            can_average = ENSEMBLE in bound.plugin.supports and not wish.single and search.best is not None
            members = MEMBERS if can_average else 1
            metrics = training.write(part, run.folder / TRIALS / TRAINING, err, members, LEAST_GAIN)
            safe_files.move(run.folder, (part.name,), (MODEL,))
            safe_files.remove(run.folder, TRIALS, TRAINING)
            tests = {name: value for name, value in metrics.items() if name in run.manifest.tests.values()}
            shared.echo(*shared.metric_lines(tests), err=err)
        with safe_files.folder(run.folder, MODEL):
            pass
    return target


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
    """Return budget and threads of the final training for the time that is left."""
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
    shared.echo(f"the final training has {wish.seconds:g} s", err=err)
    return wish


def _bind_final(search: Search, wish: Wish) -> BoundEvaluator:
    """Return the evaluator with the options of the final training."""
    budget = {} if wish.seconds is None else {"seconds": wish.seconds}
    return search.evaluator.plugin.bind({**search.saved.manifest.options, **budget}).for_run(rungs=False)


def _final_pace(search: Search, best: Candidate, wish: Wish) -> Pace:
    bound = _bind_final(search, wish)
    return choose_pace(search.saved, bound, best, plan(1, None, 1, None), wish.threads)
