"""Which samples are held out: the same share of every class, and the same ones whatever the seed. No torch here."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evo_tune.errors import RecipeError
from evo_tune.options.bounds import check_number

__all__ = ["hash_of", "stratified"]


def stratified(classes: NDArray[np.int64], share: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split samples into those to train on and those held out.

    Of each class the share is held out, to the nearest sample, and at least one of each side. Which ones
    is drawn once and for all: it depends on the classes and their order only.

    Args:
        classes: (n,), class number of each sample.
        share: Share to hold out, above 0, below 1.

    Returns:
        Numbers of the samples to train on, and of those held out, both ascending.

    Raises:
        RecipeError: There are fewer than two classes, or a class has only one sample.
    """
    check_number("held_out", share, "(0, 1)")
    names, counts = np.unique(classes, return_counts=True)
    if len(names) < 2:
        raise RecipeError("labels", f"{len(names)} class", "two classes or more")
    if counts.min() < 2:
        raise RecipeError("labels", f"a class of {counts.min()}", "two samples or more of each class")
    rng = np.random.default_rng(0)
    held_out = np.zeros(len(classes), bool)
    for name, count in zip(names, counts, strict=True):
        taken = min(max(1, round(share * count)), count - 1)
        held_out[rng.permutation(np.flatnonzero(classes == name))[:taken]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def hash_of(*parts: bytes | NDArray[Any]) -> str:
    """Return the SHA-256 of data and of how it is split: what a run's fingerprint is."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else part.tobytes())
    return digest.hexdigest()
