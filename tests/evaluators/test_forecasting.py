"""The forecasting evaluator: what it learns, what it says of the data, and what its exported model forecasts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from evo_tune import Context, load_model
from evo_tune.cli import cli
from evo_tune.errors import EvoTuneError, RecipeError
from evo_tune.plugins.evaluator import BoundEvaluator, Evaluator
from evo_tune.plugins.find import find_evaluator
from evo_tune.training import Forecaster, ForecastTraining
from evo_tune.training.recipe import ForecastScores
from evo_tune.training.recipe.data import series


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    return find_evaluator("bundled:forecasting")


@pytest.fixture(scope="module")
def shops(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two shops of very different size with a rhythm of seven days that a week before tells badly: it alternates."""
    rng, days = np.random.default_rng(1), np.arange(400)
    week = np.sin(2 * np.pi * days / 7) * np.where(days // 7 % 2, 1.0, -0.5)
    parts = [
        pd.DataFrame({"day": pd.date_range("2023-01-01", periods=400), "shop": name, "sold": size * (week + noise)})
        for name, size, noise in (("big", 1e5, rng.normal(0, 0.1, 400)), ("small", 3.0, rng.normal(0, 0.1, 400)))
    ]
    path = tmp_path_factory.mktemp("shops") / "shops.csv"
    pd.concat(parts).sample(frac=1.0, random_state=1).to_csv(path, index=False)
    return str(path)


def bound(evaluator: Evaluator, **given: Any) -> BoundEvaluator:
    return evaluator.bind(given)


def test_a_rhythm_is_learnt_and_beats_the_seasonal_naive_forecast(evaluator: Evaluator, shops: str) -> None:
    options = bound(evaluator, data=shops, key="shop", target="sold", horizon=7, epochs=12.0)
    genome, naive = {**options.space.default(), "lr": 3e-3, "dropout": 0.0}, options.baseline()
    metrics = options.evaluate(genome, Context(seed=1, test=True))
    assert naive["mase"] == pytest.approx(1.0, abs=0.15)
    assert set(naive) == {"val_loss", "mase", "smape", "quantile_loss"} | set(evaluator.tests.values())
    assert metrics["val_loss"] == metrics["quantile_loss"]
    for name in naive:
        assert metrics[name] < 0.7 * naive[name], name


def test_what_was_found_is_said_before_anything_is_trained(evaluator: Evaluator, shops: str) -> None:
    assert bound(evaluator, data=shops, key="shop", target="sold").describe() == [
        "2 series of 400 values, daily, 2023-01-01 to 2024-02-04; season 7; times in column 'day'",
        "no value is missing",
        "horizon 14; all series are divided at the same times: 480 values before 2023-08-29 to train on, 160 before "
        "2023-11-17 for validation (134 windows), and 160 for the test (134 windows)",
    ]


def test_series_that_end_early_are_said_to_be_for_training_only(evaluator: Evaluator, tmp_path: Path) -> None:
    frame = pd.DataFrame({"day": pd.date_range("2024-01-01", periods=100), "a": range(100), "b": range(100)})
    frame["a"] = np.random.default_rng(0).normal(size=100)
    frame["b"] = frame["a"].where(frame.index < 40)
    frame.to_csv(tmp_path / "early.csv", index=False)
    lines = bound(evaluator, data=str(tmp_path / "early.csv"), horizon=3, season=1).describe()
    assert lines[-1].startswith("1 series end before 2024-0")
    assert lines[-1].endswith(", so they are used for training only")


@pytest.mark.parametrize("loss", ["quantile", "mse"])
def test_an_exported_model_forecasts_what_was_judged(
    evaluator: Evaluator, shops: str, tmp_path: Path, loss: str
) -> None:
    """The test windows one after the other, each as a user would ask for it: a table that ends before the horizon."""
    options = bound(evaluator, data=shops, key="shop", target="sold", horizon=20, epochs=1.0, loss=loss)
    metrics = options.export(options.space.default(), Context(seed=1, folder=tmp_path / "t"), tmp_path / "model")
    model, frame = load_model(tmp_path / "model"), pd.read_csv(shops, parse_dates=["day"]).sort_values("day")
    offsets, model.reader.network.offsets = model.reader.network.offsets, []  # the test part calibrates the bands
    assert bool(offsets) == (loss == "quantile")
    days = pd.date_range("2023-01-01", periods=400)
    forecasts, truth, scales = [], [], []
    for name in ("big", "small"):
        sold = frame[frame["shop"] == name]["sold"].to_numpy()
        for start in range(320, 381):
            past = frame[(frame["day"] < days[start]) & (frame["shop"] == name)]
            forecasts.append(model.predict(past).drop(columns=["day", "shop"]).to_numpy())
            truth.append(sold[start : start + 20])
            scales.append(np.abs(sold[7:240] - sold[: 240 - 7]).mean())
    levels = (0.1, 0.5, 0.9) if loss == "quantile" else ()
    scores = ForecastScores.of(np.array(forecasts), np.array(truth), np.array(scales), levels)
    for name in ("loss", "mase", "smape"):
        assert getattr(scores, name) == pytest.approx(metrics[f"test_{name}"], rel=1e-6)


def test_a_table_of_the_past_becomes_a_table_of_the_future(
    evaluator: Evaluator, shops: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = bound(evaluator, data=shops, key="shop", target="sold", horizon=5, epochs=1.0)
    options.export(options.space.default(), Context(seed=1, folder=tmp_path / "t"), tmp_path / "model")
    other = pd.read_csv(shops).replace({"shop": {"small": "new"}}).assign(note="x")
    other.to_csv(tmp_path / "past.csv", index=False)
    words = ["predict", str(tmp_path / "model"), str(tmp_path / "past.csv"), "--output", str(tmp_path / "f.csv")]
    cli.main(words, standalone_mode=False)
    forecast = pd.read_csv(tmp_path / "f.csv")
    assert forecast.columns.tolist() == ["day", "shop", "0.1", "0.5", "0.9"]
    assert forecast["shop"].tolist() == ["big"] * 5 + ["new"] * 5
    assert forecast["day"].tolist()[:2] == ["2024-02-05", "2024-02-06"]
    told = capsys.readouterr().err
    assert "columns that the model does not know are ignored: note" in told
    assert "series that the model never saw are scaled by themselves: new" in told
    model = load_model(tmp_path / "model")
    pd.testing.assert_frame_equal(
        model.predict(other).drop(columns="day"), forecast.drop(columns="day"), check_exact=False
    )
    scores = model.evaluate(pd.read_csv(shops))
    assert set(scores) == {"loss", "mase", "smape", "quantile_loss"}
    with pytest.raises(EvoTuneError, match="is not one of the daily times"):
        model.predict(other.assign(day=pd.date_range("2023-01-01", periods=800, freq="h")))


def test_forecasts_continue_irregular_times_with_a_zone(
    evaluator: Evaluator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = np.random.default_rng(0).integers(-300, 301, 400)
    hours = pd.date_range("2024-03-29", periods=400, freq="h", tz="Europe/Berlin") + pd.to_timedelta(moved, unit="s")
    path = tmp_path / "load.csv"
    pd.DataFrame({"time": [hour.isoformat() for hour in hours], "load": np.arange(400) % 24}).to_csv(path, index=False)
    options = bound(evaluator, data=str(path), horizon=3, season=5, epochs=0.1)
    assert "400 values are averaged to 400 at regular times: hourly" in options.describe()
    assert "times with a time zone are in UTC" in options.describe()
    options.export(options.space.default(), Context(seed=1, folder=tmp_path / "t"), tmp_path / "model")
    cli.main(["predict", str(tmp_path / "model"), str(path)], standalone_mode=False)
    forecast = [line.split(",")[0] for line in capsys.readouterr().out.splitlines()[1:]]
    assert forecast == ["2024-04-14 15:00:00+00:00", "2024-04-14 16:00:00+00:00", "2024-04-14 17:00:00+00:00"]


@pytest.fixture(scope="module")
def sales(tmp_path_factory: pytest.TempPathFactory) -> str:
    """300 days whose sales follow price and promotions of the day, and visits of three days before."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"day": pd.date_range("2023-01-01", periods=300), "price": rng.normal(9.0, 1.0, 300)})
    frame["promo"], frame["visits"] = rng.random(300) < 0.2, rng.normal(50.0, 9.0, 300)
    frame["sold"] = 100.0 - 8.0 * frame["price"] + 15.0 * frame["promo"] + 0.8 * frame["visits"].shift(3, fill_value=50)
    path = tmp_path_factory.mktemp("sales") / "sales.csv"
    frame.to_csv(path, index=False)
    return str(path)


COVARIATES = {"target": "sold", "known": "price,promo", "past": "visits", "horizon": 3}


def test_covariates_make_forecasts_better(evaluator: Evaluator, sales: str) -> None:
    losses = []
    for given in ({"target": "sold", "horizon": 3}, {**COVARIATES, "past": ""}, COVARIATES):
        options = bound(evaluator, data=sales, epochs=12.0, patience=None, **given)
        genome = {**options.space.default(), "lr": 1e-2, "dropout": 0.0}
        losses.append(options.evaluate(genome, Context(seed=1))["val_loss"])
    alone, known, both = losses
    assert known < 0.8 * alone
    assert both < 0.9 * known


def test_an_exported_model_with_covariates_forecasts_what_was_judged(
    evaluator: Evaluator, sales: str, tmp_path: Path
) -> None:
    options = bound(evaluator, data=sales, epochs=2.0, **COVARIATES)
    metrics = options.export(options.space.default(), Context(seed=1, folder=tmp_path / "t"), tmp_path / "model")
    model, frame = load_model(tmp_path / "model"), pd.read_csv(sales)
    model.reader.network.offsets = []  # the test part calibrates the bands
    split, forecasts, truth = options.values.split_series, [], []
    for start in split.test.start:
        past = frame.iloc[: start + 3].copy()
        past.loc[start:, ["sold", "visits"]] = np.nan
        forecasts.append(model.predict(past)[["0.1", "0.5", "0.9"]].to_numpy())
        truth.append(frame["sold"].to_numpy()[start : start + 3])
    scores = ForecastScores.of(np.array(forecasts), np.array(truth), split.scales.repeat(len(truth)), (0.1, 0.5, 0.9))
    assert scores.loss == pytest.approx(metrics["test_loss"], rel=1e-6)
    past["visits"] = frame["visits"]  # those of the horizon are not known
    assert np.array_equal(model.predict(past)[["0.1", "0.5", "0.9"]].to_numpy(), forecasts[-1])
    past.loc[past.index[-1], "price"] += 2.0
    assert not np.array_equal(model.predict(past)["0.5"].to_numpy(), forecasts[-1][:, 1])
    assert model.evaluate(frame)["mase"] > 0.0


def test_what_predict_needs_of_covariates_is_said_in_one_line(evaluator: Evaluator, sales: str, tmp_path: Path) -> None:
    options = bound(evaluator, data=sales, epochs=0.1, **COVARIATES)
    options.export(options.space.default(), Context(seed=1, folder=tmp_path / "t"), tmp_path / "model")
    model, frame = load_model(tmp_path / "model"), pd.read_csv(sales)
    ahead = frame.copy()
    ahead.loc[297:, "sold"] = np.nan
    assert model.predict(ahead)["day"].astype(str).tolist() == ["2023-10-25", "2023-10-26", "2023-10-27"]
    cases = [
        (frame, "column 'price' has no value at 2023-10-28: expected rows for the 3 steps .* in which 'sold' is empty"),
        (ahead.iloc[:299], "column 'price' has no value at 2023-10-27"),
        (ahead.drop(index=298), "column 'price' has no value at 2023-10-26"),
        (ahead.drop(columns="promo"), "no column 'promo': expected the columns day, sold, visits, price, promo"),
    ]
    for table, words in cases:
        with pytest.raises(EvoTuneError, match=words) as caught:
            model.predict(table)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("covariate_scales", [[0.0, 1.0]]),
        ("covariate_scales", [[0.0, float("inf")]] * 3),
        ("covariate_scales", [[1, 0]] * 3),
        ("known", ["price"]),
    ],
)
def test_a_model_whose_covariates_do_not_fit_is_refused(
    evaluator: Evaluator, sales: str, tmp_path: Path, name: str, value: Any
) -> None:
    options = bound(evaluator, data=sales, **COVARIATES)
    task = evaluator.module._task(options.space.default(), options.values)
    data = json.loads(json.dumps(task.build(0).to_json()))
    assert Forecaster.from_json(data).covariate_scales.shape == (3, 2)
    (data if name in data else data["series"])[name] = value
    with pytest.raises(RecipeError, match="covariate_scales"):
        Forecaster.from_json(data)


def test_values_after_the_training_part_change_no_weight(evaluator: Evaluator, shops: str, tmp_path: Path) -> None:
    frame = pd.read_csv(shops)
    frame.loc[frame["day"] >= "2023-08-29", "sold"] *= -7.0  # day 240
    frame.to_csv(tmp_path / "other.csv", index=False)
    weights = []
    for number, data in enumerate((shops, str(tmp_path / "other.csv"))):
        given = {"key": "shop", "target": "sold", "horizon": 7, "epochs": 1.0, "patience": None}
        options = bound(evaluator, data=data, **given)
        folder = tmp_path / f"{number}"
        options.export(options.space.default(), Context(seed=1, folder=tmp_path / "t"), folder)
        weights.append((folder / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_the_fill_of_a_missing_value_to_forecast_changes_no_weight(
    evaluator: Evaluator, shops: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gap is the end of the training part, so it is in no past that is trained on."""
    frame = pd.read_csv(shops)
    frame = frame[(frame["day"] < "2023-08-24") | (frame["day"] > "2023-08-28")]  # days 235 to 239
    weights, samples = [], []
    for fill in (0.0, 1e4):

        def fill_gaps(values: Any, season: int, fill: float = fill) -> Any:
            return np.where(np.isnan(values), fill, values)

        monkeypatch.setattr(series, "fill_gaps", fill_gaps)
        folder, data = tmp_path / f"{fill}", tmp_path / f"{fill}.csv"
        frame.to_csv(data, index=False)
        options = bound(evaluator, data=str(data), key="shop", target="sold", horizon=7, epochs=1.0, patience=None)
        metrics = options.export(options.space.default(), Context(seed=1, folder=tmp_path / "t"), folder)
        weights.append((folder / "model.safetensors").read_bytes())
        samples.append(metrics["samples"])
    assert weights[0] == weights[1]
    context = options.space.default()["context"]
    assert samples == [2 * (240 - 7 - context + 1)] * 2


def test_a_step_counts_the_values_that_are_not_missing(evaluator: Evaluator, shops: str, tmp_path: Path) -> None:
    frame = pd.read_csv(shops).sample(frac=0.9, random_state=2)
    frame.to_csv(tmp_path / "gaps.csv", index=False)
    options = bound(evaluator, data=str(tmp_path / "gaps.csv"), key="shop", target="sold", horizon=7, epochs=1.0)
    task = evaluator.module._task(options.space.default(), options.values)
    training = ForecastTraining(task, Context(folder=tmp_path))
    (phase,) = training.plan_phases()
    source = training.source(phase, micro_batch=3)
    for step in range(source.steps):
        targets = torch.cat([aims for _, aims in source.window(step)])
        assert source.target_count(step) == int(targets.isfinite().sum()) < targets.numel()


def test_contexts_are_seasons_that_leave_half_of_the_windows(evaluator: Evaluator, shops: str) -> None:
    space = bound(evaluator, data=shops, key="shop", target="sold", horizon=14).space
    assert space.genes["context"].values == (14, 21, 28, 42, 56, 84, 112)  # type: ignore[attr-defined]
    genome = space.repair({**space.default(), "context": 14, "patch": 32})
    assert genome["patch"] == 8
    short = bound(evaluator, data=shops, key="shop", target="sold", horizon=70).space
    assert max(short.genes["context"].values) == 84  # type: ignore[attr-defined]


def test_wrong_options_and_series_cost_nothing(evaluator: Evaluator, shops: str) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"levels": "0.1,0.9"}, "levels=0.1,0.9: expected rising numbers between 0 and 1, 0.5 among them"),
        ({"levels": "0.5,median"}, "levels=0.5,median"),
        ({"time": "day"}, "-o time names a column of a file: give one with -o data=FILE"),
        ({"horizon": 60}, "horizon=60: the longest series has 144 values: expected at least"),
        (
            {"data": shops, "target": "sold"},
            "occurs twice .*, as do 399 other times: if the file has several series, give -o key=COLUMN",
        ),
        ({"data": shops}, "column 'shop' holds text: if it tells the series apart, give -o key=shop"),
        ({"validation": 0.6, "test": 0.5}, "validation"),
        ({"horizon": 0}, "horizon"),
    ]
    for given, words in cases:
        with pytest.raises(EvoTuneError, match=words) as caught:
            _ = bound(evaluator, **given).space
        assert "\n" not in str(caught.value)
