"""Which optimizer makes the steps, and what it minimises, as options."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from evo_tune.options.bounds import check_number
from evo_tune.options.declare import Options, option

__all__ = ["Optimisation"]

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
