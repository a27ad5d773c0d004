"""Sizes of models that a user gives as DEPTHxWIDTH: the target of `--for-scale`, and the order of depth and width.

This module knows nothing of trainings: what a size costs is known elsewhere.
"""

import re
from dataclasses import dataclass

from evo_tune.errors import OptionError

# Largest width and depth of a target.
LARGEST_SIZE = 10**6


def check_depth_first(flag_text: str, depth: int, width: int) -> None:
    """Require a depth of at most the width, because sizes are written DEPTHxWIDTH and no model is deeper than wide.

    Args:
        flag_text: The option with its value, for the message.
        depth: Number of blocks.
        width: Width of the model.

    Raises:
        OptionError: The depth exceeds the width, so the two are probably in the wrong order.
    """
    if depth > width:
        raise OptionError(f"{flag_text[:80]}: expected DEPTHxWIDTH, the depth first: did you mean {width}x{depth}?")


@dataclass(frozen=True, kw_only=True)
class TargetSize:
    """Target of a search for a larger model.

    Args:
        depth: Number of blocks.
        width: Width of the model.
        tokens: Training text in tokens; None: compute-optimal.
    """

    depth: int
    width: int
    tokens: int | None = None


def parse_target_size(text: str) -> TargetSize:
    """Parse the value of `--for-scale`.

    Args:
        text: DEPTHxWIDTH or DEPTHxWIDTHxTOKENS, such as 24x1024x1e9.

    Raises:
        OptionError: The text is something else, or the depth exceeds the width.
    """
    match = re.fullmatch(r"(\d{1,9})x(\d{1,9})(?:x(\d+(?:\.\d*)?(?:e\d{1,2})?))?", text, re.ASCII)
    error = OptionError(f"--for-scale {text}: expected DEPTHxWIDTH or DEPTHxWIDTHxTOKENS, such as 24x1024x1e9")
    if match is None:
        raise error
    depth, width = int(match[1]), int(match[2])
    tokens = float(match[3]) if match[3] else None
    if not (0 < width <= LARGEST_SIZE and 0 < depth <= LARGEST_SIZE) or not (tokens is None or 1 <= tokens < 2**63):
        raise error
    check_depth_first(f"--for-scale {text}", depth, width)
    return TargetSize(depth=depth, width=width, tokens=None if tokens is None else int(tokens))
