"""Options of a training: recipe, budget and phases."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from evo_tune.errors import OptionError
from evo_tune.options.declare import Options, check_integer, check_number, fixed_option, redeclare
from evo_tune.plugins.cost import Work
from evo_tune.training.recipe.hardware.computing import ComputeOptions, PassOptions, RankOptions, TimeBudget
from evo_tune.training.recipe.models.gpt_config import GPTConfig, flops_per_token
from evo_tune.training.recipe.optim import optimisation
from evo_tune.training.recipe.optim import schedule as schedules


@dataclass(frozen=True, kw_only=True)
class TrainingBudget(TimeBudget):
    """Budget, equal for all trainings: at most one; by default the time of the default genome."""

    flops: float | None = fixed_option(None, bounds="(0, 1e30]", help="Budget in FLOPs; a larger model sees less data")

    def check(self) -> None:
        """Require at most one budget, and none in time with several ranks.

        Raises:
            OptionError: There are two, or one in time with several ranks.
        """
        options = self.to_json()
        budgets = [name for name in ("epochs", "flops", "tokens", "seconds") if options.get(name) is not None]
        if len(budgets) > 1:
            raise OptionError(f"-o {budgets[0]} and -o {budgets[1]} are both given: give one budget, or none")
        if self.seconds is not None and options.get("ranks", 1) > 1:
            raise OptionError("-o ranks and -o seconds are both given: give another budget beside ranks")


@dataclass(frozen=True, kw_only=True)
class TextBudget(TrainingBudget):
    """Budget in text."""

    tokens: int | None = fixed_option(None, bounds="[1, 1e18]", help="Budget in training tokens; favours large models")


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Part of a training with one model shape.

    Args:
        config: Shape of the model.
        windows: Number of training windows (int ≥ 1).
        per_step: Windows per step (int ≥ 1).
        first_step: Number of the first step.
        ramp: Growth of the windows per step to `per_step`; None: constant.
    """

    config: GPTConfig
    windows: int
    per_step: int
    first_step: int = 0
    ramp: schedules.BatchRamp | None = None

    @property
    def end(self) -> int:
        """Number of the step after the last one."""
        return self.first_step + len(self._bounds)

    def tokens(self, step: int) -> int:
        """Return the tokens of this phase that are trained on before `step`."""
        return self.config.context * self._bounds[max(0, step - self.first_step)][0]

    @cached_property
    def _bounds(self) -> schedules.StepRanges:
        return schedules.divide_into_steps(self.windows, self.per_step, self.ramp)


