"""Genes: the dimensions of a search space, with their mutation and neighbours.

Strategies never see values. They work in *unit coordinates*, one number in [0, 1] per gene, so that one operator suits
both learning rates and head counts. This module knows nothing of spaces, strategies or trials.

A gene may have a prior (see `genome.space`). `when` lists values of other genes for which the gene is active. An
inactive gene is kept at its default, so that genomes never differ only in inactive genes. `widest` limits how far a run
may widen the range by itself (see `genome.widening`).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeAlias

import numpy as np

from evo_tune.errors import SpaceError
from evo_tune.genome import values as plain_values
from evo_tune.genome.values import Value, is_number
from evo_tune.text import one_line

# Condition of a gene: names of other genes, each with its values for which the gene is active.
When: TypeAlias = tuple[tuple[str, tuple[Value, ...]], ...]

# Lowest and highest value to which a run may widen a range by itself; None for an end without a limit of its own.
Limits: TypeAlias = tuple[int | float | None, int | float | None]


# Decimal digits of resolution of a Float over its range: values stay short to read and type, and
# `decode(encode(value))` returns the same number.
DIGITS = 6

# Largest absolute value of a Float's bounds: their difference stays finite, and its inverse a normal number.
LARGEST = 1e300

# Largest number of values of an Int: unit coordinates must separate neighbouring values.
CELLS = 10**12


class Gene(ABC):
    """One dimension of a search space; immutable, and equal to any gene with the same description.

    Every kind has a range, a `default` and optional hints. `prior` is the value believed to be good and `spread` the
    uncertainty of that belief. The spread of a logarithmic gene is a factor, and that of other genes with an order a
    distance. For a Choice without order it is the probability that another value is better. `when` lists the values of
    other genes for which the gene is active. `widest` has the lowest and the highest value to which a run may widen the
    range by itself. With the gene's own ends, it keeps its range.
    """

    kind: ClassVar[str]
    default: Value | None
    prior: Value | None
    spread: float | None
    when: When | None
    widest: Limits | None

    @property
    @abstractmethod
    def size(self) -> float:
        """Number of different values; infinite for a Float."""

    @abstractmethod
    def decode(self, u: float) -> Value:
        """Return the value at unit coordinate `u`; coordinates outside [0, 1] are clipped."""

    @abstractmethod
    def encode(self, value: Value) -> float:
        """Return a unit coordinate in [0, 1] that decodes to `value`."""

    @abstractmethod
    def check(self, value: object) -> Value:
        """Return `value` with the gene's own type and rounding.

        Raises:
            SpaceError: It has the wrong type or is out of range; the message names the allowed values.
        """

    def parse(self, text: str) -> Value:
        """Return the value of a typed text: 8, 3e-4, true, or a word.

        Raises:
            SpaceError: The text is not an allowed value.
        """
        for value in (plain_values.read_value(text), text):
            try:
                return self.check(value)
            except SpaceError as wrong:
                error = wrong
        raise error

    @abstractmethod
    def mutate(self, u: float, rng: np.random.Generator, scale: float) -> float:
        """Return another unit coordinate near `u`.

        Args:
            u: Unit coordinate.
            rng: The only source of randomness.
            scale: Standard deviation of the step, in unit coordinates; ignored for a choice without order.

        Returns:
            A coordinate that decodes to another value, unless the gene has only one.
        """

    @abstractmethod
    def neighbours(self, u: float) -> list[float]:
        """Return the unit coordinates one step away from `u`."""

    def describe(self) -> dict[str, Any]:
        """Return the gene's kind and fields as plain data; `gene_from` rebuilds the gene from them."""
        plain: dict[str, Any] = {"kind": self.kind}
        for name, value in vars(self).items():
            if name[0] != "_" and (value is not None or name not in HINTS):
                plain[name] = list(value) if isinstance(value, tuple) else value
        if self.when is not None:
            plain["when"] = {name: list(values) for name, values in self.when}
        return plain

    def middle(self) -> Value:
        """Return the default, or else the middle of the range (of a choice without order, the first value)."""
        if self.default is not None:
            return self.default
        return self.decode(0.5 if getattr(self, "ordered", True) else 0.0)

    def _check_hints(self) -> None:
        """Check and normalize the hints and the default; a gene without default gets its prior as default.

        Raises:
            SpaceError: The prior is out of range or without spread. Or the default, the spread, the condition or
                `widest` is malformed.
        """
        object.__setattr__(self, "when", parse_when(self.when))
        if self.widest is not None:
            check_widest(self)
        if (self.prior is None) != (self.spread is None):
            raise SpaceError(f"prior={self.prior}, spread={self.spread}: give both, or neither")
        if self.prior is not None:
            least, most, expected = 0.0, math.inf, "a number above 0"
            if getattr(self, "log", False):
                least, expected = 1.0, "a factor above 1, as the gene is logarithmic"
            elif not getattr(self, "ordered", True):
                most, expected = 1.0, "the probability that another value is better, above 0 and below 1"
            if not is_number(self.spread) or not least < self.spread < most:  # type: ignore[operator]
                raise SpaceError(f"spread={self.spread!r} is not allowed: expected {expected}")
            object.__setattr__(self, "spread", float(self.spread))  # type: ignore[arg-type]
        for name in ("prior", "default"):
            if getattr(self, name) is not None:
                try:
                    object.__setattr__(self, name, self.check(getattr(self, name)))
                except SpaceError as error:
                    raise SpaceError(f"{name} {error}") from None
        if self.default is None:
            object.__setattr__(self, "default", self.prior)


