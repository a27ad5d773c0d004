"""`evo-tune describe`, and the lines about the data that a run prints first."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.cli.conftest import Typed


@pytest.fixture
def table(folder: Path) -> Path:
    numbers = {f"c{k}": [n * k % 13 for n in range(60)] for k in range(1, 16)}
    kinds = ["b" if n % 3 else "a" for n in range(60)]
    frame = pd.DataFrame({"id": range(60), "kind": kinds, "price": [n % 11 + 0.5 for n in range(60)], **numbers})
    frame.to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


def test_it_says_all_that_was_read(typed: Typed, table: Path) -> None:
    done = typed("describe", "tabular", "-o", f"data={table}", "-o", "target=price")
    assert done.code == 0, done
    lines = done.out.splitlines()
    assert lines[0].startswith("60 rows: 36 for training")
    assert any(line.startswith("target price: ") for line in lines)
    assert "left out: id (identifier: counts the rows)" in lines
    assert any(line.startswith("c15: number, ") for line in lines)
    found = json.loads(typed("describe", "tabular", "-o", f"data={table}", "-o", "target=kind", "--format", "json").out)
    assert found["lines"][2] == "2 classes: b 40, a 20"


def test_before_a_training_it_is_cut(typed: Typed, table: Path) -> None:
    words = ("evaluate", "tabular", "-o", f"data={table}", "-o", "target=kind", "-o", "epochs=0.5")
    done = typed(*words)
    assert done.code == 0, done
    said = [line for line in done.err.splitlines() if line.startswith("tabular: ")]
    assert said[0].startswith("tabular: 60 rows")
    assert "more lines: evo-tune describe tabular, with the same -o" in done.err
    assert len([line for line in said if "more lines" not in line and "step" not in line]) == 9


def test_a_single_line_more_is_no_lines(typed: Typed, folder: Path, table: Path) -> None:
    rows = [",".join(row.split(",")[1:8]) for row in table.read_text().splitlines()]
    (folder / "narrow.csv").write_text("\n".join(rows) + "\n")
    words = ("evaluate", "tabular", "-o", "data=narrow.csv", "-o", "target=kind", "-o", "epochs=0.5")
    done = typed(*words)
    assert done.code == 0, done
    assert "tabular: and 1 more line: evo-tune describe tabular, with the same -o" in done.err, done.err


def test_an_evaluator_that_says_nothing_is_no_error(typed: Typed) -> None:
    assert "says nothing of its data" in typed("describe", "fine_tuning").out


def test_texts_are_described_with_their_documents(typed: Typed, folder: Path) -> None:
    (folder / "one.txt").write_text("a\n<|endoftext|>b\n<|endoftext|>" + "a longer text. " * 3000)
    lines = typed("describe", "language_model", "-o", "data=one.txt").out.splitlines()
    assert lines[0] == "1 file with 45030 bytes; 3 documents, divided by <|endoftext|>"
    (folder / "texts").mkdir()
    for name in ("a.txt", "b.txt"):
        (folder / "texts" / name).write_bytes(b"word " * 900_000)
    lines = typed("describe", "language_model", "-o", "data=texts").out.splitlines()
    assert lines[0] == "2 files with 9000001 bytes; each file is one document"


@pytest.mark.parametrize(
    "words",
    [
        ("describe", "KERNEL"),
        ("describe", "tabular", "-o", "data=KERNEL", "-o", "target=a"),
        ("auto", "KERNEL"),
    ],
)
def test_a_file_of_the_kernel_is_empty(typed: Typed, folder: Path, words: tuple[str, ...]) -> None:
    """Reading /proc/kmsg waits forever; its size is 0, as that of /proc/uptime, which a failing test reads at once."""
    done = typed(*(word.replace("KERNEL", "/proc/uptime") for word in words))
    assert done.code == 2, done
    assert "is empty" in done.err
    assert "Error: " in done.err.splitlines()[-1]
