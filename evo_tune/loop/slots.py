"""Slots of a run, on this machine or on a cluster, and the share of a GPU's memory for each training.

The module knows the user's settings and earlier measurements, and nothing of the loop that uses the slots.
"""

import shutil
import uuid
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evo_tune.dispatch import open_slots
from evo_tune.dispatch.clusters.remote import Cluster
from evo_tune.dispatch.devices import AUTO, CPU, Plan, plan
from evo_tune.dispatch.log import remove_stale_files
from evo_tune.dispatch.packing import MemoryForecast
from evo_tune.dispatch.slot import Slot, Task
from evo_tune.forecast.clock import MIN_RESULTS
from evo_tune.forecast.timing import Pace, Timing, genomes_to_time, pace_of, time_genomes
from evo_tune.genome.space import SearchSpace
from evo_tune.plugins.evaluator import BoundEvaluator
from evo_tune.settings import SessionSettings
from evo_tune.store.manifest import Manifest
from evo_tune.store.run import TRIALS, Run


def plan_slots(session: SessionSettings, threads: int | None, options: Mapping[str, Any]) -> Plan:
    """Return the plan for the slots of this machine; with a cluster, only the threads per slot matter.

    Args:
        session: Slots and devices that the user asks for.
        threads: CPU threads of one training; None for the default.
        options: Bound options of the evaluator; one may be the number of processes per training.

    Raises:
        OptionError: See `devices.plan`.
    """
    if session.backend != "joblib":
        return plan(None, "cpu", 1, threads)
    return plan(session.slots, session.devices, session.per_device, threads, _ranks(options))


def open_run_slots(run: Run, session: SessionSettings, evaluator: BoundEvaluator, space: SearchSpace) -> list[Slot]:
    """Open and return the slots of a run; if that fails, remove the run if it is new.

    Args:
        run: Run to open slots for.
        session: Slots and devices that the user asks for.
        evaluator: Evaluator that the slots run.
        space: Space of the run.

    Raises:
        OptionError: There are no such slots.
    """
    try:
        manifest = run.manifest
        cluster = _cluster(session, manifest, name_on_cluster(run))
        slot_plan, memory = plan_slots(session, manifest.threads, manifest.options), None
        if session.per_device == AUTO and slot_plan.slots[0] != CPU and _ranks(manifest.options) == 1:
            memory = _memory_forecast(run, evaluator, space, slot_plan)
            if memory is None:
                slot_plan = plan_slots(session.with_changes(per_device=1), manifest.threads, manifest.options)
        trials = run.folder / TRIALS
        task = Task.of(evaluator, run.objectives, trials, manifest.threads, fingerprint=run.fingerprint)
        remove_stale_files(str(trials))  # this process has the run's lock, so these files belong to dead processes
        slots = open_slots(task, slot_plan, session.timeout, session.retries, cluster, memory)
    except BaseException:
        if len(run.sessions) == 1 and not run.candidates:
            run.close()
            shutil.rmtree(run.folder, ignore_errors=True)
        raise
    order, lag = manifest.settings.order, manifest.settings.lag
    if order == "proposal" and len(slots) > lag + 1:
        text = f"in proposal order with --lag {lag}, at most {lag + 1} slots work at the same time"
        warnings.warn(f"{text}: {len(slots)} slots will wait for each other", stacklevel=2)
    return slots


def time_few_steps(
    run: Run, space: SearchSpace, slots: Sequence[Slot], watch: Callable[[], None], stopping: Callable[[], bool]
) -> Pace | None:
    """Return the time of a training by a few timed steps; None if enough trainings have ended, or none can be timed.

    Args:
        run: Run whose evaluator supports timing.
        space: Space of the run.
        slots: Open slots.
        watch: Function that is called about five times a second.
        stopping: Returns whether to stop.
    """
    if len(run.outcomes) >= MIN_RESULTS:
        return None
    timing = Timing(folder=run.folder / TRIALS, watch=watch, stopping=stopping)
    return pace_of(*time_genomes(slots, genomes_to_time(space), timing))


def open_slots_to_plan(
    manifest: Manifest, session: SessionSettings, evaluator: BoundEvaluator, folder: Path
) -> list[Slot]:
    """Open and return the slots of a run that has not begun, each with its own share of a GPU or its own core.

    Args:
        manifest: Manifest of the run.
        session: Settings of its first session.
        evaluator: Evaluator that the slots run.
        folder: Folder for the trials' folders.

    Raises:
        OptionError: There are no such slots.
    """
    if session.per_device == AUTO:
        session = session.with_changes(per_device=1)
    planned = plan_slots(session, manifest.threads, manifest.options)
    task = Task.of(evaluator, manifest.objective_list(), folder, manifest.threads)
    return open_slots(task, planned, session.timeout, 0, _cluster(session, manifest, uuid.uuid4().hex))


def name_on_cluster(run: Run) -> str:
    """Return the name of a run on a cluster: equal in all sessions, and unique even among runs of the same path."""
    return uuid.uuid5(uuid.NAMESPACE_OID, run.manifest.identity).hex


def _cluster(session: SessionSettings, manifest: Manifest, identity: str) -> Cluster | None:
    if session.backend == "joblib":
        return None
    where = (session.backend, session.address, session.max_slots or session.slots, session.devices)
    return Cluster(*where, int(session.per_device), _ranks(manifest.options), identity, session.scheduler_file)


def _ranks(options: Mapping[str, Any]) -> int:
    """Return the number of processes of one training, from the evaluator's option `ranks`."""
    ranks = options.get("ranks", 1)
    return ranks if isinstance(ranks, int) and ranks > 1 else 1


def _memory_forecast(run: Run, evaluator: BoundEvaluator, space: SearchSpace, slot_plan: Plan) -> MemoryForecast | None:
    """Return the forecast of a genome's GPU memory from all measurements; None if memory cannot be shared."""
    lacking = ""
    forecast = MemoryForecast(evaluator.estimate)
    if not slot_plan.memory:
        lacking = "nvidia-smi does not report the memory of each GPU"
    elif forecast.bytes_needed(space.default()) is None:
        lacking = f"{evaluator.plugin.name} predicts no gpu_memory (docs/evaluators.md)"
    if lacking:
        only = "so each GPU runs one training at a time; --per-device K runs K"
        warnings.warn(f"--per-device {AUTO}: {lacking}, {only}", stacklevel=4)
        return None
    for trial in run.trials():
        if "cuda" in (trial.outcome.device or ""):
            forecast.learn(trial.genome, trial.outcome.metrics)
    return forecast
