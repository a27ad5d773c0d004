"""Reports of runs, from the runs to the file: of one in full, of several side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from evo_tune.errors import StoreError
from evo_tune.report import charts
from evo_tune.report.material import Material
from evo_tune.report.pages import comparison, library
from evo_tune.report.pages.page import Library, Section, page
from evo_tune.report.part import Part
from evo_tune.report.words import show_seconds
from evo_tune.store.journal import write_atomically
from evo_tune.store.places import REPORT
from evo_tune.store.run import Run

__all__ = ["about", "report", "write_beside", "write_report"]


def report(runs: Sequence[Run], script: Library) -> str:
    """Return the page of one run, or of several side by side.

    Args:
        runs: One or more.
        script: The chart library's, as the page is to have it.
    """
    materials = [Material(run) for run in runs]
    if len(materials) == 1:
        parts = charts.parts(materials[0])
        return page(materials[0].name, about(materials[0]), sections_of(parts), script)
    parts = comparison.parts(materials)
    title = f"{len(materials)} runs side by side"
    return page(title, {"runs": ", ".join(one.name for one in materials)}, sections_of(parts), script)


def sections_of(parts: Mapping[str, Part]) -> list[Section]:
    """Return parts with their names."""
    return [Section(name, part) for name, part in parts.items()]


def about(material: Material) -> dict[str, str]:
    """Return what stands below the title."""
    manifest, run = material.run.manifest, material.run
    found = {
        "evaluator": manifest.evaluator,
        "strategy": manifest.strategy,
        "objective": ", ".join(manifest.objectives),
        "seed": str(manifest.seed),
        "begun": manifest.created[:16].replace("T", " "),
        "ended": run.ended or "not yet",
        "took": show_seconds(run.seconds),
    }
    return {name: value for name, value in found.items() if value}


def write_beside(run: Run) -> Path:
    """Write the report into a run's own folder, with the library once in its store, and return where it is.

    Raises:
        StoreError: The disk refuses.
    """
    made = report([run], library.shared(run.folder.parent))
    write_atomically(run.folder / REPORT, made.encode())
    return run.folder / REPORT


def write_report(runs: Sequence[Run], path: Path) -> Path:
    """Write a report that stands alone, and return where it is.

    Raises:
        StoreError: The disk refuses.
    """
    made = report(runs, library.inline())
    try:
        path.write_text(made, encoding="utf-8")
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}; choose another -o FILE") from None
    return path
