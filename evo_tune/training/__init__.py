"""Training a model: models, optimizers and the loop on torch; `recipe` has its options and numbers without torch.

The public names are in `public`, which is imported at first use, because `recipe` must not load torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evo_tune.training.public import *  # noqa: F403


def __getattr__(name: str) -> Any:
    public = None if name.startswith("_") else import_module(f"{__name__}.public")
    if not hasattr(public, name):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(public, name)
