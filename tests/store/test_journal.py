"""The journal and whole-or-nothing writes: torn at every byte, damaged, changed by others, on a full disk."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evo_tune.errors import StoreError
from evo_tune.store.journal import Journal, seal_line, write_atomically

EVENTS: list[dict[str, Any]] = [
    {"event": "proposed", "id": 0},
    {"event": "recorded", "id": 0, "text": "naïve\r\n"},
    {"event": "reported", "id": 0},
]


def parse(line: bytes) -> dict[str, Any]:
    """Read the lines of these tests as a run reads its own; 'strange' stands for what its schema does not know."""
    event: dict[str, Any] = json.loads(line)
    if event["event"] == "strange":
        raise ValueError("strange")
    return event


def lines(*events: dict[str, Any]) -> list[bytes]:
    return [json.dumps(event, separators=(",", ":")).encode() for event in events]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "_journal.jsonl"


@pytest.fixture
def written(path: Path) -> bytes:
    journal = Journal(path)
    journal.append(lines(*EVENTS), sync=True)
    journal.close()
    return path.read_bytes()


def test_a_missing_journal_is_empty(path: Path) -> None:
    assert list(Journal(path).read(parse)) == []
    assert not path.exists()


def test_events_come_back_in_order_over_several_openings(path: Path, written: bytes) -> None:
    again = Journal(path)
    assert list(again.read(parse)) == EVENTS
    again.append(lines({"event": "proposed", "id": 1}), sync=False)
    again.close()
    again.close()
    assert list(Journal(path).read(parse)) == [*EVENTS, {"event": "proposed", "id": 1}]
    assert path.read_bytes().startswith(written)


def test_torn_at_every_byte_of_the_last_line(path: Path, written: bytes) -> None:
    last = written.rindex(b"\n", 0, -1) + 1
    for length in range(last, len(written) - 1):
        path.write_bytes(written[:length])
        journal = Journal(path)
        assert list(journal.read(parse)) == EVENTS[:2]
        assert path.read_bytes() == written[:length], "reading changes nothing"
        if length > last:
            with pytest.warns(UserWarning, match=f"torn tail of {length - last} bytes"):
                journal.append(lines(EVENTS[2]), sync=True)
        else:
            journal.append(lines(EVENTS[2]), sync=True)
        journal.close()
        assert path.read_bytes() == written


def test_a_whole_event_without_its_line_end_is_kept(path: Path, written: bytes) -> None:
    path.write_bytes(written[:-1])
    journal = Journal(path)
    assert list(journal.read(parse)) == EVENTS
    journal.append(lines({"event": "reported", "id": 9}), sync=True)
    journal.close()
    assert path.read_bytes().startswith(written)
    assert list(Journal(path).read(parse)) == [*EVENTS, {"event": "reported", "id": 9}]


@pytest.mark.parametrize("bit", [0, 5])
def test_a_flipped_bit_is_named_and_nothing_is_cut(path: Path, written: bytes, bit: int) -> None:
    """Each byte of the file in turn: in a value, in a checksum, and a line end."""
    for at in range(len(written)):
        data = bytearray(written)
        data[at] ^= 1 << bit
        path.write_bytes(data)
        journal = Journal(path)
        line = written.count(b"\n", 0, at) + 1
        keep = rf"head -n {line - 1}\)" if line > 1 else "restore"
        with pytest.raises(StoreError, match=rf"_journal\.jsonl: line {line} is damaged .*{keep}"):
            list(journal.read(parse))
        assert path.read_bytes() == data


@pytest.mark.parametrize("tail", [b"\0" * 300, b'{"event":"to\rld"', b"\xff\xfe", b"[" * 100_000])
def test_garbage_without_a_line_end_is_a_torn_tail(path: Path, written: bytes, tail: bytes) -> None:
    path.write_bytes(written + tail)
    journal = Journal(path)
    assert list(journal.read(parse)) == EVENTS
    with pytest.warns(UserWarning, match=r"_journal\.jsonl: cut off a torn tail"):
        journal.append(lines({"event": "reported", "id": 9}), sync=True)
    journal.close()
    assert list(Journal(path).read(parse)) == [*EVENTS, {"event": "reported", "id": 9}]


@pytest.mark.parametrize("after", [0, 1])
@pytest.mark.parametrize(
    "damage", [b'{"event":"rec', b"\0\0", b"[1]", b"", b'{"event":"reported","id":0}', b'{"event":"\rx']
)
def test_a_damaged_line_is_an_error_that_names_it(path: Path, written: bytes, damage: bytes, after: int) -> None:
    lines = written.splitlines(keepends=True)
    path.write_bytes(lines[0] + damage + b"\n" + lines[2] * after)
    with pytest.raises(StoreError, match=r"_journal\.jsonl: line 2 is damaged.*head -n 1\)") as caught:
        list(Journal(path).read(parse))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("after", [0, 1])
def test_a_whole_line_that_means_nothing_is_never_cut_off(path: Path, written: bytes, after: int) -> None:
    path.write_bytes(
        b"".join(seal_line(line) + b"\n" for line in lines(EVENTS[0], {"event": "strange"}, *EVENTS[:after]))
    )
    with pytest.raises(StoreError, match=r"_journal\.jsonl: line 2 is not understood \(strange\); restore") as caught:
        list(Journal(path).read(parse))
    assert "\n" not in str(caught.value)


def test_a_damaged_first_line_has_no_lines_before_it_to_keep(path: Path, written: bytes) -> None:
    path.write_bytes(b"x" + written)
    with pytest.raises(StoreError, match=r"line 1 is damaged") as caught:
        list(Journal(path).read(parse))
    assert "keep" not in str(caught.value)


def test_an_unreadable_journal_is_an_error(path: Path) -> None:
    path.mkdir()
    with pytest.raises(StoreError, match=r"cannot read .*_journal"):
        list(Journal(path).read(parse))


def full_after(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Let the disk be full after so many bytes of the next write."""
    write, left = os.write, [size]

    def written(file: int, data: Any) -> int:
        if not left:
            raise OSError(28, "No space left on device")
        return write(file, data[: left.pop()])

    monkeypatch.setattr(os, "write", written)


