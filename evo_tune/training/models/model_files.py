"""Build models without initial weights, write them to a folder and read them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.overrides import TorchFunctionMode

from evo_tune.errors import RecipeError


class _Unfilled(TorchFunctionMode):
    """Skips the functions of `torch.nn.init`."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


@contextmanager
def unfilled() -> Iterator[None]:
    """Leave the weights of modules built inside this context uninitialised, on the CPU.

    The meta device has the same effect, but it imports sympy, and its modules must be moved before they are filled.
    """
    with torch.device("cpu"), _Unfilled():
        yield


M = TypeVar("M", bound=nn.Module)


def write_model(folder: Path | str, model: nn.Module, config: dict[str, Any]) -> None:
    """Write weights and config to a folder, which is created if missing."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def read_model(folder: Path | str, build: Callable[[dict[str, Any]], M]) -> M:
    """Return the model that `write_model` wrote.

    Args:
        folder: Folder to read.
        build: Function that builds a model of the right shape from the config.

    Raises:
        RecipeError: The folder has no such model, or its weights do not fit its config.
    """
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
