"""The names of births that are no strategy's own: runs give them, and strategies, rules and tests tell by them.

They are saved, so a name is never changed without reading the old one too.
"""

from __future__ import annotations

__all__ = ["BY_HAND", "DEFAULT", "PROMOTION", "REPLICATE", "WARM_START"]

DEFAULT = "default"
"""The default genome, first in a run."""

WARM_START = "warm-start"
"""A genome that was given to the run, right after the default."""

PROMOTION = "promotion"
"""A training that goes on to the next rung."""

REPLICATE = "replicate"
"""A genome once more, with another seed."""

BY_HAND = "by hand"
"""A genome that is trained for itself, outside any run."""
