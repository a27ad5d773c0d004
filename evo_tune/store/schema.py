"""Numbers as they may stand on disk: the types that the manifest, sessions and events have in common."""

from __future__ import annotations

import sys
from typing import Annotated, TypeAlias

from msgspec import Meta

__all__ = ["Finite", "Share", "Whole"]

Whole: TypeAlias = Annotated[int, Meta(ge=0, le=2**63 - 1)]
"""An id, a count or a seed."""

Finite: TypeAlias = Annotated[float, Meta(ge=-sys.float_info.max, le=sys.float_info.max)]
"""A number; one that is not finite is in no range."""

Share: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
"""A part of a whole."""
