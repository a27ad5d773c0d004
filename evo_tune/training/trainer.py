"""The training step and the loop around it: set the rates, accumulate, judge, clip, update, average.

A step is a pure function of the weights, the optimizer's moments, the step's number, the loss scale and the average of
the weights. `Trainer` has no other state. On a GPU no step waits for a number: the device judges the step, and the
host reads the verdict some steps late. On a CPU the host reads each verdict before the update. This module is
independent of folders, tasks and searches.
"""

import math
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel

from evo_tune.errors import RecipeError, is_out_of_memory
from evo_tune.options.declare import check_integer
from evo_tune.training.hardware.device import seed_everything, seed_for
from evo_tune.training.hardware.distributed import Ranks
from evo_tune.training.models.dropout import attach_noise
from evo_tune.training.optim import watching
from evo_tune.training.optim.gradient import accumulate, clip, gradient_norm
from evo_tune.training.optim.losses import CrossEntropy, Loss
from evo_tune.training.recipe.optim.optimisation import ema_decay
from evo_tune.training.recipe.optim.schedule import GapDecay, GapDecayState, WeightDecay
from evo_tune.training.stepping import feeding
from evo_tune.training.stepping.compiling import compile_blocks
from evo_tune.training.stepping.feeding import copy_to_host_async
from evo_tune.training.stepping.recipe import Recipe


