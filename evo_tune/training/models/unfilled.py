"""Build modules without filling their weights: the caller fills them, and no randomness is used up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

__all__ = ["unfilled"]


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
