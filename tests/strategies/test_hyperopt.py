"""Hyperopt's estimator: what Hyperopt is told is the history."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("hyperopt")
import hyperopt

from evo_tune.genome.genes import Choice, Float, Int
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Candidate, Outcome
from evo_tune.strategies.hyperopt import Hyperopt
from evo_tune.strategies.random import Random
from tests.strategies.bowl import best_of
from tests.strategies.cases import OBJECTIVES, SPACES, losses
from tests.strategies.simulate import Simulation, birth_rng, rebuild


def test_hyperopt_gets_the_history(monkeypatch: pytest.MonkeyPatch) -> None:
    space = SearchSpace(
        x=Float(1e-5, 1e-2, log=True), n=Int(16, 128, step=16), log=Int(1, 99, log=True), kind=Choice(("a", True, 1))
    )

    def evaluate(candidate: Candidate) -> Outcome:
        bad = candidate.id % 3 == 1
        return Outcome("crashed", error="killed") if bad else Outcome("ok", {"loss": float(candidate.id)})

    run = Simulation(Random(), space, OBJECTIVES[:1], evaluate, births=8).run()
    history = rebuild(space, run.objectives, run.events[:-1])  # the last one is out
    seen: list[Any] = []
    suggest = hyperopt.tpe.suggest
    monkeypatch.setattr(
        hyperopt.tpe,
        "suggest",
        lambda ids, domain, trials, *a, **k: seen.append(trials) or suggest(ids, domain, trials, *a, **k),
    )
    assert Hyperopt(first=2).propose(history, birth_rng(0, 8)) is not None
    assert [doc["result"] for doc in seen[0].trials] == [
        {"status": "fail"} if id % 3 == 1 else {"status": "ok", "loss": float(id)} for id in range(7)
    ] + [{"status": "new"}]
    for doc, candidate in zip(seen[0].trials, run.candidates, strict=True):
        point = {name: values[0] for name, values in doc["misc"]["vals"].items()}
        genome = candidate.genome
        assert point == {
            "x": space.genes["x"].encode(genome["x"]),
            "n": int(genome["n"]) // 16 - 1,
            "log": space.genes["log"].encode(genome["log"]),
            "kind": ["a", True, 1].index(genome["kind"]) if genome["kind"] == "a" else 1 + (genome["kind"] is not True),
        }


def test_it_learns() -> None:
    found = [best_of(Hyperopt(first=10), seed, births=40) for seed in range(2)]
    drawn = [best_of(Random(), seed, births=40) for seed in range(2)]
    assert np.median(found) < 0.7 * np.median(drawn)


def test_it_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    space = SPACES["mixed"]
    Simulation(Hyperopt(first=2), space, OBJECTIVES[:1], losses(space), births=5).run()
    assert capfd.readouterr() == ("", "")


def test_a_space_of_one_genome_ends_the_run() -> None:
    space = SearchSpace(n=Int(3, 3), kind=Choice(("a",)))
    run = Simulation(Hyperopt(), space, OBJECTIVES[:1], lambda candidate: Outcome("ok", {"loss": 1.0})).run()
    assert len(run.candidates) == 1
