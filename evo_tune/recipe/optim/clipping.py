"""Clipping of the gradient, as an option."""

from __future__ import annotations

from dataclasses import dataclass

from evo_tune.options.bounds import check_number
from evo_tune.options.declare import Options, option

__all__ = ["Clipping", "check_clip"]


@dataclass(frozen=True, kw_only=True)
class Clipping(Options):
    """Clipping of the gradient."""

    clip: float | None = option(1.0, bounds="(0, inf)", help="Largest norm of the gradient; none: no limit")


def check_clip(limit: float | None) -> None:
    """Require a limit above zero, or None.

    Raises:
        RecipeError: It is something else.
    """
    if limit is not None:
        if limit == float("inf"):
            return
        check_number("clip", limit, "(0, inf)")
