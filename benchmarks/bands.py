"""Coverage of 80 % bands on 20 public series: those of exported forecasting models, with and without calibration.

The last fifth of each series is kept apart. A model is exported from the rest, and forecasts from each time in the last
fifth that has a horizon after it. All come with statsmodels. `--own` has the series on which the calibration was tried
before it was run on these 20.

`--exact` trains nothing. It simulates white noise and random walks of the same lengths, and counts how many of the 20
series would have 75 to 85 % of their values inside bands of the true quantiles, and inside these bands calibrated.

    python benchmarks/bands.py --flops 1e10
    python benchmarks/bands.py --exact
"""

from __future__ import annotations

import argparse
import importlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd

MACRO = (
    "realgdp",
    "realcons",
    "realinv",
    "realgovt",
    "realdpi",
    "cpi",
    "m1",
    "tbilrate",
    "unemp",
    "pop",
    "infl",
    "realint",
)
DANISH = ("lry", "lpy", "ibo", "ide")


def table(name: str) -> pd.DataFrame:
    """Return a table of statsmodels."""
    frame: pd.DataFrame = importlib.import_module(f"statsmodels.datasets.{name}").load_pandas().data
    return frame


def quarters(frame: pd.DataFrame) -> pd.Series[Any]:
    """Return the first days of the quarters of a table with a year and a quarter."""
    months = frame["quarter"].astype(int) * 3 - 2
    return pd.to_datetime(frame["year"].astype(int).astype(str) + "-" + months.astype(str) + "-01")


def public_series() -> dict[str, tuple[Any, Any]]:
    """Return the times and the values of the 20 series."""
    macro, rates, pacific, weeks = (table(name) for name in ("macrodata", "interest_inflation", "elnino", "co2"))
    series: dict[str, tuple[Any, Any]] = {name: (quarters(macro), macro[name]) for name in MACRO}
    series |= {f"germany {name}": (quarters(rates), rates[name]) for name in ("Dp", "R")}
    months = pd.date_range(f"{int(pacific['YEAR'].iloc[0])}-01-01", periods=12 * len(pacific), freq="MS")
    series["elnino"] = months, pacific.drop(columns="YEAR").to_numpy().ravel()
    carbon = weeks["co2"].resample("MS").mean().interpolate()
    series["co2"] = carbon.index, carbon
    sun, river, turnover = table("sunspots"), table("nile"), table("elec_equip")
    series["sunspots"] = sun["YEAR"].astype(int), sun["SUNACTIVITY"]
    series["nile"] = river["year"].astype(int), river["volume"]
    series["elec_equip"] = pd.to_datetime(turnover.index), turnover.iloc[:, 0]
    money = table("danish_data")
    series["danish lrm"] = money.index, money["lrm"]
    return series


def own_series() -> dict[str, tuple[Any, Any]]:
    """Return other series, none of them among the 20."""
    from evo_tune.training.recipe.data.series import passengers

    airline, money, rng = passengers(), table("danish_data"), np.random.default_rng(0)
    series: dict[str, tuple[Any, Any]] = {f"danish {name}": (money.index, money[name]) for name in DANISH}
    series["airline"] = airline.iloc[:, 0], airline.iloc[:, 1]
    months = pd.date_range("1990-01-01", periods=240, freq="MS")
    series["random walk"] = months, np.cumsum(rng.normal(size=240))
    series["seasonal"] = months, 10 * np.sin(np.arange(240) * np.pi / 6) + rng.normal(size=240)
    return series


def coverage(times: Sequence[Any], values: Any, flops: float, folder: Path) -> tuple[float, float, float]:
    """Return the shares of values within the 80 % band of a model, calibrated and not, and the ratio of the widths."""
    import evo_tune
    from evo_tune import Context
    from evo_tune.plugins.find import find_evaluator

    frame = pd.DataFrame({"time": np.asarray(times), "value": np.asarray(values, float)})
    cut = round(0.8 * len(frame))
    frame.iloc[:cut].to_csv(folder / "past.csv", index=False)
    evaluator = find_evaluator("bundled:forecasting").bind({"data": str(folder / "past.csv"), "flops": flops})
    evaluator.export(evaluator.space.default(), Context(seed=1, folder=folder / "trial", test=True), folder / "model")
    model: Any = evo_tune.load_model(folder / "model")
    network = model.reader.network
    horizon, offsets, inside, widths = network.config.horizon, network.offsets, {}, {}
    for calibrated in (True, False):
        network.offsets = offsets if calibrated else []
        bands, truths = [], []
        for now in range(cut, len(frame) - horizon + 1):
            bands.append(model.predict(frame.iloc[:now])[["0.1", "0.9"]].to_numpy())
            truths.append(frame["value"].to_numpy()[now : now + horizon])
        band, truth = np.concatenate(bands), np.concatenate(truths)
        inside[calibrated] = float(((band[:, 0] <= truth) & (truth <= band[:, 1])).mean())
        widths[calibrated] = float((band[:, 1] - band[:, 0]).mean())
    return inside[True], inside[False], widths[True] / widths[False]


