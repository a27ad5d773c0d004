"""Flags of `run` and `resume` made from the declarations of settings.

Commands import it when they are used: the declarations would slow `evo-tune --help`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import click

from evo_tune.cli import shared
from evo_tune.options.declare import AUTO, Option, Options, dataclass_options, union_members
from evo_tune.settings import RunSettings, SessionSettings

RUN_DEFAULTS = {"final_seeds": 3, "finalists": 2, "seeds_per_trial": None}
"""Defaults of `evo-tune run` that differ from those of `Search`: the command ends with a final comparison, and with
a limit in training time the leading genomes get extra seeds (`loop.plan`)."""


class SettingFlag(click.Option):
    """Flag of a declared setting.

    Args:
        title: Title of its group in the help.
        args: Arguments of `click.Option`.
        kwargs: Arguments of `click.Option`.
    """

    def __init__(self, *args: Any, title: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.title = title


def run_flags() -> list[click.Option]:
    """Return a flag for each setting of a run and of a session, as `evo-tune run` takes them."""
    return [*_flags(RunSettings, RUN_DEFAULTS), *_flags(SessionSettings, RUN_DEFAULTS)]


def session_flags() -> list[click.Option]:
    """Return a flag for each setting of a session. The help tells no defaults: a session has those of the last one."""
    return _flags(SessionSettings, None)


def _flags(kind: type[Options], defaults: Mapping[str, Any] | None) -> list[click.Option]:
    """Return a flag for each setting of a group. A flag that is not given has the value None.

    Args:
        kind: Group of settings.
        defaults: Defaults that the help tells instead of the declared ones; None tells no defaults.
    """
    return [
        _flag(setting, None if defaults is None else defaults.get(setting.name, setting.default))
        for setting in dataclass_options(kind).values()
    ]


def _flag(setting: Option, default: Any) -> click.Option:
    """Return the flag of a setting."""
    kinds, attributes = union_members(setting.type), dict[str, Any]()
    low, high = (float(bound) for bound in (setting.bounds or "(-inf, inf)")[1:-1].split(","))
    if bool in kinds:
        attributes["is_flag"] = True
    elif setting.choices:
        attributes["type"] = click.Choice([str(value) for value in setting.choices])
    elif int in kinds:
        integer = shared.CountOrAuto if AUTO in setting.kind else click.IntRange
        attributes["type"] = integer(min=int(low), max=None if math.isinf(high) else int(high))
    elif float in kinds:
        attributes["type"] = click.FloatRange(min=low, min_open=setting.bounds.startswith("("))
    if isinstance(attributes.get("type"), shared.CountOrAuto):
        attributes["metavar"] = "N|auto"
    elif str in kinds and setting.unit:
        attributes["metavar"] = setting.unit
    default_text = "" if default is None or default is False or default == "" else f"  [default: {default}]"
    flag = f"--{setting.name.replace('_', '-')}"
    if setting.default is True:
        flag += f"/--no-{setting.name.replace('_', '-')}"
    return SettingFlag([flag], default=None, title=setting.group, help=setting.help + default_text, **attributes)
