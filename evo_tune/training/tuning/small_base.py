"""The small base: what is tuned where no other is given, trained once on a part of Python's own documentation.

It is kept in the user's cache; the other part of the text is what it is tuned to. torch is imported inside functions
only: the key of the cache and the text are asked for by the parent process.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from functools import lru_cache
from pathlib import Path
from typing import Any

from evo_tune.errors import RecipeError, StoreError
from evo_tune.training.data.text import python_paragraphs, read_text, split_text
from evo_tune.training.tuning.base import Base, read_base

__all__ = ["built_in_text", "planned_small_base", "read_tuning_text", "small_base", "small_base_key"]

SMALL: dict[str, Any] = {
    "version": 1,
    "model": {"vocab_size": 256, "context": 128, "depth": 2, "width": 64, "heads": 4, "init": "fan_in"},
    "windows": 5000,
    "batch": 4,
    "lr": 4e-3,
    "weight_decay": 0.1,
    "seed": 0,
}
"""How the small base is trained: always on one thread of a CPU, so that every slot has the same."""

SUBJECTS = ("bltin", "dict", "format", "sequence", "string", "types")
"""First letters of the topics of the built-in text that the small base is tuned to; it is trained on the others."""


@lru_cache
def built_in_text(*, tuning: bool) -> bytes:
    """Return one of the two parts of the text that Python brings along: to tune the small base to, or to make it of."""
    paragraphs = python_paragraphs(first=SUBJECTS)
    return "\n\n".join(text for text, topic in paragraphs.items() if topic.startswith(SUBJECTS) == tuning).encode()


def read_tuning_text(data: str, context: int) -> tuple[bytes, bytes, bytes]:
    """Return the text to train on, the validation text and the test text.

    Args:
        data: File, folder or glob; empty: the part of Python's own documentation that the small base never saw.
        context: Tokens in a window, taken for bytes.

    Raises:
        OptionError: It is too short.
        RecipeError: It is missing or unreadable.
    """
    return split_text(read_text(data) if data else built_in_text(tuning=True), context, data)


def planned_small_base() -> Base:
    """Return what the small base will be, which need not have been trained yet."""
    return Base(Path(), {"model": SMALL["model"]}, {})


def small_base_key() -> str:
    """Return the SHA-256 of how the small base is made, and of what."""
    digest = hashlib.sha256(json.dumps(SMALL, sort_keys=True).encode())
    digest.update(built_in_text(tuning=False))
    return digest.hexdigest()


def small_base() -> Path:
    """Return the folder of the small base; whoever needs it first trains it, the others wait.

    One folder of the user's cache for each recipe, text and version of torch. What is damaged is made anew.

    Raises:
        StoreError: The cache cannot be written.
    """
    from importlib.metadata import version

    from filelock import FileLock

    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "evo-tune"
    folder = cache / f"base-{small_base_key()[:16]}-torch-{version('torch')}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not _is_sound(folder):
                partial = folder.with_name(f"{folder.name}.partial")
                for rest in (partial, folder):
                    shutil.rmtree(rest, ignore_errors=True)
                _train(partial)
                partial.replace(folder)
    except OSError as error:
        raise StoreError(
            f"cannot write {folder}: {error.strerror}; give -o base=FOLDER, or set XDG_CACHE_HOME"
        ) from error
    return folder


def _is_sound(folder: Path) -> bool:
    try:
        return read_base(folder).sha256() == (folder / "sha256").read_text()
    except (OSError, ValueError, RecipeError):
        return False


def _train(folder: Path) -> None:
    import torch

    from evo_tune.training import (
        GPT,
        AdamW,
        GPTConfig,
        Recipe,
        Schedule,
        Trainer,
        TrainingWindows,
        WeightDecay,
        reproducible,
    )

    with reproducible(1):
        config = GPTConfig.from_json(SMALL["model"])
        source = TrainingWindows(
            torch.frombuffer(bytearray(built_in_text(tuning=False)), dtype=torch.uint8),
            context=config.context,
            batch=SMALL["batch"],
            total=SMALL["windows"],
            seed=SMALL["seed"],
        )
        recipe = Recipe(
            optimizer=AdamW(lr=SMALL["lr"]),
            schedule=Schedule(steps=source.steps),
            weight_decay=WeightDecay(start=SMALL["weight_decay"]),
        )
        model = GPT(config, seed=SMALL["seed"])
        Trainer(model, source, recipe, seed=SMALL["seed"]).run(source.steps)
        model.save(folder, made=SMALL)
    (folder / "sha256").write_text(read_base(folder).sha256())
