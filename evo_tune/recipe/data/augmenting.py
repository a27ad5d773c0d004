"""What is done to images before they are trained on, as options and numbers."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from evo_tune.errors import OptionError
from evo_tune.options.declare import Options, option

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
        name = f"-o randaugment={self.randaugment}"
        if channels not in (1, 3) or not whole:
            raise OptionError(
                f"{name} takes images of 1 or 3 channels in whole numbers of 8 bits: expected 0 for others"
            )
        if find_spec("torchvision") is None:
            raise OptionError(
                f"{name} is done by torchvision, which is not installed: pip install torchvision, or give 0"
            )
