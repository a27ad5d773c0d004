"""What to do next: ranges to widen, failures and their fixes, and whether going on pays."""

from __future__ import annotations

from evo_tune.report.advice import advice
from evo_tune.report.material import Material
from evo_tune.report.part import Part

PLACE = 10


def part(material: Material) -> Part | None:
    """Return the part; None where there is no advice."""
    commands = advice(material)
    if not commands:
        return None
    return Part("What to do next", "Drawn from counts in this run, the most useful first.", commands=commands)
