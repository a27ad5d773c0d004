"""What every bundled evaluator promises; a new one is tested by being there. Trainings are a few steps long."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evo_tune import Context, load_model
from evo_tune.errors import EvoTuneError, OptionError, RecipeError
from evo_tune.genome.trial import check_metrics
from evo_tune.options.declare import dataclass_options
from evo_tune.plugins.evaluator import Evaluator
from evo_tune.plugins.find import bundled_folder, find_evaluator
from evo_tune.training.recipe import METRICS, Schedule, TrainingOptions
from evo_tune.training.recipe.optim.schedule import SCHEDULES
from tests.evaluators.test_option_effects import ALIKE, CORE

pytestmark = pytest.mark.xdist_group("bundled")  # a plain training of each is made once

NAMES = sorted(path.stem for path in bundled_folder().glob("*.py") if path.name[0] not in "_")

TINY: dict[str, dict[str, Any]] = {
    "fine_tuning": {"base": "{base}", "tokens": 2048, "eval_tokens": 512},
    "language_model": {"tokens": 3072, "eval_tokens": 512},
    "text_classification": {"data": "{texts}", "epochs": 3.0},
    "image_classification": {"epochs": 0.2},
    "forecasting": {"horizon": 6, "epochs": 4.0},
}
"""Options with which a training takes a fraction of a second; others are trained for half an epoch."""


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small JSONL of texts: to gather the docstrings takes seconds."""
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    lines = [{"text": f"number {n} is {'odd' if n % 2 else 'even'}", "label": n % 2} for n in range(60)]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model to begin from that knows nothing yet."""
    from evo_tune.training import GPT
    from evo_tune.training.recipe import GPTConfig

    path = tmp_path_factory.mktemp("base")
    GPT(GPTConfig(context=64, depth=1, width=16, heads=2)).save(path)
    return path


@pytest.fixture(params=[pytest.param(name, marks=() if name in CORE else pytest.mark.extended) for name in NAMES])
def evaluator(request: pytest.FixtureRequest) -> Evaluator:
    return find_evaluator(f"bundled:{request.param}")


@pytest.fixture
def options(evaluator: Evaluator, texts: Path, base: Path) -> dict[str, Any]:
    known = evaluator.options
    given = TINY.get(evaluator.name, {"epochs": 0.5})
    places = {"{texts}": str(texts), "{base}": str(base)}
    given = {name: places.get(value, value) for name, value in given.items()}
    size = "2x64x64x512" if evaluator.name == "language_model" else "small"
    given |= {"size": size, "evaluations": 2}
    return evaluator.bind({name: value for name, value in given.items() if name in known}).options


Train = Callable[..., tuple[dict[str, float], Context]]

_plain: dict[str, tuple[dict[str, float], Context]] = {}


@pytest.fixture
def train(evaluator: Evaluator, options: dict[str, Any], tmp_path: Path) -> Train:
    """Train the default genome; keywords are the context's, `given` holds other options."""

    def run(given: dict[str, Any] | None = None, **context: Any) -> tuple[dict[str, float], Context]:
        bound = evaluator.bind({**options, **(given or {})})
        made = Context(**{"seed": 1, "folder": tmp_path / "trial", **context})
        return bound.evaluate(bound.space.default(), made), made

    return run


@pytest.fixture
def plain(evaluator: Evaluator, train: Train) -> tuple[dict[str, float], Context]:
    """What comes of the default genome and how it was told: one training for all tests."""
    if evaluator.name not in _plain:
        _plain[evaluator.name] = train()
    return _plain[evaluator.name]


def without_clock(metrics: dict[str, float], units: dict[str, str]) -> dict[str, float]:
    return {
        name: value for name, value in metrics.items() if units.get(name) not in ("s", "1/s") and name != "resumed_step"
    }


SOMETIMES = {row.name for row in METRICS if row.when}


def _declared_tests(evaluator: Evaluator) -> set[str]:
    """Return the metrics of the test set that the default data has."""
    return {test for shown, test in evaluator.tests.items() if shown not in SOMETIMES}


def test_there_are_some() -> None:
    assert {"image_classification", "language_model", "tabular", "text_classification"} <= set(NAMES)


def test_space_estimate_and_fingerprint_agree(evaluator: Evaluator, options: dict[str, Any]) -> None:
    space, rng = evaluator.bind(options).space, np.random.default_rng(1)
    for genome in [space.default(), *(space.sample(rng) for _ in range(50))]:
        assert space.check(genome) == genome  # repaired already, and a repair is settled
        estimate = evaluator.bind(options).estimate(genome)
        assert min(estimate.values()) > 0
        assert set(estimate) <= set(evaluator.metrics)
    assert re.fullmatch("[0-9a-f]{64}", evaluator.bind(options).fingerprint())
    assert {objective.metric for objective in evaluator.objectives} <= set(evaluator.metrics)
    assert evaluator.summary.endswith(".")
    assert len(evaluator.summary) <= 120


