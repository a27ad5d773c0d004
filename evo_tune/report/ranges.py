"""Ranges that a run has widened, as text for people."""

from __future__ import annotations

from collections.abc import Iterator

from evo_tune.genome.genes import Choice, Gene
from evo_tune.report.words import show_value
from evo_tune.store.run import Run, Widening
from evo_tune.text import one_line, printable


def as_range(gene: Gene) -> str:
    """Return the range of a gene: [0.0001, 0.03], or the values of a choice between bars."""
    if isinstance(gene, Choice):
        return "|".join(map(show_value, gene.values))
    return f"[{show_value(gene.decode(0.0))}, {show_value(gene.decode(1.0))}]"


def as_sentence(one: Widening) -> str:
    """Return a widening in one line: the genes with their new ranges, and the reason."""
    ranges = ", ".join(f"{printable(name)} widened to {as_range(gene)}" for name, gene in one.changed.items())
    return f"{ranges}: {one_line(one.reason) or 'as you asked on resume'}"


def wider_ranges(run: Run) -> dict[str, str]:
    """Return the present range of each gene that was widened, by name."""
    changed = {name for one in run.widened for name in one.changed}
    return {name: as_range(gene) for name, gene in run.genes.items() if name in changed}


def ranges_line(run: Run) -> Iterator[str]:
    """Yield a line with the present ranges of the genes that were widened, if there are any."""
    if run.widened:
        found = ", ".join(f"{printable(name)} {text}" for name, text in wider_ranges(run).items())
        yield f"widened ranges: {found}"
