"""benchmarks/search.py: what it scores is checked by hand on a table of its own; the real ones may be absent."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "search.py"


@pytest.fixture(scope="module")
def search() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_search", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def table(search: ModuleType, tmp_path: Path) -> object:
    """Return a table of 4 x 2 cells whose losses are 0 to 6, one cell missing."""
    cells = [(width, kind) for width in (16, 32, 64, 128) for kind in ("a", "b")][:7]
    frame = pd.DataFrame(cells, columns=["width", "kind"]).assign(score=-np.arange(7.0))
    frame.to_parquet(tmp_path / "table.parquet")
    source = search.Source("table.parquet", ("width",), "score", unordered=("kind",), maximised=True)
    return search.Table("table", tmp_path / "table.parquet", source)


def test_regret_is_zero_at_the_best_and_one_at_the_median(search: ModuleType, table: object) -> None:
    regrets = table.regrets([None, 6.0, 3.0, None, 0.0])  # type: ignore[attr-defined]
    assert regrets.tolist() == [np.inf, 2.0, 1.0, 1.0, 0.0]
    assert search.Played(regrets, 0.0).needed == 5


def test_missing_cells_fail(table: object) -> None:
    look_up = table.look_up  # type: ignore[attr-defined]
    assert look_up({"width": 16, "kind": "b"}) == 1.0
    assert look_up({"width": 128, "kind": "b"}) is None


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("method", ["saea", "ga", "random"])
def test_a_small_table_is_known_in_the_end(search: ModuleType, table: object, method: str, slots: int) -> None:
    played = search.play(search.METHODS[method], table, 0, 20, slots)
    assert len(played.regrets) == 20
    assert played.regrets[-1] == 0.0
    assert played.needed <= 8


def test_absent_tables_are_no_error(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--tables", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "nothing to measure" in done.stdout
