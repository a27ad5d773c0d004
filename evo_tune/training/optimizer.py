"""AdamW, with weight decay on the matrices that multiply and on nothing else.

Which parameters decay is decided by the kind of module that owns them, not by their shape: biases, gains
of norms and all embeddings (positions too) do not decay, and a weight shared by an embedding and a head
is an embedding. Knows nothing of schedules or steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from evo_tune.training._check import check_number

__all__ = ["AdamW", "decay_groups"]

_MATMULS = (nn.Linear, nn.Bilinear, nn.MultiheadAttention, nn.modules.conv._ConvNd)


def decay_groups(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Split the trainable parameters into those that decay and those that do not, each exactly once.

    Args:
        model: Any module. A parameter decays if it is a weight of a linear, attention or convolution
            layer and is not an embedding elsewhere in the model.

    Returns:
        (decayed, not decayed), each in the model's own order.
    """
    matmul: set[nn.Parameter] = set()
    embedding: set[nn.Parameter] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if isinstance(module, nn.Embedding | nn.EmbeddingBag):
                embedding.add(parameter)
            elif isinstance(module, _MATMULS) and "bias" not in name:
                matmul.add(parameter)
    # `parameters()` yields a shared parameter once.
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed = [p for p in trainable if p in matmul and p not in embedding]
    return decayed, [p for p in trainable if p not in matmul or p in embedding]


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """Options of AdamW (Loshchilov & Hutter, arXiv:1711.05101).

    Args:
        lr: Peak learning rate, above 0, up to 1.
        beta1: Decay of the first moment, 0 up to below 1.
        beta2: Decay of the second, 0 up to below 1: 0.95 for language models, 0.999 for classification.
        eps: Added to the root of the second moment, above 0.

    Raises:
        RecipeError: A field is out of its range.
    """

    lr: float
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8

    def __post_init__(self) -> None:
        check_number("lr", self.lr, "(0, 1]")
        check_number("beta1", self.beta1, "[0, 1)")
        check_number("beta2", self.beta2, "[0, 1)")
        check_number("eps", self.eps, "(0, 1)")

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer over a model's trainable parameters.

        Its groups carry `initial_lr` (the peak that schedules multiply) and `decay` (whether the
        trainer writes the weight decay to them).
        """
        decayed, others = decay_groups(model)
        groups: list[dict[str, Any]] = [
            {"params": parameters, "decay": decay, "initial_lr": self.lr, "weight_decay": 0.0}
            for parameters, decay in ((decayed, True), (others, False))
            if parameters
        ]
        fused = all(p.device.type in ("cpu", "cuda") for group in groups for p in group["params"])
        betas = (self.beta1, self.beta2)
        return torch.optim.AdamW(groups, lr=self.lr, betas=betas, eps=self.eps, fused=fused)
