"""`evo-tune schedule`: print a learning-rate schedule, without torch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from evo_tune.cli import _shared as shared
from evo_tune.cli.help import command as made
from evo_tune.errors import RecipeError, UsageError

PLACE = 130

WIDTH, HEIGHT = 60, 10
"""Width and height of the chart in characters."""

MOST = 10**6
"""Most steps of a schedule to print."""

LANDMARKS = 12
"""Most steps to list below the chart."""


def _names() -> str:
    from evo_tune.training.recipe.optim.schedule import SCHEDULES

    return f"NAME is one of {', '.join(SCHEDULES)}."


@made("schedule", "evo-tune schedule sgdr --steps 1000", more=_names)
@click.argument("name", shell_complete=shared.complete_schedules)
@click.option("--steps", type=int, required=True, help="Steps of the full training.")
@click.option("--lr", type=float, default=3e-4, show_default=True, help="Peak learning rate.")
@click.option("--warmup-fraction", type=float, help="Share of the steps for linear warm-up.  [default: 0.05]")
@click.option("--min-lr-ratio", type=float, help="Final learning rate as a share of the peak.  [default: 0.1]")
@click.option("--decay-fraction", type=float, help="wsd: share of the steps that decay.  [default: 0.4]")
@click.option("--decay-shape", metavar="SHAPE", help="wsd: linear, sqrt or cosine decay.  [default: linear]")
@click.option("--cycle", type=int, help="sgdr, cosine_step: steps of the first cycle.  [default: a tenth]")
@click.option(
    "--cycle-growth", type=int, help="sgdr: length of a cycle divided by that of the one before.  [default: 1]"
)
@click.option("--gamma", type=float, help="sgdr, cosine_step: factor from cycle to cycle.  [default: 0.9]")
@click.option("--png", type=click.Path(dir_okay=False, path_type=Path), help="File for a drawing of the schedule.")
@shared.format_option("chart", "csv", "json")
def command(name: str, lr: float, png: Path | None, form: str, **fields: Any) -> None:
    """Print the learning rate of each step of a schedule."""
    from evo_tune.training.recipe.optim.schedule import Schedule, Scheduling

    given = {field: value for field, value in fields.items() if value is not None}
    schedule = Schedule(name=name, **{"decay_fraction": Scheduling().decay_fraction, **given})
    if not 0.0 < lr <= 1.0:
        raise RecipeError("lr", lr, "a number in (0, 1]")
    if schedule.steps > MOST:
        raise UsageError(f"--steps {schedule.steps}: expected at most {MOST}: a shape is the same with fewer")
    figure = None if png is None else _figure(png)
    factors = [schedule(step) for step in range(schedule.steps)]
    rates = [lr * factor for factor in factors]
    if form == "chart":
        _print_chart(rates, lr)
        marks = landmarks(factors, schedule.warmup)
        shared.print_rows(
            [{"step": t, "lr": rates[t], "of peak": factors[t], "": what} for t, what in marks.items()], "table"
        )
    elif form == "csv":
        shared.print_rows([{"step": t, "lr": rate} for t, rate in enumerate(rates)], form)
    else:
        from evo_tune.cli.formats import ScheduleStep

        shared.print_json([ScheduleStep(step=t, lr=rate) for t, rate in enumerate(rates)])
    if png is not None:
        _draw(figure, rates, f"{name}, {schedule.steps} steps", png)
        shared.echo(f"wrote {png}", err=True)


def landmarks(factors: Sequence[float], warmup: int) -> dict[int, str]:
    """Return the steps at which a part of the schedule begins or ends, and the quarters, each with a description."""
    last = len(factors) - 1
    marks = {last * quarter // 4: "" for quarter in (1, 2, 3)}
    marks |= {0: "first", last: "last"}
    if 0 < warmup <= last:
        marks[warmup - 1] = "warm-up is over"
    events: dict[int, str] = {}
    for step in range(warmup + 1, last):
        before, now, after = factors[step - 1 : step + 2]
        if now > before:
            events[step] = "restart"
        elif now < before / 2:
            events[step] = "step down"
        elif before == now > after >= now / 2:
            events[step] = "decay begins after this"
    marks |= dict(list(events.items())[: LANDMARKS - len(marks)])
    return dict(sorted(marks.items()))


def _print_chart(rates: Sequence[float], peak: float) -> None:
    """Print a bar chart; the height of a column is the learning rate at its first step."""
    bar = "█" if _prints("█") else "#"
    width = min(WIDTH, len(rates))
    columns = [rates[place * len(rates) // width] for place in range(width)]
    for row in range(HEIGHT, 0, -1):
        line = "".join(bar if rate >= peak * (row - 0.5) / HEIGHT else " " for rate in columns)
        label = f"{peak * row / HEIGHT:.3g}" if row % (HEIGHT // 2) == 0 else ""
        shared.echo(f"{label:>9} |{line}".rstrip())
    shared.echo(f"{'0':>9} +{'-' * width}")
    shared.echo(f"{'':>9}  {'0':<{max(1, width - 12)}}{f'step {len(rates) - 1}':>12}")


def _prints(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _figure(png: Path) -> Any:
    """Return an empty figure.

    Raises:
        UsageError: matplotlib is not installed, or the folder of the file does not exist.
    """
    if not png.parent.is_dir():
        raise UsageError(f"--png {png}: there is no folder {png.parent}: make it, or give another file")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError(f"--png {png}: expected matplotlib ({error}): pip install 'evo-tune[plots]'") from None
    return Figure(figsize=(8, 4), layout="constrained")


def _draw(figure: Any, rates: Sequence[float], title: str, png: Path) -> None:
    axes = figure.subplots()
    axes.plot(range(len(rates)), rates)
    axes.set(title=title, xlabel="step", ylabel="learning rate", ylim=(0.0, None))
    axes.grid(alpha=0.3)
    figure.savefig(png, dpi=150, format="png")
