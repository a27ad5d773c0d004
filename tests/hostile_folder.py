"""What a stranger may do to a run's folder: each mutation is one function of the folder and of plain values."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from tests.journals import line_of

__all__ = ["MUTATIONS", "outside_of", "snapshot"]

FILES = (
    "_run.json",
    "_journal.jsonl",
    "trials-0000.parquet",
    "trials-0001.parquet",
    "_comparison.parquet",
    "_heartbeat.json",
    "_trials",
    "_trials/000003",
    "_trials/000003/log.txt",
)
NAMES = (
    *FILES,
    "_heartbeat.part",
    "_run.json.part",
    "_trials-0001.parquet.part",
    "_comparison.parquet.part",
    "_trials-0009.parquet.aside",
    "trials-0009.parquet",
    "_trials/000002",
    "_trials/000003/error.txt",
)
"""What is there, and what is made for a while."""

STRANGE = (
    "trials-\u00b2\u00b2\u00b2\u00b2.parquet",
    "trials-99999999999999999999.parquet",
    "trials-.parquet",
    "a\x1b[2Jb\nc",
    "x" * 255,
    "-rf",
    b"\xff\xfe".decode("utf-8", "surrogateescape"),
)

VALUES: tuple[Any, ...] = (
    *(None, True, "", "x" * 20_000, "\x1b[2J", "\x00", "../../outside/evil.py", "/dev/zero", "nan"),
    *("\r\n", "\ud800", "\u202eevil", "\U000e0041"),
    *(0, -1, 1, 1.5, 2**31, 2**63 - 1, 2**63, 10**30, 10**299, -(10**30), 5e-324, 1e308, -1e308, 1e400, float("nan")),
    *([], {}, [[]], [None], ["x"], [1e308, -1e308], {"a": {"b": 1}}, {"": None}, list(range(1000))),
    *("METRIC", "bundled:../../x", "entry:x", "EVIL", "OUTSIDE", "loss:min", "loss<=1e999", "dask", "127.0.0.1:1"),
)
"""EVIL and OUTSIDE stand for the paths of two files whose code leaves a mark."""


def outside_of(run: Path) -> Path:
    return run.parents[2] / "outside"


def clear(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()
    path.parent.mkdir(parents=True, exist_ok=True)


def place(run: Path, name: str) -> Path | None:
    """Return where a name is, cleared; None if an earlier mutation has put something else in the way."""
    path = run / name
    inside = [run / name.split("/")[0]] if "/" in name else []
    if any(part.is_symlink() or (part.exists() and not part.is_dir()) for part in (*inside, path.parent)):
        return None
    clear(path)
    return path


def link(run: Path, name: str, target: str, absolute: bool) -> None:
    path = place(run, name)
    if path is not None:
        to = Path(target) if target.startswith("/") else outside_of(run) / target
        path.symlink_to(to if absolute else os.path.relpath(to, path.parent))


def hard_link(run: Path, name: str, target: str) -> None:
    path = place(run, name)
    if path is not None:
        os.link(outside_of(run) / target, path)


def special(run: Path, name: str, kind: str) -> None:
    path = place(run, name)
    if path is None:
        return
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            here = os.open(path.parent, os.O_RDONLY)
            made.bind(f"/proc/self/fd/{here}/{path.name}")  # a longer path does not fit
            os.close(here)
    elif kind == "device":
        try:
            os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))  # endless zeros
        except PermissionError:
            os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
        (path / "inner").mkdir()
        (path / "inner" / "file").write_text("x")
    elif kind == "deep folder":
        here = path
        for _ in range(100):
            here.mkdir()
            here /= "d"


def filled(run: Path, name: str, data: bytes, size: int) -> None:
    path = place(run, name)
    if path is not None:
        path.write_bytes(data)
        if size > len(data):
            os.truncate(path, size)


def cut(run: Path, name: str, at: float, more: bytes) -> None:
    path = run / name
    if path.is_file() and not path.is_symlink() and path.stat().st_nlink == 1 and path.stat().st_size < 1 << 20:
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * at)] + more)


def deep(run: Path, name: str, text: str, count: int) -> None:
    filled(run, name, (text * count).encode(), 0)


def forbidden(run: Path, name: str, mode: int) -> None:
    path = run / name
    if path.exists() and not path.is_symlink():
        path.chmod(mode)


def extra(run: Path, name: str) -> None:
    (run / name).write_bytes(b"x")


def gone(run: Path, name: str) -> None:
    place(run, name)


def steps(value: Any, wanted: list[int]) -> list[Any]:
    """Return the way to some value inside JSON, chosen by numbers."""
    way: list[Any] = []
    for number in wanted:
        keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
        if not keys:
            break
        way.append(keys[number % len(keys)])
        value = value[way[-1]]
    return way


def with_value(data: Any, wanted: list[int], new: int, how: str, paths: dict[str, str]) -> Any:
    """Return data with one value replaced by another, by another of its kind, or with one key replaced."""
    way = steps(data, wanted)
    holder = data
    for key in way[:-1]:
        holder = holder[key]
    old = holder[way[-1]] if way else data
    values = [value for value in VALUES if how != "kin" or type(value) is type(old)] or VALUES
    value = json.loads(json.dumps(values[new % len(values)]))
    value = paths.get(value, value) if isinstance(value, str) else value
    if not way:
        return value
    if how == "key" and isinstance(holder, dict):
        holder[str(value)] = holder.pop(way[-1])
    else:
        holder[way[-1]] = value
    return data


def changed(run: Path, name: str, line: int, wanted: list[int], new: int, how: str) -> None:
    """Replace one value, or one key, in the manifest, the heartbeat or a line of the journal."""
    path = run / name
    if not path.is_file() or path.is_symlink() or path.stat().st_nlink > 1 or path.stat().st_size > 1 << 20:
        return
    paths = {"EVIL": str(run / "evil.py"), "OUTSIDE": str(outside_of(run) / "evil.py")}
    try:
        if name != "_journal.jsonl":
            path.write_text(json.dumps(with_value(json.loads(path.read_text()), wanted, new, how, paths)))
            return
        lines = path.read_text().splitlines(keepends=True)
        at = line % len(lines)
        event = json.loads(lines[at])
        del event["crc32"]
        lines[at] = line_of(json.dumps(with_value(event, wanted, new, how, paths)))
        path.write_text("".join(lines))
    except (ValueError, KeyError, TypeError, RecursionError, ZeroDivisionError):  # an earlier mutation left no JSON
        return


def shuffled(run: Path, kind: str, line: int) -> None:
    path = run / "_journal.jsonl"
    if not path.is_file() or path.is_symlink() or path.stat().st_nlink > 1 or path.stat().st_size > 1 << 20:
        return
    lines = path.read_bytes().splitlines(keepends=True)
    if not lines:
        return
    at = line % len(lines)
    path.write_bytes(
        b"".join(
            {
                "twice": [*lines[: at + 1], *lines[at:]],
                "left out": [*lines[:at], *lines[at + 1 :]],
                "backwards": lines[::-1],
                "endless": [
                    *lines[:at],
                    line_of('{"event":"reported","id":[' + "[]," * (5 << 20) + "[]]}").encode(),
                    *lines[at:],
                ],
                "many": lines[:1] * 20_000 + lines[1:],
            }[kind]
        )
    )


def parquet(run: Path, name: str, kind: str) -> None:
    path = run / name
    if not path.is_file() or path.is_symlink() or path.stat().st_nlink > 1 or path.stat().st_size > 1 << 20:
        return
    try:
        table = pq.read_table(path, partitioning=None)
    except (OSError, ValueError):
        return
    if table.nbytes > 1 << 24:  # an earlier mutation made it large
        return
    codec = "snappy"
    if kind == "rows":
        table = table.slice(0, 1).take(pa.array(np.zeros(3_000_000, dtype=np.int64)))
    elif kind == "long":
        long = pa.array(["x" * 8_000_000]).dictionary_encode()
        many = pa.DictionaryArray.from_arrays(pa.array(np.zeros(3000, dtype=np.int32)), long.dictionary)
        table = table.slice(0, 1).take(pa.array(np.zeros(3000, dtype=np.int64)))
        table = table.set_column(table.schema.get_field_index("error"), "error", many)
    elif kind == "zeros":
        codec = "zstd"
        table = table.append_column("metric.zeros", pa.array([b"\0" * 200_000_000] * table.num_rows))
    elif kind == "nulls":
        table = pa.table({field.name: pa.nulls(table.num_rows, field.type) for field in table.schema})
    elif kind == "columns":
        for number in range(3000):
            table = table.append_column(f"metric.{number}", pa.nulls(table.num_rows, pa.float64()))
    elif kind == "numbers":
        huge = pa.array([2**63 - 1] * table.num_rows)
        table = table.set_column(table.schema.get_field_index("id"), "id", huge)
    elif kind == "lists":
        table = table.append_column("metric.list", pa.array([[1.0]] * table.num_rows))
    pq.write_table(table, path, compression=codec)


name, number = st.sampled_from(NAMES), st.integers(0, 50)
json_name = st.sampled_from(("_run.json", "_journal.jsonl", "_journal.jsonl", "_heartbeat.json"))
parquet_name = st.sampled_from(("_comparison.parquet", "trials-0000.parquet"))
targets = st.sampled_from(("precious", "folder", "missing", "fifo", "/dev/zero", "/dev/full", "/etc/passwd"))
hows = st.sampled_from(("kin", "kin", "kin", "kin", "any", "any", "key"))
text = st.sampled_from(("[", '{"a":', "9", "\x00", '"', "[[],", '{"event":"reported","id":0}\n'))


def made(change: Callable[..., None], *values: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.tuples(st.just(change), *values)


MUTATIONS = st.one_of(
    made(link, name, targets, st.booleans()),
    made(hard_link, name, st.sampled_from(("precious", "folder/precious"))),
    made(special, name, st.sampled_from(("fifo", "socket", "device", "folder", "deep folder"))),
    made(filled, name, st.binary(max_size=100), st.sampled_from((0, 0, 1 << 22, 1 << 34, 1 << 42))),
    made(cut, st.sampled_from(FILES), st.floats(0, 1), st.binary(max_size=20)),
    made(deep, st.sampled_from(FILES[:7]), text, st.sampled_from((1, 400, 5000, 200_000))),
    made(forbidden, name, st.sampled_from((0, 0o200, 0o400, 0o500))),
    made(extra, st.sampled_from(STRANGE)),
    made(gone, name),
    made(shuffled, st.sampled_from(("twice", "left out", "backwards", "endless", "many")), number),
    made(parquet, parquet_name, st.sampled_from(("rows", "long", "zeros", "nulls", "columns", "numbers", "lists"))),
    *[made(changed, json_name, number, st.lists(number, min_size=1, max_size=5), number, hows)] * 6,
)
"""(function, name, value, …): `function(run, name, value, …)`."""


def snapshot(folder: Path, without: tuple[Path, ...]) -> dict[str, tuple[Any, ...]]:
    """Return what is in a folder, however deep: kind, size, time of the last write, content; links are not followed."""
    found: dict[str, tuple[Any, ...]] = {}
    for here, folders, files in os.walk(folder):
        folders[:] = [one for one in folders if Path(here, one) not in without and one != "__pycache__"]
        for one in (*folders, *files):
            path = Path(here, one)
            about = path.lstat()
            content = path.read_bytes() if stat.S_ISREG(about.st_mode) else b""
            # A folder's own time changes with the files that are made in it: those are listed themselves.
            time = 0 if stat.S_ISDIR(about.st_mode) else about.st_mtime_ns
            found[str(path)] = (about.st_mode, about.st_ino, time, content)
    return found
