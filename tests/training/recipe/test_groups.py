"""Options declared in groups beside the parts that they configure, and a schedule that is one decorated function."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from evo_tune.errors import UsageError
from evo_tune.options.declare import dataclass_options
from evo_tune.training import SGD, AdamW, Recipe
from evo_tune.training.recipe import (
    ClippingOptions,
    GapDecay,
    GPTShapeOptions,
    LanguageOptions,
    OptimizerOptions,
    RampOptions,
    Schedule,
    ScheduleOptions,
    StoppingOptions,
    TextBudget,
    WeightDecay,
    WeightDecayOptions,
    register_schedule,
    unused_schedule_fields,
)
from evo_tune.training.recipe.optim.schedule import SCHEDULES
from evo_tune.training.stepping.recipe import optimizer_of


@pytest.fixture
def halves() -> Iterator[str]:
    @register_schedule("gamma")
    def halving(schedule: Schedule, step: int) -> float:
        return schedule.gamma if 2 * step >= schedule.steps else 1.0

    yield "halving"
    del SCHEDULES["halving"]


def test_a_schedule_is_one_function(halves: str) -> None:
    assert halves in dataclass_options(ScheduleOptions)["schedule"].choices
    rates = ScheduleOptions(schedule=halves, gamma=0.5).rates(10, warmup=0.0)
    assert [rates(step) for step in (0, 4, 5, 9)] == [1.0, 1.0, 0.5, 0.5]
    assert "gamma" not in unused_schedule_fields(halves)
    assert {"decay_fraction", "cycle"} <= unused_schedule_fields(halves)


def test_auto_is_a_cosine_until_a_run_with_rungs_settles_it() -> None:
    assert unused_schedule_fields("auto") == unused_schedule_fields("cosine")
    assert ScheduleOptions().rates(50, 0.1) == ScheduleOptions(schedule="cosine").rates(50, 0.1)
    settled = {rungs: ScheduleOptions().settled(rungs) for rungs in (False, True)}
    assert settled == {
        False: ScheduleOptions(schedule="cosine", fork=False),
        True: ScheduleOptions(schedule="wsd", fork=True),
    }
    given = ScheduleOptions(schedule="linear", fork=True)
    assert given.settled(False) == given.settled(True) == given


def test_fields_that_a_schedule_does_not_use_change_nothing() -> None:
    others = {"min_lr_ratio": 0.3, "decay_fraction": 0.6, "cycle": 0.3, "gamma": 0.7}
    for name in SCHEDULES:
        plain = ScheduleOptions(schedule=name).rates(50, 0.1)
        for field in set(others) | unused_schedule_fields(name):
            moved = ScheduleOptions(**{"schedule": name, field: others[field]}).rates(50, 0.1)  # type: ignore[arg-type]
            same = [plain(step) for step in range(50)] == [moved(step) for step in range(50)]
            assert same == (field in unused_schedule_fields(name)), (name, field)


def test_recipes_with_another_field_have_another_identity() -> None:
    recipe = Recipe(optimizer=AdamW(lr=1e-3), schedule=Schedule(steps=9), weight_decay=WeightDecay(start=0.1))
    assert recipe.identity == replace(recipe).identity
    changes = {"ema": 0.9, "schedule": Schedule(steps=10), "optimizer": AdamW(lr=2e-3)}
    others = {replace(recipe, **{name: value}).identity for name, value in changes.items()}  # type: ignore[arg-type]
    assert len(others | {recipe.identity}) == 4


@pytest.mark.parametrize(
    ("group", "given", "said"),
    [
        (ClippingOptions, {"clip": 0.0}, r"clip=0.0 is not allowed: expected a number in \(0, inf\)"),
        (ScheduleOptions, {"schedule": "cosin"}, "schedule='cosin'"),
        (OptimizerOptions, {"beta2": 1.0}, "beta2=1.0"),
        (WeightDecayOptions, {"gap_patience": 2}, "gap_patience needs -o weight_decay_end"),
        (TextBudget, {"flops": 1.0, "seconds": 1.0}, "-o flops and -o seconds are both given"),
        (TextBudget, {"tokens": 0}, "tokens=0"),
        (StoppingOptions, {"evaluations": 0}, "evaluations=0"),
        (LanguageOptions, {"patience": 1, "schedule": "sgdr", "evaluations": 20}, "patience=1: expected more than"),
        (LanguageOptions, {"extend_from": 64}, "less than -o context"),
    ],
)
def test_a_group_refuses_what_does_not_go(group: type, given: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        group(**given)


def test_groups_build_what_they_configure() -> None:
    sgd = optimizer_of(OptimizerOptions(optimizer="sgd", lr_rule="linear", momentum=0.5), 0.1, batch=64, reference=32)
    assert sgd == SGD(lr=0.2, momentum=0.5)
    assert WeightDecayOptions(weight_decay_end=0.3).decay(0.1) == WeightDecay(start=0.1, end=0.3)
    gap = WeightDecayOptions(weight_decay_end=0.3, gap_patience=2).decay(0.4)
    assert gap == GapDecay(start=0.4, end=0.4, patience=2)
    assert RampOptions().ramp is None
    config = GPTShapeOptions(kv_heads=5, window=64).shape(
        vocab=256, context=64, depth=1, width=48, heads=6, dropout=0.0
    )
    assert (config.kv_heads, config.window) == (3, None)


def test_what_the_task_or_the_machine_is_can_be_no_gene() -> None:
    fixed = {name for name, one in dataclass_options(LanguageOptions).items() if one.gene is None}
    assert fixed >= {"data", "vocab", "flops", "tokens", "seconds", "eval_tokens", "ranks", "micro_batch", "precision"}


def test_a_group_is_composed_and_a_default_may_be_anothers() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Own(ClippingOptions, ScheduleOptions):
        """Mine."""

        min_lr_ratio: float = 0.0

    assert Own().rates(10, 0.0).min_lr_ratio == 0.0
    assert dataclass_options(Own)["clip"].group == "Clipping of the gradient"
