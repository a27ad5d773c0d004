"""Rows of numbers in the metrics files of other programs: JSON, JSON lines, CSV, and files of TensorBoard and W&B.

A row is a dict of names to numbers. Files may be unfinished, damaged or hostile, so nothing here trusts a length, a
depth or a name, and nothing opens a file.

TensorBoard: TFRecord frames (tensorflow.org, "TFRecords Format Details") with `Event` messages. W&B: frames of
LevelDB's log (its doc/log_format.md) with `Record` messages. Both are protobuf's wire format, of which a few fields are
read, so neither package is needed.
"""

import contextlib
import csv
import functools
import json
import math
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from io import BytesIO
from typing import Any, BinaryIO, TypeAlias

Row: TypeAlias = dict[str, float]

# Largest record that is read in bytes, as others hold images; and maximum nesting depth of JSON objects.
LARGEST_RECORD, DEEPEST = 1 << 18, 5

# Bytes of a block in W&B's file, and of the head of each frame; the kinds of frames that begin and end a record.
BLOCK, HEAD = 1 << 15, 7
FULL, FIRST, LAST = 1, 2, 4


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


# ---------------------------------------------------------------------------------------------------------
# Files of records


def tensorboard_records(file: BinaryIO, offset: int) -> Iterator[tuple[bytes, int]]:
    """Yield the complete records of an event file from an offset on, each with the offset behind it.

    Raises:
        ValueError: There is no record at the offset.
    """
    size = os.fstat(file.fileno()).st_size
    while True:
        file.seek(offset)
        head = file.read(12)
        if len(head) < 12:
            return
        length, checksum = struct.unpack("<QI", head)
        if checksum != _masked_crc32c(head[:8]):
            raise ValueError(f"byte {offset} is no record of TensorBoard")
        end = offset + 12 + length + 4
        if end > size:
            return
        yield (file.read(length) if length <= LARGEST_RECORD else b""), end
        offset = end


@functools.lru_cache(maxsize=1024)  # most records of a file have a few lengths
def _masked_crc32c(data: bytes) -> int:
    """Return the checksum of TFRecords: CRC-32C (polynomial 0x82F63B78), rotated by 15 bits, plus a constant."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 * (crc & 1))
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def wandb_records(file: BinaryIO, offset: int) -> Iterator[tuple[bytes, int]]:
    """Yield the complete records of a W&B file from an offset on, each with the offset behind it.

    Raises:
        ValueError: It is no file of W&B, or there is no record at the offset.
    """
    if offset == 0:
        file.seek(0)
        head = file.read(HEAD)
        if len(head) == HEAD and head[:4] != b":W&B":
            raise ValueError("it is no file of W&B")
        offset = HEAD
    parts: list[bytes] = []
    while True:
        if BLOCK - offset % BLOCK < HEAD:  # too short for a head: zeros
            offset += BLOCK - offset % BLOCK
        file.seek(offset)
        head = file.read(HEAD)
        if len(head) < HEAD:
            return
        checksum, length, kind = struct.unpack("<IHB", head)
        data = file.read(length)
        if len(data) < length:
            return
        if zlib.crc32(data, zlib.crc32(head[6:])) != checksum:
            raise ValueError(f"byte {offset} is no record of W&B")
        offset += HEAD + length
        if kind in (FULL, FIRST):
            parts = []
        if data and sum(map(len, parts)) <= LARGEST_RECORD:
            parts.append(data)
        if kind in (FULL, LAST):
            yield b"".join(parts), offset


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Yield number and value of each field of a protobuf message; the value is an int or bytes.

    It ends at the first byte that does not fit.
    """
    data = BytesIO(message)
    with contextlib.suppress(IndexError, KeyError):
        while data.tell() < len(message):
            number, kind = divmod(_varint(data), 8)
            if kind == 0:
                yield number, _varint(data)
                continue
            length = _varint(data) if kind == 2 else {1: 8, 5: 4}[kind]
            content = data.read(length) if length <= len(message) else b""
            if len(content) < length:
                return
            yield number, content


def _varint(data: BytesIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = data.read(1)[0]
        value |= (byte & 127) << shift
        if byte < 128:
            break
    return value


def _contents(message: bytes, *numbers: int) -> list[bytes]:
    """Return the contents of fields of a message that are texts, inner messages or floats."""
    return [value for number, value in _fields(message) if number in numbers and isinstance(value, bytes)]


def tensorboard_rows(record: bytes) -> Iterator[Row]:
    """Yield the scalars of an `Event` with its step: {'step': 10, 'val/loss': 1.7}."""
    scalars: Row = {}
    for value in (value for summary in _contents(record, 5) for value in _contents(summary, 1)):
        numbers = _contents(value, 2)
        for tensor in _contents(value, 8):  # a float or a double, by its type
            numbers += _contents(tensor, 4, 5, 6) if dict(_fields(tensor)).get(1) in (1, 2) else []
        if numbers and len(numbers[0]) in (4, 8):
            (number,) = struct.unpack("<f" if len(numbers[0]) == 4 else "<d", numbers[0])
            scalars[_text(_contents(value, 1))] = number
    if scalars:
        steps = [float(value) for number, value in _fields(record) if number == 2 and isinstance(value, int)]
        yield {"step": steps[-1] if steps else 0.0, **scalars}


def wandb_rows(record: bytes) -> Iterator[Row]:
    """Yield the numbers of a `Record` of the history, {'_step': 10, 'val/loss': 1.7}; none for other records."""
    for history in _contents(record, 2):
        row: Row = {}
        for item in _contents(history, 1):
            for data in _contents(item, 16):
                with contextlib.suppress(ValueError, RecursionError):
                    value = json.loads(data, parse_int=float)
                    value = NOT_FINITE.get(value) if isinstance(value, str) else value
                    row |= {_text(_contents(item, 1, 2)): value} if type(value) is float else {}
        if row:
            yield row


# Numbers that W&B writes as text.
NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def _text(parts: list[bytes]) -> str:
    return b".".join(parts).decode("utf-8", "replace")
