"""Wrong data for `evo-tune auto`: one line that says what is wrong, before anything is trained or written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import Result, Typed
from tests.extras import need

ROWS = [(n % 7, n * n % 11, "ab"[n % 7 > 3]) for n in range(80)]
DAYS = [f"2024-{1 + n // 28:02}-{1 + n % 28:02}" for n in range(84)]


def csv(rows: object, head: str = "width,height,kind") -> str:
    return head + "\n" + "".join(",".join(map(str, row)) + "\n" for row in rows)  # type: ignore[attr-defined]


def series(values: object, times: list[str] = DAYS) -> str:
    return csv(zip(times, values, strict=True), "day,sold")  # type: ignore[call-overload]


WRONG: dict[str, tuple[str | bytes, list[str], list[str]]] = {
    "no target column": (csv(ROWS), ["--target", "price"], ["price", "no such column", "width, height, kind"]),
    "two target columns": (
        csv(ROWS),
        ["--target", "width,kind"],
        ["--target width,kind", "a table has one target: repeat the command for each"],
    ),
    "two target columns of a table": (
        csv(ROWS),
        ["--evaluator", "tabular", "--target", "width,kind"],
        ["-o target=width,kind", "a table has one target: repeat the command for each"],
    ),
    "no target given": (csv(ROWS), [], ["which one is to be predicted", "--target NAME"]),
    "target all missing": (csv((a, b, "") for a, b, _ in ROWS), ["--target", "kind"], ["kind"]),
    "some targets missing": (csv((*row[:2], row[2] * (row[0] > 0)) for row in ROWS), ["--target", "kind"], ["kind"]),
    "one class": (csv((a, b, "a") for a, b, _ in ROWS), ["--target", "kind"], ["kind is a in every row"]),
    "a class with two rows": (csv([*ROWS, (1, 2, "c"), (2, 3, "c")]), ["--target", "kind"], ["kind"]),
    "no column to learn from": (csv((5, 5, row[2]) for row in ROWS), ["--target", "kind"], ["column"]),
    "no rows": ("width,height,kind\n", ["--target", "kind"], ["no rows"]),
    "an empty file": ("", ["--target", "kind"], [".csv"]),
    "rows of different lengths": (csv([*ROWS, (1, 2, "a", 4, 5)]), ["--target", "kind"], [".csv"]),
    "a column twice": (csv(ROWS, "width,width,kind"), ["--target", "kind"], ["width"]),
    "UTF-16, which is read": (csv(ROWS).encode("utf-16"), ["--target", "price"], ["width, height, kind"]),
    "another encoding": (csv([*ROWS, (1, 1, "grün")]).encode("latin-1"), ["--target", "kind"], ["ISO-8859-1", "iconv"]),
    "no table": (bytes(range(256)) * 9, ["--target", "kind"], [".csv"]),
    "an infinite target": (csv((a, b, "inf") for a, b, _ in ROWS), ["--target", "kind"], ["kind"]),
    "duplicate times": (
        series(range(84), [*DAYS[:-1], DAYS[0]]),
        ["--evaluator", "forecasting"],
        ["2024-01-01 occurs twice"],
    ),
    "times that are none": (series(range(84), ["x" * 3] * 84), ["--evaluator", "forecasting"], ["time"]),
    "a horizon longer than the series": (series(range(84)), ["-o", "horizon=500"], ["horizon", "500"]),
    "texts in a series": (series(["much"] * 84), ["--evaluator", "forecasting"], ["sold"]),
    "a series with few values": (series(["", "", "1"] * 28), ["--evaluator", "forecasting"], ["sold"]),
    "a constant series": (series([1.0] * 84), ["--evaluator", "forecasting"], ["sold"]),
    "a short series": (series([1, 2, 3], DAYS[:3]), ["--evaluator", "forecasting"], ["3 values", "expected at least"]),
    "texts without labels": (
        csv(((f"a long text about things of number {n}", "") for n in range(40)), "text,label"),
        [],
        ["label"],
    ),
}


def one_error(done: Result, *words: str) -> None:
    assert done.code == 2, done
    lines = [line for line in done.err.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, done
    assert "Traceback" not in done.err
    assert [word for word in words if word not in lines[0]] == [], lines[0]


@pytest.mark.parametrize("name", WRONG)
def test_wrong_tables_and_series_are_refused_in_one_line(name: str, typed: Typed, folder: Path) -> None:
    data, given, words = WRONG[name]
    path = folder / f"{list(WRONG).index(name)}.csv"  # tables are cached by their path, and folders are used again
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    before = sorted(folder.rglob("*"))
    done = typed("auto", str(path), *given, "--trials", "1")
    one_error(done, *words)
    assert sorted(folder.rglob("*")) == before, "nothing is written"


def images(folder: Path, classes: dict[str, bytes]) -> None:
    for name, data in classes.items():
        (folder / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "data" / name).write_bytes(data)


FOLDERS: dict[str, tuple[Callable[[Path], object], list[str], list[str]]] = {
    "an empty folder": (lambda folder: (folder / "data").mkdir(), [], ["empty folder"]),
    "no folder": (lambda folder: None, [], ["neither a file nor a folder"]),
    "images of one class": (lambda folder: images(folder, {f"cat/{n}.png": b"" for n in range(4)}), [], ["subfolder"]),
    "broken images": (
        lambda folder: images(folder, {f"{kind}/{n}.png": b"no image" for kind in ("cat", "dog") for n in range(4)}),
        [],
        ["cat/0.png"],
    ),
    "a short text": (lambda folder: images(folder, {"a.txt": b"short"}), [], ["5 bytes", "give more text"]),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_wrong_folders_are_refused_in_one_line(name: str, typed: Typed, folder: Path) -> None:
    if name == "broken images":
        need("images")
    make, given, words = FOLDERS[name]
    make(folder)
    before = sorted(folder.rglob("*"))
    done = typed("auto", "data", *given, "--trials", "1")
    one_error(done, *words)
    assert sorted(folder.rglob("*")) == before, "nothing is written"


def test_arrays_without_labels_are_refused(typed: Typed, folder: Path) -> None:
    np.savez(folder / "data.npz", images=np.zeros((9, 4, 4)))
    done = typed("auto", "data.npz", "--trials", "1")
    one_error(done, "labels")


def test_lines_that_are_no_objects_are_refused(typed: Typed, folder: Path) -> None:
    (folder / "data.jsonl").write_text(json.dumps({"text": "a"})[:-2])
    done = typed("auto", "data.jsonl", "--trials", "1")
    one_error(done, "JSON lines", "one JSON object on each line")
