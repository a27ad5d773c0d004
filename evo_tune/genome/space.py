"""Genes and the search space: what a genome may hold.

A genome is a plain dict of gene name to value. Strategies never see values: they work in *unit
coordinates*, one number in [0, 1] per gene, so one operator serves learning rates and head counts
alike. This module knows nothing of strategies, trials or torch.
"""

from __future__ import annotations

import inspect
import itertools
import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

import numpy as np

from evo_tune.errors import SpaceError

__all__ = [
    "Choice",
    "Float",
    "Gene",
    "Genome",
    "Int",
    "SearchSpace",
    "Value",
    "genome_key",
    "is_writable",
    "parse_gene",
]

Value: TypeAlias = bool | int | float | str
Genome: TypeAlias = dict[str, Value]

DIGITS = 6
"""Decimal digits to which a Float is resolved over its range: values stay short to read and to type, and
`decode(encode(value))` gives the very same number back."""

LARGEST = 1e300
"""Bound of a Float's bounds: their difference is finite too, and its inverse is a normal number."""

CELLS = 10**12
"""Bound of the number of values of an Int: a unit coordinate must tell each from the next."""

WHOLE = range(-(2**63), 2**63)
"""Whole numbers that a Parquet column holds: signed, of 64 bits."""


def genome_key(genome: Mapping[str, Value]) -> str:
    """Return the identity of a genome: canonical JSON, so 1, 1.0 and true are three different values."""
    return json.dumps(genome, sort_keys=True, separators=(",", ":"))


