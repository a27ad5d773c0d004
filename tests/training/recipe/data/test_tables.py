"""Tables: what is read of files, what is learnt of columns, and what is said of those that cannot be used."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evo_tune.errors import OptionError, UsageError
from evo_tune.training.recipe import Columns, Table, TableSource, describe_table, read_table, split_rows
from evo_tune.training.recipe.data import reading
from evo_tune.training.recipe.data.kinds import classify_column
from tests.training.recipe.data.refusals import refused, without


def read(path: Path, target: str = "bought", **given: Any) -> Table:
    return read_table(TableSource(str(path), target, validation=0.25, test=0.25, **given))


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


def test_a_target_is_scaled_by_the_training_rows_alone(frame: pd.DataFrame, tmp_path: Path) -> None:
    prices = np.random.default_rng(4).normal(7.0, 2.0, 120)
    frame.assign(bought=prices).to_csv(tmp_path / "t.csv", index=False)
    table = read(tmp_path / "t.csv")
    others = np.concatenate([table.held_out, table.test])
    prices[others] = 1e6 * prices[others]
    frame.assign(bought=prices).to_csv(tmp_path / "u.csv", index=False)
    training = prices[table.training]
    assert (
        read(tmp_path / "u.csv").scale == table.scale == (pytest.approx(training.mean()), pytest.approx(training.std()))
    )


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
    assert table.target.reason.startswith(decided)
    assert table.regression == decided.startswith("regression")


def test_an_option_overrules_the_task(frame: pd.DataFrame, tmp_path: Path) -> None:
    frame.assign(bought=[n % 12 for n in range(120)]).to_csv(tmp_path / "t.csv", index=False)
    table = read(tmp_path / "t.csv", task="regression")
    assert table.target.reason == "regression, by -o task; it has 12 different whole numbers"
    assert table.target.values.tolist() == [n % 12 for n in range(120)]


def test_rows_without_a_target_are_left_out_if_asked(frame: pd.DataFrame, tmp_path: Path) -> None:
    frame.assign(bought=[None if n % 4 == 0 else 0.1 * n for n in range(120)]).to_csv(tmp_path / "t.csv", index=False)
    refused(read, "30 of 120 rows have none: .* -o drop_unlabelled=true", tmp_path / "t.csv")
    table = read(tmp_path / "t.csv", drop_unlabelled=True)
    assert len(table.inputs) == len(table.target.values) == 90
    numbers = frame["number"][[n % 4 > 0 for n in range(120)]].to_numpy(np.float32)
    assert np.array_equal(table.inputs[:, 0], numbers, equal_nan=True)  # inputs and targets are of the same rows
    assert table.target.values[:3] == pytest.approx([0.1, 0.2, 0.3])


def test_rows_are_divided_by_their_number_alone() -> None:
    parts = split_rows(50, 0.2, 0.1)
    assert [len(part) for part in parts] == [35, 10, 5]
    assert sorted(np.concatenate(parts).tolist()) == list(range(50))
    assert all(np.array_equal(one, two) for one, two in zip(parts, split_rows(50, 0.2, 0.1), strict=True))
    assert [len(part) for part in split_rows(4, 0.1, 0.1)] == [2, 1, 1]


def test_tables_that_cannot_be_used(frame: pd.DataFrame, tmp_path: Path) -> None:
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
        (frame.assign(bought="yes"), {}, "bought is yes in every row"),
        (frame.assign(bought=["once"] + ["no"] * 119), {}, "1 of class once: expected at least 3 rows of each"),
        (frame[["bought"]], {}, "expected one to learn from beside target"),
        (frame.assign(number=[np.inf, *range(119)]), {}, "'number' holds infinite numbers"),
        (frame[["id", "bought"]], {}, "expected one to learn from .*id: identifier, counts the rows"),
        (frame[["bought"]].assign(a=1, b=None), {}, "a: constant, the same in every row; b: constant, no value"),
        (frame[["bought"]].assign(a=[[1]] * 120), {}, "column 'a' holds no plain values"),
    ]
    for number, (table, given, words) in enumerate(cases):
        table.to_parquet(tmp_path / f"{number}.parquet")
        refused(lambda path, given=given: read(path, **given), words, tmp_path / f"{number}.parquet")
    (tmp_path / "no.parquet").write_text("a,b\n1,2\n")
    refused(read, "cannot read it as a table", tmp_path / "no.parquet", "a")


@pytest.mark.parametrize(
    ("values", "kind", "how"),
    [
        (["7", "x", "7.5"] * 10, "category", "3 texts"),
        (list(range(5, 35)), "identifier", "counts the rows"),
        ([float(n**2) for n in range(30)], "number", "0 to 841"),
        ([f"name {n}" for n in range(30)], "identifier", "a different text in every row"),
        (["a"] * 30, "constant", "the same in every row"),
        ([None] * 30, "constant", "no value in any row"),
        (["a", None, "b"] * 10, "category", "2 texts"),
        ([1, "a", 2.5] * 10, "category", "3 values of mixed types: float, int"),
        ([True, False, True] * 10, "number", "true and false"),
        ([f"2020-01-{n:02}" for n in range(1, 31)], "date", "30 dates as ISO8601"),
        ([f"2020-01-{n:02}T10:00:00+02:00" for n in range(1, 31)], "date", "30 dates as ISO8601"),
        ([f"{n:02}/01/2020" for n in range(1, 31)], "date", "30 dates as %d/%m/%Y"),
        ([f"01/{n:02}/2020" for n in range(1, 31)], "date", "30 dates as %m/%d/%Y"),
        ([f"{n:02}.01.2020" for n in range(1, 31)], "date", "30 dates as %d.%m.%Y"),
        (["01/02/2020", "03/04/2020"] * 15, "date", "2 dates as %d/%m/%Y (but they may be %m/%d/%Y)"),
        (["2020-01-01", "01/02/2020", "1.2.2020"] * 10, "category", "3 texts"),
    ],
)
def test_the_kind_of_a_column_is_decided_and_said(values: list[Any], kind: str, how: str) -> None:
    found = classify_column(
        pd.Series(values, name="a", dtype=object if kind != "number" else None).infer_objects(), False
    )
    assert (found.kind, found.reason) == (kind, how)


def test_a_date_becomes_numbers_and_a_model_reads_it_alike(frame: pd.DataFrame, tmp_path: Path) -> None:
    days = pd.date_range("2019-12-31 06:30", periods=120, freq="D")
    frame.assign(day=days.strftime("%Y-%m-%d %H:%M")).to_csv(tmp_path / "t.csv", index=False)
    frame.assign(day=days).to_parquet(tmp_path / "t.parquet")
    one, two = read(tmp_path / "t.csv"), read(tmp_path / "t.parquet")
    assert np.array_equal(one.inputs, two.inputs, equal_nan=True)
    assert one.columns.sizes[0] == 2 + 7
    first = one.columns.names.index("day")
    assert one.inputs[0, first : first + 6].tolist() == [2019, 12, 31, 1, 365, 6 * 3600 + 1800]
    assert one.inputs[1, first : first + 3].tolist() == [2020, 1, 1]
    again = msgspec.convert(json.loads(json.dumps(asdict(one.columns))), Columns)
    rows = {name: [None] for name in again.names}
    assert np.isnan(again.encode(rows)[0, first : first + 7]).all()
    rows["day"] = ["2021-05-04"]
    assert again.encode(rows)[0, first : first + 3].tolist() == [2021, 5, 4]


def test_what_was_read_is_said(frame: pd.DataFrame, tmp_path: Path) -> None:
    frame.assign(same=1).to_csv(tmp_path / "t.csv", index=False)
    said = describe_table(read(tmp_path / "t.csv"))
    assert said[0] == (
        "120 rows: 60 for training, 30 for validation, 30 for the test; 3 rows repeat another; equal ones are in one "
        "part"
    )
    assert said[1] == "target bought: classification, since its values are not numbers"
    assert said[2].startswith("2 classes: ")
    assert said[3] == "3 columns to learn from: 2 of kind number, 1 of kind category"
    assert said[4] == "13 of 360 cells are missing"
    assert said[5:7] == [
        "left out: id (identifier: counts the rows)",
        "left out: same (constant: the same in every row)",
    ]
    assert said[8] == "colour: category, 3 texts, 5 missing"


def test_other_encodings_are_read_or_named_with_the_remedy(frame: pd.DataFrame, tmp_path: Path) -> None:
    frame = frame.assign(colour="grün", number=range(0, 240, 2))
    frame["colour"] = np.where(frame["id"] % 2, "grün", "weiß")
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        frame.to_csv(tmp_path / f"{encoding}.csv", index=False, encoding=encoding)
        assert read(tmp_path / f"{encoding}.csv").columns.categorical["colour"] == ("grün", "weiß")
    frame.to_csv(tmp_path / "old.csv", index=False, encoding="cp1252")
    refused(read, "is not UTF-8 .* likely .*Windows-1252: convert it with iconv -f WINDOWS-1252", tmp_path / "old.csv")


def same(table: Table, other: Table) -> bool:
    """Return whether two tables have the same numbers, target and split."""
    arrays = [(one.inputs, one.target.values, one.training, one.test) for one in (table, other)]
    return all(np.allclose(mine, theirs, equal_nan=True) for mine, theirs in zip(*arrays, strict=True))


@pytest.mark.parametrize(
    ("separator", "decimal", "words"),
    [
        (";", ".", "format of the file: ';' between cells"),
        (";", ",", "format of the file: ';' between cells, decimal commas"),
        ("\t", ".", "format of the file: tabs between cells"),
        ("|", ".", "format of the file: '|' between cells"),
    ],
)
def test_other_separators_and_decimal_commas_are_noticed(
    frame: pd.DataFrame, tmp_path: Path, separator: str, decimal: str, words: str
) -> None:
    frame.to_csv(tmp_path / "plain.csv", index=False)
    frame.to_csv(tmp_path / "t.csv", index=False, sep=separator, decimal=decimal)
    table = read(tmp_path / "t.csv")
    assert same(table, read(tmp_path / "plain.csv"))
    assert describe_table(table)[0] == words


def test_points_between_thousands_are_noticed_beside_decimal_commas(frame: pd.DataFrame, tmp_path: Path) -> None:
    rents = np.random.default_rng(0).uniform(200.0, 2_000_000.0, len(frame)).round(2)
    frame["number"] = rents
    frame.to_csv(tmp_path / "plain.csv", index=False)
    german = [f"{rent:,.2f}".translate(str.maketrans(",.", ".,")) for rent in rents]
    frame.assign(number=german).to_csv(tmp_path / "t.csv", index=False, sep=";")
    table = read(tmp_path / "t.csv")
    assert same(table, read(tmp_path / "plain.csv"))
    assert describe_table(table)[0] == "format of the file: ';' between cells, decimal commas, points between thousands"


def test_a_space_after_each_comma_is_no_part_of_a_name_or_of_a_category(frame: pd.DataFrame, tmp_path: Path) -> None:
    frame.to_csv(tmp_path / "plain.csv", index=False)
    (tmp_path / "t.csv").write_text((tmp_path / "plain.csv").read_text().replace(",", ", "))
    assert read(tmp_path / "t.csv").columns == read(tmp_path / "plain.csv").columns


def test_a_decimal_comma_in_one_cell_and_a_point_in_another_is_no_number(tmp_path: Path) -> None:
    rows = "".join(f"1.{n};{n},5;{'xy'[n % 2]}\n" for n in range(40))
    (tmp_path / "t.csv").write_text("a;b;bought\n" + rows)
    assert read(tmp_path / "t.csv", categorical="b").columns.numeric == ("a",)


def test_a_table_without_names_of_columns(frame: pd.DataFrame, tmp_path: Path) -> None:
    frame.to_csv(tmp_path / "plain.csv", index=False)
    frame.to_csv(tmp_path / "t.csv", index=False, header=False)
    table = read(tmp_path / "t.csv", "column5", header="none")
    assert same(table, read(tmp_path / "plain.csv"))
    assert table.columns.names == ("column2", "column4", "column3")  # the first tells rows apart
    assert describe_table(table)[0] == "format of the file: no line of names"
    refused(read, "no such column.*if its first line is a row of data, give -o header=none", tmp_path / "t.csv")
    with pytest.raises(OptionError) as caught:
        read(tmp_path / "plain.csv", "sold")
    assert "header" not in str(caught.value)


def test_json_lines_are_a_table(frame: pd.DataFrame, tmp_path: Path) -> None:
    frame.to_csv(tmp_path / "plain.csv", index=False)
    frame.to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    assert same(read(tmp_path / "t.jsonl"), read(tmp_path / "plain.csv"))
    objects = '{"a": 1, "bought": "x"}\n'
    (tmp_path / "list.jsonl").write_text(20 * objects + '{"a": [1], "bought": "y"}\n')
    refused(read, "object 21: 'a' is a list, expected one value", tmp_path / "list.jsonl")
    (tmp_path / "array.jsonl").write_text(objects + "[1]\n")
    refused(read, "line 2 is no JSON object", tmp_path / "array.jsonl")


def test_json_lines_with_other_keys_in_each_are_refused_before_they_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "ALWAYS", 1 << 10)
    (tmp_path / "t.jsonl").write_text("".join(f'{{"k{n}": 1}}\n' for n in range(3000)))
    refused(read, "it unpacks to more than", tmp_path / "t.jsonl")
    (tmp_path / "wide.jsonl").write_text("{" + ", ".join(f'"k{n}": 1' for n in range(20_001)) + "}\n")
    refused(read, "it has 20001 columns", tmp_path / "wide.jsonl")


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b,a\n1,2,3\n")
    refused(read, "two columns are named 'a': rename one", tmp_path / "t.csv", "b")


def test_ten_thousand_columns_are_said_in_lines_that_are_cut(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    names = [f"c{n}" for n in range(10_000)]
    frame = pd.DataFrame(rng.normal(size=(40, 10_000)), columns=names).assign(bought=rng.integers(0, 2, 40))
    frame.to_parquet(tmp_path / "wide.parquet")
    table = read(tmp_path / "wide.parquet")
    assert table.inputs.shape == (40, 10_000)
    with pytest.raises(OptionError, match=r"and 9971 more$") as caught:
        read(tmp_path / "wide.parquet", "sold")
    assert len(str(caught.value)) < 400


def test_a_missing_extra_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "sklearn")
    refused(read_table, r"pip install 'evo-tune\[sklearn\]'", TableSource("", ""), kind=UsageError)


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