@dataclass(frozen=True)
class Float(Gene):
    """A real number in [low, high], on a logarithmic scale if `log`.

    Values are rounded to about a millionth of the range (of the value, if `log`). The rounding is coarser if floating
    point could not reproduce the number. A value that rounds to the same number as a bound becomes that bound.

    Raises:
        SpaceError: The bounds are not finite, not in order or too close together, or `log` is set with a bound at or
            below zero.
    """

    kind: ClassVar[str] = "float"
    low: float
    high: float
    log: bool = False
    default: float | None = None
    prior: float | None = None
    spread: float | None = None
    when: When | None = None
    widest: Limits | None = None
    _digits: int = field(init=False, repr=False, compare=False)  # significant ones if log, else decimal places
    _ends: tuple[float, float] = field(init=False, repr=False, compare=False)  # the bounds, rounded

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            bound = getattr(self, name)
            if not is_number(bound) or not abs(bound) <= LARGEST:
                raise SpaceError(f"Float: {name}={bound!r} is not a number of at most {LARGEST:g}; give low and high")
            object.__setattr__(self, name, float(bound))
        if not self.low < self.high:
            raise SpaceError(f"Float({self.low}, {self.high}): low must be below high")
        if self.log and self.low < 1 / LARGEST:
            raise SpaceError(f"Float({self.low}, {self.high}, log=True): a log gene needs low above 0")
        if self.log:
            # Relative digits, more for a narrow range. exp(log(x)) has a relative error of at most 2e-13.
            digits, exact = DIGITS + max(0, -exponent(math.log(self.high) - math.log(self.low))), 12
        else:
            # low + u * (high - low) has an error of a few units in the 16th digit of the larger bound.
            digits = DIGITS - exponent(self.high - self.low)
            exact = 13 - exponent(max(abs(self.low), abs(self.high)))
        if exact < digits - DIGITS + 2 or self.high - self.low < 1 / LARGEST:
            log = ", log=True" if self.log else ""
            raise SpaceError(f"Float({self.low}, {self.high}{log}): low and high are too close to tell values apart")
        object.__setattr__(self, "_digits", min(digits, exact))
        object.__setattr__(self, "_ends", (self._shorten(self.low), self._shorten(self.high)))
        self._check_hints()

    def times(self, factor: float) -> "Float":
        """Return the gene with its range, its limits and its default multiplied by a factor."""
        default = None if self.default is None else self.default * factor
        widest = None
        if self.widest is not None:
            low, high = (None if limit is None else limit * factor for limit in self.widest)
            widest = (low, high)
        return replace(self, low=self.low * factor, high=self.high * factor, default=default, widest=widest)

    @property
    def size(self) -> float:
        return math.inf

    def _shorten(self, value: float) -> float:
        return float(f"{value:.{self._digits}g}") if self.log else round(value, self._digits)

    def _round(self, value: float) -> float:
        value = self._shorten(value)
        value = self.low if value <= self._ends[0] else self.high if value >= self._ends[1] else value
        return value + 0.0  # no negative zero: it would be another genome

    def decode(self, u: float) -> float:
        if u <= 0.0 or u >= 1.0:  # computed bounds may be rounded to another number
            return (self.low if u <= 0.0 else self.high) + 0.0
        if self.log:
            low = math.log(self.low)
            return self._round(math.exp(low + float(u) * (math.log(self.high) - low)))
        return self._round(self.low + float(u) * (self.high - self.low))

    def encode(self, value: Value) -> float:
        value = float(value)
        if self.log:
            low = math.log(self.low)
            u = (math.log(value) - low) / (math.log(self.high) - low)
        else:
            u = (value - self.low) / (self.high - self.low)
        return 0.0 if u < 0.0 else 1.0 if u > 1.0 else u

    def check(self, value: object) -> float:
        if not is_number(value) or not self.low <= value <= self.high:  # type: ignore[operator]
            raise SpaceError(
                f"{one_line(repr(value), 80)} is not allowed: expected a number from {self.low:g} to {self.high:g}"
            )
        return self._round(float(value))  # type: ignore[arg-type]

    def mutate(self, u: float, rng: np.random.Generator, scale: float) -> float:
        value = self.decode(u)
        while True:
            mutated = reflect(u + rng.normal(0.0, scale))
            if self.decode(mutated) != value:
                return mutated
            scale = max(2.0 * scale, 10.0**-DIGITS)  # the step was too short to change the value

    def neighbours(self, u: float) -> list[float]:
        return [v for v in (u - 0.1, u + 0.1) if 0.0 <= v <= 1.0]


