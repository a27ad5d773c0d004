"""A small network on a noisy surface: how short an evaluator of real numbers is; minimises val_loss (squared error)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from evo_tune import Float, Int, Minimize, SearchSpace
from evo_tune.training.recipe import NumbersTask, SampleOptions, metric_units, names_on_test_set

if TYPE_CHECKING:
    from evo_tune import Context
    from evo_tune.training import Ranks

OBJECTIVES = [Minimize("val_loss")]
METRICS, TEST = metric_units("samples"), names_on_test_set("samples")
SUPPORTS = ["budget", "curve", "timing"]
SPACE = SearchSpace(
    lr=Float(1e-3, 0.1, log=True, default=1e-2), batch=Int(8, 64, default=32), width=Int(4, 64, default=16)
)


@dataclass(frozen=True, kw_only=True)
class Options(SampleOptions):
    """What every training on samples has: budget, schedule, optimizer, clipping, average, precision, ranks."""


def _task(genome: Mapping[str, Any], options: Options) -> NumbersTask:
    def build(seed: int) -> Any:
        import torch

        torch.manual_seed(seed)
        width = genome["width"]
        return torch.nn.Sequential(torch.nn.Linear(2, width), torch.nn.Tanh(), torch.nn.Linear(width, 2))

    rng = np.random.default_rng(0)
    x = rng.uniform(-2, 2, (150, 2)).astype(np.float32)
    y = np.stack([np.sin(x[:, 0]) - 3.0, x[:, 0] * x[:, 1]], 1) + rng.normal(0, 0.1, (150, 2))
    rows = np.arange(150)
    return NumbersTask(
        options=options,
        genome=genome,
        build=build,
        inputs=x,
        numbers=y.astype(np.float32),
        split=(rows[:90], rows[90:120], rows[120:]),
        flops_per_sample=24.0 * genome["width"],
        reference=32,
        data="a surface",
    )


def evaluate(genome: Mapping[str, Any], context: Context, options: Options) -> dict[str, float]:
    from evo_tune.training import SampleTraining, evaluate_task

    return evaluate_task(_task(genome, options), SampleTraining, train_rank, context)


def train_rank(ranks: Ranks, tell: Any, *, genome: Any, run: Any, options: Any) -> dict[str, float]:
    from evo_tune.training import RankRun, SampleTraining, train

    return train(_task(genome, Options(**options)), RankRun.of(ranks, tell, run), SampleTraining, ranks)[1]
