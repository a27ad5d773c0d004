"""Where a rung leaves its training, and how the learning rate comes down there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evo_tune.training.recipe.optim.schedule import SCHEDULES, ForkedSchedule, Schedule, fork_step

STEPS = st.integers(2, 400)


def wsd(steps: int, **fields: float) -> Schedule:
    return Schedule(steps=steps, schedule="wsd", **{"min_lr_ratio": 0.1, "decay_fraction": 0.2, **fields})  # type: ignore[arg-type]


def test_a_rung_is_a_whole_training_in_small() -> None:
    full = wsd(900, warmup_fraction=0.0)
    assert [fork_step(full, stop) for stop in (100, 300, 899, 900)] == [80, 240, 719, 900]
    tail = ForkedSchedule.of(full, 80, 100)
    assert [tail(step) for step in (0, 79)] == [1.0, 1.0]
    falling = [tail(step) for step in range(80, 100)]
    small = wsd(100, warmup_fraction=0.0)
    assert falling == pytest.approx([small(step) for step in range(80, 100)], abs=0.05)
    assert falling == sorted(falling, reverse=True)
    assert tail(99) > tail(100) == full.min_lr_ratio == 0.1


@pytest.mark.parametrize("name", sorted(set(SCHEDULES) - {"wsd"}))
def test_other_schedules_are_cut_off(name: str) -> None:
    assert fork_step(Schedule(steps=100, schedule=name), 30) == 30


@given(STEPS, st.data())
def test_a_fork_leaves_the_full_training_before_its_own_decay(steps: int, data: st.DataObject) -> None:
    share = data.draw(st.floats(0.01, 1.0))
    full = wsd(steps, decay_fraction=share, warmup_fraction=data.draw(st.floats(0.0, 0.5)))
    stops = sorted(data.draw(st.sets(st.integers(1, steps), min_size=1)))
    forks = [fork_step(full, stop) for stop in stops]
    assert forks == sorted(forks), "what goes on from one fork has not passed the next"
    for stop, fork in zip(stops, forks, strict=True):
        assert 1 <= fork <= stop
        assert fork == stop or not full.decay_has_begun(fork) or fork == 1
        if fork < stop:
            tail = ForkedSchedule.of(full, fork, stop)
            assert [tail(step) for step in range(fork)] == [full(step) for step in range(fork)]
            factors = [tail(step) for step in range(fork, stop)]
            assert factors == sorted(factors, reverse=True)
            assert max(factors) < max(full(fork), full.min_lr_ratio) + 1e-12
            assert not tail.decay_has_begun(fork) or full.decay_has_begun(fork)
            assert all(tail.decay_has_begun(step) for step in (fork + 1, stop))


def test_a_decay_of_one_step_is_half_way_down() -> None:
    assert ForkedSchedule.of(wsd(50, warmup_fraction=0.0, min_lr_ratio=0.0), 4, 5)(4) == 0.5


def test_a_decay_that_begins_in_the_warm_up_never_rises() -> None:
    full = wsd(1000, warmup_fraction=0.5)
    tail = ForkedSchedule.of(full, 20, 25)
    assert full(20) == 0.042 < full.min_lr_ratio
    assert [tail(step) for step in range(20, 25)] == [full(20)] * 5


@pytest.mark.parametrize(
    ("name", "first"),
    [("wsd", 82), ("multi_step", 81), ("constant", None), ("cosine", 100), ("linear", 100), ("sgdr", 100)],
)
def test_a_schedule_says_from_where_on_it_has_decayed(name: str, first: int | None) -> None:
    schedule = Schedule(steps=100, schedule=name, warmup_fraction=0.1, decay_fraction=0.2)
    decayed = [step for step in range(101) if schedule.decay_has_begun(step)]
    assert decayed == ([] if first is None else list(range(first, 101)))
