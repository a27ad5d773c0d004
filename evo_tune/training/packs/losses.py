"""What members of a pack minimise: each the mean loss of its own targets, by its own z-loss, as a summand of one sum.

Knows nothing of models or steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from evo_tune.training.data.batch import IGNORE
from evo_tune.training.optim.cross_entropy import summed_in_pieces, valid_targets
from evo_tune.training.packs.numbers import of_each

__all__ = ["packed_losses"]


def packed_losses(
    x: Tensor, heads: Tensor, targets: Tensor, *, counts: Sequence[int], z_losses: Sequence[float], in_pieces: bool
) -> tuple[Tensor, Tensor]:
    """Return each member's summand of its mean cross-entropy, without graph, and what is to be minimised for all.

    Args:
        x: What logits are made of, (members, tokens, width).
        heads: (members, vocabulary, width).
        targets: (members, tokens), class numbers or IGNORE.
        counts: Valid targets of each member's whole step.
        z_losses: Weights of `z_sum` beside the cross-entropy.
        in_pieces: Whether logits are so many that they are not to be there whole.

    Returns:
        (members,), and a scalar.
    """
    if in_pieces:
        parts = [
            summed_in_pieces(one, head, targets=aims, z_loss=z, factor=1.0 / count)
            for one, head, aims, count, z in zip(x, heads, targets, counts, z_losses, strict=True)
        ]
        losses = torch.stack([loss / count for (_, loss), count in zip(parts, counts, strict=True)])
        return losses, torch.stack([minimised for minimised, _ in parts]).sum()
    logits = torch.bmm(x, heads.mT)
    if logits.dtype in (torch.bfloat16, torch.float16):
        logits = logits.float()
    entropy = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="none")
    losses = entropy.view(targets.shape).sum(1) / of_each(counts, logits.dtype, logits.device)
    minimised = losses
    if any(z_losses):
        squares = torch.where(valid_targets(targets), logits.logsumexp(-1), 0.0).square().sum(1)
        weights = [z / count for z, count in zip(z_losses, counts, strict=True)]
        minimised = losses + squares * of_each(weights, logits.dtype, logits.device)
    return losses.detach(), minimised.sum()
