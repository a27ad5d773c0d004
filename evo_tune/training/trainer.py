"""The training loop: fetch a window, accumulate, check, clip, set the rates, step.

A step is a pure function of the weights, the optimizer's moments, the step's number and what few options
remember (the loss's scale, the average of the weights); `Trainer` holds these and nothing else that matters.
Knows nothing of files' places, tasks or searches.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from evo_tune.errors import RecipeError
from evo_tune.options.bounds import check_integer, check_number
from evo_tune.training.data.batch import MicroBatch
from evo_tune.training.hardware.capacity import is_out_of_memory
from evo_tune.training.hardware.determinism import seed_everything, seed_for
from evo_tune.training.hardware.eager import spare_compiler, step
from evo_tune.training.hardware.precision import Precision
from evo_tune.training.models.dropout import attach_noise
from evo_tune.training.optim.accumulation import accumulate, split
from evo_tune.training.optim.clipping import check_clip, clip, gradient_norm
from evo_tune.training.optim.divergence import DivergenceWatch
from evo_tune.training.optim.ema import average_of
from evo_tune.training.optim.gap_decay import GapDecay, GapWatch
from evo_tune.training.optim.muon import Muon
from evo_tune.training.optim.optimizer import SGD, AdamW
from evo_tune.training.optim.schedule import Schedule
from evo_tune.training.optim.weight_decay import WeightDecay
from evo_tune.training.tuning.frozen import load_moving, moving, share_frozen

if TYPE_CHECKING:
    from evo_tune.training.hardware.distributed import Ranks

__all__ = ["Recipe", "Source", "Step", "Trainer"]


class Source(Protocol):
    """Where batches come from."""

    def window(self, step: int) -> Sequence[MicroBatch]:
        """Return all micro-batches of a step: a pure function of its number (from 0)."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train, whatever is trained.

    Args:
        optimizer: Which one, its peak learning rate and moments.
        schedule: The learning rate along the steps; it also says how many steps the full training has.
        weight_decay: λ along the steps, or by the gap between held-out and training loss.
        clip: Largest gradient norm, above 0; None: no limit.
        ceiling: Loss above which a training counts as diverged after warm-up; None: no ceiling.
        precision: In what the model computes.
        z_loss: Weight of the mean square of log Σ exp(logits) beside the loss, 0 to 1; 1e-4 keeps logits
            from drifting (arXiv:2309.14322).
        ema: Decay of a moving average of the weights, kept beside them, below 1; None: none is kept.

    Raises:
        RecipeError: A field is out of its range.
    """

    optimizer: AdamW | SGD | Muon
    schedule: Schedule
    weight_decay: WeightDecay | GapDecay
    clip: float | None = 1.0
    ceiling: float | None = None
    precision: Precision = field(default_factory=Precision)
    z_loss: float = 0.0
    ema: float | None = None

    def __post_init__(self) -> None:
        check_clip(self.clip)
        check_number("z_loss", self.z_loss, "[0, 1]")
        if self.ema is not None:
            check_number("ema", self.ema, "[0, 1)")

    @property
    def identity(self) -> str:
        """Hash of all fields: a checkpoint goes on under the recipe that it was made with."""
        fields = asdict(self)
        # By the names that the first checkpoints knew them by.
        fields["schedule"]["min_ratio"] = fields["schedule"].pop("min_lr_ratio")
        text = json.dumps(fields, sort_keys=True)
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
        seed: Seed of dropout's noise (see `Noise`).
        device: Where the model is.
        ranks: The processes that train it together, each a `Trainer` with the same arguments. The source
            gives whole steps on each, and each takes its share.

    Raises:
        RecipeError: The device does not compute in the recipe's precision.
    """

    def __init__(
        self,
        model: nn.Module,
        source: Source,
        recipe: Recipe,
        *,
        seed: int = 0,
        device: str = "cpu",
        ranks: Ranks | None = None,
    ) -> None:
        self.ranks = ranks
        self.model = model if ranks is None else ranks.synchronised(model)
        self.replica = model if ranks is None else ranks.wrap(self.model)
        self.source = source
        self.recipe = recipe
        self.seed = seed
        self.device = torch.device(device)
        recipe.precision.check_device(self.device)
        self.scaler = recipe.precision.scaler(self.device)
        self.noise = attach_noise(self.model, seed)
        spare_compiler()
        self.optimizer = recipe.optimizer.build(model)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.watch = DivergenceWatch(recipe.schedule.warmup, recipe.ceiling)
        self.gap = GapWatch(recipe.weight_decay) if isinstance(recipe.weight_decay, GapDecay) else None
        self.averaged = None if recipe.ema is None else average_of(model, recipe.ema)
        if self.averaged is not None:
            share_frozen(model, self.averaged.module)
        # Batch norms see one pass: in smaller ones the step would be another.
        self.divisible = not any(isinstance(module, _BatchNorm) for module in model.modules())
        self.step = 0
        self.targets = 0
        self.clipped = 0
        self.overflows = 0
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
        loss, norm, targets = self._gradient() if self.scaler is None else self._scaled_gradient(self.scaler)
        clipped = False
        if targets:
            self.watch.check(self.step, loss, norm)
            clipped = clip(self.parameters, norm, self.recipe.clip)
            step(self.optimizer)
            if self.scaler is not None:
                self.scaler.update()
            if self.averaged is not None:
                self.averaged.update_parameters(self.model)
        done = Step(self.step, loss, norm, lr, targets, clipped)
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.targets += targets
        self.clipped += clipped
        if self.ranks is not None:
            self.ranks.settle(self.model, self.step)
        return done

    def evaluated(self, training: float, held_out: float) -> None:
        """Take note of an evaluation, by which a `GapDecay` may raise the weight decay.

        Args:
            training: Loss on the training text.
            held_out: Loss on the held-out text.
        """
        if self.gap is not None:
            self.gap.update(training, held_out)

    def _set_rates(self) -> float:
        """Write this step's rates to the groups, each from its own peak, and return the first's."""
        factor = self.recipe.schedule(self.step)
        decay = self._weight_decay()
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
            group["weight_decay"] = decay * group["decay"]
        return float(self.optimizer.param_groups[0]["lr"])

    def _weight_decay(self) -> float:
        if isinstance(self.recipe.weight_decay, WeightDecay):
            return self.recipe.weight_decay.at(self.step, self.recipe.schedule.steps)
        assert self.gap is not None
        return self.gap.value

    def _scaled_gradient(self, scaler: torch.amp.GradScaler) -> tuple[float, float, int]:
        """Do as `_gradient`, halving the loss's scale until the gradient is finite.

        A loss that is not finite, or a gradient that overflows at scale 1, is handed on: it has diverged.
        """
        while True:
            loss, norm, targets = self._gradient()
            overflow = targets > 0 and math.isfinite(loss) and not math.isfinite(norm)
            if not overflow or scaler.get_scale() <= 1.0:
                return loss, norm, targets
            scaler.update()
            self.overflows += 1
            self.optimizer.zero_grad(set_to_none=True)

    def _gradient(self) -> tuple[float, float, int]:
        """Leave this step's gradient in the parameters; return its loss, its norm and its targets.

        Out of memory is met with smaller micro-batches, which give the same gradient; it is an error only
        when they cannot be made smaller, or when other ranks wait for this one in the middle of a reduction.
        """
        window = self.source.window(self.step)
        samples: Sequence[MicroBatch] = [] if self.noise is None else _numbered(window)
        if self.ranks is not None:
            window, samples = self.ranks.share(window), self.ranks.share(samples)
        largest = max((len(inputs) for inputs, _ in window), default=0)
        while True:
            try:
                parts = (window, samples)
                return self._attempt(*(parts if self.parts == 1 else (split(part, self.parts) for part in parts)))
            except RuntimeError as error:
                if self.ranks is not None and is_out_of_memory(error):
                    raise self.ranks.out_of_memory(error) from error
                if self.parts >= largest or not self.divisible or not is_out_of_memory(error):
                    raise
            # Here, outside of the handler, the failed attempt's tensors are no longer held.
            self.parts *= 2
            self.optimizer.zero_grad(set_to_none=True)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _attempt(self, window: Sequence[MicroBatch], samples: Sequence[MicroBatch]) -> tuple[float, float, int]:
        """Do as `_gradient`, with a window as it is and the numbers of its samples."""

        def begin(number: int) -> None:
            if self.noise is not None:
                first = int(samples[number][0][0])
                self.noise.begin(self.step, range(first, first + len(samples[number][0])), self.device)

        rank = () if self.ranks is None else (self.ranks.rank,)
        seed_everything(seed_for(self.seed, "noise", self.step, *rank), self.device)
        try:
            loss, targets = accumulate(
                self.replica,
                window,
                self.device,
                z_loss=self.recipe.z_loss,
                autocast=lambda: self.recipe.precision.autocast(self.device),
                scale=None if self.scaler is None else self.scaler.scale,
                ranks=self.ranks,
                before=begin,
            )
        finally:
            if self.noise is not None:
                self.noise.end()
        if self.scaler is not None and targets:
            self.scaler.unscale_(self.optimizer)  # before anything looks at the gradient
        norm = gradient_norm(self.parameters).to(loss.device)
        judged = torch.stack((loss.float(), norm.float()))
        if self.ranks is not None:  # one word for all: whoever has a number that is not finite, all have it
            judged = self.ranks.sum(judged) / torch.tensor([1, self.ranks.size], device=loss.device)
        # The only point of a step that waits for the device.
        values: list[float] = judged.tolist()
        return values[0], values[1], targets

    def state(self) -> dict[str, Any]:
        """Return everything that the next step depends on, frozen weights aside, and the counts so far."""
        return {
            "recipe": self.recipe.identity,
            "seed": self.seed,
            "step": self.step,
            "targets": self.targets,
            "clipped": self.clipped,
            "overflows": self.overflows,
            "watch": self.watch.state(),
            "gap": None if self.gap is None else self.gap.state(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "averaged": None if self.averaged is None else moving(self.averaged),
            "model": moving(self.model),
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
            load_moving(self.model, state["model"])
        except RuntimeError as error:
            raise RecipeError("checkpoint model", "its weights", f"those of this model ({error})") from error
        self.optimizer.load_state_dict(state["optimizer"])
        self.watch.restore(state["watch"])
        if self.gap is not None:
            self.gap.restore(state["gap"])
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])
        if self.averaged is not None:
            load_moving(self.averaged, state["averaged"])
        self.overflows = state["overflows"]
        self.step, self.targets, self.clipped = state["step"], state["targets"], state["clipped"]


def _numbered(window: Sequence[MicroBatch]) -> list[MicroBatch]:
    """Return the numbers of a window's samples within their step, cut as the samples are."""
    numbers = torch.arange(sum(len(inputs) for inputs, _ in window))
    return [(part, part) for part in numbers.split([len(inputs) for inputs, _ in window])]  # type: ignore[no-untyped-call]
