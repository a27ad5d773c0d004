"""A training as options: its recipe, its budget, and the phases that it goes through."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from evo_tune.errors import OptionError, RecipeError
from evo_tune.options.bounds import check_integer, check_number
from evo_tune.options.declare import Options, option
from evo_tune.recipe.hardware.computing import Computing, Passes, Processes, in_memory
from evo_tune.recipe.models.gpt_config import GPTConfig, flops_per_token
from evo_tune.recipe.optim.optimisation import Averaging, Clipping, Optimisation, StoppingInTime
from evo_tune.recipe.optim.schedule import Decaying, Schedule, Scheduling
from evo_tune.recipe.optim.steps import BatchRamp, Bounds, steps_of


@dataclass(frozen=True, kw_only=True)
class Budget(Options):
    """What is held equal between trainings: one of three."""

    flops: float | None = option(None, bounds="(0, 1e30]", gene=None, help="Arithmetic: a larger model sees less text")
    tokens: int | None = option(None, bounds="[1, 1e18]", gene=None, help="Text: favours large models")
    seconds: float | None = option(
        None, bounds="(0, 1e9]", unit="s", gene=None, help="Time, by ten steps that are timed: no two runs are the same"
    )

    def check(self) -> None:
        given = [name for name in ("flops", "tokens", "seconds") if getattr(self, name) is not None]
        if len(given) > 1:
            raise OptionError(f"-o {given[0]} and -o {given[1]} are both given: give one budget, or none")


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A part of a training in which the model's shape stays the same.

    Args:
        config: The model's shape.
        windows: Windows that are trained on, 1 or more.
        per_step: Of these, in one step, 1 or more.
        first_step: Number of its first step.
        ramp: How the windows of a step grow to `per_step`; None: they are so many from the start.
        first_window: Windows as long that were trained on in phases before, so that the text goes on after them.

    Raises:
        RecipeError: A number is out of its range.
    """

    config: GPTConfig
    windows: int
    per_step: int
    first_step: int = 0
    ramp: BatchRamp | None = None
    first_window: int = 0

    def __post_init__(self) -> None:
        check_integer("windows", self.windows, 1)
        check_integer("per_step", self.per_step, 1)
        check_integer("first_step", self.first_step, 0)
        check_integer("first_window", self.first_window, 0)

    @property
    def end(self) -> int:
        """The step after its last."""
        return self.first_step + len(self._bounds)

    def tokens(self, step: int) -> int:
        """Return the tokens that it has trained on before `step`."""
        return self.config.context * self._bounds[max(0, step - self.first_step)][0]

    @cached_property
    def _bounds(self) -> Bounds:
        return steps_of(self.windows, self.per_step, self.ramp)


