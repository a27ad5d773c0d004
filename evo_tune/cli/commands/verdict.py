"""`evo-tune verdict`: say which variants of a training really differ, from anybody's results."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from evo_tune.cli import shared
from evo_tune.cli.help import cli_command

if TYPE_CHECKING:
    from evo_tune.report.verdict import Verdict


@cli_command(
    "verdict",
    "evo-tune verdict results.csv --baseline default",
    "evo-tune verdict logs --objective val_loss:min --baseline 3.28",
    order=67,
    formats=("table", "csv", "json"),
)
@click.argument("path", metavar="FILE", type=click.Path(exists=True))
@click.option("--baseline", required=True, metavar="NAME", help="Variant to compare the others with, or a number.")
@click.option("--objective", default="", metavar="METRIC:min|max", help="Metric.  [default: noticed]")
@click.option("--variant", default="", metavar="COLUMN", help="Column of the variant.  [default: noticed]")
@click.option("--seed", default="", metavar="COLUMN", help="Column of the seed.  [default: noticed]")
@click.option("--metric", "metrics", multiple=True, metavar="NAME=PATTERN", help="For logs: pattern of a metric.")
def command(
    path: str, baseline: str, objective: str, variant: str, seed: str, metrics: tuple[str, ...], output_format: str
) -> None:
    """Say which variants in FILE really differ from a baseline.

    FILE has results of any trainings: a CSV file or JSON lines with a variant, a seed and a metric, or a folder of logs
    (a subfolder for each variant, or files such as NAME-seed3.log). Variants are compared seed by seed where they share
    seeds, and corrected for their number and for the choice of the best one.
    """
    from evo_tune.cli.results import read_results
    from evo_tune.report.verdict import give_verdict

    losses, goal, remarks = read_results(Path(path), variant, seed, objective, metrics)
    shared.echo(*remarks, err=True)
    verdict = give_verdict(losses, baseline, goal)
    spare = ("failures", "pairs", "mean", "error", "may_be_best", "low", "high")
    shared.print_rows(verdict.variants, output_format, title=_title(verdict), spare=spare, value=verdict)
    if output_format == "table":
        shared.echo(*_conclusion(verdict))


def _title(verdict: "Verdict") -> str:
    better = "lower" if verdict.direction == "min" else "higher"
    mean = shared.show_value(verdict.baseline_mean)
    seeds = f"{verdict.baseline}: mean {mean} of {verdict.baseline_seeds}" if verdict.baseline_seeds else mean
    return f"{verdict.metric} ({better} is better), gain over the baseline {seeds}"


def _conclusion(verdict: "Verdict") -> list[str]:
    """Return what the table means, in lines."""
    from evo_tune.text import with_plural

    count = with_plural(len(verdict.variants), "comparison")
    lines = [f"p is corrected for {count} (Holm). real: better than the baseline, harmful: worse, at .05."]
    if verdict.best_low is not None:
        gain, low, high = map(shared.show_value, (verdict.best_gain, verdict.best_low, verdict.best_high))
        lines.append(f"Best mean: {verdict.best}. Corrected for the choice, its gain is {gain} ({low} to {high}).")
    return lines
