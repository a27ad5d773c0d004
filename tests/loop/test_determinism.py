"""Whether a run uses deterministic algorithms only is decided by the first timing, on a GPU."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from evo_tune import Search
from evo_tune.loop.budget import StepTimings
from evo_tune.loop.plan import Request, RunPlan, plan_run
from evo_tune.plugins.context import DETERMINISM, NOT_DETERMINISTIC
from evo_tune.plugins.evaluator import BoundEvaluator
from evo_tune.plugins.find import find_evaluator
from evo_tune.settings import parse_settings

EVALUATOR = '''
from dataclasses import dataclass

from evo_tune import Float, Minimize, SearchSpace, option
from evo_tune.training.recipe.hardware.computing import ComputeOptions, TimeBudget

SPACE = SearchSpace(size=Float(1.0, 8.0, default=2.0))
OBJECTIVES = [Minimize("loss")]
SUPPORTS = ["timing"]


@dataclass(frozen=True, kw_only=True)
class Options(ComputeOptions, TimeBudget):
    """Budget."""

    tokens: int | None = option(None, gene=None)


def work(genome, options):
    return {"step": 1.0}


def estimate(genome, options):
    return options.seconds_estimate(work(genome, options), 100)


def evaluate(genome, context, options: Options):
    if context.timing:
        cost = {"determinism": 0.2} if options.deterministic == "auto" else {}
        return {"seconds": 1.0, "judging": 0.1, "step": 0.01, **cost}
    return {"loss": genome["size"] + options.deterministic}
'''

Rows = Mapping[int, Mapping[str, float]]
PlanRun = Callable[..., tuple[RunPlan, list[Any]]]


@pytest.fixture
def plan_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PlanRun:
    """Plan a run whose timings are given, and return the plan and the option and the number of genomes of each one."""
    path = tmp_path / "determined.py"
    path.write_text(EVALUATOR)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")

    def make(
        *determinism: Mapping[str, float], devices: str | None = None, **options: Any
    ) -> tuple[RunPlan, list[Any]]:
        timings = []

        def time_steps(genomes: Any, evaluator: BoundEvaluator, *_: Any, **__: Any) -> StepTimings:
            timings.append((evaluator.options["deterministic"], len(genomes)))
            rows = {
                number: {"seconds": 1.0, "judging": 0.1, "step": 0.01, **row} for number, row in enumerate(determinism)
            }
            return StepTimings(rows, 0, 1, "cuda:0")

        monkeypatch.setattr("evo_tune.loop.budget.time_steps", time_steps)
        settings = parse_settings({"trials": 3, "devices": devices})
        plan = plan_run(find_evaluator(str(path)), Request(options=options), *settings, tmp_path)
        assert plan.evaluator.options == plan.manifest.options
        return plan, timings

    return make


@pytest.mark.parametrize(
    ("rows", "deterministic", "reason"),
    [
        ([{DETERMINISM: 0.049}], True, "kept (-o deterministic=true), deterministic algorithms add 4.9% to the time"),
        ([{DETERMINISM: 0.051}], False, "off (-o deterministic=false), deterministic algorithms add 5.1% to the time"),
        ([{DETERMINISM: -0.01}, {DETERMINISM: 0.01}, {DETERMINISM: 0.3}], True, "add 1.0% to the time of a step"),
        (
            [{DETERMINISM: 0.0}, {NOT_DETERMINISTIC + "put_": 1.0, NOT_DETERMINISTIC + "cumsum_cuda\x1b[2J": 1.0}],
            False,
            "off (-o deterministic=false), no deterministic algorithm for cumsum_cuda\\x1b[2J, put_ on cuda:0",
        ),
        ([{}], True, "kept (-o deterministic=true), the cost of deterministic algorithms could not be measured"),
        ([], True, "could not be measured"),
    ],
)
@pytest.mark.parametrize("options", [{}, {"tokens": 5}])
def test_the_first_timing_on_a_gpu_decides_for_the_run(
    plan_with: PlanRun, rows: list[dict[str, float]], deterministic: bool, reason: str, options: dict[str, Any]
) -> None:
    plan, timings = plan_with(*rows, **options)
    assert plan.manifest.options["deterministic"] is deterministic
    assert reason in next(choice for choice in plan.choices if choice.startswith("determinism: "))
    # Where it is off, the cost of a step is measured again; without a budget in time only the default is timed.
    again = [(False, timings[0][1])] if not (deterministic or options) else []
    assert timings == [("auto", 1 if options else 16), *again]


@pytest.mark.parametrize("value", [True, False])
def test_a_given_value_is_not_timed_and_stays(plan_with: PlanRun, value: bool) -> None:
    plan, timings = plan_with({DETERMINISM: 0.2}, deterministic=value)
    assert plan.manifest.options["deterministic"] is value
    assert [deterministic for deterministic, _ in timings] == [value]
    assert not any("determinism" in choice for choice in plan.choices)
    assert plan_with({DETERMINISM: 0.2}, deterministic=value, tokens=5)[1] == []


def test_a_cpu_is_deterministic_and_nothing_is_timed_for_it(plan_with: PlanRun) -> None:
    plan, timings = plan_with({DETERMINISM: 0.2}, devices="cpu", tokens=5)
    assert (plan.manifest.options["deterministic"], timings, plan.choices) == (True, [], ())
    assert [deterministic for deterministic, _ in plan_with({}, devices="cpu")[1]] == [True]


def test_trials_a_resume_and_a_run_without_the_option_use_what_the_manifest_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "determined.py").write_text(EVALUATOR)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    options = {"trials": 2, "slots": 1, "final_seeds": 0, "store": tmp_path / "runs"}
    run = Search(str(tmp_path / "determined.py"), options={"tokens": 5}, name="one", **options).run()
    manifest_path = run.saved.folder / "_run.json"
    manifest = json.loads(manifest_path.read_text())
    assert manifest["options"]["deterministic"] is False  # the evaluator says that determinism costs 20 %
    assert run.trials[0].outcome.metrics["loss"] == 2.0
    run.close()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # a resume on a CPU keeps the decision
    resumed = Search.resume("one", store=tmp_path / "runs", trials=3, final_seeds=0).run()
    assert [trial.outcome.metrics["loss"] - trial.genome["size"] for trial in resumed.trials] == [0.0, 0.0, 0.0]
    resumed.close()
    del manifest["options"]["deterministic"]
    manifest_path.write_text(json.dumps(manifest))
    older = Search.resume("one", store=tmp_path / "runs", trials=4, final_seeds=0, trust=True).run()
    assert older.evaluator.options["deterministic"] == "auto"  # a training takes it for true
    older.close()
