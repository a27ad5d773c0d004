"""Declaration of options: one field of a frozen dataclass has all facts about an option.

A group of options is written beside the code that it configures. Groups are combined as mixins:

    @dataclass(frozen=True, kw_only=True)
    class Clipping(Options):
        \"\"\"Clipping of the gradient.\"\"\"

        clip: float | None = option(1.0, bounds="(0, inf)", help="Largest norm of the gradient.")

        def check(self) -> None: ...  # combinations that the group does not allow

The recipe, strategies and run settings declare their options this way. Checks, error messages, flags, the manifest,
lists, documentation tables and genes are made from the declaration. `binding` converts a user's text to a value.
"""

import dataclasses
import inspect
import math
import types
import typing
from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from evo_tune.errors import OptionError, RecipeError

# Types of an option, beside Literal and unions of these. Each can be typed as text and saved as plain data.
TYPES = (bool, int, float, str, Path, type(None))

MISSING: Any = dataclasses.MISSING

# The choice by which the program decides. It stands for another choice, so a gene cannot have it as a value.
AUTO = "auto"

Self = TypeVar("Self", bound="Options")


def option(
    default: Any = MISSING,
    *,
    help: str = "",
    bounds: str = "",
    unit: str = "",
    choices: Collection[Any] = (),
    gene: str | None = "",
) -> Any:
    """Declare an option: the value of a field in a group of options.

    Args:
        default: Default value; an option without one is required.
        help: One line of help.
        bounds: Interval of a number, in mathematical notation: '(0, 1]', '[1, inf)'.
        unit: Unit of a number, or notation of a text: 'URL', 'DEPTHxWIDTH'.
        choices: Allowed values where a `Literal` cannot list them: a registry, read at each check.
        gene: Range of the gene that `--gene NAME` makes of the option, in the notation of `--gene`: '0.9|0.95|0.99',
            'float(0.1,0.7)'. Not needed for choices, a Literal or a bool, which list their values. None: the option
            cannot differ between genomes, because it defines the task or the run.
    """
    metadata = {"help": help, "bounds": bounds, "unit": unit, "choices": choices, "gene": gene}
    return dataclasses.field(default=default, metadata=metadata)


def fixed_option(default: Any = MISSING, **facts: Any) -> Any:
    """Declare an option that cannot differ between genomes: `option` with `gene=None`.

    Args:
        default: Default value.
        facts: Other arguments of `option`.
    """
    return option(default, gene=None, **facts)


def redeclare(group: type[Any], name: str, default: Any = MISSING, *, reason: str = "") -> Any:
    """Declare an option as another group declares it, with another default if need be.

    Args:
        group: Group of options that has the option.
        name: Name of the option.
        default: Default value; left out: that of the group.
        reason: Reason for another default. Tests require it.
    """
    field = next(field for field in dataclasses.fields(group) if field.name == name)
    default = field.default if default is MISSING else default
    return dataclasses.field(default=default, metadata={**field.metadata, "redeclared": reason})


