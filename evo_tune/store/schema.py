"""What may stand on disk: the types that the manifest, sessions and events have in common, and JSON within bounds."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any, TypeAlias

from msgspec import Meta

__all__ = ["Count", "Finite", "Share", "Spent", "Whole", "read_json"]

Whole: TypeAlias = Annotated[int, Meta(ge=0, le=2**63 - 1)]
"""An id, a count or a seed."""

Finite: TypeAlias = Annotated[float, Meta(ge=-sys.float_info.max, le=sys.float_info.max)]
"""A number; one that is not finite is in no range."""

Spent: TypeAlias = Annotated[float, Meta(ge=0, le=1e12)]
"""Seconds of work."""

Share: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
"""A part of a whole."""

Count: TypeAlias = Annotated[int, Meta(ge=0, le=10**6)]
"""A number of things that are made one by one: no stranger's file can have us make more."""

DEEPEST = 50
"""Lists and objects within each other."""

DIGITS = 300
"""Of a whole number: what is longer is no finite float."""


def read_json(data: bytes) -> Any:
    """Return what JSON of any origin holds.

    Raises:
        ValueError: It is none, nested too deeply, or a whole number in it is too long.
    """
    try:
        value = json.loads(data.decode("utf-8"), parse_int=_whole)
    except RecursionError:
        raise ValueError(f"it is nested more than {DEEPEST} deep") from None
    level: list[Any] = [value]
    for _ in range(DEEPEST):
        inner = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)]
        level = [value for values in inner for value in values]
        if not level:
            return value
    raise ValueError(f"it is nested more than {DEEPEST} deep")


def _whole(digits: str) -> int:
    if len(digits) > DIGITS:
        raise ValueError(f"a whole number in it has {len(digits)} digits")
    return int(digits)
