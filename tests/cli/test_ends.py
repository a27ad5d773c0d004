"""A best at the end of a range is told by people's output too: at a run's end, and by `show`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from evo_tune.cli import cli
from evo_tune.cli.session import print_summary
from evo_tune.store.run import Run

STORE = Path(__file__).parents[2] / "populations"


def test_the_closing_table_and_show_tell_which_ranges_to_widen(capsys: pytest.CaptureFixture[str]) -> None:
    print_summary(Run.open(STORE / "sample"))
    shown = CliRunner().invoke(cli, ["show", "sample", "--store", str(STORE)], catch_exceptions=False).output
    for text in (capsys.readouterr().out, shown):
        found = re.search(r"at an end of its range: (\w+) \(", text)
        assert found is not None, "the best of the sample is at no end: take another run"
        assert f"`evo-tune resume sample --gene '{found[1]}=" in text
