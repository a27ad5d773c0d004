"""Typed options of evaluators and strategies: `-o name=value` and `-s name=value`.

The declaration is ordinary Python: keyword-only parameters or dataclass fields with a type and a default, or the
richer fields of `declare.option`. This module reads them and binds what the user gave; it knows nothing of what they
mean.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import operator
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from evo_tune.errors import OptionError, RecipeError
from evo_tune.options.declare import Option, checked, declared_in, members

__all__ = ["bind", "call_with", "options_of", "split_assignments", "suggest"]


def options_of(declared: Callable[..., Any] | type) -> dict[str, Option]:
    """Return the options of a function (keyword-only parameters) or a dataclass (fields).

    Raises:
        OptionError: The type of one cannot be read or is no type of options, or its default is no plain data.
    """
    if isinstance(declared, type):
        return dict(declared_in(declared))
    parameters = inspect.signature(declared).parameters.values()
    return {p.name: _option_of(declared, p) for p in parameters if p.kind is p.KEYWORD_ONLY}


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
    return checked(Option(parameter.name, wanted, default))


def _type_of(default: Any) -> type:
    """Return the type that an option is of which only the default is declared."""
    if default is dataclasses.MISSING or default is None:
        return str
    return next((kind for kind in (Path, float) if isinstance(default, kind)), type(default))


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
                if option.choices or option.bounds:
                    option.check(bound[name])
            except (TypeError, ValueError, OverflowError):  # int() of an infinite number overflows
                message = f"{flag} {name}={given[name]}: expected {option.kind}"
                raise OptionError(f"{message} (an option of {owner})") from None
            except RecipeError as error:
                message = f"{flag} {name}={given[name]}: expected {error.allowed}"
                raise OptionError(f"{message} (an option of {owner})") from None
        elif option.required:
            raise OptionError(f"{owner} needs {flag} {name}=… ({option.kind})")
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
    if members(wanted) != (wanted,):
        return _convert_union(value, members(wanted))
    if typing.get_origin(wanted) is Literal:
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


def _convert_union(value: Any, kinds: tuple[Any, ...]) -> Any:
    words = ("none",) if str in kinds else ("none", "")  # a text may be empty
    if type(None) in kinds and (value is None or str(value).lower() in words):
        return None
    for member in kinds:
        if member is not type(None):
            try:
                return _convert(value, member)
            except (TypeError, ValueError, OverflowError):
                continue
    raise ValueError(value)
