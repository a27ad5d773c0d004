"""`evo-tune export`: train a run's best genome once more and leave it as something usable."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evo_tune.cli import _shared as shared
from evo_tune.cli import complete
from evo_tune.cli.help import command as made
from evo_tune.errors import OptionError, PluginError, StoreError, UsageError

if TYPE_CHECKING:
    from evo_tune.plugins.context import Context
    from evo_tune.plugins.evaluator import Evaluator

PLACE = 120


@made(
    "export",
    "evo-tune export mine model                   # the best of run mine, into ./model",
    "evo-tune export mine model --tokens 1000000  # trained for longer",
)
@shared.run_argument
@click.argument("folder", metavar="DIR", required=False, shell_complete=complete.folders)
@click.option("--trial", type=click.IntRange(min=0), help="Export this trial instead of the best.")
@click.option("--tokens", type=click.IntRange(min=1), help="Train on so many tokens instead of the run's budget.")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="Train for so long instead.")
@shared.option_option
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the training.")
@click.option("--devices", metavar="LIST", help="'cpu', or a GPU by number.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: all cores]")
@shared.store_option
@click.option("--evaluator", metavar="PATH", help="Where the evaluator's file is now, if it has moved.")
@shared.trust_option
@shared.format_option("table", "json")
def command(
    run: str | None,
    folder: str | None,
    trial: int | None,
    tokens: int | None,
    seconds: float | None,
    options: tuple[str, ...],
    seed: int,
    devices: str | None,
    threads: int | None,
    store: str,
    evaluator: str | None,
    trust: bool,
    form: str,
) -> None:
    """Train the best genome of RUN once more and save the model.

    DIR gets the weights, a config, and a README.md with a snippet that loads and uses them; it must be new or empty.
    Options are those of the run, but for those given here.
    """
    from evo_tune.loop.code import evaluator_of
    from evo_tune.options.binding import split_assignments
    from evo_tune.report.calibration import recommended
    from evo_tune.store.places import as_typed, find_run
    from evo_tune.store.run import Run

    if tokens is not None and seconds is not None:
        raise UsageError("--tokens and --seconds are both given: give one")
    target = _target(run, folder)
    saved = Run.open(find_run(Path(store), run))
    plugin = evaluator_of(saved, evaluator, trust, shared.asking())
    if not hasattr(plugin.module, "export"):
        raise PluginError(
            f"evaluator {plugin.name} has no export(genome, context, folder); `evo-tune best` prints the genome"
        )
    best = recommended(saved)
    if trial is not None and trial >= len(saved.candidates):
        raise UsageError(f"--trial {trial}: run {saved.name} has trials 0 to {len(saved.candidates) - 1}")
    if trial is None and best is None:
        raise StoreError(
            f"run {saved.name} has no full training with a value: `evo-tune show {as_typed(saved.folder)}` tells why"
        )
    candidate = best.candidate if trial is None and best else saved.candidates[trial or 0]
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"DIR {target}: exists and is not an empty folder; choose another")
    given = split_assignments(options, "-o")
    bound = plugin.settled(plugin.bind({**saved.manifest.options, **given}), rungs=False)
    bound = _with_budget(plugin, bound, tokens, seconds)
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot make {target}: {error.strerror}; choose another DIR") from None
    told = f"training trial {candidate.id} of {saved.name}: {shared.show_genome(candidate.genome)}"
    shared.echo(told, err=form == "json")
    # Whatever an evaluator prints, JSON alone stands on standard output.
    beside = contextlib.redirect_stdout(sys.stderr) if form == "json" else contextlib.nullcontext()
    with tempfile.TemporaryDirectory() as scratch, beside:
        context = _context(seed, devices, threads, Path(scratch))
        metrics = plugin.export(candidate.genome, context, target, bound)
    written = sorted(path.name for path in target.iterdir())
    if form == "json":
        from evo_tune.cli.formats import ExportedModel

        shared.print_json(
            ExportedModel(
                run=saved.name,
                trial=candidate.id,
                genome=candidate.genome,
                folder=str(target),
                files=written,
                metrics=metrics,
            )
        )
        return
    for name, value in metrics.items():
        shared.echo(f"  {name:<21} {shared.show_value(value)}")
    shared.echo(f"written to {target}: {', '.join(written) or 'nothing'}")
    if "README.md" in written:
        shared.echo(f"how to use it: {target / 'README.md'}")


def _target(run: str | None, folder: str | None) -> Path:
    """Return the folder to write."""
    if folder is None:
        raise UsageError(f"expected RUN and DIR, the folder to write: evo-tune export {run or 'RUN'} DIR")
    return Path(folder)


def _with_budget(
    plugin: Evaluator, options: Mapping[str, Any], tokens: int | None, seconds: float | None
) -> dict[str, Any]:
    """Return the options with another budget: exactly one of flops, tokens and seconds counts."""
    given = {name: value for name, value in (("tokens", tokens), ("seconds", seconds)) if value is not None}
    for name in given:
        if name not in plugin.options:
            raise OptionError(f"--{name}: evaluator {plugin.name} has no option {name!r}; leave the flag out")
    return {**options, **dict.fromkeys(options.keys() & {"flops", "tokens", "seconds"} if given else ()), **given}


def _context(seed: int, devices: str | None, threads: int | None, folder: Path) -> Context:
    """Return a context for this very process: all cores, and the first GPU that the machine offers."""
    from evo_tune.dispatch import cpu_count, plan
    from evo_tune.plugins.context import Context

    planned = plan(1, devices, 1, threads)
    device = planned.slots[0]
    os.environ["CUDA_VISIBLE_DEVICES"] = device.visible  # before torch is imported
    return Context(device.inside, threads or cpu_count(), seed, folder=folder)
