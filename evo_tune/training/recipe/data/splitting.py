"""Split of samples into training, validation and test part: by class, by group, or by time.

Samples that belong together, such as equal rows, are in one part: a model that has seen one of them in training knows
the answer for the others.
"""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from evo_tune.errors import OptionError, RecipeError
from evo_tune.options.declare import check_number
from evo_tune.training.recipe.data.kinds import classify_column
from evo_tune.training.recipe.data.series import TIMES

if TYPE_CHECKING:
    import pandas as pd

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Division:
    """How samples are divided into parts.

    Args:
        line: The division in words.
        groups: (n,), number of the group of each sample; a group is in one part. None: each sample is a group.
        column: Name of the column that gives groups or times; '': equal samples are a group.
        times: (n,), time of each sample, by which they are divided; None: they are drawn.
    """

    line: str = ""
    groups: Rows | None = None
    column: str = ""
    times: NDArray[Any] | None = None

    @classmethod
    def of_equal(cls, samples: Iterable[Hashable], noun: str) -> "Division":
        """Return the division that has equal samples in one part.

        Args:
            samples: The samples.
            noun: Noun for samples.
        """
        numbers: dict[Hashable, int] = {}
        groups = np.array([numbers.setdefault(sample, len(numbers)) for sample in samples], np.int64)
        repeated = len(groups) - len(numbers)
        shown = f"1 of the {noun} repeats" if repeated == 1 else f"{repeated} {noun} repeat"
        line = f"{shown} another; equal ones are in one part" if repeated else ""
        return cls(line, groups if repeated else None)

    @classmethod
    def by_column(cls, column: "pd.Series[Any]") -> "Division":
        """Return the division by a column: at two times if it has dates or is named like times, else by its values.

        Raises:
            OptionError: A row has no value, or the column has unusable values.
        """
        import pandas as pd

        name, missing = str(column.name), int(column.isna().sum())
        if missing:
            raise OptionError(f"-o split_by={name}: {missing} rows have no value: fill it in, or choose another column")
        kind = classify_column(column, as_category=False)
        if kind.kind == "date":
            times = pd.to_datetime(column, format=kind.date_format, utc=True).dt.tz_localize(None).to_numpy()
            return cls(f"divided by time, by column {name!r}", column=name, times=times)
        if name.lower() in TIMES and kind.kind in ("number", "identifier"):
            return cls(f"divided by time, by column {name!r}", column=name, times=pd.to_numeric(column).to_numpy())
        groups, values = pd.factorize(column)
        return cls(f"divided by the {len(values)} values of column {name!r}, each in one part", groups, name)

    def parts(self, classes: Rows | None, count: int, *shares: float) -> tuple[Rows, ...]:
        """Return the row numbers of the training part and of each further part.

        Args:
            classes: (n,), class number of each sample; None: real numbers.
            count: Number n of samples.
            shares: See `split_stratified`.

        Raises:
            OptionError: The column has too few values, or leaves a class without training samples.
            RecipeError: There are too few classes or samples, or a share is out of its range.
        """
        if not self.column:
            if classes is None:
                return split_rows(count, *shares, groups=self.groups)
            return split_stratified(classes, *shares, groups=self.groups)
        values: NDArray[Any] = np.unique(self.groups if self.times is None else self.times)  # type: ignore[arg-type]
        if len(values) <= len(shares) or count < len(shares) + 2:
            expected = f"at least {len(shares) + 1}, for training, validation and test"
            raise OptionError(f"-o split_by={self.column}: {len(values)} different values: expected {expected}")
        if self.times is None:
            parts = split_rows(count, *shares, groups=self.groups)
        else:
            parts = split_by_time(self.times, *shares)
        if classes is not None and len(unseen := np.setdiff1d(classes, classes[parts[0]])):
            raise OptionError(
                f"-o split_by={self.column}: {len(unseen)} classes have no row in the training part: choose another "
                "column, or leave the option out"
            )
        return parts


def cross_validation(
    division: Division, classes: Rows | None, training: Rows, held_out: Rows, count: int
) -> list[tuple[Rows, Rows]]:
    """Return pairs of rows to learn from and rows to judge by; each row is judged by in one of them.

    The first pair is the training and the validation part. The others judge by parts of the training part.

    Args:
        division: How the samples were divided; not by time.
        classes: (n,), class number of each sample; None: real numbers.
        training: Rows of the training part.
        held_out: Rows of the validation part.
        count: Number of pairs, at least 3. The training part has so many rows of each class, and so many groups.
    """
    groups = None if division.groups is None else division.groups[training]
    shares = [1.0 / (count - 1)] * (count - 2)
    if classes is None or division.column:
        parts = split_rows(len(training), *shares, groups=groups)
    else:
        parts = split_stratified(classes[training], *shares, groups=groups)
    rows = np.sort(np.concatenate((training, held_out)))
    judged = [held_out, *(training[part] for part in parts)]
    return [(np.setdiff1d(rows, part), part) for part in judged]


