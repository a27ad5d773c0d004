"""Images with labels: what is read of folders and arrays, and what is said of those that cannot be used."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from evo_tune.errors import OptionError, UsageError
from evo_tune.training.recipe import read_images
from evo_tune.training.recipe.data.images import read_image
from tests.training.recipe.data.refusals import refused, without


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of pictures of different kinds and sizes: reds, and blues."""
    from PIL import Image

    for number in range(6):
        for name, colour in (("red", (200, 9, 9)), ("blue", (9, 9, 200))):
            path = tmp_path / "photos" / name / f"{number}.{'png' if number % 2 else 'jpg'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB" if number else "RGBA", (20 + number, 30), colour).save(
                path.with_suffix(".png" if not number else path.suffix)
            )
    (tmp_path / "photos" / ".thumbs").mkdir()
    (tmp_path / "photos" / "red" / ".hidden").write_text("no picture")
    return tmp_path / "photos"


def test_a_folder_has_one_class_a_subfolder(photos: Path) -> None:
    read = read_images(str(photos), 16)
    assert read.labels == ("blue", "red")
    assert read.pixels.shape == (12, 3, 16, 16)
    assert read.classes.tolist() == [0] * 6 + [1] * 6
    assert read.pixels[0, :, 3, 3].tolist() == pytest.approx([9, 9, 200], abs=4)


def test_arrays_of_images(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).random((8, 6, 4))
    np.savez(tmp_path / "grey.npz", images=grey, labels=np.array(list("abababab")))
    np.savez(tmp_path / "colour.npz", images=np.stack([grey] * 3, 3), labels=np.arange(8) % 2)
    one, two = read_images(str(tmp_path / "grey.npz"), 32), read_images(str(tmp_path / "colour.npz"), 32)
    assert one.labels == ("a", "b")
    assert one.pixels.shape == (8, 1, 6, 4)
    assert two.pixels.shape == (8, 3, 6, 4)
    assert np.array_equal(two.pixels[:, 2:], one.pixels)


def test_images_that_cannot_be_used(photos: Path, tmp_path: Path) -> None:
    pixels, labels = np.zeros((4, 8, 8)), [0, 1, 0, 1]
    files = {
        "one": ({"images": pixels, "labels": [0] * 4}, "only the class '0'"),
        "rare": ({"images": pixels, "labels": [0, 0, 0, 1]}, "1 of class 1: expected at least 3 images of each"),
        "names": ({"x": pixels, "labels": labels}, "has the arrays x, labels: expected images and labels"),
        "shape": ({"images": pixels[0], "labels": labels}, r"of shape \(8, 8\)"),
        "nan": ({"images": pixels * np.nan, "labels": labels}, "finite"),
        "count": ({"images": pixels, "labels": [0, 1]}, "one for each of 4 images"),
    }
    for name, (arrays, words) in files.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)
        refused(read_images, words, str(tmp_path / f"{name}.npz"), 32)
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 no archive")
    refused(read_images, "cannot read it", str(tmp_path / "broken.npz"), 32)
    (tmp_path / "empty").mkdir()
    refused(read_images, "holds no images", str(tmp_path / "empty"), 32)
    refused(read_images, "is no folder and no .npz", str(tmp_path / "nowhere"), 32)
    (photos / "red" / "note.txt").write_text("no picture")
    refused(read_images, r"cannot read '.*note\.txt' as an image .* expected BMP, GIF, .*; remove it", str(photos), 32)


def test_no_file_has_another_program_started(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow has Ghostscript render an EPS, whatever the name of its file."""
    from PIL import EpsImagePlugin

    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {tmp_path / 'started'}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    (photos / "red" / "0.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    refused(read_images, "cannot read", str(photos), 32)
    assert not (tmp_path / "started").exists()


def test_an_image_that_is_huge_once_unpacked_is_a_line(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    refused(read_images, r"cannot read '.*' as an image \(.*decompression bomb.*\): expected BMP", str(photos), 32)


def test_missing_extras_name_what_to_install(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_images.cache_clear()
    without(monkeypatch, "sklearn")
    without(monkeypatch, "PIL")
    refused(read_images, r"pip install 'evo-tune\[sklearn\]'", "", 32, kind=UsageError)
    refused(read_images, r"pip install 'evo-tune\[images\]'", str(photos), 32, kind=UsageError)


def test_arrays_that_unpack_to_a_thousand_times_their_size_are_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("evo_tune.training.recipe.data.reading.ALWAYS", 1 << 20)
    np.savez_compressed(tmp_path / "bomb.npz", images=np.zeros((4000, 32, 32), np.uint8), labels=np.arange(4000) % 2)
    refused(read_images, "unpacks to more than", str(tmp_path / "bomb.npz"), 32)


def test_a_small_file_with_many_pixels_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    Image.new("L", (9_000, 9_000)).save(tmp_path / "a.png", compress_level=9)
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("it is decoded"))
    with pytest.raises(OptionError, match="9000 x 9000 pixels, more than 80000000"):
        read_image(tmp_path / "a.png", (3, 8, 8))
