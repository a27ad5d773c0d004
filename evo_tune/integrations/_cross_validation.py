"""What `EvoSearchCV` has evo-tune evaluate: one cross-validation of the estimator that it holds.

Estimator and data are not the run's: see `integrations.sklearn`.
"""

import json
from typing import Any

from evo_tune import Context, Maximize, SearchSpace
from evo_tune.genome.genes import gene_from

OBJECTIVES = [Maximize("mean_test_score")]


def SPACE(*, space: str) -> SearchSpace:  # noqa: N802  (the contract's name)
    """Return the genes that the object was given, from their description."""
    genes = {name: gene_from(gene) for name, gene in json.loads(space).items()}
    return SearchSpace(None, None, **genes)


def fingerprint(*, held: str) -> str:
    """Return the identity of estimator and data."""
    from evo_tune.integrations.held import held_by

    return held_by(held).identity


def evaluate(genome: dict[str, Any], context: Context, *, held: str = "", space: str = "{}") -> dict[str, float]:
    """Return the scores of each split, and their means."""
    from evo_tune.integrations.held import held_by

    return held_by(held).scores(genome)
