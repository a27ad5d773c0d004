"""A Vision Transformer or a convolutional network on images: a folder, an .npz, or digits; minimises val_loss (nats).

Data is a folder with one subfolder a class (`-o data=photos`; Pillow reads it), an .npz file with the arrays
`images`, (n, height, width) or (n, height, width, channels), and `labels`, (n,), or by default the 1797 digits of 8 ×
8 pixels that come with scikit-learn. A fifth of each class judges trials and a fifth is the test set, the same images
for every genome and seed. All genomes have the same budget: time (by default that of the default genome with
`-o flops=2e10`), arithmetic (`-o flops=`) or passes over the images (`-o epochs=20`). Images in colour
are moved a little and mirrored in training (`-o crop=0 -o flip=no` does without); others are not unless `-o crop=0.125`
or `-o flip=yes` says so, for the digits become harder by it. `-o randaugment=9` changes images by RandAugment.

The objective is the loss on the held-out images and not their accuracy: of 360 digits some 350 are classified
rightly, so that accuracy has few distinct values and many ties. `--objective accuracy:max` takes it all the same.

`-o families=auto` searches over a small convolutional network as well; `family` is then a gene (see
`evo_tune.training.recipe.families`).

The default genome is the plain ViT of Beyer et al. (arXiv:2205.01580: mean pooling, mixup 0.2, neither dropout nor
drop-path nor label smoothing) with DeiT's weight decay of 0.05 (arXiv:2012.12877), in a size that fits the data.
How to train is `evo_tune.training`'s. The parent process imports this file too, so torch is imported inside
functions only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from evo_tune import Choice, Float, Int, Minimize, SearchSpace, option
from evo_tune.errors import OptionError
from evo_tune.training.recipe import (
    CONVOLUTION,
    IMAGE_RIVALS,
    TRANSFORMER,
    UNIT_COSTS,
    AugmentationOptions,
    ClassifierOptions,
    ClassifierTask,
    ConvConfig,
    EncoderSize,
    FamilyOptions,
    ViTConfig,
    encoder_estimate,
    encoder_step_work,
    metric_units,
    most_blocks,
    names_on_test_set,
    read_images,
    repair_heads,
)

if TYPE_CHECKING:
    from torch import Tensor

    from evo_tune import Context
    from evo_tune.training import ConvNet, Ranks, ViT
    from evo_tune.training.recipe import Images

OBJECTIVES = [Minimize("val_loss")]

METRICS = metric_units("classes")
TEST = names_on_test_set("classes")
SUPPORTS = ["budget", "curve", "timing", "ensemble"]
# A FLOP of a convolution takes twice the time of one of a matrix product.
CPU_COSTS = UNIT_COSTS | {"convolutions": 1.2e-11}
BASELINE = "a linear model on pixels"

# Genes of a training of any family.
SHARED = ("lr", "batch", "weight_decay", "label_smoothing", "mixup", "warmup")

TOKENS = (4, 256)
"""Fewest and most patches that an image may be cut into."""


@dataclass(frozen=True, kw_only=True)
class Size(EncoderSize):
    """A search space of images."""

    tokens: int
    """About how many patches an image is cut into by default."""


SIZES = {
    "small": Size(
        flops=2e10,
        lr=Float(3e-4, 3e-2, log=True, default=3e-3),
        batch=Choice((32, 64, 128, 256), ordered=True, default=32),
        depth=Int(1, 6, default=2),
        width=Int(32, 128, step=16, default=48),
        heads=Int(1, 8, default=4),
        tokens=4,
    ),
    "large": Size(
        flops=1e15,
        lr=Float(1e-4, 3e-3, log=True, default=1e-3),
        batch=Choice((64, 128, 256, 512, 1024), ordered=True, default=64),
        depth=Int(4, 12, default=7),
        width=Int(128, 384, step=64, default=384),
        heads=Int(2, 12, default=12),
        tokens=64,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Options(FamilyOptions, ClassifierOptions, AugmentationOptions):
    """The images."""

    sizes = SIZES
    rivals = IMAGE_RIVALS

    dropped: ClassVar[dict[str, object]] = {"pooling": "mean"}  # options of earlier versions

    data: str = option(
        "", gene=None, help="Folder with one subfolder a class, or an .npz; empty: scikit-learn's digits"
    )
    image_size: int = option(
        32, bounds="[2, 1024]", unit="pixels", gene=None, help="Sides to which the images of a folder are resized"
    )
    stem: Literal["none", "conv"] = option("none", help="conv: two convolutions with BatchNorm before the patches")

    @property
    def images(self) -> Images:
        """What there is to learn from."""
        return read_images(self.data, self.image_size)

    @property
    def augmented(self) -> Callable[[Tensor, int], Tensor] | None:
        """Augmentation of the training images, given a seed; None: nothing."""
        pixels = self.images.pixels
        return self.augment(*pixels.shape[1:], whole=pixels.dtype == np.uint8)


# ---------------------------------------------------------------- the images


def fingerprint(options: Options) -> str:
    """Return the SHA-256 of the images, their labels and of how they are split."""
    return options.images.fingerprint(options.validation, options.test)


def describe(options: Options) -> list[str]:
    """Return what was read: images, their size, and the classes."""
    return options.images.lines()


def baseline(options: Options) -> dict[str, float]:
    """Return the metrics of a logistic regression on pixels, on the same images.

    Raises:
        OptionError: scikit-learn is not installed.
    """
    from evo_tune.training import image_baseline

    images = options.images
    return image_baseline(images.pixels, images.classes, images.parts(options.validation, options.test))


# ---------------------------------------------------------------- the space


def search_space(options: Options) -> SearchSpace:
    """Return the genes under these options and for images of this shape.

    Raises:
        OptionError: An option is out of its range, or the images cannot be used.
    """
    _ = options.augmented  # it can be done to them
    size = SIZES[options.size]
    height, width = options.images.pixels.shape[2:]
    patches = [p for p in range(1, math.gcd(height, width) + 1) if math.gcd(height, width) % p == 0]
    patches = [p for p in patches if TOKENS[0] <= height * width // p**2 <= TOKENS[1]]
    if not patches and TRANSFORMER in options.family_names:
        raise OptionError(
            f"images of {height} by {width} pixels cannot be cut into {TOKENS[0]} to {TOKENS[1]} square "
            f"patches: pad or resize them, to 32 by 32 for one, or give -o families={CONVOLUTION}"
        )
    if options.scaling is not None and CONVOLUTION in options.family_names:
        raise OptionError(
            f"-o param={options.param}: a {CONVOLUTION} has the standard parametrisation only: give -o param=standard, "
            f"or -o families={TRANSFORMER}"
        )
    patches = patches or [1]  # of no Transformer
    usual = min(patches, key=lambda patch: abs(height * width // patch**2 - size.tokens))
    transformer = {
        **size.steps(options.lr_factor),
        "patch": Choice(patches, ordered=True, default=usual),
        **size.shape,
        "ffn_mult": Choice((1, 2, 4), ordered=True, default=2 if options.size == "small" else 4),
        "weight_decay": Float(1e-5, 0.3, log=True, default=0.05),
        "label_smoothing": Float(0.0, 0.2, default=0.0),
        "mixup": Float(0.0, 0.8, default=0.2),
        "drop_path": Float(0.0, 0.2, default=0.0),
        "warmup": Float(0.0, 0.1, default=0.05),
    }
    if options.family_names == (TRANSFORMER,):
        genes, shared = transformer, {}
    else:
        shared = {name: transformer[name] for name in SHARED}
        genes = {name: gene for name, gene in transformer.items() if name not in SHARED}

    def repair(genome: dict[str, Any]) -> dict[str, Any]:
        if options.family_of(genome) == TRANSFORMER:
            return repair_heads(genome, size.heads.high)
        return {**genome, "stages": min(genome["stages"], most_blocks(height, width))}

    return SearchSpace(repair, **options.family_genes(genes, shared)).near_default()


SPACE = search_space


def _config(genome: Mapping[str, Any], options: Options) -> ViTConfig | ConvConfig:
    images = options.images
    _, channels, height, width = images.pixels.shape
    shape: dict[str, Any] = {"outputs": len(images.labels), "channels": channels}
    shape |= {"image_height": height, "image_width": width}
    if options.family_of(genome) == CONVOLUTION:
        return ConvConfig(**shape, depth=genome["stages"], width=genome["channels"], heads=1)
    return ViTConfig(
        **shape,
        stem=options.stem,
        scaling=options.scaling,
        **{name: genome[name] for name in ("patch", "depth", "width", "heads", "ffn_mult", "drop_path")},
    )


def _workload(genome: Mapping[str, Any], options: Options) -> dict[str, Any]:
    """Return the model's shape, the number of training samples, and the FLOPs of one."""
    config = _config(genome, options)
    training, *_ = options.images.parts(options.validation, options.test)
    return {"config": config, "rows": len(training), "flops_per_sample": config.flops_per_sample}


