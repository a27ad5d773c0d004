"""Training a model: models, optimizers and the loop on torch; `recipe` has its options and numbers without torch.

The public names are in `public`, which is imported at first use, because `recipe` must not load torch.
"""

import warnings
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evo_tune.training.public import *  # noqa: F403


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
        lines = Path(__file__).with_name("renamed.txt").read_text(encoding="utf-8").splitlines()
        rows = (line.split() for line in lines if not line.startswith("#"))
        for part, old_name, new_name in rows:
            if (part, old_name) == (package.rpartition(".")[2], name):
                text = f"{package}.{name} is deprecated since 1.1 and removed in 2.0: use {new_name}"
                warnings.warn(text, FutureWarning, stacklevel=3)
                return getattr(public, new_name)
    if not hasattr(public, name):
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    return getattr(public, name)


def __getattr__(name: str) -> Any:
    return public_name(__name__, name)
