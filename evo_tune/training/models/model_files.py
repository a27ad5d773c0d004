"""A model as a folder: model.safetensors with the weights, config.json with everything else. No code in either."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from evo_tune.errors import RecipeError

__all__ = ["read_model", "write_model"]

M = TypeVar("M", bound=nn.Module)


def write_model(folder: Path | str, model: nn.Module, config: dict[str, Any]) -> None:
    """Write weights and config into a folder, which is made if it is not there."""
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def read_model(folder: Path | str, build: Callable[[dict[str, Any]], M]) -> M:
    """Return the model that `write_model` wrote.

    Args:
        folder: Where it is.
        build: Makes a model of the right shape from the config.

    Raises:
        RecipeError: The folder holds no such model, or weights of another shape than its config says.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise RecipeError("folder", str(folder), f"a folder with {name}, as a model's save writes")
    try:
        model = build(json.loads((folder / "config.json").read_text(encoding="utf-8")))
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise RecipeError("folder", str(folder), f"what a model's save wrote ({what})") from error
    return model