@pytest.mark.slow
def test_a_search_begins_near_the_default(evaluator: Evaluator, options: dict[str, Any]) -> None:
    genes = evaluator.bind(options).space.genes
    assert all(gene.prior == gene.default is not None for gene in genes.values() if gene.size > 1)


def test_it_trains_reports_and_comes_out_twice_the_same(
    evaluator: Evaluator, train: Train, plain: tuple[dict[str, float], Context], tmp_path: Path
) -> None:
    metrics, context = plain
    status, _, error = check_metrics(metrics, evaluator.objectives)
    assert (status, error) == ("ok", None)
    assert set(metrics) <= set(evaluator.metrics)
    assert context.curve[-1][0] == 1.0
    units = evaluator.metrics
    again, other = train()[0], train(seed=2)[0]
    assert not (tmp_path / "trial").exists()  # nothing to keep
    assert without_clock(again, units) == without_clock(metrics, units)
    assert without_clock(other, units) != without_clock(metrics, units)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", "float32"), ("bf16", "bfloat16")])
def test_evaluations_are_in_the_precision_of_the_training(train: Train, precision: str, dtype: str) -> None:
    from torch import Tensor, nn
    from torch.nn.modules.module import register_module_forward_hook

    seen: set[str] = set()

    def note(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.Linear) and not module.training:
            seen.add(str(output.dtype).removeprefix("torch."))

    hook = register_module_forward_hook(note)
    try:
        train({"precision": precision})
    finally:
        hook.remove()
    assert seen == {dtype}


def test_its_test_set_is_told_where_it_is_asked_for_and_changes_nothing(
    train: Train, plain: tuple[dict[str, float], Context], evaluator: Evaluator
) -> None:
    metrics, told = plain[0], train(test=True)[0]
    assert evaluator.tests
    assert told.keys() - metrics.keys() == _declared_tests(evaluator)
    assert without_clock({name: told[name] for name in metrics}, evaluator.metrics) == without_clock(
        metrics, evaluator.metrics
    )
    objective = evaluator.objectives[0].metric
    assert told[evaluator.tests[objective]] != told[objective]
    assert all(evaluator.is_test(name) for name in evaluator.tests.values())


def test_what_it_returns_is_what_it_declares(plain: tuple[dict[str, float], Context], evaluator: Evaluator) -> None:
    metrics, _ = plain
    assert metrics.keys() - evaluator.metrics.keys() == set()
    assert evaluator.metrics.keys() - metrics.keys() <= SOMETIMES
    known = {(row.name, row.unit) for row in METRICS}
    assert known >= set(evaluator.metrics.items())


@pytest.mark.parametrize(
    ("evaluator", "name"),
    [pytest.param(one, name, marks=pytest.mark.proof if one in ALIKE else ()) for one in NAMES for name in SCHEDULES],
    indirect=["evaluator"],
)
def test_every_schedule_is_taken_with_all_of_its_options(
    evaluator: Evaluator, options: dict[str, Any], train: Train, name: str
) -> None:
    own = {"min_lr_ratio": 0.25, "decay_fraction": 0.6, "gamma": 0.5}
    metrics, _ = train({**own, "schedule": name, "cycle": 0.3, "evaluations": 1})
    steps, warmup = int(metrics["steps"]), evaluator.bind(options).space.default()["warmup"]
    expected = Schedule(steps=steps, schedule=name, warmup_fraction=warmup, cycle=0.3, **own)
    assert metrics["final_lr_fraction"] == expected(steps - 1)


@pytest.mark.parametrize(
    ("evaluator", "schedule"),
    [
        pytest.param(one, schedule, marks=pytest.mark.proof if one in ALIKE and schedule == "constant" else ())
        for one in NAMES
        for schedule in ("wsd", "constant")
    ],
    indirect=["evaluator"],
)
def test_a_quarter_and_the_rest_are_one_training_to_the_bit(
    evaluator: Evaluator, train: Train, tmp_path: Path, schedule: str
) -> None:
    given = {"schedule": schedule}
    whole, _ = train(given, folder=tmp_path / "whole")
    part, context = train(given, folder=tmp_path / "1", budget=0.25)
    assert part["steps"] < whole["steps"]
    assert context.curve[-1][0] == pytest.approx(part["steps"] / whole["steps"])
    rest, _ = train(given, folder=tmp_path / "2", resume_folder=tmp_path / "1")
    assert rest["resumed_step"] == part["steps"]
    assert without_clock(rest, evaluator.metrics) == without_clock(whole, evaluator.metrics)