class Average(AveragedModel):
    """Moving average of a model: a ← dₜ · a + (1 − dₜ) · w at update t. Unlike torch's, it never waits for the device.

    Args:
        model: Model to average; buffers are copied, not averaged.
        decay: Final decay in [0, 1), from which `ema_decay` computes dₜ; 0 keeps the last weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model)
        self.decay = decay
        self.n_averaged.fill_(1)  # the first update only copies

    @torch.no_grad()
    def update_parameters(self, model: nn.Module, refused: Tensor | None = None) -> None:
        """Update the average with the weights after a step.

        Args:
            model: Model with the new weights.
            refused: Device flag: whether the step was refused, so that nothing changes; None: it was not.
        """
        # The count is on the CPU and saved with the weights, so that a resumed training continues it.
        share = 1.0 - ema_decay(self.decay, int(self.n_averaged))
        self.n_averaged += 1
        pairs = zip(self.module.parameters(), model.parameters(), strict=True)
        # Frozen weights are the same in both.
        averages, weights = zip(*(pair for pair in pairs if pair[1].requires_grad), strict=True)
        # The public `get_ema_multi_avg_fn` takes a decay (1 - decay is rounded) and cannot skip refused steps.
        if refused is None:
            torch._foreach_lerp_(averages, weights, share)
        else:
            shares = {dtype: (~refused).to(dtype) * share for dtype in {w.dtype for w in weights}}
            torch._foreach_lerp_(averages, weights, [shares[w.dtype] for w in weights])
        for mine, theirs in zip(self.module.buffers(), model.buffers(), strict=True):
            mine.copy_(theirs)


# Attributes of a `Trainer` that count what it has done.
COUNTS = ("step", "targets", "clipped", "overflows")


class Step(NamedTuple):
    """Result of one step.

    Args:
        number: Step number, from 0.
        loss: Mean loss over all targets of the step, before the update.
        norm: Norm of the gradient, before clipping.
        lr: Learning rate of the first group.
        targets: Number of counted targets.
        clipped: Whether the gradient was scaled down.
    """

    number: int
    loss: float
    norm: float
    lr: float
    targets: int
    clipped: bool


class Trainer:
    """Trains a model step by step.

    Args:
        model: Module that maps inputs to the loss's inputs, such as logits (…, classes); already on `device`.
        source: Source of each step's micro-batches.
        recipe: Optimizer, schedule and further training options.
        loss: Loss to minimise; None: the cross-entropy of logits, with the recipe's z-loss.
        seed: Seed of dropout's noise (see `Noise`).
        device: Device of the model.
        ranks: Processes that share each step, each with a `Trainer` with the same arguments. The source
            gives whole steps on each rank, and each rank takes its share.
        late: Number of steps sent to the device before the host reads the first one's verdict; 0: it reads each
            verdict before the update. None: 8 on a GPU, 0 elsewhere.
        compiled: Whether to compile the model's blocks.

    Raises:
        RecipeError: The device does not support the recipe's precision, or the loss has no z-loss.
    """

    def __init__(
        self,
        model: nn.Module,
        source: feeding.Source,
        recipe: Recipe,
        *,
        loss: Loss | None = None,
        seed: int = 0,
        device: str = "cpu",
        ranks: Ranks | None = None,
        late: int | None = None,
        compiled: bool = False,
    ) -> None:
        self.ranks = ranks
        self.model = model if ranks is None else ranks.sync_batch_norms(model)
        self.replica = model if ranks is None else ranks.wrap(self.model)
        self.source, self.recipe, self.seed, self.device = source, recipe, seed, torch.device(device)
        recipe.precision.check_device(self.device)
        self.scaler = recipe.precision.scaler(self.device)
        self.noise = attach_noise(self.model, seed)
        self.optimizer = recipe.optimizer.build(model, recipe.precision.name, ranks)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.gap = GapDecayState(recipe.weight_decay) if isinstance(recipe.weight_decay, GapDecay) else None
        self.averaged = None if recipe.ema is None else Average(model, recipe.ema)
        if self.averaged is not None:
            watching.share_frozen_weights(model, self.averaged.module)
        gpu = self.device.type == "cuda" and feeding.can_refuse(self.optimizer)
        self.late = (feeding.STEPS_AHEAD if gpu else 0) if late is None else late
        watch_device = self.device if self.late else None
        self.watch = watching.DivergenceWatch(recipe.schedule.warmup, recipe.ceiling, watch_device)
        self.loss = CrossEntropy() if loss is None else loss
        self.feed = feeding.Feed(self.device, ranks, getattr(self.model, "shorten", None), self.loss.count)
        # Steps that were sent to the device: number, learning rate, counted targets, and a function that waits for and
        # returns the fields of the `Verdict`, then the scale of clipping.
        self._sent: deque[tuple[int, float, int, Callable[[], list[float]]]] = deque()
        self.compiled = compiled
        if compiled:  # the model only: the average was copied before
            compile_blocks(self.model)
        # Batch norm statistics depend on the pass: smaller passes would change the step.
        self.divisible = not any(isinstance(module, _BatchNorm) for module in model.modules())
        self.step = self.targets = self.clipped = self.overflows = 0
        self.parts = 1 if ranks is None else ranks.parts

    def run(
        self,
        until: int,
        on_step: Callable[[Step], object] = lambda step: None,
        is_late: Callable[[], bool] = lambda: False,
    ) -> None:
        """Train up to step number `until`, exclusive; completed steps are not repeated.

        Args:
            until: Step to stop before, at most the number of steps of the full training.
            on_step: Function called after each step.
            is_late: Function called after each step; if it returns true, no further step is trained.

        Raises:
            Diverged: The training diverged; the weights are those before the refused step.
            RecipeError: `until` is beyond the full training.
        """
        check_integer("until", until, 0, self.recipe.schedule.steps)
        self.model.train()
        while self.step < until:
            for finished_step in self.advance(self.step + 1 < until):
                on_step(finished_step)
            if is_late():
                break
        for finished_step in self.catch_up():
            on_step(finished_step)

    def train_step(self) -> Step:
        """Run one step and wait for its result.

        Raises:
            Diverged: See `run`.
        """
        return [*self.advance(), *self.catch_up()][-1]

    def advance(self, another: bool = False) -> list[Step]:
        """Send one step to the device without waiting for it, and return the earlier steps whose results are known.

        Args:
            another: Whether another step follows; if so, its samples are prefetched.

        Raises:
            Diverged: See `run`; if `late` is not 0, the error may concern an earlier step.
        """
        lr = self.set_rates()
        while True:
            loss, norm, targets = self._gradient()
            overflow = self._overflow(loss, norm)
            if self.late or self.scaler is None or not overflow:
                break
            # On a CPU an overflowing step is repeated at half the scale; a GPU skips it.
            self.scaler.update()
            self.overflows += 1
            self.optimizer.zero_grad(set_to_none=True)
        verdict = self.watch.judge(self.step, loss, norm, overflow)
        scale = clip(self.parameters, verdict.norm, self.recipe.clip)
        self._sent.append((self.step, lr, targets, copy_to_host_async([*verdict, scale])))
        finished_steps = self.catch_up(self.late)  # on a CPU this step's own verdict: it raises before the update
        refused = verdict.refused if self.late else None
        feeding.step_unless(refused, self.optimizer)
        if self.scaler is not None:
            self.scaler.update()
        if self.averaged is not None:
            self.averaged.update_parameters(self.model, refused)
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        if self.ranks is not None:
            self.ranks.settle(self.model, self.step)
        if another:
            self.feed.prepare(self.source, self.step)
        return finished_steps

    def catch_up(self, late: int = 0) -> list[Step]:
        """Wait for all sent steps except the last `late`, and return them.

        Raises:
            Diverged: See `run`.
        """
        finished_steps = []
        for _ in range(len(self._sent) - late):
            number, lr, targets, values = self._sent.popleft()
            *fields, scale = values()
            verdict = watching.Verdict(*fields)
            try:
                self.watch.check(number, verdict)
            except watching.Diverged:  # the device refused this step and all later ones
                self.step = number
                self._sent.clear()
                raise
            clipped = scale < 1.0 and not verdict.overflow
            self.overflows += bool(verdict.overflow)
            self.targets += targets
            self.clipped += clipped
            finished_steps.append(Step(number, verdict.loss, verdict.norm, lr, targets, clipped))
        return finished_steps

    def _overflow(self, loss: watching.Number, norm: watching.Number) -> watching.Number | None:
        """Return whether only a too large loss scale makes a gradient non-finite; None without a loss scale.

        A non-finite loss, or a gradient that overflows at scale 1, means divergence.
        """
        if self.scaler is None:
            return None
        if not self.late:
            return math.isfinite(loss) and not math.isfinite(norm) and self.scaler.get_scale() > 1.0
        scale = self.scaler.scale(torch.ones((), device=self.device))  # get_scale would wait
        return torch.isfinite(loss) & ~torch.isfinite(norm) & (scale > 1.0)

    @property
    def evaluation(self) -> dict[str, Any]:
        """Keywords for functions of `training.evaluation`: device, ranks and the training's precision."""
        return {"device": self.device, "ranks": self.ranks, "precision": self.recipe.precision}

    def set_rates(self) -> float:
        """Set this step's rates in each group: learning rate and weight decay.

        Returns:
            The first group's learning rate.
        """
        recipe, steps = self.recipe, self.recipe.schedule.steps
        factor = recipe.schedule(self.step)
        if isinstance(recipe.weight_decay, WeightDecay):
            decay = recipe.weight_decay.at(self.step, steps)
        else:
            assert self.gap is not None
            decay = self.gap.value
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
            group["weight_decay"] = decay * group["decay"]
        return float(self.optimizer.param_groups[0]["lr"])

    def _gradient(self) -> tuple[watching.Number, watching.Number, int]:
        """Write this step's gradient to the parameters; return its loss, norm and counted targets.

        If memory runs out, micro-batches are halved, which gives the same gradient. It is an error if they cannot be
        halved, or if other ranks wait in the middle of a reduction: then all ranks restart.
        """
        fed = self.feed(self.source, self.step)
        largest = max((len(inputs) for inputs, _ in fed.window), default=0)
        while True:
            try:
                loss = self._accumulate(fed.split(self.parts))
                break
            except RuntimeError as error:
                smaller = self.parts < largest and self.divisible
                if self.ranks is not None and is_out_of_memory(error):
                    raise self.ranks.out_of_memory(error, smaller=smaller) from error
                if not smaller or not is_out_of_memory(error):
                    raise
            # Outside the handler, the tensors of the failed attempt are freed.
            self.parts *= 2
            self.optimizer.zero_grad(set_to_none=True)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        norm = gradient_norm(self.parameters).to(loss.device)
        judged = torch.stack((loss.float(), norm.float()))
        if self.ranks is not None:  # all ranks need the same verdict
            total, norms = self.ranks.sum(judged).unbind()
            judged = torch.stack((total, norms / self.ranks.size))
        loss, norm = judged.unbind() if self.late else judged.tolist()
        return loss, norm, fed.targets

    def _accumulate(self, fed: feeding.Fed) -> Tensor:
        """Add the gradient of a step's samples, and return their mean loss."""

        def begin(number: int) -> None:
            if self.noise is not None:
                self.noise.begin(self.step, fed.samples[number], self.device)

        rank = () if self.ranks is None else (self.ranks.rank,)
        seed_everything(seed_for(self.seed, "noise", self.step, *rank), self.device)
        precision = self.recipe.precision
        try:
            with precision.products():
                loss, _ = accumulate(
                    self.replica,
                    fed.window,
                    self.device,
                    loss=self.loss,
                    autocast=lambda: precision.autocast(self.device),
                    scale=None if self.scaler is None else self.scaler.scale,
                    ranks=self.ranks,
                    before=begin,
                    targets=fed.targets,
                )
        finally:
            if self.noise is not None:
                self.noise.end()
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)  # before the gradient is read
        return loss

    def state(self) -> dict[str, Any]:
        """Return everything that the next step depends on, except frozen weights, and the counts so far.

        Raises:
            Diverged: See `run`; raised for a step whose verdict was still unread.
        """
        self.catch_up()
        return {
            "recipe": self.recipe.identity,
            **{name: getattr(self, name) for name in ("seed", *COUNTS)},
            "watch": self.watch.state(),
            "gap": None if self.gap is None else self.gap.state(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "averaged": None if self.averaged is None else watching.unfrozen_state(self.averaged),
            "model": watching.unfrozen_state(self.model),
            "optimizer": self.optimizer.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a state returned by `state`; the training continues bit-identically.

        Raises:
            RecipeError: The state belongs to another recipe, seed or model.
        """
        for name, mine in (("recipe", self.recipe.identity), ("seed", self.seed)):
            if state.get(name) != mine:
                raise RecipeError(f"checkpoint {name}", state.get(name), f"{mine!r}, as in this training")
        try:
            watching.load_unfrozen_state(self.model, state["model"])
        except RuntimeError as error:
            raise RecipeError("checkpoint model", "its weights", f"those of this model ({error})") from error
        self.optimizer.load_state_dict(state["optimizer"])
        self.watch.restore(state["watch"])
        self._sent.clear()
        if self.gap is not None:
            self.gap.restore(state["gap"])
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])
        if self.averaged is not None:
            watching.load_unfrozen_state(self.averaged, state["averaged"])
        vars(self).update({name: state[name] for name in COUNTS})