def split_stratified(classes: Rows, *shares: float, groups: Rows | None = None) -> tuple[Rows, ...]:
    """Split samples into a training part and one further part per share, such as validation and test.

    Each part gets its share of each class, to the nearest sample, and at least one. The samples are drawn with a fixed
    seed: they depend only on the classes, the groups, their order and the shares. A group counts to the class of its
    first sample. The groups of a class that has fewer of them than there are parts are divided.

    Args:
        classes: (n,), class number of each sample.
        shares: Shares of the further parts, each above 0, sum below 1.
        groups: (n,), number of the group of each sample; a group is in one part. None: each sample is a group.

    Returns:
        Row numbers of the training part, then of each further part, all ascending.

    Raises:
        RecipeError: There are fewer than two classes, a class has too few samples for all parts, or a share is out of
            its range.
    """
    _check_shares(shares)
    names, counts = np.unique(classes, return_counts=True)
    if len(names) < 2:
        raise RecipeError("labels", f"{len(names)} class", "two classes or more")
    if counts.min() < len(shares) + 1:
        raise RecipeError("labels", f"a class of {counts.min()}", f"{len(shares) + 1} samples or more of each class")
    if groups is not None:
        groups = _divide_scarce(classes, groups, len(shares) + 1)
    first_rows, group_of, weights = _number_by_first_row(len(classes), groups)
    rng = np.random.default_rng(0)
    part = np.zeros(len(first_rows), np.int64)
    for name in names:
        members = rng.permutation(np.flatnonzero(classes[first_rows] == name))
        part[members] = _fill_parts(weights[members], _sizes(int(weights[members].sum()), shares))
    return tuple(np.flatnonzero(part[group_of] == number) for number in range(len(shares) + 1))


def split_rows(count: int, *shares: float, groups: Rows | None = None) -> tuple[Rows, ...]:
    """Split samples without classes, as `split_stratified` splits those of one class: drawn with a fixed seed.

    Args:
        count: Number of samples.
        shares: See `split_stratified`.
        groups: See `split_stratified`.

    Raises:
        RecipeError: There are too few samples for all parts, or a share is out of its range.
    """
    _check_shares(shares)
    if count < len(shares) + 2:
        raise RecipeError("rows", count, f"{len(shares) + 2} rows or more")
    if groups is not None and len(np.unique(groups)) <= len(shares):
        groups = None
    first_rows, group_of, weights = _number_by_first_row(count, groups)
    order = np.random.default_rng(0).permutation(len(first_rows))
    part = np.zeros(len(first_rows), np.int64)
    filled = _fill_parts(weights[order], _sizes(count, shares)[::-1])
    part[order] = np.where(filled > 0, len(shares) + 1 - filled, 0)
    return tuple(np.flatnonzero(part[group_of] == number) for number in range(len(shares) + 1))


def split_by_time(times: NDArray[Any], *shares: float) -> tuple[Rows, ...]:
    """Split samples in order of time: the last share is the last part; samples of one time are in one part.

    Args:
        times: (n,), sortable, without missing values.
        shares: See `split_stratified`.

    Raises:
        RecipeError: There are fewer different times than parts, or a share is out of its range.
    """
    _check_shares(shares)
    different, number, counts = np.unique(times, return_inverse=True, return_counts=True)
    if len(different) <= len(shares):
        raise RecipeError("times", f"{len(different)} different", f"{len(shares) + 1} or more")
    following = np.cumsum(counts[::-1])[::-1]  # samples at each time or later
    begins: list[int] = []
    for place in range(len(shares), 0, -1):
        wanted = sum(shares[place - 1 :]) * len(times)
        latest = (begins[-1] if begins else len(different)) - 1
        begins.append(min(max(place, int(np.abs(following - wanted).argmin())), latest))
    part = np.searchsorted(begins[::-1], number, side="right")
    return tuple(np.flatnonzero(part == place) for place in range(len(shares) + 1))


def _check_shares(shares: Sequence[float]) -> None:
    for share in (sum(shares), *shares):
        check_number("validation", share, "(0, 1)")


def _sizes(count: int, shares: Sequence[float]) -> list[int]:
    """Return the samples per part for a class of `count` samples, leaving at least one for training."""
    sizes = [max(1, round(share * count)) for share in shares]
    while sum(sizes) >= count:
        sizes[sizes.index(max(sizes))] -= 1
    return sizes


def _divide_scarce(classes: Rows, groups: Rows, parts: int) -> Rows:
    """Return groups in which each class has at least as many groups as there are parts.

    Where a class has fewer, each sample of a group that contains the class becomes a group.
    """
    first_rows, group_of, _ = _number_by_first_row(len(classes), groups)
    groups_of_class = np.bincount(classes[first_rows], minlength=int(classes.max()) + 1)
    scarce = groups_of_class[classes] < parts
    divided = np.isin(group_of, np.unique(group_of[scarce]))
    return np.where(divided, len(first_rows) + np.arange(len(classes)), group_of)


def _number_by_first_row(count: int, groups: Rows | None) -> tuple[Rows, Rows, Rows]:
    """Return the first row of each group, in order; the number of each row's group in this order; and group sizes."""
    groups = np.arange(count) if groups is None else groups
    _, firsts, inverse, sizes = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    order = np.argsort(firsts)
    return firsts[order], np.argsort(order)[inverse], sizes[order]


def _fill_parts(weights: Rows, sizes: Sequence[int]) -> Rows:
    """Return the part of each group, in the order given: 1 and up for those that fill a size, 0 for the others.

    A group that is larger than a part, or than what is free in every part, goes to part 0. If there are such, the other
    groups suffice for all parts. A part that has none gets the smallest.

    Args:
        weights: (n,), samples per group.
        sizes: Samples per part.
    """
    parts, free, large = np.zeros(len(weights), np.int64), list(sizes), weights > min(sizes)
    if large.any():
        free = [max(1, min(size, int(weights[~large].sum()) // (len(sizes) + 1))) for size in sizes]
    for index in np.flatnonzero(~large).tolist():
        place = next((place for place, space in enumerate(free) if weights[index] <= space), None)
        if place is not None:
            free[place] -= int(weights[index])
            parts[index] = place + 1
    for place in range(len(sizes)):
        unused = np.flatnonzero(parts == 0)
        if not (parts == place + 1).any() and len(unused) > 1:
            parts[unused[weights[unused].argmin()]] = place + 1
    return parts