@dataclass(frozen=True)
class Int(Gene):
    """A whole number from low to high in steps of `step`, or on a logarithmic scale if `log`.

    Raises:
        SpaceError: The bounds are not whole, not in order or beyond 64 bits. Or the step does not lead from low to
            high, there are too many values, or `log` is combined with a step or with low below 1.
    """

    kind: ClassVar[str] = "int"
    low: int
    high: int
    log: bool = False
    step: int = 1
    default: int | None = None
    prior: int | None = None
    spread: float | None = None
    when: When | None = None
    widest: Limits | None = None

    def __post_init__(self) -> None:
        for name in ("low", "high", "step"):
            number = getattr(self, name)
            if not plain_values.is_whole(number):
                raise SpaceError(f"Int: {name}={number!r} is not a whole number")
            if int(number) not in plain_values.WHOLE:
                raise SpaceError(f"Int: {name} is {plain_values.too_large_message(number)}; use a Float and round it")
            object.__setattr__(self, name, int(number))
        if not self.low <= self.high:
            raise SpaceError(f"Int({self.low}, {self.high}): low must not be above high")
        if self.step < 1 or (self.high - self.low) % self.step:
            raise SpaceError(f"Int({self.low}, {self.high}, step={self.step}): step must lead from low to high exactly")
        if self.size > CELLS:
            raise SpaceError(f"Int({self.low}, {self.high}): more than {CELLS:g} values; use a Float and round it")
        if self.log and (self.step != 1 or self.low < 1):
            raise SpaceError(
                f"Int({self.low}, {self.high}, log=True): a log gene needs low of at least 1 and no step; "
                "for powers of two use Choice([...], ordered=True)"
            )
        self._check_hints()

    @property
    def size(self) -> int:
        return (self.high - self.low) // self.step + 1

    def _log_bounds(self) -> tuple[float, float]:
        # Half a unit on either side gives the end values their full share of the scale.
        return math.log(self.low - 0.5), math.log(self.high + 0.5)

    def decode(self, u: float) -> int:
        u = min(max(float(u), 0.0), 1.0)
        if not self.log:
            return self.low + self.step * cell(u, self.size)
        low, high = self._log_bounds()
        return min(max(round(math.exp(low + u * (high - low))), self.low), self.high)

    def encode(self, value: Value) -> float:
        if not self.log:
            return centre((int(value) - self.low) // self.step, self.size)
        low, high = self._log_bounds()
        return (math.log(int(value)) - low) / (high - low)

    def check(self, value: object) -> int:
        if plain_values.is_whole(value):
            number = int(value)  # type: ignore[call-overload]
            if self.low <= number <= self.high and (number - self.low) % self.step == 0:
                return int(number)
        steps = f" in steps of {self.step}" if self.step != 1 else ""
        raise SpaceError(
            f"{one_line(repr(value), 80)} is not allowed: expected a whole number from {self.low} to {self.high}{steps}"
        )

    def mutate(self, u: float, rng: np.random.Generator, scale: float) -> float:
        if not self.log:
            return step_cell(u, self.size, rng, scale)
        value = self.decode(u)
        mutated = self.decode(reflect(u + rng.normal(0.0, scale)))
        if mutated == value and self.size > 1:
            mutated += 1 if value == self.low or (value < self.high and rng.random() < 0.5) else -1
        return self.encode(mutated)

    def neighbours(self, u: float) -> list[float]:
        middle = self.decode(u)
        around = (middle - self.step, middle + self.step)
        return [self.encode(value) for value in around if self.low <= value <= self.high]


@dataclass(frozen=True)
class Choice(Gene):
    """One of several plain values; with `ordered` (batch sizes, widths), adjacent values are neighbours.

    Raises:
        SpaceError: There are no values or one is given twice. Or one is not a plain number (64 bits if whole), string
            (writable as UTF-8) or bool.
    """

    kind: ClassVar[str] = "choice"
    values: tuple[Value, ...]
    ordered: bool = False
    default: Value | None = None
    prior: Value | None = None
    spread: float | None = None
    when: When | None = None
    widest: Limits | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.values, list | tuple | range) or not self.values:
            raise SpaceError(f"Choice({self.values!r}): expected a list of one or more values")
        values = tuple(plain_values.to_plain(value) for value in self.values)
        if len({plain_values.genome_key({"": value}) for value in values}) != len(values):
            raise SpaceError(f"Choice({list(values)}): a value is given twice")
        object.__setattr__(self, "values", values)
        self._check_hints()

    @property
    def size(self) -> int:
        return len(self.values)

    def decode(self, u: float) -> Value:
        return self.values[cell(float(u), self.size)]

    def encode(self, value: Value) -> float:
        return centre(self._index(value), self.size)

    def _index(self, value: object) -> int:
        value = value.item() if isinstance(value, np.generic) else value
        for index, mine in enumerate(self.values):
            if type(mine) is type(value) and mine == value:
                return index
        for index, mine in enumerate(self.values):  # 8 means 8.0, but never True
            if is_number(mine) and is_number(value) and mine == value:
                return index
        allowed = ", ".join(str(mine) for mine in self.values)
        raise SpaceError(f"{one_line(repr(value), 80)} is not allowed: expected one of {allowed}")

    def check(self, value: object) -> Value:
        return self.values[self._index(value)]

    def mutate(self, u: float, rng: np.random.Generator, scale: float) -> float:
        if self.ordered or self.size == 1:
            return step_cell(u, self.size, rng, scale)
        step = int(rng.integers(1, self.size))
        return centre((cell(u, self.size) + step) % self.size, self.size)

    def neighbours(self, u: float) -> list[float]:
        index = cell(u, self.size)
        indices = (index - 1, index + 1) if self.ordered else range(self.size)
        return [centre(moved, self.size) for moved in indices if 0 <= moved < self.size and moved != index]


