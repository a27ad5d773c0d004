"""Images as they might have been: moved a little, mirrored, or changed by RandAugment. On tensors, on the CPU.

What happens to a sample is a pure function of the seed that is given (of a run and a step) and of the sample's place in
its batch: there is nothing to save. Knows nothing of models or files. torch is imported inside functions only, since
the parent process asks for the options.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from evo_tune.errors import OptionError
from evo_tune.options.declare import Options, option
from evo_tune.training.data.batch import onto

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Augment", "Augmenting"]


@dataclass(frozen=True)
class Augment:
    """What is done to a batch of images.

    Args:
        crop: Most pixels by which an image is moved, up or down and to the sides; what comes in repeats the edge.
        flip: Whether every second image is mirrored, left to right.
        magnitude: Strength of RandAugment's two operations (Cubuk et al., arXiv:1909.13719), 1 to 30; 0: none.
    """

    crop: int = 0
    flip: bool = False
    magnitude: int = 0

    @property
    def anywhere(self) -> bool:
        """Whether it is done where the images are; RandAugment draws and works image by image, on the CPU."""
        return not self.magnitude

    def __call__(self, images: Tensor, seed: int) -> Tensor:
        """Return other images in their place.

        Args:
            images: (n, channels, height, width), pixel values; whole numbers of 8 bits for RandAugment.
            seed: Of what happens to them.
        """
        import torch

        rng = np.random.default_rng(seed)
        count = len(images)
        moved = torch.from_numpy(rng.integers(-self.crop, self.crop + 1, (2, count)))
        mirrored = torch.from_numpy(rng.random(count) < 0.5)
        seeds = rng.integers(0, 2**31, count)
        if self.magnitude:
            images = _randomly_changed(images, self.magnitude, seeds.tolist())
        if self.crop or self.flip:
            images = _moved(images, moved, mirrored if self.flip else torch.zeros_like(mirrored))
        return images


def _moved(images: Tensor, moved: Tensor, mirrored: Tensor) -> Tensor:
    """Move images by (rows, columns) and mirror some, their edges repeated."""
    import torch

    count, channels, height, width = images.shape
    rows = (torch.arange(height) + moved[0][:, None]).clamp(0, height - 1)
    columns = (torch.arange(width) + moved[1][:, None]).clamp(0, width - 1)
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    rows, columns = onto(rows, images.device), onto(columns, images.device)
    which = torch.arange(count, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[:, None, None]
    return images[which, channel, rows[:, None, :, None], columns[:, None, None, :]]


def _randomly_changed(images: Tensor, magnitude: int, seeds: list[int]) -> Tensor:
    import torch
    from torchvision.transforms.v2 import RandAugment

    change = RandAugment(num_ops=2, magnitude=magnitude)
    changed = []
    with torch.random.fork_rng(devices=[]):  # it draws from the global generator, which others may be using
        for image, seed in zip(images, seeds, strict=True):
            torch.manual_seed(seed)
            changed.append(change(image))
    return torch.stack(changed)


@dataclass(frozen=True, kw_only=True)
class Augmenting(Options):
    """What is done to images before they are trained on."""

    crop: float | Literal["auto"] = option(
        "auto",
        bounds="[0, 0.5]",
        gene="0|0.0625|0.125|0.25",
        help="Most by which an image is moved, as a share of a side; auto: an eighth of those in colour, 0 of others",
    )
    flip: Literal["auto", "yes", "no"] = option(
        "auto", help="Whether every second image is mirrored; auto: those in colour, since digits and letters are not"
    )
    randaugment: int = option(
        0,
        bounds="[0, 30]",
        gene="0|5|9|15",
        help="Strength of RandAugment (2 operations; torchvision does them); 0: none",
    )

    def augment(self, channels: int, height: int, width: int, whole: bool) -> Augment | None:
        """Return what is done to images of this shape; None: nothing.

        Args:
            channels: Of an image, 3 where it is in colour.
            height: Pixels.
            width: Pixels.
            whole: Whether pixel values are whole numbers of 8 bits.

        Raises:
            OptionError: RandAugment does not take such images, or torchvision is not installed.
        """
        if self.randaugment:
            self._check_randaugment(channels, whole)
        coloured = channels == 3
        crop = (0.125 if coloured else 0.0) if self.crop == "auto" else self.crop
        flip = coloured if self.flip == "auto" else self.flip == "yes"
        made = Augment(round(crop * min(height, width)), flip, self.randaugment)
        return None if made == Augment() else made

    def _check_randaugment(self, channels: int, whole: bool) -> None:
        from importlib.util import find_spec

        name = f"-o randaugment={self.randaugment}"
        if channels not in (1, 3) or not whole:
            raise OptionError(
                f"{name} takes images of 1 or 3 channels in whole numbers of 8 bits: expected 0 for others"
            )
        if find_spec("torchvision") is None:
            raise OptionError(
                f"{name} is done by torchvision, which is not installed: pip install torchvision, or give 0"
            )
