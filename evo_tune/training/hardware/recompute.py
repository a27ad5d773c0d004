"""Activation checkpointing: forget what a block computed, and compute it again when the gradient needs it.

Memory for time; the loss and the gradient are the same to the bit, dropout included. Non-reentrant, so that
blocks whose inputs need no gradient (a frozen embedding below LoRA) get theirs all the same.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

__all__ = ["run_block"]


def run_block(block: nn.Module, number: int, every: int | None, *inputs: Tensor | None) -> Tensor:
    """Return the block's output, to be computed again if its number is a multiple of `every` (None: never)."""
    if every is None or number % every or not torch.is_grad_enabled():
        output: Tensor = block(*inputs)
    else:
        output = checkpoint(block, *inputs, use_reentrant=False)
    return output
