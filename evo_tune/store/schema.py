"""Types shared by the manifest, sessions and events on disk, and a reader of JSON within bounds."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any, TypeAlias

from msgspec import Meta

Whole: TypeAlias = Annotated[int, Meta(ge=0, le=2**63 - 1)]
"""An id, a count or a seed."""

Finite: TypeAlias = Annotated[float, Meta(ge=-sys.float_info.max, le=sys.float_info.max)]
"""A finite number."""

Spent: TypeAlias = Annotated[float, Meta(ge=0, le=1e12)]
"""A duration in seconds."""

Share: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
"""A fraction."""

Count: TypeAlias = Annotated[int, Meta(ge=0, le=10**6)]
"""A number of objects to make; bounded because the file may come from a stranger."""

Seeds: TypeAlias = Annotated[int, Meta(ge=1, le=2000)]
"""A number of fresh seeds: at most twice the largest `--final-seeds`."""

DEEPEST = 50
"""Maximum nesting depth of lists and objects."""

DIGITS = 300
"""Maximum number of digits of an integer; a longer one is no finite float."""


def read_json(data: bytes) -> Any:
    """Return the value of JSON text from an untrusted file.

    Raises:
        ValueError: The text is not JSON, is nested too deeply, or contains an integer that is too long.
    """
    try:
        value = json.loads(data.decode("utf-8"), parse_int=_whole)
    except RecursionError:
        raise ValueError(f"it is nested more than {DEEPEST} deep") from None
    level: list[Any] = [value]
    for _ in range(DEEPEST):
        inner = [
            nested.values() if isinstance(nested, dict) else nested
            for nested in level
            if isinstance(nested, dict | list)
        ]
        level = [value for values in inner for value in values]
        if not level:
            return value
    raise ValueError(f"it is nested more than {DEEPEST} deep")


def _whole(digits: str) -> int:
    if len(digits) > DIGITS:
        raise ValueError(f"a whole number in it has {len(digits)} digits")
    return int(digits)
