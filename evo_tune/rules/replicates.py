"""Which genome is trained with a further seed: the leader by the mean over its seeds, until it has had enough.

Only the leader: one lucky draw brings a genome to the top, where it must prove itself before it stays. Who leads is
kept while the run goes on (`Leader`, the state of a fold); nothing here proposes a new genome.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TypeAlias

from evo_tune.genome.standing import Entry

__all__ = ["Leader"]

Place: TypeAlias = tuple[float, tuple[float, ...], int]
"""Violation, mean losses, id of the birth: the least leads."""


class Leader:
    """The genomes that were trained in full, by the means over their seeds, and the first of them."""

    def __init__(self) -> None:
        self._places: dict[str, Place] = {}
        self._heap: list[tuple[Place, str]] = []
        self._entries: dict[str, Entry] = {}

    def take(self, entry: Entry) -> None:
        """Note what was told of a genome, all of it."""
        trial = entry.results.get(1.0)
        losses = entry.losses(1.0)
        if trial is None or not trial.ok or losses is None:
            self._places.pop(entry.key, None)
            return
        self._entries[entry.key] = entry
        self._places[entry.key] = trial.violation, losses, entry.birth.id
        heappush(self._heap, (self._places[entry.key], entry.key))

    def first(self) -> Entry | None:
        """Return the genome that leads, if any."""
        while self._heap and self._places.get(self._heap[0][1]) != self._heap[0][0]:
            heappop(self._heap)  # a place that was taken from it since
        return self._entries[self._heap[0][1]] if self._heap else None
