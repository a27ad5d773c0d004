"""How an option is declared: a field of a frozen dataclass, said once, with all that is to be known of it.

A group of options stands beside the part that it configures and is composed as a mixin:

    @dataclass(frozen=True, kw_only=True)
    class Clipping(Options):
        \"\"\"Clipping of the gradient.\"\"\"

        clip: float | None = option(1.0, bounds="(0, inf)", help="Largest norm of the gradient")

        def check(self) -> None: ...  # what does not go together within the group

From the declaration come the check of `-o`, its error, the manifest, lists, the page in docs, and the gene that a
field may become. This module knows neither evaluators nor how options are typed (see `binding`).
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from evo_tune.errors import OptionError, RecipeError
from evo_tune.options.bounds import check_integer, check_name, check_number

__all__ = ["AUTO", "Option", "Options", "declared_in", "name_of", "option"]

TYPES = (bool, int, float, str, Path, type(None))
"""What an option may be, with Literal and unions of these: each is typed as text and saved as plain data."""

MISSING: Any = dataclasses.MISSING

AUTO = "auto"
"""The choice that leaves the answer to the program. It stands for another one, so it is no value of a gene."""

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
        default: Its default; left out, it must be given.
        help: One line that says what it is for.
        bounds: Interval of its numbers, as in mathematics: '(0, 1]', '[1, inf)'.
        unit: Of its numbers.
        choices: The values that it may have, where a `Literal` cannot list them: a registry, read when it is needed.
        gene: What it is as a gene where the user gives no more than `--gene NAME`, in the language of `--gene`:
            '0.9|0.95|0.99', 'float(0.1,0.7)'. Not needed for choices, a Literal or a bool, whose values speak for
            themselves. None: it says what the task is, or what a run has, and cannot differ between genomes.
    """
    metadata = {"help": help, "bounds": bounds, "unit": unit, "choices": choices, "gene": gene}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Option:
    """One declared option.

    Args:
        name: As the user types it.
        type: Its annotation.
        default: Its default, or `dataclasses.MISSING` if it must be given.
        help: See `option`.
        bounds: See `option`.
        unit: See `option`.
        choices: See `option`; of a Literal, its values.
        gene: See `option`.
        group: First line of the docstring of the group that declares it, without its full stop.
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
        """Whether it has no default."""
        return self.default is MISSING

    @property
    def kind(self) -> str:
        """What its values are, in words: 'a number', 'cosine or linear', 'text or none'."""
        if not self.choices:
            return name_of(self.type)
        none = " or none" if _takes(self.type, type(None)) and None not in self.choices else ""
        return " or ".join(map(str, self.choices)) + none

    def describe(self) -> str:
        """Return NAME: TYPE = DEFAULT, for lists and help."""
        text = f"{self.name}: {self.kind}"
        return text if self.required else f"{text} = {self.default!r}"

    def as_data(self) -> dict[str, Any]:
        """Return it as plain data; what it says nothing of is ''."""
        known = {"group": self.group, "option": self.name, "type": self.kind, "required": self.required}
        said = {name: getattr(self, name) or "" for name in ("unit", "bounds", "gene", "help")}
        return {**known, "default": None if self.required else self.default, **said}

    def check(self, value: Any) -> None:
        """Require a value of the declared type, within bounds and choices.

        Raises:
            RecipeError: It is something else: a bool is no number here, and NaN is within no bounds.
        """
        if value is None and _takes(self.type, type(None)):
            return
        if self.choices and not isinstance(value, bool | int | float):
            check_name(self.name, value, [one for one in self.choices if isinstance(one, str)])
        elif self.choices and not any(type(one) is type(value) and one == value for one in self.choices):
            raise RecipeError(self.name, value, self.kind)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            try:
                self._check_number(value)
            except RecipeError as error:
                words = [name_of(one) for one in members(self.type) if one not in (bool, int, float)]
                also = f", or {' or '.join(words)}" if words else ""
                raise RecipeError(self.name, value, error.allowed + also) from None
        elif not _takes(self.type, type(value)) and not _is_literal(self.type, value):
            raise RecipeError(self.name, value, self.kind)

    def _check_number(self, value: float) -> None:
        real = _takes(self.type, float)
        if not real and not _takes(self.type, int):
            raise RecipeError(self.name, value, self.kind)
        bounds = self.bounds or "(-inf, inf)"
        low, high = (float(bound) for bound in bounds[1:-1].split(","))
        if real:
            check_number(self.name, value, bounds)
        elif math.isinf(low):
            check_integer(self.name, value, -(2**63), 2**63 - 1)
        else:
            check_integer(self.name, value, int(low), None if math.isinf(high) else int(high))


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base of all groups of options: whatever is made of them is checked, field by field and then together.

    A group's own `check` says what does not go together within it; those of all groups are called.

    Raises:
        RecipeError: A field is of another type, out of its bounds or none of its choices.
        UsageError: A group's own check refuses.
    """

    def __post_init__(self) -> None:
        for one in declared_in(type(self)).values():
            one.check(getattr(self, one.name))
        for group in reversed(type(self).__mro__):
            if "check" in vars(group):
                vars(group)["check"](self)

    def settled(self: Self, rungs: bool) -> Self:
        """Return the options as a run has them from its beginning to its end: nothing that depends on it is left open.

        A group that leaves something open overrides this, and begins with what `super().settled(rungs)` returns.

        Args:
            rungs: Whether genomes are trained in part first, and judged there.
        """
        del rungs
        return self

    def to_json(self) -> dict[str, Any]:
        """Return every option by name, as plain data."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


def declared_in(group: type[Any]) -> Mapping[str, Option]:
    """Return the options that a dataclass declares, those of its groups first, by name.

    Raises:
        OptionError: The type of one cannot be read or is no type of options, or its default is no plain data.
    """
    return _declared_in(group)  # type: ignore[arg-type]  # classes can be hashed


@lru_cache(maxsize=256)  # each set of options that is made is checked by them
def _declared_in(group: Hashable) -> Mapping[str, Option]:
    assert isinstance(group, type)
    try:
        hints = typing.get_type_hints(group)
    except Exception as error:
        raise OptionError(f"cannot read the types of {group.__qualname__}: {error}") from error
    fields = [field for field in dataclasses.fields(group) if field.init]
    return {field.name: _declared(group, field, hints[field.name]) for field in fields}


def _declared(group: type, field: dataclasses.Field[Any], wanted: Any) -> Option:
    factory: Any = field.default_factory
    default = field.default if factory is MISSING else factory()
    known = {name: field.metadata[name] for name in ("help", "bounds", "unit", "choices", "gene") if field.metadata}
    owners = [one for one in group.__mro__ if field.name in vars(one).get("__annotations__", {})]
    described = [one for one in owners if one.__doc__ and not one.__doc__.startswith(f"{one.__name__}(")]
    title = (described[-1].__doc__ or "").strip().partition("\n")[0].rstrip(".") if described else ""
    known["choices"] = known.get("choices") or _literals(wanted)
    return checked(Option(field.name, wanted, default, **known, group=title))


def checked(one: Option) -> Option:
    """Return an option whose values can be typed, and saved in the manifest, its default as plain data.

    Raises:
        OptionError: Its type is none that can be typed, or its default is no plain data.
    """
    default = one.default
    if isinstance(default, Path):
        default = str(default)  # plain data, as a given value is
    elif isinstance(default, float):
        default = float(default)  # numpy's is one too
    if default is not MISSING and type(default) not in TYPES:
        raise OptionError(
            f"option {one.name}: its default is of type {type(default).__name__}: expected a number, text, bool, None "
            "or Path; make the rest of it inside"
        )
    if not _is_known(one.type):
        raise OptionError(
            f"option {one.name}: its type {name_of(one.type)} is none that can be typed: expected bool, int, float, "
            "str, Path, Literal[…], or several of them with |"
        )
    return dataclasses.replace(one, default=default)


def members(wanted: Any) -> tuple[Any, ...]:
    """Return the members of a union; of another type, itself."""
    return typing.get_args(wanted) if typing.get_origin(wanted) in (typing.Union, types.UnionType) else (wanted,)


def _takes(wanted: Any, kind: type) -> bool:
    return kind in members(wanted) or (kind is str and Path in members(wanted))


def _is_literal(wanted: Any, value: Any) -> bool:
    literals = [one for one in members(wanted) if typing.get_origin(one) is Literal]
    return any(type(value) is type(one) and value == one for literal in literals for one in typing.get_args(literal))


def _literals(wanted: Any) -> tuple[Any, ...]:
    """Return the values of a Literal, alone or beside None; nothing where numbers are taken too."""
    kinds = [one for one in members(wanted) if one is not type(None)]
    return typing.get_args(kinds[0]) if len(kinds) == 1 and typing.get_origin(kinds[0]) is Literal else ()


def _is_known(wanted: Any) -> bool:
    if typing.get_origin(wanted) is Literal:
        return all(type(allowed) in TYPES for allowed in typing.get_args(wanted))
    if members(wanted) != (wanted,):
        return all(map(_is_known, members(wanted)))
    return isinstance(wanted, type) and wanted in TYPES


def name_of(wanted: Any) -> str:
    """Return what the values of a type are, in words."""
    if members(wanted) != (wanted,):
        return " or ".join(map(name_of, members(wanted)))
    origin = typing.get_origin(wanted)
    if origin is Literal:
        return " or ".join(str(allowed) for allowed in typing.get_args(wanted))
    if origin is not None or not isinstance(wanted, type):
        return str(wanted)
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "none"}
    return names.get(wanted, wanted.__name__)
