"""A search for a larger model: the transferred recipe with its predicted loss.

Only the evaluator knows what a recipe becomes at another size, and a report loads no evaluator. `forecast.scale`
therefore writes the recipe to a file beside the run at the end of each session; a report reads it as plain data of any
origin.
"""

import msgspec
from msgspec import Struct

from evo_tune.report.charts import Command, Part
from evo_tune.report.run_data import RunData
from evo_tune.store.binding import remember_file
from evo_tune.store.journal import write_atomically
from evo_tune.store.manifest import Count, Finite, Whole
from evo_tune.store.run import Run
from evo_tune.store.run_folders import read_json_file, run_reference

POSITION = 95

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
    has_target = bool(run.manifest.settings.for_scale)
    return read_json_file(run.folder, FILE, TransferredRecipe, LARGEST_FILE) if has_target else None


def write_recipe(run: Run, recipe: TransferredRecipe) -> None:
    """Write a run's transferred recipe to its folder.

    Raises:
        StoreError: Writing failed.
    """
    data = msgspec.json.format(msgspec.json.encode(recipe))
    write_atomically(run.folder / FILE, data)
    remember_file(run.folder, run.manifest.identity, FILE, data)


def part(data: RunData) -> Part | None:
    """Return the part; None if the run has no target size, or no recipe for it yet."""
    recipe = read_recipe(data.run)
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
    return Part("From small to large", explanation, (), facts, [check])
