"""Torch without its compiler: nothing here is compiled, so a worker need not wait until the compiler is imported.

Torch imports `torch._dynamo`, which takes as long again as all the rest of it, when the first optimizer is made and
steps, only to ask it to stay out. Knows nothing of models and recipes.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

__all__ = ["spare_compiler", "step", "unfilled"]

COMPILER = "torch._dynamo"

KEPT = "__dynamo_disable"
"""Attribute of a function that the compiler is to stay out of: torch keeps there what is to be called in its place."""


@functools.cache
def spare_compiler() -> None:
    """Have optimizers be made in this process without importing torch's compiler.

    Once somebody has imported it, because they compile, torch does as it always does. A torch that keeps its compiler
    out in another way is left alone, and imports it.
    """
    for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
        outer = getattr(torch.optim.Optimizer, name)
        function = getattr(outer, "__wrapped__", None)
        if function is not None and not hasattr(function, KEPT):
            setattr(function, KEPT, _unless_compiling(outer, function))


def _unless_compiling(outer: Any, function: Any) -> Callable[..., Any]:
    """Return what calls a function as it is; through torch's wrapper of it, once the compiler is there."""

    def call(*args: Any, **kwargs: Any) -> Any:
        if COMPILER not in sys.modules:
            return function(*args, **kwargs)
        if getattr(function, KEPT, None) is call:
            delattr(function, KEPT)  # torch puts its own there now
        return outer(*args, **kwargs)

    return call


@torch.no_grad()
def step(optimizer: torch.optim.Optimizer) -> None:
    """Have an optimizer step as `optimizer.step()` does, without what torch has laid around it, hooks too."""
    if COMPILER in sys.modules:
        optimizer.step()
    else:
        inspect.unwrap(type(optimizer).step)(optimizer)


class _Unfilled(TorchFunctionMode):
    """Leaves out what a module's constructor fills its weights with."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


@contextmanager
def unfilled() -> Iterator[None]:
    """Make modules on the CPU whose weights hold anything, to be filled by the caller; no randomness is used up.

    (On the meta device, which is made for this, torch imports its compiler and sympy.)
    """
    with torch.device("cpu"), _Unfilled():
        yield