_KINDS: dict[str, type[Gene]] = {kind.kind: kind for kind in (Float, Int, Choice)}


def gene_from(description: Mapping[str, Any]) -> Gene:
    """Build a gene from the result of `Gene.describe`.

    Raises:
        SpaceError: The kind is unknown, or the fields do not fit the kind.
    """
    fields = dict(description)
    kind = fields.pop("kind", None)
    if kind not in _KINDS:
        raise SpaceError(f"a gene of kind {kind!r} is not known: expected one of {', '.join(_KINDS)}")
    try:
        return _KINDS[kind](**fields)
    except TypeError as error:
        raise SpaceError(f"a gene of kind {kind!r} cannot be read from {dict(description)}: {error}") from None


# Steps in unit coordinates.


def reflect(u: float) -> float:
    """Reflect a coordinate outside [0, 1] back into it, so that mutations do not accumulate at the bounds."""
    u = math.fmod(abs(u), 2.0)
    return 2.0 - u if u > 1.0 else u


def exponent(value: float) -> int:
    """Return the decimal exponent of a positive number."""
    return math.floor(math.log10(value))


def cell(u: float, size: int) -> int:
    """Return the index of a coordinate's cell among `size` equal cells, from 0."""
    return min(max(int(u * size), 0), size - 1)


