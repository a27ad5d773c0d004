"""Columns that know the target are named; others are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evo_tune.training.recipe.data.tables import TableSource, describe_table, read_table


def named(folder: Path, target: str, **columns: object) -> list[str]:
    pd.DataFrame(columns).to_csv(folder / "t.csv", index=False)
    return read_table(TableSource(str(folder / "t.csv"), target)).telling_columns


@pytest.mark.parametrize("seed", range(3))
def test_copies_of_classes_are_named_and_strong_columns_are_not(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    died = rng.integers(0, 2, 400)
    strong = np.where(rng.random(400) < 0.95, died, 1 - died)  # right in 95 of 100 rows
    columns = {
        "strong": strong.astype(float),
        "alive": np.where(died, "no", "yes"),
        "shifted": died * 3.0 + rng.random(400),
        "noise": rng.normal(size=400),
        "day": pd.date_range("2024-01-01", periods=400).astype(str),
        "died": died,
    }
    assert named(tmp_path, "died", **columns) == ["shifted", "alive"]
    lines = describe_table(read_table(TableSource(str(tmp_path / "t.csv"), "died")))
    assert (
        "Warning: the target can be read off 'shifted', 'alive' alone: if it is not known beforehand, leave it out by "
        "-o ignore=shifted,alive" in lines
    )


def test_copies_of_numbers_are_named_however_they_are_bent(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    price = rng.uniform(1.0, 9.0, size=600)
    columns = {
        "net": price / 1.19,
        "log": -np.log(price),
        "near": price * (1.0 + 0.2 * rng.normal(size=600)),
        "noise": rng.normal(size=600),
        "price": price,
    }
    assert named(tmp_path, "price", **columns) == ["net", "log"]


def test_a_few_rows_and_a_rare_class_name_nothing(tmp_path: Path) -> None:
    kinds = np.arange(60) % 2
    assert named(tmp_path, "kind", copy=kinds + 0.5, kind=kinds) == []
    rare = (np.arange(400) % 50 == 0).astype(int)
    assert named(tmp_path, "kind", copy=rare + 0.5, kind=rare) == []


def test_public_data_have_none() -> None:
    assert read_table(TableSource("", "")).telling_columns == []
