"""What `--format json` and `--format jsonl` print, as types: docs/json.md is made of them, and tests hold output to it.

No command imports this: it says what is promised, and makes nothing. The text under a field says what it is; 'Unit: s.'
at its end, in which unit.
"""

from __future__ import annotations

from typing import Any

from evo_tune.cli.formats import events, runs, scaling, things, trainings

__all__ = ["EVENTS", "OUTPUTS"]

OUTPUTS: dict[str, Any] = {
    "run": runs.Closing,
    "run --dry-run": runs.Planned,
    "resume": runs.Closing,
    "list": list[runs.Listed],
    "status": runs.Status,
    "show": runs.Shown,
    "watch": runs.Watched,
    "best": runs.Best | list[runs.Best],
    "report": runs.Reported,
    "convert": runs.Converted,
    "verify": runs.Verified,
    "evaluators": list[things.Evaluator] | things.Declared,
    "strategies": list[things.Strategy],
    "new": things.Written,
    "evaluate": trainings.Evaluated,
    "export": trainings.Exported,
    "scale": scaling.Scaled,
    "coordinates": scaling.Coordinates,
    "schedule": list[things.Step],
    "devices": things.Devices,
    "completion": things.Script,
}
"""What each command prints with `--format json`."""

EVENTS: Any = events.Begin | events.Born | events.Result | events.NewBest | events.Fresh | events.Stopping | events.End
"""What `run` and `resume` print with `--format jsonl`, one a line."""
