"""Layers chosen by patterns on their names. No torch here, so that a bad pattern is found before a model is built."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase

from evo_tune.errors import RecipeError

__all__ = ["check_targets", "matching_names"]


def check_targets(targets: object) -> None:
    """Require patterns, at least one.

    Raises:
        RecipeError: It is something else.
    """
    if not isinstance(targets, tuple) or not targets or not all(isinstance(t, str) and t for t in targets):
        raise RecipeError("targets", targets, "a tuple of patterns such as ('attention.qkv', 'ffn.*')")


def matching_names(names: Collection[str], targets: Sequence[str]) -> list[str]:
    """Return those names that a pattern fits, in their order.

    Args:
        names: Of linear layers.
        targets: Each a whole name, its last parts, or either with * and ? in it: 'blocks.0.attention.qkv',
            'attention.qkv', 'qkv', 'blocks.*.ffn.*', '*' for all.

    Raises:
        RecipeError: A pattern fits none; the error lists what there is.
    """
    found: set[str] = set()
    for target in targets:
        hits = {name for name in names if fnmatchcase(name, target) or fnmatchcase(name, f"*.{target}")}
        if not hits:
            raise RecipeError("targets", target, f"a pattern of one of {', '.join(names) or 'no linear layers'}")
        found |= hits
    return [name for name in names if name in found]
