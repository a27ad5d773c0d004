"""The plan of a run before it begins: what its trainings take, the cost of a step, and the budget of a training.

Some steps of a few genomes are timed in slots that are opened for the plan and closed again. No run begins and no file
is left. Where no budget is given, all genomes get the same time: that of the default genome with the evaluator's own
budget, a share of `--hours`, or, without any option and limit, a share of three minutes. A measured cost model turns
the time into steps (`plugins.cost`). It is saved in the manifest, so the same manifest gives the same run on
any machine.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evo_tune.dispatch import Slot
from evo_tune.errors import EvoTuneError, UsageError
from evo_tune.forecast import comparison_seconds
from evo_tune.forecast.timing import (
    ESTIMATED_SECONDS,
    MAX_TIMING_SECONDS,
    TIMING,
    Pace,
    Timing,
    genomes_to_time,
    pace_of,
    time_genomes,
)
from evo_tune.genome.values import Genome
from evo_tune.loop.begin import Request, prepared
from evo_tune.loop.deadline import SHARE
from evo_tune.loop.driving import Interrupts
from evo_tune.loop.limits import GENERATIONS
from evo_tune.loop.opening import plan_for, slots_for
from evo_tune.options.declare import AUTO
from evo_tune.plugins.cost import Cost, TimedGenome, budgets_of
from evo_tune.plugins.evaluator import BoundEvaluator, Evaluator
from evo_tune.rules.fidelity import rungs_that_pay
from evo_tune.settings import RunSettings, SessionSettings
from evo_tune.store.manifest import Manifest, space_of

TRAININGS = 30
"""Number of full trainings, final comparison included, that fit into `--hours` by the chosen budget."""

SHORTEST = 1 / 8
"""Smallest share of the evaluator's own budget that a limit in time leaves: shorter trainings say little about it."""

SHOWN = 180.0
"""Seconds of a search without options and limits, such as that of `make run`, on a machine of any speed."""

TIME_SHARE = 0.025
"""Maximum share of the hours for a round of timing, apart from the start of workers. There are at most two rounds."""

PRICED = 14
"""Number of random genomes to time for the cost of a step, in addition to the default and the middle of the space."""

DEFAULT_COUNTS = 4
"""Weight of the default genome in the fit of the cost."""


@dataclass(frozen=True)
class RunPlan:
    """The plan of a run.

    Args:
        evaluator: Evaluator of the run, with its options.
        manifest: Manifest with which it would begin.
        slots: Number of slots.
        device: Device of its slots.
        pace: Times of its trainings; None if they were not timed.
        told: The chosen budget in words; '' if none was chosen.
        seconds: Duration of the planning.
    """

    evaluator: BoundEvaluator
    manifest: Manifest
    slots: int
    device: str
    pace: Pace | None
    told: str = ""
    seconds: float = 0.0


def plan_run(
    plugin: Evaluator,
    request: Request,
    settings: RunSettings,
    session: SessionSettings,
    store: Path,
    forecast: bool = False,
) -> RunPlan:
    """Plan a run. Nothing is written.

    Args:
        plugin: Evaluator of the run.
        request: The user's request.
        settings: Settings of the run.
        session: Settings of its first session.
        store: Folder of the saved runs.
        forecast: Whether to time steps even if the budget does not need it.

    Raises:
        UsageError: Something given is wrong.
        KeyboardInterrupt: Ctrl-C came while steps were timed.
    """
    began = time.monotonic()
    asked, free = plugin.bind(request.options), not request.options and not session.limited
    if priced := needs_cost(asked):
        # A time is no number of steps before the cost is known, so steps are timed with the evaluator's own budget.
        request = replace(request, options={**request.options, "seconds": None})
    manifest = prepared(plugin, request, settings, session, store)
    bound = plugin.bind(manifest.options)
    open_rungs = settings.fidelity == AUTO and "budget" in plugin.supports and session.hours is not None
    if TIMING not in plugin.supports or not (forecast or priced or open_rungs):
        planned = plan_for(session, manifest.threads, manifest.options)
        plan = RunPlan(bound, manifest, len(planned.slots), planned.slots[0].name, None)
        return with_rungs(plan, request, settings, session, store)
    if priced:
        seconds = asked.options["seconds"]
        return _priced(plugin, request, manifest, seconds, free, settings, session, store, began)
    found = _time(genomes_to_time(space_of(manifest, bound.space)), bound, manifest, session, quick=True)
    pace = pace_of(found.rows, found.worker)
    plan = RunPlan(bound, manifest, found.slots, found.device, pace, "", time.monotonic() - began)
    return with_rungs(plan, request, settings, session, store)


