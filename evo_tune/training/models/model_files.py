"""How models are made without first weights, written to a folder and read from it."""

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
    """Skip the functions of `torch.nn.init`."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


@contextmanager
def unfilled() -> Iterator[None]:
    """Leave the weights of modules that are built inside uninitialised, on the CPU.

    The meta device would do the same; it imports sympy, and its modules have to be moved before they are filled.
    """
    with torch.device("cpu"), _Unfilled():
        yield


M = TypeVar("M", bound=nn.Module)


def write_model(folder: Path | str, model: nn.Module, config: dict[str, Any]) -> None:
    """Write weights and config into a folder, which is made if it is not there."""
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