@dataclass(frozen=True)
class Option:
    """A declared option.

    Args:
        name: Name as the user types it.
        type: Annotation.
        default: Default value, or `dataclasses.MISSING` if the option is required.
        help: See `option`.
        bounds: See `option`.
        unit: See `option`.
        choices: See `option`; the values of a Literal.
        gene: See `option`.
        group: First line of the docstring of the group that declares it, without the full stop.
    """

    name: str
    type: Any
    default: Any
    help: str = ""
    bounds: str = ""
    unit: str = ""
    choices: Collection[Any] = ()
    gene: str | None = ""
    group: str = ""

    @property
    def required(self) -> bool:
        """Whether the option has no default."""
        return self.default is MISSING

    @property
    def kind(self) -> str:
        """The allowed values in words: 'a number', 'cosine or linear', 'text or none'."""
        if not self.choices:
            return type_in_words(self.type)
        none = " or none" if type(None) in self._types and None not in self.choices else ""
        return " or ".join(map(str, self.choices)) + none

    def check(self, value: Any) -> None:
        """Require a value of the declared type, inside the bounds and among the choices.

        Raises:
            RecipeError: The value is not allowed. A bool is not a number here, and NaN is outside every interval.
        """
        if value is None and type(None) in self._types:
            return
        if self.choices and not isinstance(value, bool | int | float):
            check_name(self.name, value, [choice for choice in self.choices if isinstance(choice, str)])
        elif self.choices and not any(type(choice) is type(value) and choice == value for choice in self.choices):
            raise RecipeError(self.name, value, self.kind)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            low, high = self.interval.ends
            try:
                if float in self._types:
                    self.interval.check(self.name, value)
                elif int not in self._types:
                    raise RecipeError(self.name, value, self.kind)
                elif math.isinf(low):
                    check_integer(self.name, value, -(2**63), 2**63 - 1)
                else:
                    check_integer(self.name, value, int(low), None if math.isinf(high) else int(high))
            except RecipeError as error:
                other_types = [member for member in union_members(self.type) if member not in (bool, int, float)]
                also = f", or {' or '.join(map(type_in_words, other_types))}" if other_types else ""
                raise RecipeError(self.name, value, error.allowed + also) from None
        elif type(value) not in self._types:
            allowed = [choice for member in union_members(self.type) for choice in typing.get_args(member)]
            if not any(type(choice) is type(value) and choice == value for choice in allowed):
                raise RecipeError(self.name, value, self.kind)

    # Both are computed once: each construction of a group checks all of its options.

    @cached_property
    def interval(self) -> "Interval":
        """The bounds as an interval; of all numbers without bounds."""
        return Interval(self.bounds or "(-inf, inf)")

    @cached_property
    def _types(self) -> frozenset[Any]:
        """Members of the type; a path is given as text."""
        members = union_members(self.type)
        return frozenset(members) | ({str} if Path in members else set())


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base of all groups of options. Every instance is checked: first each field, then each group's own `check`.

    A group overrides `check` to refuse combinations of its fields. The checks of all groups in the class are called.

    Raises:
        RecipeError: A field has the wrong type, is out of its bounds or is not among its choices.
        UsageError: A group's own check refuses the combination.
    """

    # Options that earlier versions had, with the values that changed nothing (their defaults). Saved runs contain them:
    # see `without_dropped`. Each group lists its own.
    dropped: ClassVar[Mapping[str, Any]] = {}

    def __post_init__(self) -> None:
        for option in dataclass_options(type(self)).values():
            option.check(getattr(self, option.name))
        self._check_groups()

    def _check_groups(self) -> None:
        for group in reversed(type(self).__mro__):
            if "check" in vars(group):
                vars(group)["check"](self)

    def with_values(self: Self, **changes: Any) -> Self:
        """Return the options with other values of some of them; only these are checked, and each group's own `check`.

        Raises:
            RecipeError: As at construction.
            UsageError: As at construction.
        """
        options = dataclass_options(type(self))
        for name, value in changes.items():
            options[name].check(value)
        changed = object.__new__(type(self))
        vars(changed).update({name: changes.get(name, getattr(self, name)) for name in options})  # the class is frozen
        changed._check_groups()
        return changed

    def settled(self: Self, rungs: bool) -> Self:
        """Return the options with every value set that depends on the run, as they stay for the whole run.

        A group with such a value overrides this and starts from `super().settled(rungs)`.

        Args:
            rungs: Whether genomes get partial trainings first.
        """
        return self

    def to_json(self) -> dict[str, Any]:
        """Return the value of every option by name, as plain data."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


def dataclass_options(group: type[Any]) -> Mapping[str, Option]:
    """Return the options that a dataclass declares, by name; those of its base classes come first.

    Raises:
        OptionError: A type cannot be read or cannot be typed by a user, or a default is not plain data.
    """
    return _read_options(group)  # type: ignore[arg-type]  # classes can be hashed


def dropped_options(group: type[Any] | None) -> dict[str, Any]:
    """Return the `dropped` options of a group and its bases; none of a type that is no group."""
    parts = reversed(getattr(group, "__mro__", ()))
    return {name: value for part in parts for name, value in vars(part).get("dropped", {}).items()}


