"""Values, durations, genomes and the verdict as text for people. Imported by the help, so it imports nothing slow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evo_tune.text import printable

if TYPE_CHECKING:
    from evo_tune.report.baseline import Baseline
    from evo_tune.report.final_comparison import ComparisonState
    from evo_tune.report.recommendation import FreshValues
    from evo_tune.report.summary import Closing

BARS = "▁▂▃▄▅▆▇█"


def show_value(value: object) -> str:
    """Return a value as text; numbers have five significant digits."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:.5g}" if isinstance(value, float) else printable(str(value))


def fixed(value: float) -> str:
    """Return a number with five decimals, so that its width stays the same; a huge one with six significant digits."""
    return f"{value:.5f}" if abs(value) < 1e9 else f"{value:.6g}"


def sparkline(values: Sequence[float], width: int = 30) -> str:
    """Return numbers as a row of bars between their lowest and highest; '' if none is finite.

    Args:
        values: Values in order; those that are not finite are left out.
        width: Most bars; of more values, each bar shows the last one of its share.
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


def spread(row: FreshValues | None) -> str:
    """Return values over fresh seeds as mean, standard error and number of seeds."""
    if row is None:
        return "-"
    if not row.values:
        return f"all {row.failures} failed"
    failed = f" ({row.failures} failed)" if row.failures else ""
    error = f" ± {fixed(row.error)}" if len(row.values) > 1 else ""
    return f"{fixed(row.mean)}{error} (n={len(row.values)}){failed}"


def verdict(end: Closing) -> str:
    """Return in one line whether the best beats the default, and how the comparison was made to fit into the hours."""
    said, fitted = _verdict(end), end.fitted
    if fitted is None:
        return said
    if not fitted.finalists:
        least = "2 seeds of the best and of the default"
        return f"{said}; no final comparison: {least} did not fit into {fitted.hours:g} hours"
    parts = [f"{fitted.finalists} of {fitted.of_finalists} finalists"] * (fitted.finalists < fitted.of_finalists)
    parts += [f"{fitted.seeds} of at most {fitted.of_seeds} seeds"] * (fitted.seeds < fitted.of_seeds)
    return f"{said}; to fit into {fitted.hours:g} hours, the final comparison had {' and '.join(parts)}"


def _verdict(end: Closing) -> str:
    final = end.comparison
    if not end.results:
        return "no evaluation finished"
    if end.best is None and end.partial:
        return f"{end.partial} partial trainings gave a value, no full one has finished: `evo-tune resume` continues"
    if end.best is None:
        return "no trial has a value"
    if end.default is None:
        another = "give another one in a new run, such as --gene 'NAME=LOW|HIGH @ DEFAULT'"
        return f"the default genome has no value, so the best cannot be compared with it: {another}"
    if final is None and end.best.id == end.default.id:
        return "nothing beat the default genome"
    if final is None:
        return f"difference: {fixed(end.gain)} on one seed each: it may be luck"
    if not final.over:
        return "the final comparison is not complete: `evo-tune resume` continues it; the best is that of the search"
    if final.chosen is None:
        return "every finalist failed on its fresh seeds: the best is that of the search"
    if not final.pairs:
        return f"on all {final.seeds} fresh seeds the best or the default failed: they cannot be compared"
    if end.best.id == final.chosen:
        return _difference(end, final)
    if final.gain <= 0.0:
        error = "" if math.isnan(final.error) else f" ± {fixed(final.error)}"
        where = "on fresh seeds and the test set" if end.tested else "on fresh seeds"
        worse = f"{fixed(-final.gain)}{error} worse" if final.gain else "exactly as good"
        worse = f"trial {final.chosen}, the finalist, is {worse}"
        return f"nothing beat the default genome: {where} {worse}"
    return f"trial {final.chosen}, the best finalist, failed on fresh seeds where the default did not: use the default"


def _difference(end: Closing, final: ComparisonState) -> str:
    """Return the gain of the chosen finalist with its error."""
    said = f"the best {'beats' if final.beats else 'does not clearly beat'} the default"
    if math.isnan(final.error):
        return f"difference: {fixed(final.gain)} on one fresh seed: {said}"
    errors = f"{final.gain / final.error:.1f} standard errors" if final.error else "no spread between seeds"
    how = f"{errors}, paired over {final.pairs} fresh seeds" + (", on the test set" if end.tested else "")
    return f"difference: {fixed(final.gain)} ± {fixed(final.error)}: {said} ({how})"


def against_baseline(found: Baseline) -> str:
    """Return in one line, without a full stop, whether the best beats the baseline."""
    name = found.name
    if found.value is None:
        return f"{name} has no value to compare with: {found.problem}"
    if found.best is None:
        return f"{name}: {found.metric} {fixed(found.value)}"
    pair = f"{found.metric} {fixed(found.best)} against {fixed(found.value)}"
    if math.isnan(found.error):
        better = "better" if found.gain > 0.0 else "not better"
        return f"the best trial is {better} than {name} on one seed: {pair}, on the data that chose the best"
    size = f"by {fixed(abs(found.gain))} ± {fixed(found.error)}"
    if found.beaten is None:
        return f"the best trial does not clearly beat {name}: {pair}, a difference of {fixed(found.gain)} ± " + fixed(
            found.error
        )
    if found.beaten:
        return f"the best trial beats {name} {size}: {pair}"
    return f"{name} beats the best trial {size}: {pair}; use {name}, or train longer"
