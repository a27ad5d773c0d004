"""Checkpoints: one file, written atomically, that cannot run code when it is opened."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, BinaryIO

import torch

from evo_tune.errors import OptionError, RecipeError
from evo_tune.training.recipe.data.reading import open_own

CHECKPOINT = "checkpoint.pt"
"""Name of the checkpoint file in a training's folder."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a state under a temporary name, force it to disk, and rename it into place.

    Args:
        path: File to write; its folder must exist.
        state: Tensors and plain data, nested in dicts and lists.
    """
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        torch.save(_alone(state), file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    if os.name == "posix":  # the rename is on disk only after its folder is synced
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _alone(state: Any) -> Any:
    """Return a state whose tensors do not share storage: torch would write the whole storage of a view."""
    if isinstance(state, dict):
        return {name: _alone(value) for name, value in state.items()}
    if isinstance(state, list):
        return [_alone(value) for value in state]
    if isinstance(state, torch.Tensor) and state.untyped_storage().nbytes() > state.numel() * state.element_size():
        return state.clone(memory_format=torch.contiguous_format)
    return state


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a file written by `save_checkpoint`, onto the CPU.

    Raises:
        RecipeError: The file is damaged, or contains more than tensors and plain data.
    """
    return _loaded(path, path)


def _loaded(path: Path, source: Path | BinaryIO) -> dict[str, Any]:
    try:
        state = torch.load(source, map_location="cpu", weights_only=True)
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
            return _loaded(path, file)
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
