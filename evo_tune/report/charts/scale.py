"""A search for a larger model: the transferred recipe with its predicted loss.

Only the evaluator knows what a recipe becomes at another size, and a report loads no evaluator. The command
therefore writes the recipe to a file beside the run at the end of each session; a report reads it as plain data of any
origin.
"""

from collections.abc import Iterator

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


def recipe_lines(run: Run, recipe: TransferredRecipe) -> Iterator[str]:
    """Yield lines about the cost of the search and the predicted loss at the target."""
    rule = "" if recipe.given_tokens else ", 20 a weight"
    yield (
        f"the recipe took {recipe.search_flops:.3g} FLOPs, {recipe.share:.2%} of the {recipe.target_flops:.3g} "
        f"that the target, {recipe.depth}x{recipe.width} on {recipe.tokens:,} tokens{rule}, takes"
    )
    metric = run.objectives[0].metric
    if recipe.loss is None or recipe.low is None or recipe.high is None:
        yield f"predicted {metric} of the target: none: {recipe.why}"
    else:
        interval = f"80 % interval {recipe.low:.4g} to {recipe.high:.4g}"
        yield f"predicted {metric} of the target: {recipe.loss:.4g} ({interval})"
    if recipe.narrow:
        yield recipe.narrow


def scale_command(run: Run, recipe: TransferredRecipe) -> str:
    """Return the command that shows each gene at the target size."""
    size = f"--depth {recipe.depth} --width {recipe.width} --tokens {recipe.tokens}"
    return f"evo-tune scale {run_reference(run.folder)} {size}"


def part(data: RunData) -> Part | None:
    """Return the part; None if the run has no target size, or no recipe for it yet."""
    recipe = read_recipe(data.run)
    if recipe is None:
        return None
    sentences = [f"{line[:1].upper()}{line[1:]}." for line in recipe_lines(data.run, recipe)]
    facts = {"peak learning rate at the target": f"{recipe.lr:.3g}"}
    why = "Show each gene at that size, and check the prediction with short trainings on the way:"
    commands = [Command(why, scale_command(data.run, recipe))]
    return Part("From small to large", " ".join(sentences), (), facts, commands)
