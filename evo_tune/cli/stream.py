"""`--format jsonl`: what happens in a run, as it happens, one JSON object a line on standard output.

It polls, as the live table does, so a reader that is slow or gone holds no run up. `formats.events` says what is
promised; whatever else is printed goes to standard error.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from evo_tune.cli import _shared as shared

if TYPE_CHECKING:
    from evo_tune.loop.search import Search

__all__ = ["Stream"]


class Stream:
    """The events of one session.

    Args:
        search: Its run, before it is driven: what was there before is not told again.
    """

    def __init__(self, search: Search) -> None:
        self._births = len(search.saved.candidates)
        self._results = len(search.saved.outcomes)
        self._raced = {_fresh_key(trial) for trial in _raced(search)}
        self._written = _written(search)
        self._best = None if search.saved.leader is None else search.saved.leader.id
        self._begun = self._stopping = False

    def look(self, search: Search) -> None:
        """Print what has happened since the last look."""
        for kind, data in self._since(search):
            _print(kind, data)

    def end(self, closing: dict[str, Any], code: int) -> None:
        """Print the last line."""
        _print("end", {**closing, "exit_code": code})

    def _since(self, search: Search) -> Iterator[tuple[str, dict[str, Any]]]:
        run = search.saved
        if not self._begun:
            self._begun = True
            known = run.manifest
            told: dict[str, Any] = {"run": run.name, "folder": str(run.folder), "evaluator": known.evaluator}
            told |= {"strategy": known.strategy, "objectives": known.objectives, "seed": known.seed}
            yield "begin", {**told, "births": self._births, "results": self._results}
        recorded, births = list(run.recorded), list(run.candidates)
        for candidate in births[self._births :]:
            yield from self._recorded(search, recorded[: run.told_at_birth[candidate.id]])  # it was born knowing these
            self._births += 1
            names = ("id", "generation", "operator", "parents", "genome", "budget", "resumes", "inherits", "replicate")
            yield "born", {name: getattr(candidate, name) for name in names}
        yield from self._recorded(search, recorded)
        leader = run.leader
        if leader is not None and leader.id != self._best:
            self._best = leader.id
            metric = run.objectives[0].metric
            yield "best", {"id": leader.id, "metric": metric, "value": leader.outcome.metrics[metric]}
        yield from self._fresh(search)
        if search.stopping and not self._stopping:
            self._stopping = True
            yield "stopping", {}

    def _recorded(self, search: Search, ids: list[int]) -> Iterator[tuple[str, dict[str, Any]]]:
        for id in ids[self._results :]:
            self._results += 1
            yield "result", {"id": id, **vars(search.saved.outcomes[id])}

    def _fresh(self, search: Search) -> Iterator[tuple[str, dict[str, Any]]]:
        written = _written(search)
        if written == self._written:
            return
        self._written = written
        for trial in _raced(search):
            if (key := _fresh_key(trial)) not in self._raced:
                self._raced.add(key)
                outcome = vars(trial.outcome)
                told = {name: outcome[name] for name in ("status", "metrics", "seconds", "error")}
                yield "fresh", {"id": trial.id, "seed": trial.candidate.seed, **told}


def _raced(search: Search) -> list[Any]:
    from evo_tune.store.calibration import read_calibration

    return read_calibration(search.saved)


def _fresh_key(trial: Any) -> tuple[int, int]:
    return trial.id, trial.candidate.seed


def _written(search: Search) -> int:
    """Return when the calibration's file was written; 0 if there is none."""
    from evo_tune.store.calibration import CALIBRATION

    try:
        return (search.saved.folder / CALIBRATION).stat().st_mtime_ns
    except OSError:
        return 0


def _print(kind: str, data: dict[str, Any]) -> None:
    shared.print_json({"event": kind, "time": round(time.time(), 3), **data}, line=True)
