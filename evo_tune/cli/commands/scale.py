"""`evo-tune scale`: transfer the recipe of a run to another size, and predict the cost and the loss of its training."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evo_tune.cli import shared
from evo_tune.cli.help import cli_command
from evo_tune.errors import OptionError, UsageError, explain_error
from evo_tune.trust.safe_files import complete_or_absent

if TYPE_CHECKING:
    from evo_tune.genome.trial import Trial
    from evo_tune.plugins.evaluator import BoundEvaluator, Evaluator
    from evo_tune.store.run import Run
    from evo_tune.training.scale.recipe import ScaledRecipe, TargetLoss

# Most probes.
MOST = 30

# Share of the text on which each probe is trained once more, so that the effect of the text can be measured.
PART = 1 / 4

# Number of probes at the target by default: its learning rate, half of it, and twice of it.
AT_TARGET = 3

# Ending of the name of the run with these trainings.
SHORT = "-short"


def parse_count(text: str) -> int:
    """Return a whole number from 1, which may be written as 1e9."""
    with contextlib.suppress(ValueError):
        if (number := float(text)) >= 1 and number.is_integer():
            return int(number)
    raise click.BadParameter(f"{text!r}: expected a whole number from 1, such as 1e9")


@cli_command(
    "scale",
    "evo-tune scale mine --depth 24 --width 1024 --tokens 1e9",
    "evo-tune scale mine --depth 4 --width 256 --tokens 1e7 --emit target.toml",
    order=115,
)
@shared.run_argument
@click.option("--width", type=shared.COUNT, required=True, help="Width of the target model.")
@click.option("--depth", type=shared.COUNT, required=True, help="Blocks of the target model.")
@click.option("--tokens", type=parse_count, metavar="N", required=True, help="Tokens of the target's training: 1e9.")
@click.option("--batch", type=parse_count, metavar="N", help="Tokens in a step of that training.  [default: by a rule]")
@click.option("--trial", type=shared.NOT_NEGATIVE, help="Trial whose recipe is transferred instead of the best.")
@click.option("--speed", type=shared.POSITIVE, help="Speed of the target's training, in tokens per second.")
@click.option("--price-per-hour", "price", type=click.FloatRange(min=0), help="Price of an hour of one device.")
@click.option("--memory", type=shared.POSITIVE, help="Memory of a GPU, in GiB.  [default: 24, and 80]")
@click.option(
    "--with", "others", multiple=True, metavar="RUN", help="Another run on these data, for the predicted loss."
)
@click.option(
    "--probe",
    type=click.IntRange(0, MOST),
    metavar="K",
    help="Number of probes between the run's size and the target's.  [default: 3 at the target, if they take no longer "
    "than the search did]",
)
@click.option(
    "--emit", type=click.Path(dir_okay=False, path_type=Path), help="File to write, for `evo-tune run --config`."
)
@shared.store_option
@shared.evaluator_option
@shared.trust_option
def command(
    run: str | None,
    trial: int | None,
    others: tuple[str, ...],
    probe: int | None,
    emit: Path | None,
    store: str,
    evaluator: str | None,
    trust: bool,
    output_format: str,
    **target: Any,
) -> int:
    """Transfer the best recipe of RUN to another size.

    The cost and the loss of the training there are predicted. Each gene is kept, scaled by a rule, or reported as
    not transferable. Published laws of the learning rate are shown for comparison, with the range of their fit.
    """
    from evo_tune.cli.training.scaling import scale_run, trial_to_transfer
    from evo_tune.loop.code import bind_to_run, load_run_evaluator
    from evo_tune.store.run import Run
    from evo_tune.training.scale.recipe import TransferRequest, probe_rates, probe_results, recipe_config_toml
    from evo_tune.trust.decide import Consent

    saved = shared.open_run(run, store)
    bound = bind_to_run(saved, load_run_evaluator(saved, Consent(trust, shared.ask_function()), evaluator))
    trial_to_scale, request = trial_to_transfer(saved, trial), TransferRequest(**target)
    if emit is not None and emit.exists():
        raise UsageError(f"--emit {emit}: exists; choose another file")
    recipe = scale_run(saved, bound, request, trial=trial_to_scale)  # before any probe, since it may fail

    size, metric = f"{request.depth}x{request.width}", saved.objectives[0].metric
    probe_folder, target_folder = (Path(store) / f"{saved.name}-{kind}-{size}" for kind in ("probe", "target"))
    short_folder = probe_folder.with_name(probe_folder.name + SHORT)
    results = None
    if probe:
        trials, rates = _probe_between(saved, bound, recipe, trial_to_scale, probe, probe_folder)
        results = probe_results(trials, metric, rates)
    elif probe is None and _is_target_affordable(saved, recipe):
        lr = float(recipe.genome["lr"])
        genomes = [{**recipe.genome, "lr": rate} for rate in probe_rates(lr, AT_TARGET)]
        trials = _train(saved, bound.plugin, genomes, recipe.options, target_folder)
        results = probe_results(trials, metric, {recipe.target.width: lr})

    other_runs = [shared.open_run(name, store) for name in others]
    for name, other_run in zip(others, other_runs, strict=True):
        if other_run.manifest.fingerprint != saved.manifest.fingerprint:
            raise UsageError(f"--with {name}: expected a run on the data of {saved.name}")
    other_runs += [Run.open(folder) for folder in (probe_folder, short_folder, target_folder) if folder.is_dir()]
    recipe = scale_run(saved, bound, request, trial=trial_to_scale, other_runs=other_runs)
    recipe.probe = results
    plugin, new_name = bound.plugin, f"{saved.name}-{size}"
    if emit is not None:
        reference = plugin.name if plugin.origin == "bundled" else plugin.reference
        flags = recipe_config_toml(reference, new_name, recipe, saved.manifest.options, plugin.options)
        with explain_error(OptionError, f"--emit {emit}", "choose another file"), complete_or_absent(emit) as part:
            part.write_text(flags, encoding="utf-8")
        recipe.emitted = str(emit)
    if output_format == "json":
        shared.print_json(recipe)
        return 0
    _print_recipe(recipe)
    if emit is not None:
        shared.echo("", f"wrote {emit}; use it with:", f"  evo-tune run --config {emit}")
        shared.echo(f"  evo-tune export {new_name} model")
    return 0


def _is_target_affordable(run: Run, recipe: ScaledRecipe) -> bool:
    """Return whether `AT_TARGET` trainings at the target take no longer than the search did; print the comparison."""
    is_own_size = recipe.target.parameters == recipe.found.parameters and recipe.target.tokens == recipe.found.tokens
    if is_own_size or recipe.hours is None:
        return False
    target_hours, search_hours = AT_TARGET * recipe.hours, sum(trial.outcome.seconds for trial in run.trials()) / 3600
    is_affordable = target_hours <= search_hours
    cost = f"{AT_TARGET} trainings at the target take about {target_hours:.3g} h"
    choice = "probing its learning rate, half and twice of it" if is_affordable else "not probed; --probe 3 is cheaper"
    shared.echo(f"{cost}, and the search took {search_hours:.3g} h: {choice}", err=True)
    return is_affordable


def _probe_between(
    run: Run, evaluator: BoundEvaluator, recipe: ScaledRecipe, trial_to_scale: Trial, count: int, folder: Path
) -> tuple[list[Trial], dict[int, float]]:
    """Train probes between the size of the run and the target.

    Args:
        run: Run with the recipe.
        evaluator: Evaluator of the run, with its options.
        recipe: Recipe at the target.
        trial_to_scale: Trial with the recipe.
        count: Number of probes.
        folder: Run folder of the probes; that of their short trainings is beside it. Existing runs are continued.

    Returns:
        Trials of the probes, and the transferred learning rates by width.
    """
    from dataclasses import replace

    from evo_tune.training.scale.recipe import probe_rates, probe_sizes, recipe_at

    sizes = probe_sizes(recipe.found, recipe.target, count)
    full_tokens, short_tokens = sizes[0].tokens, round(PART * sizes[0].tokens)
    shared.echo(f"probing by {count} trainings of {full_tokens:,} tokens, and {count} of {short_tokens:,}", err=True)
    trials: list[Trial] = []
    for ending, share in ((SHORT, PART), ("", 1.0)):
        targets = [replace(size, tokens=max(1, round(share * size.tokens))) for size in sizes]
        recipes = [recipe_at(evaluator, target, trial_to_scale) for target in targets]
        genomes = []
        for index, size_recipe in enumerate(recipes):  # the first sizes get one probe more
            probes = count // len(sizes) + (index < count % len(sizes))
            genomes += [{**size_recipe.genome, "lr": lr} for lr in probe_rates(size_recipe.genome["lr"], probes)]
        trials = _train(run, evaluator.plugin, genomes, recipes[0].options, folder.with_name(folder.name + ending))
    rates = {size.width: float(recipe.genome["lr"]) for size, recipe in zip(sizes, recipes, strict=True)}
    return trials, rates


def _train(
    run: Run, plugin: Evaluator, genomes: Sequence[Mapping[str, Any]], options: Mapping[str, Any], folder: Path
) -> list[Trial]:
    """Train genomes once each in a run of their own, which is continued if it exists, and return its trials.

    Raises:
        UsageError: It was interrupted.
    """
    from evo_tune.genome.genes import Choice
    from evo_tune.loop.search import Search

    if folder.exists():
        search = Search.resume(folder.name, store=folder.parent, trials=len(genomes))
    else:
        genes: dict[str, Any] = {}
        for gene, first in genomes[0].items():
            genes[gene] = Choice(tuple(dict.fromkeys(genome[gene] for genome in genomes)), default=first)
        search = Search(
            plugin.reference,
            options={**run.manifest.options, **options},
            strategy="random",
            genes=genes,
            warm_start=genomes,
            seed=run.manifest.settings.seed,
            threads=run.manifest.threads,
            store=folder.parent,
            name=folder.name,
            trials=len(genomes),
            final_seeds=0,
        )
    with search:
        search.run()
        if search.stopping:
            raise UsageError(f"interrupted; continue with the same command, or `evo-tune resume {folder.name}`")
        return search.saved.trials()


def _print_recipe(recipe: ScaledRecipe) -> None:
    from msgspec import structs

    shared.print_rows(recipe.rows, "table", f"trial {recipe.trial} of {recipe.run} at the target size")
    shared.echo(*(f"note: {remark}" for remark in recipe.remarks))
    shared.print_rows(recipe.laws, "table", "peak learning rates")
    at_run, at_target = (structs.asdict(size) for size in (recipe.found, recipe.target))
    sizes = [{"training": name.replace("_", " "), "run": at_run[name], "target": at_target[name]} for name in at_run]
    shared.print_rows(sizes, "table", "sizes")
    shared.print_rows(recipe.fits, "table", "memory on GPUs, in GiB, and windows in a pass (-: not even one fits)")
    price = "" if recipe.price is None else f", {recipe.price:,.2f} for the hours"
    hours = "unknown" if recipe.hours is None else f"{recipe.hours:,.3g}"
    shared.echo(
        f"tokens per parameter: {recipe.tokens_per_parameter:.3g} (compute-optimal: 20, {recipe.optimal_tokens:.3g} "
        "tokens, arXiv:2203.15556)",
        f"hours: {hours} on one device ({recipe.speed}){price}",
        _loss_text(recipe.loss),
    )
    if recipe.probe:
        shared.print_rows(recipe.probe, "table", "probes")


def _loss_text(loss: TargetLoss) -> str:
    if loss.law is None or loss.extrapolation is None:
        return f"{loss.metric} at the target: not predicted: {loss.why} (--with RUN adds the trainings of a run)"
    interval = f"{loss.share:.0%} interval {loss.low:.4g} to {loss.high:.4g}"
    beyond = f", {loss.extrapolation:.3g} times beyond what was trained" if loss.extrapolation > 1 else ""
    text = f"predicted {loss.metric}: {loss.loss:.4g} ({interval}, from {loss.trainings} trainings{beyond})"
    return f"{text}; {loss.narrow}" if loss.narrow else text
