"""The training loop: fetch a window, accumulate, check, clip, set the rates, step.

A step is a pure function of the weights, the optimizer's moments and the step's number; `Trainer` holds
these and nothing else that matters. Knows nothing of files' places, tasks or searches.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn

from evo_tune.errors import RecipeError
from evo_tune.training._check import check_integer
from evo_tune.training.accumulation import MicroBatch, accumulate, split
from evo_tune.training.clipping import check_clip, clip, gradient_norm
from evo_tune.training.determinism import seed_everything, seed_for
from evo_tune.training.divergence import DivergenceWatch
from evo_tune.training.optimizer import AdamW
from evo_tune.training.schedule import Schedule
from evo_tune.training.weight_decay import WeightDecay

__all__ = ["Recipe", "Source", "Step", "Trainer"]


class Source(Protocol):
    """Where batches come from."""

    def window(self, step: int) -> Sequence[MicroBatch]:
        """Return all micro-batches of a step: a pure function of its number (from 0)."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train, whatever is trained.

    Args:
        optimizer: Peak learning rate and moments.
        schedule: The learning rate along the steps; it also says how many steps the full training has.
        weight_decay: λ along the steps.
        clip: Largest gradient norm, above 0; None: no limit.
        ceiling: Loss above which a training counts as diverged after warm-up; None: no ceiling.

    Raises:
        RecipeError: A field is out of its range.
    """

    optimizer: AdamW
    schedule: Schedule
    weight_decay: WeightDecay
    clip: float | None = 1.0
    ceiling: float | None = None

    def __post_init__(self) -> None:
        check_clip(self.clip)

    @property
    def identity(self) -> str:
        """Hash of all fields: a checkpoint goes on under the recipe that it was made with."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class Step(NamedTuple):
    """What one step did.

    Args:
        number: From 0.
        loss: Mean loss over all its targets, before the update.
        norm: Norm of its gradient, before clipping.
        lr: Learning rate of the first group.
        targets: Valid targets; with 0 the weights were left alone.
        clipped: Whether the gradient was scaled down.
    """

    number: int
    loss: float
    norm: float
    lr: float
    targets: int
    clipped: bool


class Trainer:
    """Trains a model, step by step.

    Args:
        model: Maps inputs to logits (…, classes), already on `device`.
        source: Gives each step's micro-batches.
        recipe: How to train.
        seed: Seed of dropout's noise.
        device: Where the model is.
    """

    def __init__(self, model: nn.Module, source: Source, recipe: Recipe, *, seed: int = 0, device: str = "cpu") -> None:
        self.model = model
        self.source = source
        self.recipe = recipe
        self.seed = seed
        self.device = torch.device(device)
        self.optimizer = recipe.optimizer.build(model)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.watch = DivergenceWatch(recipe.schedule.warmup, recipe.ceiling)
        self.step = 0
        self.targets = 0
        self.clipped = 0
        self.parts = 1

    def run(self, until: int, on_step: Callable[[Step], None] | None = None) -> None:
        """Train up to step number `until`, not included; steps already done are not done again.

        Args:
            until: Up to the steps of the full training.
            on_step: Called after each step.

        Raises:
            Diverged: The training is lost; the weights are those before the step that was refused.
            RecipeError: `until` lies beyond the full training.
        """
        check_integer("until", until, 0, self.recipe.schedule.steps)
        self.model.train()
        while self.step < until:
            done = self.train_step()
            if on_step is not None:
                on_step(done)

    def train_step(self) -> Step:
        """Do one step.

        Raises:
            Diverged: See `run`.
        """
        lr = self._set_rates()
        loss, norm, targets = self._gradient()
        clipped = False
        if targets:
            self.watch.check(self.step, loss, norm)
            clipped = clip(self.parameters, norm, self.recipe.clip)
            self.optimizer.step()
        done = Step(self.step, loss, norm, lr, targets, clipped)
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.targets += targets
        self.clipped += clipped
        return done

    def _set_rates(self) -> float:
        """Write this step's rates to the groups, each from its own peak, and return the first's."""
        factor = self.recipe.schedule(self.step)
        decay = self.recipe.weight_decay.at(self.step, self.recipe.schedule.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
            group["weight_decay"] = decay if group["decay"] else 0.0
        return float(self.optimizer.param_groups[0]["lr"])

    def _gradient(self) -> tuple[float, float, int]:
        """Leave this step's gradient in the parameters; return its loss, its norm and its targets.

        Out of memory is met with smaller micro-batches, which give the same gradient; it is an error only
        when they cannot be made smaller.
        """
        window = self.source.window(self.step)
        largest = max((len(inputs) for inputs, _ in window), default=0)
        while True:
            try:
                return self._attempt(split(window, self.parts) if self.parts > 1 else window)
            except torch.OutOfMemoryError:
                if self.parts >= largest:
                    raise
            # Here, outside of the handler, the failed attempt's tensors are no longer held.
            self.parts *= 2
            self.optimizer.zero_grad(set_to_none=True)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _attempt(self, window: Sequence[MicroBatch]) -> tuple[float, float, int]:
        seed_everything(seed_for(self.seed, "noise", self.step), self.device)
        loss, targets = accumulate(self.model, window, self.device)
        norm = gradient_norm(self.parameters).to(loss.device)
        # The only point of a step that waits for the device.
        values: list[float] = torch.stack((loss.float(), norm.float())).tolist()
        return values[0], values[1], targets

    def state(self) -> dict[str, Any]:
        """Return everything that the next step depends on, and the counts so far."""
        return {
            "recipe": self.recipe.identity,
            "seed": self.seed,
            "step": self.step,
            "targets": self.targets,
            "clipped": self.clipped,
            "watch": self.watch.state(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave, to the bit.

        Raises:
            RecipeError: It belongs to another recipe, seed or model.
        """
        for name, mine in (("recipe", self.recipe.identity), ("seed", self.seed)):
            if state.get(name) != mine:
                raise RecipeError(f"checkpoint {name}", state.get(name), f"{mine!r}, as in this training")
        try:
            self.model.load_state_dict(state["model"])
        except RuntimeError as error:
            raise RecipeError("checkpoint model", "its weights", f"those of this model ({error})") from error
        self.optimizer.load_state_dict(state["optimizer"])
        self.watch.restore(state["watch"])
        self.step, self.targets, self.clipped = state["step"], state["targets"], state["clipped"]
