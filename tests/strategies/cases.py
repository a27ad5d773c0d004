"""The spaces, landscapes and variants of strategies over which the contract is checked."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pytest

from evo_tune.genome.genes import Choice, Float, Int
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import STATUSES, Candidate, Minimize, Objective, Outcome
from evo_tune.genome.values import Genome, genome_key
from evo_tune.options.binding import options_of
from evo_tune.plugins.find import find_strategy, list_strategies
from evo_tune.plugins.strategy import Strategy

OBJECTIVES: tuple[Objective, ...] = (Minimize("loss"), Minimize("cost"))
BAD = STATUSES[1:]


SMALL = {
    "hyperopt": {"first": 4},
    "ladder": {"sizes": "1x32,2x64,4x96", "trials": 6},
    "saea": {"first": 4},
    "staged": {"coarse": 8, "genes": 2, "finalists": 2, "extra_seeds": 2},
    "tpe": {"first": 4},
}
"""Options with which every part of a strategy works in a run of a few births, and those that it must be given. Most
need none, and no row here."""

ENDLESS = 10**9
"""Births of a run that only the strategy ends."""

SHORT = {"saea": 16}
"""Births of a run at most, where a model is fitted for each; 14 where another package is asked."""

FEW = {
    "space": ("mixed", "tiny"),
    "slots": (5,),
    "share": (0.5,),
    "status": ("failed", "pruned"),
    "value": (float("inf"), 1.7e308),
    "lag": (2,),
}
"""The cases of a slow strategy, where a test has more."""

LESS = {
    "saea": {name: FEW[name] for name in ("lag", "slots", "value", "share")}
    | {"space": ("mixed", "tiny", "repaired", "one-float", "hints")}
}
"""Strategies that are checked in fewer cases though no package of others makes them slow."""


def variants() -> dict[str, Strategy]:
    """Return every strategy known by name, with a small population, plain and with its notable options."""
    found = {}
    for name, *_ in list_strategies():
        kind, options = find_strategy(name), {"population": 4, **SMALL.get(name, {})}
        found[name] = kind(**options)  # also without the package that it needs: its tests are then skipped
        if "generational" in options_of(kind):
            found[f"{name}-generational"] = kind(**options, generational=True)
    return found


def is_slow(strategy: Strategy) -> bool:
    """Say whether it asks another package for its births: such libraries take long for one."""
    return bool(strategy.needs)


def length(strategy: Strategy, births: int) -> int:
    """Return the number of births of a run: fewer where the strategy is slow, and it does not end the run itself."""
    short = 14 if is_slow(strategy) else SHORT.get(type(strategy).__name__.lower(), births)
    return births if births == ENDLESS else min(births, short)


def cases_of(variant: str) -> Mapping[str, tuple[object, ...]]:
    """Return the cases in which a variant is checked, by the name of a test's parameter; all where it has no entry."""
    if variant.endswith("-generational"):  # it breeds as the plain one does, from other parents
        return {"space": ("mixed", "tiny", "repaired", "one-float"), "lag": (0, 8)}
    return FEW if is_slow(VARIANTS[variant]) else LESS.get(variant, {})


def suited(strategy: Strategy, space: SearchSpace) -> SearchSpace:
    """Return a space that the strategy can search: the same, or with an order in every choice."""
    reason = strategy.unsuited(space, OBJECTIVES[:1])
    if not reason:
        return space
    if "needs genes" in reason:
        pytest.skip(reason)
    genes = {
        name: dataclasses.replace(gene, ordered=True) if isinstance(gene, Choice) else gene
        for name, gene in space.genes.items()
    }
    ordered = SearchSpace(space.repair, **genes)
    assert not strategy.unsuited(ordered, OBJECTIVES[:1])
    return ordered


VARIANTS = variants()


def heads_divide_width(genome: Genome) -> Genome:
    heads = int(genome["heads"])
    while int(genome["width"]) % heads:
        heads -= 1
    return {**genome, "heads": heads}


def coarse(genome: Genome) -> Genome:
    return {"n": int(genome["n"]) // 10 * 10, "kind": "a" if genome["n"] < 50 else genome["kind"]}


SPACES = {
    "mixed": SearchSpace(
        repair=heads_divide_width,
        lr=Float(1e-5, 1e-2, log=True),
        width=Int(16, 128, step=16),
        heads=Int(1, 8),
        depth=Int(1, 4),
        batch=Choice((8, 16, 32, 64), ordered=True),
        units=Int(1, 4096, log=True),
        kind=Choice(("relu", "gelu", True, 1)),
        dropout=Float(0.0, 0.5),
    ),
    "tiny": SearchSpace(depth=Int(1, 3), kind=Choice(("a", "b", "c")), flag=Choice((False, True), ordered=True)),
    "repaired": SearchSpace(repair=coarse, n=Int(0, 99), kind=Choice(("a", "b"))),
    "one-float": SearchSpace(x=Float(-1.0, 1.0)),
    "one-int": SearchSpace(n=Int(1, 60, log=True)),
    "hints": SearchSpace(
        lr=Float(1e-5, 1e-2, log=True, prior=1e-3, spread=2.0),
        kind=Choice(("sgd", "adam", "muon")),
        beta=Float(0.5, 0.99, when={"kind": "adam"}),
    ),
    "choices": SearchSpace(**{f"c{i}": Choice(("a", "b", 3, 4.5)) for i in range(5)}),
}


def some(cases: Iterable[Any], *suite: Any) -> list[Any]:
    """Return the cases of a test's parameter; all but those that the suite has are proofs."""
    each = [(case, case if isinstance(case, tuple) else (case,)) for case in cases]
    return [case if case in suite else pytest.param(*values, marks=pytest.mark.proof) for case, values in each]


SIZES = {"tiny": 18, "repaired": 15}
"""Numbers of different genomes of the spaces that are exhausted."""


def losses(space: SearchSpace) -> Callable[[Candidate], Outcome]:
    """Return a landscape with two bowls, one for each objective."""

    def evaluate(candidate: Candidate) -> Outcome:
        units = space.encode(candidate.genome)
        loss, cost = float(((units - 0.3) ** 2).sum()), float(((units - 0.7) ** 2).sum())
        return Outcome("ok", {"loss": loss, "cost": cost}, seconds=0.1, device="cpu")

    return evaluate


def failing(share: float, space: SearchSpace, status: str | None = None) -> Callable[[Candidate], Outcome]:
    """Return a landscape in which a share of genomes fail, with one status or with each in turn."""
    good = losses(space)

    def evaluate(candidate: Candidate) -> Outcome:
        luck = int.from_bytes(hashlib.sha256(genome_key(candidate.genome).encode()).digest()[:4], "big")
        if luck / 2**32 >= share:
            return good(candidate)
        return Outcome(status or BAD[luck % len(BAD)], error="no luck")  # type: ignore[arg-type]

    return evaluate


def objectives_of(strategy: Strategy) -> tuple[Objective, ...]:
    """Return as many objectives as the strategy can optimise, of two."""
    return OBJECTIVES if strategy.several_objectives else OBJECTIVES[:1]


def same_state(left: tuple, right: tuple) -> bool:
    """Say whether two states of numpy's global generator are the same."""
    return all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))
