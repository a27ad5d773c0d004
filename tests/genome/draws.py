"""Genes of every kind, drawn by hypothesis."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import assume
from hypothesis import strategies as st

from evo_tune.errors import SpaceError
from evo_tune.genome.genes import Choice, Float, Gene, Int

UNIT = st.floats(0.0, 1.0)
SEED = st.integers(0, 2**32 - 1)


@st.composite
def floats(draw: st.DrawFn) -> Float:
    """Floats of every size of range, those too narrow for floating point left out."""
    log = draw(st.booleans())
    if log:
        exponents = st.floats(-300, 299)
        low = 10.0 ** draw(exponents)
        high = min(1e300, low * draw(st.floats(1 + 1e-9, 1e6))) if draw(st.booleans()) else 10.0 ** draw(exponents)
    else:
        bounds = st.one_of(st.floats(-1e300, 1e300), st.floats(-1000, 1000), st.sampled_from([0.0, -0.0, 1e-300]))
        low, high = draw(bounds), draw(bounds)
    assume(low < high)
    try:
        return Float(low, high, log=log)
    except SpaceError as error:
        assume("too close" not in str(error))
        raise


@st.composite
def ints(draw: st.DrawFn) -> Int:
    log = draw(st.booleans())
    low = draw(st.integers(1, 10**6) if log else st.integers(-(10**18), 10**18))
    step = 1 if log else draw(st.integers(1, 1000))
    steps = draw(st.one_of(st.integers(0, 20), st.integers(0, 10**12 - 1)))
    return Int(low, low + step * steps, log=log, step=step)


def plain_values() -> st.SearchStrategy[Any]:
    numbers = st.floats(allow_nan=False, allow_infinity=False)
    return st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), numbers, st.text(max_size=5))


@st.composite
def choices(draw: st.DrawFn) -> Choice:
    values = draw(
        st.lists(plain_values(), min_size=1, max_size=8, unique_by=lambda v: json.dumps(v + 0.0 if v == 0 else v))
    )
    try:
        return Choice(tuple(values), ordered=draw(st.booleans()))
    except SpaceError:  # two zeros
        assume(False)
        raise


def genes() -> st.SearchStrategy[Gene]:
    return st.one_of(floats(), ints(), choices())


def same(left: object, right: object) -> bool:
    """Equal and of one type: 1 is not True, and 0.0 is not -0.0."""
    return type(left) is type(right) and json.dumps(left) == json.dumps(right)
