"""A search for a larger model: its trainings by size, and the transferred recipe with its predicted loss.

Only the evaluator knows what a recipe becomes at another size, and a report loads no evaluator. `forecast.scale`
therefore writes the recipe to a file beside the run at the end of each session; a report reads it as plain data of any
origin.
"""

import contextlib
import math
from typing import Any, NamedTuple

import msgspec
import numpy as np
from msgspec import Struct

from evo_tune.genome.trial import DECAYED
from evo_tune.report import charts
from evo_tune.report.charts import SERIES, CaptionedFigure, Color, Command, Part, Spec
from evo_tune.report.run_data import MAX_ABSOLUTE_LOSS, RunData
from evo_tune.store.binding import remember_file
from evo_tune.store.journal import write_atomically
from evo_tune.store.manifest import Count, Finite, Whole
from evo_tune.store.run import Run
from evo_tune.store.run_folders import run_reference
from evo_tune.trust import safe_files

POSITION = 95

# Models whose weights differ by less than this factor have one size.
SIZE_FACTOR = 1.3

FILE = "_scale.json"

# Largest such file, in bytes.
LARGEST_FILE = 1 << 16


class TransferredRecipe(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The recipe of a run at the size of `--for-scale`, and the costs of the search and of the training there.

    Args:
        trial: Trial with the recipe.
        width: Width of the target.
        depth: Blocks of the target.
        tokens: Length of its training. Unit: tokens.
        given_tokens: Whether the tokens were given; otherwise they are 20 for each weight.
        lr: Peak learning rate of the target.
        search_flops: Cost of all trainings of the run, the final comparison included. Unit: FLOPs.
        target_flops: Cost of the target's training. Unit: FLOPs.
        share: `search_flops` divided by `target_flops`.
        loss: Predicted first objective; null if it cannot be predicted.
        low: Lower end of its interval of 80 %.
        high: Upper end of that interval.
        why: Reason why no loss can be predicted, and what would help; '' if it can.
        narrow: What would narrow the interval; '' if it is narrow, or there is none.
    """

    trial: Whole
    width: Count
    depth: Count
    tokens: Whole
    given_tokens: bool
    lr: Finite
    search_flops: Finite
    target_flops: Finite
    share: Finite
    loss: Finite | None
    low: Finite | None
    high: Finite | None
    why: str
    narrow: str = ""


def read_recipe(run: Run) -> TransferredRecipe | None:
    """Return a run's transferred recipe; None if the run has no target size, or no recipe yet."""
    if not run.manifest.settings.for_scale:
        return None
    with contextlib.suppress(OSError, ValueError, msgspec.MsgspecError, RecursionError):
        return msgspec.json.decode(safe_files.read(run.folder, FILE, limit=LARGEST_FILE), type=TransferredRecipe)
    return None


def write_recipe(run: Run, recipe: TransferredRecipe) -> None:
    """Write a run's transferred recipe to its folder.

    Raises:
        StoreError: Writing failed.
    """
    data = msgspec.json.format(msgspec.json.encode(recipe))
    write_atomically(run.folder / FILE, data)
    remember_file(run.folder, run.manifest.identity, FILE, data)


class Training(NamedTuple):
    """A complete training.

    Args:
        size: Weights of its model.
        flops: FLOPs of the training.
        loss: Value of the first objective.
        id: Id of the trial.
    """

    size: float
    flops: float
    loss: float
    id: int


def by_size(data: RunData) -> list[list[Training]]:
    """Return the complete trainings, grouped by the approximate size of their models, smallest first.

    A rung that ended with a decay is a complete training in small (see `Context.report`).
    """
    groups: dict[int, list[Training]] = {}
    for trial in data.trials:
        metrics, curve = trial.outcome.metrics, trial.outcome.curve
        is_complete = trial.candidate.budget == 1.0 or bool(curve and curve[-1][1].get(DECAYED))
        size, flops, loss = (metrics.get(name, math.nan) for name in ("params", "flops", data.metric))
        is_drawable = 0 < size < MAX_ABSOLUTE_LOSS and 0 < flops < MAX_ABSOLUTE_LOSS and abs(loss) < MAX_ABSOLUTE_LOSS
        if trial.outcome.status == "ok" and is_complete and is_drawable:
            groups.setdefault(round(math.log(size, SIZE_FACTOR)), []).append(Training(size, flops, loss, trial.id))
    return [sorted(group) for _, group in sorted(groups.items())]


def draw(data: RunData) -> Spec | None:
    """Return the figure; None if the run has no target size, or no training with known FLOPs and weights."""
    if not data.run.manifest.settings.for_scale:
        return None
    recipe, sizes = read_recipe(data.run), by_size(data)
    if not sizes:
        return None
    traces: list[dict[str, Any]] = []
    for number, group in enumerate(sizes):
        indices = charts.spread_indices(len(group), charts.MOST_MARKS // len(sizes) + 1)
        _, x, y, ids = zip(*(group[index] for index in indices), strict=True)
        name = f"{group[len(group) // 2].size:.3g} weights"
        hover = "trial %{customdata}<br>%{y:.5g} after %{x:.3g} FLOPs"
        color = SERIES[number] if len(sizes) < len(SERIES) else Color.OTHERS
        traces.append(charts.points(x, y, name, color, hover, customdata=ids))
    flops = [training.flops for group in sizes for training in group]
    if recipe is not None and recipe.loss is not None and recipe.target_flops > 0:
        flops.append(recipe.target_flops)
        loss, low, high = (np.array([value or 0.0]) for value in (recipe.loss, recipe.low, recipe.high))
        name, hover = f"{recipe.depth}x{recipe.width}, predicted", "predicted: %{y:.5g} after %{x:.3g} FLOPs"
        marks = {"marker": {"symbol": "diamond", "size": 11}, "error_y": charts.bars(loss, low, high, Color.BEST)}
        traces.append(charts.points([recipe.target_flops], loss, name, Color.BEST, hover, **marks))
    x_axis = charts.axis("FLOPs of the training", **charts.log_axis(min(flops), max(flops)))
    return charts.figure(traces, x_axis, charts.escape_label(data.metric), height=280)


def part(data: RunData) -> Part | None:
    """Return the part; None if the run has no target size, or no recipe for it yet."""
    recipe, figure = read_recipe(data.run), draw(data)
    if recipe is None:
        return None
    facts = {
        "target": f"{recipe.depth}x{recipe.width}, {recipe.tokens:,} tokens",
        "cost of the search": f"{recipe.share:.2%} of that training",
        "peak learning rate at the target": f"{recipe.lr:.3g}",
    }
    if recipe.loss is not None and recipe.low is not None and recipe.high is not None:
        facts[f"predicted {data.metric}"] = f"{recipe.loss:.4g} ({recipe.low:.4g} to {recipe.high:.4g})"
    size = f"--depth {recipe.depth} --width {recipe.width} --tokens {recipe.tokens}"
    why = "Show each gene at that size, and check the prediction with short trainings on the way:"
    check = Command(why, f"evo-tune scale {run_reference(data.run.folder)} {size}")
    source = "The prediction is from a law fitted to this run."
    explanation = (
        f"This search is for a model of {recipe.depth} blocks and width {recipe.width}. "
        f"It took {recipe.search_flops:.3g} FLOPs; training that model takes {recipe.target_flops:.3g}. "
        f"{f'No loss can be predicted: {recipe.why}.' if recipe.why else source}"
    )
    figures = [] if figure is None else [CaptionedFigure(figure)]
    return Part("From small to large", explanation, figures, facts, [check])
