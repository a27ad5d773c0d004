"""A bowl over mixed genes whose lowest point needs the right category: what a good strategy finds quickly."""

from __future__ import annotations

from evo_tune.genome.genes import Choice, Float, Int
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Candidate, Outcome
from evo_tune.plugins.strategy import Strategy
from tests.strategies.cases import OBJECTIVES
from tests.strategies.simulate import Simulation

BOWL = SearchSpace(
    lr=Float(1e-5, 1e-1, log=True),
    wd=Float(0.0, 1.0),
    depth=Int(1, 12),
    width=Choice((32, 64, 128, 256, 512), ordered=True),
    kind=Choice(("a", "b", "c")),
)


def bowl(candidate: Candidate) -> Outcome:
    units = BOWL.encode(candidate.genome)
    wrong = candidate.genome["kind"] != "b"
    return Outcome("ok", {"loss": float(((units[:4] - [0.7, 0.2, 0.4, 0.5]) ** 2).sum()) + 0.1 * wrong})


def best_of(strategy: Strategy, seed: int, slots: int = 1, births: int = 60) -> float:
    """Return the lowest loss that a strategy finds in a mixed bowl."""
    run = Simulation(strategy, BOWL, OBJECTIVES[:1], bowl, births=births, seed=seed, slots=slots).run()
    best = run.history.best
    assert best is not None
    assert best.losses is not None
    return best.losses[0]
