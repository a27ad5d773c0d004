"""Gradient boosting of decision trees: LightGBM trains them, and the saved model is arrays.

A model's folder may be a stranger's, so it is read neither by a parser in C++ nor by pickle, which runs code. The trees
are taken from LightGBM's `dump_model` after the training, and `forward` follows them, to the outputs of LightGBM's own
`predict` (Ke et al., NIPS 2017).
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evo_tune.errors import OptionError
from evo_tune.training.models.fitted import FitRows, Floats, TableModel
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
            part = {"start_iteration": step, "num_iteration": 1, "num_threads": threads}
            held_out += booster.predict(rows.held_out, raw_score=True, **part).reshape(held_out.shape)
            yield self.outputs(torch.from_numpy(held_out.copy())).numpy()

    def state(self) -> int:
        return int(self._booster.current_iteration())

    def finish(self, state: int) -> None:
        trees = self._booster.dump_model(num_iteration=state)["tree_info"]
        nodes: list[dict[str, Any]] = []
        passing: list[int] = []
        levels = 0

        def add(tree: dict[str, Any], level: int) -> int:
            nonlocal levels
            place, levels = len(nodes), max(levels, level)
            node: dict[str, Any] = dict.fromkeys(NODE_TYPES, 0) | {"first_child": place, "second_child": place}
            nodes.append(node)
            if "leaf_value" in tree:
                node["value"] = tree["leaf_value"]
                return place
            node["feature"], node["threshold"] = tree["split_feature"], tree["threshold"]
            if tree["decision_type"] == "==":
                passing.extend(place * self._width + int(category) for category in tree["threshold"].split("||"))
                node["threshold"] = np.nan
            else:  # a number that was never missing in training counts as 0 where it is
                passes = tree["default_left"] if tree["missing_type"] == "NaN" else tree["threshold"] >= 0.0
                node["missing_first"] = passes
            node["first_child"] = add(tree["left_child"], level + 1)
            node["second_child"] = add(tree["right_child"], level + 1)
            return place

        root = [add(tree["tree_structure"], 0) for tree in trees]
        self.config = replace(self.config, trees=len(root), nodes=len(nodes), passing=len(passing), levels=levels)
        self.build(self.config)
        columns = {name: [node[name] for node in nodes] for name in NODE_TYPES}
        for name, values in {**columns, "root": root, "passing": sorted(passing)}.items():
            buffer: Tensor = getattr(self, name)
            buffer.copy_(torch.tensor(values, dtype=buffer.dtype))


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
