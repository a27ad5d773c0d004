"""Forecasts against reality: on runs whose durations are known, in simulated time; what is promised fits."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from msgspec import UNSET

from evo_tune.forecast import (
    Bounds,
    comparison_end_times,
    comparison_seconds,
    comparison_trainings,
    forecast_line,
    forecast_run,
    genome_cost,
)
from evo_tune.forecast.clock import Clock
from evo_tune.forecast.timing import Pace, genomes_to_time, pace_of
from evo_tune.genome.trial import Candidate, Outcome
from evo_tune.loop.search import Search
from evo_tune.report.final_comparison import FinalComparison, FreshTraining
from evo_tune.rules.fidelity import mean_genome_cost
from evo_tune.settings import SessionSettings, parse_settings
from tests.loop.cases import Begin

SETTINGS = [(seed, slots) for seed in range(5) for slots in (1, 4)]


def seconds_of(genome: dict[str, object], seed: int) -> float:
    """Return how long a training takes: 1 to 10 times as long, by its genome."""
    return 60.0 * (1.0 + 9.0 * (float(genome["n"]) - 1.0) / 63.0) * (1.0 + seed / 4)  # type: ignore[arg-type]


@dataclass
class Simulated:
    """A run in simulated time, a forecast being made after some of its results."""

    search: Search
    seed: int
    slots: int
    looks: tuple[int, ...] = ()

    def play(self) -> tuple[float, list[Bounds]]:
        """Return the time of its end, and the predicted time of its end at each look."""
        now, running, told = 0.0, list[tuple[float, int, Candidate]](), list[Bounds]()
        saved = self.search.saved
        while True:
            while len(running) < self.slots and (candidate := self.search.ask()) is not None:
                took = seconds_of(candidate.genome, self.seed) * candidate.budget
                heapq.heappush(running, (now + took, candidate.id, candidate))
            if not running:
                return now, told
            now, _, candidate = heapq.heappop(running)
            took = seconds_of(candidate.genome, self.seed) * candidate.budget
            self.search.tell(
                candidate, Outcome("ok", {"loss": float(candidate.genome["x"]), "cost": 1.0}, seconds=took)
            )  # type: ignore[arg-type]
            if len(saved.outcomes) in self.looks:
                ahead = forecast_run(saved.manifest, self.search.session, self.slots, Clock(saved))
                assert ahead is not None
                left = ahead.seconds
                told.append(Bounds(low=now + left.low, expected=now + left.expected, high=now + left.high))


def pace(search: Search, seed: int) -> Pace:
    found = pace_of(
        {at: {"seconds": seconds_of(genome, seed)} for at, genome in enumerate(genomes_to_time(search.space))}
    )
    assert found is not None
    return found


def test_a_forecast_holds_before_a_run_and_during_it(begin: Begin, fast_disk: None) -> None:
    inside, near, late = [], [], []
    for seed, slots in SETTINGS:
        search = begin(generations=None, trials=40, population=8, seed=seed)
        first = forecast_run(search.saved.manifest, search.session, slots, Clock(pace=pace(search, seed)))
        assert first is not None
        end, told = Simulated(search, seed, slots, (10, 30)).play()
        for one in (first.seconds, *told):
            assert one.low <= one.expected <= one.high
            inside.append(one.low <= end <= one.high)
            near.append(abs(one.expected / end - 1.0))
        late.append(near[-1])
        assert first.genomes == 40
    assert np.mean(inside) >= 0.7, "four fifths"
    assert np.median(near) < 0.3, "trainings take 1 to 10 times as long, and what does not matter drifts"
    assert np.median(late) < 0.1, "results correct it"


@pytest.mark.parametrize("slots", [1, 2, 7])
@pytest.mark.parametrize(("seeds", "finalists"), [(3, 2), (1, 1), (4, 5)])
def test_a_race_takes_between_the_least_and_the_most_that_is_told(slots: int, seeds: int, finalists: int) -> None:
    session = SessionSettings(trials=1, final_seeds=seeds, finalists=finalists)
    told = comparison_trainings(session)
    least, longest = comparison_seconds(session, 1.0, slots)
    counts = set()
    for draw in range(30):
        rng = np.random.default_rng(draw)
        comparison = FinalComparison(tuple(range(1, finalists + 1)), 0, seeds)
        gain, results, rounds = rng.normal(), {}, 0
        while wanted := comparison.state(results).next_trainings:
            rounds += 1
            for one in wanted[:slots]:
                results[one] = float(rng.normal() - (gain if one.id else 0.0))
        counts.add(len(results))
        assert told.fewest <= len(results) <= told.most
        assert least <= rounds <= longest + finalists.bit_length(), "an unlucky halving leaves slots idle"
    assert min(counts) < max(counts) or seeds == 1


def test_hours_are_never_promised_twice() -> None:
    for draw in range(200):
        rng = np.random.default_rng(draw)
        rungs = ([1.0], [1 / 3, 1.0], [1 / 9, 1 / 3, 1.0])[draw % 3]
        manifest = _manifest(fidelity=rungs, seeds_per_trial=int(rng.integers(1, 4)))
        hours, slots, each = rng.uniform(0.01, 5.0), int(rng.integers(1, 20)), rng.uniform(0.1, 300.0)
        session = SessionSettings(hours=hours, final_seeds=draw % 4, finalists=2)
        found = forecast_run(manifest, session, slots, Clock(pace=Pace((each, each))))
        assert found is not None
        comparison = sum(comparison_seconds(session, each, slots)) / 2
        assert found.full_trainings * each / slots <= max(0.0, hours * 3600 - comparison) + 1e-6
        assert found.seconds.expected <= hours * 3600 + 1e-6
        assert found.genomes <= found.full_trainings / min(rungs) + 1


def _manifest(**given: Any) -> Any:
    return type("Manifest", (), {"population": 12, "settings": parse_settings(given)[0], "patched": UNSET})


def test_leaving_out_patches_is_counted() -> None:
    session = SessionSettings(trials=10, final_seeds=3, finalists=1)
    two = replace(session, finalists=2)  # the best, and the one with the fewest patches that may be as good
    alone, with_patches = comparison_trainings(two), comparison_trainings(session, 5)
    assert (with_patches.fewest, with_patches.most) == (alone.fewest, alone.most + 5 * 6)
    assert comparison_seconds(session, 2.0, 1, 5)[1] == comparison_seconds(two, 2.0, 1)[1] + 2.0 * 5 * 6
    assert comparison_seconds(session, 2.0, 1, 5)[0] == comparison_seconds(two, 2.0, 1)[0]


def test_a_look_at_patches_takes_its_time() -> None:
    comparison = FinalComparison((1,), 0, 3, patches={1: ("a", "b", "c")})
    alone = comparison_end_times(replace(comparison, patches={}), lambda id: 2.0, 1)
    assert comparison_end_times(comparison, lambda id: 2.0, 1) == [
        *alone,
        alone[-1] + 2.0 * 3 * comparison.look_seeds[0],
    ]
    results = {
        FreshTraining(id, "report", number): loss
        for number in range(1, 7)
        for id, loss in ((1, 1.0 + number / 100), (0, 2.0 + number / 90))
    }
    assert comparison_end_times(comparison, lambda id: 2.0, 1, results) == [2.0 * 3 * comparison.look_seeds[0]]
    results |= {
        FreshTraining(1, "report", number, gene): 1.0 + gain + number * spread
        for number in range(1, 3)
        for gene, gain, spread in (("a", 0.0, 0.01), ("b", 0.4, 0.11), ("c", 0.01, 0.5))
    }
    (end,) = comparison_end_times(comparison, lambda id: 2.0, 1, results)
    assert end == 2.0 * len(comparison.state(results).next_trainings) > 0.0


def test_further_seeds_by_worth_are_counted() -> None:
    cost = genome_cost(_manifest(seeds_per_trial="auto"), 50)
    assert 1.0 < cost < genome_cost(_manifest(seeds_per_trial=4), 50)


def test_rungs_cost_less_than_full_trainings_and_more_than_their_first() -> None:
    assert mean_genome_cost((1.0,), 10) == 1.0
    few, many = mean_genome_cost((1 / 9, 1 / 3, 1.0), 8), mean_genome_cost((1 / 9, 1 / 3, 1.0), 500)
    assert 1 / 9 < many < few < 1.0, "most audits are early"


def test_a_forecast_in_words_and_as_data(begin: Begin) -> None:
    search = begin(trials=10, generations=None)
    manifest = search.saved.manifest
    assert forecast_run(manifest, search.session, 2) is None, "nothing is known"
    session = SessionSettings(trials=10, final_seeds=3, finalists=2)
    ahead = forecast_run(manifest, session, 2, Clock(pace=Pace((10.0,), worker=5 * 10**8)))
    assert ahead is not None
    assert ahead.cost is None
    assert ahead.seconds.expected == pytest.approx(10 * 10 / 2 + (30 + 70) / 2, abs=5)
    priced = ahead.with_cost(2.0)
    assert priced.cost is not None
    assert priced.cost.expected == pytest.approx(2 * ahead.seconds.expected / 3600)
    line = forecast_line(priced)
    assert "10 genomes, 6 to 14 trainings of the final comparison; 2 x 500.0 MB of memory" in line
    assert f"; {priced.cost.expected:.2f} at the given price" in line


def left(search: Search, pace: Pace | None = None) -> float:
    found = forecast_run(search.saved.manifest, search.session, 1, Clock(search.saved, pace))
    assert found is not None
    return found.seconds.expected


def test_the_start_of_the_workers_and_the_time_between_trainings_count(begin: Begin) -> None:
    search = begin(trials=10, generations=None)
    assert left(search, Pace((10.0,), start=6.0)) - left(search, Pace((10.0,))) == pytest.approx(6.0, abs=0.5)
    for _ in range(5):
        candidate = search.ask()
        assert candidate is not None
        search.tell(candidate, Outcome("ok", {"loss": 1.0, "cost": 1.0}, seconds=1.0))
    run, usual = search.saved, left(search)
    run.proposed_at, run.recorded_at = {id: 10.0 * id for id in range(5)}, {id: 10.0 * id + 4.0 for id in range(5)}
    assert left(search) - usual == pytest.approx(5 * (6.0 + 3.0), abs=0.5), "to propose, and to the worker and back"


def test_a_run_with_nothing_left_takes_no_time(begin: Begin, resume: Begin, fast_disk: None) -> None:
    search = begin(trials=4, generations=None, slots=1, final_seeds=2)
    search.run()
    assert left(search) == 0.0
    assert left(resume(search.name, trials=5, generations=None)) > 0.0


def test_a_few_long_genomes_do_not_make_a_first_forecast_too_long(begin: Begin) -> None:
    """As language_model was timed on two cores: its default run took 2.7 times the default's seconds for a training."""
    timed = (5.55, 7.92, 51.83, 177.85, 23.29, 2.18, 7.05, 48.21)
    took = 2.7 * timed[0]
    found = pace_of({at if at < 1 else at + 2: {"seconds": each} for at, each in enumerate(timed)})
    assert found is not None
    assert found.mean_seconds == pytest.approx(took, rel=0.25)
    search = begin(trials=60, generations=None)
    ahead = forecast_run(search.saved.manifest, search.session, 2, Clock(pace=found))
    assert ahead is not None
    assert ahead.seconds.expected == pytest.approx(60 * took / 2, rel=0.3)
    assert ahead.seconds.low < 60 * took / 2 < ahead.seconds.high


def test_hours_are_shared_by_families_and_leave_time_for_the_start(begin: Begin) -> None:
    search = begin(generations=None, hours=1.0, final_seeds=0)
    quick = Pace(seconds=(1.0,))

    def genomes(pace: Pace) -> int:
        forecast = forecast_run(search.saved.manifest, search.session, 1, Clock(pace=pace))
        assert forecast is not None
        return forecast.genomes

    assert genomes(quick) == pytest.approx(3600, rel=0.15)
    assert genomes(replace(quick, start=1800.0)) == pytest.approx(genomes(quick) / 2, rel=0.01)
    assert genomes(replace(quick, families=(1.0, 99.0))) == pytest.approx(genomes(quick) / 50, rel=0.02)
