"""Families of models for a table: one search, conditional genes, equal metrics and budgets in time, and export."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from evo_tune import Context, load_model
from evo_tune.cli.training.model_training import count_trainings
from evo_tune.errors import OptionError
from evo_tune.forecast.timing import genomes_to_time
from evo_tune.genome.widening import ENDS, end_value, widen_to_limits, widening_limits
from evo_tune.loop.budget import choose_seconds, max_timing_seconds, time_steps
from evo_tune.loop.plan import Request, plan_run
from evo_tune.plugins.cost import Cost, TimedGenome
from evo_tune.plugins.evaluator import BoundEvaluator
from evo_tune.plugins.find import find_evaluator
from evo_tune.settings import parse_settings
from evo_tune.training import BoostedTrees, LinearModel, fitting, samples
from evo_tune.training.hardware.device import seed_for
from evo_tune.training.models.model_files import FitRows
from evo_tune.training.recipe import TABLE_RIVALS, LinearConfig, TreesConfig, classifying
from tests.extras import need

need("boosting")
need("sklearn")

FAMILIES = ("boosting", "linear", "transformer")
ALL = ",".join(FAMILIES)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"a": rng.normal(size=400), "b": rng.normal(size=400), "town": rng.choice(["x", "y", "z"], 400)}
    )
    frame["kind"] = np.where(frame.a * frame.b + (frame.town == "x") > 0, "yes", "no")
    frame["price"] = frame.a**2 + frame.b + rng.normal(size=400) / 10
    path = tmp_path_factory.mktemp("families") / "table.csv"
    frame.to_csv(path, index=False)
    return path


def bind(data: Path, families: str, **options: Any) -> BoundEvaluator:
    options = {"data": str(data), "target": "kind", "ignore": "price", "families": families, **options}
    return find_evaluator("bundled:tabular").bind(options)


def test_without_the_option_the_space_is_that_of_the_transformer(data: Path) -> None:
    alone = find_evaluator("bundled:tabular").bind({"data": str(data), "target": "kind"})
    assert alone.options["families"] == "transformer"
    assert "family" not in alone.space.genes
    assert list(alone.space.genes)[:3] == ["lr", "batch", "depth"]


def test_a_familys_genes_are_active_in_its_genomes_only(data: Path) -> None:
    space = bind(data, ALL).space
    assert space.genes["family"].values == FAMILIES  # type: ignore[union-attr]
    boosted = space.check({"family": "boosting", "lr": 0.02, "shrinkage": 0.05}, fill_defaults=True)
    assert boosted["shrinkage"] == 0.05
    assert boosted["lr"] == space.default()["lr"]
    assert space.check({"family": "transformer", "lr": 0.02}, fill_defaults=True)["lr"] == 0.02
    assert set(bind(data, "boosting").space.genes) & {"family", "lr", "l2"} == set()
    assert set(bind(data, "linear,boosting").space.genes) & {"family", "lr", "l2"} == {"family", "l2"}


@pytest.mark.parametrize("wrong", ["forest", "", "boosting,boosting", "auto,linear", "boosting, linear"])
def test_an_unknown_family_is_named(wrong: str, data: Path) -> None:
    with pytest.raises(OptionError, match="transformer with commas between them, or auto"):
        bind(data, wrong)


@pytest.mark.parametrize("target", ["kind", "price"])
def test_families_report_the_same_metrics_and_export_a_model_with_the_same_scores(
    target: str, data: Path, tmp_path: Path
) -> None:
    options = {"target": target, "ignore": "", "epochs": 2.0}
    names = {}
    for family in FAMILIES:
        bound = bind(data, ALL, **options)
        genome = bound.space.check({"family": family}, fill_defaults=True)
        context = Context(seed=3, folder=tmp_path / f"{family}-trial", test=True)
        metrics = bound.evaluate(genome, context)
        assert context.curve[0][1]["val_loss"] > 0.0
        searched = bound.evaluate(genome, Context(seed=3, folder=tmp_path / f"{family}-search"))
        assert searched["val_loss"] == pytest.approx(metrics["val_loss"], rel=1e-6)
        assert "test_loss" not in searched
        names[family] = {name for name in metrics if name in {**bound.plugin.tests, **_swap(bound.plugin.tests)}}
        if family != "transformer":
            assert metrics["steps"] <= bound.estimate(genome)["steps"]
            rows = pd.read_csv(data).iloc[bound.values.table.test]
            for refit in ("none", "validation", "all"):
                folder = tmp_path / f"{family}-{refit}"
                chosen = bind(data, ALL, **options, refit=refit)
                exported = chosen.export(genome, Context(seed=3, folder=tmp_path / "again"), folder)
                assert exported["val_loss"] == metrics["val_loss"]
                assert (exported["test_loss"] == metrics["test_loss"]) == (refit == "none")
                model, notes = load_model(folder), json.loads((folder / "config.json").read_text())
                assert notes["metrics"]["test_loss"] == exported["test_loss"]
                counts = notes["rows"]
                if refit == "all":
                    assert model.evaluate(rows)["loss"] < exported["test_loss"], "it has learned from these rows"
                    assert counts["last_fit"] == counts["training"] + counts["held_out"] + counts["test"]
                else:
                    assert model.evaluate(rows)["loss"] == pytest.approx(exported["test_loss"], rel=1e-5)
                    assert counts["last_fit"] == counts["training"] + (refit == "validation") * counts["held_out"]
    assert names["boosting"] == names["linear"] == names["transformer"]
    assert len(names["linear"]) >= 8


def _swap(names: dict[str, str]) -> dict[str, str]:
    return {test: name for name, test in names.items()}


def test_boosting_learns_what_a_linear_model_cannot(data: Path, tmp_path: Path) -> None:
    losses = {
        family: (bound := bind(data, family)).evaluate(bound.space.default(), Context(seed=0, folder=tmp_path))[
            "val_loss"
        ]
        for family in ("boosting", "linear")
    }
    assert losses["boosting"] < 0.4 < 0.5 < losses["linear"]


@pytest.mark.parametrize("family", ["boosting", "linear"])
def test_a_fit_ends_in_time_with_a_model_and_without_a_second_fit(
    family: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "LATE_SECONDS", 0.0)
    losses = []
    for refit in ("all", "none"):
        bound = bind(data, family, patience=None, evaluations=1, refit=refit)
        run = Context(seed=0, folder=tmp_path / "trial", ends_at=time.monotonic())
        metrics = bound.export(bound.space.default(), run, tmp_path / refit)
        assert metrics["steps"] == 1.0
        losses.append(metrics["test_loss"])
    assert losses[0] == losses[1]


def test_a_fit_that_begins_late_has_some_seconds(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine, one step of boosting was exported, which is worse than the baseline."""
    monkeypatch.setattr(fitting, "LATE_SECONDS", 60.0)
    bound = bind(data, "boosting", refit="none")
    losses = []
    for ends_at in (time.monotonic(), math.inf):
        run = Context(seed=0, folder=tmp_path / "trial", ends_at=ends_at)
        losses.append(bound.export(bound.space.default(), run, tmp_path / f"until {ends_at}")["test_loss"])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("family", ["boosting", "linear"])