def without_dropped(group: type[Any] | None, saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a saved run without those of dropped options that changed nothing."""
    dropped = dropped_options(group)
    return {name: value for name, value in saved.items() if name not in dropped or value != dropped[name]}


@lru_cache(maxsize=256)  # read at each construction of a group
def _read_options(group: Hashable) -> Mapping[str, Option]:
    assert isinstance(group, type)
    try:
        hints = typing.get_type_hints(group)
    except Exception as error:
        raise OptionError(f"cannot read the types of {group.__qualname__}: {error}") from error
    options = {}
    for field in (field for field in dataclasses.fields(group) if field.init):
        factory: Any = field.default_factory
        default = field.default if factory is MISSING else factory()
        facts = {name: field.metadata[name] for name in ("help", "bounds", "unit", "choices", "gene") if field.metadata}
        owners = [base for base in group.__mro__ if field.name in inspect.get_annotations(base)]
        described = [base for base in owners if base.__doc__ and not base.__doc__.startswith(f"{base.__name__}(")]
        title = (described[-1].__doc__ or "").strip().partition("\n")[0].rstrip(".") if described else ""
        if not facts.get("choices"):  # the values of a Literal, alone or in a union with None
            kinds = [member for member in union_members(hints[field.name]) if member is not type(None)]
            is_literal = len(kinds) == 1 and typing.get_origin(kinds[0]) is Literal
            facts["choices"] = typing.get_args(kinds[0]) if is_literal else ()
        declared = Option(field.name, hints[field.name], default, **facts, group=title)
        options[field.name] = normalise_declaration(declared)
    return options


def normalise_declaration(option: Option) -> Option:
    """Return an option with its default as plain data, after a check that its values can be typed and saved.

    Raises:
        OptionError: The type cannot be typed by a user, or the default is not plain data.
    """
    default = option.default
    if isinstance(default, Path):
        default = str(default)
    elif isinstance(default, float):
        default = float(default)  # numpy's floats are floats too
    if default is not MISSING and type(default) not in TYPES:
        expected = "expected a number, text, bool, None or Path; make the rest of it inside"
        raise OptionError(f"option {option.name}: its default is of type {type(default).__name__}: {expected}")
    if not _is_known(option.type):
        problem = f"its type {type_in_words(option.type)} is none that can be typed"
        expected = "expected bool, int, float, str, Path, Literal[…], or several of them with |"
        raise OptionError(f"option {option.name}: {problem}: {expected}")
    return dataclasses.replace(option, default=default)


def union_members(annotation: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the type itself if it is not a union."""
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return typing.get_args(annotation) if is_union else (annotation,)


def _is_known(annotation: Any) -> bool:
    if typing.get_origin(annotation) is Literal:
        return all(type(allowed) in TYPES for allowed in typing.get_args(annotation))
    if union_members(annotation) != (annotation,):
        return all(map(_is_known, union_members(annotation)))
    return isinstance(annotation, type) and annotation in TYPES


def type_in_words(annotation: Any) -> str:
    """Return a name in words for the values of a type."""
    if union_members(annotation) != (annotation,):
        return " or ".join(map(type_in_words, union_members(annotation)))
    origin = typing.get_origin(annotation)
    if origin is Literal:
        return " or ".join(str(allowed) for allowed in typing.get_args(annotation))
    if origin is not None or not isinstance(annotation, type):
        return str(annotation)
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "none"}
    return names.get(annotation, annotation.__name__)


# ---------------------------------------------------------------- checks of numbers and names
# A bool is not a number here, and NaN is outside every interval.


def check_integer(field: str, value: object, low: int, high: int | None = None) -> None:
    """Require a whole number in [low, high].

    Raises:
        RecipeError: The value is outside, or not a whole number (a bool and 2.0 are not).
    """
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < low or (high is not None and value > high):  # type: ignore[operator]
        upper = "or more" if high is None else f"to {high}"
        raise RecipeError(field, value, f"a whole number, {low} {upper}")


def check_number(field: str, value: object, interval: str) -> None:
    """Require a finite number in an interval in mathematical notation: '[0, 1)', '(0, inf)'.

    Raises:
        RecipeError: The value is not a number, is NaN or infinite, or is outside the interval.
    """
    Interval(interval).check(field, value)


@dataclass(frozen=True)
class Interval:
    """Interval of numbers in mathematical notation: '[0, 1)', '(0, inf)'."""

    text: str

    @cached_property
    def ends(self) -> tuple[float, float]:
        """Lowest and highest number, whether they belong to it or not."""
        low, high = self.text[1:-1].split(",")
        return float(low), float(high)

    def check(self, field: str, value: object) -> None:
        """Require a finite number in the interval.

        Raises:
            RecipeError: See `check_number`.
        """
        low, high = self.ends
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if number:
            above = value >= low if self.text[0] == "[" else value > low  # type: ignore[operator]
            below = value <= high if self.text[-1] == "]" else value < high  # type: ignore[operator]
            number = above and below
        if not number:
            raise RecipeError(field, value, f"a number in {self.text}")


def check_name(field: str, value: object, names: Collection[str]) -> None:
    """Require one of several names.

    Raises:
        RecipeError: The value is not one of them.
    """
    if not isinstance(value, str) or value not in names:
        raise RecipeError(field, value, f"one of {', '.join(names)}")
