"""Results of trainings that other programs wrote: a CSV file, JSON lines, or a folder of logs.

Each training has a variant, a seed and the value of one metric. The file may be a stranger's: no link inside a folder
is followed, sizes are bounded, and nothing is executed.
"""

import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from evo_tune.errors import UsageError, explain_error
from evo_tune.genome.trial import Maximize, Minimize, Objective
from evo_tune.text import one_line
from evo_tune.trust import safe_files

# Maximum bytes of a file, and maximum number of logs and of variants.
LARGEST, MOST_LOGS, MOST_VARIANTS = 1 << 26, 20_000, 2000

# Names of columns that are noticed, the likeliest first.
VARIANT_NAMES = ("variant", "name", "method", "config", "patch", "model", "experiment", "group", "run")
SEED_NAMES = ("seed", "repeat", "replicate", "rep", "repetition")

# Endings of JSON lines, and of logs.
JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
LOG_SUFFIXES = (".log", ".txt", ".out", ".jsonl", "")

# The name of a log that no subfolder groups: the variant, and the seed.
VARIANT_AND_SEED = re.compile(r"(.+?)[-_.]?(?:seed)?[-_.=]?(\d+)", re.IGNORECASE)


def read_results(
    path: Path, variant: str, seed: str, goal: str, metrics: Sequence[str]
) -> tuple[dict[str, dict[str, float | None]], Objective, list[str]]:
    """Return the results in a CSV file, JSON lines, or a folder of logs.

    Args:
        path: The file or folder.
        variant: Column of the variant; '' where it shall be noticed.
        seed: Column of the seed; '' likewise.
        goal: The metric, as METRIC:min or METRIC:max; '' likewise.
        metrics: NAME=PATTERN for logs, as `evo-tune run --metric` takes them.

    Returns:
        Losses by variant and seed, None for a failed training (trainings without a seed share none); the metric; and
        lines for the user.

    Raises:
        UsageError: The path cannot be read, a column is missing or cannot be noticed, or a value is no number.
    """
    from evo_tune.cli.flags import read_csv_rows, read_json_rows

    remarks: list[str] = []
    if path.is_dir():
        if not goal:
            raise UsageError(f"{path} is a folder of logs: name the metric, such as --objective val_loss:min")
        rows = list(_rows_of_logs(path, Objective.parse(goal), metrics, remarks))
        variant, seed = "variant", "seed"
    else:
        rows = list((read_json_rows if path.suffix in JSON_SUFFIXES else read_csv_rows)("FILE", path))
    if not rows:
        raise UsageError(f"{path} has no results: expected a CSV file, JSON lines (.jsonl), or a folder of logs")
    names = list(dict.fromkeys(name for _, row in rows for name in row))
    variant = _column(variant, names, VARIANT_NAMES)
    seed = _column(seed, names, SEED_NAMES)
    objective = _objective(goal, [name for name in names if name not in (variant, seed)])
    needed = {"variant: say --variant COLUMN": variant, "metric: say --objective METRIC:min": objective.metric}
    for what, name in needed.items():
        if name not in names:
            raise UsageError(f"{path}: no column is the {what}; the columns are {one_line(', '.join(names), 300)}")
    losses: dict[str, dict[str, float | None]] = {}
    for place, row in rows:
        value = _number(row.get(objective.metric), f"{path}, {place}, {one_line(objective.metric, 60)}")
        of_variant = losses.setdefault(one_line(str(row.get(variant, "")), 100), {})
        key = one_line(str(row.get(seed, "")), 100) if seed else place
        if key in of_variant:
            raise UsageError(f"{path}, {place}: the variant has seed {key} twice: expected one row for each training")
        of_variant[key] = None if value is None else objective.sign * value
    if len(losses) > MOST_VARIANTS:
        raise UsageError(f"{path} has {len(losses)} variants in {variant}: expected at most {MOST_VARIANTS}")
    return losses, objective, remarks


def _rows_of_logs(
    path: Path, objective: Objective, metrics: Sequence[str], remarks: list[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a row for each log: its folder is the variant and its name the seed, or its name tells both."""
    from evo_tune.cli.flags import MOST_LINES
    from evo_tune.plugins.context import Context
    from evo_tune.plugins.scripts.script import OutputReader, parse_patterns

    patterns, problems, count = parse_patterns(metrics), [], 0
    for log in sorted(_logs(path)):
        reader, count = OutputReader(patterns, None, Context(objectives=[objective])), count + 1
        with explain_error(UsageError, f"cannot read {path / log}", "expected a log of a training"):
            text = safe_files.read(path.resolve(), *log.parts, limit=LARGEST)
        for line in text.decode(errors="replace").splitlines()[-MOST_LINES:]:  # the last values count
            reader.read_line(line)
        value = reader.metrics.get(objective.metric)
        if value is None:
            problems.append(f"{log}: {reader.missing_metric_text(objective.metric)}")
        match, folder = VARIANT_AND_SEED.fullmatch(log.stem), str(log.parent)
        variant, seed = (folder, log.stem) if log.parts[1:] else match.groups() if match else (log.stem, "")
        yield f"file {log}", {"variant": variant, "seed": seed, objective.metric: value}
    if problems and len(problems) == count:
        raise UsageError(f"no log in {path} has a value: {problems[0]}")
    if problems:
        remarks.append(
            f"{len(problems)} of {count} logs have no {objective.metric} and count as failures: {problems[0]}"
        )


def _logs(path: Path) -> Iterator[Path]:
    """Yield the paths of the logs inside a folder, relative to it."""
    count = 0
    for folder, _, names in os.walk(path):
        logs = [Path(folder, name).relative_to(path) for name in names if not name.startswith(".")]
        logs = [log for log in logs if log.suffix in LOG_SUFFIXES]
        count += len(logs)
        if count > MOST_LOGS:
            raise UsageError(f"{path} has more than {MOST_LOGS} logs: name a folder inside it")
        yield from logs


def _column(name: str, names: Sequence[str], likely: Sequence[str]) -> str:
    """Return the name of a column that was given, or is likely; '' if none is."""
    by_lower_case = {column.lower(): column for column in reversed(names)}
    return name or next((by_lower_case[word] for word in likely if word in by_lower_case), "")


def _objective(text: str, names: Sequence[str]) -> Objective:
    """Return the metric that the user names, or the only column whose name tells a direction; '' if there is none."""
    from evo_tune.plugins.scripts.script import METRIC_WORDS_BY_DIRECTION

    likely = [
        kind(name)
        for kind, words in zip((Minimize, Maximize), METRIC_WORDS_BY_DIRECTION, strict=True)
        for name in names
        if words & {*re.split(r"[^a-z0-9]+", name.lower())}
    ]
    return Objective.parse(text) if text else likely[0] if len(likely) == 1 else Minimize("")


def _number(value: Any, place: str) -> float | None:
    """Return a cell as a number; None for an empty one, and for one that is not finite: a failed training."""
    try:
        number = math.nan if value in (None, "") else float(value)
    except (TypeError, ValueError, OverflowError):
        shown = one_line(repr(value), 60)
        raise UsageError(f"{place}: {shown} is no number: expected a value, or nothing for a failure") from None
    return number if math.isfinite(number) else None
