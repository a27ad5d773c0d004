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
    """A run's recipe at the size for which it was searched.

    Args:
        trial: Whose recipe.
        width: Of the target.
        depth: Its blocks.
        tokens: Of its training.
        given_tokens: Whether they were asked for; else they are 20 a weight.
        lr: Its peak learning rate.
        spent: FLOPs that the search took, its calibration included.
        takes: FLOPs of the target's training.
        loss: To be expected; None where it cannot be told.
        low: Lower end of the interval.
        high: Its upper end.
        why: Why no loss can be told, and what would make it so; '' if it can.
    """

    trial: Whole
    width: Count
    depth: Count
    tokens: Whole
    given_tokens: bool
    lr: Finite
    spent: Finite
    takes: Finite
    loss: Finite | None
    low: Finite | None
    high: Finite | None
    why: str

    @property
    def share(self) -> float:
        """What the search took, as a share of the target's training."""
        return self.spent / self.takes if self.takes > 0 else 0.0


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