def _priced(
    plugin: Evaluator,
    request: Request,
    manifest: Manifest,
    seconds: float | None,
    free: bool,
    settings: RunSettings,
    session: SessionSettings,
    store: Path,
    began: float,
) -> RunPlan:
    """Return the plan of a run with a budget in time: measure the cost of a step, and choose the time.

    Args:
        plugin: Evaluator of the run.
        request: The user's request, without a budget.
        manifest: Manifest of this request.
        seconds: The user's budget in time; None: it is chosen.
        free: Whether the user gave neither options nor limits.
        settings: Settings of the run.
        session: Settings of its first session.
        store: Folder of the saved runs.
        began: When the planning began, by `time.monotonic`.

    Raises:
        UsageError: No step could be timed, but the budget needs it.
    """
    pace, told = None, ""
    bound = plain = plugin.bind(manifest.options)
    for first in (True, False):
        space = space_of(manifest, bound.space)
        # The corners are left out: the slowest genome of a space may take more time than all others.
        genomes = genomes_to_time(space, PRICED, corners=False)
        found = _time(genomes, bound, manifest, session, quick=False)
        timed, cost = pace_of(found.rows, found.worker, ()), _cost(bound, genomes, found)
        if cost is None or timed is None:  # in the second round, the cost of the first one stays
            if first and seconds is not None:
                raise UsageError(f"-o seconds={seconds:g}: no training step could be timed; give another budget")
            break
        options: dict[str, Any] = {"cost": cost.text()}
        if first:
            room = None
            if session.hours is not None:
                left = max(0.0, session.hours * 3600 - (time.monotonic() - began))
                room = _Room(left * found.slots, TRAININGS, "--hours")
            elif free:
                trainings = GENERATIONS * manifest.population
                room = _Room(SHOWN * found.slots, trainings, f"{SHOWN / 60:.0f} minutes of search")
            options, told = _budget(plain, manifest, cost, seconds, room)
        request = replace(request, options={**request.options, **options})
        manifest = prepared(plugin, request, settings, session, store)
        bound = plugin.bind(manifest.options)
        usual = space_of(manifest, bound.space).default()
        taken = bound.estimate(usual)["seconds"]
        pace = replace(timed, seconds=(taken,), judging=min(timed.judging, taken))
        if usual == space.default():
            break
        # Else the budget has changed the size that suits it, and so the space: the cost is measured there once more.
    plan = RunPlan(bound, manifest, found.slots, found.device, pace, told, time.monotonic() - began)
    return with_rungs(plan, request, settings, session, store)


def with_rungs(
    plan: RunPlan, request: Request, settings: RunSettings, session: SessionSettings, store: Path
) -> RunPlan:
    """Return the plan with the rungs that pay, where the settings leave them open (`--fidelity auto`).

    Rungs change options that follow from them, such as the schedule, so the manifest is prepared again. They are
    chosen for one objective and without earlier runs only: for these they were shown to pay.

    Args:
        plan: Plan with full trainings.
        request: The user's request, with the chosen budget.
        settings: Settings of the run.
        session: Settings of its first session.
        store: Folder of the saved runs.
    """
    if settings.fidelity != AUTO or len(plan.manifest.objectives) > 1 or plan.manifest.learned:
        return plan
    plugin, seconds = plan.evaluator.plugin, _seconds(plan)
    trainings = affordable(plan.slots, plan.seconds, session, seconds)
    rungs = rungs_that_pay(trainings, seconds)
    if rungs == "1" or "budget" not in plugin.supports or session.births(plan.manifest.population) <= trainings:
        return plan
    try:
        manifest = prepared(plugin, request, replace(settings, fidelity=rungs), session, store)
    except EvoTuneError:  # an option or the strategy does not go with rungs
        return plan
    fit = "" if session.hours is None else f" into {session.hours:g} hours"
    told = f"rungs {rungs.replace(',', ', ')}: {trainings:.0f} full trainings of {seconds:.3g} s fit{fit}"
    return replace(
        plan,
        evaluator=plugin.bind(manifest.options),
        manifest=manifest,
        told="\n".join(filter(None, [plan.told, told])),
    )


def _seconds(plan: RunPlan) -> float:
    """Return the seconds of a full training, timed or as the evaluator predicts them; 0 if nothing is known."""
    if plan.pace is not None:
        return plan.pace.mean_seconds
    usual = space_of(plan.manifest, plan.evaluator.space).default()
    return plan.evaluator.estimate(usual).get(ESTIMATED_SECONDS, 0.0)


