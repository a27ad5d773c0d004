"""Whether going on pays: a chance that is right as often as it says, known noise first, and a run that stops by it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from evo_tune.errors import OptionError
from evo_tune.genome.trial import Candidate, Outcome, Trial
from evo_tune.loop.search import Search
from evo_tune.loop.verifying import verify
from evo_tune.report.summary import (
    MoreTrials,
    describe_more_trials,
    improvement_chance,
    predict_next_generation,
    seed_noise,
)
from evo_tune.store.run import Run
from tests.conftest import cut_copy, drive
from tests.loop.cases import Begin


def test_a_chance_is_right_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    told, came = [], []
    for _ in range(1500):
        noise, count = rng.choice([0.0, 0.2, 0.5]), int(rng.integers(20, 60))
        losses = rng.normal(size=count + 12)
        told.append(improvement_chance(losses[:count].tolist(), noise, 12))
        came.append(losses[count:].min() < losses[:count].min() - noise)
    found, true = np.array(told), np.array(came)
    for low, high in ((0.0, 0.1), (0.1, 0.3), (0.3, 0.6)):
        within = (low <= found) & (found < high)
        assert within.sum() > 50
        assert low - 0.1 < true[within].mean() < high + 0.1, "of draws that nothing guides"
    assert true[found < 0.05].mean() < 0.13 < true[found > 0.1].mean()


def test_it_grows_with_the_trainings_and_falls_with_the_noise() -> None:
    losses = np.random.default_rng(1).normal(size=40).tolist()
    by_trainings = [improvement_chance(losses, 0.1, many) for many in (1, 5, 20)]
    by_noise = [improvement_chance(losses, noise, 12) for noise in (0.0, 0.3, 1.0)]
    assert by_trainings == sorted(by_trainings)
    assert by_noise == sorted(by_noise, reverse=True)
    assert improvement_chance([7.0 * loss + 3.0 for loss in losses], 7.0 * 0.3, 12) == pytest.approx(by_noise[1]), (
        "of losses' scale"
    )
    assert math.isnan(improvement_chance(losses[:10], 0.1, 12))
    assert improvement_chance([1.0] * 30, 0.1, 12) == 0.0, "nothing changes anything"


def bowl(search: Search, candidate: Candidate) -> Outcome:
    """Fall to a floor that no genome gets below, but for a little noise."""
    noise = 0.02 * np.random.default_rng([candidate.id, candidate.extra_seed]).normal()
    x = float(candidate.genome["x"])  # type: ignore[arg-type]
    return Outcome("ok", {"loss": max(0.0, abs(x - 0.4) - 0.3) + noise, "cost": 1.0}, seconds=1.0)


STOPS = {"generations": None, "trials": 400, "seeds_per_trial": 3, "stop_when_done": True, "population": 8, "seed": 3}


def test_a_run_stops_where_it_is_done_and_stops_there_again(begin: Begin, resume: Begin, fast_disk: None) -> None:
    search = drive(begin("run", **STOPS), evaluate=bowl)
    run = Run.open(search.saved.folder)
    born = sum(candidate.fresh for candidate in run.candidates)
    assert 16 <= born < 200
    assert run.ended is not None
    assert run.ended.startswith("no further improvement is likely: the next 8 trainings have a chance of ")
    assert seed_noise(run.trials()) == pytest.approx(0.02, rel=1.0)
    assert not verify(run, search.space, search.strategy)
    assert len(drive(resume("run"), evaluate=bowl).trials) == len(run.outcomes), "nothing was left to do"
    further = drive(resume("run", trials=born + 3), evaluate=bowl).saved
    assert sum(candidate.fresh for candidate in further.candidates) == born + 3, "a new limit replaces it"


def test_a_run_that_was_cut_stops_where_the_whole_one_did(begin: Begin, tmp_path: Path, fast_disk: None) -> None:
    whole = drive(begin("run", order="proposal", lag=4, **STOPS), slots=3, evaluate=bowl).saved
    lines = len((whole.folder / "_journal.jsonl").read_bytes().splitlines())
    cut_copy(whole, tmp_path / "store" / "cut", lines // 2)
    again = drive(Search.resume("cut", store=tmp_path / "store", trust=True), evaluate=bowl).saved
    assert [one.genome for one in again.candidates] == [one.genome for one in whole.candidates]


def test_equal_losses_of_all_seeds_are_no_noise() -> None:
    made = [Candidate(id, 0, id, 0, {"x": id % 2}, "-") for id in range(6)]
    trials = [Trial(one, Outcome("ok", {"loss": 0.1}), one.id, (0.06 + 0.1 * (one.id % 2),)) for one in made]
    assert seed_noise(trials) == 0.0
    assert (
        describe_more_trials(MoreTrials(0.5, 12, 0.0))
        == "the next 12 trainings have a chance of 50% to improve the best"
    )


def test_without_noise_nothing_is_said(begin: Begin, fast_disk: None) -> None:
    search = drive(begin("run", generations=None, trials=30), evaluate=bowl)
    assert predict_next_generation(search.saved) is None
    with pytest.raises(OptionError, match=r"--stop-when-done: .* --seeds-per-trial 2"):
        begin("other", stop_when_done=True)
    with pytest.raises(OptionError, match="--seeds-per-trial 2"):
        Search.resume("run", store=search.saved.folder.parent, stop_when_done=True)


@pytest.mark.parametrize(
    ("found", "said"),
    [(0.0, "less than 1%"), (0.004, "less than 1%"), (0.006, "1%"), (0.42, "42%"), (0.996, "more than 99%")],
)
def test_nothing_is_said_to_be_impossible_or_certain(found: float, said: str) -> None:
    assert describe_more_trials(MoreTrials(found, 12, 0.01)).startswith(
        f"the next 12 trainings have a chance of {said} to improve the best"
    )
