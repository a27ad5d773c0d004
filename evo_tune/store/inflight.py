"""The curves of trainings in flight, as their workers tell them: for whoever watches a run, and no part of it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TypeAlias

import msgspec
from msgspec import Struct

from evo_tune.store.run import TRIALS
from evo_tune.store.schema import Finite, Share, Whole
from evo_tune.trust import inside

__all__ = ["Curve", "in_flight"]

LARGEST = 1 << 20
"""Bytes of one at most."""

MOST = 1000
"""Workers that are looked at."""

Curve: TypeAlias = tuple[tuple[Share, dict[str, Finite | None]], ...]
"""Fractions of a full training, and the metrics at each."""


class _Told(Struct):
    trial: Whole
    curve: Curve


def in_flight(folder: Path) -> dict[int, Curve]:
    """Return the curve of each trial of a run that is in flight, as far as it is known, by its id."""
    found: dict[int, Curve] = {}
    try:
        with inside.folder(folder, TRIALS) as at:
            names = sorted(name for name in os.listdir(at) if re.fullmatch(r"\.worker-[0-9]{1,10}\.json", name))
            for name in names[:MOST]:
                try:
                    told = msgspec.json.decode(inside.read(at, name, limit=LARGEST), type=_Told)
                except (OSError, ValueError, msgspec.MsgspecError, RecursionError):
                    continue
                found[told.trial] = told.curve
    except OSError:
        return {}
    return found
