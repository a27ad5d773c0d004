"""docs/strategies.md lists the strategies that there are."""

from __future__ import annotations

import re

from evo_tune.plugins.find import PACKAGE
from tests.test_architecture import ROOT

TABLE = (ROOT / "docs" / "strategies.md").read_text(encoding="utf-8").partition("### ")[0].partition("## How")[0]


def test_the_table_has_a_row_for_each_strategy_and_no_other() -> None:
    listed = re.findall(r"^\| `(\w+)`.*\|.*\|.*\|.*\|$", TABLE, re.MULTILINE)
    bundled = [path.stem for path in (PACKAGE / "strategies").glob("*.py") if not path.stem.startswith("_")]
    assert sorted(listed) == sorted(bundled), "docs/strategies.md, 'Those that there are': one row for each strategy"
