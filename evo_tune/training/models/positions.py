"""How a Transformer knows where a token stands: tables of sinusoids and rotations, and how they reach further.

Rotary positions (Su et al., arXiv:2104.09864) turn pairs of a query's and a key's channels by angles that
grow with the position, so that their product depends on the distance only. Trained at length T, a model is
extended to T' = s · T by slower angles: all alike ('linear', arXiv:2306.15595), by a larger base ('ntk'), or
only where a pair turns less than a few times within T ('yarn', arXiv:2309.00071). Knows no model.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from evo_tune.errors import RecipeError
from evo_tune.options.bounds import check_name

__all__ = ["interpolate_positions", "rotary_frequencies", "rotary_table", "rotate", "sinusoids"]

_SLOW, _FAST = 1.0, 32.0  # turns within T: pairs below are interpolated, pairs above left alone (YaRN's α, β)


def rotary_frequencies(
    head_dim: int, base: float = 10000.0, *, context: int = 1, stretch: float = 1.0, method: str = "linear"
) -> Tensor:
    """Return the angle per position of each pair of channels, in radians.

    Args:
        head_dim: Channels of a head, an even number; above 2 for 'ntk'.
        base: The slowest pair turns about 1/base radians a position.
        context: Length T that the model was trained at.
        stretch: s = T'/T, 1 or more; 1 changes nothing.
        method: 'linear', 'ntk' or 'yarn'.

    Returns:
        (head_dim / 2), float64, falling.

    Raises:
        RecipeError: An odd head_dim, a stretch below 1, or an unknown method.
    """
    check_name("extension", method, ("linear", "ntk", "yarn"))
    if head_dim % 2 or (method == "ntk" and head_dim < 4):
        raise RecipeError("head_dim", head_dim, "an even number, 4 or more for 'ntk'")
    if not stretch >= 1.0:
        raise RecipeError("stretch", stretch, "a number of 1 or more")
    if method == "ntk":
        base = base * stretch ** (head_dim / (head_dim - 2))
    plain: Tensor = base ** -(torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    if method == "ntk":
        return plain
    if method == "linear":
        return plain / stretch
    turns = context * plain / (2.0 * math.pi)
    kept = ((turns - _SLOW) / (_FAST - _SLOW)).clamp(0.0, 1.0)
    return (1.0 - kept) * plain / stretch + kept * plain


def rotary_table(length: int, frequencies: Tensor, gain: float = 1.0) -> Tensor:
    """Return cosines and sines of all positions' angles, times `gain`: (2, length, head_dim / 2), float64."""
    angles = torch.arange(length, dtype=torch.float64)[:, None] * frequencies
    return gain * torch.stack((angles.cos(), angles.sin()))


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turn queries or keys by their positions.

    Args:
        x: (…, length, head_dim); channel i is paired with channel i + head_dim / 2. Turned in float32 at least: in
            bfloat16 an angle's cosine is off by up to 1/256, and distances with it.
        table: (2, length, head_dim / 2), as `rotary_table` gives.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    cos, sin = table.to(wide)
    first, second = x.to(wide).chunk(2, -1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), -1).to(x.dtype)


def sinusoids(length: int, width: int, stretch: float = 1.0) -> Tensor:
    """Return the fixed positions of Vaswani et al. (arXiv:1706.03762), each channel within ±1.

    Args:
        length: Number of positions.
        width: Channels: sines in the first half, cosines in the second (one fewer if odd).
        stretch: Positions are divided by it.

    Returns:
        (length, width), float64.
    """
    half = -(-width // 2)
    frequencies = 10000.0 ** -(torch.arange(half, dtype=torch.float64) / half)
    angles = torch.arange(length, dtype=torch.float64)[:, None] / stretch * frequencies
    return torch.cat((angles.sin(), angles.cos()), 1)[:, :width]


def interpolate_positions(table: Tensor, length: int) -> Tensor:
    """Return a learned table stretched to `length` positions, the first and the last kept as they are.

    Args:
        table: (positions, width).
        length: At least as many.

    Raises:
        RecipeError: Fewer positions than the table has.
    """
    if length < len(table):
        raise RecipeError("context", length, f"{len(table)} or more")
    rows = torch.nn.functional.interpolate(table.T[None], size=length, mode="linear", align_corners=True)
    return rows[0].T.contiguous()
