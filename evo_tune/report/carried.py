"""What a search that was meant for a larger model says of it, as a file beside the run.

It takes the evaluator to know what a recipe becomes at another size, and a report loads none: so it is told once at the
end of a session (`forecast.scale`), and read here as plain data of any origin.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from evo_tune.store.journal import write_atomically
from evo_tune.store.run import Run
from evo_tune.store.schema import Count, Finite, Whole
from evo_tune.trust import inside

__all__ = ["Carried", "read_carried", "write_carried"]

FILE = "_scale.json"

LARGEST = 1 << 16
"""Bytes of it at most."""


class Carried(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The recipe of a run at the size of `--for-scale`, and the cost of the search beside that of the training there.

    Args:
        trial: Trial with the recipe.
        width: Width of the target.
        depth: Blocks of the target.
        tokens: Length of its training. Unit: tokens.
        given_tokens: Whether the tokens were given; otherwise they are 20 for each weight.
        lr: Peak learning rate of the target.
        spent: Cost of all trainings of the run, the final comparison included. Unit: FLOPs.
        takes: Cost of the target's training. Unit: FLOPs.
        share: `spent` divided by `takes`.
        loss: Predicted first objective; null if it cannot be predicted.
        low: Lower end of its interval of 80 %.
        high: Upper end of that interval.
        why: Reason why no loss can be predicted, and what would help; '' if it can.
    """

    trial: Whole
    width: Count
    depth: Count
    tokens: Whole
    given_tokens: bool
    lr: Finite
    spent: Finite
    takes: Finite
    share: Finite
    loss: Finite | None
    low: Finite | None
    high: Finite | None
    why: str


def read_carried(run: Run) -> Carried | None:
    """Return what a run says of the size that it is for; None where it is for none, or that was not told yet."""
    if not run.manifest.for_scale:
        return None
    try:
        return msgspec.json.decode(inside.read(run.folder, FILE, limit=LARGEST), type=Carried)
    except (OSError, ValueError, msgspec.MsgspecError, RecursionError):
        return None


def write_carried(run: Run, found: Carried) -> None:
    """Write it beside a run.

    Raises:
        StoreError: The disk refuses.
    """
    write_atomically(run.folder / FILE, msgspec.json.format(msgspec.json.encode(found)))
