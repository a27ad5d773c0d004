"""The split of samples: equal ones, groups and times are never on both sides; without them nothing changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evo_tune.errors import OptionError
from evo_tune.training.recipe import Table, TableSource, describe_table, read_images, read_labelled_texts, read_table
from evo_tune.training.recipe.data.splitting import (
    Division,
    cross_validation,
    split_by_time,
    split_rows,
    split_stratified,
)

SHARES = (0.2, 0.2)
RNG = np.random.default_rng(0)


def grouped(sizes: list[int]) -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).permutation(np.repeat(np.arange(len(sizes)), sizes))


@given(sizes=st.lists(st.integers(1, 9), min_size=12, max_size=60), real=st.booleans())
def test_a_group_is_in_one_part_and_parts_have_about_their_shares(sizes: list[int], real: bool) -> None:
    groups = grouped(sizes)
    classes = groups % 2  # a class has six groups at least
    parts = (
        split_rows(len(groups), *SHARES, groups=groups) if real else split_stratified(classes, *SHARES, groups=groups)
    )
    assert sorted(np.concatenate(parts)) == list(range(len(groups)))
    owners = [set(groups[part]) for part in parts]
    assert sum(map(len, owners)) == len(set(groups))
    for part in parts[1:]:
        assert abs(len(part) - 0.2 * len(groups)) <= 2 * max(sizes)
        assert real or len(set(classes[part])) == 2
    assert real or len(set(classes[parts[0]])) == 2


@given(
    sizes=st.lists(st.integers(1, 5), min_size=30, max_size=60), count=st.integers(3, 6), kind=st.sampled_from("rcg")
)
def test_cross_validation_judges_each_row_once_and_divides_no_group(sizes: list[int], count: int, kind: str) -> None:
    groups = grouped(sizes)
    classes = None if kind == "r" else groups % 2
    division = Division(groups=groups, column="town" if kind == "g" else "")
    training, held_out, _ = division.parts(classes, len(groups), *SHARES)
    folds = cross_validation(division, classes, training, held_out, count)
    assert [len(folds), *map(list, folds[0])] == [count, list(training), list(held_out)]
    assert sorted(np.concatenate([judged for _, judged in folds])) == sorted([*training, *held_out])
    for learned, judged in folds:
        assert sorted([*learned, *judged]) == sorted([*training, *held_out])
        assert not {*groups[learned]} & {*groups[judged]}
        assert min(len(learned), len(judged)) > 0


@given(classes=st.lists(st.integers(0, 2), min_size=20, max_size=80))
def test_groups_of_one_sample_change_nothing(classes: list[int]) -> None:
    labels = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2, *classes])
    names = np.random.default_rng(1).permutation(len(labels))
    for split in (
        lambda **given_: split_stratified(labels, *SHARES, **given_),
        lambda **given_: split_rows(len(labels), *SHARES, **given_),
    ):
        assert all(np.array_equal(*pair) for pair in zip(split(), split(groups=names), strict=True))


def test_a_large_group_is_for_training() -> None:
    groups = np.array([0] * 500 + list(range(1, 101)))
    training, held_out, test = split_rows(600, *SHARES, groups=groups)
    assert set(groups[training]) >= {0}
    assert min(len(held_out), len(test)) > 0


def test_groups_of_a_class_with_too_few_of_them_are_divided() -> None:
    classes = np.array([0] * 50 + [1] * 10)
    groups = np.array([*range(50), *[50] * 10])  # all of class 1 are equal
    for part in split_stratified(classes, *SHARES, groups=groups):
        assert set(classes[part]) == {0, 1}


@given(times=st.lists(st.integers(0, 40), min_size=10, max_size=200).filter(lambda times: len(set(times)) > 2))
def test_parts_follow_each_other_in_time(times: list[int]) -> None:
    values = np.array(times)
    training, held_out, test = split_by_time(values, *SHARES)
    assert values[training].max() < values[held_out].min() <= values[held_out].max() < values[test].min()
    most = np.bincount(values).max()
    assert len(set(times)) < 10 or abs(len(test) - 0.2 * len(values)) <= most
    assert sorted(np.concatenate([training, held_out, test])) == list(range(len(values)))


def table(folder: Path, frame: pd.DataFrame, target: str = "y", **given_: Any) -> Table:
    frame.to_csv(folder / "t.csv", index=False)
    return read_table(TableSource(str(folder / "t.csv"), target, **given_))


@pytest.mark.parametrize("regression", [True, False])
def test_equal_rows_of_a_table_are_in_one_part(tmp_path: Path, regression: bool) -> None:
    """Labels of noise, each row six times: a model that learns rows by heart would seem to know them."""
    inputs = pd.DataFrame(RNG.normal(size=(60, 3)), columns=list("abc")).iloc[np.repeat(np.arange(60), 6)]
    y = RNG.normal(size=360) if regression else RNG.integers(0, 2, 360)
    read = table(tmp_path, inputs.assign(y=y).sample(frac=1, random_state=1))
    rows = [set(map(tuple, read.inputs[part].tolist())) for part in (read.training, read.held_out, read.test)]
    assert sum(map(len, rows)) == 60
    assert "300 rows repeat another; equal ones are in one part" in describe_table(read)[0]


def test_equal_texts_and_images_are_in_one_part(tmp_path: Path) -> None:
    texts = [f"text number {number % 40}" for number in range(240)] + ["Text, number 7"]
    labels = RNG.integers(0, 2, 241)
    pd.DataFrame({"text": texts, "label": labels}).to_csv(tmp_path / "t.csv", index=False)
    read = read_labelled_texts(str(tmp_path / "t.csv"), "text", "label")
    owners = [{texts[row] for row in part} for part in read.parts(*SHARES)]
    assert sum(map(len, owners)) == 41
    assert "200 texts repeat another; equal ones are in one part" in read.lines()
    assert any(line.startswith("1 texts differ from another in case") for line in read.lines())
    pixels = RNG.integers(0, 255, (40, 1, 8, 8), np.uint8)[np.arange(240) % 40]
    np.savez(tmp_path / "i.npz", images=pixels, labels=labels[:240])
    images = read_images(str(tmp_path / "i.npz"), 8)
    owners = [{images.pixels[row].tobytes() for row in part} for part in images.parts(*SHARES)]
    assert sum(map(len, owners)) == 40
    assert "200 images repeat another; equal ones are in one part" in images.lines()


def rows_with_users(count: int = 200) -> pd.DataFrame:
    days = pd.Timestamp("2024-01-01") + pd.to_timedelta(np.arange(count) // 2, unit="D")
    return pd.DataFrame(
        {
            "x": RNG.normal(size=count),
            "user": [f"u{number}" for number in RNG.integers(0, 12, count)],
            "day": days.strftime("%Y-%m-%d"),
            "year": 1900 + np.arange(count) // 5,
            "y": np.arange(count) % 2,
        }
    ).sample(frac=1, random_state=1)


def test_split_by_a_group_keeps_it_on_one_side_and_out_of_the_inputs(tmp_path: Path) -> None:
    frame = rows_with_users()
    read = table(tmp_path, frame, split_by="user")
    users = [set(frame["user"].iloc[part]) for part in (read.training, read.held_out, read.test)]
    assert sum(map(len, users)) == 12
    assert "user" not in read.columns.names
    assert "divided by the 12 values of column 'user', each in one part" in describe_table(read)[0]


@pytest.mark.parametrize("column", ["day", "year"])
def test_split_by_a_time_is_at_two_times(tmp_path: Path, column: str) -> None:
    frame = rows_with_users()
    read = table(tmp_path, frame, split_by=column)
    times = [frame[column].iloc[part] for part in (read.training, read.held_out, read.test)]
    assert times[0].max() < times[1].min() <= times[1].max() < times[2].min()
    assert [len(part) for part in times] == [120, 40, 40]
    assert column in read.columns.names


def test_texts_split_by_a_column(tmp_path: Path) -> None:
    frame = rows_with_users().rename(columns={"y": "label"}).assign(text=lambda rows: "text " + rows["x"].astype(str))
    frame.to_csv(tmp_path / "t.csv", index=False)
    parts = read_labelled_texts(str(tmp_path / "t.csv"), "text", "label", "user").parts(*SHARES)
    assert sum(len(set(frame["user"].iloc[part])) for part in parts) == 12


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (rows_with_users().assign(user="one"), "split_by=user: 1 different values: expected at least 3"),
        (rows_with_users().assign(user=[None, *["a", "b", "c"] * 66, "a"]), "split_by=user: 1 rows have no value"),
        (rows_with_users().drop(columns="user"), "split_by=user: no such column"),
        (rows_with_users().assign(y=lambda rows: rows["user"]), "classes have no row in the training part"),
    ],
)
def test_a_column_that_cannot_divide_is_refused_in_one_line(tmp_path: Path, frame: pd.DataFrame, words: str) -> None:
    with pytest.raises(OptionError, match=words) as caught:
        table(tmp_path, frame, split_by="user")
    assert "\n" not in str(caught.value)


def test_the_target_cannot_divide(tmp_path: Path) -> None:
    frame = rows_with_users().rename(columns={"user": "label"}).assign(text="a text")
    with pytest.raises(OptionError, match="split_by=y is the target"):
        table(tmp_path, frame, split_by="y")
    with pytest.raises(OptionError, match="split_by=label has the labels"):
        read_labelled_texts(str(tmp_path / "t.csv"), "text", "label", "label")


def test_a_division_without_repetition_has_no_line() -> None:
    assert Division.of_equal([1, 2, 3], "rows").line == ""
