"""Training a model: models, optimizers and the loop on torch; `recipe` has its options and numbers without torch.

The public names are in `public`, which is imported at first use, because `recipe` must not load torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evo_tune.training.public import *  # noqa: F403


def public_name(package: str, name: str) -> Any:
    """Return a public name of `evo_tune.training` or of its recipe.

    Args:
        package: 'evo_tune.training' or 'evo_tune.training.recipe'.
        name: The name.

    Raises:
        AttributeError: There is no such name.
    """
    public = None if name.startswith("_") else import_module(f"{package}.public")
    if not hasattr(public, name):
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    return getattr(public, name)


def __getattr__(name: str) -> Any:
    return public_name(__name__, name)