def test_a_budget_in_time_becomes_steps(family: str, data: Path, tmp_path: Path) -> None:
    bound = bind(data, family)
    genome = bound.space.default()
    timing = bound.evaluate(genome, Context(seed=0, folder=tmp_path, timing=3))
    assert 0.0 < timing["step"] < timing["seconds"]
    work = bound.work(genome)
    assert set(work) <= set(bound.plugin.cpu_costs)
    cost = json.dumps({"each": {name: 0.05 / len(work) / amount for name, amount in work.items()}})
    timed = bound.with_options(cost=cost, seconds=0.5)
    assert timed.estimate(genome) | {"params": 0} == {"params": 0, "gpu_memory": 0, "steps": 10, "seconds": 0.5}
    metrics = timed.with_options(patience=None).evaluate(genome, Context(seed=0, folder=tmp_path))
    assert 1 <= metrics["steps"] <= 10


def test_a_share_of_the_budget_is_the_beginning_of_the_same_training(data: Path, tmp_path: Path) -> None:
    bound = bind(data, "boosting", patience=None, evaluations=10)
    contexts = [Context(seed=0, folder=tmp_path, budget=budget) for budget in (0.5, 1.0)]
    for context in contexts:
        bound.evaluate(bound.space.default(), context)
    assert contexts[0].curve == contexts[1].curve[:5]


