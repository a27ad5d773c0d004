"""Plans before a run begins: its forecast (`--dry-run`) and the length of its trainings (`--hours` alone).

A few steps are timed in slots that are opened for the plan and closed again. No run begins and no file is left.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evo_tune.cli import _shared as shared
from evo_tune.errors import UsageError

if TYPE_CHECKING:
    from evo_tune.dispatch import Slot
    from evo_tune.forecast.timing import Pace
    from evo_tune.loop.begin import Request
    from evo_tune.plugins.evaluator import BoundEvaluator
    from evo_tune.settings import RunSettings, SessionSettings
    from evo_tune.store.manifest import Manifest

FEWEST, MOST = 120, 600
"""Numbers of trainings, final comparison included, between which the evaluator's own budget fits the given time."""

SHORTER, LONGER = 144, 300
"""Numbers of trainings that a changed budget aims at if there would be fewer, or more."""

LEAST, LARGEST = 1 / 8, 4.0
"""Limits of the factor on the evaluator's own budget. Much shorter trainings say little about full ones; in much longer
ones most small models overfit their text."""

TIME_SHARE = 0.02
"""Maximum share of the hours for timing steps, apart from the start of workers."""

BUDGETS = ("flops", "tokens", "epochs", "seconds")
"""Options that set the length of a training."""


@dataclass(frozen=True)
class Planned:
    """The plan of a run.

    Args:
        evaluator: Evaluator of the run, with its options.
        manifest: What it would begin with.
        session: Its limits.
        slots: How many.
        device: Of its slots.
        pace: What its trainings take; None where that cannot be timed.
        options: Of the evaluator, that the plan adds to those that were given.
        told: What was planned, in words; '' for nothing.
        seconds: That planning took.
    """

    evaluator: BoundEvaluator
    manifest: Manifest
    session: SessionSettings
    slots: int
    device: str
    pace: Pace | None
    options: dict[str, Any] = field(default_factory=dict)
    told: str = ""
    seconds: float = 0.0


def hours_alone(session: SessionSettings) -> bool:
    """Return whether hours are the only limit of a session."""
    return session.hours is not None and not replace(session, hours=None).limited


def plan(evaluator: str, request: Request, settings: RunSettings, session: SessionSettings, store: Path) -> Planned:
    """Plan a run. Nothing is written.

    Args:
        evaluator: Name, path or reference of the evaluator.
        request: What the run searches.
        settings: Settings of the run.
        session: Settings of its first session. Where hours are the only limit, the training budget is planned as well.
        store: Folder of the saved runs.

    Raises:
        UsageError: Something given is wrong, or Ctrl-C came.
    """
    from evo_tune.forecast.timing import TIMING
    from evo_tune.loop.begin import prepared
    from evo_tune.loop.opening import plan_for
    from evo_tune.plugins.find import find_evaluator

    began = time.monotonic()
    # Not `named_evaluator`, which would note that the file is trusted: nothing is written here.
    plugin = find_evaluator(evaluator, request.genes, request.options)
    manifest = prepared(plugin, request, settings, session, store)
    bound = plugin.bind(manifest.options)
    if TIMING in plugin.supports:
        slots, device, pace = _timed(bound, manifest, session)
    else:
        planned, pace = plan_for(session, manifest.threads, manifest.options).slots, None
        slots, device = len(planned), planned[0].name
    found = Planned(bound, manifest, session, slots, device, pace, seconds=time.monotonic() - began)
    if pace is not None and hours_alone(session):
        found = _suited(found, pace, store, request)
    return found


def _timed(evaluator: BoundEvaluator, manifest: Manifest, session: SessionSettings) -> tuple[int, str, Pace | None]:
    import shutil
    import tempfile
    import threading

    from evo_tune.forecast.timing import LONGEST, time_trainings
    from evo_tune.loop.driving import Interrupts
    from evo_tune.loop.opening import slots_for
    from evo_tune.store.manifest import space_of

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
            space = space_of(manifest, evaluator.space)
            longest = LONGEST if session.hours is None else min(LONGEST, TIME_SHARE * session.hours * 3600)
            pace = time_trainings(slots, space, folder / "trials", stopping=stopped.is_set, longest=longest)
            device = slots[0].device
    finally:
        for slot in slots:
            slot.close()
        shutil.rmtree(folder, ignore_errors=True)
    if stopped.is_set():
        raise UsageError("interrupted while a few steps were timed: nothing was begun")
    return len(slots), device, pace


