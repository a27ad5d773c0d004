"""`evo-tune evaluators NAME`: everything that an evaluator declares, for people and for programs."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import pytest

from evo_tune.cli.commands import evaluators
from evo_tune.options.declare import Option
from evo_tune.plugins.find import find_evaluator, list_evaluators
from tests.cli.conftest import Typed


def test_with_a_name_it_says_all_that_the_evaluator_declares(typed: Typed) -> None:
    shown = typed("evaluators", "language_model")
    assert shown.code == 0, shown
    plugin = find_evaluator("language_model")
    assert plugin.summary in shown.out
    for name, unit in plugin.metrics.items():
        assert (f"{name} ({unit})" if unit else name) in shown.out
    for word in (
        *plugin.supports,
        "val_loss:min",
        "bundled",
        "must be given" if plugin.options["data"].required else "",
    ):
        assert word in shown.out
    rows = [line.split()[0] for line in shown.out.splitlines() if line.startswith(" ") and line.split()]
    assert set(plugin.options) <= set(rows)


def test_its_data_is_the_same_in_json_and_csv(typed: Typed) -> None:
    data = json.loads(typed("evaluators", "quick.py", "--format", "json").out)
    assert data["summary"] == "A quadratic with a forbidden corner, for tests."
    assert data["objectives"] == [{"metric": "loss", "direction": "min"}]
    assert data["metrics"] == {"loss": "", "cost": "s"}
    assert data["supports"] == []
    assert [(row["option"], row["type"], row["default"], row["required"]) for row in data["options"]] == [
        ("sleep", "a number", 0.0, False),
        ("bias", "a whole number", 0, False),
    ]
    rows = list(csv.DictReader(io.StringIO(typed("evaluators", "quick.py", "--format", "csv").out)))
    assert [(row["option"], row["type"], row["default"]) for row in rows] == [
        ("sleep", "a number", "0.0"),
        ("bias", "a whole number", "0"),
    ]


@pytest.mark.parametrize("name", [name for name, origin, _, _ in list_evaluators() if origin == "bundled"])
@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_every_bundled_one_can_be_shown(typed: Typed, name: str, form: str) -> None:
    shown = typed("evaluators", name, "--format", form)
    assert shown.code == 0, shown
    assert all(option in shown.out for option in find_evaluator(name).options)


def test_one_without_options_and_one_that_must_be_told(typed: Typed, folder: Path) -> None:
    plain = (folder / "quick.py").read_text().replace("*, sleep: float = 0.0, bias: int = 0", "")
    (folder / "plain.py").write_text(plain)
    assert "options: none" in typed("evaluators", "plain.py").out
    assert typed("evaluators", "plain.py", "--format", "csv").out == ""
    (folder / "asks.py").write_text(plain.replace("(genome, context, )", "(genome, context, *, data: str)"))
    assert "must be given" in typed("evaluators", "asks.py").out
    (option,) = json.loads(typed("evaluators", "asks.py", "--format", "json").out)["options"]
    assert (option["required"], option["default"]) == (True, None)


def test_an_unknown_name_ends_with_one_line(typed: Typed) -> None:
    refused = typed("evaluators", "langage_model")
    assert refused.code == 2
    assert refused.out == ""
    assert "there is no evaluator 'langage_model' (did you mean language_model?)" in refused.err


def test_data_in_place_of_an_evaluator_is_told_where_it_belongs(typed: Typed, folder: Path) -> None:
    (folder / "table.csv").write_text("a,b\n1,2\n")
    refused = typed("run", "table.csv")
    assert (refused.code, "-o data=table.csv, or let `evo-tune auto table.csv`" in refused.err) == (2, True), refused


def test_richer_options_show_what_they_say_in_their_groups() -> None:
    first = Option("lr", float, 0.1, "Peak learning rate", "(0, 1]", gene="0.1|0.2", group="Optimizer")
    other = Option("data", str, "")
    last = Option("beta", float, 0.9, group="Optimizer")
    groups = evaluators.groups_of([first, other, last])
    assert list(groups.items()) == [("Optimizer", [first, last]), ("", [other])]
    row = evaluators._row(first)
    assert (row["bounds"], row["gene"], row["help"], row["unit"]) == ("(0, 1]", "0.1|0.2", "Peak learning rate", "")
    assert evaluators._row(other)["default"] == "''"
    assert list(evaluators.option_rows([last])[0]) == ["option", "type", "default"]


def test_what_has_no_end_in_a_strangers_folder_is_not_read(typed: Typed, folder: Path) -> None:
    (folder / "evaluators").mkdir()
    os.mkfifo(folder / "evaluators" / "pipe.py")
    (folder / "evaluators" / "endless.py").symlink_to("/dev/zero")
    with (folder / "evaluators" / "long.py").open("wb") as file:
        file.truncate(2**40)
    rows = {row["evaluator"]: row["summary"] for row in json.loads(typed("evaluators", "--format", "json").out)}
    assert "pipe" not in rows
    assert "endless" not in rows
    assert rows["long"].startswith("broken: ")
    refused = typed("evaluators", "evaluators/pipe.py")
    assert "it is no regular file" in refused.err
    assert len(refused.err.splitlines()) == 1
