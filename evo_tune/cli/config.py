"""`--config FILE`: read the flags of a command from a TOML file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from evo_tune.cli import shared
from evo_tune.errors import OptionError

LARGEST = 1 << 18
"""Most characters of the file."""

PART = r"""(?:[\w-]+|"[^"\n]*"|'[^'\n]*')"""
LONG_KEY = re.compile(rf"(?:^|[{{,\[])\s*{PART}(?:[ \t]*\.[ \t]*{PART}){{10}}", re.MULTILINE)
"""A key of more than ten parts ('a.a.a.…'): parsing it takes time that grows with the square of its parts."""


def read_config(ctx: click.Context, parameter: click.Parameter, path: str | None) -> None:
    """Read flags from a TOML file; flags on the command line take precedence."""
    if path is None or ctx.resilient_parsing:  # a shell completes
        return
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib
    try:
        given = tomllib.loads(_read(path))
    except RecursionError:
        raise OptionError(f"--config {path}: nested too deeply; expected a TOML file") from None
    except (OSError, ValueError) as error:
        raise OptionError(f"--config {path}: {error}; expected a TOML file") from None
    flags = {opt.lstrip("-").replace("-", "_"): flag for flag in ctx.command.params for opt in flag.opts}
    defaults: dict[str, Any] = {}
    for key, value in given.items():
        flag = flags.get(key.replace("-", "_"))
        if flag is None or flag.name is None or flag is parameter:
            raise OptionError(f"--config {path}: {key!r} is not a flag of run; `evo-tune run --help` lists them")
        if flag.name in defaults:
            raise OptionError(f"--config {path}: {key} is given twice, by two names: give it once")
        try:
            defaults[flag.name] = _of_flag(flag, value, ctx)
        except (ValueError, click.BadParameter) as error:
            what = error.message.rstrip(".") if isinstance(error, click.BadParameter) else f"{value!r}: {error}"
            raise OptionError(f"--config {path}, {key}: {what}") from None
    ctx.default_map = {**(ctx.default_map or {}), **defaults}


def _read(path: str) -> str:
    """Return the text of a file.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no text file, or it is too large.
    """
    if not Path(path).is_file() and Path(path).exists() and not Path(path).is_dir():
        raise ValueError("it is not a regular file")
    if not Path(path).stat().st_size:
        return ""  # /proc/kmsg has a size of 0, and reading it waits forever
    with open(path, encoding="utf-8") as file:
        text = file.read(LARGEST + 1)
    if len(text) > LARGEST:
        raise ValueError(f"it has more than {LARGEST} characters")
    if LONG_KEY.search(text):
        raise ValueError("a key in it has more than ten parts")
    return text


def _of_flag(flag: click.Parameter, value: object, ctx: click.Context) -> object:
    """Return a TOML value as the value of a flag.

    Raises:
        ValueError: Its type is wrong; the message has the expected one.
        click.BadParameter: It is out of range, or none of the choices.
    """
    if getattr(flag, "multiple", False):
        return _repeated(value, pairs=str(flag.metavar).startswith("NAME="))
    if value == "auto" and isinstance(flag.type, shared.CountOrAuto):
        return value
    kind: type = str
    what = "text, in quotes"
    if getattr(flag, "is_flag", False):
        kind, what = bool, "true or false"
    elif isinstance(flag.type, click.types.IntParamType):
        kind, what = int, "a whole number"
    elif isinstance(flag.type, click.types.FloatParamType):
        kind, what = float, "a number"
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise ValueError(f"expected {what}")
    return flag.type.convert(value, flag, ctx)


def _repeated(value: object, pairs: bool) -> list[str]:
    """Return the values of a repeatable flag: a text, a list of texts, or a table of NAME=VALUE pairs."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    if pairs and isinstance(value, dict):  # [option] tokens = 100000
        scalar = (str, int, float)  # bool is an int
        wrong = next((name for name, item in value.items() if not isinstance(item, scalar)), None)
        if wrong is not None:
            raise ValueError(f"expected one value for {wrong}: text, a number, true or false")
        return [f"{name}={_as_text(item)}" for name, item in value.items()]
    raise ValueError("expected text, a list of texts" + (", or a table of names and values" if pairs else ""))


def _as_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