def centre(index: int, size: int) -> float:
    """Return the coordinate in the middle of a cell."""
    return (index + 0.5) / size


def step_cell(u: float, size: int, rng: np.random.Generator, scale: float) -> float:
    """Return the coordinate of another cell of an ordered gene, after a Gaussian step of at least one cell."""
    if size == 1:
        return u
    index = cell(u, size)
    step = max(1, round(abs(rng.normal(0.0, scale)) * size))
    sign = 1 if rng.random() < 0.5 else -1
    new_index = index + sign * step
    if not 0 <= new_index < size:
        new_index = index - sign * step
    new_index = min(max(new_index, 0), size - 1)
    if new_index == index:
        new_index = index + 1 if index == 0 else index - 1
    return centre(new_index, size)


# Hints.


def parse_when(condition: object) -> When | None:
    """Return a condition as genes store it, from a dict of gene names to one value or several.

    Raises:
        SpaceError: `condition` is not a condition.
    """
    if condition is None:
        return None
    try:
        parsed = tuple(
            (str(name), tuple(map(plain_values.to_plain, values if isinstance(values, list | tuple) else (values,))))
            for name, values in dict(condition).items()  # type: ignore[call-overload]
        )
    except (TypeError, ValueError):
        parsed = ()
    if not parsed or not all(values for _, values in parsed):
        raise SpaceError(f"when={condition!r}: expected a dict of a gene's name to a value of it, or several")
    return parsed


HINTS = ("prior", "spread", "when", "widest")


def check_widest(gene: Gene) -> None:
    """Reject a `widest` that is not a pair of numbers (or None) around the gene's range.

    Raises:
        SpaceError: It is not, or the gene has no range of numbers.
    """
    widest, ends = gene.widest, range_ends(gene)
    if ends is None:
        raise SpaceError(f"widest={widest!r}: only a range of numbers can be widened; leave it out")
    pair: Any = widest if isinstance(widest, list | tuple) and len(widest) == 2 else ("", "")
    if not all(limit is None or (is_number(limit) and abs(limit) <= LARGEST) for limit in pair):
        raise SpaceError(f"widest={widest!r}: expected (LOW, HIGH), each a number, or None for no limit of its own")
    low, high = pair
    if (low is not None and low > ends[0]) or (high is not None and high < ends[1]):
        raise SpaceError(f"widest={widest!r}: expected limits around the range from {ends[0]:g} to {ends[1]:g}")
    limits = tuple(None if limit is None else plain_values.to_plain(limit) for limit in pair)
    object.__setattr__(gene, "widest", limits)


def range_ends(gene: Gene) -> tuple[int | float, int | float] | None:
    """Return the lowest and highest value of a gene; None without an order, or if a value is not a number.

    The values of an ordered choice may fall; its first value then is the highest.
    """
    if isinstance(gene, Float | Int):
        return gene.low, gene.high
    if not isinstance(gene, Choice) or not gene.ordered or not all(map(is_number, gene.values)):
        return None
    numbers = [value for value in gene.values if isinstance(value, int | float)]
    return min(numbers), max(numbers)


def decodes_to_any(gene: Gene, values: tuple[Value, ...], units: np.ndarray) -> np.ndarray:
    """Return whether unit coordinates of a gene decode to one of some values, shape (points,)."""
    if isinstance(gene, Choice):  # the usual case, without a loop over points
        cells = np.clip((units * gene.size).astype(int), 0, gene.size - 1)
        return np.asarray(np.isin(cells, [cell(gene.encode(value), gene.size) for value in values]))
    checked = [gene.check(value) for value in values]
    return np.array([gene.decode(u) in checked for u in units.tolist()], dtype=bool)
