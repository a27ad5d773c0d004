"""Whether two trainings may be compared: same compute, same point of the schedule. No torch here.

A deeper model at equal steps has had more arithmetic, and a cosine stopped half-way is not the cosine laid
over half the steps: which of two such trainings is better says nothing about their recipes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from evo_tune.errors import RecipeError
from evo_tune.options.bounds import check_name, check_number

__all__ = ["check_comparable"]


def check_comparable(
    first: Mapping[str, float], second: Mapping[str, float], *, held: str = "flops", tolerance: float = 0.02
) -> None:
    """Require that two trainings spent the same and ended at the same point of their schedules.

    Args:
        first: What a training recorded: `held`, and 'final_lr_fraction' (the last step's learning rate over
            its peak).
        second: What the other did.
        held: What was to be equal: 'flops' or 'tokens'.
        tolerance: Relative difference of what was held that is let pass (a budget ends with a whole window),
            and absolute difference of the fractions.

    Raises:
        RecipeError: They may not be compared, or something is not recorded; it names what.
    """
    check_name("held", held, ("flops", "tokens"))
    check_number("tolerance", tolerance, "[0, 1)")
    for name in (held, "final_lr_fraction"):
        values = [training.get(name, math.nan) for training in (first, second)]
        for value in values:
            check_number(name, value, "[0, inf)")
        scale = max(values) if name == held else 1.0
        if abs(values[0] - values[1]) > tolerance * scale:
            raise RecipeError(
                name, values[1], f"{values[0]:g} as in the training that it is compared with: give both one budget"
            )
