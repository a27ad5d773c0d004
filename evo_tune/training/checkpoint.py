"""Checkpoints: one file, written atomically, that cannot run code when it is opened.

A training that runs writes `unfinished.pt` now and then; after a kill, another attempt at the same training continues
from it. The run removes it when it records the result.
"""

import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch

from evo_tune.errors import OptionError, RecipeError
from evo_tune.plugins.context import Context
from evo_tune.training.recipe.data.reading import open_own
from evo_tune.training.recipe.plan import TrainingPlan
from evo_tune.training.training_run import TrainingRun
from evo_tune.trust import safe_files

# Name of the checkpoint file in a training's folder.
CHECKPOINT = "checkpoint.pt"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a state under a temporary name, force it to disk, and rename it into place.

    Args:
        path: File to write; its folder must exist.
        state: Tensors and plain data, nested in dicts and lists.
    """
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    safe_files.sync_folder(path.parent)  # before this the rename is not on disk


def load_checkpoint(path: Path, file: BinaryIO | None = None) -> dict[str, Any]:
    """Read a file written by `save_checkpoint`, onto the CPU.

    Args:
        path: The file.
        file: The same file, if it is open already.

    Raises:
        RecipeError: The file is damaged, or contains more than tensors and plain data.
    """
    try:
        state = torch.load(path if file is None else file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # torch raises several types of error for a foreign file
        raise RecipeError("checkpoint", str(path), f"a file that save_checkpoint wrote ({error})") from error
    if not isinstance(state, dict):
        raise RecipeError("checkpoint", str(path), "a file that save_checkpoint wrote")
    return state


def own_checkpoint(path: Path) -> dict[str, Any]:
    """Return the checkpoint in a training's folder, which may have come from somebody else; empty if there is none.

    A link and a file of another user are not loaded; a line on standard error, a trial's log, says so.

    Raises:
        RecipeError: See `load_checkpoint`.
    """
    file = open_own(path)
    if file is not None:
        with file:
            return load_checkpoint(path, file)
    if os.path.lexists(path):
        print(f"{path} is not loaded: expected a regular file that belongs to you", file=sys.stderr, flush=True)
    return {}


def read_checkpoint_of(folder: Path | None, task: dict[str, Any]) -> dict[str, Any]:
    """Return the checkpoint to continue from; empty if there is none.

    Args:
        folder: Folder of the training to continue; None: start from scratch.
        task: Plain data that identifies the training; it must match the checkpoint's.

    Raises:
        OptionError: The checkpoint belongs to another training.
        RecipeError: The checkpoint is damaged.
    """
    saved = own_checkpoint(folder / CHECKPOINT) if folder else {}
    if saved and saved.get("task") != task:
        raise OptionError(
            f"{folder}/{CHECKPOINT} belongs to {saved.get('task')}: expected {task}; remove it to train from scratch"
        )
    return saved


# Name of the file (see `evo_tune.plugins.context.UNFINISHED`).
UNFINISHED = "unfinished.pt"


class Unfinished:
    """The checkpoint of one training that is not finished.

    Args:
        plan: TrainingPlan of the training.
        run: Its device, seed, budget and folders.
        writes: Whether this process writes checkpoints.
    """

    def __init__(self, plan: TrainingPlan, run: Context, *, writes: bool) -> None:
        self._run = run
        minutes = plan.options.checkpoint_minutes if writes and not run.timing else None
        self._pause = None if minutes is None else 60.0 * minutes
        self._about: dict[str, Any] = {
            "task": plan.identity,
            "options": plan.options.to_json(),
            "seed": run.seed,
            "budget": run.budget,
            "resumes": run.resume_folder is not None,
        }
        # State that an earlier attempt saved; empty if it is missing, damaged, or of another training.
        self.saved: Mapping[str, Any] = {}
        if run.attempted and not run.timing:
            with suppress(RecipeError, OSError):
                saved = own_checkpoint(run.folder / UNFINISHED)
                is_mine = all(saved.get(name) == value for name, value in self._about.items())
                # After the fork the state before the decay must be there too: a longer training continues from it.
                if is_mine and (saved["decay"] is None or (run.folder / CHECKPOINT).is_file()):
                    self.saved = saved

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
        if (pause := self._pause) is None:
            return
        due = time.monotonic() + pause

        def save() -> bool:
            nonlocal due
            if time.monotonic() < due:
                return False
            save_checkpoint(
                self._run.folder / UNFINISHED, {**self._about, **notes, "curve": curve, **training_run.state()}
            )
            due = time.monotonic() + pause
            return True

        training_run.between = save
