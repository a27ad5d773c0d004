"""Labelled images: reading and augmentation."""

import hashlib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from evo_tune.errors import OptionError, require_extra
from evo_tune.options.declare import Options, option
from evo_tune.training.recipe.data.reading import check_unpacked, max_unpacked_size
from evo_tune.training.recipe.data.splitting import Division
from evo_tune.training.recipe.data.tables import check_class_sizes, data_hash, describe_classes, sklearn_data

# Formats of image files, by Pillow's names. For others, such as EPS, Pillow may start another program.
IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")

# Most pixels of an image file: reading one takes up to eight bytes for each.
MOST_PIXELS = 80_000_000


@dataclass(frozen=True)
class Images:
    """Images (n, channels, height, width) as pixel values, class numbers (n,), and names of the classes."""

    pixels: NDArray[Any]
    classes: NDArray[Any]
    labels: tuple[str, ...]

    def fingerprint(self, *shares: float) -> str:
        """Return the SHA-256 of the images, their labels and of how they are split into these shares."""
        first = f"{self.pixels.shape}{self.pixels.dtype}{self.labels}".encode()
        return data_hash(first, self.pixels, self.classes.astype(np.int64), *self.parts(*shares))

    @cached_property
    def division(self) -> Division:
        """How the images are divided: equal ones are in one part."""
        return Division.of_equal((hashlib.sha256(image.tobytes()).digest() for image in self.pixels), "images")

    def parts(self, *shares: float) -> tuple[NDArray[Any], ...]:
        """Return the row numbers of the training part and of each further part (see `Division.parts`)."""
        return self.division.parts(self.classes, len(self.classes), *shares)

    def lines(self) -> list[str]:
        """Return what was read, a line each: images, their size, and the classes."""
        count, channels, height, width = self.pixels.shape
        colour = {1: "grey", 3: "in colour"}.get(channels, f"of {channels} channels")
        lines = [f"{count} images of {height} by {width} pixels, {colour}", describe_classes(self.labels, self.classes)]
        return lines + ([self.division.line] if self.division.line else [])


@lru_cache(maxsize=1)  # a worker trains on the same images repeatedly
def read_images(data: str, image_size: int) -> Images:
    """Return the images of a folder or an .npz file; without a path, the digits.

    Args:
        data: Folder with a subfolder per class, or .npz with the arrays images and labels; empty: the digits.
        image_size: Side in pixels to which images of a folder are resized.

    Raises:
        OptionError: The images cannot be read, or there are fewer than two classes or three images of a class.
    """
    path = Path(data).expanduser()
    if not data:
        digits = sklearn_data("load_digits", "-o data=FOLDER")
        labels = tuple(map(str, digits.target_names))
        images = Images(digits.images[:, None].astype(np.uint8), digits.target, labels)
    elif path.is_dir():
        images = _read_folder(path, data, image_size)
    elif path.is_file() and path.suffix == ".npz":
        images = _read_npz_images(path, data)
    else:
        raise OptionError(
            f"-o data={data} is no folder and no .npz file (from {Path.cwd()}): give a folder with one subfolder a "
            "class, an .npz with images and labels, or leave it out for the digits"
        )
    if len(images.labels) < 2:
        raise OptionError(f"-o data={data} has only the class {images.labels[0]!r}: expected two or more")
    check_class_sizes(f"-o data={data}", images.labels, images.classes, "images")
    return images


