"""Gradient boosting of decision trees on histograms.

Each step adds a tree for each score. A tree minimises the second-order expansion of the loss (Chen & Guestrin, XGBoost,
KDD 2016, equations 6 and 7). A leaf with gradients of sum G and second derivatives of sum H has the value −G / (H + λ).
Numbers are divided into bins by their quantiles, and splits are between bins (Ke et al., LightGBM, NIPS 2017). Trees
grow level by level to one depth, so a tree is three arrays without pointers, which a stranger's file cannot make
circular. A missing number is below all others. The categories of a column are ordered once, by the mean gradient of
their rows before the first tree; those with few rows count as one. With two classes or a real number there is one tree
in a step, otherwise one for each class.

scikit-learn's trees of this kind cannot be saved without pickle: their arrays are private.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evo_tune.training.models.fitted import FitRows, FittedModel, Floats
from evo_tune.training.recipe.families import TreesConfig

# Rows of a category below which it is counted together with all others of the kind.
FEWEST_ROWS = 5

# Smallest gain of a split: smaller ones are rounding.
LEAST_GAIN = 1e-9

# Smallest λ, which keeps a leaf without rows finite.
LEAST_L2 = 1e-9


@dataclass(frozen=True)
class Tree:
    """A tree of one depth d; the children of node i are 2i + 1 and 2i + 2.

    Args:
        feature: (2^d − 1,), column of each split.
        threshold: (2^d − 1,), largest bin that goes to the first child.
        value: (2^d,), value of each leaf.
    """

    feature: NDArray[np.int64]
    threshold: NDArray[np.int64]
    value: Floats

    def leaves(self, bins: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return the leaf of each row, (n,), of bins (n, columns)."""
        rows, node = np.arange(len(bins)), np.zeros(len(bins), np.int64)
        for _ in range(len(self.value).bit_length() - 1):
            node = 2 * node + 1 + (bins[rows, self.feature[node]] > self.threshold[node])
        return node - len(self.feature)


