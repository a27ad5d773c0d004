"""A run with a limit of hours ends in time, final comparison and report included: simulated with known durations."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from evo_tune.forecast.ahead import CLOSING
from evo_tune.genome.trial import Candidate, Outcome
from evo_tune.loop.search import Search
from evo_tune.report.final_comparison import FreshTraining
from evo_tune.report.recommendation import comparison_of
from tests.loop.cases import Begin

HOURS = 0.1

SEEDS = 3

NEAR = 0.05
"""A run ends so near to its hours, as a share of them."""


@dataclass
class World:
    """Slots that train in simulated time.

    Args:
        slots: How many.
        seed: Of what differs from one training of a genome to the next.
        each: Seconds of a training, about.
        drift: How much longer a training takes at the end of the hours than at their beginning.
        busy: From when to when, as shares of the hours, the machine has so much else to do that it takes so many times
            as long: three numbers.
        now: The time.
    """

    slots: int
    seed: int
    each: float
    drift: float = 1.0
    busy: tuple[float, float, float] = (0.0, 0.0, 1.0)
    now: float = 0.0
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def seconds(self, genome: dict[str, object]) -> float:
        """Return how long a training takes that begins now: a third to three times as long, by its genome."""
        by_genome = 3.0 ** (2.0 * np.log(float(genome["n"])) / np.log(64.0) - 1.0)  # type: ignore[arg-type]
        gone, (begin, end, times) = self.now / (3600 * HOURS), self.busy
        slower = self.drift**gone * (times if begin <= gone < end else 1.0)
        return float(self.each * by_genome * slower * self.rng.lognormal(0.0, 0.1))

    def loss(self, genome: dict[str, object]) -> float:
        """Return what comes of it."""
        return float((float(genome["x"]) - 0.4) ** 2 + self.rng.normal(0.0, 0.02)) + 1.0  # type: ignore[arg-type]

    def search(self, search: Search) -> None:
        """Train until no more is to be born and nothing is in flight."""
        running: list[tuple[float, int, float, Candidate]] = []
        while True:
            while len(running) < self.slots and (candidate := search.ask()) is not None:
                took = self.seconds(candidate.genome)
                heapq.heappush(running, (self.now + took, candidate.id, took, candidate))
            if not running:
                return
            self.now, _, took, candidate = heapq.heappop(running)
            search.tell(candidate, Outcome("ok", {"loss": self.loss(candidate.genome), "cost": 1.0}, seconds=took))

    def compare(self, search: Search) -> None:
        """Have the closing comparison run: a slot that is free takes what is wanted, and waits while nothing is."""
        comparison, run = comparison_of(search.saved), search.saved
        results: dict[FreshTraining, float | None] = {}
        running: list[tuple[float, FreshTraining]] = []
        while True:
            out = {one for _, one in running}
            wanted = [one for one in comparison.state(results).wanted if one not in out]
            for one in wanted[: self.slots - len(running)]:
                running.append((self.now + self.seconds(run.candidates[one.id].genome), one))
            if not running:
                return
            running.sort(key=lambda item: item[0])
            self.now, one = running.pop(0)
            results[one] = self.loss(run.candidates[one.id].genome)


@pytest.fixture
def ended(begin: Begin, monkeypatch: pytest.MonkeyPatch, fast_disk: None) -> Callable[[World], float]:
    """Return a function that returns when a run over a world ended, as a share of its hours."""

    def play(world: World) -> float:
        monkeypatch.setattr(time, "time", lambda: world.now)
        monkeypatch.setattr(time, "monotonic", lambda: world.now)
        given = {"final_seeds": 3, "finalists": 2, "generations": None, "strategy": "ga", "population": 8}
        search = begin(hours=HOURS, seed=world.seed, **given)
        search.drivers.slots = [object()] * world.slots  # type: ignore[list-item]  # counted only
        world.search(search)
        search.drivers.slots = []
        assert search.finished is not None
        assert "hours are over" in search.finished
        world.compare(search)
        return (world.now + CLOSING) / (3600 * HOURS)

    return play


@pytest.mark.parametrize("slots", [2, *(pytest.param(n, marks=pytest.mark.proof) for n in (1, 4))])
def test_hours_end_in_time_with_the_final_comparison(slots: int, ended: Callable[[World], float]) -> None:
    ends = np.array([ended(World(slots, seed, 3600 * HOURS * slots / 150)) for seed in range(SEEDS)])
    assert (abs(ends - 1.0) < NEAR).mean() >= 0.85, ends
    assert abs(ends.mean() - 1.0) < NEAR / 3, "neither early nor late"


@pytest.mark.slow
def test_hours_end_in_time_where_trainings_come_to_take_twice_as_long(ended: Callable[[World], float]) -> None:
    ends = np.array([ended(World(2, seed, 3600 * HOURS / 120, drift=2.0)) for seed in range(SEEDS + 1)])
    assert (abs(ends - 1.0) < NEAR).mean() >= 0.75, ends


@pytest.mark.slow
@pytest.mark.parametrize("busy", [(0.0, 0.02, 12.0), (0.5, 0.7, 8.0)], ids=["as workers start", "as the best is found"])
def test_hours_end_in_time_though_the_machine_was_busy_for_a_while(
    busy: tuple[float, float, float], ended: Callable[[World], float]
) -> None:
    ends = np.array([ended(World(2, seed, 3600 * HOURS / 120, busy=busy)) for seed in range(SEEDS)])
    assert (abs(ends - 1.0) < NEAR).mean() >= 0.85, ends
