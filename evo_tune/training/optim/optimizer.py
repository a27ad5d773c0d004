"""AdamW and SGD, with weight decay on the matrices that multiply and on nothing else.

Which parameters decay is decided by the kind of module that owns them, not by their shape: biases, gains
of norms and all embeddings (positions too) do not decay, and a weight shared by an embedding and a head
is an embedding. Knows nothing of schedules or steps. (Muon is in `muon`.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from evo_tune.errors import RecipeError
from evo_tune.options.bounds import check_number
from evo_tune.recipe.models.rules import Factors

__all__ = ["SGD", "AdamW", "decay_groups", "factors_of", "parameter_groups", "split_by_factors"]

_MATMULS = (nn.Linear, nn.Bilinear, nn.MultiheadAttention, nn.modules.conv._ConvNd)


def decay_groups(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Split the trainable parameters into those that decay and those that do not, each exactly once.

    Args:
        model: Any module. A parameter decays if it is a weight of a linear, attention or convolution
            layer and is not an embedding elsewhere in the model; or if its module names it in `matrices`.

    Returns:
        (decayed, not decayed), each in the model's own order.
    """
    matmul: set[nn.Parameter] = set()
    embedding: set[nn.Parameter] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if isinstance(module, nn.Embedding | nn.EmbeddingBag):
                embedding.add(parameter)
            elif (isinstance(module, _MATMULS) and "bias" not in name) or name in getattr(module, "matrices", ()):
                matmul.add(parameter)
    # `parameters()` yields a shared parameter once.
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed = [p for p in trainable if p in matmul and p not in embedding]
    return decayed, [p for p in trainable if p not in matmul or p in embedding]


def factors_of(model: nn.Module, optimizer: str) -> dict[nn.Parameter, Factors]:
    """Return by what the rates of each parameter are multiplied, as its `config.scaling` says; without one, nothing.

    A model of which a part is frozen is not trained anew: its rates are one.

    Args:
        model: Any module.
        optimizer: See `Parametrisation.factors`.
    """
    config = getattr(model, "config", None)
    scaling = getattr(config, "scaling", None)
    if config is None or scaling is None or not all(p.requires_grad for p in model.parameters()):
        return {}
    matrices = set(decay_groups(model)[0])
    return {
        weight: scaling.factors(optimizer, _kind(name, weight in matrices), config.width, config.depth)
        for name, weight in model.named_parameters()
    }


def _kind(name: str, matrix: bool) -> str:
    return "other" if not name.startswith("blocks.") else "hidden" if matrix else "block"


def split_by_factors(
    parameters: Sequence[nn.Parameter], factors: Mapping[nn.Parameter, Factors], *, decay: bool, lr: float, eps: float
) -> list[dict[str, Any]]:
    """Return groups of parameters that share their factors, in the order of the first of each; none of no parameters.

    Args:
        parameters: All of which decay, or none.
        factors: See `factors_of`; those that are not in it have ones.
        decay: Whether they do.
        lr: Peak learning rate.
        eps: Adam's; 0: the optimizer has none.
    """
    same: dict[Factors, list[nn.Parameter]] = {}
    for parameter in parameters:
        same.setdefault(factors.get(parameter, Factors()), []).append(parameter)
    return [
        {
            "params": alike,
            "decay": decay and factor.decay,
            "initial_lr": lr * factor.lr,
            "weight_decay": 0.0,
            **({"eps": eps * factor.eps} if eps else {}),
        }
        for factor, alike in same.items()
    ]


def parameter_groups(model: nn.Module, lr: float, optimizer: str, eps: float = 0.0) -> list[dict[str, Any]]:
    """Return the groups of `decay_groups`, each in parts that share their factors, as an optimizer takes them.

    They carry `initial_lr` (the peak that schedules multiply) and `decay` (by what the trainer multiplies the weight
    decay that it writes to them).
    """
    factors = factors_of(model, optimizer)
    parts = zip(decay_groups(model), (True, False), strict=True)
    return [
        group
        for parameters, decay in parts
        for group in split_by_factors(parameters, factors, decay=decay, lr=lr, eps=eps)
    ]


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
        """Return the optimizer over a model's trainable parameters, in `parameter_groups`."""
        groups = parameter_groups(model, self.lr, "adamw", self.eps)
        fused = all(p.device.type in ("cpu", "cuda") for group in groups for p in group["params"])
        betas = (self.beta1, self.beta2)
        return torch.optim.AdamW(groups, lr=self.lr, betas=betas, eps=self.eps, fused=fused)


@dataclass(frozen=True, kw_only=True)
class SGD:
    """Options of stochastic gradient descent with momentum.

    Its weight decay is the classical one, added to the gradient, so that momentum carries it along; it
    is lr · λ a step, as AdamW's is, only without momentum.

    Args:
        lr: Peak learning rate, above 0, up to 10.
        momentum: 0 up to below 1.
        nesterov: Whether to look ahead along the momentum (which must then be above 0).

    Raises:
        RecipeError: A field is out of its range.
    """

    lr: float
    momentum: float = 0.9
    nesterov: bool = False

    def __post_init__(self) -> None:
        check_number("lr", self.lr, "(0, 10]")
        check_number("momentum", self.momentum, "[0, 1)")
        if not isinstance(self.nesterov, bool) or (self.nesterov and not self.momentum):
            raise RecipeError("nesterov", self.nesterov, "false, or true with a momentum above 0")

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer over a model's trainable parameters, in `parameter_groups`."""
        groups = parameter_groups(model, self.lr, "sgd")
        fused = all(p.device.type == "cuda" for group in groups for p in group["params"])
        options = {"momentum": self.momentum, "nesterov": self.nesterov, "fused": fused or None}
        optimizer = torch.optim.SGD(groups, lr=self.lr, **options)  # type: ignore[arg-type]
        if fused and self.momentum:
            # As the first step makes them; left to it, a first step that is refused leaves them as they lay in memory.
            for parameter in (p for group in groups for p in group["params"]):
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimizer
