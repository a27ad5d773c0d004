"""Several trainers of one shape that take their steps as one, each in its own training.

What a member becomes is what it would become alone, but for rounding: it has its own rates, decay, schedule, dropout,
clipping, average, seed and order of data. It stays a `Trainer` of its own, whose model may be evaluated and whose state
may be saved between steps. One that diverges leaves the others alone, and one that leaves goes on alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor

from evo_tune.errors import RecipeError
from evo_tune.training.hardware.capacity import is_out_of_memory
from evo_tune.training.models.gpt import GPT
from evo_tune.training.optim.divergence import Diverged
from evo_tune.training.optim.muon import Muon
from evo_tune.training.optim.optimizer import AdamW
from evo_tune.training.packs.losses import packed_losses
from evo_tune.training.packs.packed_gpt import PackedGPT
from evo_tune.training.packs.table import Table, release
from evo_tune.training.packs.updating import average, clip, clip_unseen, update
from evo_tune.training.packs.watch import PackWatch
from evo_tune.training.stepping.feeding import Fed
from evo_tune.training.stepping.taken import Step
from evo_tune.training.stepping.verdict import noted
from evo_tune.training.trainer import Trainer

__all__ = ["Pack"]

Taken = tuple[Trainer, "Step | Diverged"]


class Pack:
    """Trains several models of one shape as one.

    Args:
        trainers: Of `GPT`s of one shape (their `dropout` may differ), with AdamW or Muon, on one device. Where each of
            them stands does not matter. Until they leave the pack, it is the pack that takes their steps.

    Raises:
        RecipeError: They cannot be trained as one.
    """

    def __init__(self, trainers: Sequence[Trainer]) -> None:
        first = _kind(trainers[0])
        for trainer in trainers[1:]:
            for name, value in _kind(trainer).items():
                if value != first[name]:
                    raise RecipeError(f"pack {name}", value, f"{first[name]}, as the first member has it")
        self.trainers = list(trainers)
        self.together = True
        self._bind()

    def _bind(self) -> None:
        if len(self.trainers) > 1:
            self._table = Table(self.trainers)
            self._model = PackedGPT([cast(GPT, trainer.model) for trainer in self.trainers])
            self._watch = PackWatch(self.trainers)

    def run(
        self, steps: int, on_step: Callable[[Trainer, Step], None] = lambda trainer, step: None
    ) -> dict[Trainer, Diverged]:
        """Do so many steps of each member.

        Args:
            steps: No more than any has left.
            on_step: Called after each step of each member.

        Returns:
            Those that have diverged, and left the pack with the weights before the step that was refused.
        """
        for trainer in self.trainers:
            trainer.model.train()
        lost = {}
        for number in range(steps):
            for trainer, what in self.advance() if number < steps - 1 else self.step():
                if isinstance(what, Diverged):
                    lost[trainer] = what
                else:
                    on_step(trainer, what)
        return lost

    def step(self) -> list[Taken]:
        """Do one step of each member, and wait for it and all before it; return what has become known."""
        return [*self.advance(), *self._catch_up(0)]

    def advance(self) -> list[Taken]:
        """Give the device one step of each member, without waiting for it; return what has become known meanwhile.

        A member that turns out to have diverged is none any more.
        """
        fed = [trainer.feed(trainer.source, trainer.step) for trainer in self.trainers]
        if len(fed) > 1 and self.together and _alike(fed):
            try:
                return self._step_unseen(fed) if self.trainers[0].late else self._step_seen(fed)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            self.together = False  # from here on one after the other, each in passes as small as it needs
        found = self._catch_up(0)
        return found + [self._alone(trainer) for trainer in list(self.trainers)]

    def leave(self, *trainers: Trainer) -> None:
        """Have members go on by themselves, with all that they are; not in the middle of steps that nobody has read."""
        left = [trainer for trainer in self.trainers if trainer not in trainers]
        for trainer in trainers if len(left) > 1 else list(self.trainers):
            release(trainer)
        self.trainers = left
        self._bind()

    def _alone(self, trainer: Trainer) -> Taken:
        try:
            return trainer, trainer.train_step()
        except Diverged as error:
            self.leave(trainer)
            return trainer, error

    def _step_seen(self, fed: Sequence[Fed]) -> list[Taken]:
        """Do a step of which the host knows losses and norms before it is taken."""
        losses, norms = self._gradients(fed).tolist()
        trainers, lost = list(self.trainers), {}
        for trainer, loss, norm in zip(trainers, losses, norms, strict=True):
            try:
                trainer.watch.check(trainer.step, loss, norm)
            except Diverged as error:
                lost[trainer] = error
                release(trainer)  # with its weights as they are; what becomes of its row is nobody's business
        rates = [trainer.set_rates() for trainer in trainers]
        clip(self._table, trainers, norms)
        update(self._table, trainers)
        average(self._table, [None if trainer in lost else trainer.averaged for trainer in trainers])
        found: list[Taken] = []
        for trainer, one, lr, *values in zip(trainers, fed, rates, losses, norms, strict=True):
            if trainer in lost:
                found.append((trainer, lost[trainer]))
            else:
                trainer.send(lr, one.targets, lambda values=values: values)  # type: ignore[misc]
                found.append((trainer, trainer.catch_up()[-1]))
        if lost:
            self.leave(*lost)
        return found

    def _step_unseen(self, fed: Sequence[Fed]) -> list[Taken]:
        """Do a step that is judged where it is computed."""
        trainers, judged = list(self.trainers), self._gradients(fed)
        losses, norms = judged.unbind()
        refused = self._watch.judge(losses, norms)
        rates = [trainer.set_rates() for trainer in trainers]
        clip_unseen(self._table, trainers, norms)
        update(self._table, trainers, refused)
        average(self._table, [trainer.averaged for trainer in trainers], refused)
        read = cache(noted(judged.flatten()))
        for number, (trainer, one, lr) in enumerate(zip(trainers, fed, rates, strict=True)):
            trainer.send(lr, one.targets, lambda number=number: read()[number :: len(trainers)])  # type: ignore[misc]
        return self._catch_up(trainers[0].late)

    def _catch_up(self, late: int) -> list[Taken]:
        """Wait for what the device was given, but for each member's last so many steps, and return what is known.

        Whoever has diverged leaves; then all is waited for.
        """
        found: list[Taken] = []
        lost: dict[Trainer, Diverged] = {}
        for waiting in (late, 0):
            for trainer in [one for one in self.trainers if one not in lost]:
                try:
                    found += [(trainer, step) for step in trainer.catch_up(waiting)]
                except Diverged as error:
                    lost[trainer] = error
            if not lost:
                return found
        self.leave(*lost)
        return [*found, *lost.items()]

    def _gradients(self, fed: Sequence[Fed]) -> Tensor:
        """Leave the members' gradients in the table; return losses and norms, (2, members)."""
        leaves, gradient = self._table.leaves, self._table.gradient
        totals: list[Tensor] = []
        for number in range(len(fed[0].window)):
            with self._passing(fed, number):
                loss, minimised = self._losses(fed, number)
                slopes = torch.autograd.grad(minimised, list(leaves.values()))
            flat = [slope.flatten(1) for slope in slopes]
            if totals:
                gradient += torch.cat(flat, 1)
            else:
                torch.cat(flat, 1, out=gradient)
            totals.append(loss)
        norms = torch.linalg.vector_norm(gradient, dim=1)
        return torch.stack((torch.stack(totals).sum(0).float(), norms.float()))

    def _losses(self, fed: Sequence[Fed], number: int) -> tuple[Tensor, Tensor]:
        """Return what `packed_losses` does, of the members' micro-batches of a number."""
        first = self.trainers[0]
        inputs, targets = (torch.stack([one.window[number][side] for one in fed]) for side in (0, 1))
        with first.recipe.precision.autocast(first.device):
            x, heads = self._model(self._table.leaves, inputs)
            return packed_losses(
                x,
                heads,
                targets.flatten(1),
                counts=[one.targets for one in fed],
                z_losses=[trainer.recipe.z_loss for trainer in self.trainers],
                in_pieces=self._model.one.in_pieces,
            )

    @contextmanager
    def _passing(self, fed: Sequence[Fed], number: int) -> Iterator[None]:
        """Have each member's noise be that of its micro-batch of a number; float32 be multiplied as the recipe says."""
        noises = [(trainer, one) for trainer, one in zip(self.trainers, fed, strict=True) if trainer.noise is not None]
        try:
            for trainer, one in noises:
                trainer.noise.begin(trainer.step, one.samples[number], trainer.device)  # type: ignore[union-attr]
            with self.trainers[0].recipe.precision.products():
                yield
        finally:
            for trainer, _ in noises:
                trainer.noise.end()  # type: ignore[union-attr]


def _alike(fed: Sequence[Fed]) -> bool:
    """Whether the members' steps have one shape, and all have something to learn from."""
    shapes = [[inputs.shape for inputs, _ in one.window] for one in fed]
    return all(shape == shapes[0] for shape in shapes) and all(one.targets for one in fed)


def _kind(trainer: Trainer) -> dict[str, Any]:
    """Return what members of a pack have in common.

    Raises:
        RecipeError: It cannot be trained in a pack at all.
    """
    model, recipe = trainer.model, trainer.recipe
    optimizer = recipe.optimizer
    for name, value, fits, expected in (
        ("model", type(model).__name__, type(model) is GPT, "a GPT"),
        ("weights", "frozen", all(p.requires_grad for p in model.parameters()), "all trained"),
        ("optimizer", type(optimizer).__name__, isinstance(optimizer, AdamW | Muon), "AdamW or Muon"),
        ("device", str(trainer.device), trainer.device.type in ("cpu", "cuda"), "cpu or cuda"),
        ("precision", recipe.precision.name, trainer.scaler is None, "another than fp16"),
        ("ranks", trainer.ranks, trainer.ranks is None, "one process"),
        ("compiled", trainer.compiled, not trainer.compiled, "false"),
        ("recompute", getattr(model, "recompute", None), getattr(model, "recompute", None) is None, "none"),
    ):
        if not fits:
            raise RecipeError(f"pack {name}", value, expected)
    return {
        "model": replace(cast(GPT, model).config, dropout=0.0),
        "dtype": next(model.parameters()).dtype,
        "optimizer": type(optimizer).__name__,
        "nesterov": getattr(optimizer, "nesterov", None),
        "ema": "none" if recipe.ema is None else "kept",
        "precision": recipe.precision,
        "device": trainer.device,
        "late": trainer.late,
    }
