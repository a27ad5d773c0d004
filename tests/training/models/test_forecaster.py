"""The forecaster: its patches, its standardised windows, its loss, and what it forecasts of a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from evo_tune.errors import OptionError, RecipeError
from evo_tune.training import Forecaster, QuantileLoss
from evo_tune.training.prediction.about import TrainingFacts
from evo_tune.training.prediction.series import ForecastModel, Past
from evo_tune.training.recipe import PatchConfig
from evo_tune.training.recipe.data.forecasts import Smoothing
from evo_tune.training.recipe.data.series import Series, find_series

SHAPE: dict[str, Any] = {"depth": 1, "width": 16, "heads": 2, "context": 12, "patch": 4, "horizon": 3}
LEVELS = (0.1, 0.5, 0.9)


def table(names: tuple[str, ...] = ("north", "south"), rows: int = 30) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    days = pd.date_range("2024-01-01", periods=rows)
    return pd.DataFrame({"day": days, **{name: 1e6 + rng.normal(size=rows).cumsum() for name in names}})


@pytest.fixture
def model() -> Forecaster:
    """One whose weights are all random: a fresh one forecasts the mean of its past."""
    found = find_series(table())
    scales = {"north": (1e6, 2.0), "south": (1e6, 0.5)}
    made = Forecaster(PatchConfig(outputs=9, levels=LEVELS, **SHAPE), series=found.format, scales=scales)
    rng = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in made.parameters():
            weight.normal_(0.0, 0.3, generator=rng)
    return made.eval()


def test_a_window_that_is_moved_or_stretched_has_its_forecast_moved_or_stretched(model: Forecaster) -> None:
    past = 10.0 * torch.randn(4, 12)
    with torch.no_grad():
        assert torch.allclose(model(3.0 * past - 5.0), 3.0 * model(past) - 5.0, atol=1e-3)
        assert torch.isfinite(model(torch.ones(2, 12))).all(), "a constant past has no deviation"


def test_a_new_series_is_centred_by_its_observed_values(model: Forecaster) -> None:
    values = np.array([1.0, 2.0, 4.0, 900.0, 3.0])
    (_, centres, _) = model.prepare([Series("new", 0, values, values < 900.0)])
    assert centres.tolist() == [2.5]


def test_patches_overlap_by_half_and_the_last_value_is_repeated(model: Forecaster) -> None:
    seen: list[torch.Tensor] = []
    model.patches.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    past = torch.randn(1, 12)
    model(past)
    standard = ((past - past.mean()) / (past.var(correction=0) + 1e-5).sqrt())[0]
    standard = torch.cat([standard, standard[-1:], standard[-1:]])
    expected = torch.stack([standard[at : at + 4] for at in range(0, 11, 2)])
    assert torch.allclose(seen[0][0], expected, atol=1e-6)


def test_the_loss_is_the_mean_of_the_pinball_loss_over_quantiles() -> None:
    outputs, targets = torch.randn(5, 9), torch.randn(5, 3)
    expected = 0.0
    for window in range(5):
        for step in range(3):
            for number, level in enumerate(LEVELS):
                error = float(targets[window, step] - outputs[window, 3 * step + number])
                expected += (level * error if error >= 0 else (level - 1) * error) / 3
    loss = QuantileLoss(LEVELS)
    assert float(loss.sum_losses(outputs, targets)) == pytest.approx(expected, rel=1e-5)
    assert loss.count(targets) == 15


def forecast_of(network: Forecaster, frame: pd.DataFrame) -> pd.DataFrame:
    facts = TrainingFacts()
    return ForecastModel(Past(facts, network), Path(), network, facts).predict(frame)


def test_a_forecast_has_the_times_after_a_series_and_quantiles_in_order(model: Forecaster, tmp_path: Path) -> None:
    frame = table(("north", "south"))
    frame.loc[25:, "south"] = np.nan
    forecast = forecast_of(model, frame)
    assert forecast.columns.tolist() == ["day", "series", "0.1", "0.5", "0.9"]
    assert forecast["series"].tolist() == ["north"] * 3 + ["south"] * 3
    assert forecast["day"].dt.day.tolist() == [31, 1, 2, 26, 27, 28]
    assert (forecast["0.1"] < forecast["0.9"]).all()
    assert forecast["0.5"].between(*sorted((frame[["north", "south"]].min().min() - 9, 1e6 + 20))).all()
    model.save(tmp_path, note=1)
    pd.testing.assert_frame_equal(forecast_of(Forecaster.load(tmp_path), frame), forecast)


def test_series_that_it_never_saw_and_short_ones_are_forecast(model: Forecaster) -> None:
    long = table(("east",), 40).melt("day", var_name="shop", value_name="sold")
    found = find_series(long, key="shop", target="sold")
    other = Forecaster(model.config, series=found.format)
    other.load_state_dict(model.state_dict())
    whole = forecast_of(other.eval(), long)
    assert whole["shop"].tolist() == ["east"] * 3
    assert len(forecast_of(other, long.head(5))) == 3, "its first value is repeated before it"
    assert forecast_of(other, long.head(5)).iloc[0]["day"] == pd.Timestamp("2024-01-06")


def test_a_mean_is_one_column_and_years_stay_numbers() -> None:
    years = pd.DataFrame({"year": np.arange(1900, 1960), "spots": np.arange(60.0)})
    model = Forecaster(PatchConfig(outputs=3, **SHAPE), series=find_series(years).format).eval()
    forecast = forecast_of(model, years)
    assert forecast.columns.tolist() == ["year", "series", "mean"]
    assert forecast["year"].tolist() == [1960, 1961, 1962]
    assert forecast["mean"].tolist() == pytest.approx([53.5] * 3), "it knows nothing but the mean of its past"


@pytest.mark.parametrize("known", [0, 2])
def test_a_fresh_model_with_smoothing_gives_its_forecast_in_full_precision(known: int) -> None:
    model = Forecaster(PatchConfig(outputs=9, levels=LEVELS, **SHAPE, known=known, smoothing=True)).eval()
    weights = np.random.default_rng(0).normal(size=(SHAPE["context"], SHAPE["horizon"]))
    spread = np.array([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-3.0, 0.0, 3.0]])
    model.set_smoothing(Smoothing(weights, spread))
    past = 1e3 + torch.randn(4, SHAPE["context"], generator=torch.Generator().manual_seed(1))
    window = past
    if known:
        window = torch.zeros(4, SHAPE["context"] + SHAPE["horizon"], 1 + known)
        window[:, : SHAPE["context"], 0] = past
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        forecast = model(window).reshape(4, 3, 3).double().numpy()
    assert forecast == pytest.approx((past.double().numpy() @ weights)[:, :, None] + spread, abs=1e-2)


def test_the_config_of_a_strangers_model_asks_for_little_memory() -> None:
    with pytest.raises(RecipeError, match="context"):
        PatchConfig(**{**SHAPE, "context": 1 << 20, "horizon": 1000}, outputs=1000, smoothing=True)


def test_what_cannot_be_forecast_is_said_in_one_line(model: Forecaster) -> None:
    frame = table()
    empty = frame.assign(north=np.nan, south=np.nan)
    cases = [(frame.drop(columns="south"), "no column 'south'"), (empty, "none of the columns")]
    for given, words in cases:
        with pytest.raises(OptionError, match=words) as caught:
            model.read(given)
        assert "\n" not in str(caught.value)
    with pytest.raises(RecipeError, match="series"):
        Forecaster(model.config).read(frame)
    with pytest.raises(RecipeError, match="outputs"):
        PatchConfig(outputs=4, **SHAPE)
    with pytest.raises(RecipeError, match="patch"):
        PatchConfig(outputs=3, **{**SHAPE, "patch": 13})


def test_of_the_horizon_only_covariates_that_are_known_ahead_are_read() -> None:
    model = Forecaster(PatchConfig(outputs=9, levels=LEVELS, **SHAPE, past=1, known=2)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0.0, 0.3, generator=torch.Generator().manual_seed(weight.numel()))
    window = torch.randn(2, SHAPE["context"] + SHAPE["horizon"], 4, generator=torch.Generator().manual_seed(0))
    forecast, hidden = model(window), window.clone()
    hidden[:, SHAPE["context"] :, :2] = 1e6
    assert torch.equal(model(hidden), forecast)
    for number in range(4):  # the series, the covariate of the past, and the two known ahead
        changed = window.clone()
        changed[:, : SHAPE["context"], number] *= -1.0
        assert not torch.allclose(model(changed), forecast)
    later = window.clone()
    later[:, -1, 2] += 1.0
    moved = (model(later) - forecast).reshape(2, SHAPE["horizon"], 3)
    assert not moved[:, :-1].any()
    assert torch.allclose(moved[:, -1], moved[:, -1, :1].expand(2, 3), atol=1e-5)
    assert moved[:, -1].abs().min() > 1e-4
