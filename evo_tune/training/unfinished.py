"""Checkpoints inside a training: after a kill, another attempt at the same training continues from the last one.

The file is in the training's folder while the training runs. The run removes it when it records the result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from evo_tune.errors import RecipeError
from evo_tune.training.checkpoint import CHECKPOINT, own_checkpoint, save_checkpoint
from evo_tune.training.training_run import Plan, Run, TrainingRun

UNFINISHED = "unfinished.pt"
"""Name of the file (see `evo_tune.plugins.context.UNFINISHED`)."""


class Unfinished:
    """The checkpoint of one training that is not finished.

    Args:
        plan: Plan of the training.
        run: Its device, seed, budget and folders.
        writes: Whether this process writes checkpoints.
        clock: Function that returns seconds.
    """

    def __init__(self, plan: Plan, run: Run, *, writes: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._run, self._clock = run, clock
        minutes = plan.options.checkpoint_minutes if writes and not run.timing else None
        self._pause = None if minutes is None else 60.0 * minutes
        self._about: dict[str, Any] = {
            "task": plan.identity,
            "options": plan.options.to_json(),
            "seed": run.seed,
            "budget": run.budget,
            "resumes": run.resume_folder is not None,
        }
        self.saved: Mapping[str, Any] = self._read() if run.attempted and not run.timing else {}
        """State that an earlier attempt saved; empty if there is none."""

    def _read(self) -> Mapping[str, Any]:
        """Return what an earlier attempt saved; empty if it is missing, damaged, or of another training."""
        path = self._run.folder / UNFINISHED
        try:
            saved = own_checkpoint(path)
        except (RecipeError, OSError):
            return {}
        if any(saved.get(name) != value for name, value in self._about.items()):
            return {}
        # After the fork the state before the decay must be there too: a longer training continues from it.
        return saved if saved["decay"] is None or (path.parent / CHECKPOINT).is_file() else {}

    def attend(self, training_run: TrainingRun, **notes: Any) -> None:
        """Report the points of earlier attempts, and write a checkpoint every so many minutes from now on.

        Args:
            training_run: The training run, in the state of `saved`.
            notes: Plain data to save as well.
        """
        curve, report = list(self.saved.get("curve", [])), training_run.report
        for share, point, decayed in curve:
            report(share, point, decayed)

        def noted(share: float, point: Mapping[str, float], decayed: bool) -> None:
            curve.append((share, dict(point), decayed))
            report(share, point, decayed)

        training_run.report = noted
        if self._pause is None:
            return
        pause, due = self._pause, self._clock() + self._pause

        def save() -> bool:
            nonlocal due
            if self._clock() < due:
                return False
            save_checkpoint(
                self._run.folder / UNFINISHED, {**self._about, **notes, "curve": curve, **training_run.state()}
            )
            due = self._clock() + pause
            return True

        training_run.between = save
