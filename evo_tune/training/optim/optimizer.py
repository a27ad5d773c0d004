"""Optimizers: AdamW, SGD, and Muon for hidden matrices."""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from evo_tune.errors import RecipeError
from evo_tune.options.declare import check_number
from evo_tune.training.hardware.distributed import Ranks
from evo_tune.training.recipe.models.rules import Factors
from evo_tune.training.recipe.optim.optimisation import GroupFactors

_MATMULS = (nn.Linear, nn.Bilinear, nn.MultiheadAttention, nn.modules.conv._ConvNd)


def decay_groups(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Split the trainable parameters into those with and without weight decay, each exactly once.

    Args:
        model: Any module. A parameter decays if it is a weight of a linear, attention or convolution
            layer and is not an embedding elsewhere in the model. Modules may name more in `matrices`.

    Returns:
        (with decay, without decay), each in the model's own order.
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


def parameter_kinds(model: nn.Module) -> dict[nn.Parameter, str]:
    """Return the kind of each parameter, one of `recipe.models.rules.KINDS`; blocks are in a module called `blocks`."""
    matrices, heads = set(decay_groups(model)[0]), _of_heads(model)
    embeddings = {module.weight for module in model.modules() if isinstance(module, nn.Embedding | nn.EmbeddingBag)}
    kinds: dict[nn.Parameter, str] = {}
    for name, weight in model.named_parameters():
        if weight in embeddings:
            kinds[weight] = "ngram" if name.startswith("ngrams.") else "embedding"
        elif name.startswith("blocks."):
            kinds[weight] = "hidden" if weight in matrices else "block"
        else:
            kinds[weight] = "head" if weight in heads and weight.ndim > 1 else "other"
    return kinds


def _of_heads(model: nn.Module) -> set[nn.Parameter]:
    """Return the parameters of modules called `head`."""
    return {p for name, module in model.named_modules() if name.split(".")[-1] == "head" for p in module.parameters()}


def parameter_groups(
    model: nn.Module, parameters: Collection[nn.Parameter], optimizer: str, lr: float, rates: GroupFactors, eps: float
) -> list[dict[str, Any]]:
    """Return the groups of `decay_groups`, split by factors, in the format of an optimizer.

    Each group has `initial_lr`, the peak that schedules multiply, and `decay`, the trainer's factor of weight decay. A
    model with frozen parameters is fine-tuned, not trained from scratch: its `config.scaling` has no effect.

    Args:
        model: Any module.
        parameters: Trainable parameters to put into groups.
        optimizer: See `Parametrisation.factors`.
        lr: Peak learning rate.
        rates: Factors on the learning rate. The weight decay per step changes with them, as with any rate.
        eps: Adam's ε; 0: the optimizer has none.
    """
    config = getattr(model, "config", None)
    from_scratch = all(p.requires_grad for p in model.parameters())
    scaling = getattr(config, "scaling", None) if from_scratch else None
    kinds, groups = parameter_kinds(model), []
    for part, decay in zip(decay_groups(model), (True, False), strict=True):
        same: dict[tuple[Factors, float], list[nn.Parameter]] = {}
        for parameter in part:
            if parameter in parameters:
                kind = kinds[parameter]
                factors = Factors() if scaling is None else scaling.factors(optimizer, kind, config)
                same.setdefault((factors, rates.factor(kind)), []).append(parameter)
        for (factors, rate), alike in same.items():
            group = {
                "params": alike,
                "decay": decay and factors.decay,
                "initial_lr": lr * factors.lr * rate,
                "weight_decay": 0.0,
            }
            groups.append({**group, "eps": eps * factors.eps} if eps else group)
    return groups


def _adamw(options: "AdamW", model: nn.Module, optimizer: str, parameters: Collection[nn.Parameter]) -> Optimizer:
    """Return torch's AdamW over some of a model's parameters."""
    groups = parameter_groups(model, parameters, optimizer, options.lr, options.rates, options.eps)
    fused = all(p.device.type in ("cpu", "cuda") for p in parameters)
    betas = (options.beta1, options.beta2)
    return torch.optim.AdamW(groups, lr=options.lr, betas=betas, eps=options.eps, fused=fused)


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """Options of AdamW (Loshchilov & Hutter, arXiv:1711.05101).

    Args:
        lr: Peak learning rate, above 0, up to 1.
        beta1: Decay of the first moment, in [0, 1).
        beta2: Decay of the second moment, in [0, 1): 0.95 for language models, 0.999 for classification.
        eps: Number added to the root of the second moment, above 0.
        rates: Factors on the learning rate of groups of parameters.

    Raises:
        RecipeError: The learning rate, which a rule may have scaled, is out of its range.
    """

    lr: float
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    rates: GroupFactors = field(default_factory=GroupFactors)

    def __post_init__(self) -> None:
        check_number("lr", self.lr, "(0, 1]")

    def build(self, model: nn.Module, precision: str = "fp32", ranks: Ranks | None = None) -> torch.optim.Optimizer:
        """Return the optimizer over a model's trainable parameters, in `parameter_groups`; always in float32."""
        return _adamw(self, model, "adamw", {p for p in model.parameters() if p.requires_grad})


@dataclass(frozen=True, kw_only=True)
class SGD:
    """Options of stochastic gradient descent with momentum.

    The weight decay is added to the gradient, so momentum accumulates it. Without momentum it shrinks weights by lr · λ
    a step, as AdamW does.

    Args:
        lr: Peak learning rate, above 0, up to 10.
        momentum: Decay of the momentum, in [0, 1).
        nesterov: Whether to use Nesterov momentum (requires a momentum above 0).
        rates: Factors on the learning rate of groups of parameters.

    Raises:
        RecipeError: The learning rate is out of its range, or Nesterov momentum has no momentum.
    """

    lr: float
    momentum: float = 0.9
    nesterov: bool = False
    rates: GroupFactors = field(default_factory=GroupFactors)

    def __post_init__(self) -> None:
        check_number("lr", self.lr, "(0, 10]")
        if self.nesterov and not self.momentum:
            raise RecipeError("nesterov", self.nesterov, "false, or true with a momentum above 0")

    def build(self, model: nn.Module, precision: str = "fp32", ranks: Ranks | None = None) -> torch.optim.Optimizer:
        """Return the optimizer over a model's trainable parameters, in `parameter_groups`; always in float32."""
        parameters = {p for p in model.parameters() if p.requires_grad}
        groups = parameter_groups(model, parameters, "sgd", self.lr, self.rates, eps=0.0)
        fused = all(p.device.type == "cuda" for p in parameters)
        options = {"momentum": self.momentum, "nesterov": self.nesterov, "fused": fused or None}
        optimizer = torch.optim.SGD(groups, lr=self.lr, **options)  # type: ignore[arg-type]
        if fused and self.momentum:
            # The first step would create them, but if it is refused it leaves them uninitialised.
            for parameter in (p for group in groups for p in group["params"]):
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimizer


# Coefficients of the quintic Newton-Schulz iteration (Jordan et al.): steepest at 0, near 1 after five iterations.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """Return the trainable matrices with weight decay, except those of a module called `head`."""
    heads = _of_heads(model)
    return [p for p in decay_groups(model)[0] if p.ndim == 2 and p not in heads]


def fused_map_sizes(model: nn.Module) -> dict[Tensor, tuple[int, ...]]:
    """Return the output sizes of the maps in each weight that stacks several maps along its rows.

    A linear layer lists them in an attribute `maps` (see `FusedLinear`).
    """
    layers = (module for module in model.modules() if isinstance(module, nn.Linear))
    maps = ((layer.weight, getattr(layer, "maps", ())) for layer in layers)
    return {weight: sizes for weight, sizes in maps if len(sizes) > 1}


# Smallest shorter side of matrices that a CPU orthogonalises faster in bfloat16 than in float32, if it has hardware for
# bfloat16 (benchmarks/LOG.md, 2026-11-28).
SMALLEST_IN_BF16 = 64


# Smallest shorter side of matrices that ranks share out: smaller ones take less time than to send the results
# (benchmarks/LOG.md, 2026-11-30: ranks).
SMALLEST_TO_SHARE = 128


def orthogonalise(matrices: Tensor, precision: str = "fp32") -> Tensor:
    """Return about the nearest orthogonal matrix of each, with singular values of about 0.5 to 1.5.

    Args:
        matrices: (n, rows, columns), with rows ≤ columns.
        precision: Precision of the training. 'bf16' and 'tf32', which only hardware with bfloat16 has, give products in
            bfloat16, except of small matrices on a CPU. Others give float32.

    Returns:
        Same shape as `matrices`, in the type of the products.
    """
    a, b, c = _COEFFICIENTS
    small = matrices.device.type == "cpu" and matrices.shape[1] < SMALLEST_IN_BF16
    x = matrices.bfloat16() if precision in ("bf16", "tf32") and not small else matrices.float()
    del matrices  # it is as large as all gradients of this shape
    x = x / torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True).clamp_min(1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


class HiddenMatrices(torch.optim.Optimizer):
    """Muon without AdamW, for matrices; those of one shape are orthogonalised together, which is much faster.

    Args:
        groups: Parameter groups, as for every torch optimizer.
        lr: Learning rate; at a rate of 1 an update has a root mean square of 0.2, as AdamW's.
        momentum: Decay of the moving average of gradients.
        nesterov: Whether to use Nesterov momentum.
        maps: Output sizes of weights that stack several maps (see `fused_map_sizes`).
        precision: Precision of the training (see `orthogonalise`).
        ranks: Processes that share out the matrices, all with the same gradients; None: one process.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        lr: float,
        momentum: float,
        nesterov: bool,
        maps: Mapping[Tensor, tuple[int, ...]],
        precision: str = "fp32",
        ranks: Ranks | None = None,
    ) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0, "momentum": momentum, "nesterov": nesterov})
        self.maps, self.precision, self.ranks = maps, precision, ranks

    def _orthogonalise(self, matrices: list[Tensor]) -> Tensor:
        """Return `orthogonalise` of the matrices, which are removed from the list so that each is freed early."""
        if self.ranks is None or len(matrices) == 1 or len(matrices[0]) < SMALLEST_TO_SHARE:
            stacked = [torch.stack(matrices)]
            matrices.clear()
            return orthogonalise(stacked.pop(), self.precision)
        return self.ranks.share_out(lambda mine: orthogonalise(mine, self.precision), matrices)

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        refused: Tensor | None = getattr(self, "found_inf", None)
        taken = None if refused is None else 1.0 - refused  # 0 or 1; None: the device does not decide
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if weights:
                self._step_group(group, weights, taken)

    def _step_group(self, group: dict[str, Any], weights: list[Tensor], taken: Tensor | None) -> None:
        """Update a group's weights by as few kernels as possible; see `step` for `taken`."""
        for weight in weights:
            if "momentum_buffer" not in (state := self.state[weight]):
                state["momentum_buffer"] = torch.zeros_like(weight.grad)  # type: ignore[arg-type]
        gradients: list[Any] = [weight.grad for weight in weights]
        buffers = [self.state[weight]["momentum_buffer"] for weight in weights]
        momentum, shrink = group["momentum"], group["lr"] * group["weight_decay"]
        # torch has no public function for several tensors at once, except for gradient norms.
        if taken is None:
            torch._foreach_lerp_(buffers, gradients, 1.0 - momentum)
            torch._foreach_mul_(weights, 1.0 - shrink)
        else:
            refused = taken == 0.0
            for gradient in gradients:  # a refused gradient may contain NaN or infinity
                gradient.masked_fill_(refused, 0.0)
            share = (taken * (1.0 - momentum)).to(buffers[0].dtype)
            torch._foreach_lerp_(buffers, gradients, [share] * len(buffers))
            torch._foreach_mul_(weights, 1.0 - taken * shrink)
        updates = torch._foreach_lerp(gradients, buffers, momentum) if group["nesterov"] else buffers
        same = self._parts_by_shape(weights, updates)
        del updates  # each is freed as soon as its copy is stacked with others
        while same:
            (_, longer), (parts, changes) = same.popitem()
            directions = self._orthogonalise(changes)
            directions = directions if taken is None else directions.masked_fill_(taken == 0.0, 0.0)
            torch._foreach_add_(parts, directions.unbind(), alpha=-group["lr"] * 0.2 * math.sqrt(longer))
            del directions

    def _parts_by_shape(
        self, weights: Iterable[Tensor], updates: Iterable[Tensor]
    ) -> dict[tuple[int, int], tuple[list[Tensor], list[Tensor]]]:
        """Return the maps in the weights, with rows ≤ columns, and their updates, by shape."""
        same: dict[tuple[int, int], tuple[list[Tensor], list[Tensor]]] = {}
        for weight, update in zip(weights, updates, strict=True):
            sizes = list(self.maps.get(weight, (len(weight),)))
            pairs = zip(weight.split(sizes), update.split(sizes), strict=True)  # type: ignore[no-untyped-call]
            for part, change in pairs:
                lying = len(part) <= part.shape[1]
                part, change = (part, change) if lying else (part.mT, change.mT)
                parts, changes = same.setdefault((part.shape[0], part.shape[1]), ([], []))
                parts.append(part)
                changes.append(change)
        return same


class OptimizerPair(torch.optim.Optimizer):
    """Several optimizers that step together and share their parameter groups (the same dicts).

    Args:
        optimizers: Optimizers of disjoint parameters, each with at least one.
    """

    def __init__(self, optimizers: list[torch.optim.Optimizer]) -> None:
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        super().__init__([{**group} for group in groups], {})
        self.optimizers = optimizers
        self.param_groups = groups

    def step(self) -> None:  # type: ignore[override]
        for optimizer in self.optimizers:
            optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        return {"optimizers": [optimizer.state_dict() for optimizer in self.optimizers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, state_dict["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        # Loading replaces an optimizer's groups.
        self.param_groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]


@dataclass(frozen=True, kw_only=True)
class Muon(AdamW):
    """Options of Muon for hidden matrices and AdamW for the rest.

    Args:
        lr: Peak learning rate of both, above 0, up to 1, on AdamW's scale.
        beta1: See `AdamW`, like `beta2`, `eps` and `rates`.
        beta2: See `AdamW`.
        eps: See `AdamW`.
        rates: See `AdamW`.
        momentum: Decay of Muon's momentum, in [0, 1).
        nesterov: Whether to use Nesterov momentum.

    Raises:
        RecipeError: The learning rate, which a rule may have scaled, is out of its range.
    """

    momentum: float = 0.95
    nesterov: bool = True

    def build(self, model: nn.Module, precision: str = "fp32", ranks: Ranks | None = None) -> torch.optim.Optimizer:
        """Return the optimizers over a model's trainable parameters, as one optimizer.

        Its groups have `initial_lr` and `decay`, as those of `parameter_groups`.

        Args:
            model: Any module.
            precision: Precision of the training (see `orthogonalise`).
            ranks: Processes that share out the orthogonalisation; None: one process.
        """
        hidden = set(hidden_matrices(model))
        others = {p for p in model.parameters() if p.requires_grad} - hidden
        optimizers: list[Optimizer] = []
        if hidden:
            of_muon: dict[str, Any] = {"momentum": self.momentum, "nesterov": self.nesterov}
            of_muon |= {"precision": precision, "ranks": ranks}
            groups = parameter_groups(model, hidden, "muon", self.lr, self.rates, eps=0.0)
            optimizers.append(HiddenMatrices(groups, lr=self.lr, maps=fused_map_sizes(model), **of_muon))
        if others:
            optimizers.append(_adamw(self, model, "muon", others))
        return OptimizerPair(optimizers)
