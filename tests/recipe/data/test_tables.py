"""Tables: what is read of files, what is learnt of columns, and what is said of those that cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evo_tune.recipe import Table, Where, divided_rows, read_table
from evo_tune.recipe.data import reading
from tests.recipe.data.refusals import refused, without


def read(path: Path, target: str = "bought", **given: Any) -> Table:
    return read_table(Where(str(path), target, held_out=0.25, test=0.25, **given))


@pytest.fixture(autouse=True)
def _fresh() -> None:
    read_table.cache_clear()  # pytest gives the folder of an earlier test again


@pytest.fixture
def frame() -> pd.DataFrame:
    """Rows whose class is told by a number and a text together, with gaps."""
    rng = np.random.default_rng(3)
    number, colour = rng.normal(5.0, 3.0, 120), rng.choice(["red", "blue", "green"], 120)
    bought = np.where((number > 5) ^ (colour == "red"), "yes", "no")
    frame = pd.DataFrame(
        {"id": range(120), "number": number, "colour": colour, "shop": rng.integers(1, 4, 120), "bought": bought}
    )
    frame.loc[5:12, "number"] = np.nan
    frame.loc[20:24, "colour"] = None
    return frame


def test_csv_and_parquet_are_read_alike(frame: pd.DataFrame, tmp_path: Path) -> None:
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_parquet(tmp_path / "t.parquet")
    one, two = (read(tmp_path / file, categorical="shop", ignore="id") for file in ("t.csv", "t.parquet"))
    assert one.columns.numeric == ("number",)
    assert one.columns.categorical == {"colour": ("blue", "green", "red"), "shop": ("1", "2", "3")}
    assert one.target.labels == ("no", "yes")
    assert np.allclose(one.inputs, two.inputs, equal_nan=True)
    assert np.isnan(one.inputs[5:13, 0]).all()
    assert (one.inputs[20:25, 1] == 0).all()


def test_nothing_is_learnt_from_held_out_rows(frame: pd.DataFrame, tmp_path: Path) -> None:
    frame.to_csv(tmp_path / "t.csv", index=False)
    held = read(tmp_path / "t.csv").held_out
    frame.loc[held, "colour"] = "violet"
    frame.to_csv(tmp_path / "u.csv", index=False)
    table = read(tmp_path / "u.csv")
    assert np.array_equal(table.held_out, held)
    assert table.columns.categorical["colour"] == ("blue", "green", "red")
    assert (table.inputs[held, -1] == 0).all()


@pytest.mark.parametrize(
    ("values", "decided"),
    [
        ([0.5 * n for n in range(120)], "regression, since it has 120 different numbers"),
        (list(range(120)), "regression, since it has 120 different whole numbers (-o task=classification otherwise)"),
        ([n % 12 for n in range(120)], "classification, since it has 12 different whole numbers"),
        ([float(n % 12) for n in range(120)], "classification, since it has 12 different whole numbers"),
        ([n % 2 == 0 for n in range(120)], "classification, since its values are not numbers"),
        ([str(0.5 * n) for n in range(120)], "regression, since it has 120 different numbers"),
        ([str(n % 2) for n in range(120)], "classification, since it has 2 different whole numbers"),
        ([n % 2 or "a" for n in range(120)], "classification, since its values are not numbers"),
    ],
)
def test_the_task_follows_from_the_target_and_is_said(
    frame: pd.DataFrame, tmp_path: Path, values: list[Any], decided: str
) -> None:
    frame.assign(bought=values).to_csv(tmp_path / "t.csv", index=False)
    table = read(tmp_path / "t.csv")
    assert table.target.decided.startswith(decided)
    assert table.regression == decided.startswith("regression")


def test_an_option_overrules_the_task(frame: pd.DataFrame, tmp_path: Path) -> None:
    frame.assign(bought=[n % 12 for n in range(120)]).to_csv(tmp_path / "t.csv", index=False)
    table = read(tmp_path / "t.csv", task="regression")
    assert table.target.decided == "regression, by -o task; it has 12 different whole numbers"
    assert table.target.values.tolist() == [n % 12 for n in range(120)]


def test_rows_without_a_target_are_left_out_if_asked(frame: pd.DataFrame, tmp_path: Path) -> None:
    frame.assign(bought=[None if n % 4 == 0 else 0.1 * n for n in range(120)]).to_csv(tmp_path / "t.csv", index=False)
    refused(read, "30 of 120 rows have none: .* -o drop_unlabelled=true", tmp_path / "t.csv")
    table = read(tmp_path / "t.csv", drop_unlabelled=True)
    assert len(table.inputs) == len(table.target.values) == 90
    assert table.inputs[:3, 0].tolist() == [1, 2, 3]  # the column id: inputs and targets are of the same rows
    assert table.target.values[:3] == pytest.approx([0.1, 0.2, 0.3])


def test_rows_are_divided_by_their_number_alone() -> None:
    parts = divided_rows(50, 0.2, 0.1)
    assert [len(part) for part in parts] == [35, 10, 5]
    assert sorted(np.concatenate(parts).tolist()) == list(range(50))
    assert all(np.array_equal(one, two) for one, two in zip(parts, divided_rows(50, 0.2, 0.1), strict=True))
    assert [len(part) for part in divided_rows(4, 0.1, 0.1)] == [2, 1, 1]


def test_tables_that_cannot_be_used(frame: pd.DataFrame, tmp_path: Path) -> None:
    dates = frame.assign(day=pd.Timestamp("2020-01-01"))
    cases: list[tuple[pd.DataFrame, dict[str, str], str]] = [
        (frame, {"target": "sold"}, "target=sold: no such column; .* has the columns id, number, colour, shop, bought"),
        (frame, {"ignore": "name"}, "ignore=name: no such column"),
        (frame, {"categorical": "name"}, "categorical=name: no such column"),
        (frame, {"target": "colour"}, "target=colour: 5 of 120 rows have none"),
        (frame, {"target": "id", "task": "classification"}, "120 different values: .* -o task=regression predicts"),
        (frame, {"task": "regression"}, "has the value '(yes|no)', which is no number: .* -o task=classification"),
        (frame.assign(bought=np.nan), {}, "none of the 120 rows has a value: choose another column"),
        (frame.assign(bought=[np.inf, *range(119)]), {}, "bought: 1 of 120 rows have infinity"),
        (frame.assign(bought=2.5), {}, "is 2.5 in every row: expected different values"),
        (frame.assign(bought=[1e200, *range(119)]), {}, "1e.200 is above 1e.100: use another unit"),
        (frame.assign(bought=pd.Timestamp("2020-01-01")), {}, "is of type datetime.*: expected numbers or classes"),
        (frame[:3].assign(bought=[0.5, 1.5, 2.5]), {}, "bought: 3 rows: expected 4 at least"),
        (frame.assign(bought="yes"), {}, "1 different values"),
        (frame.assign(bought=["once"] + ["no"] * 119), {}, "1 of class once: expected at least 3 rows of each"),
        (frame[["bought"]], {}, "expected one at least beside target"),
        (frame.assign(number=np.inf), {}, "'number' holds infinite numbers"),
        (dates, {}, "'day' is of type datetime"),
    ]
    for number, (table, given, words) in enumerate(cases):
        table.to_parquet(tmp_path / f"{number}.parquet")
        refused(lambda path, given=given: read(path, **given), words, tmp_path / f"{number}.parquet")
    (tmp_path / "no.parquet").write_text("a,b\n1,2\n")
    refused(read, "cannot read it as a table", tmp_path / "no.parquet", "a")


def test_a_missing_extra_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "sklearn")
    refused(read_table, r"pip install 'evo-tune\[sklearn\]'", Where("", ""))


def test_a_packed_table_is_read_unless_it_unpacks_to_a_thousand_times_its_size(
    frame: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame.to_csv(tmp_path / "t.csv.gz", index=False)
    frame.to_csv(tmp_path / "t.csv.xz", index=False)
    assert read(tmp_path / "t.csv.gz").target.labels == read(tmp_path / "t.csv.xz").target.labels == ("no", "yes")
    monkeypatch.setattr(reading, "ALWAYS", 1 << 20)  # by itself, it would take seconds to get there
    pd.DataFrame({"x": [0] * 10**6, "bought": "yes"}).to_csv(tmp_path / "bomb.csv.gz", index=False)
    refused(read, r"unpacks to more than \d+ bytes", tmp_path / "bomb.csv.gz")


def test_a_table_of_too_many_rows_or_columns_is_refused_before_it_is_read(tmp_path: Path) -> None:
    column = pa.nulls(10**7, pa.int8())
    with pq.ParquetWriter(tmp_path / "rows.parquet", pa.schema([("x", pa.int8()), ("bought", pa.int8())])) as writer:
        for _ in range(30):
            writer.write_table(pa.table({"x": column, "bought": column}))
    assert (tmp_path / "rows.parquet").stat().st_size < 2**21
    refused(read, "has 300000000 rows of 2 columns: expected at most", tmp_path / "rows.parquet")
    (tmp_path / "columns.csv").write_text(",".join(f"c{n}" for n in range(300_000)) + "\n")
    refused(read, "has 300000 columns: expected at most 20000", tmp_path / "columns.csv")
