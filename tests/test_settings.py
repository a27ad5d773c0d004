"""Each setting is declared once; flags, keywords, files and the page in docs follow from the declaration."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import click
import pytest

from evo_tune import Search
from evo_tune.cli.commands import resume, run
from evo_tune.cli.help import FLAGS
from evo_tune.errors import OptionError, UsageError
from evo_tune.loop.deadline import next_session
from evo_tune.options.declare import dataclass_options
from evo_tune.settings import LIMITS, RunSettings, SessionSettings, parse_settings, read_settings
from tests.public import script

OF_RUN, OF_SESSION = dataclass_options(RunSettings), dataclass_options(SessionSettings)


def flags(command: click.Command) -> dict[str, click.Option]:
    params = command.get_params(click.Context(command))
    return {one.name or "": one for one in params if isinstance(one, click.Option)}


@pytest.mark.parametrize("name", [*OF_RUN, *OF_SESSION])
def test_every_setting_is_a_flag_with_its_help(name: str) -> None:
    one = {**OF_RUN, **OF_SESSION}[name]
    flag = flags(run.command)[name]
    assert one.help.endswith(".")
    assert (flag.help or "").startswith(one.help)
    assert one.group in FLAGS, "its group is no title of the help"
    assert flag.opts == [f"--{name.replace('_', '-')}"]
    assert (name in flags(resume.command)) == (name in OF_SESSION)


def test_no_name_is_declared_twice() -> None:
    assert not OF_RUN.keys() & OF_SESSION.keys()


def test_the_page_is_made_from_the_declarations() -> None:
    described = re.findall(r"^\| `--([\w-]+)`", script("docs/make_settings.py").generated(), re.MULTILINE)
    assert described == [name.replace("_", "-") for name in (*OF_RUN, *OF_SESSION)]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"trails": 5}, r"no option 'trails' \(did you mean trials\?\)"),
        ({"trials": 0}, "--trials 0: expected a whole number, 1 to 1000000000, or none"),
        ({"hours": float("nan")}, "--hours nan: expected a number in"),
        ({"per_device": "many"}, "--per-device many: expected a whole number or auto"),
        ({"max_slots": 2}, "--max-slots is for clusters"),
        ({"backend": "ray", "per_device": "auto"}, "--per-device auto is for GPUs of this machine"),
        ({"fidelity": None}, "--fidelity None: expected auto, or fractions"),
    ],
)
def test_a_wrong_keyword_is_refused(tmp_path: Path, given: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        Search("language_model", store=tmp_path / "store", **given)
    assert not (tmp_path / "store").exists()


def test_rungs_may_be_numbers() -> None:
    assert parse_settings({"fidelity": (1 / 9, 1 / 3, 1.0)})[0].rungs == (1 / 9, 1 / 3, 1.0)
    assert parse_settings({"fidelity": "1/9,1/3,1"})[0].rungs == (1 / 9, 1 / 3, 1.0)
    assert parse_settings({"fidelity": 1})[0].rungs == (1.0,)


def test_saved_settings_are_read_strictly() -> None:
    for kind in (RunSettings, SessionSettings):
        usual = kind()
        assert read_settings(kind, usual.to_json()) == read_settings(kind, {}) == (usual, {})
        with pytest.raises(ValueError, match="unknown setting 'evil'"):
            read_settings(kind, {"evil": 1})
    with pytest.raises(UsageError):
        read_settings(RunSettings, {"seed": "1"})


def test_a_new_limit_replaces_all_earlier_ones_and_nothing_else_changes() -> None:
    session = SessionSettings(trials=3, hours=1.0, slots=2, stop_when_done=True)
    assert session.has_limits
    following = next_session(session, {"trials": 5}, 2)
    changed = {name for name, value in vars(session).items() if getattr(following, name) != value}
    assert changed == {"trials", "hours", "stop_when_done"}
    assert (following.trials, following.hours, following.stop_when_done) == (5, None, False)
    assert set(LIMITS) < {one.name for one in dataclasses.fields(SessionSettings)}
