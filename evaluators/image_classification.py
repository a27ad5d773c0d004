"""A Vision Transformer on images: a folder, an .npz, or scikit-learn's digits; minimises val_loss (nats).

Data is a folder with one subfolder a class (`-o data=photos`; Pillow reads it), an .npz file with the arrays
`images`, (n, height, width) or (n, height, width, channels), and `labels`, (n,), or by default the 1797 digits of
8 × 8 pixels that come with scikit-learn. A quarter of each class is held out, the same images for every genome
and seed. What is held equal between genomes is arithmetic (`-o flops=2e10`, the default: a larger model sees
fewer images) or passes over the images (`-o epochs=20`).

The objective is the loss on the held-out images and not their accuracy: of 450 digits some 435 are classified
rightly, so that accuracy has few distinct values and many ties. `--objective accuracy:max` takes it all the same.

The default genome is the plain ViT of Beyer et al. (arXiv:2205.01580: mean pooling, mixup 0.2, neither dropout nor
drop-path nor label smoothing) with DeiT's weight decay of 0.05 (arXiv:2012.12877), in a size that fits the data.
How to train is `evo_tune.training`'s. The parent process imports this file too, so torch is imported inside
functions only.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from zipfile import BadZipFile

import numpy as np

from evo_tune import Choice, Float, Int, Minimize, SearchSpace
from evo_tune.errors import OptionError
from evo_tune.training import CLASSIFIER_METRICS, Plan, ViTConfig, nearest_divisor, stratified

if TYPE_CHECKING:
    from evo_tune import Context
    from evo_tune.training import ViT

OBJECTIVES = [Minimize("val_loss")]

METRICS = CLASSIFIER_METRICS

TOKENS = (4, 256)
"""Fewest and most patches that an image may be cut into."""

SIZES: dict[str, dict[str, Any]] = {
    "small": {
        "flops": 2e10,
        "lr": (3e-4, 3e-2, 3e-3),
        "batch": (32, 64, 128, 256),
        "depth": (1, 6, 2),
        "width": (32, 128, 16, 48),
        "heads": (1, 8, 4),
        "tokens": 4,
    },
    "large": {
        "flops": 1e15,
        "lr": (1e-4, 3e-3, 1e-3),
        "batch": (64, 128, 256, 512, 1024),
        "depth": (4, 12, 7),
        "width": (128, 384, 64, 384),
        "heads": (2, 12, 12),
        "tokens": 64,
    },
}
"""Default budget, and bounds and default of each gene: lr, depth and heads (low, high, default), width (low,
high, step, default), batch (its first value is the default); by default images are cut into about so many tokens."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `evaluate`, checked; their defaults stand in its signature."""

    data: str
    image_size: int
    held_out: float
    size: str
    flops: float | None
    epochs: float | None
    pooling: str
    stem: str
    schedule: str
    min_lr_ratio: float
    decay_fraction: float
    clip: float
    save: bool

    def __post_init__(self) -> None:
        if not 2 <= self.image_size <= 1024:
            raise OptionError(f"-o image_size={self.image_size}: expected 2 to 1024 pixels")
        _ = self.plan  # checks the rest

    @property
    def plan(self) -> Plan:
        """Budget and schedule."""
        names = ("flops", "epochs", "schedule", "min_lr_ratio", "decay_fraction", "clip")
        return Plan.of(SIZES[self.size]["flops"], **{name: getattr(self, name) for name in names})


def options_from(given: Mapping[str, Any]) -> Options:
    """Return options, those not given at their defaults."""
    return Options(**{**(evaluate.__kwdefaults__ or {}), **given})


# ---------------------------------------------------------------- the images


@dataclass(frozen=True)
class Images:
    """Images (n, channels, height, width) in pixel values, their class numbers (n,), and the classes' names."""

    pixels: np.ndarray
    classes: np.ndarray
    labels: tuple[str, ...]


