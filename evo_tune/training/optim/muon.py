"""Muon for the hidden matrices, AdamW for everything else (Jordan et al. 2024; arXiv:2502.16982).

Muon replaces a matrix's momentum by the nearest orthogonal matrix, so that an update moves all directions
alike. Embeddings, the head, norms and biases are no such maps and stay with AdamW. Updates are scaled to
the size that AdamW's have, so both share one learning rate and one weight decay. Knows nothing of schedules.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from evo_tune.errors import RecipeError
from evo_tune.options.bounds import check_number
from evo_tune.training.hardware.eager import step
from evo_tune.training.optim.optimizer import decay_groups

__all__ = ["Muon", "OptimizerPair", "hidden_matrices"]


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """Return the trainable matrices that decay, without those of a module called `head`."""
    heads = {p for name, module in model.named_modules() if name.split(".")[-1] == "head" for p in module.parameters()}
    return [p for p in decay_groups(model)[0] if p.ndim == 2 and p not in heads]


class OptimizerPair(torch.optim.Optimizer):
    """Several optimizers that step together; its groups are theirs, the very same dicts.

    Args:
        optimizers: Over parameters that do not overlap, each with at least one.
    """

    def __init__(self, optimizers: list[torch.optim.Optimizer]) -> None:
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        super().__init__([{**group} for group in groups], {})
        self.optimizers = optimizers
        self.param_groups = groups

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        if closure is not None:
            raise NotImplementedError("a pair of optimizers takes no closure")
        for optimizer in self.optimizers:
            step(optimizer)

    def state_dict(self) -> dict[str, Any]:
        return {"optimizers": [optimizer.state_dict() for optimizer in self.optimizers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, state_dict["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        # Loading gives an optimizer new groups.
        self.param_groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]


@dataclass(frozen=True, kw_only=True)
class Muon:
    """Options of Muon, and of AdamW beside it.

    Args:
        lr: Peak learning rate of both, above 0, up to 1: the one that suits AdamW.
        momentum: Of the hidden matrices, 0 up to below 1.
        nesterov: Whether to look ahead along the momentum.
        beta1: Decay of AdamW's first moment, 0 up to below 1.
        beta2: Decay of its second, 0 up to below 1.
        eps: Added to the root of the second moment, above 0.

    Raises:
        RecipeError: A field is out of its range, or this torch has no Muon (2.9 brought it).
    """

    lr: float
    momentum: float = 0.95
    nesterov: bool = True
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8

    def __post_init__(self) -> None:
        check_number("lr", self.lr, "(0, 1]")
        for name in ("momentum", "beta1", "beta2"):
            check_number(name, getattr(self, name), "[0, 1)")
        check_number("eps", self.eps, "(0, 1)")
        if not isinstance(self.nesterov, bool):
            raise RecipeError("nesterov", self.nesterov, "true or false")
        if not hasattr(torch.optim, "Muon"):
            raise RecipeError("optimizer", "muon", f"'adamw' or 'sgd' with torch {torch.__version__}; 2.9 has Muon")

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """Return the optimizers over a model's trainable parameters, as one.

        Its groups carry `initial_lr` and `decay`, as those of `parameter_groups` do.
        """
        decayed, others = decay_groups(model)
        hidden = hidden_matrices(model)
        rest = [p for p in decayed if p not in set(hidden)]
        groups: list[dict[str, Any]] = [
            {"params": parameters, "decay": decay, "initial_lr": self.lr, "weight_decay": 0.0}
            for parameters, decay in ((hidden, True), (rest, True), (others, False))
        ]
        optimizers: list[torch.optim.Optimizer] = []
        if hidden:
            muon: dict[str, Any] = {
                "momentum": self.momentum,
                "nesterov": self.nesterov,
                "adjust_lr_fn": "match_rms_adamw",
            }
            optimizers.append(torch.optim.Muon(groups[:1], lr=self.lr, **muon))
        if rest or others:
            plain = [group for group in groups[1:] if group["params"]]
            fused = all(p.device.type in ("cpu", "cuda") for p in (*rest, *others))
            betas = (self.beta1, self.beta2)
            optimizers.append(torch.optim.AdamW(plain, lr=self.lr, betas=betas, eps=self.eps, fused=fused))
        return OptimizerPair(optimizers)
