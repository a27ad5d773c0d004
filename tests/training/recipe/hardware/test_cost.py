"""The cost model of a step: it recovers costs from timings, and turns a time into steps."""

from __future__ import annotations

import json

import numpy as np
import pytest

from evo_tune.errors import OptionError
from evo_tune.plugins.cost import JUDGED, Cost, TimedGenome, budgets_of
from evo_tune.training.recipe.hardware.computing import UNIT_COSTS, TimeBudget, encoder_work, gpt_work
from evo_tune.training.recipe.models.encoder_config import FTConfig
from evo_tune.training.recipe.models.gpt_config import GPTConfig

TRUE = {
    "step": 1e-3,
    "blocks": 1e-3,
    "products": 1e-11,
    "attention": 3e-11,
    "scores": 2e-9,
    "heads": 1e-6,
    "elements": 1e-9,
    "logits": 5e-9,
    "weights": 8e-9,
    "muon": 2e-3,
    "orthogonalising": 5e-12,
}


def shapes(rng: np.random.Generator, count: int) -> list[dict[str, float]]:
    found = []
    for _ in range(count):
        heads, context = int(rng.integers(1, 8)), int(rng.choice([16, 64, 256]))
        config = GPTConfig(context=context, depth=int(rng.integers(1, 6)), width=heads * 16, heads=heads)
        optimizer = "muon" if rng.random() < 0.5 else "adamw"
        found.append(gpt_work(config, int(rng.integers(1, 64)), optimizer, judged=20000.0))
    return found


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("faster", [0.01, 1.0, 100.0])
@pytest.mark.parametrize(("device", "spread"), [("cpu", 0.5), ("cuda:0", 1.0)])
def test_a_fit_predicts_shapes_that_were_not_timed(seed: int, faster: float, device: str, spread: float) -> None:
    rng = np.random.default_rng(seed)
    each = {name: one / faster * np.exp(spread * rng.normal()) for name, one in TRUE.items()}
    true = Cost(each, start=0.2 / faster, judging=0.8)
    points = [TimedGenome(one, true.step(one), true.overhead(one)) for one in shapes(rng, 16)]
    fitted = Cost.fit(points, device, UNIT_COSTS)
    others = shapes(rng, 30)
    errors = [abs(fitted.step(one) / true.step(one) - 1.0) for one in others]
    assert np.median(errors) < 0.12
    overheads = [abs(fitted.overhead(one) / true.overhead(one) - 1.0) for one in others]
    assert np.median(overheads) < 0.12


def test_one_timing_is_enough_for_its_own_shape() -> None:
    (work,) = shapes(np.random.default_rng(0), 1)
    fitted = Cost.fit([TimedGenome(work, 0.01, 0.5)], "cpu", UNIT_COSTS)
    assert fitted.step(work) == pytest.approx(0.01, rel=0.01)
    assert fitted.overhead(work) == pytest.approx(0.5, rel=0.01)


def test_three_timings_on_a_cpu_predict_other_shapes() -> None:
    medians = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        true = Cost({name: 3.0 * one * np.exp(0.3 * rng.normal()) for name, one in TRUE.items()})
        fitted = Cost.fit([TimedGenome(one, true.step(one), 0.1) for one in shapes(rng, 3)], "node 1 cpu", UNIT_COSTS)
        medians.append(np.median([abs(fitted.step(one) / true.step(one) - 1.0) for one in shapes(rng, 30)]))
    assert np.mean(medians) < 0.12


def test_an_evaluator_may_have_its_own_kinds_of_work() -> None:
    points = [TimedGenome({"step": 1.0, "pixels": n}, 1e-3 + 1e-6 * n, 0.1) for n in (100.0, 1000.0, 20000.0)]
    fitted = Cost.fit(points, "cpu", UNIT_COSTS)
    assert fitted.step({"step": 1.0, "pixels": 5000.0}) == pytest.approx(6e-3, rel=0.1)


