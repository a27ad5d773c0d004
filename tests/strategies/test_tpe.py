"""Optuna's samplers: what Optuna is told is the history, and nothing of it is seen on the terminal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("optuna")
import optuna
from optuna.trial import TrialState

from evo_tune.genome.trial import Candidate, Outcome
from evo_tune.strategies.random import Random
from evo_tune.strategies.tpe import TPE
from tests.strategies.bowl import best_of
from tests.strategies.cases import OBJECTIVES, SPACES, losses
from tests.strategies.simulate import Simulation, birth_rng, rebuild


def some_of_each(births: int = 12) -> Simulation:
    """Return a run of which some trials failed, one was trained in part and two are out."""

    def evaluate(candidate: Candidate) -> Outcome:
        if candidate.id % 4 == 1:
            return Outcome("diverged", error="nan")
        return losses(SPACES["mixed"])(candidate)

    return Simulation(TPE(first=3), SPACES["mixed"], OBJECTIVES[:1], evaluate, births=births).run()


@pytest.fixture
def studies(monkeypatch: pytest.MonkeyPatch) -> list[optuna.Study]:
    """Return the studies that are made, as they are made."""
    made: list[optuna.Study] = []
    create = optuna.create_study

    def creating(**given: object) -> optuna.Study:
        made.append(create(**given))  # type: ignore[arg-type]
        return made[-1]

    monkeypatch.setattr(optuna, "create_study", creating)
    return made


def test_optuna_gets_the_history(studies: list[optuna.Study]) -> None:
    run = some_of_each()
    history = rebuild(run.space, run.objectives, run.events[:-1])  # the last one is out
    part = Candidate(12, 0, 0, 11, run.space.default(), "part", budget=0.5)
    history.add_candidate(part)
    history.tell(12, Outcome("ok", {"loss": -9.0}))
    studies.clear()
    proposal = TPE(first=3).propose(history, birth_rng(0, 13))
    assert proposal is not None
    told = studies[0].trials[:12]
    states = {0: TrialState.COMPLETE, 1: TrialState.FAIL, 2: TrialState.COMPLETE, 3: TrialState.COMPLETE}
    for trial, candidate in zip(told[:11], run.candidates, strict=False):
        assert trial.state == states[candidate.id % 4]
        assert trial.params["lr"] == candidate.genome["lr"]  # in the gene's own numbers, and repaired
        assert trial.params["heads"] == candidate.genome["heads"]
        assert trial.params["batch"] == (8, 16, 32, 64).index(int(candidate.genome["batch"]))
        assert len(trial.params) == len(run.space.genes)
    assert told[11].state == TrialState.RUNNING
    assert -9.0 not in [trial.value for trial in told]
    assert len(studies[0].trials) == 13  # the twelve, and what it has just asked for


def test_it_learns() -> None:
    found = [best_of(TPE(), seed, births=40) for seed in range(3)]
    drawn = [best_of(Random(), seed, births=40) for seed in range(3)]
    assert np.median(found) < 0.6 * np.median(drawn)


@pytest.mark.filterwarnings("default")
def test_optuna_prints_nothing_and_keeps_its_log_level(capfd: pytest.CaptureFixture[str]) -> None:
    optuna.logging.set_verbosity(optuna.logging.DEBUG)
    try:
        some_of_each()
        assert optuna.logging.get_verbosity() == optuna.logging.DEBUG
    finally:
        optuna.logging.set_verbosity(optuna.logging.INFO)
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow  # it loads torch
def test_the_gaussian_process_is_a_pure_function_too() -> None:
    strategy, space = TPE(sampler="gp", first=3), SPACES["one-float"]
    run = Simulation(strategy, space, OBJECTIVES, losses(space), births=5).run()
    history = rebuild(space, run.objectives, run.events)
    proposals = [replace(strategy).propose(where, birth_rng(0, 6)) for where in (history, run.history)]
    assert proposals[0] == proposals[1]
    assert proposals[0] is not None
    assert proposals[0].operator == "gp"
