"""The budget of a training in time: time some steps, fit their cost, and choose the seconds of a training.

Where no budget is given, all genomes get the same time. It is that of the default genome with the evaluator's own
budget, or a share of `--hours`. Without any option and limit, it is a share of three minutes. A measured cost model
turns the time into steps (`plugins.cost`). It is saved in the manifest, so the same manifest gives the same run on any
machine.
"""

import math
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from evo_tune.dispatch.slot import Slot
from evo_tune.forecast import comparison_seconds
from evo_tune.forecast.timing import MAX_TIMING_SECONDS, TIMING, Timing, time_genomes
from evo_tune.genome.values import Genome
from evo_tune.loop.deadline import SHARE
from evo_tune.loop.driving import handle_interrupts
from evo_tune.loop.slots import open_slots_to_plan
from evo_tune.plugins.context import DETERMINISM, NOT_DETERMINISTIC
from evo_tune.plugins.cost import Cost, TimedGenome, budgets_of
from evo_tune.plugins.evaluator import BoundEvaluator
from evo_tune.settings import SessionSettings
from evo_tune.store.manifest import Manifest
from evo_tune.text import one_line

# Number of full trainings, final comparison included, that fit into `--hours` by the chosen budget.
TRAININGS = 30

# Smallest share of the evaluator's own budget that a limit in time leaves: shorter trainings say little about it.
SHORTEST = 1 / 8

# Seconds of a search without options and limits, such as that of `make run`, on a machine of any speed.
DEFAULT_SEARCH = 180.0

# Maximum share of the hours for timing, apart from the start of workers, and maximum number of its rounds.
TIME_SHARE, ROUNDS = 0.05, 2

# Maximum share of the hours for all planning, the start of workers included: on a busy machine that takes long.
PLANNING_SHARE = 0.3

# Share of a step's time that deterministic algorithms may cost.
MAX_DETERMINISM_COST = 0.05

# Weight of the default genome in the fit of the cost: it is trained in every run, and the best are often like it.
DEFAULT_WEIGHT = 4


def needs_cost(evaluator: BoundEvaluator) -> bool:
    """Return whether the budget of a training is in time, and the cost of a step is still to be measured."""
    options = evaluator.options
    can_measure = TIMING in evaluator.plugin.supports and hasattr(evaluator.plugin.module, "work") and "cost" in options
    if not can_measure or options["cost"] or options.get("ranks", 1) != 1:
        return False
    return set(budgets_of(options)) <= {"seconds"}


def affordable_trainings(slots: int, planning: float, session: SessionSettings, seconds: float) -> float:
    """Return the number of full trainings that a search may do before its final comparison; infinite without a limit.

    Args:
        slots: Number of slots.
        planning: Seconds of the hours that are already spent.
        session: Limits in hours and in full trainings.
        seconds: Seconds of a full training.
    """
    trainings = math.inf if session.budget is None else session.budget
    if session.hours is not None and seconds > 0.0:
        hours = session.hours * 3600
        comparison = min(sum(comparison_seconds(session, seconds, slots)) / 2, SHARE * hours)
        trainings = min(trainings, max(0.0, hours - planning - comparison) * slots / seconds)
    return trainings


@dataclass(frozen=True)
class StepTimings:
    """Timings in the slots of a plan.

    Args:
        rows: What the evaluator measured of each genome, by its index.
        worker: Largest resident memory of a worker in bytes; 0 if unknown.
        slots: Number of slots.
        device: Device of the slots.
    """

    rows: Mapping[int, Mapping[str, float]]
    worker: int
    slots: int
    device: str


def max_timing_seconds(session: SessionSettings) -> float:
    """Return the most seconds that all rounds of timing take, apart from the start of workers."""
    hours = math.inf if session.hours is None else session.hours
    return min(ROUNDS * MAX_TIMING_SECONDS, TIME_SHARE * hours * 3600)


def time_steps(
    genomes: Sequence[Genome],
    evaluator: BoundEvaluator,
    manifest: Manifest,
    session: SessionSettings,
    quick: bool,
    ends_at: float = math.inf,
) -> StepTimings:
    """Time a few steps of some genomes in slots that are closed again.

    Args:
        genomes: Genomes to time; the default first.
        evaluator: Evaluator of the run.
        manifest: Manifest with which the run would begin.
        session: Slots, devices and limits.
        quick: Whether the default is enough if its training is short.
        ends_at: Time at which workers are killed, in seconds of `time.monotonic`; only genomes timed by then count.

    Raises:
        KeyboardInterrupt: Ctrl-C came meanwhile.
    """
    slots: list[Slot] = []
    interrupted = threading.Event()
    folder = Path(tempfile.mkdtemp(prefix="evo-tune-"))

    def stop() -> None:
        interrupted.set()
        for slot in slots:
            slot.kill()

    def watch() -> None:
        if time.monotonic() >= ends_at:
            for slot in slots:
                slot.kill()

    try:
        with handle_interrupts(stop, stop):
            slots += open_slots_to_plan(manifest, session, evaluator, folder / "trials")
            timing = Timing(
                folder=folder / "trials",
                watch=watch,
                stopping=lambda: interrupted.is_set() or time.monotonic() >= ends_at,
                longest=max_timing_seconds(session) / ROUNDS,
                # The cost of a family says little of another's.
                least=1 if quick else max(1, len(evaluator.space.family_defaults())),
                quick=quick,
            )
            rows, worker = time_genomes(slots, genomes, timing)
            device = slots[0].device
    finally:
        for slot in slots:
            slot.close()
        shutil.rmtree(folder, ignore_errors=True)
    if interrupted.is_set():
        raise KeyboardInterrupt("interrupted while a few steps were timed: no run was started")
    return StepTimings(rows, worker, len(slots), device)


