"""A number of each member, on the device, without a wait."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from evo_tune.training.data.batch import onto

__all__ = ["of_each"]


def of_each(values: Sequence[float], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the members' numbers, (members,)."""
    return onto(torch.tensor(values, dtype=dtype), device)