def read_image(path: Path, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Return an image file as pixels of a shape (channels, height, width), one channel for grey or three for colour.

    Raises:
        UsageError: Pillow is not installed, or (OptionError) cannot read the file.
    """
    with require_extra("the reading of image files (other than .npz)", "images"):
        from PIL import Image
    channels, height, width = shape
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:  # a small file may have them
                raise ValueError(f"{image.width} x {image.height} pixels, more than {MOST_PIXELS}")
            small = image.convert("RGB" if channels == 3 else "L").resize((width, height), Image.Resampling.BILINEAR)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise OptionError(
            f"cannot read {str(path)!r} as an image ({reason}): expected {', '.join(IMAGE_FORMATS)}; remove it"
        ) from None
    pixels = np.asarray(small)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _read_folder(path: Path, data: str, image_size: int) -> Images:
    files: dict[str, list[Path]] = {}
    for folder in sorted(path.iterdir()):
        if folder.is_dir() and not folder.name.startswith("."):
            inside = sorted(file for file in folder.rglob("*") if file.is_file() and file.name[0] != ".")
            files |= {folder.name: inside} if inside else {}
    if not files:
        raise OptionError(f"-o data={data} holds no images: expected one subfolder a class, with its images inside")
    shape = (3, image_size, image_size)
    try:
        pixels = [read_image(file, shape) for inside in files.values() for file in inside]
    except OptionError as error:
        raise OptionError(f"-o data={data}: {error}") from None
    classes = np.repeat(np.arange(len(files)), [len(inside) for inside in files.values()])
    return Images(np.stack(pixels), classes, tuple(files))


def read_npz(path: Path, origin: str) -> dict[str, NDArray[Any]]:
    """Return the arrays of an .npz file that a file of images may have, within bounds and without pickles.

    Args:
        path: The file.
        origin: The user's words, for messages: '-o data=FILE'.

    Raises:
        OptionError: It cannot be read.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            unpacked = sum(member.file_size for member in arrays.zip.infolist())
            check_unpacked(unpacked, max_unpacked_size(path.stat().st_size))
            return {name: arrays[name] for name in arrays}
    except (OSError, ValueError, AttributeError, BadZipFile, MemoryError) as error:
        reason = " ".join(str(error).split())
        raise OptionError(f"{origin}: cannot read it ({reason}); expected what numpy.savez writes") from None


def _read_npz_images(path: Path, data: str) -> Images:
    arrays = read_npz(path, f"-o data={data}")
    if not {"images", "labels"} <= arrays.keys():
        raise OptionError(f"-o data={data} has the arrays {', '.join(arrays) or 'none'}: expected images and labels")
    pixels, labels = arrays["images"], arrays["labels"]
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
    if pixels.dtype != np.uint8:
        pixels = pixels.astype(np.float32)
    values, classes = np.unique(labels, return_inverse=True)
    return Images(np.ascontiguousarray(pixels), classes, tuple(map(str, values)))


@dataclass(frozen=True)
class Augmentation:
    """Augmentation of a batch of images.

    Args:
        crop: Maximum shift of an image in pixels, vertically and horizontally; the edge is repeated.
        flip: Whether half of the images are mirrored left to right.
        magnitude: Strength of RandAugment's two operations (Cubuk et al., arXiv:1909.13719), 1 to 30; 0: none.
    """

    crop: int = 0
    flip: bool = False
    magnitude: int = 0


@dataclass(frozen=True, kw_only=True)
class AugmentationOptions(Options):
    """Image augmentation."""

    crop: float | Literal["auto"] = option(
        "auto",
        bounds="[0, 0.5]",
        gene="0|0.0625|0.125|0.25",
        help="Maximum shift of an image, as a share of a side; auto: 1/8 for colour images, else 0",
    )
    flip: Literal["auto", "yes", "no"] = option(
        "auto", help="Mirror half of the images; auto: colour images only, which are rarely digits or letters"
    )
    randaugment: int = option(
        0, bounds="[0, 30]", gene="0|5|9|15", help="Strength of RandAugment (2 operations, needs torchvision); 0: none"
    )

    def augment(self, channels: int, height: int, width: int, whole: bool) -> Augmentation | None:
        """Return the augmentation for images of this shape; None: none.

        Args:
            channels: Channels of an image; 3: colour.
            height: Height in pixels.
            width: Width in pixels.
            whole: Whether pixel values are 8-bit integers.

        Raises:
            OptionError: RandAugment does not support such images, or torchvision is not installed.
        """
        if self.randaugment:
            name = f"-o randaugment={self.randaugment}"
            if channels not in (1, 3) or not whole:
                raise OptionError(
                    f"{name} takes images of 1 or 3 channels in whole numbers of 8 bits: expected 0 for others"
                )
            if find_spec("torchvision") is None:
                raise OptionError(
                    f"{name} is done by torchvision, which is not installed: pip install 'evo-tune[images]', or give 0"
                )
        coloured = channels == 3
        crop = (0.125 if coloured else 0.0) if self.crop == "auto" else self.crop
        flip = coloured if self.flip == "auto" else self.flip == "yes"
        augmentation = Augmentation(round(crop * min(height, width)), flip, self.randaugment)
        return None if augmentation == Augmentation() else augmentation
