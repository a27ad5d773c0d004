"""`evo-tune run`: start a run."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evo_tune.cli import shared
from evo_tune.cli.help import cli_command
from evo_tune.errors import OptionError

if TYPE_CHECKING:
    from evo_tune.genome.genes import Gene


@cli_command(
    "run",
    "evo-tune run                                     # a small GPT on English text",
    "evo-tune run language_model -o data=corpus/      # on your own text",
    "evo-tune run evaluators/mine.py --trials 100     # your own task",
    "evo-tune run 'python train.py --lr {lr}' --gene 'lr=log(1e-4,1e-1)' \\\n    --objective val_loss:min",
    settings="run_flags",
    order=10,
    formats=("table", "json", "jsonl"),
)
@click.argument("evaluator", default="language_model", type=click.Path())
@shared.evaluator_options_option
@click.option("--strategy", metavar="NAME|FILE", type=click.Path(), help="Strategy by name or path.  [default: saea]")
@shared.pairs_option("-s", "--strategy-option", metavar="NAME=VALUE", help="Strategy's option; repeatable.")
@click.option("--ladder", metavar="SIZES", help="Sizes (depth x width) to try while larger ones are better: 2x64,4x96.")
@shared.pairs_option(
    "--gene",
    "genes",
    metavar="NAME=GENE",
    help="Gene to change or add: lr=log(1e-5,1e-2), depth=int(1,8), heads=2|4; NAME alone enables an optional gene.",
)
@click.option("--objective", "objectives", multiple=True, metavar="METRIC:min|max", help="Instead of the evaluator's.")
@shared.pairs_option(
    "--metric",
    metavar="NAME=PATTERN",
    help="For a command: pattern of a metric in its output, 'val_loss=val loss'.  [default: JSON, or by name]",
)
@click.option(
    "--metrics-file",
    metavar="PATH",
    help="For a command: file in which it writes metrics, '{folder}/metrics.json'; '{folder}' for TensorBoard.",
)
@click.option(
    "--template",
    metavar="FILE",
    help="For a command: configuration file with placeholders; each trial's copy is {config}: 'python t.py {config}'.",
)
@shared.pairs_option(
    "--set",
    "set_values",
    metavar="NAME={GENE}",
    help="With --template: replace a value by its dotted name, 'model.depth={depth}'; repeatable.",
)
@click.option(
    "--progress",
    metavar="N|STEP/N",
    help="For a command: number of lines with the objective (20), or a metric and its end (step/2000); for --prune.",
)
@click.option(
    "--judge",
    metavar="COMMAND",
    help="For a command: another one that measures the objective, 'python judge.py {folder}', after each training.",
)
@click.option("--patches", metavar="FOLDER", help="For a command: patches of its project (*.patch), each a gene.")
@click.option("--protect", metavar="PATHS", help="With --patches: paths that no trial may change: 'judge.py data/'.")
@click.option("--allow-patches", is_flag=True, help="For a command: run patches that agents propose during the run.")
@click.option("--shell", is_flag=True, help="For a command: run it with /bin/sh; values are quoted.")
@click.option("--population", type=click.IntRange(min=2), help="Trials in a generation.  [default: 12]")
@click.option("--subject-to", multiple=True, metavar="METRIC<=N", help="Constraint: 'params<=2e6', 'accuracy>=0.9'.")
@shared.output_flags
@click.option("--name", metavar="NAME", help="Name of the run.  [default: evaluator and time]")
@shared.store_option
@click.option(
    "--warm-start",
    multiple=True,
    metavar="RUN|FILE",
    shell_complete=shared.complete_runs,
    help="Genomes to train first: a run, or a CSV or JSON file.",
)
@click.option(
    "--learn-from",
    multiple=True,
    metavar="RUN",
    shell_complete=shared.complete_runs,
    help="Use an earlier run as a prior; its weight falls where it disagrees.",
)
@click.option("--fill-defaults", is_flag=True, help="Set genes that a warm start lacks to their defaults.")
@click.option("--dry-run", is_flag=True, help="Print a forecast of the run without starting it.")
def command(
    evaluator: str,
    options: tuple[str, ...],
    strategy: str | None,
    strategy_option: tuple[str, ...],
    ladder: str | None,
    genes: tuple[str, ...],
    protect: str | None,
    warm_start: tuple[str, ...],
    name: str | None,
    store: str,
    dry_run: bool,
    output: shared.OutputFlags,
    **flags: Any,
) -> int:
    """Tune EVALUATOR: a name, a file, or the command of a script.

    EVALUATOR is language_model by default, a small GPT.
    """
    import shlex
    import time

    began = time.monotonic()

    from evo_tune.cli.flags import RUN_DEFAULTS, read_genomes
    from evo_tune.cli.session import print_plan, run_search
    from evo_tune.loop.code import patched_code
    from evo_tune.loop.plan import Request
    from evo_tune.loop.search import Search
    from evo_tune.options.binding import split_assignments
    from evo_tune.options.declare import dataclass_options
    from evo_tune.plugins.command import SCRIPT_OPTIONS, is_command, with_template_text
    from evo_tune.plugins.find import find_evaluator
    from evo_tune.settings import SessionSettings
    from evo_tune.store.manifest import MANIFEST
    from evo_tune.store.run_folders import new_run_folder

    def take(*names: str) -> dict[str, Any]:
        return {name: flags.pop(name) for name in names}

    patch_flags = {**take("patches", "allow_patches"), "protect": shlex.split(protect or "")}
    request = take("population", "objectives", "subject_to", "fill_defaults", "learn_from")
    command_flags = take(*SCRIPT_OPTIONS, "judge")
    settings = {**RUN_DEFAULTS, **{name: value for name, value in flags.items() if value is not None}}
    command_options = {
        name: "\n".join(value) if isinstance(value, tuple) else shared.option_text(value)
        for name, value in command_flags.items()
        if value
    }
    if command_options and not is_command(evaluator):
        flag = next(iter(command_options)).replace("set_values", "set").replace("_", "-")
        raise OptionError(f"--{flag} is for a command such as 'python train.py', and {evaluator} is none: leave it out")
    evaluator_options: dict[str, Any] = {**split_assignments(options, "-o"), **command_options}
    if is_command(evaluator):
        evaluator_options = with_template_text(evaluator_options)
    strategy_options = split_assignments(strategy_option, "-s")
    read_genes = shared.read_genes(genes)
    if ladder is not None:
        if strategy not in (None, "ladder") or "sizes" in strategy_options:
            raise OptionError("--ladder stands for --strategy ladder -s sizes=…: give one of the two")
        strategy, strategy_options = "ladder", {**strategy_options, "sizes": ladder}
        read_genes = {**_ladder_genes(ladder, evaluator, evaluator_options), **read_genes}
    first_genomes: list[dict[str, Any]] = []
    if settings.get("for_scale"):
        if ladder is not None:
            raise OptionError("--for-scale and --ladder are both given: give one of them")
        from evo_tune.cli.training.scaling import search_for_scale

        scale_search = search_for_scale(evaluator, evaluator_options, read_genes, settings, Path(store))
        evaluator_options, read_genes = scale_search.options, scale_search.genes
        first_genomes = scale_search.first_genomes
        if scale_search.fidelity is not None:
            settings.setdefault("fidelity", scale_search.fidelity)
        shared.echo(scale_search.explanation, err=True)
    request |= {
        "options": evaluator_options,
        "strategy": strategy,
        "strategy_options": strategy_options,
        "genes": read_genes,
        "warm_start": first_genomes + [genome for source in warm_start for genome in read_genomes(source, Path(store))],
    }
    if name is not None:
        is_requeued = os.environ.get("SLURM_RESTART_COUNT", "0") not in ("", "0")  # SLURM starts its job again
        if is_requeued and Path(store, name, MANIFEST).is_file() and not dry_run:
            changes = {key: flags[key] for key in dataclass_options(SessionSettings) if flags.get(key) is not None}
            return run_search(Search.resume(name, store=store, ask=shared.ask_function(), **changes), output, began)
        new_run_folder(Path(store), name)
    if dry_run:
        # Not `named_evaluator`, which would note that the file is trusted: nothing is written here.
        code = patched_code(evaluator, **patch_flags, store=Path(store), genes=read_genes)
        patches = None if code is None else code.patches
        all_genes = {**read_genes, **(patches.genes if patches else {})}
        plugin = find_evaluator(evaluator, all_genes, evaluator_options, patches)
        print_plan(plugin, Request(**request, code=code), settings, Path(store), output)
        return 0
    search = Search(evaluator, store=store, name=name, **request, **patch_flags, **settings)
    return run_search(search, output, began)


def _ladder_genes(ladder: str, evaluator: str, options: dict[str, Any]) -> "dict[str, Gene]":
    """Return the evaluator's depth and width as the ladder has them: its rungs may lie outside of their own range."""
    from evo_tune.genome.genes import Choice
    from evo_tune.plugins.command import is_command
    from evo_tune.plugins.find import find_evaluator
    from evo_tune.strategies.ladder import parse_sizes

    gene_names: Collection[str] = ("depth", "width")
    if not is_command(evaluator):
        gene_names = find_evaluator(evaluator).bind(options).space.genes
    depths, widths = zip(*parse_sizes(ladder), strict=True)
    sizes = {"depth": depths, "width": widths}
    return {name: Choice(tuple(sorted({*sizes[name]})), ordered=True) for name in sizes if name in gene_names}
