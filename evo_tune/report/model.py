"""What mattered: a forest over a run's results, and how much of their spread each gene explains. Numbers in and out.

Two views of importance. *Functional analysis of variance* (Hutter, Hoos & Leyton-Brown, An efficient approach for
assessing hyperparameter importance, ICML 2014): of the variance of the forest's prediction over the whole space, the
share that one gene explains alone, by its marginal, exact for each tree. *PED-ANOVA* (Watanabe, Bansal & Hutter,
PED-ANOVA: efficiently quantifying hyperparameter importance in arbitrary subspaces, IJCAI 2023): how far the best
tenth of the trials lie elsewhere along a gene than all of them do. The first looks at the space, the second at what
makes the best. Both are worked out over bootstraps of the trials, whose spread says how far to trust them.

This module knows features and losses, no trials, no genes and no runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import ClassVar

import numpy as np

from evo_tune.genome.forest import Forest
from evo_tune.genome.importance import ranks

__all__ = ["Model", "anova", "ped_anova"]

BOOTSTRAPS = 16
TREES = 5
"""Trees of one bootstrap: they differ by their random thresholds only."""

POINTS = 400
"""Most trials that the forest learns from, drawn at random where there are more."""

TOP = 0.1
"""Share of the trials that PED-ANOVA calls the best, but eight of them at the least."""

LEAST = 1e-3
"""Density that is taken to be anywhere, beside a kernel's 1 at its point."""

ROUNDING = 1e-9
"""Sum of divergences up to which none is any."""