def _has_batch_norm(genome: Mapping[str, Any], options: Options) -> bool:
    return options.stem == "conv" or options.family_of(genome) == CONVOLUTION


def estimate(genome: Mapping[str, Any], options: Options) -> dict[str, float]:
    """Return what is known before training: params, gpu_memory, and flops and samples of the full training."""
    return encoder_estimate(genome, options, **_workload(genome, options), whole=_has_batch_norm(genome, options))


def work(genome: Mapping[str, Any], options: Options) -> dict[str, float]:
    """Return the work of a step, whose cost a run measures."""
    return encoder_step_work(genome, options, **_workload(genome, options))


# ---------------------------------------------------------------- the training


def _task(genome: Mapping[str, Any], options: Options) -> ClassifierTask:
    """Return a genome as a training."""

    def build(seed: int) -> ConvNet | ViT:
        from evo_tune.training import ConvNet, ViT

        network = ConvNet if isinstance(config, ConvConfig) else ViT
        return network(config, seed=seed, labels=images.labels)

    images, config = options.images, _config(genome, options)
    return ClassifierTask(
        options=options,
        genome=genome,
        build=build,
        inputs=images.pixels,
        classes=images.classes,
        division=images.division,
        flops_per_sample=config.flops_per_sample,
        reference=SIZES[options.size].batch.values[0],
        data=fingerprint(options),
        work=work(genome, options),
        whole=_has_batch_norm(genome, options),
        augment=options.augmented,
    )


def evaluate(genome: Mapping[str, Any], context: Context, options: Options) -> dict[str, float]:
    """Train one genome and judge it on the held-out images.

    Returns:
        Metrics of METRICS; resumed_step if the training continued from a checkpoint.

    Raises:
        Diverged: The training was lost.
    """
    from evo_tune.training import ClassifierTraining, evaluate_task

    return evaluate_task(_task(genome, options), ClassifierTraining, train_rank, context)


def train_rank(
    ranks: Ranks, tell: Callable[[dict[str, float]], None], *, genome: Any, run: Any, options: Any
) -> dict[str, float]:
    """Be one of the processes that train together."""
    from evo_tune.training import ClassifierTraining, RankRun, train

    return train(_task(genome, Options(**options)), RankRun.of(ranks, tell, run), ClassifierTraining, ranks)[1]


# ---------------------------------------------------------------- the model, to keep


def export(genome: Mapping[str, Any], context: Context, folder: Path | str, options: Options) -> dict[str, float]:
    """Train a genome once more and write it as something to use: weights and config.json.

    One process trains, with any value of ranks. Returns what `evaluate` returns.
    """
    from evo_tune.training import export_encoder

    return export_encoder(_task(genome, options), context, folder)
