"""Typed options of evaluators and strategies: `-o name=value` and `-s name=value`.

The declaration is ordinary Python: keyword-only parameters or dataclass fields with a type and a
default. This module reads them and binds what the user gave; it knows nothing of what they mean.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import operator
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from evo_tune.errors import OptionError

__all__ = ["Option", "bind", "call_with", "options_of", "split_assignments", "suggest"]

TYPES = (bool, int, float, str, Path, type(None))
"""What an option may be, with Literal and unions of these: each is typed as text and saved as plain data."""


@dataclass(frozen=True)
class Option:
    """One declared option.

    Args:
        name: As the user types it.
        type: Its annotation.
        default: Its default, or `dataclasses.MISSING` if it must be given.
    """

    name: str
    type: Any
    default: Any

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return self.default is dataclasses.MISSING

    def describe(self) -> str:
        """Return NAME: TYPE = DEFAULT, for lists and help."""
        text = f"{self.name}: {_name_of(self.type)}"
        return text if self.required else f"{text} = {self.default!r}"


def options_of(declared: Callable[..., Any] | type) -> dict[str, Option]:
    """Return the options of a function (keyword-only parameters) or a dataclass (fields).

    Raises:
        OptionError: The type of one cannot be read or is no type of options, or its default is no plain data.
    """
    if isinstance(declared, type):
        try:
            hints = typing.get_type_hints(declared)
        except Exception as error:
            raise OptionError(f"cannot read the types of {declared.__qualname__}: {error}") from error
        fields = [field for field in dataclasses.fields(declared) if field.init]
        return {field.name: _checked(field.name, hints[field.name], _default_of(field)) for field in fields}
    parameters = inspect.signature(declared).parameters.values()
    return {p.name: _option_of(declared, p) for p in parameters if p.kind is p.KEYWORD_ONLY}


def _default_of(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _option_of(function: Callable[..., Any], parameter: inspect.Parameter) -> Option:
    default = dataclasses.MISSING if parameter.default is parameter.empty else parameter.default
    wanted = parameter.annotation
    if wanted is parameter.empty:
        wanted = _type_of(default)
    elif isinstance(wanted, str):
        # Each by itself: the other parameters may name types that are imported for type checkers only.
        try:
            wanted = eval(wanted, getattr(function, "__globals__", {}))
        except Exception as error:
            raise OptionError(f"option {parameter.name}: cannot read its type {wanted!r}: {error}") from error
    return _checked(parameter.name, wanted, default)


def _type_of(default: Any) -> type:
    """Return the type that an option is of which only the default is declared."""
    if default is dataclasses.MISSING or default is None:
        return str
    return next((kind for kind in (Path, float) if isinstance(default, kind)), type(default))


def _checked(name: str, wanted: Any, default: Any) -> Option:
    """Return an option whose values can be typed, and saved in the manifest."""
    if isinstance(default, Path):
        default = str(default)  # plain data, as a given value is
    elif isinstance(default, float):
        default = float(default)  # numpy's is one too
    if default is not dataclasses.MISSING and type(default) not in TYPES:
        raise OptionError(
            f"option {name}: its default is of type {type(default).__name__}: expected a number, text, bool, None or "
            "Path; make the rest of it inside"
        )
    if not _is_known(wanted):
        raise OptionError(
            f"option {name}: its type {_name_of(wanted)} is none that can be typed: expected bool, int, float, str, "
            "Path, Literal[…], or several of them with |"
        )
    return Option(name, wanted, default)


def _is_known(wanted: Any) -> bool:
    origin = typing.get_origin(wanted)
    if origin in (typing.Union, types.UnionType):
        return all(_is_known(member) for member in typing.get_args(wanted))
    if origin is Literal:
        return all(type(allowed) in TYPES for allowed in typing.get_args(wanted))
    return isinstance(wanted, type) and wanted in TYPES


def bind(given: Mapping[str, Any], options: Mapping[str, Option], owner: str, flag: str) -> dict[str, Any]:
    """Return every option's value: what was given, checked and converted, or its default.

    Args:
        given: Name to value; strings, as typed, are converted to the declared type.
        options: The declared options.
        owner: Whose they are, for messages ("language_model").
        flag: How they are given, for messages ("-o").

    Raises:
        OptionError: Unknown, missing, or of the wrong type.
    """
    if not isinstance(given, Mapping):
        raise OptionError(f"options of {owner}: {given!r} is not allowed: expected a dict of names to values")
    for name in given:
        if name not in options:
            known = ", ".join(options) or "none"
            raise OptionError(f"{owner} has no option {name!r}{suggest(str(name), options)}: expected one of {known}")
    bound = {}
    for name, option in options.items():
        if name in given:
            try:
                bound[name] = _convert(given[name], option.type)
            except (TypeError, ValueError, OverflowError):  # int() of an infinite number overflows
                message = f"{flag} {name}={given[name]}: expected {_name_of(option.type)}"
                raise OptionError(f"{message} (an option of {owner})") from None
        elif option.required:
            raise OptionError(f"{owner} needs {flag} {name}=… ({_name_of(option.type)})")
        else:
            bound[name] = option.default
    return bound


def call_with(function: Callable[..., Any], options: Mapping[str, Any], *args: Any) -> Any:
    """Call a function with those of the options that it declares (all of them if it takes **kwargs).

    Any parameter after the `args` that can be given by name may be an option, keyword-only or not.
    """
    parameters = list(inspect.signature(function).parameters.values())
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return function(*args, **options)
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    names = {parameter.name for parameter in parameters[len(args) :] if parameter.kind in by_name}
    return function(*args, **{name: value for name, value in options.items() if name in names})


def split_assignments(texts: typing.Iterable[str], flag: str) -> dict[str, str]:
    """Split NAME=VALUE texts.

    Raises:
        OptionError: One has no '=' or no name, or a name comes twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise OptionError(f"{flag} {text}: expected {flag} NAME=VALUE")
        if name in found:
            raise OptionError(f"{flag} {name} is given twice: give it once")
        found[name] = value
    return found


