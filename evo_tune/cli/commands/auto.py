"""`evo-tune auto`: from a data set to a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evo_tune.cli import shared
from evo_tune.cli.help import cli_command
from evo_tune.errors import UsageError

if TYPE_CHECKING:
    from evo_tune.cli.training.auto import DataTask
    from evo_tune.cli.training.final_training import Wish
    from evo_tune.loop.search import Search
    from evo_tune.plugins.evaluator import Evaluator


@cli_command(
    "auto",
    "evo-tune auto table.csv --target price --hours 0.5 --out model",
    "evo-tune auto photos/ --hours 2  # one subfolder for each class",
    "evo-tune auto corpus/ --hours 8  # a language model",
    order=25,
)
@click.argument("data", metavar="DATA", type=click.Path())
@click.option("--target", metavar="COLUMN", help="Column to predict.")
@click.option("--hours", type=shared.POSITIVE, help="Maximum number of hours, final training included.  [default: 1]")
@click.option("--trials", type=shared.COUNT, help="Maximum number of trials, with or without --hours.")
@click.option("--out", metavar="MODEL", help="Folder of the model.  [default: _model in the run's folder]")
@click.option("--overwrite", is_flag=True, help="Replace an earlier model in the folder of --out.")
@click.option("--evaluator", metavar="NAME", help="Evaluator to use instead of the recognised one.")
@click.option("--families", metavar="LIST", help="Families of models, with commas between them.  [default: auto]")
@click.option("--single", is_flag=True, help="Make one model, and no ensemble of several.")
@shared.evaluator_options_option
@click.option("--seed", type=shared.NOT_NEGATIVE, default=0, show_default=True, help="Seed of the run.")
@click.option("--slots", type=shared.COUNT, help="Trainings at the same time.")
@click.option("--devices", metavar="LIST", help="Devices: cpu, cuda, or GPUs by number: 0,2.")
@click.option("--name", metavar="NAME", help="Name of the run; an earlier run of `auto` with this name is continued.")
@shared.store_option
@shared.trust_option
@click.option("--dry-run", is_flag=True, help="Print the task, what was read, and a forecast, without starting a run.")
@click.option("--quiet", is_flag=True, help="Print the verdict only.")
def command(
    data: str,
    target: str | None,
    hours: float | None,
    trials: int | None,
    out: str | None,
    overwrite: bool,
    evaluator: str | None,
    families: str | None,
    single: bool,
    options: tuple[str, ...],
    name: str | None,
    store: str,
    trust: bool,
    dry_run: bool,
    quiet: bool,
    output_format: str,
    **setting_flags: Any,
) -> int:
    """Search for the best genome for DATA, and train a model.

    It is a run like any other. After a stop, `resume` continues it and trains the model. `run` and `export` do the same
    in two steps, with more flags.
    """
    import time
    from dataclasses import replace

    began = time.monotonic()
    from evo_tune.cli.flags import RUN_DEFAULTS
    from evo_tune.cli.session import print_plan, run_search
    from evo_tune.cli.training.auto import check_model_folder, choose_task, copy_model, read_facts, verdict_lines
    from evo_tune.cli.training.final_training import MODEL, Wish
    from evo_tune.loop.plan import Request
    from evo_tune.options.binding import split_assignments
    from evo_tune.plugins.find import find_evaluator
    from evo_tune.report.data import AutoModel, compared_means
    from evo_tune.store.run_folders import new_run_folder

    model = None if out is None else Path(out).expanduser()
    is_copied = model is not None and check_model_folder(model, Path(store) / (name or "") / MODEL, overwrite)
    task = choose_task(data, target, evaluator, split_assignments(options, "-o"))
    alternative = f"; otherwise: evo-tune auto {data} {task.otherwise}" if task.otherwise else ""
    plugin = find_evaluator(task.evaluator, {}, task.options)
    if not hasattr(plugin.module, "export"):
        raise UsageError(f"--evaluator {plugin.name}: it has no export(genome, context, folder): use `evo-tune run`")
    if "families" in plugin.options:
        asked = {} if families is None else {"families": families}
        task = replace(task, options={"families": "auto", **task.options, **asked})
    elif families is not None:
        raise UsageError(f"--families {families}: {plugin.name} has models of one family: leave it out")
    shared.echo(f"{data} is taken for {plugin.name}: {task.why}{alternative}", err=True)
    if task.proposal and "split_by" not in task.options:
        shared.echo(task.proposal, err=True)
    hours = 1.0 if hours is None and trials is None else hours
    flags = {"trials": trials, "hours": hours, **setting_flags}
    settings = {**RUN_DEFAULTS, **{key: value for key, value in flags.items() if value is not None}}
    if dry_run:
        if name is not None:
            new_run_folder(Path(store), name)
        print_plan(plugin, Request(options=task.options), settings, Path(store), shared.OutputFlags(output_format))
        if output_format == "table":
            part = "not in this time" if hours is None else f"part of the {hours:g} hours"
            shared.echo(f"the training of the model at the end is {part}")
        return 0
    limit = f"{trials} trials, however long they take" if hours is None else f"at most {hours:g} hours, model included"
    shared.echo(f"this takes {limit} (--hours); --dry-run predicts the time", err=True)
    search = _start_or_resume(plugin, task, settings, name, Path(store), Wish(single=single), trust)
    run_name = search.saved.name
    output = shared.OutputFlags("none" if output_format == "json" else output_format, quiet)
    exit_code = run_search(search, output, began, continue_hint=f"the same command with --name {run_name}")
    run_model = search.saved.folder / MODEL
    if not run_model.is_dir() or search.stopping:
        return exit_code or 1
    if model is not None and not is_copied:
        copy_model(run_model, model)
        if output_format == "table" and not quiet:
            shared.echo(f"a copy of the model is in {model}")
    path = model or run_model
    lines = verdict_lines(search, path, time.monotonic() - began)
    result = AutoModel(
        run=run_name,
        evaluator=plugin.name,
        why=task.why,
        model=str(path),
        verdict=lines,
        comparisons=compared_means(search.saved, read_facts(path).metrics),
    )
    shared.print_json_or_text(output_format, result, *lines)
    return exit_code


def _start_or_resume(
    plugin: Evaluator, task: DataTask, settings: dict[str, Any], name: str | None, store: Path, wish: Wish, trust: bool
) -> Search:
    """Return a new run, or the run of this name if `auto` began it with the same evaluator and data.

    Args:
        plugin: The evaluator.
        task: Its options and data.
        settings: Settings of the run.
        name: Name of the run; None for a new one.
        store: Folder of the runs.
        wish: How a new run ends.
        trust: Whether an earlier run is trusted.

    Raises:
        UsageError: There is another run of this name.
    """
    from evo_tune.cli.training.final_training import read_wish, write_wish
    from evo_tune.loop.search import Search
    from evo_tune.store.manifest import MANIFEST
    from evo_tune.store.run import Run

    if name is not None and (store / name / MANIFEST).exists():
        run = Run.open(store / name)
        is_new = read_wish(run) is None and not run.candidates  # it was killed before the wish was noted
        same = run.manifest.evaluator == plugin.reference and (is_new or read_wish(run) is not None)
        if not same or run.manifest.options.get("data") != task.options.get("data"):
            raise UsageError(f"--name {name}: there is another run of this name: choose another name")
        if is_new:
            write_wish(run, wish)
        return Search.resume(name, store=store, trust=trust, ask=shared.ask_function())
    search = Search(plugin.reference, options=task.options, store=store, name=name, **settings)
    write_wish(search.saved, wish)
    return search
