"""`evo-tune export`: train the best genome of a run once more and save the model."""

import contextlib
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evo_tune.cli import shared
from evo_tune.cli.help import cli_command
from evo_tune.errors import OptionError, PluginError, StoreError, UsageError, explain_error
from evo_tune.trust.safe_files import complete_or_absent

if TYPE_CHECKING:
    from evo_tune.genome.trial import Candidate
    from evo_tune.store.run import Run


@cli_command(
    "export",
    "evo-tune export mine model  # the best of run mine, into ./model",
    "evo-tune export mine model --tokens 1000000  # trained for longer",
    "evo-tune export mine model --ensemble 6  # up to 6 models, if better together",
    order=120,
)
@shared.run_argument
@click.argument("folder", metavar="DIR", required=False, type=click.Path(file_okay=False))
@click.option("--trial", type=shared.NOT_NEGATIVE, help="Trial to export instead of the best.")
@click.option("--ensemble", type=click.IntRange(2, 16), metavar="N", help="Train N models; write their best mean.")
@click.option("--tokens", type=shared.COUNT, help="Length of the training in tokens, instead of the run's budget.")
@click.option("--seconds", type=shared.POSITIVE, help="Duration in seconds, instead of the run's budget.")
@shared.evaluator_options_option
@click.option("--seed", type=shared.NOT_NEGATIVE, help="Seed of the training.  [default: that of the trial]")
@click.option("--devices", metavar="LIST", help="Device to use: 'cpu', or a GPU by number.")
@click.option("--threads", type=shared.COUNT, help="CPU threads.  [default: as in the trial, or all cores if faster]")
@shared.store_option
@shared.evaluator_option
@shared.trust_option
def command(
    run: str | None,
    folder: str | None,
    options: tuple[str, ...],
    devices: str | None,
    store: str,
    evaluator: str | None,
    trust: bool,
    output_format: str,
    **flags: Any,
) -> None:
    """Train the best genome of RUN once more and save the model.

    Of a run with patches, DIR gets the project instead: the patches of the genome applied and their values set.

    DIR gets the weights, a config, and a README.md, the model card; it must be new or empty. `evo-tune predict DIR`
    uses the model. Options and seed are those of the trial unless you give others. Without changes, on the same device
    and with the same number of threads, the model has the metrics of the trial.
    """
    import tempfile

    from evo_tune.cli.training.model_training import ENSEMBLE, Training, choose_pace
    from evo_tune.dispatch.devices import plan
    from evo_tune.loop.code import load_run_evaluator
    from evo_tune.options.binding import split_assignments
    from evo_tune.trust.decide import Consent

    flags = {name: value for name, value in flags.items() if value is not None}
    trial, ensemble, threads = (flags.get(name) for name in ("trial", "ensemble", "threads"))
    budget = {name: value for name, value in flags.items() if name in ("tokens", "seconds")}
    if len(budget) > 1:
        raise UsageError("--tokens and --seconds are both given: give one")
    if folder is None:
        raise UsageError(f"expected RUN and DIR, the folder to write: evo-tune export {run or 'RUN'} DIR")
    target, saved = Path(folder), shared.open_run(run, store)
    plugin = load_run_evaluator(saved, Consent(trust, shared.ask_function()), evaluator)
    if not hasattr(plugin.module, "export") and not saved.patches:
        raise PluginError(f"evaluator {plugin.name} has no export(genome, context, folder)")
    if ensemble is not None and ENSEMBLE not in plugin.supports:
        raise PluginError(f"--ensemble: the models of evaluator {plugin.name} cannot be averaged: leave it out")
    if trial is not None and trial >= len(saved.candidates):
        raise UsageError(f"--trial {trial}: run {saved.name} has trials 0 to {len(saved.candidates) - 1}")
    candidate = shared.require_best_trial(saved).candidate if trial is None else saved.candidates[trial]
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"DIR {target}: exists and is not an empty folder; choose another")
    if saved.patches:
        from evo_tune.plugins.patches.project import write_copy

        code, outcome = saved.code_of(candidate.genome), saved.outcomes.get(candidate.id)
        assert code is not None, "the run has patches"
        with _new_folder(target) as part:
            write_copy(saved.folder, code, candidate.genome, part)
        metrics = {} if outcome is None else outcome.metrics
        lines = [f"wrote {target}: the project of trial {candidate.id}"]
        if typed := shared.command_in_project(saved, candidate):
            lines.append(f"train it there: {typed}")
        _print_exported(saved, candidate, target, metrics, output_format, *lines)
        return
    bound = plugin.bind({**saved.manifest.options, **split_assignments(options, "-o")}).for_run(rungs=False)
    for name in budget:  # only one of the three may be set
        if name not in plugin.options:
            raise OptionError(f"--{name}: evaluator {plugin.name} has no option {name!r}; leave the flag out")
        other_budgets = dict.fromkeys(bound.options.keys() & {"flops", "tokens", "seconds"})
        bound = plugin.bind({**bound.options, **other_budgets, **budget})
    planned = plan(1, devices, 1, threads)
    pace = choose_pace(saved, bound, candidate, planned, threads)
    # The command for the model card, without the device and the store.
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    words += [word for option in options for word in ("-o", option)]
    typed = shlex.join(["evo-tune", "export", saved.name, folder, *words])
    training = Training(saved, bound, candidate, planned, pace, flags.get("seed", candidate.seed), typed)
    # An evaluator may print anything; only the JSON belongs on standard output.
    output = contextlib.redirect_stdout(sys.stderr) if output_format == "json" else contextlib.nullcontext()
    with tempfile.TemporaryDirectory() as scratch, output, _new_folder(target) as part:
        metrics = training.write(part, Path(scratch), output_format == "json", ensemble or 1)
    wrote = f"wrote {target}: {', '.join(_file_names(target)) or 'nothing'}"
    usage = f"how to use it: {target / 'README.md'}"
    _print_exported(saved, candidate, target, metrics, output_format, *shared.metric_lines(metrics), wrote, usage)


@contextlib.contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """Yield a new folder that becomes the target once it is complete."""
    with complete_or_absent(target) as part:
        with explain_error(StoreError, f"cannot make {target}", "choose another DIR"):
            part.mkdir(parents=True)
        yield part


def _file_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _print_exported(
    saved: "Run", trial: "Candidate", folder: Path, metrics: Mapping[str, Any], output_format: str, *lines: str
) -> None:
    """Print what was written, as JSON or as the lines."""
    from evo_tune.cli.formats import ExportedModel

    files = _file_names(folder)
    exported = ExportedModel(
        run=saved.name, trial=trial.id, genome=trial.genome, folder=str(folder), files=files, metrics=metrics
    )
    shared.print_json_or_text(output_format, exported, *lines)
