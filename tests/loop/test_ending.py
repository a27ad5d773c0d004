"""A run with a limit of hours ends in time, final comparison and report included: simulated with known durations."""

from __future__ import annotations

import heapq
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evo_tune.forecast import CLOSING_SECONDS
from evo_tune.forecast.clock import Clock
from evo_tune.genome.trial import Candidate, Outcome
from evo_tune.loop.comparison import ComparisonJobs
from evo_tune.loop.deadline import Deadline
from evo_tune.loop.driving import Job
from evo_tune.loop.search import Search
from evo_tune.report.recommendation import comparison_result, current_comparison, recommend_trial
from evo_tune.report.summary import RunResult, training_share, verdict
from evo_tune.store.run import Run
from tests.conftest import QUICK
from tests.loop.cases import Begin

Play = Callable[..., float]

HOURS = 0.1

SEEDS = 3

TICK = 1.0
"""Seconds between two looks at the clock, in simulated time."""

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
        wild: Standard deviation of the logarithm of what cannot be predicted.
        known: Returns the seconds that the evaluator predicts for a genome; None: it predicts none.
        now: The time.
        interrupted: Trainings that were ended because the time was over.
        run: The run that was played.
    """

    slots: int
    seed: int
    each: float
    drift: float = 1.0
    busy: tuple[float, float, float] = (0.0, 0.0, 1.0)
    wild: float = 0.1
    known: Callable[[dict[str, object]], float] | None = None
    now: float = 0.0
    interrupted: int = 0
    run: Run | None = None
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def seconds(self, genome: dict[str, object], share: float = 1.0) -> float:
        """Return how long a share of a training takes that begins now: a third to three times `each`, by its genome."""
        by_genome = share * 3.0 ** (2.0 * np.log(float(genome["n"])) / np.log(64.0) - 1.0)  # type: ignore[arg-type]
        gone, (begin, end, times) = self.now / (3600 * HOURS), self.busy
        slower = self.drift**gone * (times if begin <= gone < end else 1.0)
        return float(self.each * by_genome * slower * self.rng.lognormal(0.0, self.wild))

    def loss(self, genome: dict[str, object]) -> float:
        """Return what comes of it."""
        return float((float(genome["x"]) - 0.4) ** 2 + self.rng.normal(0.0, 0.02)) + 1.0  # type: ignore[arg-type]

    def search(self, search: Search) -> None:
        """Train until no more is proposed and nothing is running, or until the time for trainings is over."""
        running: list[tuple[float, int, float, Candidate]] = []
        while True:
            while len(running) < self.slots and (candidate := search.ask()) is not None:
                took = self.seconds(candidate.genome, training_share(search.saved, candidate))
                heapq.heappush(running, (self.now + took, candidate.id, took, candidate))
            if not running:
                return
            self.now = min(running[0][0], self.now + TICK)
            if search.deadline is not None and search.deadline.is_over():
                self.interrupted += len(running)
                return
            if self.now >= running[0][0]:
                _, _, took, candidate = heapq.heappop(running)
                search.tell(candidate, Outcome("ok", {"loss": self.loss(candidate.genome), "cost": 1.0}, seconds=took))

    def compare(self, search: Search) -> None:
        """Train the final comparison: a slot that is free takes the next job, and waits while there is none."""
        assert search.deadline is not None
        search.deadline.plan()
        jobs = ComparisonJobs(search.saved, threading.Condition(threading.RLock()), lambda: False, search.deadline)
        running: list[tuple[float, float, Job]] = []
        while True:
            while len(running) < self.slots and isinstance(job := jobs.fetch(None), Job):  # type: ignore[arg-type]
                took = self.seconds(job.candidate.genome)
                running.append((self.now + took, took, job))
            if not running:
                return
            running.sort(key=lambda item: item[0])
            self.now = min(running[0][0], self.now + TICK)
            if jobs.time_is_over():
                self.interrupted += len(running)
                jobs.end_if_late()
                return
            if self.now >= running[0][0]:
                _, took, job = running.pop(0)
                jobs.record_outcome(job, Outcome("ok", {"loss": self.loss(job.candidate.genome)}, seconds=took))


@pytest.fixture
def ended(begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fast_disk: None) -> Play:
    """Return a function that plays a run over a world, and returns when it ended, as a share of its hours."""
    parts = tmp_path / "parts.py"
    parts.write_text(QUICK + "SUPPORTS = ['budget']\n")

    def play(world: World, after: float = 0.0, **fields: Any) -> float:
        monkeypatch.setattr(time, "time", lambda: world.now)
        monkeypatch.setattr(time, "monotonic", lambda: world.now)
        given = {"final_seeds": 3, "finalists": 2, "generations": None, "strategy": "ga", "population": 8}
        search = begin(evaluator=str(parts), hours=HOURS, seed=world.seed, **{**given, **fields})

        def estimate(genome: dict[str, object]) -> dict[str, float]:
            return {"seconds": world.known(genome)} if world.known else {}

        search.deadline = Deadline(
            run=search.saved,
            session=search.session,
            clock=Clock(search.saved, None, lambda: search.space, estimate),
            slots=world.slots,
            elapsed=lambda: search.seconds,
            after=lambda training: after * training,
        )
        world.search(search)
        assert world.interrupted or search.finished is not None
        assert world.interrupted or re.search("hours (are|is) over", str(search.finished))
        world.compare(search)
        world.run = search.saved
        return (world.now + CLOSING_SECONDS) / (3600 * HOURS)

    return play


def assert_in_time(ends: np.ndarray) -> None:
    """Assert that runs of many trainings never end late, and on the average not early."""
    assert (ends <= 1.0 + NEAR / 5).all(), ends
    assert ends.mean() > 1.0 - NEAR, ends


@pytest.mark.parametrize("slots", [2, *(pytest.param(n, marks=pytest.mark.proof) for n in (1, 4))])
def test_hours_end_in_time_with_the_final_comparison(slots: int, ended: Play) -> None:
    ends = np.array([ended(World(slots, seed, 3600 * HOURS * slots / 150)) for seed in range(SEEDS)])
    assert_in_time(ends)


@pytest.mark.parametrize("slots", [1, 2])
def test_hours_leave_the_time_of_trainings_after_the_comparison(slots: int, ended: Play) -> None:
    ends = []
    for seed in range(SEEDS):
        world = World(slots, seed, 3600 * HOURS * slots / 150)
        end = ended(world, after=10.0)
        assert world.run is not None
        best = recommend_trial(world.run)
        assert best is not None
        ends.append(end + sum(world.seconds(best.genome) for _ in range(10)) / (3600 * HOURS))
    assert max(ends) <= 1.0 + NEAR, ends
    assert np.mean(ends) > 1.0 - NEAR, ends


@pytest.mark.slow
def test_hours_end_in_time_where_trainings_come_to_take_twice_as_long(ended: Play) -> None:
    ends = np.array([ended(World(2, seed, 3600 * HOURS / 120, drift=2.0)) for seed in range(SEEDS + 1)])
    assert_in_time(ends)


@pytest.mark.slow
@pytest.mark.parametrize("busy", [(0.0, 0.02, 12.0), (0.5, 0.7, 8.0)], ids=["as workers start", "as the best is found"])
def test_hours_end_in_time_though_the_machine_was_busy_for_a_while(
    busy: tuple[float, float, float], ended: Play
) -> None:
    ends = np.array([ended(World(2, seed, 3600 * HOURS / 120, busy=busy)) for seed in range(SEEDS)])
    assert_in_time(ends)


@pytest.mark.parametrize("draw", [*range(4), *(pytest.param(draw, marks=pytest.mark.slow) for draw in range(4, 30))])
def test_hours_hold_whatever_trainings_take(draw: int, ended: Play) -> None:
    rng = np.random.default_rng(draw)
    each = 3600 * HOURS * float(np.exp(rng.uniform(np.log(0.02), np.log(0.9))))
    world = World(int(rng.integers(1, 6)), draw, each, wild=float(rng.uniform(0.0, 0.9)))
    seeds, finalists = int(rng.integers(0, 5)), int(rng.integers(1, 4))
    rungs = ("1", "1/3,1", "1/9,1/3,1")[draw % 3]
    order = ("arrival", "proposal")[draw // 3 % 2]
    end = ended(world, final_seeds=seeds, finalists=finalists, fidelity=rungs, order=order)
    assert end <= 1.0 + TICK / (3600 * HOURS), (each, world.slots)
    found, run = comparison_result(world.run), world.run
    assert found[0] is None or found[0].over
    assert len(run.candidates) - len(run.outcomes) <= world.interrupted, "a longer run trains these again"
    again = Run.open(run.folder)
    assert current_comparison(again) == current_comparison(run)
    assert comparison_result(again) == found


def test_a_comparison_is_made_smaller_and_the_verdict_says_so(ended: Play) -> None:
    said = []
    for seed, slots in ((1, 1), (3, 1), (0, 2)):
        world = World(slots, seed, 3600 * HOURS * slots / 10, wild=0.05)
        assert ended(world) <= 1.0 + NEAR
        said.append(verdict(RunResult(world.run)))
    assert "to fit into 0.1 hours, the final comparison had 2 of at most 6 seeds" in said[0]
    assert "; no final comparison: 2 seeds of the best and of the default did not fit into 0.1 hours" in said[2]


def test_the_seconds_that_an_evaluator_predicts_are_used(ended: Play) -> None:
    """Trainings take twice as long as predicted, and by nothing but the prediction."""

    def known(genome: dict[str, object]) -> float:
        return World(1, 0, 6.0, wild=0.0).seconds(genome) / 2

    for seed in range(2):
        world = World(1, seed, 6.0, wild=0.0, known=known)
        assert 1.0 - NEAR <= ended(world, final_seeds=0) <= 1.0
        assert world.interrupted == 0, "no training begins that would not end in time"