def _suited(found: Planned, pace: Pace, store: Path, request: Request) -> Planned:
    """Return the plan with a training budget by which a suitable number of trainings fits into the hours."""
    from evo_tune.loop.begin import prepared

    hours = found.session.hours or 0.0
    room = max(0.0, hours * 3600 - found.seconds) * found.slots
    count = room / pace.usual
    factor = 1.0
    if count < FEWEST:
        factor = max(LEAST, _factor(pace, room / SHORTER))
    elif count > MOST:
        factor = min(LARGEST, _factor(pace, room / LONGER))
    options = _longer(found, factor) if abs(factor - 1.0) > 0.1 else {}
    if options:
        flops = options["flops"]
        told = f"planned for {hours:g} h: -o flops={flops:g}, {factor:.2g} times the evaluator's own budget"
        longer = replace(request, options={**request.options, **options})
        manifest = prepared(found.evaluator.plugin, longer, found.manifest.settings, found.session, store)
        return replace(
            found,
            evaluator=found.evaluator.plugin.bind(manifest.options),
            manifest=manifest,
            pace=pace.longer(factor),
            options={name: str(value) for name, value in options.items()},
            told=told,
        )
    return found


def _factor(pace: Pace, each: float) -> float:
    """Return the factor on the length of a training by which it takes the given time, in seconds."""
    return (each - pace.judging) / max(1e-9, pace.usual - pace.judging)


def _longer(found: Planned, factor: float) -> dict[str, Any]:
    """Return options for a budget so many times the evaluator's own; none where the user gave one, or it has none.

    A size that follows from the budget's absence is fixed as it was, so that the space stays the same; and no training
    becomes longer than the evaluator finds sensible for the data (its `remarks`).
    """
    evaluator, options = found.evaluator, found.manifest.options
    if "flops" not in options or any(options.get(name) is not None for name in BUDGETS):
        return {}
    space = evaluator.space
    own = evaluator.estimate(space.default()).get("flops", 0.0)
    budget = float(f"{own * factor:.2g}")
    sizes = evaluator.plugin.options["size"].choices if "size" in options else ()
    for fixed in ({}, *({"size": size} for size in sizes)):
        changed: dict[str, Any] = {**fixed, "flops": budget}
        bound = evaluator.plugin.bind({**options, **changed})
        if own and bound.space.describe() == space.describe():
            worse = factor > 1.0 and bound.remarks() != evaluator.remarks()
            return {} if worse else changed
    return {}


def print_plan(found: Planned, price: float | None, form: str) -> None:
    """Print the forecast of a run.

    Args:
        found: It.
        price: Of an hour; None tells no cost.
        form: 'table', 'json' or 'jsonl'.
    """
    from evo_tune.forecast.ahead import as_rows
    from evo_tune.loop.opening import forecast

    ahead = forecast(found.manifest, found.session, found.slots, found.pace)
    name = found.evaluator.plugin.name
    if form != "table":
        from evo_tune.cli.output import PlannedRun

        shared.print_json(
            PlannedRun(
                evaluator=name,
                slots=found.slots,
                device=found.device,
                options=found.manifest.options,
                seconds_timed=None if found.pace is None else found.pace.seconds,
                forecast=ahead and ahead.priced(price),
            )
        )
        return
    shared.print_remarks(found.evaluator)
    shared.echo(f"plan: {name} on {found.slots} x {found.device}; nothing is begun, and nothing written")
    if found.told:
        shared.echo(found.told)
    if found.pace is None:
        plugin = found.evaluator.plugin
        own = plugin.origin == "file"
        mend = f"put 'timing' into SUPPORTS of {plugin.path} (docs/evaluators.md), or begin; " if own else ""
        shared.echo(f"how long its trainings take is not known: {mend}there is a forecast after three trainings")
    else:
        times = found.pace.seconds
        shared.echo(f"a full training, by ten timed steps: {times[0]:.3g} s with the default genome")
        if len(times := (*times, *found.pace.corners)) > 1:
            bounds = f"{min(times):.3g} to {max(times):.3g} s"
            shared.echo(
                f"of {len(times)} genomes {bounds}; what a search comes to train, about {found.pace.usual:.3g} s"
            )
    if ahead is not None:
        for row, text in as_rows(ahead.priced(price)).items():
            shared.echo(f"  {row:<12} {text}")
