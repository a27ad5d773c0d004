"""Train the small base once, on a part of Python's own documentation, and keep it in the user's cache."""

from __future__ import annotations

import shutil
from importlib.metadata import version
from pathlib import Path

import torch
from filelock import FileLock

from evo_tune.errors import RecipeError, StoreError
from evo_tune.training.data.batches import TrainingWindows
from evo_tune.training.hardware.device import reproducible
from evo_tune.training.models.gpt import GPT
from evo_tune.training.optim.optimizer import AdamW
from evo_tune.training.recipe import tuning as planned
from evo_tune.training.recipe.data.reading import cache_folder
from evo_tune.training.recipe.models.base import BaseModel, read_base
from evo_tune.training.recipe.models.gpt_config import GPTConfig
from evo_tune.training.recipe.optim.schedule import Schedule, WeightDecay
from evo_tune.training.recipe.tuning import TuningOptions
from evo_tune.training.stepping.recipe import Recipe
from evo_tune.training.trainer import Trainer


def prepare_base(options: TuningOptions) -> BaseModel:
    """Return the base of a tuning; train it if necessary."""
    return read_base(options.base or small_base_folder())


def small_base_folder() -> Path:
    """Return the folder of the small base; the first process that needs it trains it while others wait.

    The user's cache has one folder for each recipe, text and version of torch. A damaged folder is rebuilt.

    Raises:
        StoreError: The cache cannot be written.
    """
    cache = cache_folder()
    folder = cache / f"base-{planned.small_base_key()[:16]}-torch-{version('torch')}"
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
        base = read_base(folder)
        return "files" in base.config and base.sha256() == (folder / "sha256").read_text()
    except (OSError, ValueError, RecipeError):
        return False


def _train(folder: Path) -> None:
    with reproducible(1):
        config = GPTConfig.from_json(planned.SMALL["model"])
        source = TrainingWindows(
            torch.frombuffer(bytearray(planned.built_in_text(tuning=False)), dtype=torch.uint8),
            context=config.context,
            batch=planned.SMALL["batch"],
            total=planned.SMALL["windows"],
            seed=planned.SMALL["seed"],
        )
        recipe = Recipe(
            optimizer=AdamW(lr=planned.SMALL["lr"]),
            schedule=Schedule(steps=source.steps),
            weight_decay=WeightDecay(start=planned.SMALL["weight_decay"]),
        )
        model = GPT(config, seed=planned.SMALL["seed"])
        Trainer(model, source, recipe, seed=planned.SMALL["seed"]).run(source.steps)
        model.save(folder, made=planned.SMALL)
    (folder / "sha256").write_text(read_base(folder).sha256())
