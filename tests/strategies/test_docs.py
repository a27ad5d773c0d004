"""docs/strategies.md lists the strategies; tests/evaluators/test_docs.py looks at their options."""

from __future__ import annotations

import re

from evo_tune.plugins.find import PACKAGE
from tests.test_architecture import ROOT

TABLE = (ROOT / "docs" / "strategies.md").read_text(encoding="utf-8").partition("## Write your own")[0]
BUNDLED = sorted(path.stem for path in (PACKAGE / "strategies").glob("*.py") if not path.stem.startswith("_"))


def test_the_table_has_a_row_for_each_strategy_and_no_other() -> None:
    listed = re.findall(r"^\| `(\w+)`.*\|.*\|.*\|.*\|$", TABLE, re.MULTILINE)
    assert sorted(listed) == BUNDLED, "docs/strategies.md, 'Bundled strategies': one row for each strategy"
