"""The optimizer, what it minimises, and what is done beside its steps, as options."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from evo_tune.errors import OptionError
from evo_tune.options.bounds import check_name, check_number
from evo_tune.options.declare import Options, option
from evo_tune.recipe.optim.schedule import Scheduling

RULES = ("none", "sqrt", "linear")


def scale_lr(lr: float, batch: float, reference: float, rule: str) -> float:
    """Return the learning rate for `batch`, given the one that suits `reference`.

    Args:
        lr: Learning rate at the reference batch.
        batch: Batch size, in any unit.
        reference: The reference batch size, in the same unit.
        rule: 'none', 'sqrt' or 'linear'.

    Raises:
        RecipeError: A size that is not above zero, or an unknown rule.
    """
    check_number("lr", lr, "(0, inf)")
    check_number("batch", batch, "(0, inf)")
    check_number("reference batch", reference, "(0, inf)")
    check_name("batch rule", rule, RULES)
    ratio = batch / reference
    return lr * {"none": 1.0, "sqrt": math.sqrt(ratio), "linear": ratio}[rule]


def scaled_betas(betas: tuple[float, float], batch: float, reference: float, rule: str) -> tuple[float, float]:
    """Return Adam's β for `batch` by a rule, given those that suit `reference`: 'sqrt' moves them, others do not.

    Where a batch is so large that a β would have to be negative it is 0: that moment then remembers nothing.

    Raises:
        RecipeError: A size that is not above zero, or an unknown rule.
    """
    check_number("batch", batch, "(0, inf)")
    check_number("reference batch", reference, "(0, inf)")
    check_name("batch rule", rule, RULES)
    if rule != "sqrt":
        return betas
    first, second = (max(0.0, 1.0 - (batch / reference) * (1.0 - beta)) for beta in betas)
    return (first, second) if batch != reference else betas


Self = TypeVar("Self", bound="Optimisation")


@dataclass(frozen=True, kw_only=True)
class Optimisation(Options):
    """The optimizer and its loss."""

    optimizer: Literal["auto", "adamw", "muon", "sgd"] = option(
        "auto",
        gene="adamw|muon",
        help="Which one; auto: adamw, unless it is a gene; with sgd the learning rate is fifty times larger",
    )
    beta1: float = option(0.9, bounds="[0, 0.99999]", help="adamw, muon: decay of the first moment")
    beta2: float = option(
        0.95, bounds="[0, 0.99999]", gene="0.9|0.95|0.98|0.99|0.995|0.999", help="adamw, muon: decay of the second"
    )
    eps: float = option(1e-8, bounds="(0, 1)", help="adamw, muon: added to the root of the second moment")
    momentum: float = option(0.95, bounds="[0, 0.99999]", help="muon, sgd: of the gradient")
    lr_rule: Literal["none", "sqrt", "linear"] = option(
        "none",
        help="How the learning rate, meant for the default batch, moves with the batch; sqrt: Adam's betas too",
    )
    z_loss: float = option(
        0.0, bounds="[0, 1]", gene="0.0|1e-5|1e-4|1e-3", help="Weight of the z-loss; 1e-4 keeps logits from drifting"
    )

    def settled(self: Self, rungs: bool) -> Self:
        made = super().settled(rungs)
        return replace(made, optimizer=made.optimizer_name)

    @property
    def optimizer_name(self) -> Literal["adamw", "muon", "sgd"]:
        """The optimizer, where none was chosen AdamW."""
        return "adamw" if self.optimizer == "auto" else self.optimizer

    @property
    def lr_factor(self) -> float:
        """By what the bounds and the default of a learning rate that suits AdamW are multiplied for this optimizer."""
        return 50.0 if self.optimizer == "sgd" else 1.0

    def check_lr(self, lr: object) -> None:
        """Require a learning rate that the optimizer takes.

        Raises:
            RecipeError: It is something else.
        """
        check_number("lr", lr, "(0, 10]" if self.optimizer == "sgd" else "(0, 1]")


@dataclass(frozen=True, kw_only=True)
class Clipping(Options):
    """Clipping of the gradient."""

    clip: float | None = option(1.0, bounds="(0, inf)", help="Largest norm of the gradient; none: no limit")


def check_clip(limit: float | None) -> None:
    """Require a limit above zero, or None.

    Raises:
        RecipeError: It is something else.
    """
    if limit is not None:
        if limit == float("inf"):
            return
        check_number("clip", limit, "(0, inf)")


@dataclass(frozen=True, kw_only=True)
class Averaging(Options):
    """A moving average of the weights."""

    ema: float | None = option(
        None, bounds="[0, 1)", help="Its decay, warmed up; it is judged beside them as val_loss_ema; none: none is kept"
    )


def warmed_up(decay: float, update: int) -> float:
    """Return the decay of an update: min(decay, (1 + t) / (10 + t)).

    As TensorFlow's ExponentialMovingAverage does with `num_updates`: the average reaches about a ninth of the training
    back, until that is as far as `decay` goes.

    Args:
        decay: What it rises to, below 1.
        update: Number t of the update, from 1.
    """
    return min(decay, (1.0 + update) / (10.0 + update))


@dataclass(frozen=True, kw_only=True)
class Stopping(Options):
    """Evaluations along the training."""

    evaluations: int = option(
        4, bounds="[1, 10000]", gene=None, help="How many, each on every fourth held-out block: the learning curve"
    )
    patience: int | None = option(
        None, bounds="[1, inf)", unit="evaluations", help="Stop after so many without an improvement; take the best"
    )
    min_delta: float = option(0.0, bounds="[0, inf)", help="What counts as an improvement: more than so much")


@dataclass(frozen=True, kw_only=True)
class StoppingInTime(Stopping, Scheduling):
    """Early stopping beside a schedule."""

    def check(self) -> None:
        """Require patience that outlasts a schedule's own waves.

        Raises:
            OptionError: It does not.
        """
        if self.patience is not None and self.schedule == "sgdr" and self.patience <= self.cycle * self.evaluations:
            raise OptionError(
                f"-o patience={self.patience}: expected more than the {self.cycle * self.evaluations:g} evaluations of "
                "one cycle of sgdr, whose waves it must outlast"
            )
