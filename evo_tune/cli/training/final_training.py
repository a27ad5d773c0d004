"""The model at the end of a run of `evo-tune auto`.

A run of `auto` is a run like any other. Beside its files it has `_auto.json`, which asks for a model at the end, and
`_model`, that model. So `resume` finishes it after a kill. A language model trains for the rest of the hours; where
these are enough, its recipe is transferred to a larger size first. Other models get the budget of a trial, for which
their genome was chosen.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta, Struct

from evo_tune.cli import shared
from evo_tune.errors import EvoTuneError, StoreError
from evo_tune.store.places import TRIALS
from evo_tune.trust import inside

if TYPE_CHECKING:
    from evo_tune.cli.training.exporting import Pace
    from evo_tune.genome.trial import Candidate
    from evo_tune.loop.search import Search
    from evo_tune.plugins.evaluator import BoundEvaluator
    from evo_tune.store.run import Run

WISH_FILE, MODEL, TRAINING = "_auto.json", "_model", "auto"
"""Files in a run's folder: the wish for a model, the model, and the folder of its training in `_trials`."""

MODEL_SHARE = {"language_model": 0.3}
"""Share of the hours for the final training, where it gets more budget than a trial."""

SLACK = 1.05
"""Factor on the predicted time of the final training, which no later training can make up for."""

STARTING_SECONDS = 5.0
"""Seconds for the final training to import torch and read the data, and for the model to be written."""

LARGER_FROM_RATIO = 4.0
"""Least ratio of the tokens of the final training to those that suit its size (`GPTSize.tokens`) for a larger model: it
has twice the weights and reads half of the tokens. With fewer, the larger model was worse (benchmarks/LOG.md)."""

Size = Annotated[int, Meta(ge=1, le=2**40)]


class Wish(Struct, forbid_unknown_fields=True, kw_only=True):
    """The final training of a run of `auto`. A larger size is given by width, depth and tokens together.

    Args:
        seconds: Budget of the final training; None: not chosen yet, or that of a trial.
        threads: CPU threads of the final training; None: not chosen yet.
        width: Width of a larger model.
        depth: Its number of blocks.
        tokens: Tokens for which its recipe is transferred.
    """

    seconds: float | None = None
    threads: Annotated[int, Meta(ge=1, le=1024)] | None = None
    width: Size | None = None
    depth: Size | None = None
    tokens: Size | None = None


@dataclass(frozen=True)
class _FinalTraining:
    """The final training: the evaluator with its options, and the candidate with its genome."""

    bound: BoundEvaluator
    candidate: Candidate


def write_wish(run: Run, wish: Wish) -> None:
    """Note beside a run that it is to end with a model.

    Raises:
        StoreError: The disk refuses.
    """
    try:
        inside.replace(run.folder, WISH_FILE, msgspec.json.encode(wish), f"{WISH_FILE}.part")
    except OSError as error:
        raise StoreError(f"cannot write {run.folder / WISH_FILE}: {error.strerror}") from None


def read_wish(run: Run) -> Wish | None:
    """Return what `write_wish` noted; None for a run that was not begun by `auto`."""
    try:
        return msgspec.json.decode(inside.read(run.folder, WISH_FILE, limit=1 << 12), type=Wish)
    except (OSError, msgspec.DecodeError, RecursionError):
        return None


def time_for_model(search: Search) -> Callable[[float], float]:
    """Return the function that gives the seconds of the hours to leave for the final training.

    Its argument is the predicted time of one more training of the best genome in seconds; 0 while nothing is known.
    """
    share = MODEL_SHARE.get(search.evaluator.plugin.name, 0.0)

    def seconds_to_reserve(training: float) -> float:
        return max(share * 3600.0 * (search.session.hours or 0.0), SLACK * training + STARTING_SECONDS)

    return seconds_to_reserve


def train_final_model(search: Search, elapsed: Callable[[], float], err: bool) -> Path | None:
    """Train the recommended genome once more at the end of a run of `auto`, and keep the model in the run's folder.

    Budget, threads and size are chosen once and noted, so an attempt after a kill trains the same model.

    Args:
        search: The run, at its end.
        elapsed: Returns the seconds that count towards the hours.
        err: Whether to print on standard error.

    Returns:
        Folder of the model; None if the run asked for none, was interrupted, or has no value.

    Raises:
        StoreError: A file of the run is a link, or the disk refuses.
    """
    run, wish = search.saved, read_wish(search.saved)
    if wish is None or search.stopping or search.best is None:
        return None
    target = run.folder / MODEL
    try:
        if not inside.exists(run.folder, MODEL):
            if wish.threads is None:
                wish = _choose_wish(search, elapsed, err)
                write_wish(run, wish)
            _train(search, wish, err)
        with inside.folder(run.folder, MODEL):
            return target
    except OSError as error:
        raise StoreError(f"cannot keep the model in {target}: {error.strerror}") from None


