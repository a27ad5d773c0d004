"""What a run says, in words: values, durations and genomes as people read them, and the verdict in a line.

Imported by the command line's help, so it imports nothing that is heavy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evo_tune.text import printable

if TYPE_CHECKING:
    from evo_tune.report.calibration import Calibrated
    from evo_tune.report.racing import Standing
    from evo_tune.report.summary import Closing

__all__ = ["fixed", "show_genome", "show_seconds", "show_value", "sparkline", "spread", "verdict"]

BARS = "▁▂▃▄▅▆▇█"


def show_value(value: object) -> str:
    """Return a value as people read it: numbers with five significant digits."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, float):
        return f"{value:.5g}"
    return printable(str(value))


def fixed(value: float) -> str:
    """Return a value with five places, so that one that moves keeps its width; a huge one by its six first digits."""
    return f"{value:.5f}" if abs(value) < 1e9 else f"{value:.6g}"


def sparkline(values: Sequence[float], width: int = 30) -> str:
    """Return numbers as a row of bars, the lowest and the highest of them at its ends; '' for none that are finite.

    Args:
        values: In order; those that are not finite are left out.
        width: Most bars; of more values each bar shows the last of its share.
    """
    kept = [value for value in values if math.isfinite(value)]
    if len(kept) > width:
        kept = [kept[round((place + 1) * len(kept) / width) - 1] for place in range(width)]
    low, high = min(kept, default=0.0), max(kept, default=0.0)
    if not high - low < math.inf:
        return ""
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((value - low) * scale)] for value in kept)


def show_genome(genome: Mapping[str, Any]) -> str:
    """Return a genome in one line."""
    return " ".join(f"{name}={show_value(value)}" for name, value in genome.items())


def show_seconds(seconds: float) -> str:
    """Return a duration: 8 s, 2 min 05 s, 3 h 10 min."""
    if not math.isfinite(seconds):
        return "-"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def spread(row: Calibrated | None) -> str:
    """Return a value over fresh seeds in words: mean, standard error and number of seeds."""
    if row is None:
        return "-"
    if not row.values:
        return f"all {row.failures} failed"
    failed = f" ({row.failures} failed)" if row.failures else ""
    error = f" ± {fixed(row.error)}" if len(row.values) > 1 else ""
    return f"{fixed(row.mean)}{error} (n={len(row.values)}){failed}"


def verdict(end: Closing) -> str:
    """Return in one line whether the best beats the default."""
    if not end.evaluations:
        return "no evaluation was finished"
    if end.best is None and end.partial:
        return f"{end.partial} evaluations gave a value, and none is trained in full yet: go on with `evo-tune resume`"
    if end.best is None:
        return "no evaluation gave a value: see the errors with `evo-tune show`"
    if end.default is None:
        return "the default genome gave no value, so there is nothing to compare with"
    if end.race is not None:
        return _outcome(end.race, end.best.id, end)
    if end.best.id == end.default.id:
        return "nothing beat the default genome"
    if end.beaten is None:
        return f"difference: {fixed(end.gain)} on one seed each: it may be luck"
    return _difference(end)


def _outcome(race: Standing, best: int, end: Closing) -> str:
    """Return what a race said."""
    if not race.over:
        return "the calibration is not at its end, so the best is known by the search alone: `evo-tune resume` goes on"
    if race.chosen is None:
        return "every finalist failed on its fresh seeds: the best is known by the search alone"
    if not race.pairs:
        return f"on {race.seeds} fresh seeds the best or the default failed each time: nothing can be compared"
    if best == race.chosen:
        return _difference(end)
    if race.gain < 0.0:
        worse = f"{fixed(-race.gain)}" + ("" if math.isnan(race.error) else f" ± {fixed(race.error)}")
        where = "on fresh seeds and the test set" if end.tested else "on fresh seeds"
        return f"nothing beat the default genome: {where} trial {race.chosen}, the finalist, is {worse} worse"
    return f"trial {race.chosen}, the best finalist, failed on fresh seeds where the default did not: take the default"


def _difference(end: Closing) -> str:
    word = "beats" if end.beaten else "does not clearly beat"
    if math.isnan(end.gain_error):
        return f"difference: {fixed(end.gain)} on one fresh seed: the best {word} the default"
    errors = f"{end.gain / end.gain_error:.1f} standard errors" if end.gain_error else "no spread between seeds"
    paired = f", paired over {end.race.pairs} fresh seeds" if end.race else ""
    paired += ", on the test set" if end.race and end.tested else ""
    return f"difference: {fixed(end.gain)} ± {fixed(end.gain_error)}: the best {word} the default ({errors}{paired})"