def suggest(name: str, known: typing.Iterable[str]) -> str:
    """Return ' (did you mean …?)' if one of the known names is close, else nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _convert(value: Any, wanted: Any) -> Any:
    origin = typing.get_origin(wanted)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(value, typing.get_args(wanted))
    if origin is Literal:
        for allowed in typing.get_args(wanted):
            if value == allowed or value == str(allowed):
                return allowed
        raise ValueError(value)
    if wanted is bool:
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if str(value).lower() not in words:
            raise ValueError(value)
        return words[str(value).lower()]
    if wanted is int:
        if isinstance(value, bool):
            raise ValueError(value)
        if hasattr(value, "__index__"):  # numpy's too
            return operator.index(value)
        if isinstance(value, str) and value.strip().lstrip("+-").isdecimal():
            return int(value)  # exact, however large
        number = float(value)  # 1e5 is a whole number too
        if number != int(number):
            raise ValueError(value)
        return int(number)
    if wanted is float:
        if isinstance(value, bool):
            raise ValueError(value)
        return float(value)
    if wanted is Path:
        return str(value)  # stays plain data in the manifest; evaluators make a Path of it
    if wanted is str and not isinstance(value, str):
        raise ValueError(value)
    return value


def _convert_union(value: Any, members: tuple[Any, ...]) -> Any:
    words = ("none",) if str in members else ("none", "")  # a text may be empty
    if type(None) in members and (value is None or str(value).lower() in words):
        return None
    for member in members:
        if member is not type(None):
            try:
                return _convert(value, member)
            except (TypeError, ValueError, OverflowError):
                continue
    raise ValueError(value)


def _name_of(wanted: Any) -> str:
    origin = typing.get_origin(wanted)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_name_of(member) for member in typing.get_args(wanted))
    if origin is Literal:
        return " or ".join(str(allowed) for allowed in typing.get_args(wanted))
    if origin is not None or not isinstance(wanted, type):
        return str(wanted)
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "none"}
    return names.get(wanted, wanted.__name__)