def fit_cost(evaluator: BoundEvaluator, genomes: Sequence[Genome], timings: StepTimings) -> Cost | None:
    """Return the cost of a step that explains some timings; None without any.

    Args:
        evaluator: Evaluator that declares the work of a step.
        genomes: Timed genomes.
        timings: Their timings.
    """
    measured = {
        index: TimedGenome(evaluator.work(genomes[index]), row["step"], row["judging"])
        for index, row in timings.rows.items()
        if row.get("step", 0.0) > 0.0
    }
    if not measured:
        return None
    repeated_default = [measured[0]] * (DEFAULT_WEIGHT - 1) if 0 in measured else []
    return Cost.fit([*measured.values(), *repeated_default], timings.device, evaluator.plugin.cpu_costs)


def settle_determinism(evaluator: BoundEvaluator, timings: StepTimings) -> tuple[BoundEvaluator, str]:
    """Return the evaluator with its option `deterministic` fixed by timings on a GPU, and the choice in words.

    Args:
        evaluator: Evaluator whose option is `auto`.
        timings: Timings with the option `auto`; without a measured cost, determinism stays.
    """
    names = {name for row in timings.rows.values() for name in row if name.startswith(NOT_DETERMINISTIC)}
    costs = [row[DETERMINISM] for row in timings.rows.values() if DETERMINISM in row]
    if names:
        operators = ", ".join(sorted(one_line(name.removeprefix(NOT_DETERMINISTIC)) for name in names))
        reason = f"no deterministic algorithm for {operators} on {timings.device}"
    elif costs:
        reason = f"deterministic algorithms add {median(costs):.1%} to the time of a step"
    else:
        reason = "the cost of deterministic algorithms could not be measured"
    deterministic = not names and median(costs or [0.0]) < MAX_DETERMINISM_COST
    words = (
        f"determinism: {'kept' if deterministic else 'off'} (-o deterministic={str(deterministic).lower()}), {reason}"
    )
    return evaluator.with_options(deterministic=deterministic), words


def choose_seconds(
    evaluator: BoundEvaluator,
    default: Genome,
    cost: Cost,
    session: SessionSettings,
    slots: int,
    planning: float,
    trainings: int | None,
) -> tuple[float, str]:
    """Return the seconds of a training, and why, in words.

    Args:
        evaluator: Evaluator with the user's options and its own budget.
        default: The default genome.
        cost: TimedGenome cost of a step.
        session: Limit in hours; None: no limit.
        slots: Number of slots.
        planning: Seconds of the hours that are already spent.
        trainings: Full trainings of a search without options and limits; None for another search.
    """
    timed = evaluator.with_options(cost=cost.text())
    own_seconds = timed.estimate(default)["seconds"]
    if session.hours is not None:
        limit, words, trainings = max(0.0, session.hours * 3600 - planning), "--hours", TRAININGS
    elif trainings is not None:
        limit, words = DEFAULT_SEARCH, f"{DEFAULT_SEARCH / 60:.0f} minutes of search"
    else:
        defaults = evaluator.space.family_defaults()  # a network needs longer than trees
        longest = max([own_seconds, *(timed.estimate(genome)["seconds"] for genome in defaults)])
        genome_words = "the default genome of the slowest family" if defaults else "the default genome"
        return float(f"{longest:.3g}"), f"the time of {genome_words} with the evaluator's own budget"
    seconds = max(limit * slots / trainings, SHORTEST * own_seconds)
    reason = f"so that {limit * slots / seconds:.0f} full trainings fit into {words}"
    own_remarks = evaluator.remarks()
    while seconds > own_seconds:
        if evaluator.with_options(cost=cost.text(), seconds=seconds).remarks() == own_remarks:
            break
        seconds = max(own_seconds, seconds / 1.25)
        reason = "the most for which the evaluator finds its data sufficient"
    return float(f"{seconds:.3g}"), reason
