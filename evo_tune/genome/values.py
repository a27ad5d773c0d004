"""Plain values of genomes, and statistics of plain numbers: means, steps, ranks and importance.

A genome is a plain dict of gene name to value. Values are compared, checked, and read from typed text. This module
knows nothing of genes, which define the allowed values, nor of trials.
"""

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from evo_tune.errors import EvoTuneError, SpaceError
from evo_tune.text import is_encodable

Value: TypeAlias = bool | int | float | str
Genome: TypeAlias = dict[str, Value]
# Values of metrics by name; None is a value that is not finite.
Metrics: TypeAlias = dict[str, float | None]

# Whole numbers that a Parquet column can store: signed, 64 bits.
WHOLE = range(-(2**63), 2**63)


# Encoder, created once: `json.dumps` creates one in each call with options.
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


def genome_key(genome: Mapping[str, Value]) -> str:
    """Return the identity of a genome: canonical JSON, so 1, 1.0 and true are three different values."""
    return _CANONICAL.encode(genome)


def is_same(genome: Mapping[str, Any], second: Mapping[str, Value]) -> bool:
    """Return whether two genomes are the same in type and value: 5.0 is not 5, and true is not 1."""
    if genome.keys() == second.keys() and all(map(_is_plainly_same, genome.values(), map(second.get, genome))):
        return True
    try:
        return genome_key(genome) == genome_key(second)
    except (TypeError, ValueError, RecursionError):  # not plain data, so not a genome
        return False


def _is_plainly_same(value: Any, second: Any) -> bool:
    """Return whether two values are surely the same; False leaves the decision to JSON, which is ten times slower.

    Zeros are left to JSON, because 0.0 and -0.0 differ there.
    """
    kind = type(value)
    return kind is type(second) and value == second and (kind is int or kind is str or (kind is float and value != 0.0))


def mean_of(values: Sequence[float] | Sequence[Sequence[float]]) -> np.ndarray:
    """Return the means over the first axis (≥ 1 row), finite for all finite numbers, however large."""
    with np.errstate(over="ignore", invalid="ignore"):
        means = np.asarray(np.mean(values, axis=0))
        if not np.isfinite(means).all() and np.isfinite(values).all():  # only the sum overflows
            _, power = np.frexp(np.abs(values).max())
            means = np.asarray(np.ldexp(np.mean(np.ldexp(values, -power), axis=0), power))
    return means


# Share of the range of some values that counts as rounding: a metric may be computed in float32.
FINEST = 1e-5


def common_step(values: Sequence[float], rounding: float = 0.0) -> float:
    """Return the step of which all differences of some values are multiples, by Euclid's algorithm.

    An accuracy over 50 samples has a step of 0.02. Values without a common step have one near their rounding. The step
    of equal values is 0.

    Args:
        values: At least one finite number.
        rounding: Largest difference that counts as none, besides `FINEST`.
    """
    low, step = min(values), 0.0
    tolerance = max(rounding, FINEST * (max(values) - low))
    for value in set(values):
        remainder = value - low
        while remainder > tolerance:
            step, remainder = remainder, abs(math.remainder(step, remainder))
    return step


def importance(units: np.ndarray, losses: np.ndarray, unordered: bool = False) -> float:
    """Return the adjusted coefficient of determination of a one-way analysis of variance.

    The points form up to four groups by quartile of the coordinate, or one group for each unordered value. The
    variance of the losses' ranks between groups is divided by the total. Ranks are used because losses have long tails.

    Args:
        units: One coordinate of each point, shape (points,).
        losses: Loss of each point, shape (points,).
        unordered: Whether the coordinate's values have no order, so that quartiles would mean nothing.

    Returns:
        A share from 0 (explains nothing) to 1 (explains all).
    """
    places, groups = ranks(losses), np.unique(units)
    if unordered or len(groups) <= 4:
        groups = np.searchsorted(groups, units)
    else:
        groups = np.searchsorted(np.quantile(units, [0.25, 0.5, 0.75]), units)
    names, counts = np.unique(groups, return_counts=True)
    if len(names) < 2 or len(names) == len(places) or np.ptp(places) == 0:
        return 0.0
    means = np.array([places[groups == name].mean() for name in names])
    total = float(((places - places.mean()) ** 2).sum())
    within = total - float((counts * (means - places.mean()) ** 2).sum())
    adjusted = 1.0 - (within / (len(places) - len(names))) / (total / (len(places) - 1))
    return max(0.0, adjusted)


def ranks(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the ranks of values from 1, shape (values,); equal values get their mean rank."""
    _, places, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[places])


def rank_correlation(first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray) -> float:
    """Return Spearman's rank correlation of two series of equal length; 0 if either has no spread."""
    x, y = ranks(first), ranks(second)
    spread = float(np.std(x) * np.std(y))
    return float(np.mean((x - x.mean()) * (y - y.mean()))) / spread if spread else 0.0


def read_value(text: str) -> Value:
    """Return a typed text as a bool, int or float, or else as it is."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


@contextlib.contextmanager
def space_error_prefix(text: str) -> Iterator[None]:
    """Put a text and a colon before the message of an error of the block, and raise it as a SpaceError.

    Raises:
        SpaceError: The block raised an EvoTuneError.
    """
    try:
        yield
    except EvoTuneError as error:
        raise SpaceError(f"{text}: {error}") from None


def is_number(value: object) -> bool:
    """Return whether a value is a number; a bool is none."""
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def is_whole(value: Any) -> bool:
    """Return whether a value is a whole number, of any numeric type."""
    # An int of any size, or a float without a fraction; int() of an infinite float would raise.
    if isinstance(value, float | np.floating):
        return math.isfinite(value) and value == int(value)
    return is_number(value)


def too_large_message(number: Any) -> str:
    """Return the text of an error for a whole number that 64 bits cannot hold."""
    bits = int(number).bit_length()  # the number itself may be too long to print
    return f"a whole number of {bits} bits: expected one from -2**63 to 2**63 - 1"


def to_plain(value: object) -> Value:
    """Return a value as plain Python; numpy's scalars are converted."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and math.isfinite(value):
        return value + 0.0  # no negative zero: it equals zero but is written differently
    if type(value) is int and value not in WHOLE:
        raise SpaceError(f"Choice: a value is {too_large_message(value)}; give a float, or a name and look it up")
    if type(value) is str and not is_encodable(value):
        raise SpaceError(f"Choice: {value!r} cannot be written as UTF-8; give another name and look it up")
    if type(value) in (bool, int, str):  # an enum's member would have another type when read from a file
        return value  # type: ignore[return-value]
    raise SpaceError(f"Choice: {value!r} is not a plain number, string or bool; give a name and look it up")
