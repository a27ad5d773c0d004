"""Options, numbers and arithmetic of a training. Nothing here loads torch.

The public names are in `public`, which is imported at first use. The help of the command line needs only one
schedule.
"""

from typing import TYPE_CHECKING, Any

from evo_tune.training import public_name

if TYPE_CHECKING:
    from evo_tune.training.recipe.public import *  # noqa: F403


def __getattr__(name: str) -> Any:
    return public_name(__name__, name)
