"""Constraints on what a training returns: METRIC<=NUMBER or METRIC>=NUMBER.

A constraint is judged like an objective, from the metrics alone. It knows nothing of trials or strategies.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from evo_tune.errors import OptionError

__all__ = ["Constraint", "violation"]


@dataclass(frozen=True)
class Constraint:
    """A bound on a metric.

    Args:
        metric: Its name.
        bound: The largest value allowed, or the smallest.
        sign: 1 for a largest, -1 for a smallest value.
    """

    metric: str
    bound: float
    sign: float

    @staticmethod
    def parse(text: str) -> Constraint:
        """Read METRIC<=NUMBER or METRIC>=NUMBER.

        Raises:
            OptionError: It is neither.
        """
        found = re.fullmatch(r"\s*([^<>=]*[^<>=\s])\s*(<=|>=)\s*(\S+)\s*", text)
        try:
            bound = float(found[3]) if found else math.nan
        except ValueError:
            bound = math.nan
        if found is None or not math.isfinite(bound):
            raise OptionError(
                f"--subject-to {text!r}: expected METRIC<=NUMBER or METRIC>=NUMBER, such as 'params<=2e6'"
            )
        return Constraint(found[1], bound, 1.0 if found[2] == "<=" else -1.0)

    def describe(self) -> str:
        """Return METRIC<=NUMBER or METRIC>=NUMBER, which `parse` reads back."""
        bound = repr(self.bound).removesuffix(".0")
        return f"{self.metric}{'<=' if self.sign > 0 else '>='}{bound}"

    def violation(self, metrics: Mapping[str, float]) -> float:
        """Return by how much a value is beyond the bound, in units of the bound; 0 if it is not.

        A metric that is missing or not a number is beyond any bound.
        """
        value = metrics.get(self.metric, math.nan)
        if math.isnan(value):
            return math.inf
        return max(0.0, self.sign * (value - self.bound)) / (abs(self.bound) or 1.0)


def violation(constraints: Iterable[Constraint], metrics: Mapping[str, float]) -> float:
    """Return the sum of the violations: 0 for what is feasible.

    Each is measured in units of its own bound, so that they can be added (Deb, An efficient constraint
    handling method for genetic algorithms, Computer Methods in Applied Mechanics and Engineering 186, 2000).
    """
    return sum((constraint.violation(metrics) for constraint in constraints), 0.0)