def plan_phases(
    shares: Sequence[tuple[float, GPTConfig]],
    batch: int,
    *,
    tokens: float | None = None,
    flops: float | None = None,
    ramp: BatchRamp | None = None,
) -> tuple[Phase, ...]:
    """Share a budget out between phases, each to a window.

    Args:
        shares: Share of the budget and shape of each phase, by rising context, depth or width; they add up to 1.
        batch: Tokens in a step; a window, if that is longer.
        tokens: The budget in tokens.
        flops: Or the budget in floating-point operations (see `flops_per_token`).
        ramp: How the batch grows in the first phase; its start in tokens, from `batch` on without effect.

    Raises:
        RecipeError: A number is out of its range, or a context, depth or width less than the one before, or none more.
    """
    check_integer("batch", batch, 1)
    budget, name = (tokens, "tokens") if tokens is not None else (flops, "flops")
    check_number(name, budget, "(0, inf)")
    for (_, before), (_, after) in itertools.pairwise(shares):
        grows = (after.depth, after.width) != (before.depth, before.width)
        for side in ("depth", "width"):
            check_integer(side, getattr(after, side), getattr(before, side))
        check_integer("context", after.context, before.context + (not grows))
    phases: list[Phase] = []
    for share, config in shares:
        each = config.context * (1.0 if tokens is not None else flops_per_token(config))
        windows = max(1, round(share * (budget or 0.0) / each))
        first, per_step = phases[-1].end if phases else 0, max(1, batch // config.context)
        growing = None
        if ramp is not None and not phases:
            growing = replace(ramp, start=min(per_step, max(1, ramp.start // config.context)))
        read = sum(phase.windows for phase in phases if phase.config.context == config.context)
        phases.append(
            Phase(
                config=config,
                windows=windows,
                per_step=per_step,
                first_step=first,
                ramp=growing,
                first_window=read,
            )
        )
    return tuple(phases)


def phase_of(phases: Sequence[Phase], config: GPTConfig) -> Phase:
    """Return the phase whose models are as long, deep and wide as one of this shape."""
    return next(phase for phase in phases if _size(phase.config) == _size(config))


def _size(config: GPTConfig) -> tuple[int, int, int]:
    return config.context, config.depth, config.width


def spent(phases: Sequence[Phase], step: int) -> dict[str, float]:
    """Return the tokens and the flops that a training takes before `step`."""
    tokens = [phase.tokens(step) for phase in phases]
    flops = sum(count * flops_per_token(phase.config) for count, phase in zip(tokens, phases, strict=True))
    return {"tokens": float(sum(tokens)), "flops": flops}


@dataclass(frozen=True, kw_only=True)
class Training(Processes, Passes, Computing, StoppingInTime, Averaging, Clipping, Decaying, Optimisation, Scheduling):
    """How a model is trained, whatever it is."""

    @property
    def on_gpu(self) -> dict[str, Any]:
        """What the memory of this training on a GPU depends on beside its model and batch: fields of `Setup`."""
        return {
            "precision": "fp32" if in_memory(self.precision) == "fp32" else "bf16",
            "recompute": self.recompute,
            "device": "cuda",
            "optimizer": self.optimizer_name,
            "ema": self.ema is not None,
            "z_loss": self.z_loss > 0.0,
            "ranks": self.ranks,
        }

    def check_genes(self, *, lr: float, weight_decay: float, warmup: float) -> None:
        """Require numbers that the recipe takes, before anything is built.

        Raises:
            RecipeError: One is out of its range.
        """
        self.check_lr(lr)
        self.rates(steps=10, warmup=warmup)
        self.decay(weight_decay)


@dataclass(frozen=True, kw_only=True)
class ToZero(Scheduling):
    """The learning rate along the steps, down to zero: what short trainings of small models gain from."""

    # Not 0.1, which is what long trainings of language models end at: a classifier's last steps are its best ones.
    min_lr_ratio: float = option(0.0, bounds="[0, 1]", help="Learning rate at the end, as a share of its peak")

    def rates(self, steps: int, warmup: float) -> Schedule:
        """Return the schedule over so many steps (see `Scheduling.rates`); a cycle of 0.1 is rounded down."""
        schedule = super().rates(steps, warmup)
        # Checkpoints go on under the schedule that they were made with, and that had no cycle of its own.
        return replace(schedule, cycle=None) if self.cycle == 0.1 else schedule


@dataclass(frozen=True, kw_only=True)
class Plan(ToZero, Training):
    """What is held equal between trainings: one budget."""

    flops: float | None = option(None, bounds="(0, inf)", gene=None, help="Budget in FLOPs; left out, the size's own")
    epochs: float | None = option(None, bounds="(0, inf)", gene=None, help="Budget in passes over the training samples")
    seconds: float | None = option(
        None,
        bounds="(0, 1e9]",
        unit="s",
        gene=None,
        help="Budget in time, by timed steps: no two runs are the same",
    )
    # Not 0.95, which suits language models: classifiers keep Adam's own default.
    beta2: float = option(
        0.999, bounds="[0, 0.99999]", gene="0.9|0.95|0.98|0.99|0.995|0.999", help="adamw, muon: decay of the second"
    )
    micro_batch: int | Literal["auto"] | None = option(
        "auto",
        bounds="[1, inf)",
        unit="samples",
        gene=None,
        help="Most in one pass, which changes no gradient; auto: what the device's whole memory has room for",
    )
    evaluations: int = option(
        4, bounds="[1, 10000]", gene=None, help="How many, each on all held-out samples: the learning curve"
    )

    def check(self) -> None:
        """Require one budget at most.

        Raises:
            RecipeError: There are two.
        """
        given = [name for name in ("epochs", "flops", "seconds") if getattr(self, name) is not None]
        if len(given) > 1:
            first, second = given[:2]
            text = f"one budget, {first} or {second}, and {second}={getattr(self, second)} beside it"
            raise RecipeError(first, getattr(self, first), text)
        if self.seconds is not None and self.ranks > 1:
            raise RecipeError("seconds", self.seconds, f"flops or epochs in its place beside ranks={self.ranks}")

    @property
    def default_flops(self) -> float:
        """Budget in FLOPs where none is given."""
        return 2e10

    def samples(self, rows: int, flops_per_sample: float) -> int:
        """Return how many samples the full training visits, repetitions counted, at least one.

        Args:
            rows: Samples to train on.
            flops_per_sample: FLOPs of training on one.
        """
        flops = self.default_flops if self.flops is None else self.flops
        wanted = self.epochs * rows if self.epochs is not None else flops / flops_per_sample
        return max(1, round(wanted))
