"""Augmentation: moved, mirrored, changed; a function of seed and place; and nothing where nothing is asked for."""

from __future__ import annotations

import pytest
import torch

from evo_tune.errors import OptionError
from evo_tune.training import Epochs
from evo_tune.training.data.batches import augment_images
from evo_tune.training.recipe.data.images import Augmentation, AugmentationOptions


def numbered(count: int = 40, channels: int = 3, height: int = 6, width: int = 8) -> torch.Tensor:
    """Return images each of whose pixels says where it was."""
    place = torch.arange(height)[:, None] * 16 + torch.arange(width)
    return (place + torch.arange(channels)[:, None, None]).to(torch.uint8).expand(count, -1, -1, -1).clone()


def test_an_image_is_moved_by_at_most_so_many_pixels_in_each_way_and_its_edges_repeat() -> None:
    images, seen = numbered(400), set()
    for image in augment_images(images, Augmentation(crop=2), 1):
        found = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if torch.equal(
                image,
                images[0][:, (torch.arange(6) + down).clamp(0, 5)][:, :, (torch.arange(8) + right).clamp(0, 7)],
            )
        ]
        assert len(found) == 1
        seen.add(found[0])
    assert len(seen) == 25


def test_about_every_second_image_is_mirrored() -> None:
    images = numbered(400)
    found = augment_images(images, Augmentation(flip=True), 1)
    mirrored = [torch.equal(image, images[0].flip(2)) for image in found]
    assert all(turned or torch.equal(image, images[0]) for image, turned in zip(found, mirrored, strict=True))
    assert 160 < sum(mirrored) < 240


@pytest.mark.parametrize(
    "augment",
    [Augmentation(crop=1), Augmentation(flip=True), Augmentation(crop=2, flip=True), Augmentation(0, True, 9)],
)
def test_it_is_a_function_of_the_seed_and_draws_from_no_global_generator(augment: Augmentation) -> None:
    if augment.magnitude:
        pytest.importorskip("torchvision")
    images, state = numbered(), torch.get_rng_state()
    found = augment_images(images, augment, 5)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(images, numbered()), "the images themselves are left alone"
    assert torch.equal(found, augment_images(images, augment, 5))
    assert not torch.equal(found, augment_images(images, augment, 6))
    assert (found.dtype, found.shape) == (images.dtype, images.shape)


def test_randaugment_changes_more_than_places() -> None:
    pytest.importorskip("torchvision")
    found = augment_images(numbered(60), Augmentation(magnitude=9), 1)
    assert len({tuple(image.flatten().tolist()) for image in found}) > 20


def test_batches_are_augmented_anew_in_each_step_before_they_are_mixed() -> None:
    images, classes = numbered(8).float(), torch.arange(8) % 2
    settings = {"classes": 2, "batch": 8, "total": 24, "seed": 3}
    plain, moved, mixed = (
        Epochs(images, classes, **settings, augment=augment, mixup=mixup)  # type: ignore[arg-type]
        for augment, mixup in ((None, 0.0), (Augmentation(2), 0.0), (Augmentation(2), 0.5))
    )
    steps = [moved.window(step)[0][0] for step in range(3)]
    assert not any(torch.equal(one, plain.window(step)[0][0]) for step, one in enumerate(steps))
    assert not torch.equal(steps[0], steps[1])
    assert torch.equal(steps[2], moved.window(2)[0][0])
    blended = mixed.window(0)[0][0]
    share = ((blended - steps[0]).abs().amax((1, 2, 3)) > 0).float().mean()
    assert share > 0.5
    assert blended.max() <= steps[0].max()


def test_digits_are_left_alone_and_photographs_moved_and_mirrored_unless_told_otherwise() -> None:
    assert AugmentationOptions().augment(1, 8, 8, True) is None
    assert AugmentationOptions(crop=0.125).augment(1, 8, 8, True) == Augmentation(crop=1)
    assert AugmentationOptions().augment(3, 32, 48, True) == Augmentation(crop=4, flip=True)
    assert AugmentationOptions(flip="yes", crop=0.0).augment(1, 8, 8, True) == Augmentation(flip=True)
    assert AugmentationOptions(flip="no", crop=0.0).augment(3, 8, 8, True) is None


def test_what_randaugment_does_not_take_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for channels, whole in ((2, True), (3, False)):
        with pytest.raises(
            OptionError, match="randaugment=9 takes images of 1 or 3 channels in whole numbers of 8 bits"
        ):
            AugmentationOptions(randaugment=9).augment(channels, 8, 8, whole)
    monkeypatch.setattr("evo_tune.training.recipe.data.images.find_spec", lambda name: None)
    with pytest.raises(OptionError, match="done by torchvision, which is not installed"):
        AugmentationOptions(randaugment=9).augment(3, 8, 8, True)