def affordable(slots: int, planning: float, session: SessionSettings, seconds: float) -> float:
    """Return the number of full trainings that a search may do before its final comparison; infinite without a limit.

    Args:
        slots: Number of slots.
        planning: Seconds of the hours that are already spent.
        session: Limits in hours and in full trainings.
        seconds: Seconds of a full training.
    """
    found = math.inf if session.budget is None else session.budget
    if session.hours is not None and seconds > 0.0:
        hours = session.hours * 3600
        comparison = min(sum(comparison_seconds(session, seconds, slots)) / 2, SHARE * hours)
        found = min(found, max(0.0, hours - planning - comparison) * slots / seconds)
    return found


def needs_cost(evaluator: BoundEvaluator) -> bool:
    """Return whether the budget of a training is in time, and the cost of a step is still to be measured."""
    options = evaluator.options
    able = TIMING in evaluator.plugin.supports and evaluator.declares_work and "cost" in options
    if not able or options["cost"] or options.get("ranks", 1) != 1:
        return False
    return set(budgets_of(options)) <= {"seconds"}


@dataclass(frozen=True)
class _Timed:
    """Timings in the slots of a plan, with the number and the device of the slots."""

    rows: Mapping[int, Mapping[str, float]]
    worker: int
    slots: int
    device: str


def _time(
    genomes: Sequence[Genome], evaluator: BoundEvaluator, manifest: Manifest, session: SessionSettings, quick: bool
) -> _Timed:
    slots: list[Slot] = []
    stopped = threading.Event()
    folder = Path(tempfile.mkdtemp(prefix="evo-tune-"))

    def stop() -> None:
        stopped.set()
        for slot in slots:
            slot.kill()

    try:
        with Interrupts(stop, stop):
            slots += slots_for(manifest, session, evaluator, folder / "trials")
            timing = Timing(
                folder=folder / "trials",
                stopping=stopped.is_set,
                longest=MAX_TIMING_SECONDS
                if session.hours is None
                else min(MAX_TIMING_SECONDS, TIME_SHARE * session.hours * 3600),
                quick=quick,
            )
            rows, worker = time_genomes(slots, genomes, timing)
            device = slots[0].device
    finally:
        for slot in slots:
            slot.close()
        shutil.rmtree(folder, ignore_errors=True)
    if stopped.is_set():
        raise KeyboardInterrupt("interrupted while a few steps were timed: no run was started")
    return _Timed(rows, worker, len(slots), device)


def _cost(evaluator: BoundEvaluator, genomes: Sequence[Genome], found: _Timed) -> Cost | None:
    """Return the cost of a step by some timings; None without any."""
    rows = {at: row for at, row in found.rows.items() if row.get("step", 0.0) > 0.0}
    if not rows:
        return None
    timed = {at: TimedGenome(evaluator.work(genomes[at]), row["step"], row["judging"]) for at, row in rows.items()}
    # The default counts several times: it is trained in every run, and the best genomes are often like it.
    default = [timed[0]] * (DEFAULT_COUNTS - 1) if 0 in timed else []
    return Cost.fit([*timed.values(), *default], found.device, evaluator.plugin.cpu_costs)


@dataclass(frozen=True)
class _Room:
    """Time for trainings.

    Args:
        seconds: Slot seconds.
        trainings: Number of trainings that fit.
        where: The time in words.
    """

    seconds: float
    trainings: int
    where: str


def _budget(
    bound: BoundEvaluator, manifest: Manifest, cost: Cost, given: float | None, room: _Room | None
) -> tuple[dict[str, Any], str]:
    """Return the options for the measured cost and the budget in seconds, and the choice in words.

    Args:
        bound: Evaluator with the user's options, without a budget.
        manifest: Manifest of the run.
        cost: Cost of a step.
        given: Budget in seconds that the user gave.
        room: Time for all trainings; None: no limit.
    """
    chosen = {"cost": cost.text()}
    priced = {**bound.options, **chosen}
    if given is not None:
        return {**chosen, "seconds": given}, ""
    plugin, usual = bound.plugin, space_of(manifest, bound.space).default()
    seconds = own = plugin.bind(priced).estimate(usual)["seconds"]
    why = "the time of the default genome with the evaluator's own budget"
    if room is not None:
        seconds = max(room.seconds / room.trainings, SHORTEST * own)
        why = f"so that {room.seconds / seconds:.0f} full trainings fit into {room.where}"
        while seconds > own and plugin.bind({**priced, "seconds": seconds}).remarks() != bound.remarks():
            seconds, why = max(own, seconds / 1.25), "the most for which the evaluator finds its data sufficient"
    seconds = float(f"{seconds:.3g}")
    return {**chosen, "seconds": seconds}, f"budget: {seconds:g} s a training (-o seconds={seconds:g}), {why}"
