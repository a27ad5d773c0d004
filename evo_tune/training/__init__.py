"""Training a model: models, optimizers and the loop on torch; `recipe` has its options and numbers without torch.

The public names are in `public`, which is imported at first use, because `recipe` must not load torch.
"""

from __future__ import annotations

import warnings
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evo_tune.training.public import *  # noqa: F403


@cache
def _renamed(package: str) -> dict[str, str]:
    """Return the present names of a package ('training' or 'recipe') by their names in 1.0.0."""
    lines = Path(__file__).with_name("renamed.txt").read_text(encoding="utf-8").splitlines()
    rows = [line.split() for line in lines if not line.startswith("#")]
    return {old: new for part, old, new in rows if part == package}


def public_name(package: str, name: str) -> Any:
    """Return a public name of `evo_tune.training` or of its recipe; one of 1.0.0 that was renamed gives a warning.

    Args:
        package: 'evo_tune.training' or 'evo_tune.training.recipe'.
        name: The name.

    Raises:
        AttributeError: There is no such name.
    """
    public = None if name.startswith("_") else import_module(f"{package}.public")
    if public is not None and not hasattr(public, name):
        new = _renamed(package.rpartition(".")[2]).get(name)
        if new is not None:
            text = f"{package}.{name} is deprecated since 1.1 and removed in 2.0: use {new}"
            warnings.warn(text, FutureWarning, stacklevel=3)
            return getattr(public, new)
    if not hasattr(public, name):
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    return getattr(public, name)


def __getattr__(name: str) -> Any:
    return public_name(__name__, name)
