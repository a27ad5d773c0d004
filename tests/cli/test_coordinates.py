"""`evo-tune coordinates`: its verdict, its exit code, its JSON."""

from __future__ import annotations

import json

import msgspec
from click.testing import CliRunner

from evo_tune.cli import cli
from evo_tune.cli.output import outputs

SMALL = ["--widths", "32,64,128", "--depths", "", "--steps", "2"]


def test_the_verdict_is_the_exit_code() -> None:
    good = CliRunner().invoke(cli, ["coordinates", "mup", *SMALL, "--format", "json"])
    assert good.exit_code == 0
    msgspec.json.decode(good.output, type=outputs()["coordinates"])
    rows = json.loads(good.output)["slopes"]
    assert [(row["of"], row["against"], row["passed"]) for row in rows] == [
        ("stream", "width", True),
        ("logits", "width", True),
    ]
    bad = CliRunner().invoke(cli, ["coordinates", "standard", *SMALL], standalone_mode=False)
    assert bad.return_value == 1
    assert "does not keep the size of activations" in bad.output
    assert "fails" in bad.output


def test_widths_that_are_none_are_said() -> None:
    wrong = CliRunner().invoke(cli, ["coordinates", "mup", "--widths", "32,x"])
    assert wrong.exit_code
    assert "--widths 32,x" in str(wrong.output) + str(wrong.exception)
