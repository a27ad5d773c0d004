"""A function as an evaluator: `python function.py` tunes it, and the same again goes on where it was."""

from evo_tune import Choice, Context, Float, Search, SearchSpace
from evo_tune.errors import StoreError

SPACE = SearchSpace(lr=Float(1e-3, 1.0, log=True, default=0.1), degree=Choice([1, 3, 5, 7], ordered=True, default=3))


def train(genome: dict, context: Context, *, steps: int = 100) -> dict[str, float]:
    """Descend from 3 to the lowest point of a bowl, and say how far that is away."""
    x = 3.0
    for step in range(1, round(context.budget * steps) + 1):
        x -= genome["lr"] * 2 * x
        if step % 10 == 0:
            context.report(step / steps, loss=x**2 + abs(genome["degree"] - 5))
    return {"loss": x**2 + abs(genome["degree"] - 5)}


if __name__ == "__main__":
    try:
        search = Search.resume("bowl", trials=16)
    except StoreError:  # there is none yet
        search = Search(train, space=SPACE, objectives=["loss:min"], fidelity=(1 / 3, 1), trials=12, name="bowl")
    print(search.run().best.genome)
