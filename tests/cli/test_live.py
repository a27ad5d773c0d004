"""The lines of progress: the forecast, and when it is repeated."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
from msgspec import structs

from evo_tune.cli import output
from evo_tune.forecast import Bounds, forecast_run
from evo_tune.forecast.clock import Clock
from evo_tune.forecast.timing import Pace
from evo_tune.loop.search import Search


def test_lines_repeat_a_forecast_only_if_the_end_leaves_its_interval(
    begin: Callable[..., Search], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    search = begin(trials=12, strategy="random")
    known = forecast_run(search.saved.manifest, search.session, 1, Clock(pace=Pace((10.0,))))
    assert known is not None
    monkeypatch.setattr(output, "FORECAST_EVERY", 0.0)
    look = output.ProgressLines(search.saved).print_new
    for low, expected, high in [(80, 100, 130), (95, 120, 150), (60, 85, 100), (110, 150, 200), (110, 151, 200)]:
        bounds = Bounds(low=low, expected=expected, high=high)
        found = structs.replace(known, seconds=bounds)
        monkeypatch.setattr(output, "forecast_run", lambda *_, found=found: found)
        search.clock.pace = Pace((float(expected),))  # a new one updates the forecast at once
        look(search)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("forecast")]
    assert [line.split(" (")[0] for line in lines] == ["forecast: about 1 min 40 s", "forecast: about 2 min 30 s"]


def test_time_passes_between_two_forecasts(
    begin: Callable[..., Search], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    search, clock = begin(trials=12, strategy="random"), SimpleNamespace(now=0.0)
    known = forecast_run(search.saved.manifest, search.session, 1, Clock(pace=Pace((10.0,))))
    assert known is not None
    found = structs.replace(known, seconds=Bounds(low=8.0, expected=10.0, high=12.0), genomes=1)
    monkeypatch.setattr(output, "forecast_run", lambda *_: found)
    monkeypatch.setattr(output, "FORECAST_EVERY", 1e9)
    monkeypatch.setattr(output.time, "monotonic", lambda: clock.now)
    look = output.ProgressLines(search.saved).print_new
    for clock.now in (0.0, 9.0, 18.0):
        look(search)
    printed = capsys.readouterr().out
    assert (printed.count("forecast"), "; 1 genome; " in printed) == (1, True), printed