def _images(options: Options) -> Images:
    images = _read(options.data, options.image_size)
    if len(images.labels) < 2:
        raise OptionError(f"-o data={options.data} has only the class {images.labels[0]!r}: expected two or more")
    rarest = int(np.bincount(images.classes).argmin())
    if np.bincount(images.classes)[rarest] < 2:
        raise OptionError(
            f"-o data={options.data}: one image only of class {images.labels[rarest]!r}: expected at least 2, one of "
            "which is held out"
        )
    return images


@lru_cache(maxsize=1)  # a worker trains on the same images again and again
def _read(data: str, image_size: int) -> Images:
    """Return the images of a folder or of an .npz file; the digits if there is no path."""
    if not data:
        return _digits()
    path = Path(data).expanduser()
    if path.is_dir():
        return _folder(path, data, image_size)
    if path.is_file() and path.suffix == ".npz":
        return _npz(path, data)
    raise OptionError(
        f"-o data={data} is no folder and no .npz file (from {Path.cwd()}): give a folder with one subfolder a class, "
        "an .npz with images and labels, or leave it out for the digits"
    )


def _digits() -> Images:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise OptionError(
            "the default data comes with scikit-learn, which is not installed: pip install 'evo-tune[sklearn]', or "
            "give your own with -o data=FOLDER"
        ) from None
    digits = load_digits()
    return Images(digits.images[:, None].astype(np.uint8), digits.target, tuple(map(str, digits.target_names)))


def _folder(path: Path, data: str, image_size: int) -> Images:
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise OptionError(
            f"-o data={data}: a folder of images is read by Pillow, which is not installed: "
            "pip install 'evo-tune[images]', or give an .npz"
        ) from None
    folders = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    files = {
        folder.name: sorted(f for f in folder.rglob("*") if f.is_file() and f.name[0] != ".") for folder in folders
    }
    files = {name: found for name, found in files.items() if found}
    if not files:
        raise OptionError(f"-o data={data} holds no images: expected one subfolder a class, with its images inside")
    pixels = []
    for file in (file for found in files.values() for file in found):
        try:
            with Image.open(file) as image:
                small = image.convert("RGB").resize((image_size, image_size), Image.Resampling.BILINEAR)
        except (UnidentifiedImageError, OSError) as error:
            raise OptionError(f"-o data={data}: cannot read {file} as an image ({error}): remove it") from None
        pixels.append(np.asarray(small).transpose(2, 0, 1))
    classes = np.repeat(np.arange(len(files)), [len(found) for found in files.values()])
    return Images(np.stack(pixels), classes, tuple(files))


def _npz(path: Path, data: str) -> Images:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in ("images", "labels") if name in arrays}
            names = ", ".join(arrays) or "none"
    except (OSError, ValueError, BadZipFile) as error:
        raise OptionError(f"-o data={data}: cannot read it ({error}); expected what numpy.savez writes") from None
    if len(found) < 2:
        raise OptionError(f"-o data={data} has the arrays {names}: expected images and labels")
    pixels, labels = found["images"], found["labels"]
    if pixels.ndim not in (3, 4) or pixels.dtype.kind not in "uif" or not np.isfinite(pixels).all():
        raise OptionError(
            f"-o data={data}: images are {pixels.dtype} of shape {pixels.shape}: expected finite numbers, (n, height, "
            "width) or (n, height, width, channels)"
        )
    if labels.shape != (len(pixels),) or not len(labels):
        raise OptionError(
            f"-o data={data}: labels have the shape {labels.shape}: expected one for each of {len(pixels)} images"
        )
    pixels = pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2)
    values, classes = np.unique(labels, return_inverse=True)
    kept = pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32)
    return Images(np.ascontiguousarray(kept), classes, tuple(map(str, values)))


