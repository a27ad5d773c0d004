"""Trainings on samples: classification and regression, with shared options and estimates.

This module knows neither genomes nor search spaces: gene values are passed as a mapping.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from evo_tune.errors import OptionError
from evo_tune.options.declare import Options, fixed_option, option
from evo_tune.training.recipe.data.images import Augmentation
from evo_tune.training.recipe.data.splitting import Division
from evo_tune.training.recipe.hardware.computing import encoder_work
from evo_tune.training.recipe.hardware.memory import encoder_memory
from evo_tune.training.recipe.models.encoder_config import EncoderConfig, nearest_divisor
from evo_tune.training.recipe.models.rules import ParametrisationOptions
from evo_tune.training.recipe.plan import SampleOptions, SaveOptions, TrainingPlan


@dataclass(frozen=True, kw_only=True)
class TableOptions(Options):
    """Columns of a table."""

    ignore: str = fixed_option("", help="Columns to leave out, with commas between them")


@dataclass(frozen=True, kw_only=True)
class SplitOptions(Options):
    """Split of rows."""

    split_by: str = option(
        "", gene=None, help="Column to split rows by: at two times if it has dates, else each value is in one part"
    )


@dataclass(frozen=True, kw_only=True)
class EncoderOptions(SaveOptions, ParametrisationOptions, SampleOptions):
    """Held-out data, search space and checkpoints."""

    validation: float = fixed_option(
        0.2, bounds="(0, 1)", help="Validation share of each class or series, which ranks trials"
    )
    test: float = fixed_option(0.2, bounds="(0, 1)", help="Test share of each class or series, which no search sees")
    size: Literal["small", "large"] = fixed_option(
        "small", help="Search space: small for a CPU; large for a GPU and tens of thousands of samples"
    )
    # Size to search space.
    sizes: ClassVar[Mapping[str, EncoderSize]] = {}

    @property
    def default_training(self) -> dict[str, int]:
        """Width, depth and heads of the default genome."""
        return {name: getattr(self.sizes[self.size], name).default for name in ("width", "depth", "heads")}

    @property
    def default_flops(self) -> float:
        """Default budget of the size, in FLOPs."""
        return self.sizes[self.size].flops if self.sizes else super().default_flops


@dataclass(frozen=True, kw_only=True)
class ClassifierOptions(EncoderOptions):
    """Weights of classes."""

    class_weights: Literal["none", "balanced"] = option(
        "none", help="Weights of classes in the training loss; balanced: the same total weight for every class"
    )


@dataclass(frozen=True, kw_only=True)
class EncoderSize:
    """A search space of an encoder: its default budget, and the genes that differ between sizes.

    Args:
        flops: Default budget of a training. Unit: FLOPs.
        lr: Gene of the learning rate.
        batch: Gene of the samples per step; its first value is the one at which the learning rate was found.
        depth: Gene of the number of blocks.
        width: Gene of the channels.
        heads: Gene of the attention heads.
    """

    flops: float
    lr: Any
    batch: Any
    depth: Any
    width: Any
    heads: Any

    def steps(self, lr_factor: float) -> dict[str, Any]:
        """Return the genes of a step, with the learning rate times a factor."""
        return {"lr": self.lr.times(lr_factor), "batch": self.batch}

    @property
    def shape(self) -> dict[str, Any]:
        """Genes of the model's shape."""
        return {"depth": self.depth, "width": self.width, "heads": self.heads}


def repair_heads(genome: Mapping[str, Any], most: int) -> dict[str, Any]:
    """Return the genome with heads set to the nearest divisor of its width, at most `most`."""
    return {**genome, "heads": nearest_divisor(genome["width"], genome["heads"], most)}


# Width below which bfloat16 does not pay on a CPU: the casts make an encoder up to three times slower.
NARROW_WIDTH = 256


