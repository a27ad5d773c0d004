"""An optimizer's step over a table: each member's by its own rates, in as few calls as there are groups and members.

What a member's row becomes is what its own optimizer would have made of it, but for rounding. Knows nothing of models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from evo_tune.training.optim.muon import orthogonalised
from evo_tune.training.packs.numbers import of_each
from evo_tune.training.packs.table import Group, Table, parts_of
from evo_tune.training.stepping.averaging import Average
from evo_tune.training.trainer import Trainer

__all__ = ["average", "clip", "clip_unseen", "update"]


def clip(table: Table, trainers: Sequence[Trainer], norms: Sequence[float]) -> None:
    """Scale each member's gradient by min(1, limit / (norm + 1e-6)), as `optim.clipping.clip` does.

    Args:
        table: Holds them.
        trainers: The members.
        norms: Of their gradients, finite.
    """
    for row, trainer, norm in zip(table.gradient, trainers, norms, strict=True):
        limit = trainer.recipe.clip
        scale = 1.0 if limit is None else limit / (norm + 1e-6)
        if scale < 1.0:
            row.mul_(scale)


def clip_unseen(table: Table, trainers: Sequence[Trainer], norms: Tensor) -> None:
    """Do as `clip`, without asking what the norms are; one that is not finite leaves a gradient of no use."""
    limits = [math.inf if trainer.recipe.clip is None else trainer.recipe.clip for trainer in trainers]
    if min(limits) < math.inf:
        scale = (of_each(limits, torch.float64, norms.device) / (norms.double() + 1e-6)).clamp(max=1.0)
        table.gradient.mul_(scale.to(table.gradient.dtype)[:, None])


@torch.no_grad()
def update(table: Table, trainers: Sequence[Trainer], refused: Tensor | None = None) -> None:
    """Step with the gradients in the table, at the rates that stand in the members' groups.

    Args:
        table: Of the members.
        trainers: The members.
        refused: Whose steps are not to be taken, (members,), bool; None: all are.
    """
    matrices: dict[tuple[int, int], list[tuple[Tensor, Tensor, Tensor]]] = {}
    if refused is not None:  # what is refused may hold anything
        table.gradient.masked_fill_(refused[:, None], 0.0)
    for group, moments in zip(table.groups, table.moments, strict=True):
        own = [parts_of(trainer)[group.part].param_groups[group.number] for trainer in trainers]
        if "momentum_buffer" in moments:
            for shape, one in _averaged(table, group, moments["momentum_buffer"], own, refused):
                matrices.setdefault(shape, []).append(one)
        else:
            _adamw(table, group, moments, own, refused)
    for (_, longer), alike in matrices.items():  # of all members and layers, which is much the faster
        changes = orthogonalised(torch.cat([change for _, change, _ in alike]))
        parts = zip(alike, torch.split(changes, [len(change) for _, change, _ in alike]), strict=True)
        for (weight, _, lr), change in parts:
            weight.add_(change * (lr * (-0.2 * math.sqrt(longer))))


def _adamw(
    table: Table, group: Group, moments: dict[str, Tensor], own: Sequence[dict[str, Any]], refused: Tensor | None
) -> None:
    """Step by torch's fused kernel, a member's group as one long vector."""
    moments["step"].add_(1 if refused is None else (~refused).float()[:, None])
    weights, gradient = table.weights[:, group.span], table.gradient[:, group.span]
    not_taken = [None] * len(own) if refused is None else refused.float().unbind()
    rows = zip(
        weights, gradient, moments["exp_avg"], moments["exp_avg_sq"], moments["step"], not_taken, own, strict=True
    )
    for weight, slope, first, second, steps, not_this, rates in rows:
        beta1, beta2 = rates["betas"]
        torch._fused_adamw_(
            [weight],
            [slope],
            [first],
            [second],
            [],
            [steps[0]],
            lr=rates["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=rates["weight_decay"],
            eps=rates["eps"],
            amsgrad=False,
            maximize=False,
            grad_scale=None,
            found_inf=not_this,
        )


def _averaged(
    table: Table, group: Group, average: Tensor, own: Sequence[dict[str, Any]], refused: Tensor | None
) -> list[tuple[tuple[int, int], tuple[Tensor, Tensor, Tensor]]]:
    """Do what Muon does to each weight by itself; return by lying shape what it does to matrices.

    Returns:
        Of each map the weights of all members, what is to be made orthogonal, and the learning rates, (members, 1, 1).
    """

    def each(name: str) -> Tensor:
        return of_each([rates[name] for rates in own], average.dtype, average.device)[:, None]

    weights, gradient = table.weights[:, group.span], table.gradient[:, group.span]
    momentum, lr = each("momentum"), each("lr")
    kept = 1.0 if refused is None else (~refused).to(average.dtype)[:, None]
    lr = lr * kept
    average.lerp_(gradient, (1.0 - momentum) * kept)
    weights.mul_(1.0 - lr * each("weight_decay"))
    wanted = gradient.lerp(average, momentum) if own[0]["nesterov"] else average
    found, origin = [], group.columns[0].start
    for columns in group.columns:
        weight, change = table.stacked(weights, columns, origin), table.stacked(wanted, columns, origin)
        sizes = list(columns.maps or columns.shape[:1])
        for part, aim in zip(torch.split(weight, sizes, 1), torch.split(change, sizes, 1), strict=True):
            lying = part.shape[1] <= part.shape[2]
            part, aim = (part, aim) if lying else (part.mT, aim.mT)
            found.append(((part.shape[1], part.shape[2]), (part, aim, lr[:, :, None])))
    return found


@torch.no_grad()
def average(table: Table, averages: Sequence[Average | None], refused: Tensor | None = None) -> None:
    """Move the members' moving averages towards their weights, where they have one.

    Args:
        table: Holds both.
        averages: Of the members; None: it has none that is to move.
        refused: See `update`.
    """
    if table.averages is None:
        return
    shares = [0.0 if one is None else one.share_of_update() for one in averages]
    weight = of_each(shares, table.weights.dtype, table.weights.device)[:, None]
    if refused is not None:
        weight = weight * (~refused)[:, None]
    table.averages.lerp_(table.weights, weight)
