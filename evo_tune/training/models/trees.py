"""Gradient boosting of decision trees: LightGBM trains them, and the saved model is arrays.

A model's folder may be a stranger's, so it is read neither by a parser in C++ nor by pickle, which runs code. The trees
are taken from LightGBM's text of a model after the training, and `forward` follows them, to the outputs of LightGBM's
own `predict` (Ke et al., NIPS 2017).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evo_tune.errors import OptionError
from evo_tune.training.models.model_files import FitRows, Floats, TableModel
from evo_tune.training.recipe.families import DEEPEST, TreesConfig

# LightGBM's parameter of each gene.
PARAMETERS = {
    "shrinkage": "learning_rate",
    "leaves": "num_leaves",
    "leaf_rows": "min_data_in_leaf",
    "leaf_l2": "lambda_l2",
    "row_share": "bagging_fraction",
    "column_share": "feature_fraction",
}

# A line of a tree in LightGBM's text of a model, and the line before each tree.
FIELD, TREE = re.compile(r"^(\w+)=(.*)$", re.MULTILINE), re.compile(r"^Tree=\d+$", re.MULTILINE)

# Bits of a node's `decision_type` there.
CATEGORY, MISSING_PASSES, MISSING, MISSING_IS_NAN = 1, 2, 12, 8

# Types of the fields of a node: places of the children for rows that pass its test and for others (both those of a leaf
# are the leaf itself), the column that is tested, the largest number that passes (NaN: some categories pass instead),
# the value of a leaf, and whether a missing number passes.
NODE_TYPES = {
    **dict.fromkeys(("first_child", "second_child", "feature"), torch.int32),
    **dict.fromkeys(("threshold", "value"), torch.float64),
    "missing_first": torch.bool,
}


class BoostedTrees(TableModel):
    """Boosted trees; see `TableModel` for the arguments."""

    config_class = TreesConfig
    config: TreesConfig
    root: Tensor
    feature: Tensor
    threshold: Tensor
    missing_first: Tensor
    first_child: Tensor
    second_child: Tensor
    value: Tensor
    passing: Tensor
    _booster: Any = None

    def build(self, config: TreesConfig) -> None:
        self.register_buffer("root", torch.zeros(config.trees, dtype=torch.int32))
        for name, dtype in NODE_TYPES.items():
            self.register_buffer(name, torch.zeros(config.nodes, dtype=dtype))
        # Categories that pass: node · width + category, ascending; a width is that of the column with most of them.
        self.register_buffer("passing", torch.zeros(config.passing, dtype=torch.int64))

    def check(self) -> None:
        for name in ("feature", "root", "first_child", "second_child"):
            tensor: Tensor = getattr(self, name)
            bound = self.config.columns if name == "feature" else self.config.nodes
            if tensor.numel() and not 0 <= int(tensor.min()) <= int(tensor.max()) < bound:
                raise ValueError(f"{name}: a number that is not among the {bound} from 0")

    def forward(self, rows: Tensor) -> Tensor:
        """Return outputs, (batch, outputs), of rows as `Columns.encode` gives them, (batch, columns)."""
        if self._booster is not None and len(self.root):  # after a fit: faster than following the arrays
            part = {"num_iteration": len(self.root) // self.config.scores, "num_threads": torch.get_num_threads()}
            sums = self._booster.predict(rows.numpy(), raw_score=True, **part)
            return self.outputs(torch.from_numpy(sums).view(len(rows), self.config.scores))
        numbers, feature = rows.double(), self.feature.long()
        node = self.root.expand(len(rows), -1)
        for _ in range(self.config.levels):
            number, threshold = numbers.gather(1, feature[node]), self.threshold[node]
            passes = (number <= threshold) | (number.isnan() & self.missing_first[node])
            if len(self.passing):
                keys = torch.where(threshold.isnan(), node * self._width + number, -1).long()
                place = torch.searchsorted(self.passing, keys).clamp(max=len(self.passing) - 1)
                passes |= self.passing[place] == keys
            node = torch.where(passes, self.first_child[node], self.second_child[node])
        return self.outputs(self.value[node].view(len(rows), -1, self.config.scores).sum(1))

    @property
    def _width(self) -> int:
        return max(self.config.categories, default=0) + 1

    def fit(self, rows: FitRows, genome: Mapping[str, Any], steps: int, seed: int) -> Iterator[Floats]:
        lightgbm, threads = _lightgbm(), torch.get_num_threads()
        scores, of_classes = self.config.scores, np.issubdtype(rows.targets.dtype, np.integer)
        objective = ("multiclass" if scores > 1 else "binary") if of_classes else "regression"
        parameters = {
            **{PARAMETERS[name]: genome[name] for name in PARAMETERS},
            "objective": objective,
            "num_class": scores,
            "max_depth": DEEPEST,
            "bagging_freq": 1,
            "seed": seed % 2**31,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": threads,
            "verbose": -1,
        }
        categorical = list(range(self.config.numeric, self.config.columns))
        data = lightgbm.Dataset(rows.inputs, rows.targets, weight=rows.weights, categorical_feature=categorical)
        self._booster = booster = lightgbm.Booster(parameters, data)
        held_out = np.zeros((len(rows.held_out), scores))
        for step in range(steps):
            if booster.update() and step:  # no tree has a split that gains; of the first step it keeps the mean
                return
            if len(held_out):
                part = {"start_iteration": step, "num_iteration": 1, "num_threads": threads}
                held_out += booster.predict(rows.held_out, raw_score=True, **part).reshape(held_out.shape)
            yield self.outputs(torch.from_numpy(held_out.copy())).numpy()

    def state(self) -> int:
        return int(self._booster.current_iteration())

    def finish(self, state: int) -> None:
        # LightGBM's text of a model is read in a third of the time of its JSON.
        arrays = _read_trees(self._booster.model_to_string(num_iteration=state), self._width)
        levels, level, children = 0, arrays["root"], (arrays["first_child"], arrays["second_child"])
        while len(level := level[children[0][level] != level]):
            level, levels = np.concatenate([child[level] for child in children]), levels + 1
        trees, nodes, passing = (len(arrays[name]) for name in ("root", "value", "passing"))
        self.config = replace(self.config, trees=trees, nodes=nodes, passing=passing, levels=levels)
        self.build(self.config)
        for name, values in arrays.items():
            getattr(self, name).copy_(torch.from_numpy(values))


def _read_trees(text: str, width: int) -> dict[str, NDArray[Any]]:
    """Return the buffers of `BoostedTrees` from LightGBM's text of a model. The nodes of a tree precede its leaves.

    Args:
        text: What `Booster.model_to_string` returns.
        width: See `BoostedTrees.build`.
    """
    trees = [dict(FIELD.findall(tree)) for tree in TREE.split(text)[1:]]

    def numbers(name: str, dtype: type = np.int64) -> NDArray[Any]:
        return np.array(" ".join(tree[name] for tree in trees).split(), dtype)

    leaves = numbers("num_leaves")
    root = np.cumsum(2 * leaves - 1) - (2 * leaves - 1)
    first_leaf = root + leaves - 1
    node, leaf = _places(root, leaves - 1), _places(first_leaf, leaves)
    places = np.arange(int((2 * leaves - 1).sum()))
    arrays: dict[str, NDArray[Any]] = {name: np.zeros(len(places)) for name in NODE_TYPES}
    for name, side in ("first_child", "left_child"), ("second_child", "right_child"):
        child, arrays[name] = numbers(side), places.copy()  # -1 is the first leaf, -2 the second
        tree_start = np.repeat(np.stack((root, first_leaf - 1)), leaves - 1, 1)
        arrays[name][node] = np.where(child < 0, tree_start[1] - child, tree_start[0] + child)
    threshold, decision = numbers("threshold", float), numbers("decision_type")
    is_category, is_missing = decision & CATEGORY > 0, decision & MISSING == MISSING_IS_NAN
    arrays["feature"][node], arrays["value"][leaf] = numbers("split_feature"), numbers("leaf_value", float)
    arrays["threshold"][node] = np.where(is_category, np.nan, threshold)
    # A number that was never missing in training counts as 0 where it is.
    passes = np.where(is_missing, decision & MISSING_PASSES > 0, threshold >= 0.0)
    arrays["missing_first"][node] = passes & ~is_category
    passing = [place * width + bits for place, bits in zip(node[is_category], _categories(trees), strict=True)]
    return {**arrays, "root": root, "passing": np.concatenate([np.zeros(0, np.int64), *passing])}


def _places(first: NDArray[Any], counts: NDArray[Any]) -> NDArray[Any]:
    """Return `counts` numbers from each of `first` on, one after the other."""
    return np.asarray(np.arange(counts.sum()) + np.repeat(first - np.cumsum(counts) + counts, counts))


def _categories(trees: Sequence[Mapping[str, str]]) -> Iterator[NDArray[Any]]:
    """Yield the categories that pass each test of categories, ascending."""
    for tree in trees:
        if int(tree["num_cat"]):
            starts = np.array(tree["cat_boundaries"].split(), int)
            bits = np.array(tree["cat_threshold"].split(), "<u4").view(np.uint8)
            for start, end in pairwise(4 * starts):
                yield np.flatnonzero(np.unpackbits(bits[start:end], bitorder="little"))


def _lightgbm() -> Any:
    """Return the module lightgbm, which has no types.

    Raises:
        OptionError: It is not installed, or a library of the system that it needs is missing.
    """
    try:
        import lightgbm
    except (ImportError, OSError) as error:
        raise OptionError(
            f"boosting needs LightGBM, which cannot be loaded ({error}): pip install 'evo-tune[boosting]', or search "
            "-o families=linear,transformer"
        ) from None
    return lightgbm