def test_costs_are_the_same_after_a_round_trip_through_a_manifest() -> None:
    cost = Cost(TRUE, 0.1, 0.7)
    assert Cost.parse(cost.text()) == cost
    assert TimeBudget(seconds=3.0, cost=cost.text()).steps_in_time(shapes(np.random.default_rng(1), 1)[0]) > 0


def test_steps_and_overhead_fill_the_time() -> None:
    work, cost = shapes(np.random.default_rng(2), 1)[0], Cost(TRUE, 0.1, 0.7)
    steps = cost.steps(60.0, work)
    assert cost.overhead(work) + steps * cost.step(work) == pytest.approx(60.0)
    options = TimeBudget(seconds=60.0, cost=cost.text())
    assert options.seconds_estimate(work, steps) == {"seconds": pytest.approx(60.0)}
    assert TimeBudget().seconds_estimate(work, steps) == {}
    tiny = cost.overhead(work) / 2
    assert cost.steps(tiny, work) == pytest.approx(0.1 * tiny / cost.step(work)), "steps get a tenth at least"


def test_more_work_costs_more() -> None:
    config = GPTConfig(context=64, depth=2, width=64, heads=4)
    base = gpt_work(config, 8, "adamw", judged=1000.0)
    for more in (
        gpt_work(config, 16, "adamw"),
        gpt_work(GPTConfig(context=64, depth=3, width=64, heads=4), 8, "adamw"),
        gpt_work(GPTConfig(context=64, depth=2, width=64, heads=4, ffn_mult=6), 8, "adamw"),
        gpt_work(GPTConfig(context=64, depth=2, width=64, heads=4, position="rope"), 8, "adamw"),
        gpt_work(GPTConfig(context=64, depth=2, width=64, heads=4, vocab_size=512), 8, "adamw"),
        gpt_work(config, 8, "muon"),
    ):
        assert Cost(TRUE).step(more) > Cost(TRUE).step(base)
    assert base[JUDGED + "products"] == pytest.approx(base["products"] * 1000 / 512 / 3)
    table = FTConfig(outputs=2, depth=2, width=16, heads=2, numeric=5)
    small, large = (encoder_work(table, table.flops_per_sample, batch, "adamw") for batch in (8, 64))
    assert Cost(TRUE).step(large) > Cost(TRUE).step(small)


@pytest.mark.parametrize(
    "text",
    [
        "fast",
        "[]",
        "{}",
        '{"each": 1, "start": 0, "judging": 0}',
        '{"each": {}, "start": 0, "judging": 0}',
        '{"each": {"step": 0}, "start": 0, "judging": 0}',
        '{"each": {"step": -1}, "start": 0, "judging": 0}',
        '{"each": {"step": NaN}, "start": 0, "judging": 0}',
        '{"each": {"step": 1e-3}, "start": "x", "judging": 0}',
        '{"each": {"step": 1e-3}, "start": Infinity, "judging": 0}',
        '{"each": {"step": 1e-3}, "start": 0, "judging": null}',
        '{"each": {"step": 1e-300}, "start": 0, "judging": 0}',
        '{"each": {"step": 1' + "0" * 400 + '}, "start": 0, "judging": 0}',
        "[" * 100_000,
    ],
)
def test_costs_that_no_run_measured_are_refused(text: str) -> None:
    with pytest.raises(OptionError, match="expected the costs that a run measured"):
        TimeBudget(seconds=1.0, cost=text)


def test_a_budget_in_time_without_costs_is_refused_with_the_remedy() -> None:
    with pytest.raises(OptionError, match="evo-tune run"):
        TimeBudget(seconds=1.0).steps_in_time({"step": 1.0})


def test_budgets_are_told_by_name() -> None:
    assert budgets_of({"flops": None, "tokens": 5, "lr": 1, "seconds": 2.0}) == {"tokens": 5, "seconds": 2.0}
    assert json.loads(Cost({"step": 1.0}).text())["each"] == {"step": 1.0}
