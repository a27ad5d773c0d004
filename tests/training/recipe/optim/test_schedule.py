import itertools
import math
import warnings
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evo_tune.errors import RecipeError
from evo_tune.training import Trainer
from evo_tune.training.recipe import Schedule, ScheduleOptions
from evo_tune.training.recipe.optim.schedule import SCHEDULES


def torch_log(build: Callable[[torch.optim.Optimizer], object], steps: int) -> list[float]:
    """Return the learning rates that one of torch's schedulers gives for a peak of 1."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = build(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SequentialLR calls its parts in a way that torch itself deprecates
            scheduler.step()  # type: ignore[attr-defined]
    return rates


def test_cosine_equals_torchs_warmup_and_cosine_in_sequence() -> None:
    steps, warmup, floor = 200, 10, 0.1

    def build(optimizer: torch.optim.Optimizer) -> object:
        lr = torch.optim.lr_scheduler
        first = lr.LinearLR(optimizer, 1 / warmup, total_iters=warmup - 1)
        # The cosine begins when the peak has been used for a step.
        second = lr.CosineAnnealingLR(optimizer, steps - warmup, eta_min=floor)
        return lr.SequentialLR(optimizer, [first, second], [warmup])

    schedule = Schedule(steps=steps, warmup_fraction=0.05, min_lr_ratio=floor)
    assert [schedule(t) for t in range(steps)] == pytest.approx(torch_log(build, steps), abs=1e-13)


def sgdr(steps: int, cycle: int, **fields: float) -> Schedule:
    options = {"warmup_fraction": 0.0, "gamma": 1.0, **fields}
    return Schedule(steps=steps, schedule="sgdr", cycle=min(1.0, cycle / steps), **options)  # type: ignore[arg-type]


def test_sgdr_without_decay_of_its_peak_is_torchs_warm_restarts() -> None:
    def build(optimizer: torch.optim.Optimizer) -> object:
        return torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 10, eta_min=0.05)

    schedule = sgdr(100, 10, min_lr_ratio=0.05)
    assert [schedule(t) for t in range(100)] == pytest.approx(torch_log(build, 100), abs=1e-15)


@pytest.mark.parametrize(
    ("steps", "cycle", "peaks"),
    [
        (95, 10, [0, 10, 19, 29, 38, 48, 57, 67, 76, 86]),  # 9.5 steps each
        (94, 10, [0, 11, 21, 32, 42, 53, 63, 74, 84]),  # 10.4 steps each: nine cycles are nearer
        (30, 100, [0]),
    ],
)
def test_sgdr_ends_with_a_whole_cycle(steps: int, cycle: int, peaks: list[int]) -> None:
    rates = [sgdr(steps, cycle)(t) for t in range(steps + 1)]
    restarts = [t for t in range(1, steps) if rates[t] > rates[t - 1]]
    assert [0, *restarts] == peaks
    assert rates[steps] == 0.0


@given(
    steps=st.integers(2, 3000),
    cycle=st.integers(1, 3000),
    warmup=st.floats(0, 0.5),
)
def test_the_last_cycle_of_sgdr_is_over_at_the_end(steps: int, cycle: int, warmup: float) -> None:
    schedule = sgdr(steps, cycle, warmup_fraction=warmup, min_lr_ratio=0.1)
    assert schedule(steps) == schedule(2 * steps) == pytest.approx(0.1)
    assert schedule(schedule.warmup) == 1.0


# Factors after three quarters of 100 steps, computed by hand from the formulas; sgdr is in the middle of its 8th cycle.
FACTORS = {
    "constant": 1.0,
    "cosine": 0.1 + 0.45 * (1 - math.sqrt(0.5)),
    "linear": 0.325,
    "multi_step": 1.0,
    "sgdr": (0.9**7 + 0.1) / 2,
    "wsd": 0.55,
}


def test_each_schedule_has_its_factor_after_three_quarters() -> None:
    options = {
        "warmup_fraction": 0.0,
        "min_lr_ratio": 0.1,
        "decay_fraction": 0.5,
        "gamma": 0.9,
    }
    factors = {name: Schedule(steps=100, schedule=name, **options)(75) for name in SCHEDULES}  # type: ignore[arg-type]
    assert factors == pytest.approx(FACTORS)


def test_sgdr_peaks_fall_by_gamma() -> None:
    schedule = sgdr(40, 10, gamma=0.9)
    assert [3e-4 * schedule(t) for t in (0, 10, 20, 30)] == pytest.approx([3e-4, 2.7e-4, 2.43e-4, 2.187e-4])


def test_multi_step_falls_at_80_and_90_percent() -> None:
    schedule = Schedule(steps=50, schedule="multi_step", warmup_fraction=0)
    assert [schedule(t) for t in (0, 39, 40, 44, 45, 49)] == [1, 1, 0.316, 0.316, 0.1, 0.1]


def test_wsd_is_flat_and_then_falls() -> None:
    schedule = Schedule(steps=100, schedule="wsd", warmup_fraction=0.1, decay_fraction=0.2)
    factors = [schedule(t) for t in range(101)]
    assert set(factors[9:81]) == {1.0}
    assert all(later < earlier for earlier, later in itertools.pairwise(factors[80:]))
    assert factors[100] == pytest.approx(0.0)


def test_a_schedule_serves_lambda_lr() -> None:
    schedule = Schedule(steps=30)
    rates = torch_log(lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, schedule), 30)
    assert rates == [schedule(t) for t in range(30)]


@given(
    steps=st.integers(1, 2000),
    warmup=st.floats(0, 0.5),
    floor=st.floats(0, 1),
    name=st.sampled_from(sorted(SCHEDULES)),
    decay=st.floats(0.01, 1),
)
def test_factors_lie_in_0_to_1_and_warmup_is_linear(
    steps: int, warmup: float, floor: float, name: str, decay: float
) -> None:
    schedule = Schedule(steps=steps, schedule=name, warmup_fraction=warmup, min_lr_ratio=floor, decay_fraction=decay)
    checked = {0, schedule.warmup, steps // 2, steps - 1, steps, 3 * steps}
    assert all(0.0 <= schedule(t) <= 1.0 + 1e-12 for t in checked)
    assert schedule(0) > 0
    if schedule.warmup:
        assert schedule(schedule.warmup - 1) == 1.0
        assert schedule.warmup == max(1, round(warmup * steps))


@given(steps=st.integers(2, 500), name=st.sampled_from(["cosine", "linear", "wsd"]))
def test_after_warmup_monotone_schedules_never_rise_again(steps: int, name: str) -> None:
    schedule = Schedule(steps=steps, schedule=name)
    factors = [schedule(t) for t in range(max(0, schedule.warmup - 1), 2 * steps)]
    assert factors == sorted(factors, reverse=True)
    assert factors[-1] == pytest.approx(schedule.min_lr_ratio)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("steps", 10.0),
        ("steps", True),
        ("warmup_fraction", 0.6),
        ("warmup_fraction", math.nan),
    ],
)
def test_fields_out_of_range_are_refused(field: str, value: object) -> None:
    with pytest.raises(RecipeError):
        Schedule(**{"steps": 10, field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("schedule", "cosin"),
        ("min_lr_ratio", -0.1),
        ("decay_fraction", 0),
        ("cycle", 0),
        ("gamma", 0),
        ("gamma", 1.1),
    ],
)
def test_options_out_of_range_are_refused(field: str, value: object) -> None:
    with pytest.raises(RecipeError, match=field):
        ScheduleOptions(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_the_trainer_follows_the_schedule_and_keeps_ratios_of_groups(
    name: str, make_trainer: Callable[..., Trainer]
) -> None:
    trainer = make_trainer(schedule=name, lr=2e-3)
    trainer.optimizer.param_groups[1]["initial_lr"] = 5e-4  # as µP would set it
    rates = []
    trainer.run(20, lambda step: rates.append([group["lr"] for group in trainer.optimizer.param_groups]))
    schedule = trainer.recipe.schedule
    assert [first for first, _ in rates] == [2e-3 * schedule(t) for t in range(20)]
    assert [second / first for first, second in rates] == pytest.approx([0.25] * 20)


def test_the_log_of_rates_does_not_depend_on_accumulation(make_trainer: Callable[..., Trainer]) -> None:
    logs = []
    for micro_batch in (1, 2, 4):
        trainer = make_trainer(micro_batch=micro_batch)
        log: list[float] = []
        trainer.run(20, lambda step, log=log: log.append(step.lr))  # type: ignore[misc]
        logs.append(log)
    assert logs[0] == logs[1] == logs[2]
    assert len(logs[0]) == 20
