"""Skip tests whose optional packages are not installed, with a reason that names the extra to install."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

EXTRAS = {
    "boosting": ("lightgbm",),
    "bpe": ("tokenizers",),
    "cma": ("cmaes",),
    "dask": ("distributed", "dask"),
    "docs": ("sphinx", "myst_parser", "furo"),
    "hf": ("transformers", "accelerate"),
    "hydra": ("hydra", "omegaconf"),
    "hyperopt": ("hyperopt",),
    "images": ("PIL", "torchvision"),
    "lightning": ("lightning",),
    "mcp": ("mcp",),
    "optuna": ("optuna",),
    "plots": ("matplotlib",),
    "ray": ("ray", "pydantic", "requests"),
    "series": ("statsmodels",),
    "sklearn": ("sklearn",),
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
    "web": ("starlette", "uvicorn"),
    "yaml": ("yaml",),
}
"""Extras of pyproject.toml and the modules that each of them installs."""


def need(extra: str) -> None:
    """Skip the calling test or module if an extra is not installed.

    Args:
        extra: Name of the extra, one of EXTRAS.
    """
    if missing(extra):
        pytest.skip(reason(extra), allow_module_level=True)


def missing(extra: str) -> bool:
    """Return whether a module of an extra is not installed."""
    return any(find_spec(module) is None for module in EXTRAS[extra])


def reason(extra: str) -> str:
    """Return the text of a skip: which extra is missing, and how to install it."""
    return f"the extra {extra} is not installed: pip install 'evo-tune[{extra}]'"


def extra_missed_by(error: BaseException) -> str | None:
    """Return the extra whose absence explains an error; None if every extra that the error is about is installed.

    Args:
        error: An import error, or an error of evo-tune that tells the user which extra to install.
    """
    for cause in _causes(error):
        module = (getattr(cause, "name", None) or "").partition(".")[0] if isinstance(cause, ImportError) else ""
        named = re.search(r"evo-tune\[(\w+)\]", str(cause))
        for extra, modules in EXTRAS.items():
            if (module in modules or (named and named[1] == extra)) and missing(extra):
                return extra
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
