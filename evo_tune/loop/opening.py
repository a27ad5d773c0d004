"""Which slots a run gets: those of this machine, or of a cluster, and what of a GPU's memory each training takes.

Knows what was asked for and what was measured before, and nothing of the loop that the slots will work for.
"""

from __future__ import annotations

import platform
import shutil
import uuid
import warnings
from collections.abc import Mapping
from typing import Any

from evo_tune.dispatch import AUTO, CPU, Cluster, Forecast, Plan, Slot, Task, open_slots, plan, sweep
from evo_tune.genome.space import SearchSpace
from evo_tune.plugins.evaluator import Evaluator
from evo_tune.store.run import TRIALS, Run
from evo_tune.store.session import Session

__all__ = ["open_for", "plan_for"]


def plan_for(session: Session, threads: int | None, options: Mapping[str, Any]) -> Plan:
    """Return the slots of this machine; where a cluster runs already, only the threads of each matter.

    Args:
        session: Says which.
        threads: CPU threads of one training; None for the default.
        options: The evaluator's, bound: one of them may be the number of processes of a training.

    Raises:
        OptionError: See `dispatch.plan`.
    """
    if session.address is not None:
        return plan(None, "cpu", 1, threads)
    return plan(session.slots, session.devices, session.per_device, threads, _ranks(options))


def open_for(run: Run, session: Session, evaluator: Evaluator, space: SearchSpace) -> list[Slot]:
    """Return the slots of a run, opened; where that fails, a run that was made a moment ago is taken away again.

    Args:
        run: It.
        session: Says which.
        evaluator: What the slots are to evaluate.
        space: The run's.

    Raises:
        OptionError: There are no such slots.
    """
    try:
        return _opened(run, session, evaluator, space)
    except BaseException:
        if len(run.sessions) == 1 and not run.candidates:
            run.close()
            shutil.rmtree(run.folder, ignore_errors=True)
        raise


def _opened(run: Run, session: Session, evaluator: Evaluator, space: SearchSpace) -> list[Slot]:
    manifest = run.manifest
    cluster, ranks = None, _ranks(manifest.options)
    if session.backend != "joblib":
        many = session.max_slots or session.slots
        where = (session.backend, session.address, many, session.devices)
        cluster = Cluster(*where, int(session.per_device), ranks, _identity(run))
    planned, forecast = plan_for(session, manifest.threads, manifest.options), None
    if session.per_device == AUTO and planned.slots[0] != CPU and ranks == 1:
        forecast = _forecast(run, evaluator, space, planned)
        if forecast is None:
            planned = plan_for(session.but(per_device=1), manifest.threads, manifest.options)
    task = _task(run, evaluator)
    sweep(task.trials_folder)  # the run's lock is ours: what lies there is of the dead
    slots = open_slots(task, planned, session.timeout, session.retries, cluster, forecast)
    if manifest.order == "birth" and len(slots) > manifest.lag + 1:
        text = f"in birth order with --lag {manifest.lag}, at most {manifest.lag + 1} slots are ever at work"
        warnings.warn(f"{text}: {len(slots)} slots will wait for each other", stacklevel=3)
    return slots


def _identity(run: Run) -> str:
    """Return what names a run on a cluster: the same in every session, and no other run's, of the same path either."""
    own = run.manifest.identity or f"{platform.node()} {run.folder.resolve()} {run.manifest.created}"
    return uuid.uuid5(uuid.NAMESPACE_OID, own).hex


def _ranks(options: Mapping[str, Any]) -> int:
    """Return how many processes one training has, by the evaluator's option of that name."""
    ranks = options.get("ranks", 1)
    return ranks if isinstance(ranks, int) and ranks > 1 else 1


def _forecast(run: Run, evaluator: Evaluator, space: SearchSpace, planned: Plan) -> Forecast | None:
    """Return what a genome takes of a GPU, by all that was measured so far; None where memory cannot be shared."""
    options, lacking = run.manifest.options, ""
    forecast = Forecast(lambda genome: evaluator.estimate(genome, options))
    if not planned.memory:
        lacking = "nvidia-smi does not tell what memory each GPU has"
    elif forecast.needed(space.default()) is None:
        lacking = f"{evaluator.name} predicts no gpu_memory (docs/evaluators.md)"
    if lacking:
        only = "so each GPU has one training at a time; --per-device K gives it K"
        warnings.warn(f"--per-device {AUTO}: {lacking}, {only}", stacklevel=5)
        return None
    for trial in run.trials():
        if "cuda" in (trial.outcome.device or ""):
            forecast.learn(trial.genome, trial.outcome.metrics)
    return forecast


def _task(run: Run, evaluator: Evaluator) -> Task:
    manifest, folder = run.manifest, run.folder / TRIALS
    inherit = manifest.inherit > 0.0
    return Task.of(
        evaluator, manifest.options, run.objectives, folder, manifest.threads, inherit, fingerprint=run.fingerprint
    )