def read_value(text: str) -> Value:
    """Return a typed text as a bool, a whole number, a number, or itself."""
    words = {"true": True, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


class Gene(ABC):
    """One dimension of a search space; frozen, and equal when its description is equal."""

    kind: ClassVar[str]
    default: Value | None

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
        """Return `value` as this gene holds it.

        Raises:
            SpaceError: It has the wrong type or lies outside; the text says what is allowed.
        """

    def parse(self, text: str) -> Value:
        """Return the value that a typed text stands for: 8, 3e-4, true, or a word.

        Raises:
            SpaceError: It stands for none that is allowed.
        """
        for value in (read_value(text), text):
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
            scale: Standard deviation of the step, in unit coordinates; ignored where there is no order.

        Returns:
            A coordinate that decodes to another value wherever there is one.
        """

    @abstractmethod
    def neighbours(self, u: float) -> list[float]:
        """Return the unit coordinates one step away from `u`."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return plain data from which `gene_from` builds the gene again."""

    def middle(self) -> Value:
        """Return the default, or where none is given the middle of the range (the first choice)."""
        return self.decode(0.5) if self.default is None else self.default

    def _check_default(self) -> None:
        if self.default is not None:
            try:
                object.__setattr__(self, "default", self.check(self.default))
            except SpaceError as error:
                raise SpaceError(f"default {error}") from None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    # An int of any size, or a float without a fraction; int() of an infinite one would raise.
    if isinstance(value, float | np.floating):
        return math.isfinite(value) and value == int(value)
    return _is_number(value)


def _too_large(number: Any) -> str:
    bits = int(number).bit_length()  # the number itself may be too long to print
    return f"a whole number of {bits} bits: expected one from -2**63 to 2**63 - 1"


def is_writable(text: str) -> bool:
    """Whether a file can hold a text: half of a surrogate pair, from a name that is not UTF-8, has no bytes there."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _reflect(u: float) -> float:
    """Fold a coordinate that left [0, 1] back into it, so that mutation does not pile up on the bounds."""
    u = math.fmod(abs(u), 2.0)
    return 2.0 - u if u > 1.0 else u


def _exponent(value: float) -> int:
    return math.floor(math.log10(value))


def _cell(u: float, size: int) -> int:
    return min(max(int(u * size), 0), size - 1)


def _centre(index: int, size: int) -> float:
    return (index + 0.5) / size


def _step_cell(u: float, size: int, rng: np.random.Generator, scale: float) -> float:
    """Move to another cell of an ordered gene: a Gaussian step of at least one cell."""
    if size == 1:
        return u
    here = _cell(u, size)
    step = max(1, round(abs(rng.normal(0.0, scale)) * size))
    sign = 1 if rng.random() < 0.5 else -1
    there = here + sign * step
    if not 0 <= there < size:
        there = here - sign * step
    there = min(max(there, 0), size - 1)
    if there == here:
        there = here + 1 if here == 0 else here - 1
    return _centre(there, size)


@dataclass(frozen=True)
class Float(Gene):
    """A real number in [low, high], on a logarithmic scale if `log`.

    Values are rounded to about a millionth of the range (of the value, if `log`), and less finely where
    floating point would not give the same number back.

    Raises:
        SpaceError: Bounds that are not finite, not in order or too close to tell values apart, or `log`
            with a bound at or below zero.
    """

    kind: ClassVar[str] = "float"
    low: float
    high: float
    log: bool = False
    default: float | None = None
    _digits: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            bound = getattr(self, name)
            if not _is_number(bound) or not abs(bound) <= LARGEST:
                raise SpaceError(f"Float: {name}={bound!r} is not a number of at most {LARGEST:g}; give low and high")
            object.__setattr__(self, name, float(bound))
        if not self.low < self.high:
            raise SpaceError(f"Float({self.low}, {self.high}): low must be below high")
        if self.log and self.low < 1 / LARGEST:
            raise SpaceError(f"Float({self.low}, {self.high}, log=True): a log gene needs low above 0")
        object.__setattr__(self, "_digits", self._resolution())
        self._check_default()

    def _resolution(self) -> int:
        """Return the significant digits (if log) or decimal places to which values are rounded."""
        if self.log:
            # Relative, finer still where the range spans little. exp(log(x)) errs by at most 2e-13 of x.
            wanted, exact = DIGITS + max(0, -_exponent(math.log(self.high) - math.log(self.low))), 12
        else:
            # low + u * (high - low) errs by a few units in the last of 16 digits of the larger bound.
            wanted = DIGITS - _exponent(self.high - self.low)
            exact = 13 - _exponent(max(abs(self.low), abs(self.high)))
        if exact < wanted - DIGITS + 2 or self.high - self.low < 1 / LARGEST:
            log = ", log=True" if self.log else ""
            raise SpaceError(f"Float({self.low}, {self.high}{log}): low and high are too close to tell values apart")
        return min(wanted, exact)

    @property
    def size(self) -> float:
        return math.inf

    def _round(self, value: float) -> float:
        value = float(f"{value:.{self._digits}g}") if self.log else round(value, self._digits)
        return min(max(value, self.low), self.high) + 0.0  # no negative zero: it would be another genome

    def decode(self, u: float) -> float:
        u = min(max(float(u), 0.0), 1.0)
        if self.log:
            low = math.log(self.low)
            return self._round(math.exp(low + u * (math.log(self.high) - low)))
        return self._round(self.low + u * (self.high - self.low))

    def encode(self, value: Value) -> float:
        value = float(value)
        if self.log:
            low = math.log(self.low)
            u = (math.log(value) - low) / (math.log(self.high) - low)
        else:
            u = (value - self.low) / (self.high - self.low)
        return min(max(u, 0.0), 1.0)

    def check(self, value: object) -> float:
        if not _is_number(value) or not self.low <= value <= self.high:  # type: ignore[operator]
            raise SpaceError(f"{value!r} is not allowed: expected a number from {self.low:g} to {self.high:g}")
        return self._round(float(value))  # type: ignore[arg-type]

    def mutate(self, u: float, rng: np.random.Generator, scale: float) -> float:
        here = self.decode(u)
        while True:
            there = _reflect(u + rng.normal(0.0, scale))
            if self.decode(there) != here:
                return there
            scale = max(2.0 * scale, 10.0**-DIGITS)  # a step too short to be a step

    def neighbours(self, u: float) -> list[float]:
        return [v for v in (u - 0.1, u + 0.1) if 0.0 <= v <= 1.0]

    def describe(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "low": self.low,
            "high": self.high,
            "log": self.log,
            "default": self.default,
        }


@dataclass(frozen=True)
class Int(Gene):
    """A whole number from low to high in steps of `step`, or on a logarithmic scale if `log`.

    Raises:
        SpaceError: Bounds that are not whole, beyond 64 bits or not in order, a step that does not lead from low to
            high, too many values, or `log` together with a step or with low below 1.
    """

    kind: ClassVar[str] = "int"
    low: int
    high: int
    log: bool = False
    step: int = 1
    default: int | None = None

    def __post_init__(self) -> None:
        for name in ("low", "high", "step"):
            number = getattr(self, name)
            if not _is_whole(number):
                raise SpaceError(f"Int: {name}={number!r} is not a whole number")
            if int(number) not in WHOLE:
                raise SpaceError(f"Int: {name} is {_too_large(number)}; use a Float and round it")
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
        self._check_default()

    @property
    def size(self) -> int:
        return (self.high - self.low) // self.step + 1

    def _log_bounds(self) -> tuple[float, float]:
        # Half a unit on either side, so that the end values get their fair share of the scale.
        return math.log(self.low - 0.5), math.log(self.high + 0.5)

    def decode(self, u: float) -> int:
        u = min(max(float(u), 0.0), 1.0)
        if not self.log:
            return self.low + self.step * _cell(u, self.size)
        low, high = self._log_bounds()
        return min(max(round(math.exp(low + u * (high - low))), self.low), self.high)

    def encode(self, value: Value) -> float:
        if not self.log:
            return _centre((int(value) - self.low) // self.step, self.size)
        low, high = self._log_bounds()
        return (math.log(int(value)) - low) / (high - low)

    def check(self, value: object) -> int:
        if _is_whole(value):
            number = int(value)  # type: ignore[call-overload]
            if self.low <= number <= self.high and (number - self.low) % self.step == 0:
                return int(number)
        steps = f" in steps of {self.step}" if self.step != 1 else ""
        raise SpaceError(f"{value!r} is not allowed: expected a whole number from {self.low} to {self.high}{steps}")

    def mutate(self, u: float, rng: np.random.Generator, scale: float) -> float:
        if not self.log:
            return _step_cell(u, self.size, rng, scale)
        here = self.decode(u)
        there = self.decode(_reflect(u + rng.normal(0.0, scale)))
        if there == here and self.size > 1:
            there += 1 if here == self.low or (here < self.high and rng.random() < 0.5) else -1
        return self.encode(there)

    def neighbours(self, u: float) -> list[float]:
        here = self.decode(u)
        around = (here - self.step, here + self.step)
        return [self.encode(value) for value in around if self.low <= value <= self.high]

    def describe(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "low": self.low,
            "high": self.high,
            "log": self.log,
            "step": self.step,
            "default": self.default,
        }


@dataclass(frozen=True)
class Choice(Gene):
    """One of several plain values; with `ordered` (batch sizes, widths), neighbours are near each other.

    Raises:
        SpaceError: No values, one given twice, or one that is not a plain number (of 64 bits if it is
            whole), string (that UTF-8 can write) or bool.
    """

    kind: ClassVar[str] = "choice"
    values: tuple[Value, ...]
    ordered: bool = False
    default: Value | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.values, list | tuple | range) or not self.values:
            raise SpaceError(f"Choice({self.values!r}): expected a list of one or more values")
        values = tuple(_plain(value) for value in self.values)
        if len({genome_key({"": value}) for value in values}) != len(values):
            raise SpaceError(f"Choice({list(values)}): a value is given twice")
        object.__setattr__(self, "values", values)
        self._check_default()

    @property
    def size(self) -> int:
        return len(self.values)

    def decode(self, u: float) -> Value:
        return self.values[_cell(float(u), self.size)]

    def encode(self, value: Value) -> float:
        return _centre(self._index(value), self.size)

    def _index(self, value: object) -> int:
        value = value.item() if isinstance(value, np.generic) else value
        for index, mine in enumerate(self.values):
            if type(mine) is type(value) and mine == value:
                return index
        for index, mine in enumerate(self.values):  # 8 stands for 8.0, but never for True
            if _is_number(mine) and _is_number(value) and mine == value:
                return index
        allowed = ", ".join(str(mine) for mine in self.values)
        raise SpaceError(f"{value!r} is not allowed: expected one of {allowed}")

    def check(self, value: object) -> Value:
        return self.values[self._index(value)]

    def middle(self) -> Value:
        if self.default is not None:
            return self.default
        return self.decode(0.5) if self.ordered else self.values[0]

    def mutate(self, u: float, rng: np.random.Generator, scale: float) -> float:
        if self.ordered or self.size == 1:
            return _step_cell(u, self.size, rng, scale)
        step = int(rng.integers(1, self.size))
        return _centre((_cell(u, self.size) + step) % self.size, self.size)

    def neighbours(self, u: float) -> list[float]:
        here = _cell(u, self.size)
        near = (here - 1, here + 1) if self.ordered else tuple(i for i in range(self.size) if i != here)
        return [_centre(index, self.size) for index in near if 0 <= index < self.size]

    def describe(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "values": list(self.values),
            "ordered": self.ordered,
            "default": self.default,
        }


def _plain(value: object) -> Value:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and math.isfinite(value):
        return value + 0.0  # no negative zero: it equals zero, and is written otherwise
    if type(value) is int and value not in WHOLE:
        raise SpaceError(f"Choice: a value is {_too_large(value)}; give a float, or a name and look it up")
    if type(value) is str and not is_writable(value):
        raise SpaceError(f"Choice: {value!r} cannot be written as UTF-8; give another name and look it up")
    for kind in (bool, int, str):
        if type(value) is kind:  # an enum's member would come back from a file as another type
            return value
    raise SpaceError(f"Choice: {value!r} is not a plain number, string or bool; give a name and look it up")


_KINDS: dict[str, type[Gene]] = {kind.kind: kind for kind in (Float, Int, Choice)}


def gene_from(description: Mapping[str, Any]) -> Gene:
    """Build a gene from what `Gene.describe` returned.

    Raises:
        SpaceError: The description is not of a known kind, or not one of that kind.
    """
    fields = dict(description)
    kind = fields.pop("kind", None)
    if kind not in _KINDS:
        raise SpaceError(f"a gene of kind {kind!r} is not known: expected one of {', '.join(_KINDS)}")
    if "values" in fields:
        fields["values"] = tuple(fields["values"])
    try:
        return _KINDS[kind](**fields)
    except TypeError as error:
        raise SpaceError(f"a gene of kind {kind!r} cannot be read from {dict(description)}: {error}") from None


def parse_gene(name: str, text: str) -> Gene:
    """Build a gene from what was typed behind `--gene NAME=`.

    Args:
        name: The gene's name, for messages.
        text: float(0,0.5), log(1e-5,1e-2), int(1,8) or int(32,256,32), choice(a,b), ordered(64,128),
            a|b (ordered, if all are numbers), or a plain value, which fixes the gene.

    Raises:
        SpaceError: It is none of these.
    """

    def _int(low: int, high: int, step: int = 1) -> Int:
        return Int(low, high, step=step)

    match = re.fullmatch(r"\s*(\w+)\s*\((.*)\)\s*", text)
    kind, inside = (match[1], match[2].split(",")) if match else ("fixed", text.split("|"))
    values = [read_value(part.strip()) for part in inside]
    makers: dict[str, Callable[[], Gene]] = {
        "fixed": lambda: Choice(tuple(values), ordered=len(values) > 1 and all(map(_is_number, values))),
        "float": lambda: Float(*values, log=False),  # type: ignore[arg-type,misc]  # a third value is refused
        "log": lambda: Float(*values, log=True),  # type: ignore[arg-type,misc]
        "int": lambda: _int(*values),  # type: ignore[arg-type]
        "choice": lambda: Choice(tuple(values)),
        "ordered": lambda: Choice(tuple(values), ordered=True),
    }
    try:
        if kind in makers and "" in values:
            raise SpaceError("a value is empty; expected one, and one between any two commas or bars")
        return makers[kind]()
    except SpaceError as error:
        raise SpaceError(f"--gene {name}={text}: {error}") from None
    except (KeyError, TypeError):
        raise SpaceError(
            f"--gene {name}={text} is not understood: expected float(LOW,HIGH), log(LOW,HIGH), int(LOW,HIGH[,STEP]), "
            "choice(A,B,…), ordered(A,B,…), A|B|… or a fixed value"
        ) from None


@dataclass(frozen=True, init=False)
class SearchSpace:
    """Named genes, and a repair that makes any combination of them valid.

    Args:
        repair: Takes a genome and returns a valid one (heads must divide width). It must be a pure
            function, keep every gene inside its bounds, and leave what it returned once unchanged. With a
            second parameter it is given the genes as well, which a user may have replaced.
        optional: Genes that are off until the user names them; a repair must do without them.
        genes: Name to Gene.

    Raises:
        SpaceError: No genes, something that is not a Gene, a name that UTF-8 cannot write or that comes twice,
            or a repair that is not a function.
    """

    genes: dict[str, Gene]
    repair: Callable[..., Genome] | None = field(compare=False)
    optional: dict[str, Gene] = field(compare=False)

    def __init__(
        self,
        /,
        repair: Callable[..., Genome] | None = None,
        optional: Mapping[str, Gene] | None = None,
        **genes: Gene,
    ) -> None:
        if repair is not None and not callable(repair):
            raise SpaceError(f"repair={repair!r}: expected a function from genome to genome")
        if not genes:
            raise SpaceError("SearchSpace(): expected at least one gene, e.g. lr=Float(1e-4, 1e-2, log=True)")
        optional = {} if optional is None else optional
        if not isinstance(optional, Mapping):
            raise SpaceError(f"optional={optional!r}: expected a dict of names to Float(…), Int(…) or Choice(…)")
        for name in optional.keys() & genes.keys():
            raise SpaceError(f"gene {name!r} is given twice, as optional too: give it once")
        for name, gene in {**genes, **optional}.items():
            if not isinstance(gene, Gene):
                raise SpaceError(f"gene {name!r}: {gene!r} is not a Gene; expected Float, Int or Choice")
            if not is_writable(name):
                raise SpaceError(f"gene {name!r}: its name cannot be written as UTF-8; give it another one")
        object.__setattr__(self, "genes", dict(genes))
        object.__setattr__(self, "repair", repair)
        object.__setattr__(self, "optional", dict(optional))

    def including(self, names: Iterable[str]) -> SearchSpace:
        """Return the space with those of its optional genes that are named; other names change nothing."""
        names = set(names)
        on = {name: gene for name, gene in self.optional.items() if name in names}
        off = {name: gene for name, gene in self.optional.items() if name not in names}
        return SearchSpace(self.repair, off, **self.genes, **on)

    @property
    def names(self) -> tuple[str, ...]:
        """Gene names, in the order of the unit coordinates."""
        return tuple(self.genes)

    @property
    def size(self) -> float:
        """Upper bound of the number of different genomes (repair may map several to one)."""
        sizes = [gene.size for gene in self.genes.values()]
        return math.inf if math.inf in sizes else math.prod(sizes)  # a product may be too large for a float

    def sample(self, rng: np.random.Generator) -> Genome:
        """Return a random valid genome, uniform in unit coordinates before repair."""
        return self.snap(rng.random(len(self.genes)))

    def snap(self, units: Sequence[float] | np.ndarray) -> Genome:
        """Decode and repair unit coordinates: the genome that would be trained.

        Args:
            units: One coordinate per gene, shape (genes,).

        Raises:
            SpaceError: The repair broke its contract.
        """
        genome = {name: gene.decode(float(u)) for (name, gene), u in zip(self.genes.items(), units, strict=True)}
        return self._repaired(genome)

    def encode(self, genome: Mapping[str, Value]) -> np.ndarray:
        """Return the unit coordinates of a valid genome, shape (genes,), float64."""
        return np.array([gene.encode(genome[name]) for name, gene in self.genes.items()], dtype=np.float64)

    def default(self) -> Genome:
        """Return the genome of every gene's default, repaired."""
        return self._repaired({name: gene.middle() for name, gene in self.genes.items()})

    def check(self, genome: Mapping[str, object], fill_defaults: bool = False) -> Genome:
        """Return a genome given by a user as this space holds it, repaired.

        Args:
            genome: Values as read from a file or the command line.
            fill_defaults: Give missing genes their defaults instead of refusing.

        Raises:
            SpaceError: Unknown or missing genes, or a value that is not allowed; each is named.
        """
        unknown = sorted(str(name) for name in set(genome) - set(self.genes))
        if unknown:
            raise SpaceError(f"unknown gene {', '.join(unknown)}: expected {', '.join(self.genes)}")
        missing = [name for name in self.genes if name not in genome]
        if missing and not fill_defaults:
            raise SpaceError(f"missing gene {', '.join(missing)}: give it, or accept defaults (--fill-defaults)")
        checked: Genome = {}
        for name, gene in self.genes.items():
            try:
                checked[name] = gene.check(genome[name]) if name in genome else gene.middle()
            except SpaceError as error:
                raise SpaceError(f"gene {name}: {error}") from None
        return self._repaired(checked)

    def parse(self, texts: Mapping[str, str]) -> Genome:
        """Return typed texts as values of their genes; unknown names stay, for `check` to name.

        Raises:
            SpaceError: A text stands for no allowed value.
        """
        genome: Genome = {}
        for name, text in texts.items():
            try:
                genome[name] = self.genes[name].parse(text) if name in self.genes else text
            except SpaceError as error:
                raise SpaceError(f"gene {name}: {error}") from None
        return genome

    def grid(self) -> Iterator[Genome]:
        """Yield every genome of a finite space, in order, repaired (so some may come twice).

        Raises:
            SpaceError: The space has a Float.
        """
        if self.size == math.inf:
            raise SpaceError("a space with a Float has no grid")
        values = [[gene.decode(_centre(i, int(gene.size))) for i in range(int(gene.size))] for gene in self._linear()]
        for cell in itertools.product(*values):
            yield self._repaired(dict(zip(self.genes, cell, strict=True)))

    def _linear(self) -> list[Gene]:
        """Return the genes with logarithmic Ints made linear, so that equal cells hit every value once."""
        return [
            Int(gene.low, gene.high) if isinstance(gene, Int) and gene.log else gene for gene in self.genes.values()
        ]

    def _repaired(self, genome: Genome) -> Genome:
        if self.repair is None:
            return genome
        try:
            repaired = self.repair(dict(genome), self.genes) if self._is_given_genes() else self.repair(dict(genome))
        except Exception as error:
            raise SpaceError(f"repair({genome}) raised {type(error).__name__}: {error}") from error
        if not isinstance(repaired, dict) or set(repaired) != set(genome):
            raise SpaceError(f"repair must return a genome with the genes {', '.join(genome)}; got {repaired!r}")
        try:
            return {name: gene.check(repaired[name]) for name, gene in self.genes.items()}
        except SpaceError as error:
            raise SpaceError(f"repair({genome}) left the space: {error}") from None

    def _is_given_genes(self) -> bool:
        assert self.repair is not None
        try:
            parameters = inspect.signature(self.repair).parameters.values()
        except (TypeError, ValueError):  # a builtin
            return False
        return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters) > 1

    def describe(self) -> dict[str, Any]:
        """Return plain data for the manifest; the repair is code and stays with the evaluator."""
        return {name: gene.describe() for name, gene in self.genes.items()}

    @classmethod
    def from_description(cls, description: Mapping[str, Mapping[str, Any]]) -> SearchSpace:
        """Build the space of a manifest, without its repair: enough to read a run, not to breed."""
        return cls(None, None, **{name: gene_from(gene) for name, gene in description.items()})
