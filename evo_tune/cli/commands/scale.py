"""`evo-tune scale`: transfer the recipe of a run to another size, and predict the cost and the loss of its training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evo_tune.cli import shared
from evo_tune.cli.help import cli_command
from evo_tune.errors import OptionError, UsageError

if TYPE_CHECKING:
    from evo_tune.genome.trial import Trial
    from evo_tune.plugins.evaluator import BoundEvaluator, Evaluator
    from evo_tune.store.run import Run
    from evo_tune.training.recipe.transferring import GeneMove, MemoryFit
    from evo_tune.training.scale.recipe import (
        LawLearningRate,
        ProbeResult,
        ScaledRecipe,
        TargetLoss,
    )

HELP_ORDER = 115

MOST = 30
"""Most probes."""

PART = 1 / 4
"""Share of the text on which each probe is trained once more, so that the effect of the text can be measured."""

AT_TARGET = 3
"""Number of probes at the target by default: its learning rate, half of it, and twice of it."""

SHORT = "-short"
"""Ending of the name of the run with these trainings."""


class Count(click.ParamType):  # type: ignore[type-arg]  # not generic in older versions of click
    """A whole number, also as 1e9."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            number = float(value)
            if number < 1 or number != int(number):
                raise ValueError
        except (ValueError, OverflowError):
            self.fail(f"{value!r}: expected a whole number from 1, such as 1e9", param, ctx)
        return int(number)


@cli_command(
    "scale",
    "evo-tune scale mine --depth 24 --width 1024 --tokens 1e9",
    "evo-tune scale mine --depth 4 --width 256 --tokens 1e7 --probe 3 --emit target.toml",
)
@shared.run_argument
@click.option("--width", type=click.IntRange(min=1), required=True, help="Width of the target model.")
@click.option("--depth", type=click.IntRange(min=1), required=True, help="Blocks of the target model.")
@click.option("--tokens", type=Count(), required=True, help="Length of the target's training in tokens, such as 1e9.")
@click.option("--batch", type=Count(), help="Tokens in a step of the target's training.  [default: by a rule]")
@click.option("--trial", type=click.IntRange(min=0), help="Trial whose recipe is transferred instead of the best.")
@click.option(
    "--speed", type=click.FloatRange(min=0, min_open=True), help="Speed of the target's training, in tokens per second."
)
@click.option("--price-per-hour", "price", type=click.FloatRange(min=0), help="Price of an hour of one device.")
@click.option(
    "--memory", type=click.FloatRange(min=0, min_open=True), help="Memory of a GPU, in GiB.  [default: 24, and 80]"
)
@click.option(
    "--with",
    "others",
    multiple=True,
    metavar="RUN",
    help="Another run on the same data, which improves the predicted loss.",
)
@click.option(
    "--probe",
    type=click.IntRange(0, MOST),
    metavar="K",
    help="Number of probes between the run's size and the target's.  [default: 3 at the target, if they take no longer "
    "than the search did]",
)
@click.option(
    "--emit",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write with the recipe as flags, for `evo-tune run --config`.",
)
@shared.store_option
@shared.evaluator_option
@shared.trust_option
@shared.format_option("table", "json")
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
    from evo_tune.training.scale.recipe import TransferRequest

    saved = shared.open_run(run, store)
    bound = bind_to_run(saved, load_run_evaluator(saved, evaluator, trust, shared.ask_function()))
    trial_to_scale = trial_to_transfer(saved, trial)
    target_request = TransferRequest(**target)
    size = f"{target_request.depth}x{target_request.width}"
    if emit is not None and emit.exists():
        raise UsageError(f"--emit {emit}: exists; choose another file")
    recipe = scale_run(saved, bound, target_request, trial=trial_to_scale)  # before any probe, since it may fail
    probes, there = (Path(store) / f"{saved.name}-{kind}-{size}" for kind in ("probe", "target"))
    probed = None
    quiet = output_format == "json"
    if probe:
        probed = _probe(saved, bound, recipe, trial_to_scale, probe, probes, quiet)
    elif probe is None and _affordable(saved, recipe, quiet):
        probed = _probe_target(saved, bound, recipe, there)
    known = [_on_same_data(saved, shared.open_run(other, store), other) for other in others]
    short = probes.with_name(probes.name + SHORT)
    known += [Run.open(folder) for folder in (probes, short, there) if folder.is_dir()]
    recipe = scale_run(saved, bound, target_request, trial=trial_to_scale, other_runs=known)
    recipe.probe = probed
    name = f"{saved.name}-{size}"
    if emit is not None:
        _emit(emit, bound.plugin, name, recipe, saved)
        recipe.emitted = str(emit)
    if output_format == "json":
        shared.print_json(recipe)
        return 0
    _print(recipe)
    if emit is not None:
        shared.echo()
        shared.echo(f"wrote {emit}; use it with:")
        shared.echo(f"  evo-tune run --config {emit}")
        shared.echo(f"  evo-tune export {name} model")
    return 0


