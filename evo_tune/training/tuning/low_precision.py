"""Frozen weights in half the bytes: stored in the precision that a training computes in anyway.

Only matrices, of linear layers and embeddings: norms and biases are few, and stay as they are. What comes out of an
embedding is float32 again, so that sums along the residual stream lose nothing. What is trained stays in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["halve_frozen"]

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def halve_frozen(model: nn.Module, precision: str) -> bool:
    """Store the frozen matrices of a model in a precision, in place; with 'fp32' leave it alone.

    Its passes are then to be done under that precision's autocast, those that judge included.

    Returns:
        Whether anything is stored in less than float32.
    """
    if precision not in _DTYPES:
        return False
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding) and not module.weight.requires_grad:
            module.weight.data = module.weight.data.to(_DTYPES[precision])
            if isinstance(module, nn.Embedding):
                module.register_forward_hook(_in_full)
    return True


def _in_full(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
    return output.float()
