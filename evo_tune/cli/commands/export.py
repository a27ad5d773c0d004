"""`evo-tune export`: train the best genome of a run once more and save the model."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evo_tune.cli import shared
from evo_tune.cli.help import cli_command
from evo_tune.errors import OptionError, PluginError, StoreError, UsageError

if TYPE_CHECKING:
    from evo_tune.genome.trial import Candidate
    from evo_tune.plugins.evaluator import Evaluator
    from evo_tune.store.run import Run

HELP_ORDER = 120


@cli_command(
    "export",
    "evo-tune export mine model                   # the best of run mine, into ./model",
    "evo-tune export mine model --tokens 1000000  # trained for longer",
)
@shared.run_argument
@click.argument("folder", metavar="DIR", required=False, shell_complete=shared.complete_folders)
@click.option("--trial", type=click.IntRange(min=0), help="Trial to export instead of the best.")
@click.option(
    "--tokens", type=click.IntRange(min=1), help="Length of the training in tokens, instead of the run's budget."
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    help="Duration of the training in seconds, instead of the run's budget.",
)
@shared.evaluator_options_option
@click.option("--seed", type=click.IntRange(min=0), help="Seed of the training.  [default: that of the trial]")
@click.option("--devices", metavar="LIST", help="Device to use: 'cpu', or a GPU by number.")
@click.option(
    "--threads", type=click.IntRange(min=1), help="CPU threads.  [default: those of the trial, or all cores if faster]"
)
@shared.store_option
@shared.evaluator_option
@shared.trust_option
@shared.format_option("table", "json")
def command(
    run: str | None,
    folder: str | None,
    trial: int | None,
    tokens: int | None,
    seconds: float | None,
    options: tuple[str, ...],
    seed: int | None,
    devices: str | None,
    threads: int | None,
    store: str,
    evaluator: str | None,
    trust: bool,
    output_format: str,
) -> None:
    """Train the best genome of RUN once more and save the model.

    DIR gets the weights, a config, and a README.md, the model card; it must be new or empty. `evo-tune predict DIR`
    uses the model. Options and seed are those of the trial unless you give others. Without changes, on the same device
    and with the same number of threads, the model has the metrics of the trial.
    """
    import tempfile

    from evo_tune.cli.formats import ExportedModel
    from evo_tune.cli.training.exporting import Training, choose_pace
    from evo_tune.dispatch import plan
    from evo_tune.loop.code import load_run_evaluator
    from evo_tune.options.binding import split_assignments

    if tokens is not None and seconds is not None:
        raise UsageError("--tokens and --seconds are both given: give one")
    if folder is None:
        raise UsageError(f"expected RUN and DIR, the folder to write: evo-tune export {run or 'RUN'} DIR")
    target, saved = Path(folder), shared.open_run(run, store)
    plugin = load_run_evaluator(saved, evaluator, trust, shared.ask_function())
    if not hasattr(plugin.module, "export"):
        raise PluginError(
            f"evaluator {plugin.name} has no export(genome, context, folder); `evo-tune best` prints the genome"
        )
    candidate = _candidate(saved, trial)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"DIR {target}: exists and is not an empty folder; choose another")
    option_values = split_assignments(options, "-o")
    bound = plugin.bind({**saved.manifest.options, **option_values}).for_run(rungs=False)
    bound = plugin.bind(_with_budget(plugin, bound.options, tokens, seconds))
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot make {target}: {error.strerror}; choose another DIR") from None
    planned = plan(1, devices, 1, threads)
    pace = choose_pace(saved, bound, candidate, planned, threads)
    flags: dict[str, Any] = {"trial": trial, "tokens": tokens, "seconds": seconds, "seed": seed, "threads": threads}
    typed = _typed(saved.name, folder, flags, options)
    training = Training(saved, bound, candidate, planned, pace, candidate.seed if seed is None else seed, typed)
    # An evaluator may print anything; only the JSON belongs on standard output.
    aside = contextlib.redirect_stdout(sys.stderr) if output_format == "json" else contextlib.nullcontext()
    with tempfile.TemporaryDirectory() as scratch, aside:
        metrics = training.write(target, Path(scratch), err=output_format == "json")
    model = ExportedModel(
        run=saved.name,
        trial=candidate.id,
        genome=candidate.genome,
        folder=str(target),
        files=sorted(path.name for path in target.iterdir()),
        metrics=metrics,
    )
    if output_format == "json":
        shared.print_json(model)
        return
    for name, value in metrics.items():
        shared.echo(f"  {name:<21} {shared.show_value(value)}")
    shared.echo(f"wrote {target}: {', '.join(model.files) or 'nothing'}")
    shared.echo(f"how to use it: {target / 'README.md'}")


def _typed(run: str, folder: str, given: Mapping[str, Any], options: Sequence[str]) -> str:
    """Return the command as it was typed, but for the device and the store."""
    flags = [word for name, value in given.items() if value is not None for word in (f"--{name}", str(value))]
    return shlex.join(["evo-tune", "export", run, folder, *flags, *(word for one in options for word in ("-o", one))])


def _candidate(run: Run, trial: int | None) -> Candidate:
    """Return the candidate of a trial, or of the trial that the run recommends."""
    if trial is None:
        return shared.require_best_trial(run).candidate
    if trial >= len(run.candidates):
        raise UsageError(f"--trial {trial}: run {run.name} has trials 0 to {len(run.candidates) - 1}")
    return run.candidates[trial]


def _with_budget(
    plugin: Evaluator, options: Mapping[str, Any], tokens: int | None, seconds: float | None
) -> dict[str, Any]:
    """Return the options with another budget: only one of flops, tokens and seconds may be set."""
    given = {name: value for name, value in (("tokens", tokens), ("seconds", seconds)) if value is not None}
    for name in given:
        if name not in plugin.options:
            raise OptionError(f"--{name}: evaluator {plugin.name} has no option {name!r}; leave the flag out")
    return {**options, **dict.fromkeys(options.keys() & {"flops", "tokens", "seconds"} if given else ()), **given}
