"""Lines of a journal as evo-tune writes them, for tests that change or forge the journal of a run."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from evo_tune.store.journal import seal_line


def line_of(event: dict[str, Any] | str) -> str:
    """Return an event, as data or as JSON text, as a line with a checksum that matches; an old checksum is dropped."""
    if isinstance(event, dict):
        event = json.dumps({name: value for name, value in event.items() if name != "crc32"})
    return seal_line(event.encode()).decode() + "\n"


def events_of(folder: Path) -> list[dict[str, Any]]:
    """Return the events of a run's journal."""
    return [json.loads(line) for line in (folder / "_journal.jsonl").read_bytes().splitlines()]


def write_events(folder: Path, events: Iterable[dict[str, Any] | str]) -> None:
    """Write a run's journal anew, with checksums that match."""
    (folder / "_journal.jsonl").write_text("".join(map(line_of, events)))
