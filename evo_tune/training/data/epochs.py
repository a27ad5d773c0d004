"""Batches of a set of samples, epoch by epoch, with augmentation, label smoothing and mixup.

The order is a pure function of (seed, epoch), augmentation and mixup of (seed, step), so there is no position
to save. This module is independent of models.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from evo_tune.errors import RecipeError
from evo_tune.options.bounds import check_integer, check_number
from evo_tune.training.hardware.device import MicroBatch, onto, seed_for
from evo_tune.training.recipe.data.images import Augmentation
from evo_tune.training.recipe.optim.schedule import optimizer_steps


def augment_images(images: Tensor, augment: Augmentation, seed: int) -> Tensor:
    """Return augmented images.

    Args:
        images: (n, channels, height, width), pixel values; 8-bit integers for RandAugment.
        augment: Augmentation to apply.
        seed: Seed of the augmentation.
    """
    rng = np.random.default_rng(seed)
    count = len(images)
    moved = torch.from_numpy(rng.integers(-augment.crop, augment.crop + 1, (2, count)))
    mirrored = torch.from_numpy(rng.random(count) < 0.5)
    seeds = rng.integers(0, 2**31, count)
    if augment.magnitude:
        images = _randomly_changed(images, augment.magnitude, seeds.tolist())
    if augment.crop or augment.flip:
        images = _moved(images, moved, mirrored if augment.flip else torch.zeros_like(mirrored))
    return images


def _moved(images: Tensor, moved: Tensor, mirrored: Tensor) -> Tensor:
    """Move images by (rows, columns), repeat their edges, and mirror some."""
    count, channels, height, width = images.shape
    rows = (torch.arange(height) + moved[0][:, None]).clamp(0, height - 1)
    columns = (torch.arange(width) + moved[1][:, None]).clamp(0, width - 1)
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    rows, columns = onto(rows, images.device), onto(columns, images.device)
    which = torch.arange(count, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[:, None, None]
    return images[which, channel, rows[:, None, :, None], columns[:, None, None, :]]


def _randomly_changed(images: Tensor, magnitude: int, seeds: list[int]) -> Tensor:
    from torchvision.transforms.v2 import RandAugment

    change = RandAugment(num_ops=2, magnitude=magnitude)
    changed = []
    with torch.random.fork_rng(devices=[]):  # RandAugment draws from the global generator, which others may use
        for image, seed in zip(images, seeds, strict=True):
            torch.manual_seed(seed)
            changed.append(change(image))
    return torch.stack(changed)


class Epochs:
    """The batches of a training: each epoch visits every sample once, in a different order.

    The last batch of an epoch takes the remaining samples, and is a step with its own n. No sample is dropped, and no
    batch spans two epochs.

    Args:
        inputs: (n, …), on the CPU.
        targets: (n,), class numbers; or (n, …), real numbers.
        classes: Number of classes; None: targets are real numbers, which have no label smoothing.
        batch: Samples in a step.
        total: Samples in the full training; the last step takes the rest.
        seed: Seed of the order and of mixup.
        label_smoothing: Share of the probability that is spread over all classes, in [0, 1).
        mixup: α of mixup, 0 or more; 0: none. Inputs must then be numbers that can be averaged.
        augment: Augmentation of a step's inputs, before mixup; None: none.
        micro_batch: Samples in a micro-batch; None: the whole step.

    Raises:
        RecipeError: A number is out of its range, or there is no sample.
    """

    def __init__(
        self,
        inputs: Tensor,
        targets: Tensor,
        *,
        classes: int | None,
        batch: int,
        total: int,
        seed: int,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        augment: Augmentation | None = None,
        micro_batch: int | None = None,
    ) -> None:
        for name, number in (("batch", batch), ("total", total)):
            check_integer(name, number, 1)
        if classes is not None:
            check_integer("classes", classes, 2)
        check_number("label_smoothing", label_smoothing, "[0, 1)" if classes is not None else "[0, 0]")
        check_number("mixup", mixup, "[0, 100]")
        if micro_batch is not None:
            check_integer("micro_batch", micro_batch, 1)
        if not len(inputs) == len(targets) > 0:
            raise RecipeError("targets", len(targets), f"as many as inputs ({len(inputs)}), at least 1")
        self.inputs, self.targets = inputs, targets
        self.classes = classes
        self.batch = batch
        self.total = total
        self.seed = seed
        self.label_smoothing = label_smoothing
        self.mixup = mixup
        self.augment = augment
        self.micro_batch = micro_batch or batch
        self.epoch_steps = optimizer_steps(len(inputs), batch)
        self._epoch: tuple[int, Tensor] = (-1, targets)

    @property
    def steps(self) -> int:
        """Number of steps of the full training."""
        return steps_of(self.total, len(self.inputs), self.batch)

    def window(self, step: int) -> list[MicroBatch]:
        """Return the micro-batches of a step (from 0).

        Returns:
            Inputs, and targets unchanged; with smoothing or mixup, classes as probabilities, (samples, classes).

        Raises:
            RecipeError: The step is outside the full training.
        """
        check_integer("step", step, 0, self.steps - 1)
        epoch, place = divmod(step, self.epoch_steps)
        last = min((place + 1) * self.batch, self.total - epoch * len(self.inputs))
        rows = onto(self._order(epoch)[place * self.batch : last], self.inputs.device)
        inputs, targets = self.inputs[rows], self.targets[rows]
        if self.augment is not None:
            inputs = augment_images(inputs, self.augment, seed_for(self.seed, "augmenting", step))
        if self.classes is not None and (self.label_smoothing or self.mixup):
            targets = soft_targets(targets, self.classes, self.label_smoothing)
        if self.mixup:
            inputs, targets = mix(inputs, targets, self.mixup, seed_for(self.seed, "mixing", step))
        return list(zip(*(torch.split(part, self.micro_batch) for part in (inputs, targets)), strict=True))

    def target_count(self, step: int) -> int:
        """Return the number of targets of a step, which all count."""
        per_sample = self.targets[:1].numel()
        epoch, place = divmod(step, self.epoch_steps)
        remaining = min(len(self.inputs), self.total - epoch * len(self.inputs)) - place * self.batch
        return per_sample * min(self.batch, remaining)

    @property
    def nbytes(self) -> int | None:
        """Bytes of the samples; None if their augmentation must run on the CPU."""
        movable = self.augment is None or getattr(self.augment, "runs_on_device", False)
        return self.inputs.nbytes + self.targets.nbytes if movable else None

    def move_to(self, device: torch.device) -> None:
        """Move the samples to a device, where batches are then made."""
        self.inputs, self.targets = self.inputs.to(device), self.targets.to(device)

    def _order(self, epoch: int) -> Tensor:
        if self._epoch[0] != epoch:  # only a cache: drawn again, it would be the same
            rng = np.random.default_rng(seed_for(self.seed, "order", epoch))
            self._epoch = (epoch, torch.from_numpy(rng.permutation(len(self.inputs))))
        return self._epoch[1]


def steps_of(total: int, rows: int, batch: int) -> int:
    """Return the number of steps of a training on `total` samples in epochs of `rows`; no step spans two epochs."""
    epochs, remainder = divmod(total, rows)
    return epochs * optimizer_steps(rows, batch) + optimizer_steps(remainder, batch)


def soft_targets(targets: Tensor, classes: int, smoothing: float = 0.0) -> Tensor:
    """Return class numbers as probabilities: 1 − ε on the class itself and ε spread evenly over all.

    Szegedy et al., arXiv:1512.00567, section 7.

    Args:
        targets: (n,), class numbers.
        classes: Number of classes.
        smoothing: ε, below 1.

    Returns:
        (n, classes), float32.
    """
    # Not F.one_hot, which reads the class numbers first and so waits for the device.
    hot = targets.long()[:, None] == torch.arange(classes, device=targets.device)
    return hot.float() * (1.0 - smoothing) + smoothing / classes


def mix(inputs: Tensor, targets: Tensor, alpha: float, seed: int) -> MicroBatch:
    """Average each sample with another of its batch: λ and 1 − λ, with one λ ~ Beta(α, α) for the batch.

    Mixup (Zhang et al., arXiv:1710.09412).

    Args:
        inputs: (n, …), numbers.
        targets: (n, classes), probabilities.
        alpha: α, above 0.
        seed: Seed of λ and of the pairs.

    Returns:
        Mixed inputs (float32) and targets.
    """
    rng = np.random.default_rng(seed)
    share = float(rng.beta(alpha, alpha))
    partner = onto(torch.from_numpy(rng.permutation(len(inputs))), inputs.device)
    inputs = inputs.float()
    return inputs.lerp(inputs[partner], 1.0 - share), targets.lerp(targets[partner], 1.0 - share)
