"""A forecast in words and as data: one line for a run that goes on, rows for a plan, plain data for programs."""

from __future__ import annotations

from typing import Any

from evo_tune.forecast.ahead import Ahead
from evo_tune.report.words import show_seconds

__all__ = ["as_data", "as_line", "as_rows", "show_bytes"]


def show_bytes(count: float) -> str:
    """Return a number of bytes in the unit that suits it."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _cost(ahead: Ahead, price: float | None) -> list[float]:
    return [] if price is None else [price * seconds / 3600 for seconds in ahead.seconds]


def as_line(ahead: Ahead, price: float | None = None) -> str:
    """Return a forecast in one line.

    Args:
        ahead: It.
        price: Of an hour of the machine, in any currency; None tells no cost.
    """
    low, expected, high = map(show_seconds, ahead.seconds)
    race = _race(ahead)
    parts = [f"forecast: about {expected} ({low} to {high})", f"{ahead.genomes} genomes" + (race and f", {race}")]
    parts += [text for name, text in as_rows(ahead, price).items() if name in ("memory", "disk", "cost")]
    return "; ".join(parts)


def _race(ahead: Ahead) -> str:
    fewest, most = ahead.calibration
    return f"{fewest} to {most} trainings of the calibration" if most else ""


def as_rows(ahead: Ahead, price: float | None = None) -> dict[str, str]:
    """Return a forecast as rows of a plan; see `as_line`."""
    low, expected, high = map(show_seconds, ahead.seconds)
    rows = {
        "genomes": f"{ahead.genomes}, the cost of {ahead.trainings:.0f} full trainings of {show_seconds(ahead.each)}",
        "calibration": _race(ahead) or "none",
        "time": f"about {expected} ({low} to {high}), with {ahead.slots} at once",
    }
    if ahead.memory:
        rows["memory"] = f"{ahead.slots} x {show_bytes(ahead.memory)} of memory" + (" of a GPU" if ahead.on_gpu else "")
    rows["disk"] = f"{show_bytes(ahead.disk)} on disk"
    if price is not None:
        low, expected, high = (f"{cost:.2f}" for cost in _cost(ahead, price))
        rows["cost"] = f"{expected} at {price:g} an hour ({low} to {high})"
    return rows


def as_data(ahead: Ahead, price: float | None = None) -> dict[str, Any]:
    """Return a forecast as plain data: seconds, bytes, and the cost in the price's currency; see `as_line`."""
    bounds = ("low", "expected", "high")
    return {
        "genomes": ahead.genomes,
        "full_trainings": ahead.trainings,
        "seconds_of_each": ahead.each,
        "calibration": {"fewest": ahead.calibration[0], "most": ahead.calibration[1]},
        "slots": ahead.slots,
        "seconds": dict(zip(bounds, ahead.seconds, strict=True)),
        "memory_of_each": ahead.memory or None,
        "disk": ahead.disk,
        "cost": None if price is None else dict(zip(bounds, _cost(ahead, price), strict=True)),
    }
