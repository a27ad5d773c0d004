"""One part of a report, as plain data: what to read from it, its figures, and its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evo_tune.report.drawing import Spec

__all__ = ["Command", "Drawn", "Part"]


@dataclass(frozen=True)
class Drawn:
    """A figure and what stands above it.

    Args:
        figure: It.
        caption: One line, as any text; '' for none.
        narrow: Whether it goes beside others where there is room.
        axes: Names of the axes by which the page lets a reader filter its lines; the page's script knows how.
    """

    figure: Spec
    caption: str = ""
    narrow: bool = False
    axes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Command:
    """What to type, and why.

    Args:
        why: A sentence.
        typed: The command; '' for none.
    """

    why: str
    typed: str = ""


@dataclass(frozen=True)
class Part:
    """One part of a report. All of its text is any text: the page escapes it.

    Args:
        title: Of the part.
        reads: What to read from it, in a sentence or two.
        figures: In order.
        facts: Name to value, shown large.
        commands: What to do, in order.
        rows: Its numbers: the same keys in each.
        rows_title: What the rows are.
        rows_open: Whether they are seen at once.
        note: What is left out, if anything.
    """

    title: str
    reads: str
    figures: Sequence[Drawn] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    commands: Sequence[Command] = ()
    rows: Sequence[Mapping[str, Any]] = ()
    rows_title: str = "The numbers"
    rows_open: bool = False
    note: str = ""
