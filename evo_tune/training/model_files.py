"""A model as a folder: model.safetensors with the weights, config.json with everything else. No code in either."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from evo_tune.errors import RecipeError

__all__ = ["read_model", "write_model"]


def write_model(folder: Path | str, model: nn.Module, config: dict[str, Any]) -> None:
    """Write weights and config into a folder, which is made if it is not there."""
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def read_model(folder: Path | str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return config and weights that `write_model` wrote.

    Raises:
        RecipeError: The folder holds no such model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise RecipeError("folder", str(folder), f"a folder with {name}, as a model's save writes")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return config, load_file(folder / "model.safetensors")
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise RecipeError("folder", str(folder), f"what a model's save wrote ({what})") from error
