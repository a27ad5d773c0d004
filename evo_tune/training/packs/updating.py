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
from evo_tune.training.packs.table import Group, Table, parts_of
from evo_tune.training.stepping.averaging import Average
from evo_tune.training.trainer import Trainer

__all__ = ["average", "clip", "update"]


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


@torch.no_grad()
def update(table: Table, trainers: Sequence[Trainer]) -> None:
    """Step with the gradients in the table, at the rates that stand in the members' groups."""
    matrices: dict[tuple[int, int], list[tuple[Tensor, Tensor, Tensor]]] = {}
    for group, moments in zip(table.groups, table.moments, strict=True):
        own = [parts_of(trainer)[group.part].param_groups[group.number] for trainer in trainers]
        if "momentum_buffer" in moments:
            for shape, one in _averaged(table, group, moments["momentum_buffer"], own):
                matrices.setdefault(shape, []).append(one)
        else:
            _adamw(table, group, moments, own)
    for (_, longer), alike in matrices.items():  # of all members and layers, which is much the faster
        changes = orthogonalised(torch.cat([change for _, change, _ in alike]))
        parts = zip(alike, changes.split([len(change) for _, change, _ in alike]), strict=True)
        for (weight, _, lr), change in parts:
            weight.add_(change * (lr * (-0.2 * math.sqrt(longer))))


def _adamw(table: Table, group: Group, moments: dict[str, Tensor], own: Sequence[dict[str, Any]]) -> None:
    """Step by torch's fused kernel, a member's group as one long vector."""
    moments["step"].add_(1)
    weights, gradient = table.weights[:, group.span], table.gradient[:, group.span]
    rows = zip(weights, gradient, moments["exp_avg"], moments["exp_avg_sq"], moments["step"], own, strict=True)
    for weight, slope, first, second, steps, rates in rows:
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
        )


def _averaged(
    table: Table, group: Group, average: Tensor, own: Sequence[dict[str, Any]]
) -> list[tuple[tuple[int, int], tuple[Tensor, Tensor, Tensor]]]:
    """Do what Muon does to each weight by itself; return by lying shape what it does to matrices.

    Returns:
        Of each map the weights of all members, what is to be made orthogonal, and the learning rates, (members, 1, 1).
    """

    def each(name: str) -> Tensor:
        return torch.tensor([rates[name] for rates in own], dtype=average.dtype, device=average.device)[:, None]

    weights, gradient = table.weights[:, group.span], table.gradient[:, group.span]
    momentum, lr = each("momentum"), each("lr")
    average.lerp_(gradient, 1.0 - momentum)
    weights.mul_(1.0 - lr * each("weight_decay"))
    wanted = gradient.lerp(average, momentum) if own[0]["nesterov"] else average
    found, origin = [], group.columns[0].start
    for columns in group.columns:
        weight, change = table.stacked(weights, columns, origin), table.stacked(wanted, columns, origin)
        sizes = list(columns.maps or columns.shape[:1])
        for part, aim in zip(weight.split(sizes, 1), change.split(sizes, 1), strict=True):
            lying = part.shape[1] <= part.shape[2]
            part, aim = (part, aim) if lying else (part.mT, aim.mT)
            found.append(((part.shape[1], part.shape[2]), (part, aim, lr[:, :, None])))
    return found


@torch.no_grad()
def average(table: Table, averages: Sequence[Average | None]) -> None:
    """Move the members' moving averages towards their weights, where they have one.

    Args:
        table: Holds both.
        averages: Of the members; None: it has none that is to move.
    """
    if table.averages is None:
        return
    shares = [0.0 if one is None else one.share_of_update() for one in averages]
    weight = torch.tensor(shares, dtype=table.weights.dtype, device=table.weights.device)[:, None]
    table.averages.lerp_(table.weights, weight)
