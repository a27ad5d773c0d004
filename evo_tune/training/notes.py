"""Notes on a training in the folder of an exported model: genome, options, data, and how it was evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from evo_tune.training.training_run import Plan, Run


def training_notes(plan: Plan, run: Run, precision: str, metrics: Mapping[str, float], **more: Any) -> dict[str, Any]:
    """Return the notes on a training, as plain data for a model's folder.

    Args:
        plan: The evaluator's description of the training.
        run: Device, threads and seed.
        precision: Name of the precision of the evaluation.
        metrics: Metrics of the training.
        more: Notes of this kind of model only.
    """
    evaluated = {"device": torch.device(run.device).type, "threads": run.threads, "precision": precision}
    return {
        "genome": dict(plan.genome),
        "options": plan.options.to_json(),
        "seed": run.seed,
        "metrics": dict(metrics),
        "data": plan.identity["data"],
        "evaluated": evaluated,
        **more,
    }