def fingerprint(**given: Any) -> str:
    """Return the SHA-256 of the images, their labels and of how they are split."""
    options = options_from(given)
    images = _images(options)
    _, held_out = stratified(images.classes, options.held_out)
    digest = hashlib.sha256(f"{images.pixels.shape}{images.pixels.dtype}{images.labels}".encode())
    for array in (images.pixels, images.classes.astype(np.int64), held_out):
        digest.update(array.tobytes())
    return digest.hexdigest()


# ---------------------------------------------------------------- the space


def search_space(**given: Any) -> SearchSpace:
    """Return the genes for these options of `evaluate` and for images of this shape.

    Raises:
        OptionError: An option is out of its range, or the images cannot be used.
    """
    options = options_from(given)
    size = SIZES[options.size]
    height, width = _images(options).pixels.shape[2:]
    patches = [p for p in range(1, math.gcd(height, width) + 1) if math.gcd(height, width) % p == 0]
    patches = [p for p in patches if TOKENS[0] <= height * width // p**2 <= TOKENS[1]]
    if not patches:
        raise OptionError(
            f"images of {height} by {width} pixels cannot be cut into {TOKENS[0]} to {TOKENS[1]} square "
            "patches: pad or resize them, to 32 by 32 for one"
        )
    lr, depth, widths, heads = size["lr"], size["depth"], size["width"], size["heads"]

    def repair(genome: dict[str, Any]) -> dict[str, Any]:
        """Move heads to the nearest divisor of width."""
        return {**genome, "heads": nearest_divisor(genome["width"], genome["heads"], heads[1])}

    return SearchSpace(
        repair,
        lr=Float(lr[0], lr[1], log=True, default=lr[2]),
        batch=Choice(size["batch"], ordered=True, default=size["batch"][0]),
        patch=Choice(
            patches, ordered=True, default=min(patches, key=lambda p: abs(height * width // p**2 - size["tokens"]))
        ),
        depth=Int(depth[0], depth[1], default=depth[2]),
        width=Int(widths[0], widths[1], step=widths[2], default=widths[3]),
        heads=Int(heads[0], heads[1], default=heads[2]),
        ffn_mult=Choice((1, 2, 4), ordered=True, default=2 if options.size == "small" else 4),
        weight_decay=Float(1e-5, 0.3, log=True, default=0.05),
        label_smoothing=Float(0.0, 0.2, default=0.0),
        mixup=Float(0.0, 0.8, default=0.2),
        drop_path=Float(0.0, 0.2, default=0.0),
        warmup=Float(0.0, 0.1, default=0.05),
    )


SPACE = search_space


def _config(genome: Mapping[str, Any], options: Options) -> ViTConfig:
    images = _images(options)
    _, channels, height, width = images.pixels.shape
    return ViTConfig(
        classes=len(images.labels),
        channels=channels,
        image_height=height,
        image_width=width,
        pooling=options.pooling,
        stem=options.stem,
        **{name: genome[name] for name in ("patch", "depth", "width", "heads", "ffn_mult", "drop_path")},
    )


def estimate(genome: Mapping[str, Any], **given: Any) -> dict[str, float]:
    """Return what is known before training: params, and flops and samples of the full training."""
    options = options_from(given)
    config = _config(genome, options)
    training, _ = stratified(_images(options).classes, options.held_out)
    samples = options.plan.samples(len(training), config.flops_per_sample)
    return {"params": config.parameters, "samples": samples, "flops": samples * config.flops_per_sample}


# ---------------------------------------------------------------- the training


def evaluate(
    genome: Mapping[str, Any],
    run: Context,
    *,
    data: str = "",
    image_size: int = 32,
    held_out: float = 0.25,
    size: Literal["small", "large"] = "small",
    flops: float | None = None,
    epochs: float | None = None,
    pooling: Literal["mean", "cls"] = "mean",
    stem: Literal["none", "conv"] = "none",
    schedule: Literal["cosine", "linear", "constant", "wsd", "multi_step", "sgdr", "cosine_step"] = "cosine",
    min_lr_ratio: float = 0.0,
    decay_fraction: float = 0.2,
    clip: float = 1.0,
    save: bool = False,
) -> dict[str, float]:
    """Train one genome and judge it on the held-out images.

    Args:
        genome: Values of the genes.
        run: Device, seed, budget and folders.
        data: Folder with one subfolder a class, or an .npz; empty: scikit-learn's digits.
        image_size: Pixels along the sides to which the images of a folder are resized.
        held_out: Share of each class that is held out.
        size: Which space to search: small for a CPU, large for a GPU and tens of thousands of images.
        flops: Budget in FLOPs (the default, as in SIZES).
        epochs: Budget in passes over the training images.
        pooling: What the head reads: the mean of the tokens, or a token of its own.
        stem: 'conv' puts two convolutions with BatchNorm before the patches.
        schedule: Shape of the learning rate after warm-up.
        min_lr_ratio: Its end, as a share of its peak.
        decay_fraction: Share of the steps in which the schedule wsd decays.
        clip: Largest norm of the gradient.
        save: Keep a checkpoint of a full training too.

    Returns:
        The metrics in METRICS; resumed_step if it was to go on from a checkpoint.

    Raises:
        Diverged: The training was lost.
    """
    given = {**locals()}
    del given["genome"], given["run"]
    return _train(genome, run, Options(**given))[1]


def _train(genome: Mapping[str, Any], run: Context, options: Options) -> tuple[ViT, dict[str, float]]:
    import torch

    from evo_tune.training import Examples, ViT, fit, reproducible, seed_for

    images, config = _images(options), _config(genome, options)
    pixels, classes = torch.from_numpy(images.pixels), torch.from_numpy(images.classes).long()
    training, held = (torch.from_numpy(rows) for rows in stratified(images.classes, options.held_out))
    examples = Examples(pixels[training], classes[training], pixels[held], classes[held])
    with reproducible(run.threads, run.device):
        model = ViT(config, seed=seed_for(run.seed, "weights"), labels=images.labels)
        model.standardise(examples.inputs)
        genes = ("lr", "batch", "weight_decay", "warmup", "label_smoothing", "mixup")
        metrics = fit(
            model.to(run.device),
            examples,
            run,
            options.plan,
            **{name: genome[name] for name in genes},
            flops_per_sample=config.flops_per_sample,
            task={"genome": dict(genome), "data": options.data, "images": len(pixels)},
            keep=options.save,
        )
    return model, metrics


# ---------------------------------------------------------------- the model, to keep

USAGE = """# A Vision Transformer, found by evo-tune

    import torch
    from evo_tune.training import ViT
    model = ViT.load({folder!r})
    images = torch.zeros(1, {channels}, {height}, {width})
    print(model.classify(images))

Put your images in place of the zeros: (n, {channels}, {height}, {width}), in the pixel values of the training data.
`probabilities` gives the probability of each class. model.safetensors holds the weights, config.json the shape, the
classes, the genome, the options and the metrics: {accuracy:.1%} of the held-out images classified rightly.
"""


def export(genome: Mapping[str, Any], run: Context, folder: Path | str, **given: Any) -> dict[str, float]:
    """Train a genome once more and write it as something to use: weights, config.json and README.md.

    Args:
        genome: Values of the genes.
        run: Device, seed and threads.
        folder: Where; made if it is not there.
        given: The options of `evaluate`.

    Returns:
        What `evaluate` returns.
    """
    options = options_from(given)
    model, metrics = _train(genome, run, options)
    model.save(folder, genome=dict(genome), options=asdict(options), seed=run.seed, metrics=metrics)
    shape = {"channels": model.config.channels, "height": model.config.image_height, "width": model.config.image_width}
    text = USAGE.format(folder=str(folder), accuracy=metrics["accuracy"], **shape)
    (Path(folder) / "README.md").write_text(text, encoding="utf-8")
    return metrics


def load(folder: Path | str) -> ViT:
    """Return a model that `export` wrote."""
    from evo_tune.training import ViT

    return ViT.load(folder)
