"""Extremely randomised trees in numpy: a model of tens or hundreds of trials that fits in milliseconds.

All trees grow together, one level at a time, so that numpy and not Python visits the nodes. Strategies use the model to
choose trials, and reports use it to rate genes. This module knows points and scores only, not trials, genes or
strategies.

Sources: Geurts, Ernst & Wehenkel, Extremely randomized trees, Machine Learning 63 (2006); Hutter, Hoos &
Leyton-Brown, SMAC (LION 5, 2011), for the deviation between trees as uncertainty.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Share of the features that compete at a node. It makes trees differ, and their deviation is the uncertainty.
FEATURES = 0.5


@dataclass(frozen=True)
class Forest:
    """Trees as arrays over all of their nodes; tree t has its root at node t.

    A leaf is its own child, so that all points can descend together, as many steps as the tallest tree has.

    Args:
        feature: Feature compared at a node, shape (nodes,).
        threshold: Value above which points go right; infinite at a leaf. Shape (nodes,).
        left_child: Left child, followed by the right one; at a leaf the leaf itself. Shape (nodes,).
        mean: Mean score of the points at a node, shape (nodes,).
        category_order: Each tree's own order of the values of unordered features (see `fit`). Shape (trees, features,
            values).
        unordered: Whether a feature has no order, shape (features,).
        depth: Steps from a root to the deepest leaf.
    """

    feature: np.ndarray
    threshold: np.ndarray
    left_child: np.ndarray
    mean: np.ndarray
    category_order: np.ndarray
    unordered: np.ndarray
    depth: int

    @classmethod
    def fit(
        cls, points: np.ndarray, scores: np.ndarray, sizes: np.ndarray, samples: np.ndarray, rng: np.random.Generator
    ) -> Forest:
        """Grow one tree for each row of `samples`, down to pure leaves.

        A feature without order is split by a random order of its values, drawn for each tree.

        Args:
            points: Features of the points; those without order are whole numbers from 0. Shape (points, features).
            scores: Scores to predict, shape (points,).
            sizes: Number of values of each feature without order, 0 for one with an order. Shape (features,).
            samples: Indices of the points that each tree sees, shape (trees, sampled).
            rng: The only source of randomness.
        """
        trees, sampled = samples.shape
        widest = max(1, int(sizes.max()))
        category_order = np.tile(np.arange(widest, dtype=np.float64), (trees, len(sizes), 1))
        for place in np.flatnonzero(sizes):
            size = int(sizes[place])
            category_order[:, place, :size] = np.argsort(rng.random((trees, size)), axis=1)
        # Rows of all trees, sorted by node.
        x = _relabel(points[samples], category_order, sizes > 0).reshape(trees * sampled, -1)
        y, node = scores[samples].ravel(), np.repeat(np.arange(trees), sampled)
        levels = []
        first = 0  # index of this level's first node
        while len(y):
            starts = np.flatnonzero(np.diff(node, prepend=-1))
            local = np.cumsum(np.diff(node, prepend=node[0]) > 0)  # each row's node within this level
            counts = np.diff(starts, append=len(y))
            sums = np.add.reduceat(y, starts)
            # One threshold is drawn for each feature, uniformly between its least and greatest value at the node.
            # Among a random share of the features, the split with the least squared error wins.
            low, high = np.minimum.reduceat(x, starts), np.maximum.reduceat(x, starts)
            thresholds = low + rng.random(low.shape) * (high - low)
            usable = (low <= thresholds) & (thresholds < high)
            at_left = (x <= thresholds[local]).astype(np.float64)
            left_counts = np.add.reduceat(at_left, starts)
            left_sums = np.add.reduceat(at_left * y[:, None], starts)
            with np.errstate(divide="ignore", invalid="ignore"):
                gain = left_sums**2 / left_counts + (sums[:, None] - left_sums) ** 2 / (counts[:, None] - left_counts)
            # Features outside the share compete only if no feature in it varies.
            draws = np.where(usable, rng.random(low.shape), 2.0)
            limit = np.sort(draws, axis=1)[:, max(0, round(FEATURES * low.shape[1]) - 1)][:, None]
            feature = np.argmax(np.where(usable & (draws <= limit), gain, -np.inf), axis=1)
            threshold = thresholds[np.arange(len(starts)), feature]
            splits = (np.minimum.reduceat(y, starts) < np.maximum.reduceat(y, starts)) & usable.any(axis=1)
            own_nodes = first + np.arange(len(starts))
            children = first + len(starts) + 2 * (np.cumsum(splits) - splits)
            limits, child_nodes = np.where(splits, threshold, np.inf), np.where(splits, children, own_nodes)
            levels.append((feature, limits, child_nodes, sums / counts))
            first += len(starts)
            goes_on = splits[local]
            x, y, local = x[goes_on], y[goes_on], local[goes_on]
            right = x[np.arange(len(y)), feature[local]] > threshold[local]
            node = children[local] + right
            order = np.argsort(node, kind="stable")
            x, y, node = x[order], y[order], node[order]
        features, thresholds, children, means = (np.concatenate(parts) for parts in zip(*levels, strict=True))
        return cls(features, thresholds, children, means, category_order, sizes > 0, len(levels) - 1)

    def predict(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and variance over the trees of the score of each point, both of shape (points,)."""
        scores = self.mean[self.leaves(points)]
        return scores.mean(axis=0), scores.var(axis=0)

    def leaves(self, points: np.ndarray) -> np.ndarray:
        """Return the leaf of each point in each tree, shape (trees, points)."""
        trees, count = len(self.category_order), len(points)
        x = np.broadcast_to(points, (trees, *points.shape))
        flat = _relabel(x, self.category_order, self.unordered).ravel()
        features = points.shape[1]
        rows = np.arange(trees * count) * features
        node = np.repeat(np.arange(trees), count)
        for _ in range(self.depth):
            node = self.left_child[node] + (flat[rows + self.feature[node]] > self.threshold[node])
        return node.reshape(trees, count)


def _relabel(x: np.ndarray, category_order: np.ndarray, unordered: np.ndarray) -> np.ndarray:
    """Return features of shape (trees, points, features) with unordered values in each tree's own order."""
    if not unordered.any():
        return x
    x = x.copy()
    trees = np.arange(len(x))[:, None]
    for place in np.flatnonzero(unordered):
        x[:, :, place] = category_order[trees, place, x[:, :, place].astype(np.intp)]
    return x