@dataclass(frozen=True)
class Growth:
    """How a tree grows.

    Args:
        depth: Splits from the root to a leaf.
        bins: Largest number of bins of a column.
        leaf_rows: Fewest rows in a leaf.
        l2: λ of the leaves' values, above 0.
    """

    depth: int
    bins: int
    leaf_rows: int
    l2: float

    def grow(self, bins: NDArray[np.uint8], columns: NDArray[np.int64], gradient: Floats, hessian: Floats) -> Tree:
        """Return the tree that fits gradients.

        Args:
            bins: (n, columns), the bin of each number.
            columns: Columns that may split.
            gradient: (n,), first derivatives of the loss of each row by its score.
            hessian: (n,), second derivatives, above 0.
        """
        flat = bins[:, columns].astype(np.int64) + np.arange(len(columns)) * self.bins
        feature, threshold = np.zeros(2**self.depth - 1, np.int64), np.full(2**self.depth - 1, self.bins, np.int64)
        node, live, parents = np.zeros(len(bins), np.int64), np.zeros(1, np.int64), None
        for level in range(self.depth):  # the nodes that may still be split are live
            slot_of_node = np.full(2**level, -1)
            slot_of_node[live] = np.arange(len(live))
            slot = slot_of_node[node]
            sums = self._histograms(flat, slot, len(live), gradient, hessian, parents)
            split, place = self._best_splits(sums)
            feature[2**level - 1 + live], threshold[2**level - 1 + live] = columns[split], place
            rows = np.flatnonzero(slot >= 0)
            node *= 2
            node[rows] += flat[rows, split[slot[rows]]] - split[slot[rows]] * self.bins > place[slot[rows]]
            grown = np.flatnonzero(place < self.bins)
            live, parents = (2 * live[grown, None] + np.arange(2)).ravel(), sums[:, grown]
            if not len(live):
                node *= 2 ** (self.depth - 1 - level)
                break
        gradients, hessians = (np.bincount(node, part, 2**self.depth) for part in (gradient, hessian))
        return Tree(feature, threshold, -gradients / (hessians + self.l2))

    def _histograms(
        self,
        flat: NDArray[np.int64],
        slot: NDArray[np.int64],
        nodes: int,
        gradient: Floats,
        hessian: Floats,
        parents: Floats | None,
    ) -> Floats:
        """Return the sums of gradients, of second derivatives and of rows in each bin, (3, nodes, columns, bins).

        Only the smaller child of each parent is counted; the larger one is the rest of the parent.

        Args:
            flat: (n, columns), bins, counted over all columns.
            slot: (n,), live node of each row, −1: none.
            nodes: Number of live nodes.
            gradient: See `grow`.
            hessian: See `grow`.
            parents: Sums of the parents of each pair of live nodes; None for the root.
        """
        is_counted = np.ones(nodes + 1, bool)
        is_counted[-1] = False  # the place of slot −1
        if parents is not None:
            pairs = np.bincount(slot[slot >= 0], minlength=nodes).reshape(-1, 2)
            is_counted[:-1] = (pairs <= pairs[:, ::-1]).ravel()
            is_counted[1:-1:2] &= pairs[:, 0] != pairs[:, 1]
        rows = np.flatnonzero(is_counted[slot])
        width = flat.shape[1] * self.bins
        keys = (flat[rows] + (slot[rows] * width)[:, None]).ravel()
        parts = [np.repeat(part[rows], flat.shape[1]) for part in (gradient, hessian)]
        counts = [np.bincount(keys, part, nodes * width) for part in (*parts, None)]
        sums: Floats = np.stack(counts).astype(np.float64).reshape(3, nodes, flat.shape[1], self.bins)
        if parents is not None:
            larger = np.flatnonzero(~is_counted[:-1])
            sums[:, larger] = parents[:, larger // 2] - sums[:, larger ^ 1]
        return sums

    def _best_splits(self, sums: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the column and the last bin of the first child of each node; the number of bins if no split gains."""
        left = sums.cumsum(3)
        total = left[:, :, :, -1:]
        right = total - left
        gain: Floats = left[0] ** 2 / (left[1] + self.l2) + right[0] ** 2 / (right[1] + self.l2)
        gain[(left[2] < self.leaf_rows) | (right[2] < self.leaf_rows)] = 0.0
        gain = gain.reshape(len(gain), -1)
        best = gain.argmax(1)
        whole = total[0, :, 0, 0] ** 2 / (total[1, :, 0, 0] + self.l2)
        has_gain = gain[np.arange(len(gain)), best] > whole + LEAST_GAIN
        return best // self.bins, np.where(has_gain, best % self.bins, self.bins)


class BoostedTrees(FittedModel):
    """Boosted trees; see `FittedModel` for the arguments."""

    config_class = TreesConfig
    config: TreesConfig
    feature: Tensor
    threshold: Tensor
    value: Tensor
    bias: Tensor
    order: Tensor

    def build(self, config: TreesConfig) -> None:
        splits, trees = 2**config.levels - 1, config.rounds * config.scores
        self.register_buffer("feature", torch.zeros(trees, splits, dtype=torch.int32))
        self.register_buffer("threshold", torch.zeros(trees, splits))
        self.register_buffer("value", torch.zeros(trees, splits + 1))
        self.register_buffer("bias", torch.zeros(config.scores))
        # Number that takes the place of each category.
        self.register_buffer("order", torch.zeros(config.positions))
        self._trees: list[Tree] = []
        self._cuts: list[NDArray[np.float32]] = []

    def check(self) -> None:
        if self.feature.numel() and not 0 <= int(self.feature.min()) <= int(self.feature.max()) < self.config.columns:
            raise ValueError(f"a split by a column that is not among the {self.config.columns} columns")

    def forward(self, rows: Tensor) -> Tensor:
        """Return outputs, (batch, outputs), of rows as `Columns.encode` gives them, (batch, columns)."""
        numbers, scores = self._numbers(rows), self.config.scores
        trees, splits = self.feature.shape
        feature, threshold = self.feature.long().ravel(), self.threshold.ravel()
        start = torch.arange(trees) * splits
        node = torch.zeros(len(rows), trees, dtype=torch.int64)
        for _ in range(self.config.levels):
            place = start + node
            node = 2 * node + 1 + (numbers.gather(1, feature[place]) > threshold[place]).long()
        values = self.value.ravel()[torch.arange(trees) * (splits + 1) + node - splits]
        sums = values.double().view(len(rows), self.config.rounds, scores).sum(1)
        return self.outputs(self.bias + sums.float())

    def _numbers(self, rows: Tensor) -> Tensor:
        """Return rows as numbers that trees compare: categories by their order, missing numbers below all others."""
        numeric = rows[:, : self.config.numeric].float()
        numeric = torch.where(numeric.isnan(), -torch.inf, numeric)
        return torch.cat((numeric, self.order[self.places(rows)]), 1)

    def fit(self, rows: FitRows, genome: Mapping[str, Any], steps: int, seed: int) -> Iterator[Floats]:
        rng, loss = np.random.default_rng(seed), _Loss(rows.targets, rows.weights, self.config.scores)
        self._trees = []
        self.bias.copy_(torch.from_numpy(loss.bias))
        scores = np.tile(loss.bias, (len(rows.inputs), 1))
        held_out = np.tile(loss.bias, (len(rows.held_out), 1))
        self._order_categories(rows, loss.derivatives(scores)[0])
        numbers, held_out_numbers = (self._numbers(torch.from_numpy(x)).numpy() for x in (rows.inputs, rows.held_out))
        self._cuts = [_cuts(column, genome["bins"]) for column in numbers.T]
        bins, held_out_bins = (self._bins(x) for x in (numbers, held_out_numbers))
        most_bins = max(map(len, self._cuts)) + 1
        l2 = max(LEAST_L2, genome["leaf_l2"])
        growth = Growth(genome["tree_depth"], most_bins, genome["leaf_rows"], l2)
        usable = np.flatnonzero([len(cuts) > 0 for cuts in self._cuts])
        count = max(1, round(genome["row_share"] * len(bins)))
        width = max(1, round(genome["column_share"] * len(usable)))
        for _ in range(steps):
            chosen = np.sort(rng.permutation(len(bins))[:count])
            columns = np.sort(rng.permutation(usable)[:width]) if len(usable) else np.zeros(1, np.int64)
            gradients, hessians = loss.derivatives(scores)
            for score in range(self.config.scores):
                tree = growth.grow(bins[chosen], columns, gradients[chosen, score], hessians[chosen, score])
                tree = Tree(tree.feature, tree.threshold, genome["shrinkage"] * tree.value)
                scores[:, score] += tree.value[tree.leaves(bins)]
                held_out[:, score] += tree.value[tree.leaves(held_out_bins)]
                self._trees.append(tree)
            yield self.outputs(torch.from_numpy(held_out)).numpy()

    def state(self) -> int:
        return len(self._trees)

    def finish(self, state: int) -> None:
        trees, cuts, bias, order = self._trees[:state], self._cuts, self.bias, self.order
        self.config = replace(self.config, rounds=state // self.config.scores)
        self.build(self.config)
        self.bias, self.order = bias, order
        # Number between the last bin of the first child and the next bin; where there is none, all rows are below it.
        limits = np.full((len(cuts), np.iinfo(np.uint8).max + 1), np.inf, np.float32)
        for column, numbers in enumerate(cuts):
            limits[column, : len(numbers)] = numbers
        for row, tree in enumerate(trees):
            self.feature[row] = torch.from_numpy(tree.feature)
            self.threshold[row] = torch.from_numpy(limits[tree.feature, tree.threshold])
            self.value[row] = torch.from_numpy(tree.value)

    def _bins(self, numbers: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Return the bin of each number: how many cuts are below it."""
        columns = [
            np.searchsorted(cuts, column, side="left") for cuts, column in zip(self._cuts, numbers.T, strict=True)
        ]
        return np.stack(columns, 1).astype(np.uint8)

    def _order_categories(self, rows: FitRows, gradients: Floats) -> None:
        """Number the categories of each column by the mean gradient of their training rows.

        With several scores the gradients are projected on their main direction. Category 0 is a missing or unknown one.
        """
        main = gradients[:, 0]
        if gradients.shape[1] > 1:
            main = gradients @ np.linalg.svd(gradients.T @ gradients)[0][:, 0]
        order = np.zeros(self.config.positions, np.float32)
        starts = self.first.tolist()
        for column, (start, number) in enumerate(zip(starts, self.config.categories, strict=True)):
            category = rows.inputs[:, self.config.numeric + column].astype(np.int64)
            counts = np.bincount(category, minlength=number + 1)
            means = np.bincount(category, main, number + 1) / np.maximum(counts, 1)
            frequent = np.flatnonzero(counts >= FEWEST_ROWS)
            order[start + frequent[np.argsort(means[frequent], kind="stable")]] = np.arange(1, len(frequent) + 1)
        self.order.copy_(torch.from_numpy(order))


def _cuts(column: NDArray[np.float32], bins: int) -> NDArray[np.float32]:
    """Return numbers that divide a column into at most so many bins of about equally many rows.

    They are between two neighbours of the column's different numbers; a missing number is −∞.
    """
    values, counts = np.unique(column, return_counts=True)
    if len(values) > bins:
        above = np.cumsum(counts)[:-1] / counts.sum() * bins
        ends = np.flatnonzero(np.diff(np.floor(np.concatenate(([0.0], above)))) > 0)[: bins - 1]
    else:
        ends = np.arange(len(values) - 1)
    low, high = values[ends], values[ends + 1]
    with np.errstate(invalid="ignore", over="ignore"):  # of a missing number, and of very large ones
        middle = low + (high - low) / 2
    return np.where(middle < high, middle, low).astype(np.float32)


class _Loss:
    """The loss of rows by their scores: log-loss of two or of more classes, or half the squared error.

    Args:
        targets: (n,), class numbers, or real numbers.
        weights: (n,), weight of each row.
        scores: Number of scores.
    """

    def __init__(self, targets: NDArray[Any], weights: Floats, scores: int) -> None:
        self.weights = weights[:, None]
        self.of_classes = np.issubdtype(targets.dtype, np.integer)
        self.truth = targets[:, None].astype(np.float64)
        if self.of_classes and scores > 1:
            self.truth = np.eye(scores)[targets]
        mean = np.average(self.truth, axis=0, weights=weights)
        share = np.clip(mean, 1e-6, 1.0 - 1e-6)
        self.bias: Floats = mean if not self.of_classes else np.log(share) - (np.log1p(-share) if scores == 1 else 0.0)

    def derivatives(self, scores: Floats) -> tuple[Floats, Floats]:
        """Return the first and second derivatives of each row's loss by its scores, (n, scores)."""
        if not self.of_classes:
            return self.weights * (scores - self.truth), np.broadcast_to(self.weights, scores.shape)
        if scores.shape[1] == 1:
            shares = 1.0 / (1.0 + np.exp(-np.clip(scores, -40.0, 40.0)))
        else:
            powers = np.exp(scores - scores.max(1, keepdims=True))
            shares = powers / powers.sum(1, keepdims=True)
        hessian = np.maximum(shares * (1.0 - shares), 1e-12)
        return self.weights * (shares - self.truth), self.weights * hessian