@dataclass(frozen=True)
class Model:
    """A forest over trials, and what it says of each gene.

    Args:
        forest: Trees in the order of their bootstraps, `TREES` each.
        sizes: Number of values of each gene without order, 0 for one with an order. Shape (genes,).
        grids: Points along each gene, in unit coordinates.
        scores: Normal scores of the losses learned from, sorted, shape (points,).
        losses: The losses, sorted, shape (points,).
        anova: Share of the variance that each gene explains alone, shape (bootstraps, genes).
        ped: Share of each gene in what sets the best apart, shape (bootstraps, genes).
    """

    MOST_GENES: ClassVar[int] = 100

    forest: Forest
    sizes: np.ndarray
    grids: Sequence[np.ndarray]
    scores: np.ndarray
    losses: np.ndarray
    anova: np.ndarray
    ped: np.ndarray

    @classmethod
    def fit(
        cls,
        units: np.ndarray,
        losses: np.ndarray,
        sizes: np.ndarray,
        grids: Sequence[np.ndarray],
        rng: np.random.Generator,
    ) -> Model:
        """Learn from trials.

        Args:
            units: Unit coordinates, shape (trials, genes).
            losses: Shape (trials,); they have some spread.
            sizes: Number of values of each gene without order, 0 for one with an order. Shape (genes,).
            grids: Points along each gene, in unit coordinates: all of its values where it has few.
            rng: The only source of randomness.
        """
        if len(losses) > POINTS:
            kept = rng.choice(len(losses), POINTS, replace=False)
            kept[0] = np.argmin(losses)  # what the run found is not to be missing
            units, losses = units[np.unique(kept)], losses[np.unique(kept)]
        count = len(losses)
        scores = _normal(losses)
        samples = rng.integers(count, size=(BOOTSTRAPS, count))
        features = _features(units, sizes)
        forest = Forest.fit(features, scores, sizes, np.repeat(samples, TREES, axis=0), rng)
        order = np.argsort(losses, kind="stable")
        shares = anova(forest, sizes, [_features_along(grid, size) for grid, size in zip(grids, sizes, strict=True)])
        ped = np.stack([ped_anova(units[sample], losses[sample], sizes, grids) for sample in samples])
        by_bootstrap = shares.reshape(BOOTSTRAPS, TREES, -1).mean(axis=1)
        return cls(forest, sizes, grids, scores[order], losses[order], by_bootstrap, ped)

    def along(self, point: np.ndarray, gene: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the loss predicted where one gene moves and all others stay.

        Args:
            point: Unit coordinates of where they stay, shape (genes,).
            gene: Place of the gene.

        Returns:
            Along the gene's grid: the mean of the bootstraps, and between what bounds four fifths of them lie.
        """
        grid = self.grids[gene]
        points = np.tile(point, (len(grid), 1))
        points[:, gene] = grid
        found = self.forest.mean[self.forest.leaves(_features(points, self.sizes))]
        by_bootstrap = found.reshape(BOOTSTRAPS, TREES, -1).mean(axis=1)
        low, high = np.quantile(by_bootstrap, [0.1, 0.9], axis=0)
        return self._loss(by_bootstrap.mean(axis=0)), self._loss(low), self._loss(high)

    def _loss(self, scores: np.ndarray) -> np.ndarray:
        return np.asarray(np.interp(scores, self.scores, self.losses))


def _normal(losses: np.ndarray) -> np.ndarray:
    """Return normal scores: losses have long tails, of which a mean would tell more than of all else."""
    normal = NormalDist()
    places = (ranks(losses) - 0.5) / len(losses)
    return np.array([normal.inv_cdf(float(place)) for place in places])


def _features(units: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return unit coordinates with genes without order as indices of their values, shape (points, genes)."""
    return np.where(sizes > 0, np.minimum(np.floor(units * sizes), sizes - 1), units)


def _features_along(grid: np.ndarray, size: int) -> np.ndarray:
    return np.minimum(np.floor(grid * size), size - 1) if size else grid


def anova(forest: Forest, sizes: np.ndarray, grids: Sequence[np.ndarray]) -> np.ndarray:
    """Return the share of each tree's variance that each gene explains alone, shape (trees, genes).

    The space is the product of the grids, each point of which weighs the same. A leaf is a box in it, so a marginal is
    a sum over leaves of what they predict, each weighed by its size along all the other genes.

    Args:
        forest: Its trees.
        sizes: Number of values of each gene without order, 0 for one with an order. Shape (genes,).
        grids: Points along each gene, as features.
    """
    tree, mean, low, high = _boxes(forest, len(sizes))
    starts = np.flatnonzero(np.diff(tree, prepend=-1))
    inside = [_inside(forest, tree, low, high, gene, grid) for gene, grid in enumerate(grids)]
    width = np.stack([mask.mean(axis=1) for mask in inside], axis=1)
    before = np.cumprod(np.column_stack([np.ones(len(width)), width[:, :-1]]), axis=1)
    after = np.cumprod(np.column_stack([np.ones(len(width)), width[:, :0:-1]]), axis=1)[:, ::-1]
    others, volume = before * after, width.prod(axis=1)
    centre = np.add.reduceat(mean * volume, starts)
    total = np.add.reduceat(
        volume * (mean - centre[np.searchsorted(starts, np.arange(len(tree)), "right") - 1]) ** 2, starts
    )
    alone = []
    for gene, mask in enumerate(inside):
        marginal = np.add.reduceat((mean * others[:, gene])[:, None] * mask, starts, axis=0)
        alone.append(marginal.var(axis=1))
    return np.stack(alone, axis=1) / np.where(total > 0, total, 1.0)[:, None]


def _boxes(forest: Forest, genes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return each leaf's tree and mean, shape (leaves,), and the bounds of its box, shape (leaves, genes), by tree."""
    nodes, trees = len(forest.left), len(forest.relabel)
    tree = np.zeros(nodes, dtype=int)
    low, high = np.full((nodes, genes), -np.inf), np.full((nodes, genes), np.inf)
    front = np.arange(trees)
    tree[front] = front
    leaf = forest.left == np.arange(nodes)
    while len(front := front[~leaf[front]]):
        left, feature, threshold = forest.left[front], forest.feature[front], forest.threshold[front]
        for child in (left, left + 1):
            low[child], high[child], tree[child] = low[front], high[front], tree[front]
        high[left, feature] = np.minimum(high[left, feature], threshold)
        low[left + 1, feature] = np.maximum(low[left + 1, feature], threshold)
        front = np.concatenate([left, left + 1])
    leaves = np.flatnonzero(leaf)
    leaves = leaves[np.argsort(tree[leaves], kind="stable")]
    return tree[leaves], forest.mean[leaves], low[leaves], high[leaves]


def _inside(
    forest: Forest, tree: np.ndarray, low: np.ndarray, high: np.ndarray, gene: int, grid: np.ndarray
) -> np.ndarray:
    """Return whether the points of a gene's grid lie in each leaf's box, shape (leaves, points)."""
    values = forest.relabel[tree, gene][:, grid.astype(int)] if forest.unordered[gene] else grid[None, :]
    return np.asarray((values > low[:, gene, None]) & (values <= high[:, gene, None]))


def ped_anova(units: np.ndarray, losses: np.ndarray, sizes: np.ndarray, grids: Sequence[np.ndarray]) -> np.ndarray:
    """Return each gene's share in what sets the best trials apart from all, shape (genes,); it sums to 1.

    The Pearson divergence between the density of the best along a gene and that of all (equation 15 there, normalised).

    Args:
        units: Unit coordinates, shape (trials, genes).
        losses: Shape (trials,).
        sizes: Number of values of each gene without order, 0 for one with an order. Shape (genes,).
        grids: Points along each gene, in unit coordinates.
    """
    top = np.argsort(losses, kind="stable")[: max(8, math.ceil(TOP * len(losses)))]
    found = []
    for gene, grid in enumerate(grids):
        every = _density(units[:, gene], grid, int(sizes[gene]))
        best = _density(units[top, gene], grid, int(sizes[gene]))
        found.append(float((every * (best / every - 1.0) ** 2).sum()))
    total = sum(found)
    return np.array(found) / total if total > ROUNDING else np.zeros(len(grids))


def _density(units: np.ndarray, grid: np.ndarray, size: int) -> np.ndarray:
    """Return the density of points along a gene's grid, above 0, summing to 1. Shape (grid,)."""
    if size or len(grid) < 8:  # values that are told apart, and a little of all others
        nearest = np.abs(units[:, None] - grid[None, :]).argmin(axis=1)
        counts = np.bincount(nearest, minlength=len(grid)) / len(units) + 0.05 / len(grid)
        return np.asarray(counts / counts.sum())
    width = max(float(units.std()) * len(units) ** -0.2, 0.5 / len(grid))  # Scott's rule
    kernels = np.exp(-0.5 * ((units[:, None] - grid[None, :]) / width) ** 2).mean(axis=0) + LEAST
    return np.asarray(kernels / kernels.sum())