def exact_shares(count: int, horizon: int, walk: bool, repetitions: int) -> list[float]:
    """Return the shares of simulations in which 75 to 85 % of the later values are inside true bands, and calibrated.

    Args:
        count: Values of the series, whose last fifth is kept apart; the fifth before it calibrates.
        horizon: Steps to forecast.
        walk: Whether values are a random walk; otherwise white noise.
        repetitions: Number of simulations.
    """
    from evo_tune.training.recipe.data.forecasts import conformal_offsets

    rng, steps, cut = np.random.default_rng(0), np.arange(horizon), round(0.8 * count)
    deviations = np.sqrt(steps + 1.0) if walk else np.ones(horizon)
    band = deviations * NormalDist().inv_cdf(0.9)
    inside = []
    for _ in range(repetitions):
        values = rng.normal(size=count + 1)
        values = np.cumsum(values) if walk else values

        def errors(first: int, after: int, values: Any = values) -> Any:
            starts = np.arange(first, max(first + 1, after - horizon + 1))[:, None]
            return values[starts + steps] - (values[starts - 1] if walk else 0.0)

        calibration, later = errors(cut - round(0.2 * cut), cut), errors(cut, count)
        quantiles = np.stack([-band, 0.0 * band, band], 1)[None].repeat(len(calibration), 0)
        lower, _, upper = np.array(
            conformal_offsets(quantiles, calibration, np.ones(len(calibration)), (0.1, 0.5, 0.9))
        )
        shares = (np.abs(later) <= band).mean(), ((lower - band <= later) & (later <= upper + band)).mean()
        inside.append([0.75 <= share <= 0.85 for share in shares])
    return list(np.mean(inside, 0))


def print_exact(repetitions: int) -> None:
    """Print the expected number of series inside 75 to 85 % by bands that are exact."""
    from evo_tune.training.recipe.data.times import Grid, read_times

    lengths = []
    for times, values in public_series().values():
        grid = Grid.of([read_times(pd.Series(np.asarray(times)), "time").values])
        lengths.append((len(values), grid.horizon))
    for walk in (False, True):
        true, calibrated = np.sum([exact_shares(*length, walk, repetitions) for length in lengths], 0)
        kind = "random walks" if walk else "white noise"
        print(f"{kind}: {true:.1f} of {len(lengths)} by true quantiles, {calibrated:.1f} calibrated")


def main() -> None:
    parser = argparse.ArgumentParser(description="Coverage of 80 % bands.")
    parser.add_argument("--exact", type=int, nargs="?", const=400, help="Simulations of exact bands.")
    parser.add_argument("--flops", type=float, default=1e10)
    parser.add_argument("--own", action="store_true", help="Use the series on which the calibration was tried.")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    if given.exact:
        print_exact(given.exact)
        return
    rows = []
    for name, (times, values) in (own_series() if given.own else public_series()).items():
        with tempfile.TemporaryDirectory() as folder:
            rows.append(coverage(times, values, given.flops, Path(folder)))
        print(
            f"{name:<14} calibrated {rows[-1][0]:.3f}  uncalibrated {rows[-1][1]:.3f}  width x {rows[-1][2]:.2f}",
            flush=True,
        )
    means, errors = np.mean(rows, axis=0), np.std(rows, axis=0, ddof=1) / np.sqrt(len(rows))
    shown = [f"{mean:.3f} ± {error:.3f}" for mean, error in zip(means, errors, strict=True)]
    print(f"mean of {len(rows)}: calibrated {shown[0]}, uncalibrated {shown[1]}")


if __name__ == "__main__":
    main()
