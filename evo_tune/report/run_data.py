"""The data of a report's charts: one run, read once, and a model of its results. Draws nothing.

`ImportanceModel` says which genes mattered by functional analysis of variance: the share of the variance of a forest's
prediction over the whole space that a gene explains alone. The marginal of each tree is exact. The spread over
bootstraps of the trials says how reliable the shares are.

Source: Hutter, Hoos & Leyton-Brown, An efficient approach for assessing hyperparameter importance (ICML 2014).
"""

import math
from collections.abc import Sequence
from functools import cached_property
from statistics import NormalDist

import numpy as np

from evo_tune.genome.forest import Forest
from evo_tune.genome.genes import Choice, Gene
from evo_tune.genome.trial import Objective, Trial
from evo_tune.genome.values import ranks
from evo_tune.report import summary
from evo_tune.report.summary import RunResult
from evo_tune.store.run import Run

# Charts leave out values beyond this size: their sums overflow.
MAX_ABSOLUTE_LOSS = 1e300

# Most points of a gene's grid.
MAX_GRID_POINTS = 48

# Most genes of a space that the model learns.
MOST_GENES = 100

BOOTSTRAPS = 16

# Trees for each bootstrap; they differ in their random thresholds only.
TREES = 5

# Most trials that the forest learns from; of more, a random sample.
MAX_FIT_TRIALS = 400


class RunData:
    """One run, read once.

    Args:
        run: The run. While it continues, a value that was computed once stays the same.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.name = run.name
        self.genes: dict[str, Gene] = run.genes
        # Index of each gene in `ranked_units`, by name.
        self.gene_indices = {name: index for index, name in enumerate(self.genes)}
        # The first objective, by which single values are compared, and its metric.
        self.objective: Objective = run.objectives[0]
        self.metric = self.objective.metric
        # All recorded trials, ordered by id.
        self.trials = run.trials()
        # Fully trained trials, best first (see `Run.ranked`), without losses beyond `MAX_ABSOLUTE_LOSS`.
        losses_by_trial = ((trial, trial.losses or (math.inf,)) for trial in run.ranked())
        self.ranked_trials = [trial for trial, losses in losses_by_trial if max(map(abs, losses)) < MAX_ABSOLUTE_LOSS]
        # Their first objective, to be minimised, shape (ranked trials,).
        self.ranked_losses = np.array([trial.losses[0] for trial in self.ranked_trials if trial.losses], dtype=float)
        # Their unit coordinates, shape (ranked trials, genes).
        self.ranked_units = self.encode_trials(self.ranked_trials)
        # Loss above which charts draw all results at their edge, far above the upper quartile; NaN without results.
        self.edge_loss = math.nan
        if len(self.ranked_losses):
            lowest, upper_quartile = np.quantile(self.ranked_losses, [0.0, 0.75])
            self.edge_loss = float(min(self.ranked_losses.max(), upper_quartile + (upper_quartile - lowest)))

    def chart_values(self, losses: np.ndarray) -> np.ndarray:
        """Return values of the first objective, with losses beyond `edge_loss` at the edge of the chart."""
        return np.asarray(self.objective.sign * np.minimum(losses, self.edge_loss))

    def encode_trials(self, trials: Sequence[Trial]) -> np.ndarray:
        """Return the unit coordinates of some trials, shape (trials, genes)."""
        units = [[gene.encode(trial.genome[name]) for name, gene in self.genes.items()] for trial in trials]
        return np.array(units, dtype=float).reshape(len(trials), len(self.genes))

    @cached_property
    def result(self) -> RunResult:
        """The run's result (see `summary.RunResult`)."""
        return RunResult(self.run)

    @cached_property
    def importance_model(self) -> "ImportanceModel | None":
        """A model of `ranked_trials`; None for too few trials, too many genes, or losses that do not differ."""
        has_enough_trials = len(self.ranked_trials) >= summary.MIN_TRIALS_FOR_IMPORTANCE
        if not has_enough_trials or len(self.genes) > MOST_GENES or np.ptp(self.ranked_losses) == 0:
            return None
        category_counts = np.array([gene.size if is_unordered(gene) else 0 for gene in self.genes.values()], dtype=int)
        grids = []  # each of a gene's values if they are few, else values that are evenly spaced
        for gene in self.genes.values():
            count = int(min(gene.size, MAX_GRID_POINTS))
            units = ((np.arange(count) + 0.5) / count).tolist()
            grids.append(np.unique([gene.encode(gene.decode(unit)) for unit in units]))
        rng = np.random.default_rng(0)
        return ImportanceModel(self.ranked_units, self.ranked_losses, category_counts, grids, rng)

    @cached_property
    def genes_by_importance(self) -> list[str]:
        """Genes with more than one value, the most important first if that is known."""
        names = [name for name, gene in self.genes.items() if gene.size > 1]
        if self.importance_model is None:
            return names
        share = dict(zip(self.genes, self.importance_model.anova_shares.mean(axis=0), strict=True))
        return sorted(names, key=lambda name: -share[name])


