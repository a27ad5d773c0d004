"""Lines of a journal as evo-tune writes them, for tests that change or forge the journal of a run."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from evo_tune.genome.trial import Trial
from evo_tune.store.binding import HEAD
from evo_tune.store.journal import seal_line
from evo_tune.store.run import FreshResult, Run
from evo_tune.store.table import write_comparison
from evo_tune.trust.decide import remember_run


def line_of(event: dict[str, Any] | str) -> str:
    """Return an event, as data or as JSON text, as a line of version 1.0 with a checksum that matches."""
    if isinstance(event, dict):
        event = json.dumps({name: value for name, value in event.items() if name not in ("crc32", "sha256_before")})
    return seal_line(event.encode()).decode() + "\n"


def events_of(folder: Path) -> list[dict[str, Any]]:
    """Return the events of a run's journal."""
    return [json.loads(line) for line in (folder / "_journal.jsonl").read_bytes().splitlines()]


def write_events(folder: Path, events: Iterable[dict[str, Any] | str]) -> None:
    """Write a run's journal anew as version 1.0 wrote it, with checksums that match; this machine forgets the run's."""
    remember_run(folder, {HEAD: ""})
    (folder / "_journal.jsonl").write_text("".join(map(line_of, events)))


def save_comparison(folder: Path, trials: Iterable[Trial]) -> None:
    """Record trials as results of a run's final comparison, and write its file."""
    run = Run.open(folder, write=True)
    run.record_fresh(*(FreshResult(trial, run.evaluator_hash, run.fingerprint) for trial in trials))
    write_comparison(run)
    run.close()


def make_older(folder: Path) -> None:
    """Change a run to one of version 1.0: its journal has no hashes and no results of the final comparison."""
    events = [event for event in events_of(folder) if event["event"] != "fresh"]
    write_events(folder, events)
