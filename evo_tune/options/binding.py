"""Bind values that a user gave to declared options: convert them, check them, name the flag in each error.

Options are declared as dataclass fields with `declare.option`, or as keyword-only parameters of a function. The same
functions serve evaluators (`-o name=value`), strategies (`-s name=value`) and flags (`--name value`). This module does
not know what any option means.
"""

import contextlib
import dataclasses
import inspect
import operator
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from evo_tune.errors import OptionError, RecipeError
from evo_tune.options.declare import Option, dataclass_options, normalise_declaration, union_members, without_dropped

OptionsT = TypeVar("OptionsT")

# Texts of a bool, in lower case.
TRUE_WORDS, FALSE_WORDS = ("true", "yes", "1"), ("false", "no", "0")


def options_of(declared: Callable[..., Any] | type) -> dict[str, Option]:
    """Return the options that a function (keyword-only parameters) or a dataclass (fields) declares, by name.

    Raises:
        OptionError: A type cannot be read or cannot be typed by a user, or a default is not plain data.
    """
    if isinstance(declared, type):
        return dict(dataclass_options(declared))
    options = {}
    for parameter in inspect.signature(declared).parameters.values():
        if parameter.kind is not parameter.KEYWORD_ONLY:
            continue
        default = dataclasses.MISSING if parameter.default is parameter.empty else parameter.default
        annotation = parameter.annotation
        if annotation is parameter.empty:  # the type of the default
            # The default may be of a subclass, such as PosixPath or a float of numpy.
            base_types = (base_type for base_type in (Path, float) if isinstance(default, base_type))
            annotation = str if default is dataclasses.MISSING or default is None else next(base_types, type(default))
        elif isinstance(annotation, str):
            # One at a time: other parameters may name types that are imported for type checkers only.
            try:
                annotation = eval(annotation, getattr(declared, "__globals__", {}))
            except Exception as error:
                raise OptionError(f"option {parameter.name}: cannot read its type {annotation!r}: {error}") from error
        options[parameter.name] = normalise_declaration(Option(parameter.name, annotation, default))
    return options


def build_options(options_class: type[OptionsT], values: Mapping[str, Any], owner: str, flag: str) -> OptionsT:
    """Return a dataclass of options made from the values that a user gave.

    Args:
        options_class: The dataclass.
        values: See `bind_options`.
        owner: See `bind_options`.
        flag: See `bind_options`.

    Raises:
        OptionError: As `bind_options`.
        UsageError: The group's own check refuses the combination.
    """
    try:
        present = without_dropped(options_class, values)
        return options_class(**bind_options(present, options_of(options_class), owner, flag))
    except RecipeError as error:
        raise _option_error(error.field, error.value, error.allowed, owner, flag) from None


# Maximum characters of a refused value in an error: it may come from a stranger's run.
MAX_SHOWN_VALUE = 300


def bind_options(values: Mapping[str, Any], options: Mapping[str, Option], owner: str, flag: str) -> dict[str, Any]:
    """Return the value of every option: the given value, converted and checked, or the default.

    Args:
        values: Values by option name. Strings, as a user types them, are converted to the declared type.
        options: The declared options by name.
        owner: Name of the plug-in or command that declares them, for error messages ("language_model").
        flag: Command-line prefix, for error messages: "-o" for `-o name=value`, "--" for `--name value`.

    Raises:
        OptionError: An option is unknown, missing, of the wrong type or out of its bounds.
    """
    if not isinstance(values, Mapping):
        raise OptionError(f"options of {owner}: {values!r} is not allowed: expected a dict of names to values")
    for name in values:
        if name not in options:
            names = ", ".join(options) or "none"
            raise OptionError(
                f"{owner} has no option {name!r}{did_you_mean(str(name), options)}: expected one of {names}"
            )
    bound = {}
    for name, option in options.items():
        if name not in values:
            if option.required:
                raise OptionError(f"{owner} needs {format_flag(flag, name, '…')} ({option.kind})")
            bound[name] = option.default
            continue
        try:
            bound[name] = _convert(values[name], option.type)
            if option.choices or option.bounds:  # else the type alone counts
                option.check(bound[name])
        except (TypeError, ValueError, OverflowError):  # int() of an infinite number overflows
            raise _option_error(name, values[name], option.kind, owner, flag) from None
        except RecipeError as error:
            raise _option_error(name, values[name], error.allowed, owner, flag) from None
    return bound


