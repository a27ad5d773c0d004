"""The help as people read it: flags in groups, examples as they are typed, colours where a terminal shows them."""

from __future__ import annotations

import re

import click
import pytest
from click.testing import CliRunner

from evo_tune.cli import cli, command_module, command_names
from evo_tune.cli.help import FLAGS, Command


def shown(name: str) -> str:
    return CliRunner().invoke(cli, [name, "--help"], env={"COLUMNS": "100"}).output


@pytest.mark.parametrize("name", command_names())
def test_every_flag_stands_once_and_in_a_group_of_its_own(name: str) -> None:
    command = command_module(name).command
    assert isinstance(command, Command), "made with cli.help.command"
    context = click.Context(command, info_name=name)
    flags = [one for one in command.get_params(context) if isinstance(one, click.Option) and not one.hidden]
    groups = command.groups(context)
    assert sorted(one.opts for held in groups.values() for one in held) == sorted(one.opts for one in flags)
    assert "Other flags" not in groups, "its flags have no row in cli.help.FLAGS"
    for one in flags:
        assert one.help, f"{one.opts} says nothing"
        assert one.opts[-1] in shown(name)


def test_each_command_is_described_in_a_line_of_a_narrow_terminal() -> None:
    _, commands = CliRunner().invoke(cli, ["--help"], env={"COLUMNS": "80"}).output.split("\nSearch:\n")
    assert "..." not in commands


def test_many_flags_come_in_the_order_in_which_one_asks() -> None:
    titles = [title for title in FLAGS if title != "Schedule"]
    assert re.findall(r"^(\w[\w ]+):$", shown("run"), re.MULTILINE) == [*titles, "Examples"]
    assert re.findall(r"^(\w[\w ]+):$", shown("show"), re.MULTILINE) == ["Options"], "few need no groups"


@pytest.mark.parametrize(
    "name", [name for name in command_names() if getattr(command_module(name).command, "examples", ())]
)
def test_examples_are_printed_as_they_are_typed(name: str) -> None:
    printed = shown(name)
    for line in command_module(name).command.examples:
        assert "".join(f"\n  {part}" for part in line.splitlines()) + "\n" in printed
    assert "\b" not in printed


@pytest.mark.parametrize("name", command_names())
def test_help_fits_into_80_columns(name: str) -> None:
    assert max(map(len, shown(name).splitlines())) <= 80
