"""Images with labels as they lie on disk: a folder, an .npz, or scikit-learn's digits. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from evo_tune.errors import OptionError

__all__ = ["Images", "read_images"]


@dataclass(frozen=True)
class Images:
    """Images (n, channels, height, width) in pixel values, their class numbers (n,), and the classes' names."""

    pixels: NDArray[Any]
    classes: NDArray[Any]
    labels: tuple[str, ...]


@lru_cache(maxsize=1)  # a worker trains on the same images again and again
def read_images(data: str, image_size: int) -> Images:
    """Return the images of a folder or of an .npz file; the digits if there is no path.

    Args:
        data: Folder with one subfolder a class, or an .npz with the arrays images and labels; empty: the digits.
        image_size: Pixels along the sides to which the images of a folder are resized.

    Raises:
        OptionError: They cannot be read, or are not at least three of each of at least two classes.
    """
    images = _read(data, image_size)
    if len(images.labels) < 2:
        raise OptionError(f"-o data={data} has only the class {images.labels[0]!r}: expected two or more")
    rarest = int(np.bincount(images.classes).argmin())
    if (count := np.bincount(images.classes)[rarest]) < 3:
        raise OptionError(
            f"-o data={data}: {count} of class {images.labels[rarest]!r}: expected at least 3 images of each, "
            "to train on, to judge trials by and to test with"
        )
    return images


def _read(data: str, image_size: int) -> Images:
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
