"""TaskSet's RNN text classifiers as tables: 8 tasks, each trained with the same 1,000 settings of an optimizer.

The settings were drawn at random, so they are no grid. The repair of the space moves each genome to the nearest
setting: all that a search proposes was really trained, and what comes to the same setting is a duplicate. The default
genome is the setting nearest to Adam's usual values. A setting whose last validation loss is missing has diverged.
Source: Metz et al., Using a thousand optimization tasks to learn hyperparameter search strategies (2020).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from evo_tune import Float, SearchSpace
from evo_tune.genome.values import Genome

USUAL = {
    "learning_rate": 1e-3,
    "beta1": 0.1,
    "beta2": 1e-3,
    "epsilon": 1e-8,
    "l1": 1e-8,
    "l2": 1e-8,
    "linear_decay": 1e-7,
    "exponential_decay": 1e-6,
}
"""Default of each gene. `beta1` and `beta2` are one minus the decay rate, so that all genes have a log scale."""


@dataclass(frozen=True)
class Task:
    """One task of TaskSet.

    Args:
        name: Name of the task.
        space: Search space, the same for all tasks.
        rows: Setting by the values of its genes.
        losses: Last validation loss of each setting, shape (settings,); NaN if it diverged.
        curves: Validation losses at 51 equal steps, shape (settings, 51).
    """

    name: str
    space: SearchSpace
    rows: dict[tuple[object, ...], int]
    losses: np.ndarray
    curves: np.ndarray

    def row(self, genome: Genome) -> int:
        """Return the setting of a genome."""
        return self.rows[tuple(genome.values())]


def tasks(folder: Path) -> list[Task]:
    """Return the tasks, sorted by name; none if the tables are absent."""
    if not (folder / "taskset_rnn/configs.parquet").is_file():
        return []
    frame = pd.read_parquet(folder / "taskset_rnn/configs.parquet").sort_values(["task", "config"])
    curves = pd.read_parquet(folder / "taskset_rnn/curves_long.parquet").sort_values(["task", "config", "step"])
    found = list(frame.groupby("task"))
    space, rows = _space(found[0][1])
    return [
        Task(
            str(name).replace("_patch", " ").split("_bs")[0],
            space,
            rows,
            group["valid_final"].to_numpy(),
            curves.loc[curves["task"] == name, "valid"].to_numpy(float).reshape(len(group), -1),
        )
        for name, group in found
    ]


def _space(frame: pd.DataFrame) -> tuple[SearchSpace, dict[tuple[object, ...], int]]:
    """Return the space of the settings, and each setting by the values of its genes."""
    columns = {name: frame[f"gene.{name}"].to_numpy() for name in USUAL}
    columns |= {name: 1.0 - columns[name] for name in ("beta1", "beta2")}
    genes = {
        name: Float(min(column.min(), USUAL[name]), max(column.max(), USUAL[name]), log=True, default=USUAL[name])
        for name, column in columns.items()
    }
    plain = SearchSpace(**genes)
    given = [dict(zip(columns, map(float, row), strict=True)) for row in zip(*columns.values(), strict=True)]
    settings = [plain.check(one) for one in given]
    units = np.stack([plain.encode(one) for one in settings])

    def nearest(genome: Genome) -> Genome:
        return settings[int(np.argmin(((units - plain.encode(genome)) ** 2).sum(axis=1)))]

    rows = {tuple(one.values()): number for number, one in enumerate(settings)}
    return SearchSpace(nearest, **genes), rows
