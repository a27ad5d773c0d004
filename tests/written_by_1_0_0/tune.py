"""A program that uses the public names of evo-tune 1.0.0."""

import math
import sys

from evo_tune import Choice, Float, Int, Search


def train(genome, context):
    for step in range(1, 6):
        loss = (math.log10(genome["lr"]) + 2.5) ** 2 + abs(genome["depth"] - 4) / 10 + 1 / step
        if genome["act"] == "relu":
            loss += 0.05
        context.report(step / 5, val_loss=loss)
    return {"val_loss": loss, "size": genome["depth"] * 100.0}


if __name__ == "__main__":
    search = Search(
        train,
        space={"lr": Float(1e-4, 1e-1, log=True), "depth": Int(1, 8), "act": Choice(["relu", "gelu"])},
        objectives=["val_loss:min"],
        trials=int(sys.argv[2]),
        name="function",
        store=sys.argv[1],
        seed=4,
        slots=1,
    )
    results = search.run()
    print(results.best.genome, results.best.outcome.metrics, len(results.trials))
    print(results.frame().shape, *results.frame().columns[:6])
