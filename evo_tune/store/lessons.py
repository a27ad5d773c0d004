"""What a manifest holds of the earlier runs from which a run has learned: the schema of it, and what is refused."""

from __future__ import annotations

from typing import TypedDict

from evo_tune.genome.lessons import digest
from evo_tune.genome.values import Genome
from evo_tune.store.schema import Finite
from evo_tune.text import one_line

__all__ = ["TRIALS", "Learned", "check_learned"]

TRIALS = 1_000
"""Trials of an earlier run that are copied, at most: the best half, the others evenly from the rest."""

RUNS = 100
"""Earlier runs, at most."""


class Learned(TypedDict):
    """An earlier run, as a manifest holds it.

    Args:
        name: Its name.
        sha256: Of genomes and losses, as `genome.lessons.digest` has it.
        genomes: Of its trainings in full, best first.
        losses: Theirs, to be minimised.
    """

    name: str
    sha256: str
    genomes: list[Genome]
    losses: list[Finite]


def check_learned(learned: list[Learned]) -> None:
    """Refuse what a manifest holds of earlier runs and is not what it says.

    Raises:
        ValueError: It is not.
    """
    if len(learned) > RUNS:
        raise ValueError(f"it has learned from {len(learned)} runs, expected {RUNS} at most")
    for one in learned:
        if not 0 < len(one["genomes"]) == len(one["losses"]) <= TRIALS:
            raise ValueError(f"learned from {one_line(one['name'])}: {len(one['genomes'])} genomes")
        if digest(one["genomes"], one["losses"]) != one["sha256"]:
            raise ValueError(f"learned from {one_line(one['name'])}: the hash is not that of what is there")
