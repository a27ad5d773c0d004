"""Rows of numbers in the metrics files of other programs: JSON, JSON lines, and CSV.

A row is a dict of names to numbers. Files may be unfinished or damaged, so nothing here trusts a depth or a name, and
nothing opens a file.
"""

import contextlib
import csv
import json
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

Row: TypeAlias = dict[str, float]

# Maximum nesting depth of JSON objects.
DEEPEST = 5


def text_rows(text: str, is_complete: bool) -> Iterator[Row]:
    """Yield the rows of JSON, JSON lines, or CSV with a header.

    Args:
        text: The file's content so far.
        is_complete: Whether the program has ended; otherwise, the last line may be unfinished and is left out.

    Raises:
        ValueError: The text is JSON with an error. Lines of JSON lines or CSV that have one are left out.
    """
    if not text.lstrip().startswith(("{", "[")):
        yield from _csv_rows(_lines(text, is_complete))
        return
    try:
        yield from _json_rows(parse_json(text))
    except json.JSONDecodeError as error:
        has_rows = False
        for line in _lines(text, is_complete) if text.lstrip().startswith("{") else ():
            with contextlib.suppress(ValueError):
                for row in _json_rows(parse_json(line)):
                    has_rows = True
                    yield row
        if is_complete and not has_rows:
            raise ValueError(f"it is no JSON: {error}") from None


def _lines(text: str, is_complete: bool) -> list[str]:
    lines = text.replace("\r\n", "\n").split("\n")
    return lines if is_complete else lines[:-1]


def parse_json(text: str) -> Any:
    """Return the value of JSON text.

    Raises:
        ValueError: It is no JSON, or nested too deeply.
    """
    try:
        return json.loads(text, parse_int=float)  # a huge number becomes infinite
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _json_rows(value: Any) -> Iterator[Row]:
    """Yield the rows of a value: objects in a list, columns ({"loss": [2, 1]}), and an object's own numbers."""
    for item in value if isinstance(value, list) else [value]:
        if not isinstance(item, dict):
            continue
        columns: dict[str, list[float]] = {}
        for name, inner in item.items():
            if isinstance(inner, list) and inner and all(type(number) is float for number in inner):
                columns[name] = inner
            elif isinstance(inner, list):
                yield from (row for entry in inner if isinstance(entry, dict) and (row := dict(_numbers(entry))))
        for index in range(max(map(len, columns.values()), default=0)):
            columns = {name: column for name, column in columns.items() if index < len(column)}
            yield {name: column[index] for name, column in columns.items()}
        if row := dict(_numbers(item)):
            yield row


def _numbers(item: Mapping[str, Any], prefix: str = "", depth: int = 0) -> Iterator[tuple[str, float]]:
    """Yield the numbers of an object, those of inner objects as OUTER.INNER."""
    for name, value in item.items():
        if type(value) is float:
            yield f"{prefix}{name}", value
        elif isinstance(value, dict) and depth < DEEPEST:
            yield from _numbers(value, f"{prefix}{name}.", depth + 1)


def _csv_rows(lines: list[str]) -> Iterator[Row]:
    """Yield the rows of CSV, without lines of another length than the header: their cells may belong elsewhere."""
    lines = [line for line in lines if line.strip() and "\0" not in line]
    if not lines:
        return
    delimiter = max(",\t;", key=lines[0].count)
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    try:
        names = [name.strip().lstrip("# ") for name in next(reader)]
        for cells in reader:
            row: Row = {}
            for name, cell in zip(names, cells, strict=True) if len(cells) == len(names) else ():
                with contextlib.suppress(ValueError):  # text, or an empty cell
                    row[name] = float(cell)
            if row:
                yield row
    except csv.Error as error:  # a cell of more than 128 KiB
        raise ValueError(f"it is no CSV: {error}") from None
