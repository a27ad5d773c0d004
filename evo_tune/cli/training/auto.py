"""`evo-tune auto`: which task a data set is taken for, and the verdict at the end of such a run.

The search is that of `run`, and `final_training` trains the model.
"""

import contextlib
import filecmp
import math
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from evo_tune.cli import shared
from evo_tune.cli.training.final_training import read_wish
from evo_tune.errors import StoreError, UsageError, explain_error
from evo_tune.loop.search import Search
from evo_tune.report.recommendation import comparison_objective
from evo_tune.report.summary import RunResult, baseline_verdict, show_fresh_values, verdict
from evo_tune.store.run import Run
from evo_tune.store.run_folders import read_json_file
from evo_tune.text import one_line, with_plural
from evo_tune.training.recipe.data.reading import LINES, NUMBER, PACKED, PARQUET
from evo_tune.training.recipe.data.tables import TELLING
from evo_tune.training.recipe.data.texts import encoding_warnings
from evo_tune.trust import safe_files

if TYPE_CHECKING:
    import pandas as pd

    from evo_tune.training.prediction.about import TrainingFacts

IMAGES = {".bmp", ".gif", ".jpg", ".jpeg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
TABLES = {".csv", ".tsv", ".parquet", ".pq"}

# Names of columns that are taken for the target if exactly one of them is there.
TARGETS = ("target", "label", "class", "y")

# Names of columns whose equal values are often rows of one person, place or thing.
GROUP_NAME = re.compile(r"(^|[_ .-])(id|key|group|user|patient|subject|customer|person|household)$", re.IGNORECASE)

# Mean characters of a column of texts from which it is a text to read, and no category.
LONG_TEXT = 30

# File of each exported model, and the most bytes of it.
MODEL_CONFIG = "config.json"
MAX_CONFIG_BYTES = 1 << 24

# Rows that are looked at.
ROWS_READ = 1000


@dataclass(frozen=True)
class DataTask:
    """The task that a data set is taken for.

    Args:
        evaluator: Reference of the evaluator.
        options: Its options.
        why: Why, in words.
        otherwise: Flags of the command that would say otherwise.
        proposal: Proposal of another split of the rows or of covariates, in words; '' for none.
    """

    evaluator: str
    options: dict[str, str] = field(default_factory=dict)
    why: str = ""
    otherwise: str = ""
    proposal: str = ""


def recognise_task(data: str, target: str | None, header: bool = True) -> DataTask:
    """Return the task of a data set; ask on a terminal for a target that the data leaves open.

    Args:
        data: Path of the data.
        target: Column to predict, if the user gave one.
        header: Whether the first line of a CSV file has the names of its columns.

    Raises:
        UsageError: There is no such data, or no task for it; or the target is open, and standard input is no terminal.
    """
    path = Path(data).expanduser()
    if not path.is_file() and not path.is_dir():
        raise UsageError(f"DATA {data} is neither a file nor a folder (from {Path.cwd()}): give the path of your data")
    kind = Path(path.stem).suffix if path.suffix in PACKED else path.suffix
    if path.is_file() and (kind in TABLES or kind in LINES):
        return _table_task(path, data, target, kind in LINES, header)
    if target is not None:
        raise UsageError(f"--target {target}: {data} is not a table, which alone has columns: leave --target out")
    if path.is_dir():
        return _folder_task(path, data)
    if kind == ".npz":
        return DataTask("bundled:image_classification", {"data": data}, "it is a file of arrays")
    if kind in IMAGES:
        raise UsageError(f"DATA {data} is one image: expected a folder with one subfolder for each class")
    if foreign := encoding_warnings(str(path)):
        anyway = f"`evo-tune run language_model -o data={shlex.quote(data)}` trains on it as it is"
        raise UsageError(f"DATA {foreign[0]}; {anyway}")
    alternatives = "a table or labelled texts: a name that ends with .csv, .parquet or .jsonl"
    return DataTask("bundled:language_model", {"data": data}, f"it is a text file (for {alternatives})")


def _folder_task(path: Path, data: str) -> DataTask:
    files = [file for file in sorted(path.rglob("*")) if file.is_file() and file.name[0] != "."]
    if not files:
        raise UsageError(f"DATA {data} is an empty folder: expected texts, or images in one subfolder for each class")
    tables = [file for file in files if (Path(file.stem).suffix if file.suffix in PACKED else file.suffix) in TABLES]
    if 2 * len(tables) > len(files):
        remedy = f"give one of them, such as {tables[0]}, or join them into one"
        raise UsageError(
            f"DATA {data} is a folder with {with_plural(len(tables), 'table')}, expected one file: {remedy}"
        )
    images = [file for file in files if file.suffix.lower() in IMAGES]
    folders = {file.relative_to(path).parts[0] for file in files if file.parent != path}
    if 2 * len(images) <= len(files):
        words = f"it is a folder of {len(files) - len(images)} files that are not images"
        if len(folders) > 1 and all(file.parent != path for file in files):
            labelled = 'lines such as {"text": "…", "label": "SUBFOLDER"} in a file that ends with .jsonl'
            words += f"; if its {len(folders)} subfolders are classes of texts, give {labelled}"
        return DataTask("bundled:language_model", {"data": data}, words)
    classes = folders & {file.relative_to(path).parts[0] for file in images}
    if len(classes) < 2:
        raise UsageError(f"DATA {data} has images, but not in two subfolders: expected one subfolder for each class")
    words = f"it has {len(images)} images in {len(classes)} subfolders"
    return DataTask("bundled:image_classification", {"data": data}, words)


def _table_task(path: Path, data: str, target: str | None, lines: bool, header: bool) -> DataTask:
    frame = _first_rows(path, data, lines, header)
    names = list(frame.columns)
    numbers = [name for name in names if NUMBER.fullmatch(name)]
    if path.suffix == ".csv" and 3 * len(numbers) >= len(names):
        shown = one_line(", ".join(names), 60)
        remedy = "if so, give -o header=none: the columns are then column1, column2, …"
        names_text = f"looks like data, not like names of columns ({shown})"
        shared.echo(f"Warning: the first line of {data} {names_text}: {remedy}", err=True)
    targets = [target] if target in names else (target or "").split(",")
    if not lines and {*targets} <= {*names, ""} and (series := _series_task(frame, data, target)) is not None:
        return series
    if target is None:
        named = [name for name in names if name.lower() in TARGETS]
        target = named[0] if len(named) == 1 else _ask_target(data, names)
    if target not in names:
        several = (
            "a table has one target: repeat the command for each; " if {*targets} <= {*names} else "no such column; "
        )
        raise UsageError(f"--target {target}: {several}{data} has {one_line(', '.join(names))}")
    texts = []
    for name in names:
        lengths = [len(value) for value in frame[name].tolist() if isinstance(value, str)]
        if name != target and lengths and sum(lengths) / len(lengths) >= LONG_TEXT:
            texts.append(name)
    if texts and (lines or len(names) == 2):
        words = f"the column {one_line(texts[0], 60)!r} has texts, and {one_line(target, 60)!r} their labels"
        options = {"data": data, "text": texts[0], "label": target}
        return DataTask(
            "bundled:text_classification", options, words, "" if lines else f"--evaluator tabular --target {target}"
        )
    why = f"it is a table, and {one_line(target, 60)!r} its target"
    otherwise = f"--evaluator text_classification -o text={texts[0]} -o label={target}" if texts else ""
    return DataTask("bundled:tabular", {"data": data, "target": target}, why, otherwise, _propose_split(frame, target))


def _propose_split(frame: "pd.DataFrame", target: str) -> str:
    """Return in words the split by time or by group that the columns of a table suggest; '' for none."""
    from evo_tune.training.recipe.data.kinds import classify_column

    for name in frame.columns:
        if name == target or frame[name].isna().any():
            continue
        shown, flag = repr(one_line(name, 60)), f"-o split_by={shlex.quote(name)}"
        if classify_column(frame[name], as_category=False).kind == "date":
            columns = frame.select_dtypes(["number", "bool"]).columns.drop(target, "ignore")
            numbers = shlex.quote(one_line(",".join(columns), 60)) if len(columns) else ""
            series = f"; to forecast a series: -o known={numbers} if known ahead, otherwise -o past={numbers}"
            later = f"if later rows are to be predicted, give {flag}{series if numbers else ''}"
            return f"rows are drawn for each part; {shown} has dates: {later}"
        values = frame[name].nunique()
        if GROUP_NAME.search(name) and 5 <= values <= len(frame) / 2:
            new = f"{shown} has {values} values in {len(frame)} rows: if new ones are to be predicted, give {flag}"
            return f"rows are drawn for each part; {new}"
    return ""


def _ask_target(data: str, names: list[str]) -> str:
    question = f"{data} has {len(names)} columns: which one is to be predicted?"
    if shared.ask_function() is None:
        raise UsageError(f"{question} give --target NAME: one of {one_line(', '.join(names))}")
    shared.echo(question, err=True)
    return str(click.prompt("column", type=click.Choice(names), err=True))


def _series_task(frame: "pd.DataFrame", data: str, target: str | None) -> DataTask | None:
    """Return the task of a table that has time series and nothing else; None for another table.

    It has one column of regular times, perhaps one column of texts that tells the series apart, and numbers.
    """
    from pandas.api import types

    from evo_tune.training.recipe.data.series import find_series

    for key in ("", *(name for name in frame.columns if not types.is_numeric_dtype(frame[name]))):
        with contextlib.suppress(UsageError):  # it has no series with this key
            series_format = find_series(frame, key=key, target=target or "").format
            has_more = len(series_format.columns) < len(frame.columns)
            if has_more and "," not in (target or ""):
                continue  # other columns may help to predict
            options = {"data": data, "time": series_format.time, "key": key, "target": target or ""}
            column, grid = one_line(series_format.time, 60), series_format.grid.name
            times = f"irregular times, averaged to {grid} ones" if series_format.averaged else f"{grid} times"
            subject = one_line(target or "", 60) if has_more else "the others"
            why = f"its column {column!r} has {times}, and {subject} are series"
            first, *others = (one_line(name, 60) for name in series_format.targets)
            first, covariates = shlex.quote(first), shlex.quote(one_line(",".join(others), 60))
            flags = f"--target {first} -o known={covariates} if they are known ahead, otherwise -o past={covariates}"
            proposal = f"each column is forecast from its own past; with the others as covariates: {flags}"
            named = {name: text for name, text in options.items() if text}
            otherwise = f"--evaluator tabular --target {first}"
            return DataTask("bundled:forecasting", named, why, otherwise, proposal if others else "")
    return None


def _first_rows(path: Path, data: str, lines: bool, header: bool) -> "pd.DataFrame":
    """Return the first rows of a table, or of a file of JSON lines."""
    import pandas as pd

    from evo_tune.training.recipe.data.reading import TableProblem, csv_parts, open_packed, parquet_parts

    frame: pd.DataFrame
    try:
        if lines:
            with open_packed(path) as file:
                frame = pd.read_json(file, lines=True, nrows=ROWS_READ)
        else:
            packed = path.suffix in PARQUET
            parts = parquet_parts(path, ROWS_READ) if packed else csv_parts(path, ROWS_READ, header)
            frame = next(iter(parts), pd.DataFrame())
    except Exception as error:  # pandas and pyarrow raise many types
        reason = one_line(str(error) or type(error).__name__, 300)
        kind, remedy = "a table", ": give a CSV file in UTF-8, or a Parquet file"
        if lines:
            kind, remedy = "JSON lines", ": give a file with one JSON object on each line"
        remedy = "" if isinstance(error, TableProblem) else remedy
        raise UsageError(f"DATA {data}: cannot read it as {kind} ({reason}){remedy}") from None
    if not len(frame):
        raise UsageError(f"DATA {data} has no rows: expected a line of column names and at least one row")
    frame.columns = frame.columns.map(str)
    return frame


def choose_task(data: str, target: str | None, evaluator: str | None, options: dict[str, str]) -> DataTask:
    """Return the task of the evaluator that the user gave, or else that of the data (see `recognise_task`).

    Args:
        data: Path of the data.
        target: Column to predict, if the user gave one.
        evaluator: Name of the evaluator, if the user gave one.
        options: Options that the user gave.
    """
    why = "by --evaluator"
    if evaluator is None and options.keys() & {"known", "past"}:
        evaluator, why = "bundled:forecasting", "covariates of a series are named"
    if evaluator is not None:
        target_option = {} if target is None else {"target": target}
        return DataTask(evaluator, {"data": data, **target_option, **options}, why)
    task = recognise_task(data, target, options.get("header") != "none")
    return replace(task, options={**task.options, **options})


def check_model_folder(target: Path, model: Path, overwrite: bool) -> bool:
    """Return whether the folder that the user gave has the run's model already; check that it may be written otherwise.

    Args:
        target: The folder of `--out`.
        model: Folder of the run's model, if there is one.
        overwrite: Whether another model may be replaced.

    Raises:
        UsageError: There is something else at this place, or another model.
    """
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return False
    if target.is_dir() and (target / MODEL_CONFIG).is_file():
        with contextlib.suppress(OSError):
            if filecmp.cmp(target / MODEL_CONFIG, model / MODEL_CONFIG, shallow=False):
                return True
        if overwrite:
            return False
        raise UsageError(f"--out {target} has a model already: choose another folder, or replace it by --overwrite")
    raise UsageError(f"--out {target} exists and is neither an empty folder nor a model: choose another")


def copy_model(model: Path, target: Path) -> None:
    """Copy a model to the folder that the user gave; after a kill there is all of it or nothing.

    The folder is new, empty, or a model to replace (see `check_model_folder`).

    Raises:
        StoreError: The disk refuses.
    """
    with explain_error(StoreError, f"cannot write {target}", f"the model is in {model}"):
        target.parent.mkdir(parents=True, exist_ok=True)
        place = Path(os.path.realpath(target))
        with (
            tempfile.TemporaryDirectory(dir=place.parent, prefix=".") as aside,
            safe_files.complete_or_absent(place) as part,
        ):
            shutil.copytree(model, part, symlinks=True)
            if place.is_dir():
                os.replace(place, Path(aside, "old"))


def read_facts(model: Path) -> "TrainingFacts":
    """Return what the folder of a model says of its training; nothing if it is another evaluator's."""
    from evo_tune.training.prediction.about import TrainingFacts

    return read_json_file(model, MODEL_CONFIG, TrainingFacts, MAX_CONFIG_BYTES) or TrainingFacts()


def verdict_lines(search: Search, model: Path, seconds: float) -> list[str]:
    """Return the verdict of a run of `auto`, in lines.

    Args:
        search: The run, at its end.
        model: Folder of the model.
        seconds: Duration of all.
    """
    from evo_tune.training.prediction.ensemble import Ensemble

    run, result, wish, value = search.saved, RunResult(search.saved), read_wish(search.saved), ""
    trial = f"trial {result.best.id} of run {run.name}" if result.best else f"the default genome, in run {run.name}"
    if result.fresh_best is not None:
        value = f", {result.reported_metric} {show_fresh_values(result.fresh_best)} over fresh seeds"
    if longer := wish is not None and wish.seconds is not None:
        value = f", trained for {shared.show_seconds(wish.seconds)}"  # no value of the final comparison is the model's
    if (ensemble := read_json_file(model, MODEL_CONFIG, Ensemble, MAX_CONFIG_BYTES)) is not None:
        trial, value = ensemble.verdict, ""
    test_data = "the test set" if run.manifest.tests and value else "held-out data"
    data = one_line(str(run.manifest.options.get("data") or "the default data"), 200)
    facts = read_facts(model)
    metrics = facts.metrics
    lines = [f"use {_recommend(run, result, metrics, model, longer)}: {trial}{value}"]
    lines.append(verdict(result))
    if result.baseline is not None and not longer:
        lines.append(baseline_verdict(result.baseline))
    if names := [name for name in run.manifest.tests.values() if name in metrics]:
        baseline_name, outcome = run.baseline or ("", None)
        baseline = {} if outcome is None else {name: outcome.metrics.get(name) for name in names}
        values = [
            f"{name} {shared.show_value(metrics[name])}"
            + ("" if baseline.get(name) is None else f" ({shared.show_value(baseline[name])})")
            for name in names
        ]
        brackets = "" if all(baseline.get(name) is None for name in names) else f", in brackets {baseline_name}"
        before = ", before its last fit, which had the test set too" if facts.has_learned_test else ""
        lines.append(f"the model on the test set{before}{brackets}: {', '.join(values)}")
    if "last_fit" in facts.rows and not facts.has_learned_test:
        lines.append("it has not learned the test set; -o refit=all fits it to these rows too, after the scores")
    lines += [line for line in search.evaluator.describe() if line.startswith(TELLING)]
    return [*lines, f"measured on {test_data} of {data}; all took {shared.show_seconds(seconds)}"]


def _recommend(run: Run, result: RunResult, metrics: Mapping[str, float | None], model: Path, longer: bool) -> str:
    """Return what to use: the model, or the baseline where the model is not better.

    They are compared over the fresh seeds of the final comparison, or else by the model's own value on the test set. A
    model whose own value is worse than the baseline's is not recommended either: its training was an unlucky one.

    Args:
        run: The run.
        result: Its result.
        metrics: Metrics of the model.
        model: Folder of the model.
        longer: Whether the model was trained longer than the trials of the final comparison.
    """
    if run.baseline is None or result.baseline is None or result.baseline.value is None:
        return str(model)
    goal, baseline = comparison_objective(run), result.baseline
    gain, beaten = math.nan if baseline.gain is None else baseline.gain, baseline.beaten
    value, baseline_value = metrics.get(goal.metric), run.baseline[1].metrics.get(goal.metric)
    model_gain = math.nan if value is None or baseline_value is None else goal.sign * (baseline_value - value)
    by_model_alone = longer or baseline.error is None or (model_gain < 0.0 and not gain <= 0.0)
    if by_model_alone and not math.isnan(model_gain):
        gain, beaten = model_gain, None
    if beaten is True or not gain <= 0.0:
        return str(model)
    simple = "" if by_model_alone or beaten is False else ", which is simpler and not worse,"
    saved = f"(no command saves {baseline.name}: train it yourself, or a model for longer)"
    return f"{baseline.name}{simple} rather than {model} {saved}"