def check_single_pass(options: EncoderOptions, batch: int, ranks_on_cpu: bool = False) -> None:
    """Require that one pass covers a whole step, as batch norm needs.

    Args:
        options: Options with micro_batch and ranks.
        batch: Samples per step.
        ranks_on_cpu: Whether ranks are known to be CPU processes.

    Raises:
        OptionError: A step is divided between passes or ranks.
    """
    if isinstance(options.micro_batch, int) and options.micro_batch < batch:
        raise OptionError(
            f"-o micro_batch={options.micro_batch}: a batch norm (stem=conv, or the family convolution) sees one pass, "
            f"the whole batch of {batch}: leave micro_batch out, or the stem or the family"
        )
    if ranks_on_cpu and options.ranks > 1:
        raise OptionError(
            f"-o ranks={options.ranks}: torch has no batch norm (stem=conv, or the family convolution) over several "
            "processes on a CPU: give ranks=1, or leave the stem or the family out"
        )


# Most samples of the validation part, and of the training part, whose losses are followed during a training: where
# there are many, judging all of them would take more time than the steps.
MOST_FOLLOWED = 1000


def encoder_estimate(
    genome: Mapping[str, Any],
    options: EncoderOptions,
    *,
    config: EncoderConfig,
    rows: int,
    flops_per_sample: float,
    whole: bool = False,
    held_out: int | None = None,
) -> dict[str, float]:
    """Return the figures known before training: params, gpu_memory, and steps, samples and flops of the full one.

    If the cost of a step was measured, seconds is the duration of the full training. gpu_memory is in bytes: the GPU
    memory per rank of a step in one pass, or in passes of micro_batch, without CUDA's own libraries. It assumes bf16
    unless precision is given.

    Args:
        genome: Gene values; the rates are checked.
        options: Budget, precision, passes and ranks.
        config: Shape of the model.
        rows: Number of training samples.
        flops_per_sample: Training FLOPs per sample.
        whole: Whether a step must be one pass, as batch norm needs.
        held_out: Number of validation samples; None: by the option validation.

    Raises:
        OptionError: A step must be one pass, and is not.
        RecipeError: A number is out of its range.
    """
    if whole:
        check_single_pass(options, genome["batch"])
    options.check_genes(lr=genome["lr"], weight_decay=genome["weight_decay"], warmup=genome["warmup"])
    memory = encoder_memory(config, options.pass_size(genome["batch"]), **options.gpu_setup)
    work = encoder_step_work(genome, options, config, flops_per_sample, rows, held_out)
    samples = options.samples(rows, flops_per_sample, genome["batch"], work)
    steps = samples / genome["batch"]
    return {
        "params": float(config.parameters),
        "gpu_memory": memory.peak - memory.context,
        **options.seconds_estimate(work, steps),
        "steps": float(math.ceil(steps)),
        "samples": float(samples),
        "flops": samples * flops_per_sample,
    }


def encoder_step_work(
    genome: Mapping[str, Any],
    options: EncoderOptions,
    config: EncoderConfig,
    flops_per_sample: float,
    rows: int,
    held_out: int | None = None,
) -> dict[str, float]:
    """Return the work of a step of an encoder (see `encoder_work`).

    Args:
        genome: Gene values.
        options: Optimizer, evaluations and shares of held-out samples.
        config: Shape of the model.
        flops_per_sample: Training FLOPs per sample.
        rows: Number of training samples.
        held_out: Number of validation samples; None: by the option validation.
    """
    held_out_share = options.validation / (1.0 - options.validation - options.test)
    samples = rows * held_out_share if held_out is None else held_out
    judged = samples + min(samples, MOST_FOLLOWED) * options.evaluations
    return encoder_work(config, flops_per_sample, genome["batch"], options.optimizer_name, judged)