def is_unordered(gene: Gene) -> bool:
    """Return whether a gene's values have no order."""
    return isinstance(gene, Choice) and not gene.ordered


# Which genes mattered.


def mean_and_interval(bootstraps: np.ndarray) -> np.ndarray:
    """Return the mean of values of shape (bootstraps, points) and their 80 % interval, shape (3, points)."""
    return np.stack([bootstraps.mean(axis=0), *np.quantile(bootstraps, [0.1, 0.9], axis=0)])


class ImportanceModel:
    """A forest fitted to trials, and the importance of each gene.

    Args:
        units: Unit coordinates, shape (trials, genes).
        losses: Losses that are not all the same, shape (trials,).
        category_counts: Number of values of each unordered gene, 0 for an ordered one. Shape (genes,).
        grids: Points along each gene, in unit coordinates.
        rng: Source of randomness.
    """

    def __init__(
        self,
        units: np.ndarray,
        losses: np.ndarray,
        category_counts: np.ndarray,
        grids: Sequence[np.ndarray],
        rng: np.random.Generator,
    ) -> None:
        if len(losses) > MAX_FIT_TRIALS:
            indices = rng.choice(len(losses), MAX_FIT_TRIALS, replace=False)
            indices[0] = np.argmin(losses)  # always include the best
            units, losses = units[np.unique(indices)], losses[np.unique(indices)]
        trial_count = len(losses)
        # Normal scores, because losses have long tails, which would dominate a mean
        scores = np.array([NormalDist().inv_cdf(quantile) for quantile in (ranks(losses) - 0.5) / trial_count])
        samples = rng.integers(trial_count, size=(BOOTSTRAPS, trial_count))
        features = _features(units, category_counts)
        self.category_counts, self.grids = category_counts, grids
        # Trees ordered by bootstrap, `TREES` for each.
        self.forest = Forest.fit(features, scores, category_counts, np.repeat(samples, TREES, axis=0), rng)
        # The scores and the losses, sorted, each of shape (trials,).
        self.scores, self.losses = np.sort(scores), np.sort(losses)
        feature_grids = [_features(grid, count) for grid, count in zip(grids, category_counts, strict=True)]
        shares_by_tree = anova(self.forest, feature_grids)
        # Share of the variance that each gene explains alone, shape (bootstraps, genes).
        self.anova_shares = shares_by_tree.reshape(BOOTSTRAPS, TREES, -1).mean(axis=1)

    def predict_along(self, point: np.ndarray, gene: int) -> np.ndarray:
        """Return the predicted losses along one gene's grid while all other genes keep their values.

        Args:
            point: Unit coordinates of all genes, shape (genes,).
            gene: Index of the gene that varies.

        Returns:
            See `mean_and_interval`.
        """
        grid = self.grids[gene]
        points = np.tile(point, (len(grid), 1))
        points[:, gene] = grid
        # Normal scores of shape (trees, points); the trees are ordered by bootstrap.
        predictions = self.forest.mean[self.forest.leaves(_features(points, self.category_counts))]
        scores = mean_and_interval(predictions.reshape(BOOTSTRAPS, TREES, -1).mean(axis=1))
        return np.asarray(np.interp(scores, self.scores, self.losses))


