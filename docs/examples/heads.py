"""Shape of a Transformer; a stand-in for its loss, so that this runs at once."""

from evo_tune import Choice, Int, Minimize, SearchSpace

HEADS = [1, 2, 3, 4, 6, 8]


def repair(genome):
    """Return a genome whose width is a multiple of its heads."""
    fitting = [heads for heads in HEADS if heads <= genome["heads"] and genome["width"] % heads == 0]
    return {**genome, "heads": max(fitting)}


SPACE = SearchSpace(
    repair,
    width=Int(32, 256, step=32, default=64),
    heads=Choice(HEADS, ordered=True, default=4),
    depth=Int(1, 8, default=2),
)
OBJECTIVES = [Minimize("val_loss")]


def evaluate(genome, context):
    """Return a number that falls with the size, in place of a training."""
    params = 12 * genome["depth"] * genome["width"] ** 2
    return {"val_loss": 1.0 + 20.0 / params**0.5 + 0.01 * abs(genome["width"] / genome["heads"] - 32), "params": params}
