"""Images as they might have been: moved a little, mirrored, or changed by RandAugment. On tensors, on the CPU.

What happens to a sample is a pure function of the seed that is given (of a run and a step) and of the sample's place in
its batch: there is nothing to save. Knows nothing of models or files.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from evo_tune.recipe.data.images import Augment
from evo_tune.training.batch import onto

__all__ = ["augmented"]


def augmented(images: Tensor, augment: Augment, seed: int) -> Tensor:
    """Return other images in their place.

    Args:
        images: (n, channels, height, width), pixel values; whole numbers of 8 bits for RandAugment.
        augment: What is done to them.
        seed: Of what happens to them.
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
    """Move images by (rows, columns) and mirror some, their edges repeated."""
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
    with torch.random.fork_rng(devices=[]):  # it draws from the global generator, which others may be using
        for image, seed in zip(images, seeds, strict=True):
            torch.manual_seed(seed)
            changed.append(change(image))
    return torch.stack(changed)