def refused_values(values: Mapping[str, Any], options: Mapping[str, Option], flag: str) -> dict[str, str]:
    """Return the values that options do not allow, or that no option has, as a user types them, by name."""
    refused = {}
    for name, value in values.items():
        try:
            bind_options({name: value}, {name: options[name]}, "", flag)
        except (KeyError, OptionError):
            shown = format_flag(flag, name, value)
            refused[name] = shown if len(shown) <= MAX_SHOWN_VALUE else f"{shown[:MAX_SHOWN_VALUE]}…"
    return refused


def _option_error(name: str, value: object, expected: str, owner: str, flag: str) -> OptionError:
    shown = format_flag(flag, name, value)
    shown = shown if len(shown) <= MAX_SHOWN_VALUE else f"{shown[:MAX_SHOWN_VALUE]}…"
    return OptionError(f"{shown}: expected {expected} (an option of {owner})")


def format_flag(flag: str, name: str, value: object) -> str:
    """Return an option as a user types it: '-o steps=5', or '--max-slots 5' where the flag is '--'."""
    return f"--{name.replace('_', '-')} {value}" if flag == "--" else f"{flag} {name}={value}"


def call_with_declared_options(function: Callable[..., Any], options: Mapping[str, Any], *args: Any) -> Any:
    """Call a function with the options that it declares; with all of them if it takes **kwargs.

    Args:
        function: Each parameter after `args` that can be passed by name may be an option, keyword-only or not.
        options: Values by option name.
        args: Positional arguments.
    """
    parameters = list(inspect.signature(function).parameters.values())
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return function(*args, **options)
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    names = {parameter.name for parameter in parameters[len(args) :] if parameter.kind in by_name}
    return function(*args, **{name: value for name, value in options.items() if name in names})


def split_assignments(texts: typing.Iterable[str], flag: str) -> dict[str, str]:
    """Split NAME=VALUE texts into a dict.

    Raises:
        OptionError: A text has no '=' or no name, or a name is given twice.
    """
    values: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise OptionError(f"{flag} {text}: expected {flag} NAME=VALUE")
        if name in values:
            raise OptionError(f"{flag} {name} is given twice: give it once")
        values[name] = value
    return values


def did_you_mean(name: str, names: typing.Iterable[str]) -> str:
    """Return ' (did you mean …?)' if a known name is close, else an empty text."""
    import difflib

    close = difflib.get_close_matches(name, list(names), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _convert(value: Any, target: Any) -> Any:
    members = union_members(target)
    if members != (target,):  # a union
        none_words = ("none",) if str in members else ("none", "")  # an empty text is a valid text
        if type(None) in members and (value is None or str(value).lower() in none_words):
            return None
        for member in members:
            if member is not type(None):
                with contextlib.suppress(TypeError, ValueError, OverflowError):
                    return _convert(value, member)
        raise ValueError(value)
    if typing.get_origin(target) is Literal:
        for allowed in typing.get_args(target):
            if value == allowed or value == str(allowed):
                return allowed
        raise ValueError(value)
    if target is bool:
        word = str(value).lower()
        if word not in TRUE_WORDS + FALSE_WORDS:
            raise ValueError(value)
        return word in TRUE_WORDS
    if target in (int, float) and isinstance(value, bool):
        raise ValueError(value)
    if target is int:
        if hasattr(value, "__index__"):  # numpy's too
            return operator.index(value)
        if isinstance(value, str) and value.strip().lstrip("+-").isdecimal():
            return int(value)  # exact, however large
        number = float(value)  # 1e5 is a whole number too
        if number != int(number):
            raise ValueError(value)
        return int(number)
    if target is float:
        return float(value)
    if target is Path:
        return str(value)  # plain data in the manifest; evaluators make a Path of it
    if target is str and not isinstance(value, str):
        raise ValueError(value)
    return value