@dataclass(frozen=True, kw_only=True)
class SampleTask(TrainingPlan):
    """A training on samples: data, model, options and budget.

    Args:
        options: See `TrainingPlan`.
        genome: See `TrainingPlan`; optionally also label_smoothing and mixup.
        build: Function that takes a seed and returns the model.
        inputs: All samples, (n, …).
        flops_per_sample: Training FLOPs per sample.
        data: Hash of the samples and of their split.
        whole: Whether a step must be one pass, as batch norm needs.
        augment: Augmentation of a step's inputs; None: none.
        work: Work of a step, for a budget in time (see `encoder_work`); None: no such budget.
        fit_steps: Steps of a full training of a model that is fitted (see `training.fitting`); None: it is trained by
            gradient steps.
        folds: Pairs of rows to fit to and rows to judge by, the parts for training and validation first (see
            `cross_validation`); empty: only these.
    """

    options: SampleOptions
    build: Callable[[int], Any]
    inputs: NDArray[Any]
    flops_per_sample: float
    data: str
    whole: bool = False
    augment: Augmentation | None = None
    work: Mapping[str, float] | None = None
    fit_steps: int | None = None
    folds: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]] = ()

    @property
    def targets(self) -> NDArray[Any]:
        """Targets of all samples, (n, …)."""
        raise NotImplementedError

    @property
    def parts(self) -> tuple[NDArray[np.int64], ...]:
        """Rows to train on, rows held out for validation, and rows to test with."""
        raise NotImplementedError

    @property
    def identity(self) -> dict[str, Any]:
        return {"genome": dict(self.genome), "data": self.data}

    @property
    def narrow(self) -> bool:
        return bool(self.genome.get("width", 0) < NARROW_WIDTH)


@dataclass(frozen=True, kw_only=True)
class ClassifierTask(SampleTask):
    """A training of a classifier.

    Args:
        classes: (n,), class number of each sample.
        division: How the samples are divided into parts; by default they are drawn.
    """

    options: EncoderOptions  # ClassifierOptions, or those of an evaluator without class weights
    classes: NDArray[np.int64]
    division: Division = field(default_factory=Division)

    @property
    def balanced(self) -> bool:
        """Whether every class has the same total weight in training."""
        return getattr(self.options, "class_weights", "none") == "balanced"

    @property
    def identity(self) -> dict[str, Any]:
        return {**super().identity, **({"class_weights": "balanced"} if self.balanced else {})}

    def class_weights(self, outputs: int) -> tuple[float, ...]:
        """Return the weight of each of the model's classes in training; empty: no weights.

        Args:
            outputs: Number of the model's classes.
        """
        return tuple(balanced_weights(self.classes[self.parts[0]], outputs).tolist()) if self.balanced else ()

    @property
    def targets(self) -> NDArray[np.int64]:
        return self.classes

    @property
    def parts(self) -> tuple[NDArray[np.int64], ...]:
        return self.division.parts(self.classes, len(self.classes), self.options.validation, self.options.test)


def balanced_weights(classes: NDArray[np.int64], outputs: int) -> NDArray[np.float64]:
    """Return n / (k n_c) for each class c: its n_c of n samples, of k classes with samples; 0 for the other classes.

    The weights of the samples have a mean of 1. They are those of scikit-learn's `class_weight="balanced"` (King & Zeng
    2001).

    Args:
        classes: (n,), class number of each training sample.
        outputs: Number of classes.
    """
    counts = np.bincount(classes, minlength=outputs)
    share = len(classes) / np.count_nonzero(counts)
    return np.divide(share, counts, out=np.zeros(len(counts)), where=counts > 0)


@dataclass(frozen=True, kw_only=True)
class NumbersTask(SampleTask):
    """A training whose targets are real numbers.

    Args:
        numbers: (n, k), the targets of each sample.
        split: Rows to train on, rows held out for validation, and rows to test with.
    """

    numbers: NDArray[Any]
    split: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]

    @property
    def targets(self) -> NDArray[Any]:
        return self.numbers

    @property
    def parts(self) -> tuple[NDArray[np.int64], ...]:
        return self.split


@dataclass(frozen=True, kw_only=True)
class RegressionTask(NumbersTask):
    """A training that predicts one real number per sample.

    Args:
        numbers: (n, 1), the targets in their own unit, float64. The model is trained on standardised ones.
        scale: Mean and standard deviation of the training samples' targets.
    """

    options: EncoderOptions
    scale: tuple[float, float]
