"""What the rules keep between births says what is counted anew from all that was told, to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from evo_tune.genome.history import History, RunHistory
from evo_tune.genome.trial import Candidate, Constraint, Outcome
from evo_tune.genome.values import genome_key
from evo_tune.genome.view import GenomeTrials, RankedHistory, trials_by_genome
from evo_tune.plugins.find import make_strategy
from evo_tune.rules.fidelity import Curves
from evo_tune.rules.ruled import StrategyWithRules
from evo_tune.settings import RunSettings
from tests.rules import reference
from tests.strategies.cases import OBJECTIVES, SPACES, some

pytestmark = pytest.mark.extended

SPACE = SPACES["mixed"]
RUNGS = (1 / 9, 1 / 3, 1.0)
FIDELITY = ",".join(map(str, RUNGS))
SIZE = (Constraint.parse("size<=0.8"),)

VARIANTS = {
    "rungs": RunSettings(fidelity=FIDELITY),
    "prune": RunSettings(prune=True),
    "seeds_per_trial": RunSettings(seeds_per_trial=3),
    "worth": RunSettings(seeds_per_trial="auto", seeds="shared"),
    "worth and rungs": RunSettings(fidelity=FIDELITY, seeds_per_trial="auto"),
    "all": RunSettings(fidelity=FIDELITY, prune=True, seeds_per_trial=3),
}

CONSTRAINTS = {"worth": SIZE, "all": SIZE}


def outcome(rng: np.random.Generator, one: Candidate, whole: bool) -> Outcome:
    """Return losses with ties, curves that stop anywhere, some of them decayed, prunings and failures."""
    luck = rng.random()
    step = 1 / 8 if rng.random() < 0.8 else 1 / 10
    curve = []
    for number in range(1, int(one.budget / step) + 1):
        point = {"loss": float(rng.integers(6)) if whole else rng.random()}
        if rng.random() < 0.05:
            point = {"other": 1.0}
        curve.append((number * step, {**point, "decayed": 1.0} if rng.random() < 0.1 else point))
    if luck < 0.1:
        return Outcome("failed", error="no luck", curve=tuple(curve[:3]))
    if luck < 0.2:
        return Outcome("pruned", curve=tuple(curve[:4]))
    loss = float(rng.integers(9)) if whole else rng.random()
    return Outcome("ok", {"loss": loss, "cost": rng.random(), "size": rng.random()}, tuple(curve))


def births(settings: RunSettings, rng: np.random.Generator, known: History, count: int) -> Iterator[Candidate]:
    """Yield births as no rules would make them: further trials of anyone, and now and then the same again."""
    for id in range(count):
        one = Candidate(id, 0, 0, id, SPACE.sample(rng), "random", budget=settings.rungs[0])
        told = [entry for entry in trials_by_genome(known).values() if not entry.failed]
        luck = rng.random()
        if told and luck < 0.5:
            entry = told[int(rng.integers(min(8, len(told))))]
            last = entry.latest_trial
            higher = [rung for rung in settings.rungs if rung > last.candidate.budget]
            if higher:
                one = replace(one, genome=last.genome, budget=higher[0], resumes=last.id)
            elif rng.random() < 0.8:
                one = replace(one, genome=last.genome, budget=1.0, extra_seed=1 + len(entry.extra_seed_trials))
            else:  # a strategy that does not look at what was born
                one = replace(one, genome=last.genome)
        yield one


@pytest.mark.parametrize("count", some([100, 250], 100))
@pytest.mark.parametrize("whole", [True, pytest.param(False, marks=pytest.mark.proof)], ids=["ties", "reals"])
@pytest.mark.parametrize("objectives", [1, 2])
@pytest.mark.parametrize("name", VARIANTS)
def test_what_is_kept_is_what_is_counted_anew(name: str, objectives: int, whole: bool, count: int) -> None:
    settings, rng = VARIANTS[name], np.random.default_rng([objectives, whole, *name.encode()])
    history = RunHistory(SPACE, OBJECTIVES[:objectives], CONSTRAINTS.get(name, ()))
    strategy = StrategyWithRules(
        inner=make_strategy("random", {"population": 8}), settings=settings, constraints=CONSTRAINTS.get(name, ())
    )
    seen, curves = set(), Curves("loss", 1.0)
    for one in births(settings, rng, history, count):
        history.add_candidate(one)
        while len(history.pending) > 3:
            late = history.pending[int(rng.integers(3))]
            history.tell(late.id, outcome(rng, late, whole))
            curves.update(trials_by_genome(history)[genome_key(late.genome)])
        due, wanted = strategy.next_promotion_or_seed(history), reference.next_promotion_or_seed(settings, history)
        assert (due and replace(due, stop_if=())) == wanted
        seen.add(wanted and wanted.operator)
        told = list(trials_by_genome(history).values())
        for start, budget in ((0.0, 1.0), (0.2, 1 / 3)):
            assert curves.bounds(start, budget) == reference.bounds(told, "loss", 1.0, start, budget)
        assert history.ranked_losses().tolist() == [list(trial.losses or ()) for trial in history.ranked()]
    assert len(seen) > (name != "prune")


@pytest.mark.parametrize("name", ["seeds_per_trial", "all"])
def test_the_genetic_algorithm_sees_in_a_view_what_it_would_keep_one_by_one(name: str) -> None:
    settings, rng = VARIANTS[name], np.random.default_rng(1)
    history = RunHistory(SPACE, OBJECTIVES[:1], CONSTRAINTS.get(name, ()))
    strategy = make_strategy("ga", {"population": 6})
    for one in births(settings, rng, history, 120):
        history.add_candidate(one)
        history.tell(one.id, outcome(rng, one, True))
    view, pool = RankedHistory(history, settings.rungs, lambda genome: False), []
    for trial in view.trials:
        if trial.losses is not None:
            pool = sorted([*pool, (trial.losses, trial.id)])[:6]
    assert list(strategy.survivors(view)) == [id for _, id in pool]
    assert len({genome_key(trial.genome) for trial in view.trials}) == len(view.trials)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_birth_in_a_long_run_asks_few_genomes_what_they_reached(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, rng = VARIANTS[name], np.random.default_rng(2)
    history = RunHistory(SPACE, OBJECTIVES[:1], CONSTRAINTS.get(name, ()))
    strategy = StrategyWithRules(
        inner=make_strategy("ga", {"population": 8}), settings=settings, constraints=CONSTRAINTS.get(name, ())
    )
    for one in births(settings, rng, history, 400):
        history.add_candidate(one)
        history.tell(one.id, outcome(rng, one, False))
    strategy.propose(history, np.random.default_rng(0))
    asked = []
    losses = GenomeTrials.losses
    monkeypatch.setattr(GenomeTrials, "losses", lambda entry, budget: asked.append(entry.key) or losses(entry, budget))
    for id in range(400, 410):
        one = Candidate(id, 0, 0, id, SPACE.sample(rng), "random", budget=settings.rungs[0])
        history.add_candidate(one)
        history.tell(id, outcome(rng, one, False))
        strategy.propose(history, np.random.default_rng(id))
    assert len(asked) < 10 * 10, "each told result is looked at, and none of the 400 before"