def plan_phases(
    shares: Sequence[tuple[float, GPTConfig]],
    batch: int,
    budget: float,
    window_cost: Callable[[GPTConfig], float],
    ramp: schedules.BatchRamp | None = None,
) -> tuple[Phase, ...]:
    """Divide a budget between phases, rounded to whole windows.

    Args:
        shares: Share of the budget and shape of each phase, by rising context; shares sum to 1.
        batch: Tokens per step; at least one window.
        budget: Budget, in any unit.
        window_cost: Function that returns what a window of a shape takes of the budget.
        ramp: Growth of the batch in the first phase, with its start in tokens; no effect if that is `batch` or more.

    Raises:
        RecipeError: The context does not rise from a phase to the next.
    """
    for (_, before), (_, after) in itertools.pairwise(shares):
        check_integer("context", after.context, before.context + 1)
    phases: list[Phase] = []
    first_step = 0
    for share, config in shares:
        windows, per_step = max(1, round(share * budget / window_cost(config))), max(1, batch // config.context)
        if ramp is not None:
            ramp = replace(ramp, start=min(per_step, max(1, ramp.start // config.context)))
        phases.append(Phase(config=config, windows=windows, per_step=per_step, first_step=first_step, ramp=ramp))
        first_step, ramp = phases[-1].end, None
    return tuple(phases)


def tokens_and_flops(phases: Sequence[Phase], step: int) -> dict[str, float]:
    """Return the tokens and FLOPs that a training has used before `step`."""
    tokens = [phase.tokens(step) for phase in phases]
    flops = sum(count * flops_per_token(phase.config) for count, phase in zip(tokens, phases, strict=True))
    return {"tokens": float(sum(tokens)), "flops": flops}


@dataclass(frozen=True, kw_only=True)
class SaveOptions(Options):
    """Checkpoints of finished trainings."""

    save: bool = fixed_option(False, help="Keep a checkpoint of full trainings too")


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions(Options):
    """Long trainings."""

    checkpoint_minutes: float | None = fixed_option(
        10.0, bounds="(0, inf)", unit="minutes", help="Time between checkpoints; none: no checkpoints"
    )


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(
    CheckpointOptions,
    RankOptions,
    PassOptions,
    ComputeOptions,
    optimisation.StoppingOptions,
    optimisation.AveragingOptions,
    optimisation.ClippingOptions,
    schedules.WeightDecayOptions,
    optimisation.OptimizerOptions,
    schedules.ScheduleOptions,
):
    """Training options common to all models."""

    def check(self) -> None:
        """Require a patience longer than the cycles of the schedule.

        Raises:
            OptionError: It is shorter.
        """
        if self.patience is not None and self.schedule == "sgdr" and self.patience <= self.cycle * self.evaluations:
            raise OptionError(
                f"-o patience={self.patience}: expected more than the {self.cycle * self.evaluations:g} evaluations of "
                "one cycle of sgdr, whose waves it must outlast"
            )

    @property
    def memory_setup(self) -> dict[str, Any]:
        """Fields of `Setup` that determine memory, apart from model, batch, device and recomputation."""
        return {
            "precision": "fp32" if self.precision == "tf32" else self.precision,  # of stored weights
            "optimizer": self.optimizer_name,
            "ema": self.ema is not None,
            "ranks": self.ranks,
        }

    @property
    def gpu_setup(self) -> dict[str, Any]:
        """Fields of `Setup` that determine GPU memory, apart from model and batch."""
        setup = self.memory_setup
        precision = "fp32" if setup["precision"] == "fp32" else "bf16"
        return {**setup, "precision": precision, "recompute": self.recompute, "device": "cuda"}

    def pass_size(self, samples: int, tokens: int = 1) -> int:
        """Return the samples in the largest pass of a rank, as far as the options determine it.

        Args:
            samples: Samples or windows per step.
            tokens: Size of one in the unit of micro_batch.
        """
        size = -(-samples // self.ranks)
        return min(size, max(1, self.micro_batch // tokens)) if isinstance(self.micro_batch, int) else size

    def check_genes(self, *, lr: float, weight_decay: float, warmup: float) -> None:
        """Check the gene values before anything is built.

        Raises:
            RecipeError: A value is out of its range.
        """
        check_number("lr", lr, "(0, 10]" if self.optimizer == "sgd" else "(0, 1]")
        self.rates(steps=10, warmup=warmup)
        self.decay(weight_decay)


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """An evaluator's description of a training: options, numbers and the identity of its checkpoints.

    Args:
        options: Training options.
        genome: Gene values, plain data: lr and batch; optionally weight_decay and warmup. A checkpoint belongs to one
            genome.
        reference: Batch for which learning rates are meant (see `scale_lr`).
    """

    options: Any
    genome: Mapping[str, Any]
    reference: int

    @property
    def identity(self) -> dict[str, Any]:
        """Identity of the training, as plain data with a hash of the data; a checkpoint must match it."""
        raise NotImplementedError

    @property
    def narrow(self) -> bool:
        """Whether the matrix products are too small for a CPU to gain from bfloat16."""
        return False

    @property
    def save(self) -> bool:
        """Whether a full training keeps a checkpoint too."""
        return bool(getattr(self.options, "save", False))

    @property
    def lr(self) -> float:
        """Peak learning rate, at the reference batch."""
        return float(self.genome["lr"])

    @property
    def batch(self) -> int:
        """Samples, windows or tokens per step."""
        return int(self.genome["batch"])

    @property
    def weight_decay(self) -> float:
        """λ of the weight decay at the first step."""
        return float(self.genome.get("weight_decay", 0.0))

    @property
    def warmup(self) -> float:
        """Share of the steps that warm up."""
        return float(self.genome.get("warmup", 0.0))


@dataclass(frozen=True, kw_only=True)
class SampleOptions(TrainingBudget, TrainingOptions):
    """Training options of models on samples."""

    epochs: float | None = fixed_option(None, bounds="(0, inf)", help="Budget in passes over the training samples")
    beta2: float = redeclare(
        optimisation.OptimizerOptions, "beta2", 0.999, reason="Adam's own default, which suits classifiers"
    )
    micro_batch: int | Literal["auto"] | None = fixed_option(
        "auto", bounds="[1, inf)", unit="samples", help="Maximum samples per pass; auto: as many as fit"
    )

    @property
    def default_flops(self) -> float:
        """Budget in FLOPs if none is given."""
        return 2e10

    def samples(self, rows: int, flops_per_sample: float, batch: int = 1, work: Work | None = None) -> int:
        """Return the samples that the full training visits, counting repetitions (int ≥ 1).

        Args:
            rows: Number of training samples.
            flops_per_sample: Training FLOPs per sample.
            batch: Samples per step.
            work: Work of a step, for a budget in time.

        Raises:
            OptionError: The budget is in time, and the cost of a step was not measured.
        """
        if self.seconds is not None:
            return max(1, round(self.steps_in_time(work or {}))) * batch
        flops = self.default_flops if self.flops is None else self.flops
        samples = self.epochs * rows if self.epochs is not None else flops / flops_per_sample
        return max(1, round(samples))
