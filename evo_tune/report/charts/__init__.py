"""The parts of a report, one file each: a file in this folder is a part.

A file defines `PLACE`, its position in the report, and `part(material)`, which returns a `Part`, or None without data
for it. A file with a chart also defines `draw(material, …)`, which returns one figure or None; `Results.plot` offers it
in a notebook.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType

from evo_tune.report.drawing import Part
from evo_tune.report.material import Material


def names() -> list[str]:
    """Return the names of the parts in order."""
    return sorted((found.name for found in iter_modules(__path__)), key=lambda name: (chart_of(name).PLACE, name))


def chart_of(name: str) -> ModuleType:
    """Return the module of a part."""
    return import_module(f"{__name__}.{name}")


def parts(material: Material) -> dict[str, Part]:
    """Return all parts with data in order, by name."""
    found = {name: chart_of(name).part(material) for name in names()}
    return {name: part for name, part in found.items() if part is not None}