def _on_same_data(run: Run, other: Run, given: str) -> Run:
    if other.manifest.fingerprint != run.manifest.fingerprint:
        raise UsageError(f"--with {given}: expected a run on the data of {run.name}; other losses cannot be compared")
    return other


def _affordable(run: Run, recipe: ScaledRecipe, quiet: bool) -> bool:
    """Return whether `AT_TARGET` trainings at the target take no longer than the search did; say what they take."""
    own = recipe.target.parameters == recipe.found.parameters and recipe.target.tokens == recipe.found.tokens
    if own or recipe.hours is None:
        return False
    takes, spent = AT_TARGET * recipe.hours, sum(trial.outcome.seconds for trial in run.trials()) / 3600
    cost = f"{AT_TARGET} trainings at the target take about {takes:.3g} h, and the search took {spent:.3g} h"
    affordable = takes <= spent
    if not quiet:
        what = "probing its learning rate, half and twice of it" if affordable else "not probed; --probe 3 is cheaper"
        shared.echo(f"{cost}: {what}")
    return affordable


def _probe_target(run: Run, evaluator: BoundEvaluator, recipe: ScaledRecipe, folder: Path) -> list[ProbeResult]:
    """Train the recipe at the target with its learning rate, half of it and twice of it; return the result."""
    from evo_tune.training.scale.recipe import probe_rates, probe_results

    lr = float(recipe.genome["lr"])
    genomes = [{**recipe.genome, "lr": rate} for rate in probe_rates(lr, AT_TARGET)]
    trials = _train(run, evaluator.plugin, genomes, recipe.options, folder)
    return probe_results(trials, run.objectives[0].metric, {recipe.target.width: lr})


