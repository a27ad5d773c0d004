"""The parts of a report, one file each, known by being there.

A file has `PLACE`, by which parts are in order, and `part(material)`, which returns a `Part`, or None where it has
nothing to say. One that draws has `draw(material, …)` beside it, which returns one figure, or None: what
`Results.plot` gives in a notebook.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType

from evo_tune.report.drawing import Part
from evo_tune.report.material import Material

__all__ = ["chart_of", "names", "parts"]


def names() -> list[str]:
    """Return the names of the parts, the most important first."""
    return sorted((found.name for found in iter_modules(__path__)), key=lambda name: (chart_of(name).PLACE, name))


def chart_of(name: str) -> ModuleType:
    """Return the module of a part."""
    return import_module(f"{__name__}.{name}")


def parts(material: Material) -> dict[str, Part]:
    """Return every part that has something to say of a run, by name, the most important first."""
    found = {name: chart_of(name).part(material) for name in names()}
    return {name: part for name, part in found.items() if part is not None}