def _features(units: np.ndarray, category_counts: np.ndarray) -> np.ndarray:
    """Return unit coordinates with unordered genes as indices of their values, shape (points, genes)."""
    return np.where(category_counts > 0, np.minimum(np.floor(units * category_counts), category_counts - 1), units)


def anova(forest: Forest, grids: Sequence[np.ndarray]) -> np.ndarray:
    """Return the share of each tree's variance that each gene explains alone, shape (trees, genes).

    The space is the product of the grids, whose points have equal weight. A leaf is a box in it, so a marginal is the
    sum of the leaves' predictions, weighted by their size along all other genes.

    Args:
        forest: The forest.
        grids: Points along each gene, as features.
    """
    tree, mean, low, high = _boxes(forest, len(grids))
    starts = np.flatnonzero(np.diff(tree, prepend=-1))
    is_inside_by_gene = []  # whether each point of a gene's grid is in each leaf's box, each of shape (leaves, points)
    for gene, grid in enumerate(grids):
        values = forest.category_order[tree, gene][:, grid.astype(int)] if forest.unordered[gene] else grid[None, :]
        is_inside_by_gene.append((values > low[:, gene, None]) & (values <= high[:, gene, None]))
    width = np.stack([mask.mean(axis=1) for mask in is_inside_by_gene], axis=1)
    before = np.cumprod(np.column_stack([np.ones(len(width)), width[:, :-1]]), axis=1)
    after = np.cumprod(np.column_stack([np.ones(len(width)), width[:, :0:-1]]), axis=1)[:, ::-1]
    volume_of_other_genes = before * after  # products of the widths of the genes before and after each
    volume = width.prod(axis=1)
    mean_by_tree = np.add.reduceat(mean * volume, starts)  # the volumes of a tree's leaves sum to 1
    tree_of_leaf = np.searchsorted(starts, np.arange(len(tree)), "right") - 1
    total = np.add.reduceat(volume * (mean - mean_by_tree[tree_of_leaf]) ** 2, starts)
    marginal_variances = []
    for gene, mask in enumerate(is_inside_by_gene):
        marginal = np.add.reduceat((mean * volume_of_other_genes[:, gene])[:, None] * mask, starts, axis=0)
        marginal_variances.append(marginal.var(axis=1))
    return np.stack(marginal_variances, axis=1) / np.where(total > 0, total, 1.0)[:, None]


def _boxes(forest: Forest, genes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return tree and mean of each leaf, shape (leaves,), and its box's bounds, shape (leaves, genes), by tree."""
    nodes, trees = len(forest.left_child), len(forest.category_order)
    tree_of_node = np.zeros(nodes, dtype=int)
    low, high = np.full((nodes, genes), -np.inf), np.full((nodes, genes), np.inf)
    level_nodes = np.arange(trees)
    tree_of_node[level_nodes] = level_nodes  # the first nodes are the roots, in the order of the trees
    is_leaf = forest.left_child == np.arange(nodes)  # a leaf is its own child
    while len(level_nodes := level_nodes[~is_leaf[level_nodes]]):
        left_child, feature = forest.left_child[level_nodes], forest.feature[level_nodes]
        threshold = forest.threshold[level_nodes]
        for child in (left_child, left_child + 1):
            low[child], high[child] = low[level_nodes], high[level_nodes]
            tree_of_node[child] = tree_of_node[level_nodes]
        high[left_child, feature] = np.minimum(high[left_child, feature], threshold)
        low[left_child + 1, feature] = np.maximum(low[left_child + 1, feature], threshold)
        level_nodes = np.concatenate([left_child, left_child + 1])
    leaves = np.flatnonzero(is_leaf)
    leaves = leaves[np.argsort(tree_of_node[leaves], kind="stable")]
    return tree_of_node[leaves], forest.mean[leaves], low[leaves], high[leaves]