def test_the_whole_recipe_is_every_evaluators(evaluator: Evaluator) -> None:
    assert set(dataclass_options(TrainingOptions)) <= set(evaluator.options)
    assert {"budget", "curve"} <= set(evaluator.supports)
    assert {"flops", "seconds"} <= set(evaluator.options)


def test_a_few_timed_steps_tell_what_a_training_takes(evaluator: Evaluator, train: Train, tmp_path: Path) -> None:
    assert "timing" in evaluator.supports
    told, context = train(timing=3, folder=tmp_path / "timed")
    assert 0.0 < told["judging"] < told["seconds"]
    assert told["checkpoint"] > 0.0
    assert not context.curve
    assert not (tmp_path / "timed").exists(), "nothing is trained, so nothing is left"


RECIPE = {"optimizer": "muon", "precision": "bf16", "ema": 0.5, "patience": 9, "recompute": 1, "clip": None}


def test_it_trains_by_the_whole_recipe(evaluator: Evaluator, train: Train, tmp_path: Path) -> None:
    plain, _ = train({"precision": "fp32"})
    given = {**RECIPE, "micro_batch": int(plain["micro_batch"] / 2)}
    other, _ = train(given, folder=tmp_path / "whole")
    assert (plain["bf16"], other["bf16"]) == (0, 1)
    assert (other["micro_batch"], other["clipped_fraction"]) == (plain["micro_batch"] / 2, 0)
    assert len({plain["val_loss"], other["val_loss"], other["val_loss_ema"]}) == 3
    part, _ = train(given, folder=tmp_path / "1", budget=0.5)
    rest, _ = train(given, folder=tmp_path / "2", resume_folder=tmp_path / "1")
    assert rest["resumed_step"] == part["steps"]
    assert without_clock(rest, evaluator.metrics) == without_clock(other, evaluator.metrics)


@pytest.mark.proof  # test_language_model_ranks has it of the language model, test_ranks_out_of_memory of a classifier
@pytest.mark.parametrize("evaluator", ["image_classification", "fine_tuning"], indirect=True)
def test_two_ranks_are_one_training(evaluator: Evaluator, options: dict[str, Any], tmp_path: Path) -> None:
    plain = {**options, "precision": "fp32", "optimizer": "sgd"}  # Adam makes much of rounding
    bound = evaluator.bind(plain)
    genome = {**bound.space.default(), "dropout": 0.0, "lr": 0.1}  # each rank has dropout's noise of its own
    genome = {name: value for name, value in genome.items() if name in bound.space.genes}
    found = []
    for ranks in (1, 2):
        context = Context(seed=1, folder=tmp_path)
        found.append((evaluator.bind({**plain, "ranks": ranks}).evaluate(genome, context), context.curve))
    (alone, curve), (together, told) = found
    assert together["micro_batch"] == alone["micro_batch"] / 2
    assert together["steps"] == alone["steps"]
    for name in ("val_loss", "train_loss"):
        assert together[name] == pytest.approx(alone[name], rel=1e-5)
    assert [at for at, _ in told] == [at for at, _ in curve]


def test_a_checkpoint_knows_its_data_by_what_is_in_it(train: Train, tmp_path: Path) -> None:
    import torch

    train(folder=tmp_path / "1", budget=0.5)
    saved = torch.load(tmp_path / "1" / "checkpoint.pt", weights_only=True)
    assert re.fullmatch("[0-9a-f]{64}", saved["task"]["data"])
    saved["task"]["data"] = "0" * 64
    torch.save(saved, tmp_path / "1" / "checkpoint.pt")
    with pytest.raises(OptionError, match="remove it to train from scratch"):
        train(folder=tmp_path / "2", resume_folder=tmp_path / "1")


