"""`evo-tune evaluate`: train one genome, in a slot as a run would."""

import math

import click

from evo_tune.cli import shared
from evo_tune.cli.help import cli_command
from evo_tune.errors import OptionError


@cli_command("evaluate", "evo-tune evaluate language_model -g lr=3e-3 -g depth=2", order=110)
@click.argument("evaluator", default="language_model", type=click.Path())
@click.option("-g", "--gene", "genes", multiple=True, metavar="NAME=VALUE", help="Value instead of the default.")
@shared.evaluator_options_option
@click.option("--seed", type=shared.NOT_NEGATIVE, default=0, show_default=True, help="Seed of the training.")
@click.option(
    "--budget", type=click.FloatRange(0, 1, min_open=True), default=1.0, show_default=True, help="Share of a training."
)
@click.option("--devices", metavar="LIST", help="Device to use: 'cpu', or a GPU by number.")
@click.option("--threads", type=shared.COUNT, help="CPU threads.  [default: 1]")
@click.option("--timeout", type=shared.POSITIVE, metavar="SECONDS", help="Longest time of the training.")
@click.option("--folder", metavar="DIR", help="Folder for the log and the checkpoint.  [default: a temporary one]")
def command(
    evaluator: str,
    genes: tuple[str, ...],
    options: tuple[str, ...],
    seed: int,
    budget: float,
    devices: str | None,
    threads: int | None,
    timeout: float | None,
    folder: str | None,
    output_format: str,
) -> int:
    """Train one genome and print its result; nothing is saved."""
    import tempfile
    from pathlib import Path

    from evo_tune.cli.formats import GenomeResult
    from evo_tune.dispatch import open_slots
    from evo_tune.dispatch.devices import plan
    from evo_tune.dispatch.slot import Task
    from evo_tune.genome.notation import parse_gene
    from evo_tune.genome.trial import Candidate
    from evo_tune.loop.budget import max_timing_seconds, needs_cost
    from evo_tune.loop.code import load_named_evaluator
    from evo_tune.loop.plan import Request, plan_run
    from evo_tune.options.binding import split_assignments
    from evo_tune.plugins.command import is_command
    from evo_tune.plugins.context import UNFINISHED
    from evo_tune.settings import parse_settings
    from evo_tune.trust import safe_files

    for flag, value in (("--budget", budget), ("--timeout", timeout)):
        if value is not None and math.isnan(value):  # click lets it pass
            raise OptionError(f"{flag} {value}: expected more than 0")
    option_values, values = split_assignments(options, "-o"), split_assignments(genes, "-g")
    fixed = {name: parse_gene(name, value) for name, value in values.items()} if is_command(evaluator) else None
    plugin = load_named_evaluator(evaluator, fixed, option_values)
    bound = plugin.bind(option_values)
    if bound.options.get("seconds") is not None and needs_cost(bound):
        hours = bound.options["seconds"] * budget / 3600
        run_settings, session = parse_settings({"slots": 1, "devices": devices, "threads": threads, "hours": hours})
        limit = f"at most {max_timing_seconds(session):.3g} s, apart from the start of workers"
        shared.echo(f"Timing a few steps before the training: {limit}", err=True)
        run_plan = plan_run(plugin, Request(options=option_values), run_settings, session, Path())
        if run_plan.pace is None:
            shared.echo("No step was timed so soon: the length of the training follows from usual costs", err=True)
        bound = run_plan.evaluator
    bound = bound.for_run(budget < 1.0)
    space = bound.space.including(values)
    genome = space.check(space.parse(values), fill_defaults=True)
    planned = plan(1, devices, 1, threads)
    shared.print_remarks(bound, genome, extra_seeds=False)
    shared.interrupt_on_signals()
    with tempfile.TemporaryDirectory() as scratch:
        task = Task.of(bound, plugin.objectives, folder or scratch, planned.threads)
        slot = open_slots(task, planned, timeout, 0)[0]
        try:
            candidate = Candidate(0, 0, seed, 0, genome, "by hand", budget=budget)
            outcome = slot.run(candidate)
            safe_files.remove(task.trials_folder, f"{candidate.id:06d}", UNFINISHED[0])
        finally:
            slot.kill()
            slot.close()
    lines = [
        f"genome: {shared.show_genome(genome)}",
        f"{outcome.status} in {shared.show_seconds(outcome.seconds)} on {outcome.device}",
        *([outcome.error] if outcome.error else []),
        *shared.metric_lines(outcome.metrics),
    ]
    for fraction, metrics in outcome.curve:
        values_text = "  ".join(f"{name} {shared.show_value(value)}" for name, value in metrics.items())
        lines.append(f"  at {fraction:>4.0%}: {values_text}")
    shared.print_json_or_text(output_format, GenomeResult(genome=genome, **vars(outcome)), *lines)
    return 0 if outcome.status == "ok" else 1