def _probe(
    run: Run,
    evaluator: BoundEvaluator,
    recipe: ScaledRecipe,
    trial_to_scale: Trial,
    count: int,
    folder: Path,
    quiet: bool,
) -> list[ProbeResult]:
    """Train probes between the size of the run and the target, and return the result at each size.

    Args:
        run: Run with the recipe.
        evaluator: Evaluator of the run, with its options.
        recipe: Recipe at the target.
        trial_to_scale: Trial with the recipe.
        count: Number of probes.
        folder: Run folder of the probes; that of their short trainings is beside it. Existing runs are continued.
        quiet: Whether to print nothing.
    """
    from dataclasses import replace

    from evo_tune.training.scale.recipe import probe_rates, probe_results, probe_sizes, recipe_at

    sizes = probe_sizes(recipe.found, recipe.target, count)
    shares = [count // len(sizes) + (place < count % len(sizes)) for place in range(len(sizes))]
    if not quiet:
        whole, part = sizes[0].tokens, round(PART * sizes[0].tokens)
        shared.echo(
            f"probing: {count} trainings of {whole:,} tokens, as run {folder.name}, and {count} of {part:,}, as run "
            f"{folder.name + SHORT}, to measure the effect of the text"
        )
    trials: list[Trial] = []
    for ending, share in ((SHORT, PART), ("", 1.0)):
        targets = [replace(size, tokens=max(1, round(share * size.tokens))) for size in sizes]
        there = [recipe_at(evaluator, target, trial_to_scale) for target in targets]
        genomes = [
            {**one.genome, "lr": lr}
            for one, many in zip(there, shares, strict=True)
            for lr in probe_rates(one.genome["lr"], many)
        ]
        trials = _train(run, evaluator.plugin, genomes, there[0].options, folder.with_name(folder.name + ending))
    rates = {size.width: float(one.genome["lr"]) for size, one in zip(sizes, there, strict=True)}
    return probe_results(trials, run.objectives[0].metric, rates)


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
            values = tuple(dict.fromkeys(genome[gene] for genome in genomes))
            numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
            genes[gene] = Choice(tuple(sorted(values)) if numbers else values, ordered=numbers, default=first)
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


def _emit(path: Path, plugin: Evaluator, name: str, recipe: ScaledRecipe, run: Run) -> None:
    from evo_tune.training.scale.recipe import recipe_flags

    reference = plugin.name if plugin.origin == "bundled" else plugin.reference
    try:
        path.write_text(recipe_flags(reference, name, recipe, run.manifest.options, plugin.options), encoding="utf-8")
    except OSError as error:
        raise OptionError(f"--emit {path}: {error.strerror}; choose another file") from None


def _print(recipe: ScaledRecipe) -> None:
    target, at_run = recipe.target, recipe.found
    shared.print_table([_gene(row) for row in recipe.rows], f"trial {recipe.trial} of {recipe.run} at the target size")
    for remark in recipe.remarks:
        shared.echo(f"note: {remark}")
    shared.print_table([_law(row) for row in recipe.laws], "peak learning rates")
    price = "" if recipe.price is None else f", {recipe.price:,.2f} for the hours"
    hours = "unknown" if recipe.hours is None else f"{recipe.hours:,.3g}"
    epochs = "" if target.epochs is None else f"; the text is read {target.epochs:.3g} times"
    lines = [
        f"learning rate of hidden matrices: {at_run.lr_hidden:.3g} in the run, {target.lr_hidden:.3g} at the target",
        "",
        f"model: depth {target.depth}, width {target.width}, {target.heads} heads, context {target.context}: "
        f"{target.parameters:,} weights, {target.without_embeddings:,} without embeddings",
        f"training: {target.tokens:,.0f} tokens in {target.steps:,} steps of {target.batch:,}, "
        f"{target.flops:.3g} FLOPs ({target.flops / at_run.flops:.3g} times the run's training)",
        f"tokens per parameter: {recipe.tokens_per_parameter:.3g} (compute-optimal: 20, {recipe.optimal_tokens:.3g} "
        f"tokens, arXiv:2203.15556){epochs}",
        *(f"memory: {_fit(fit)}" for fit in recipe.fits),
        f"hours: {hours} on one device ({recipe.speed}){price}",
        _loss(recipe.loss),
        *(_probe_line(row) for row in recipe.probe or ()),
    ]
    for line in lines:
        shared.echo(line)


def _gene(row: GeneMove) -> dict[str, Any]:
    from msgspec import structs

    factor = "" if row.factor is None or row.kind == "kept" else f"x{row.factor:.3g}"
    return {**structs.asdict(row), "factor": factor}


def _law(row: LawLearningRate) -> dict[str, Any]:
    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.3g}"

    outside = {"run": row.outside_run, "target": row.outside}
    return {
        "law": row.law,
        "for the run": number(row.at_run),
        "at the target": number(row.lr),
        "run's, scaled by it": number(row.moved),
        "batch": number(row.batch),
        "outside of its fit": "; ".join(f"{what}: {text}" for what, text in outside.items() if text),
        "source": row.source,
    }


def _fit(row: MemoryFit) -> str:
    where = f"{row.ranks} GPU{'s' * (row.ranks > 1)} of {row.memory:g} GiB"
    if row.micro_batch is None or row.passes is None:
        return f"not even one window fits into {where}"
    again = ", with recomputed blocks" if row.recompute else ""
    passes = f"{row.passes} pass{'es' * (row.passes > 1)}"
    return f"{where}: {row.micro_batch} windows at a time, {passes} a step{again}, {row.predicted:.3g} GiB"


def _loss(loss: TargetLoss) -> str:
    law = loss.law
    if law is None or loss.extrapolation is None:
        return f"{loss.metric} at the target: not predicted: {loss.why} (--with RUN adds the trainings of a run)"
    far = f"; {loss.extrapolation:.3g} times beyond what was trained" if loss.extrapolation > 1 else ""
    return (
        f"predicted {loss.metric}: {loss.loss:.4g} ({loss.share:.0%} interval {loss.low:.4g} to {loss.high:.4g}; "
        f"{law.floor:.3g} + {law.size:.3g}/N^{law.alpha:.2f} + {law.text:.3g}/D^{law.beta:.2f} from "
        f"{loss.trainings} trainings{far})" + (f"; {loss.narrow}" if loss.narrow else "")
    )


def _probe_line(row: ProbeResult) -> str:
    where = f"probe at {row.depth}x{row.width}"
    if row.confirmed is None:
        return f"{where}: {row.trainings} training{'s' * (row.trainings > 1)} are too few to tell"
    best = "" if row.optimum is None else f", lowest at {row.optimum:.3g} by a parabola"
    verdict = "confirmed" if row.confirmed else "not confirmed"
    return (
        f"{where}: the transferred learning rate {row.transferred:.3g} is {verdict}: loss {row.loss:.4g}, the best "
        f"{row.best_loss:.4g} at {row.best:.3g}{best}"
    )