def test_patience_ends_a_fit_and_the_best_step_is_kept(data: Path, tmp_path: Path) -> None:
    for patience, waited in ((2, 2), (80, 50)):
        bound = bind(data, "boosting", patience=patience, evaluations=1000)
        genome = bound.space.check({"shrinkage": 0.3, "leaf_rows": 2}, fill_defaults=True)
        context = Context(seed=0, folder=tmp_path)
        metrics = bound.evaluate(genome, context)
        losses = [point["val_loss"] for _, point in context.curve]
        assert metrics["steps"] == len(losses) < 300
        assert metrics["val_loss"] == pytest.approx(min(losses), rel=1e-5)
        assert np.argmin(losses) == len(losses) - 1 - waited


def test_balanced_class_weights_change_a_fit(data: Path, tmp_path: Path) -> None:
    for family in ("boosting", "linear"):
        losses = []
        for weights in ("none", "balanced"):
            bound = bind(data, family, class_weights=weights)
            losses.append(bound.evaluate(bound.space.default(), Context(seed=0, folder=tmp_path))["val_loss"])
        assert losses[0] != losses[1]


def test_a_run_trains_the_default_genome_of_each_family_first(data: Path, tmp_path: Path) -> None:
    bound = bind(data, ALL)
    plan = plan_run(
        bound.plugin, Request(options=bound.options | {"epochs": 1.0}), *parse_settings({"trials": 5}), tmp_path
    )
    assert [genome["family"] for genome in plan.manifest.warm_start] == ["linear", "transformer"]
    assert {genome["family"] for genome in genomes_to_time(bound.space, 0)[:7]} == set(FAMILIES)
    alone = bind(data, "boosting")
    assert alone.space.family_defaults() == []


def test_each_family_is_timed_however_short_the_hours(data: Path, tmp_path: Path) -> None:
    bound = bind(data, ALL)
    _, session = parse_settings({"hours": 1e-3})
    manifest = plan_run(bound.plugin, Request(options=bound.options), *parse_settings({"trials": 5}), tmp_path).manifest
    genomes = genomes_to_time(bound.space, corners=False)
    timings = time_steps(genomes, bound, manifest, session, quick=False)
    assert {genomes[number]["family"] for number in timings.rows} == set(FAMILIES)
    assert max_timing_seconds(session) < 1.0


