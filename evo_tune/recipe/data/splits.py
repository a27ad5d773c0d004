"""Which samples are trained on, chosen by, tested with: shares of every class, the same for any seed. No torch here."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evo_tune.errors import RecipeError
from evo_tune.options.bounds import check_number

__all__ = ["hash_of", "stratified"]


def stratified(classes: NDArray[np.int64], *shares: float) -> tuple[NDArray[np.int64], ...]:
    """Split samples into those to train on and one part more for each share, to choose by and to test with for two.

    Of each class every part has its share, to the nearest sample, and at least one. Which ones is drawn once and for
    all: it depends on the classes, their order and the shares only.

    Args:
        classes: (n,), class number of each sample.
        shares: Of what is not to be trained on, each above 0, together below 1.

    Returns:
        Numbers of the samples to train on, and of those of each part, all ascending.

    Raises:
        RecipeError: There are fewer than two classes, or a class has not a sample for each part; or shares are out of
            their range.
    """
    check_number("held_out", sum(shares), "(0, 1)")
    for share in shares:
        check_number("held_out", share, "(0, 1)")
    names, counts = np.unique(classes, return_counts=True)
    if len(names) < 2:
        raise RecipeError("labels", f"{len(names)} class", "two classes or more")
    if counts.min() < len(shares) + 1:
        raise RecipeError("labels", f"a class of {counts.min()}", f"{len(shares) + 1} samples or more of each class")
    rng = np.random.default_rng(0)
    part = np.zeros(len(classes), int)
    for name, count in zip(names, counts, strict=True):
        rows = rng.permutation(np.flatnonzero(classes == name))
        sizes = _sizes(int(count), shares)
        part[rows[: sum(sizes)]] = np.repeat(np.arange(1, len(shares) + 1), sizes)
    return tuple(np.flatnonzero(part == number) for number in range(len(shares) + 1))


def _sizes(count: int, shares: Sequence[float]) -> list[int]:
    """Return the samples of each part in a class of so many, which leave one at least to train on."""
    sizes = [max(1, round(share * count)) for share in shares]
    while sum(sizes) >= count:
        sizes[sizes.index(max(sizes))] -= 1
    return sizes


def hash_of(*parts: bytes | NDArray[Any]) -> str:
    """Return the SHA-256 of data and of how it is split: what a run's fingerprint is."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else part.tobytes())
    return digest.hexdigest()
