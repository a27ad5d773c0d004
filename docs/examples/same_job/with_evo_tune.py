"""The job with evo-tune. After a kill, `evo-tune resume tools` continues."""

from job import train

from evo_tune import Float, Int, Search, SearchSpace

SPACE = SearchSpace(lr=Float(1e-3, 0.5, log=True), degree=Int(1, 9))


def evaluate(genome, context):
    """Train one genome, in a worker process."""
    return {"val_loss": train(**genome)}


if __name__ == "__main__":
    search = Search(evaluate, space=SPACE, objectives=["val_loss:min"], trials=20, name="tools")
    print(search.run().best.genome)