def test_a_short_write_leaves_what_was_there(path: Path, written: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(path)
    list(journal.read(parse))
    full_after(monkeypatch, 5)
    with pytest.raises(StoreError, match="No space left on device; mend that, then `evo-tune resume`"):
        journal.append(lines({"event": "reported", "id": 1}), sync=True)
    assert path.read_bytes() == written
    monkeypatch.undo()
    journal.append(lines({"event": "reported", "id": 1}), sync=True)
    journal.close()
    assert list(Journal(path).read(parse)) == [*EVENTS, {"event": "reported", "id": 1}]


def test_a_failing_disk_never_leaves_damage_in_the_middle(
    path: Path, written: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: int, length: int) -> None:
        raise OSError(5, "Input/output error")

    journal = Journal(path)
    list(journal.read(parse))
    journal.append(lines({"event": "reported", "id": 1}), sync=True)
    full_after(monkeypatch, 5)
    monkeypatch.setattr(os, "ftruncate", refuse)
    with pytest.raises(StoreError):
        journal.append(lines({"event": "reported", "id": 2}), sync=True)
    monkeypatch.undo()
    with pytest.warns(UserWarning, match="torn tail of 5 bytes"):
        journal.append(lines({"event": "reported", "id": 3}), sync=True)
    journal.close()
    assert [event["id"] for event in list(Journal(path).read(parse))] == [0, 0, 0, 1, 3]


def test_what_cannot_be_synced_is_not_kept(path: Path, written: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: int) -> None:
        raise OSError(5, "Input/output error")

    journal = Journal(path)
    list(journal.read(parse))
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StoreError, match="Input/output error"):
        journal.append(lines({"event": "reported", "id": 1}), sync=True)
    assert list(Journal(path).read(parse)) == EVENTS


def test_a_new_journal_is_safe_with_its_name(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (synced.append(os.fstat(file).st_ino), fsync(file)))
    Journal(path).append(lines(*EVENTS), sync=True)
    assert synced == [path.parent.stat().st_ino, path.stat().st_ino]


FULL = """
    import json, resource, sys
    from pathlib import Path
    from evo_tune.errors import StoreError
    from evo_tune.store.journal import Journal, seal_line, write_atomically

    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
    journal = Journal(Path(sys.argv[1]))
    written = 0
    try:
        while True:
            journal.append([b'{"event":"reported","id":%d}' % written], sync=True)
            written += 1
    except StoreError as error:
        print(written, error)
    journal.close()
    assert [event["id"] for event in list(Journal(Path(sys.argv[1])).read(json.loads))] == list(range(written))
    try:
        write_atomically(Path(sys.argv[2]), bytes(4000))
    except StoreError as error:
        print(error)
"""


def test_a_file_size_limit_is_a_store_error(path: Path) -> None:
    other = path.with_name("trials-0000.parquet")
    other.write_bytes(b"old")
    script = textwrap.dedent(FULL)
    ended = subprocess.run([sys.executable, "-c", script, path, other], capture_output=True, text=True, check=True)
    first, second = ended.stdout.splitlines()
    count, _, message = first.partition(" ")
    assert int(count) > 20
    assert message.startswith(f"cannot write {path}: File too large")
    assert second.startswith(f"cannot write {other}: File too large")
    assert other.read_bytes() == b"old"
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["_journal.jsonl", "trials-0000.parquet"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Yield a file system of 64 kB, where the tests may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("mounting a small disk needs root and the right to mount")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_keeps_every_whole_event(small_disk: Path) -> None:
    journal = Journal(small_disk / "_journal.jsonl")
    written = itertools.count()
    with pytest.raises(StoreError, match="No space left on device"):
        all(
            None is journal.append(lines({"event": "reported", "id": id, "text": "x" * 50}), sync=True)
            for id in written
        )
    assert [event["id"] for event in list(Journal(journal.path).read(parse))] == list(range(next(written) - 1))
    with pytest.raises(StoreError, match="No space left on device; mend that, then `evo-tune resume`"):
        write_atomically(small_disk / "x.parquet", bytes(50_000))
    assert [entry.name for entry in small_disk.iterdir()] == ["_journal.jsonl"]
    journal.close()


def test_write_atomically_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "_comparison.parquet"
    for data in (b"one", b"two"):
        write_atomically(path, data)
        assert path.read_bytes() == data
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_write_atomically_into_nowhere(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot write .*gone/x: No such file or directory"):
        write_atomically(tmp_path / "gone" / "x", b"")
