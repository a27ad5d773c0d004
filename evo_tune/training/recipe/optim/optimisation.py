"""Options of the optimizer, its loss, gradient clipping, weight averaging and early stopping."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, TypeVar

from evo_tune.options.declare import Options, fixed_option, option


def scale_lr(lr: float, batch: float, reference: float, rule: str) -> float:
    """Return the learning rate for `batch`, given the rate for `reference`.

    Args:
        lr: Learning rate at the reference batch.
        batch: Batch size, in any unit.
        reference: The reference batch size, in the same unit.
        rule: 'none', 'sqrt' or 'linear'.
    """
    ratio = batch / reference
    return lr * {"none": 1.0, "sqrt": math.sqrt(ratio), "linear": ratio}[rule]


def scale_betas(betas: tuple[float, float], batch: float, reference: float, rule: str) -> tuple[float, float]:
    """Return Adam's β for `batch`, given those for `reference`; only the rule 'sqrt' changes them.

    A β that would be negative, for a very large batch, is set to 0: that moment then has no memory.
    """
    if rule != "sqrt":
        return betas
    first, second = (max(0.0, 1.0 - (batch / reference) * (1.0 - beta)) for beta in betas)
    return (first, second) if batch != reference else betas


@dataclass(frozen=True, kw_only=True)
class GroupFactors:
    """Factors on the learning rate of groups of parameters; the others have the learning rate itself.

    Args:
        embedding: Factor for embeddings of tokens, positions and values, and for a head that shares their weights.
    """

    embedding: float = 1.0

    def factor(self, kind: str) -> float:
        """Return the factor of a parameter of a kind, one of `recipe.models.rules.KINDS`."""
        return self.embedding if kind == "embedding" else 1.0


Self = TypeVar("Self", bound="OptimizerOptions")


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions(Options):
    """Options of the optimizer, its learning rates and the loss."""

    optimizer: Literal["auto", "adamw", "muon", "sgd"] = option(
        "auto", gene="adamw|muon", help="Optimizer; auto: adamw, unless it is a gene; sgd has a 50 times larger lr"
    )
    beta1: float = option(0.9, bounds="[0, 0.99999]", help="adamw, muon: decay of first moment")
    beta2: float = option(
        0.95, bounds="[0, 0.99999]", gene="0.9|0.95|0.98|0.99|0.995|0.999", help="adamw, muon: decay of second moment"
    )
    eps: float = option(1e-8, bounds="(0, 1)", help="adamw, muon: added to the root of the second moment")
    momentum: float = option(0.95, bounds="[0, 0.99999]", help="muon, sgd: momentum of the gradient")
    lr_rule: Literal["none", "sqrt", "linear"] = option(
        "none", help="Scaling of the learning rate from the default batch to another; sqrt scales Adam's betas too"
    )
    # Options of earlier versions. The z-loss costs .014 nats (benchmarks/LOG.md, "Parts of a GPT").
    dropped: ClassVar[dict[str, object]] = {"z_loss": 0.0, "momentum_warmup": 0.0}

    def settled(self: Self, rungs: bool) -> Self:
        options = super().settled(rungs)
        return replace(options, optimizer=options.optimizer_name)

    @property
    def optimizer_name(self) -> Literal["adamw", "muon", "sgd"]:
        """The chosen optimizer; AdamW for auto."""
        return "adamw" if self.optimizer == "auto" else self.optimizer

    @property
    def group_rates(self) -> GroupFactors:
        """Factors on the learning rate of groups of parameters."""
        return GroupFactors()

    @property
    def lr_factor(self) -> float:
        """Factor on bounds and default of an AdamW learning rate for this optimizer."""
        return 50.0 if self.optimizer == "sgd" else 1.0


@dataclass(frozen=True, kw_only=True)
class GroupRateOptions(OptimizerOptions):
    """Learning rates of groups of parameters."""

    # Options of earlier versions.
    dropped: ClassVar[dict[str, object]] = {"lr_head": 1.0, "lr_vectors": 1.0}

    # It gains .006 nats (benchmarks/LOG.md, "Parts of a GPT").
    lr_embedding: float = option(
        3.0, bounds="(0, 1000]", gene="log(0.3,30)", help="Factor on the learning rate of embeddings and a tied head"
    )

    @property
    def group_rates(self) -> GroupFactors:
        return GroupFactors(embedding=self.lr_embedding)


@dataclass(frozen=True, kw_only=True)
class ClippingOptions(Options):
    """Clipping of the gradient."""

    clip: float | None = option(1.0, bounds="(0, inf)", help="Maximum gradient norm; none: no limit")


@dataclass(frozen=True, kw_only=True)
class AveragingOptions(Options):
    """Moving average of the weights."""

    ema: float | None = option(
        None, bounds="[0, 1)", help="Decay of the average, after a warm-up; reported as val_loss_ema; none: no average"
    )


def ema_decay(decay: float, update: int) -> float:
    """Return the decay of an update: min(decay, (1 + t) / (10 + t)).

    Same formula as TensorFlow's ExponentialMovingAverage with `num_updates`. The average covers about the last ninth
    of the training, until `decay` becomes the limit.

    Args:
        decay: Limit of the decay, below 1.
        update: Number t of the update (int ≥ 1).
    """
    return min(decay, (1.0 + update) / (10.0 + update))


@dataclass(frozen=True, kw_only=True)
class StoppingOptions(Options):
    """Evaluations and early stopping."""

    # Options of earlier versions.
    dropped: ClassVar[dict[str, object]] = {"smoothing": 0.0}

    evaluations: int = fixed_option(
        4,
        bounds="[1, 10000]",
        help="Evaluations in the learning curve: on a quarter of the held-out text, or on up to 1000 samples",
    )
    patience: int | None = option(
        None, bounds="[1, inf)", unit="evaluations", help="Stop after so many without improvement, and keep the best"
    )
    min_delta: float = option(
        0.0, bounds="[0, inf)", help="Decrease of the loss above which an evaluation counts as an improvement"
    )