@pytest.mark.parametrize(
    "evaluator", [pytest.param(one, marks=pytest.mark.proof if one in ALIKE else ()) for one in NAMES], indirect=True
)
def test_what_goes_on_from_a_forked_rung_is_the_training_without_it(
    evaluator: Evaluator, train: Train, tmp_path: Path
) -> None:
    given = {"schedule": "wsd", "decay_fraction": 0.5}
    whole, _ = train(given, folder=tmp_path / "whole")
    cut, _ = train(given, folder=tmp_path / "cut", budget=0.75)
    rung, context = train({**given, "fork": True}, folder=tmp_path / "1", budget=0.75)
    assert (rung["steps"], rung["flops"]) == (cut["steps"], cut["flops"]), "its decay lies within its budget"
    assert rung["val_loss"] != cut["val_loss"]
    assert [point["decayed"] for _, point in context.curve][-2:] == [0.0, 1.0]
    rest, _ = train({**given, "fork": True}, folder=tmp_path / "2", resume_folder=tmp_path / "1")
    assert 0 < rest["resumed_step"] < rung["steps"]
    assert without_clock(rest, evaluator.metrics) == without_clock(whole, evaluator.metrics)


def test_with_rungs_it_is_trained_under_wsd_and_forks_unless_told_otherwise(
    evaluator: Evaluator, options: dict[str, Any]
) -> None:
    def settled(rungs: bool, **given: Any) -> tuple[str, bool]:
        made = evaluator.bind({**options, **given}).for_run(rungs).options
        return made["schedule"], made["fork"]

    whole = "wsd" if evaluator.name == "language_model" else "cosine"
    assert (settled(True), settled(False)) == (("wsd", True), (whole, False))
    assert settled(True, schedule="sgdr", fork=False) == ("sgdr", False)


def test_an_export_writes_weights_and_the_metrics_of_all_parts(
    evaluator: Evaluator, options: dict[str, Any], tmp_path: Path
) -> None:
    folder, bound = tmp_path / "a model", evaluator.bind(options)
    metrics = bound.export(bound.space.default(), Context(folder=tmp_path / "t"), folder)
    assert set(metrics) <= set(evaluator.metrics) | set(evaluator.tests.values())
    assert _declared_tests(evaluator) <= set(metrics)
    assert {"config.json", "model.safetensors"} <= {path.name for path in folder.iterdir()}
    assert load_model(folder).about.metrics == metrics


def test_no_budget_is_given_twice_and_none_is_nothing(evaluator: Evaluator, options: dict[str, Any]) -> None:
    known = evaluator.options
    budgets = [name for name in ("epochs", "tokens", "flops") if name in known and known[name].default is None]
    two = {**options, **dict.fromkeys(budgets[:2], 5)}
    with pytest.raises((OptionError, RecipeError), match=f"(?s){budgets[0]}.*{budgets[1]}|{budgets[1]}.*{budgets[0]}"):
        _ = evaluator.bind(two).space
    for name in budgets:
        with pytest.raises((OptionError, RecipeError), match=name):
            _ = evaluator.bind({**options, **dict.fromkeys(budgets), name: 0.0}).space


def test_its_baseline_has_the_objective_and_its_test(evaluator: Evaluator, options: dict[str, Any]) -> None:
    if not evaluator.baseline:
        pytest.skip("it declares none")
    pytest.importorskip("sklearn")
    status, metrics, _ = check_metrics(evaluator.bind(options).baseline(), ())
    assert status == "ok"
    assert {"val_loss", "test_loss"} <= set(metrics) <= {*evaluator.metrics, *evaluator.tests.values()}
    assert evaluator.bind(options).baseline() == metrics


@pytest.mark.parametrize("name", ["min_lr_ratio", "decay_fraction", "clip"])
def test_options_out_of_bounds_cost_nothing(evaluator: Evaluator, options: dict[str, Any], name: str) -> None:
    with pytest.raises(EvoTuneError, match=name) as caught:
        _ = evaluator.bind({**options, name: -1.0}).space
    assert "\n" not in str(caught.value)


def test_data_that_is_not_there_is_said_in_one_line(evaluator: Evaluator, options: dict[str, Any]) -> None:
    given = {**options, "data": "no/such/thing", **({"target": "y"} if "target" in options else {})}
    with pytest.raises((OptionError, RecipeError), match="no/such/thing") as caught:
        evaluator.bind(given).fingerprint()
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_the_parent_never_loads_torch(texts: Path, base: Path) -> None:
    code = (
        "import sys\n"
        "from evo_tune.plugins.find import find_evaluator\n"
        f"for name in {NAMES!r}:\n"
        "    e = find_evaluator(f'bundled:{name}')\n"
        f"    own = {{'text_classification': {{'data': {str(texts)!r}}}, 'fine_tuning': {{'base': {str(base)!r}}}}}\n"
        "    o = e.bind(own.get(name, {}))\n"
        "    g = o.space.default()\n"
        "    o.space.check(g), o.fingerprint(), o.estimate(g), e.summary, e.objectives\n"
        "    assert 'torch' not in sys.modules, name\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
