"""Fine-tuning by a few new weights, whatever the method: LoRA, DoRA or adapters; put in, counted, saved, read.

On disk an adapter is adapter.safetensors with the trained weights and adapter.json with the method and its
options. Nothing in them can run code.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from evo_tune.errors import RecipeError
from evo_tune.training.tuning.houlsby import Adapters, add_adapters
from evo_tune.training.tuning.lora import LoRA, add_lora

__all__ = ["add_adapter", "load_adapter", "save_adapter", "trained_weights"]


def add_adapter(model: nn.Module, options: LoRA | Adapters, seed: int = 0) -> list[str]:
    """Freeze a model and give it what is to be trained, in place; see `add_lora` and `add_adapters`."""
    return add_lora(model, options, seed) if isinstance(options, LoRA) else add_adapters(model, options, seed)


def trained_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the weights that are not frozen, by name, on the CPU."""
    return {name: p.detach().cpu().contiguous() for name, p in model.named_parameters() if p.requires_grad}


def save_adapter(model: nn.Module, options: LoRA | Adapters, folder: Path | str, **notes: Any) -> None:
    """Write the trained weights and how they were put in; `load_adapter` reads them.

    Args:
        model: With the adapter.
        options: What it was added with.
        folder: Where; made if it is not there.
        notes: Plain data to keep in adapter.json.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(trained_weights(model), folder / "adapter.safetensors")
    about = {"method": type(options).__name__, "options": asdict(options), **notes}
    (folder / "adapter.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def load_adapter(model: nn.Module, folder: Path | str) -> LoRA | Adapters:
    """Put a saved adapter into the model that it was trained for, in place, and return its options.

    Raises:
        RecipeError: The folder holds no adapter, or one for a model of another shape.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    try:
        about = json.loads((folder / "adapter.json").read_text(encoding="utf-8"))
        weights = load_file(folder / "adapter.safetensors")
        kind = {"LoRA": LoRA, "Adapters": Adapters}[about["method"]]
        options: LoRA | Adapters = kind(**{**about["options"], "targets": tuple(about["options"]["targets"])})
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        what = f"a folder with adapter.json and adapter.safetensors, as save_adapter writes ({error})"
        raise RecipeError("adapter", str(folder), what) from error
    add_adapter(model, options)
    own = {name: p for name, p in model.named_parameters() if p.requires_grad}
    shapes = ({name: p.shape for name, p in those.items()} for those in (own, weights))
    wrong = sorted({name for name, _ in set.symmetric_difference(*(set(those.items()) for those in shapes))})
    if wrong:
        raise RecipeError("adapter", str(folder), f"one for this model; these differ: {', '.join(wrong)}")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(weights[name])
    return options
