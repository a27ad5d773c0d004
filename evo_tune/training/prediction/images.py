"""Images for an exported classifier: files, folders, .npz files, arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evo_tune.errors import UsageError
from evo_tune.training.prediction.about import TrainingFacts
from evo_tune.training.prediction.model import PASS, Part, Reader
from evo_tune.training.recipe import ViTConfig
from evo_tune.training.recipe.data.images import read_image, read_npz

FILES = 100.0
"""Smallest largest pixel of training images whose values are those of image files, 0 to 255."""


class Pictures(Reader):
    """Images.

    Args:
        about: See `Reader`.
        config: Shape of the model: channels, height and width of an image.
        labels: Names of the classes; subfolders with these names are targets.
    """

    kind = "image"

    def __init__(self, about: TrainingFacts, config: ViTConfig, labels: Sequence[str]) -> None:
        super().__init__(about)
        self.labels = labels
        self.shape = (config.channels, config.image_height, config.image_width)

    @property
    def size(self) -> str:
        """The images of the model, in words."""
        channels, height, width = self.shape
        return f"{height} by {width} pixels with {channels} channel{'s' if channels > 1 else ''}"

    def encode(self, data: Any) -> Tensor:
        if isinstance(data, torch.Tensor) or (isinstance(data, np.ndarray) and data.dtype.kind not in "OU"):
            return torch.from_numpy(self._array(np.asarray(data)))
        if isinstance(data, str | Path):
            raise UsageError("predict: one path: expected a list of paths, or an array of images")
        self._check_files()
        pixels = [read_image(Path(path), self.shape) for path in data]
        return torch.from_numpy(np.stack(pixels) if pixels else np.empty((0, *self.shape), np.uint8))

    def _check_files(self) -> None:
        inputs = self.about.inputs
        if inputs is None or inputs.dtype != "uint8" or inputs.high < FILES or self.shape[0] not in (1, 3):
            values = "" if inputs is None else f", with values from {inputs.low:g} to {inputs.high:g}"
            raise UsageError(
                f"the model was trained on arrays{values}: give images of that kind, as an array or as an .npz file "
                "with `images`"
            )

    def _array(self, images: NDArray[Any]) -> NDArray[Any]:
        """Return images as (n, channels, height, width)."""
        channels, height, width = self.shape
        if images.ndim == 3 and channels == 1:
            images = images[:, None]
        elif images.ndim == 4 and images.shape[1:] != self.shape:
            images = images.transpose(0, 3, 1, 2)
        if images.ndim != 4 or images.shape[1:] != self.shape or images.dtype.kind not in "uif":
            raise UsageError(
                f"images are {images.dtype} of shape {images.shape}: expected numbers, (n, {height}, {width}"
                f"{f', {channels}' if channels > 1 else ''}), for {self.size}"
            )
        if not np.isfinite(images).all():
            raise UsageError("images have values that are not finite: expected finite ones")
        inputs = self.about.inputs
        if inputs is not None and len(images) and images.max() > max(4 * inputs.high, inputs.high + 1):
            shown = f"{images.max():g}, where the training images have at most {inputs.high:g}"
            self.remarks["values"] = f"images have values up to {shown}: scale them as the training images were"
        return np.ascontiguousarray(images if images.dtype == np.uint8 else images.astype(np.float32))

    def parts(self, path: Path, keep: Sequence[str]) -> Iterator[Part]:
        if keep:
            raise UsageError(f"--keep {keep[0]}: images have no columns: leave it out")
        if path.suffix == ".npz":
            yield from self._npz(path)
            return
        self._check_files()
        found = sorted(file for file in path.rglob("*") if file.is_file() and file.name[0] != ".")
        found = [path] if path.is_file() else found
        if not found:
            what = "is empty" if path.is_dir() else "is no file or folder"
            raise UsageError(f"INPUT {path} {what}: expected an image, a folder of images or an .npz file")
        named = path.is_dir() and all(self._label(file, path) in self.labels for file in found)
        files = iter(found)
        while some := list(islice(files, PASS)):
            keys = {"file": [str(file) for file in some]}
            yield Part(some, len(some), keys, [self._label(file, path) for file in some] if named else None)

    @staticmethod
    def _label(file: Path, folder: Path) -> str:
        inside = file.relative_to(folder).parts if file != folder else ()
        return inside[0] if len(inside) > 1 else ""

    def _npz(self, path: Path) -> Iterator[Part]:
        if not path.is_file():
            raise UsageError(f"INPUT {path} is no file: expected an image, a folder of images or an .npz file")
        arrays = read_npz(path, f"INPUT {path}")
        if "images" not in arrays:
            raise UsageError(f"INPUT {path} has the arrays {', '.join(arrays) or 'none'}: expected images")
        images, labels = arrays["images"], arrays.get("labels")
        for first in range(0, len(images), PASS):
            some = images[first : first + PASS]
            truth = None if labels is None else labels[first : first + PASS].tolist()
            yield Part(some, len(some), {}, truth)
