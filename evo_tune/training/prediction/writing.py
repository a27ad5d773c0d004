"""Write predictions to CSV, Parquet or JSON lines, part by part."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evo_tune.errors import StoreError, UsageError
from evo_tune.text import to_csv_cell

if TYPE_CHECKING:
    import pandas as pd

FORMATS = (".csv", ".parquet", ".jsonl")


class Writer:
    """A file of predictions, or standard output as CSV.

    Args:
        path: The file, which must be new; its ending says the format. None: standard output.

    Raises:
        UsageError: The file exists, or has another ending.
        StoreError: The disk refuses.
    """

    def __init__(self, path: Path | None) -> None:
        self.path, self.rows = path, 0
        self._stack, self._text = ExitStack(), sys.stdout
        self._table: Any = None
        if path is None:
            return
        if path.suffix not in FORMATS:
            raise UsageError(f"--output {path}: expected a name that ends with {', '.join(FORMATS)}")
        try:
            if path.suffix != ".parquet":
                self._text = self._stack.enter_context(path.open("x", encoding="utf-8", newline=""))
            else:
                path.open("xb").close()
        except FileExistsError:
            raise UsageError(f"--output {path} exists: choose another name, or remove it") from None
        except OSError as error:
            raise StoreError(f"--output {path}: cannot write it ({error.strerror}); choose another place") from None

    def write(self, frame: pd.DataFrame) -> None:
        """Add rows; all parts have the same columns.

        Raises:
            StoreError: The disk refuses.
        """
        try:
            if self.path is not None and self.path.suffix == ".parquet":
                import pyarrow as pa
                import pyarrow.parquet as pq

                schema = None if self._table is None else self._table.schema
                table = pa.Table.from_pandas(frame, schema=schema, preserve_index=False)
                if self._table is None:
                    self._table = self._stack.enter_context(pq.ParquetWriter(self.path, table.schema))
                self._table.write_table(table)
            elif self.path is not None and self.path.suffix == ".jsonl":
                self._text.writelines(json.dumps(row) + "\n" for row in plain_rows(frame))
            else:
                safe = frame.rename(columns=lambda name: to_csv_cell(str(name)))
                for name in safe.select_dtypes(["object", "string"]).columns:
                    safe[name] = safe[name].map(to_csv_cell)
                safe.to_csv(self._text, index=False, header=self.rows == 0, lineterminator="\n")
        except OSError as error:
            if self.path is None:  # such as a closed pipe
                raise
            raise StoreError(f"--output {self.path}: cannot write it ({error.strerror})") from None
        self.rows += len(frame)

    @contextmanager
    def keep_complete(self) -> Iterator[Writer]:
        """Close the file at the end; after an error it has all rows so far, or is removed if there are none."""
        try:
            with self._stack:
                yield self
        except BaseException:
            if self.path is not None and not self.rows:
                self.path.unlink(missing_ok=True)
            raise


def plain_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows as plain data, with None for a number that is not finite."""
    return [{str(name): _plain(value) for name, value in row.items()} for row in frame.to_dict("records")]


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool | None) else str(value)
