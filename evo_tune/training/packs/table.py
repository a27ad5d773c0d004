"""The weights of several models of one shape in one table, a row each, with moments and averages beside it.

A model's own parameters, and what its optimizer remembers of them, are views of its row. So whoever evaluates a model,
saves a trainer's state or takes a step with it alone needs not know that it is in a table. Columns are in the
optimizer's order, group after group, so that a group of a member is one piece. Knows nothing of steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from evo_tune.errors import RecipeError
from evo_tune.training.optim.muon import HiddenMatrices
from evo_tune.training.trainer import Trainer

__all__ = ["Group", "Table", "parts_of"]


class Columns(NamedTuple):
    """Where a parameter lies in the table."""

    name: str
    shape: torch.Size
    start: int
    stop: int
    maps: tuple[int, ...]  # outputs of each map that the weight holds, of what Muon takes


class Group(NamedTuple):
    """Where a group of an optimizer lies: which one, and its parameters."""

    part: int
    number: int
    columns: list[Columns]

    @property
    def span(self) -> slice:
        """Its columns in the table."""
        return slice(self.columns[0].start, self.columns[-1].stop)


def parts_of(trainer: Trainer) -> list[torch.optim.Optimizer]:
    """Return the optimizers that a trainer's consists of."""
    parts: list[torch.optim.Optimizer] = getattr(trainer.optimizer, "optimizers", [trainer.optimizer])
    return parts


class Table:
    """Rows of weights, of what optimizers remember, and of moving averages; the members' tensors are views of them.

    Args:
        trainers: Of one shape, with optimizers of one kind.

    Raises:
        RecipeError: They differ in shape.
    """

    def __init__(self, trainers: Sequence[Trainer]) -> None:
        self.groups = _groups(trainers[0])
        if any(_groups(other) != self.groups for other in trainers[1:]):
            raise RecipeError("pack", "models of several shapes, or optimizers", "members of one shape")
        self._moved: list[Tensor] = []
        with torch.no_grad():
            self.weights = self._rows([_parameters(trainer.model) for trainer in trainers])
            self.averages = None
            if trainers[0].averaged is not None:
                self.averages = self._rows([_parameters(t.averaged.module) for t in trainers if t.averaged is not None])
            self.moments: list[dict[str, Tensor]] = [self._moments(trainers, group) for group in self.groups]
        self.gradient = torch.zeros_like(self.weights)
        self.leaves = {
            c.name: self.stacked(self.weights, c).detach().requires_grad_()
            for group in self.groups
            for c in group.columns
        }

    @staticmethod
    def stacked(rows: Tensor, columns: Columns, origin: int = 0) -> Tensor:
        """Return a parameter's columns of all members, (members, …)."""
        return rows[:, columns.start - origin : columns.stop - origin].view(len(rows), *columns.shape)

    def _rows(self, members: Sequence[dict[str, nn.Parameter]]) -> Tensor:
        """Return a table of the members' parameters, which are views of it from now on."""
        order = [columns for group in self.groups for columns in group.columns]
        rows = torch.stack([torch.cat([one[c.name].detach().flatten() for c in order]) for one in members])
        for number, one in enumerate(members):
            for c in order:
                one[c.name].data = rows[number, c.start : c.stop].view(c.shape)
        return rows

    def _moments(self, trainers: Sequence[Trainer], group: Group) -> dict[str, Tensor]:
        """Return what the optimizers remember of a group, (members, columns), and their steps, (members, parameters).

        What they have not made yet is zero, as they begin themselves.
        """
        muon = isinstance(parts_of(trainers[0])[group.part], HiddenMatrices)
        names = ("momentum_buffer",) if muon else ("exp_avg", "exp_avg_sq")
        origin, found = group.columns[0].start, {}
        states = [_states(trainer, group) for trainer in trainers]
        for name in names:
            found[name] = rows = self.weights.new_zeros(self.weights[:, group.span].shape)
            for number, one in enumerate(states):
                for c, state in zip(group.columns, one, strict=True):
                    _settle(state, name, rows[number, c.start - origin : c.stop - origin].view(c.shape))
        if not muon:
            found["step"] = steps = self.weights.new_zeros((len(trainers), len(group.columns)), dtype=torch.float32)
            for number, one in enumerate(states):
                for place, state in enumerate(one):
                    _settle(state, "step", steps[number, place])
        return found


def _settle(state: dict[str, Any], name: str, place: Tensor) -> None:
    """Move what an optimizer remembers to a place of the table."""
    if name in state:
        place.copy_(state[name])
    state[name] = place


def release(trainer: Trainer) -> None:
    """Give a trainer tensors of its own again, of the values that it has in its table."""
    models = [trainer.model] if trainer.averaged is None else [trainer.model, trainer.averaged.module]
    for model in models:
        for parameter in model.parameters():
            parameter.data = parameter.detach().clone()
    for part in parts_of(trainer):
        for state in part.state.values():
            state.update({name: value.clone() for name, value in state.items() if isinstance(value, Tensor)})


def _parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    return dict(model.named_parameters())


def _states(trainer: Trainer, group: Group) -> list[dict[str, Any]]:
    part = parts_of(trainer)[group.part]
    return [part.state[parameter] for parameter in part.param_groups[group.number]["params"]]


def _groups(trainer: Trainer) -> list[Group]:
    """Return how a trainer's weights lie in a table."""
    names = {parameter: name for name, parameter in trainer.model.named_parameters()}
    found, at = [], 0
    for part, optimizer in enumerate(parts_of(trainer)):
        maps = getattr(optimizer, "maps", {})
        for number, group in enumerate(optimizer.param_groups):
            columns = []
            for one in group["params"]:
                columns.append(Columns(names[one], one.shape, at, at + one.numel(), tuple(maps.get(one, ()))))
                at += one.numel()
            found.append(Group(part, number, columns))
    return found
