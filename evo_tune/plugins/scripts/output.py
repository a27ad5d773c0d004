"""What a script prints, as metrics and as a learning curve: JSON objects, or what patterns find.

Of each metric the last value counts; each line with an objective is a point of the curve. Knows no processes.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from evo_tune.errors import OptionError
from evo_tune.plugins.context import Context
from evo_tune.text import one_line

__all__ = ["Place", "Reading", "parse_patterns", "parse_progress"]

NUMBER = r"[-+]?(?:\d[\d_]*\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|(?:nan|inf(?:inity)?)\b)"
"""A number as scripts print it, nan too: else a training that diverged would count as it was before."""

MOST_METRICS, MOST_POINTS = 500, 1000
"""Metrics of a script, and points of its curve, that are kept."""

Patterns = Mapping[str, re.Pattern[str]]


def parse_patterns(texts: Iterable[str]) -> dict[str, re.Pattern[str]]:
    """Read NAME=PATTERN: a regular expression whose group is the number, or the text before it; or NAME alone.

    Raises:
        OptionError: One is no regular expression, has several groups, no name, or comes twice.
    """
    found: dict[str, re.Pattern[str]] = {}
    for text in texts:
        name, equals, pattern = text.partition("=")
        shown = one_line(text, 100)
        if not name.strip() or (equals and not pattern):
            raise OptionError(f"--metric {shown}: expected NAME, or NAME=PATTERN such as 'val_loss=val loss ([0-9.]+)'")
        name = name.strip()
        if name in found:
            raise OptionError(f"--metric {shown}: {name} is given twice: give it once, with A|B in its pattern")
        try:
            read = re.compile(pattern if equals else rf"(?<!\w){re.escape(name)}(?!\w)")
            if not read.groups:
                read = re.compile(rf"(?:{read.pattern})[^\w.+-]*({NUMBER})", re.IGNORECASE)
        except (re.error, RecursionError, OverflowError) as error:
            raise OptionError(f"--metric {shown}: {error}; expected a regular expression of Python") from None
        if read.groups != 1:
            raise OptionError(f"--metric {shown}: it has {read.groups} groups: expected one, around the number")
        found[name] = read
    return found


@dataclass(frozen=True)
class Place:
    """How the place of a point on the curve is known: a metric that is the share, or a metric of so many, or a count.

    Args:
        metric: Name of a metric; '' where the points are counted.
        total: What it is at the end of a full training: a number, or the name of a metric.
    """

    metric: str
    total: float | str


def parse_progress(text: str) -> Place | None:
    """Read 20 (points of a full training), step/2000, step/max_steps, or fraction (a metric that is the share); or ''.

    Raises:
        OptionError: It is none of these.
    """
    if not text:
        return None
    metric, slash, total = (part.strip() for part in text.partition("/"))
    number = total if slash else metric
    try:
        most = float(number)
        if not 0 < most < math.inf or not (metric if slash else most >= 1):
            raise OptionError(_not_progress(text))
        return Place(metric if slash else "", most)
    except ValueError:
        if not metric or (slash and not total):
            raise OptionError(_not_progress(text)) from None
        return Place(metric, total if slash else 1.0)


def _not_progress(text: str) -> str:
    return (
        f"--progress {one_line(text, 60)}: expected how many points a full training prints (20), a metric and what it "
        "is at the end (step/2000, step/max_steps), or a metric that is the share done (fraction)"
    )


class Reading:
    """Reads a script's lines as they come, and reports the curve.

    Args:
        patterns: What finds each metric in a line; none: lines that are JSON objects are read.
        place: How the place of a point is known. None: it is not until the end; the points are then spread evenly.
        context: Whose curve it is.
    """

    def __init__(self, patterns: Patterns, place: Place | None, context: Context) -> None:
        self.metrics: dict[str, float] = {}
        self._patterns = patterns
        self._place = place
        self._context = context
        self._goals = {objective.metric for objective in context.objectives}
        self._since: dict[str, float] = {}
        self._kept: list[dict[str, float]] = []
        self._every, self._count, self._last = 1, 0, 0.0

    def take(self, line: str) -> None:
        """Read a line.

        Raises:
            Pruned: The curve is beyond a bound.
        """
        found = self._by_patterns(line) if self._patterns else _json(line)
        if not found:
            return
        room = MOST_METRICS - len(self.metrics)
        new = [name for name in found if name not in self.metrics][: max(0, room)]
        found = {name: value for name, value in found.items() if name in self.metrics or name in new}
        self.metrics |= found
        self._since |= found
        if self._goals & found.keys():
            self._count += 1
            point, self._since = self._since, {}
            if self._place is None:
                self._keep(point)
            else:
                self._report(self._share(self._place), point)

    def end(self) -> None:
        """The script has ended well: report what waited for its place."""
        for number, point in enumerate(self._kept, 1):
            self._report(self._context.budget * min(1.0, number * self._every / self._count), point)

    def _by_patterns(self, line: str) -> dict[str, float]:
        found = {}
        for name, pattern in self._patterns.items():
            for match in pattern.finditer(line):
                try:
                    found[name] = float(match[1])
                except (TypeError, ValueError):  # the group took no part, or found no number: 1.2.3
                    continue
        return found

    def _share(self, place: Place) -> float:
        at = self.metrics.get(place.metric, 0.0) if place.metric else float(self._count)
        total = self.metrics.get(place.total, math.inf) if isinstance(place.total, str) else place.total
        return at / total if total else 0.0

    def _keep(self, point: dict[str, float]) -> None:
        if self._count % self._every == 0:
            self._kept.append(point)
        if len(self._kept) > MOST_POINTS:
            self._kept, self._every = self._kept[1::2], 2 * self._every

    def _report(self, share: float, point: dict[str, float]) -> None:
        share = min(1.0, share)
        if share > self._last + 1 / MOST_POINTS or (share > self._last and share >= self._context.budget):
            self._last = share
            self._context.report_all(share, point)


def _json(line: str) -> dict[str, float]:
    """Return the numbers of a line that is a JSON object, by name; nothing if it is none."""
    line = line.strip()
    if not (line.startswith("{") and line.endswith("}")):
        return {}
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    found = {}
    for name, value in data.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            try:
                found[name] = float(value)
            except OverflowError:
                found[name] = math.inf if value > 0 else -math.inf
    return found
