"""The name of `evo_tune.training.recipe` in 1.0.0, for evaluators that import it; removed in 2.0."""

import warnings
from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    if not name.startswith("_"):
        text = "evo_tune.recipe is deprecated since 1.1 and removed in 2.0: use evo_tune.training.recipe"
        warnings.warn(text, FutureWarning, stacklevel=2)
    return getattr(import_module("evo_tune.training.recipe"), name)
