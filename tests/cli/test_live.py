"""The live table of a terminal: the best, the last results, and the work of each slot."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from msgspec import structs
from rich.console import Console

from evo_tune import Outcome
from evo_tune.cli import output
from evo_tune.cli.output import Progress, progress_table
from evo_tune.forecast import Bounds
from evo_tune.forecast.timing import Pace
from evo_tune.loop import slots
from evo_tune.loop.driving import Working
from evo_tune.loop.search import Search
from evo_tune.loop.slots import forecast_session


def shown(search: Search) -> str:
    console = Console(file=io.StringIO(), width=160, record=True)
    console.print(progress_table(Progress(search)))
    return console.export_text()


def test_the_table_shows_what_came_and_what_is_in_flight(begin: Callable[..., Search]) -> None:
    search = begin(trials=12, strategy="random")
    for value in (5.0, 3.0, 4.0, None, 1.0):
        candidate = search.ask()
        assert candidate is not None
        result = Outcome("failed", error="no luck") if value is None else {"loss": value, "cost": 1.0}
        search.tell(candidate, result)
    search.drivers.slots = [SimpleNamespace(name="slot 0", device="cpu")]  # type: ignore[list-item]
    search.drivers.working = {"slot 0": Working("trial 5", time.monotonic())}
    text = shown(search)
    assert "best loss 1.00000 (trial 4)" in text
    assert "last results   4: 1   3: failed   2: 4   1: 3   0: 5" in text
    assert "slot 0  cpu  trial 5  0 s" in text
    candidate = search.ask()
    assert candidate is not None
    search.tell(candidate, {"loss": 0.5, "cost": 1.0})
    assert "last results   5: 0.5   4: 1" in shown(search), "what came since the last look is added"
    search.drivers.slots = []


def test_lines_repeat_a_forecast_only_if_the_end_leaves_its_interval(
    begin: Callable[..., Search], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    search = begin(trials=12, strategy="random")
    known = forecast_session(search.saved.manifest, search.session, 1, Pace((10.0,)))
    assert known is not None
    monkeypatch.setattr(output, "FORECAST_EVERY", 0.0)
    with output.show_progress(False, search.saved) as look:
        for low, expected, high in [(80, 100, 130), (95, 120, 150), (60, 85, 100), (110, 150, 200), (110, 151, 200)]:
            bounds = Bounds(low=low, expected=expected, high=high)
            found = structs.replace(known, seconds=bounds)
            monkeypatch.setattr(slots, "forecast_session", lambda *_, found=found: found)
            search.pace = Pace((float(expected),))  # a new one updates the forecast at once
            look(search)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("forecast")]
    assert [line.split(" (")[0] for line in lines] == ["forecast: about 1 min 40 s", "forecast: about 2 min 30 s"]


def test_time_passes_between_two_forecasts(
    begin: Callable[..., Search], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    search, clock = begin(trials=12, strategy="random"), SimpleNamespace(now=0.0)
    known = forecast_session(search.saved.manifest, search.session, 1, Pace((10.0,)))
    assert known is not None
    found = structs.replace(known, seconds=Bounds(low=8.0, expected=10.0, high=12.0), genomes=1)
    monkeypatch.setattr(slots, "forecast_session", lambda *_: found)
    monkeypatch.setattr(output, "FORECAST_EVERY", 1e9)
    monkeypatch.setattr(output.time, "monotonic", lambda: clock.now)
    with output.show_progress(False, search.saved) as look:
        for clock.now in (0.0, 9.0, 18.0):
            look(search)
    printed = capsys.readouterr().out
    assert (printed.count("forecast"), "; 1 genome; " in printed) == (1, True), printed
    assert Progress(search).seconds_left == 10.0