def test_a_training_follows_a_part_of_many_validation_rows_and_is_judged_on_all(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound = bind(data, "transformer", epochs=1.0, evaluations=4, patience=None)
    genome, last, final, judged = bound.space.default(), {}, {}, {}
    for most in (10, 79, 80):
        monkeypatch.setattr(samples, "MOST_FOLLOWED", most)
        monkeypatch.setattr(classifying, "MOST_FOLLOWED", most)
        context = Context(seed=0, folder=tmp_path / str(most))
        final[most] = bound.evaluate(genome, context)["val_loss"]
        last[most] = context.curve[-1][1]["val_loss"]
        judged[most] = bound.work(genome)["judged products"] / bound.work(genome)["products"] * genome["batch"] * 3
    assert len(bound.values.table.held_out) == 80
    assert final[10] == final[79] == final[80] == last[80]
    assert len({*last.values()}) == 3
    assert {most: round(count) for most, count in judged.items()} == {10: 120, 79: 396, 80: 400}


def test_untimed_work_of_a_family_has_a_cost(data: Path) -> None:
    bound = bind(data, ALL)
    genome = bound.space.default()
    timed = TimedGenome(bound.work(genome), 0.01, 0.1)
    cost = Cost.fit([timed], "cpu", bound.plugin.cpu_costs)
    for family in FAMILIES:
        other = bound.space.check({"family": family}, fill_defaults=True)
        assert bound.with_options(cost=cost.text(), seconds=1.0).estimate(other)["steps"] >= 1


def test_the_slowest_family_sets_the_time_of_a_training(data: Path) -> None:
    bound = bind(data, ALL)
    default = bound.space.default()
    cost = Cost.fit([TimedGenome(bound.work(default), 0.0005, 0.0)], "cpu", bound.plugin.cpu_costs)
    timed = bound.with_options(cost=cost.text())
    own = {genome["family"]: timed.estimate(genome)["seconds"] for genome in bound.space.family_defaults()}
    assert own["transformer"] == max(own.values()) > 2.0 * own["boosting"]
    _, session = parse_settings({"trials": 5})
    seconds, words = choose_seconds(bound, default, cost, session, 1, 0.0, None)
    assert seconds == pytest.approx(own["transformer"], rel=0.01)
    assert words == "the time of the default genome of the slowest family with the evaluator's own budget"


def test_without_lightgbm_auto_leaves_boosting_out_and_the_rest_says_what_to_install(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    genome = bind(data, "auto").space.default()
    assert "boosting is left out" not in str(bind(data, "auto").describe())
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    bound = bind(data, "auto")
    assert "family" not in bound.space.genes, "of a small table, the linear model is left"
    assert bound.describe()[0] == ("boosting is left out: LightGBM is not installed: pip install 'evo-tune[boosting]'")
    for families in ("boosting", "linear,boosting"):
        with pytest.raises(
            OptionError, match=rf"families={families}: LightGBM .* 'evo-tune\[boosting\]', or give -o f"
        ):
            _ = bind(data, families).space
    with pytest.raises(OptionError, match=r"boosting needs LightGBM, .*: pip install 'evo-tune\[boosting\]'"):
        bound.evaluate({**bound.space.default(), **genome, "family": "boosting"}, Context(seed=0, folder=tmp_path))


def test_auto_leaves_the_transformer_out_on_a_small_table(data: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(data)
    large = tmp_path / "large.csv"
    pd.concat([frame] * 5).to_csv(large, index=False)
    for path, families in ((data, FAMILIES[:2]), (large, FAMILIES)):
        bound = bind(path, "auto")
        assert bound.space.genes["family"].values == families  # type: ignore[union-attr]
        says_so = "transformer is left out: 400 rows are too few to tell whether it is better" in bound.describe()
        assert says_so == (len(families) == 2)
    assert "left out" not in str(bind(data, ALL).describe())


@pytest.mark.parametrize("family", ["boosting", "linear"])
@pytest.mark.parametrize("target", ["kind", "price"])
def test_each_fold_is_judged_by_a_fit_to_the_others(family: str, target: str, data: Path, tmp_path: Path) -> None:
    options = {"target": target, "ignore": "", "patience": None, "evaluations": 1, "epochs": 1.0}
    bound, alone = (bind(data, family, **options, folds=folds) for folds in (4, None))
    assert alone.values.fits == 4, "the table is small"
    context = Context(seed=3, folder=tmp_path, test=True)
    context.predictions = {}
    metrics = bound.evaluate(bound.space.default(), context)
    judged = context.predictions["held_out"]
    table, folds = bound.values.table, bound.values.table.folds(4)
    assert len(judged.truth) == len(table.training) + len(table.held_out)
    assert metrics["val_loss"] == pytest.approx(judged.loss, rel=1e-6)
    first = 0
    for learned, rows in folds:
        part, labels = slice(first, first + len(rows)), table.target.labels or (target,)
        first += len(rows)
        np.testing.assert_array_equal(judged.truth[part], table.target.values[rows])
        model = _fit(family, bound, table, learned, labels, int(metrics["steps"]))
        with torch.no_grad():
            outputs = model(torch.from_numpy(table.inputs[rows])).double()
        mean, deviation = table.scale if table.regression else (0.0, 1.0)
        expected = mean + deviation * outputs if table.regression else outputs.softmax(-1)
        np.testing.assert_allclose(judged.values[part], expected.numpy(), rtol=1e-4)


@pytest.mark.parametrize("target", ["kind", "price"])
def test_the_baseline_is_judged_by_the_rows_that_judge_trials(target: str, data: Path) -> None:
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from threadpoolctl import threadpool_limits

    bound = bind(data, "linear", target=target, ignore="")
    table, baseline = bound.values.table, bound.baseline()
    values, losses = table.target.values, []
    kind = HistGradientBoostingRegressor if table.regression else HistGradientBoostingClassifier
    inputs, (numeric, categories) = table.inputs, table.columns.sizes
    is_categorical = [False] * numeric + [True] * len(categories)
    with threadpool_limits(1):
        for learned, judged in table.folds(4):
            model = kind(random_state=0, categorical_features=is_categorical).fit(inputs[learned], values[learned])
            if table.regression:
                losses.extend(((model.predict(inputs[judged]) - values[judged]) / table.scale[1]) ** 2)
            else:
                losses.extend(-np.log(model.predict_proba(inputs[judged])[range(len(judged)), values[judged]]))
    assert baseline["val_loss"] == pytest.approx(np.mean(losses), rel=1e-3)
    assert bind(data, "linear", target=target, ignore="", folds=1).baseline()["val_loss"] != baseline["val_loss"]


@pytest.mark.parametrize("family", ["boosting", "linear"])
def test_a_run_widens_ranges_to_values_that_can_be_trained(family: str, data: Path, tmp_path: Path) -> None:
    bound = bind(data, family, folds=1, epochs=2.0)
    for name, gene in TABLE_RIVALS[family].items():
        widest = widen_to_limits(gene, widening_limits(gene))
        for end in ENDS:
            genome = {**bound.space.default(), name: end_value(widest, end)}
            metrics = bound.evaluate(genome, Context(seed=0, folder=tmp_path))
            assert np.isfinite(metrics["val_loss"]), (name, genome[name])


def _fit(family: str, bound: BoundEvaluator, table: Any, learned: Any, labels: Any, steps: int) -> Any:
    """Return a model of the default genome that is fitted to some rows only."""
    genome, numeric, categories = bound.space.default(), *table.columns.sizes
    shape = {"outputs": len(table.target.labels) or 1, "numeric": numeric, "categories": categories}
    facts = {"labels": labels, "columns": table.columns, "scale": table.scale if table.regression else None}
    config = TreesConfig(**shape) if family == "boosting" else LinearConfig(**shape, knots=genome["knots"])
    model = (BoostedTrees if family == "boosting" else LinearModel)(config, **facts)
    mean, deviation = table.scale if table.regression else (0.0, 1.0)
    targets = table.target.values[learned]
    targets = (targets - mean) / deviation if table.regression else targets
    rows = FitRows(table.inputs[learned], targets, np.ones(len(targets)), table.inputs[:0])
    for _ in model.fit(rows, genome, steps, seed_for(3, "weights")):
        pass
    model.finish(model.state())
    return model


def test_a_fold_that_has_converged_waits_for_the_others(data: Path, tmp_path: Path) -> None:
    bound = bind(data, "linear", patience=None, evaluations=1, folds=6)
    table, genome, counts = bound.values.table, bound.space.default(), []
    numeric, categories = table.columns.sizes
    for learned, judged in table.folds(6):
        config = LinearConfig(outputs=2, numeric=numeric, categories=categories, knots=genome["knots"])
        model = LinearModel(config, labels=table.target.labels, columns=table.columns)
        inputs, targets = table.inputs[learned], table.target.values[learned]
        rows = FitRows(inputs, targets, np.ones(len(targets)), table.inputs[judged])
        counts.append(sum(1 for _ in model.fit(rows, genome, 1000, 0)))
    assert min(counts) < max(counts) < 1000
    metrics = bound.with_options(epochs=1000.0).evaluate(genome, Context(seed=0, folder=tmp_path))
    assert metrics["steps"] == max(counts)


def test_folds_are_refused_where_they_leak_or_cannot_be_compared(data: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(data).assign(day=pd.date_range("2020-01-01", periods=400).astype(str))
    frame.loc[:3, "kind"] = "rare"
    path = tmp_path / "dated.csv"
    frame.to_csv(path, index=False)
    for given, message in (
        ({"families": ALL}, "folds=3 needs families without transformer"),
        ({"families": "transformer"}, "folds=3 needs families without transformer"),
        ({"families": "linear", "split_by": "day"}, "divided by time: leave folds out"),
        ({}, "a class or group has too few rows"),
    ):
        table = path if "families" not in given or "split_by" in given else data
        options = {"families": "linear", **given}
        assert bind(table, **options).values.fits == 1
        with pytest.raises(OptionError, match=message):
            _ = bind(table, **options, folds=3).space
        assert bind(table, **options, folds=1).space == bind(table, **options).space
    with pytest.raises(OptionError, match="folds=2: expected 1, or 3 to 20"):
        _ = bind(data, "linear", folds=2).space


def test_folds_make_a_step_as_much_dearer(data: Path) -> None:
    once, folded = (bind(data, "boosting", folds=folds, ignore="price") for folds in (3, 6))
    work = [bound.work(bound.space.default()) for bound in (once, folded)]
    assert {kind: work[1][kind] / amount for kind, amount in work[0].items()} == dict.fromkeys(work[0], 2.0)
    assert [count_trainings(bound, bound.space.default()) for bound in (once, folded)] == [1 + 1 / 3, 1 + 1 / 6]