def _choose_wish(search: Search, elapsed: Callable[[], float], err: bool) -> Wish:
    """Return budget, threads and size of the final training for the time that is left."""
    hours, usual = search.session.hours, search.evaluator.options.get("seconds")

    def seconds_left() -> float:
        return ((hours or 0.0) * 3600.0 - elapsed() - STARTING_SECONDS) / SLACK

    if search.evaluator.plugin.name not in MODEL_SHARE or not hours or not usual or seconds_left() <= usual:
        return Wish(threads=_pace(search, Wish()).threads)
    first = Wish(seconds=seconds_left())
    pace = _pace(search, first)
    if pace.seconds > 0.0:  # at the speed of the trials, and of all threads
        first.seconds = max(usual, seconds_left() * seconds_left() / pace.seconds)
    first.seconds, first.threads = round(first.seconds or usual, 1), pace.threads
    wish, explanation = _choose_size(search, first)
    shared.echo(explanation, err=err)
    return wish


def _choose_size(search: Search, wish: Wish) -> tuple[Wish, str]:
    """Return the wish with the largest size for which its seconds are enough, and the choice in words."""
    from evo_tune.training.recipe import GPTSize, shape_with_more_weights

    best, seconds = search.best, wish.seconds or 0.0
    assert best is not None, "asked before"
    longer = _final_training(search, wish).bound.estimate(best.genome)
    genome: dict[str, Any] = dict(best.genome)
    suited = GPTSize(width=genome["width"], depth=genome["depth"], context=0, batch=0).tokens
    ratio = longer["tokens"] / suited
    description = (
        f"the final training has {seconds:g} s, for {ratio:.3g} times the tokens that suit the size of the trial"
    )
    head = genome["width"] // genome["heads"]
    shape = None
    if ratio >= LARGER_FROM_RATIO:
        shape = shape_with_more_weights(genome["width"], genome["depth"], head, math.sqrt(ratio))
    if shape is None:
        return (
            wish,
            f"{description}: a larger model needs {LARGER_FROM_RATIO:g} times or more, so this size trains longer",
        )
    width, depth = shape
    larger = Wish(**msgspec.structs.asdict(wish) | {"width": width, "depth": depth, "tokens": int(longer["tokens"])})
    try:
        for _ in range(2):  # the rates depend on the tokens, and these on the size
            planned = _final_training(search, larger)
            larger.tokens = int(planned.bound.estimate(planned.candidate.genome)["tokens"])
        _final_training(search, larger)
    except EvoTuneError as error:
        return wish, f"{description}; it keeps its size: {error}"
    moved = f"from {genome['depth']}x{genome['width']} to {depth}x{width} (blocks x width)"
    return larger, f"{description}: the recipe is transferred {moved}, for {larger.tokens:,} tokens"


def _final_training(search: Search, wish: Wish) -> _FinalTraining:
    """Return the final training.

    Raises:
        EvoTuneError: The recipe cannot be transferred to the size.
    """
    plugin, best, options = search.evaluator.plugin, search.best, search.saved.manifest.options
    assert best is not None, "asked before"
    budget = {} if wish.seconds is None else {"seconds": wish.seconds}
    if wish.width is None or wish.depth is None or wish.tokens is None:
        return _FinalTraining(plugin.bind({**options, **budget}).for_run(rungs=False), best.candidate)
    # The transfer needs a budget in tokens; the training itself ends by its seconds.
    tokens = int(search.evaluator.estimate(best.genome)["tokens"])
    plain = plugin.bind({**options, "seconds": None, "cost": "", "tokens": tokens}).for_run(rungs=False)
    target = {"width": wish.width, "depth": wish.depth, "tokens": wish.tokens}
    moved = plain.transfer(best.genome, target)
    changed = {name: value for name, value in moved["options"].items() if name not in ("flops", "tokens", "seconds")}
    bound = plugin.bind({**options, **changed, **budget}).for_run(rungs=False)
    return _FinalTraining(bound, replace(best.candidate, genome=moved["genome"]))


def _pace(search: Search, wish: Wish) -> Pace:
    from evo_tune.cli.training.exporting import choose_pace
    from evo_tune.dispatch import plan

    best = search.best
    assert best is not None, "asked before"
    bound = _final_training(search, Wish(seconds=wish.seconds)).bound
    return choose_pace(search.saved, bound, best.candidate, plan(1, None, 1, None), wish.threads)


def _train(search: Search, wish: Wish, err: bool) -> None:
    from evo_tune.cli.training.exporting import Training
    from evo_tune.dispatch import plan

    run, planned = search.saved, _final_training(search, wish)
    part, name = run.folder / f"{MODEL}.part", shlex.quote(run.name)
    inside.remove(run.folder, part.name)
    with inside.folder(run.folder, TRIALS, TRAINING, make=True):  # neither is a link
        pass
    training = Training(
        run=run,
        bound=planned.bound,
        candidate=planned.candidate,
        planned=plan(1, None, 1, None),
        pace=_pace(search, wish),
        seed=planned.candidate.seed,
        command=f"evo-tune resume {name}",
    )
    metrics = training.write(part, run.folder / TRIALS / TRAINING, err)
    inside.move(run.folder, (part.name,), (MODEL,))
    inside.remove(run.folder, TRIALS, TRAINING)
    for metric, value in metrics.items():
        if metric in run.manifest.tests.values():
            shared.echo(f"  {metric:<21} {shared.show_value(value)}", err=err)
