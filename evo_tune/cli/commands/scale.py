"""`evo-tune scale`: a run's recipe at another size, and what the training there takes and reaches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evo_tune.cli import _shared as shared
from evo_tune.cli.help import command as made
from evo_tune.errors import OptionError, UsageError

if TYPE_CHECKING:
    from evo_tune.forecast.scale import Basin, GeneMove, LawRate, MemoryFit, ScaledRecipe, TargetLoss, Wanted
    from evo_tune.genome.trial import Trial
    from evo_tune.plugins.evaluator import Evaluator
    from evo_tune.store.run import Run

PLACE = 115

MOST = 30
"""Probes at most."""

PART = 1 / 4
"""Of the probes' text, on which each of them is trained once more: what text brings is to be seen too."""

SHORT = "-short"
"""How the name of the run of those ends."""


class Count(click.ParamType):  # type: ignore[type-arg]  # a class of its own in older versions
    """A whole number as people type large ones: 1e9, 300000."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            number = float(value)
            if number < 1 or number != int(number):
                raise ValueError
        except (ValueError, OverflowError):
            self.fail(f"{value!r}: expected a whole number from 1, such as 1e9", param, ctx)
        return int(number)


@made(
    "scale",
    "evo-tune scale mine --width 1024 --depth 24 --tokens 1e9",
    "evo-tune scale mine --width 256 --depth 4 --tokens 1e7 --probe 3 --emit target.toml",
)
@shared.run_argument
@click.option("--width", type=click.IntRange(min=1), required=True, help="Of the model.")
@click.option("--depth", type=click.IntRange(min=1), required=True, help="Blocks.")
@click.option("--tokens", type=Count(), required=True, help="Of text that it is trained on: 1e9.")
@click.option("--batch", type=Count(), help="Tokens in a step.  [default: by rule]")
@click.option("--trial", type=click.IntRange(min=0), help="Carry this trial's recipe instead of the best.")
@click.option("--speed", type=click.FloatRange(min=0, min_open=True), help="Tokens a second of the target's training.")
@click.option("--price-per-hour", type=click.FloatRange(min=0), help="In any currency.")
@click.option("--memory", type=click.FloatRange(min=0, min_open=True), help="Of a GPU, GiB.  [default: 24, and 80]")
@click.option("--with", "others", multiple=True, metavar="RUN", help="Run whose trainings tell of the loss too.")
@click.option("--probe", type=click.IntRange(1, MOST), metavar="K", help="Train K short ones on the way, and look.")
@click.option("--emit", type=click.Path(dir_okay=False, path_type=Path), help="Write flags for `run --config`.")
@shared.store_option
@click.option("--evaluator", metavar="PATH", help="Where the evaluator's file is now, if it has moved.")
@shared.trust_option
@shared.format_option("table", "json")
def command(
    run: str | None,
    width: int,
    depth: int,
    tokens: int,
    batch: int | None,
    trial: int | None,
    speed: float | None,
    price_per_hour: float | None,
    memory: float | None,
    others: tuple[str, ...],
    probe: int | None,
    emit: Path | None,
    store: str,
    evaluator: str | None,
    trust: bool,
    form: str,
) -> int:
    """Carry the best recipe of RUN to another size, and say what the training there takes and reaches.

    Every gene is carried, scaled by a rule, or said not to be transferable; published laws of the learning rate stand
    beside, with the range in which they were fitted.
    """
    from evo_tune.forecast.scale import Wanted, found_in, scaled
    from evo_tune.loop.code import evaluator_of
    from evo_tune.store.places import find_run
    from evo_tune.store.run import Run

    places = {"store": Path(store)}
    saved = Run.open(find_run(places["store"], run))
    plugin = evaluator_of(saved, evaluator, trust, shared.asking())
    found = found_in(saved, trial)
    wanted = Wanted(
        width=width, depth=depth, tokens=tokens, batch=batch, speed=speed, price=price_per_hour, memory=memory
    )
    if emit is not None and emit.exists():
        raise UsageError(f"--emit {emit}: exists; choose another file")
    told = scaled(saved, plugin, wanted, trial=found)  # what cannot be carried is said before anything is trained
    name = f"{saved.name}-probe-{depth}x{width}"
    probed = None if probe is None else _probe(saved, plugin, wanted, told, found, probe, name, places["store"], form)
    known = [_like(saved, Run.open(find_run(places["store"], other)), other) for other in others]
    known += [Run.open(places["store"] / one) for one in (name, name + SHORT) if (places["store"] / one).is_dir()]
    told = scaled(saved, plugin, wanted, trial=found, others=known)
    told.probe, told.emitted = probed, None if emit is None else str(emit)
    if emit is not None:
        _emit(emit, plugin, f"{saved.name}-{depth}x{width}", told, saved)
    if form == "json":
        shared.print_json(told)
        return 0
    _print(told)
    if emit is not None:
        shared.echo()
        shared.echo(f"written: {emit}")
        shared.echo(f"  evo-tune run --config {emit}")
        shared.echo(f"  evo-tune export {saved.name}-{depth}x{width} model")
    return 0


def _like(run: Run, other: Run, given: str) -> Run:
    """Return another run on the same data.

    Raises:
        UsageError: It is on other data, whose losses tell nothing here.
    """
    if other.manifest.fingerprint != run.manifest.fingerprint:
        raise UsageError(f"--with {given}: expected a run on the data of {run.name}: losses on other data tell nothing")
    return other


def _probe(
    run: Run,
    plugin: Evaluator,
    wanted: Wanted,
    told: ScaledRecipe,
    found: Trial,
    count: int,
    name: str,
    store: Path,
    form: str,
) -> list[Basin]:
    """Make, or go on with, the runs of short trainings on the way, and return what they say at each size."""
    from dataclasses import replace

    from evo_tune.forecast.carry import basin, between, probe_rates
    from evo_tune.forecast.scale import recipe_at

    sizes = between(told.found, told.target, wanted, count)
    shares = [count // len(sizes) + (place < count % len(sizes)) for place in range(len(sizes))]
    if form != "json":
        whole, part = sizes[0].tokens, round(PART * sizes[0].tokens)
        shared.echo(
            f"probing: {count} trainings of {whole:,} tokens, as run {name}, and {count} of {part:,}, as run "
            f"{name + SHORT}, so that what text brings can be seen"
        )
    trials: list[Trial] = []
    for ending, share in ((SHORT, PART), ("", 1.0)):
        targets = [replace(size, tokens=max(1, round(share * size.tokens))) for size in sizes]
        there = [recipe_at(run, plugin, size, found) for size in targets]
        genomes = [
            {**one.genome, "lr": lr}
            for one, many in zip(there, shares, strict=True)
            for lr in probe_rates(one.genome["lr"], many)
        ]
        trials = _trained(run, plugin, genomes, there[0].options, name + ending, store)
    rates = {size.width: float(one.genome["lr"]) for size, one in zip(sizes, there, strict=True)}
    return basin(trials, run.objectives[0].metric, rates)


def _trained(
    run: Run,
    plugin: Evaluator,
    genomes: Sequence[Mapping[str, Any]],
    options: Mapping[str, Any],
    name: str,
    store: Path,
) -> list[Trial]:
    """Train genomes once each, as a run of their own that is gone on with where it is there already; return its trials.

    Raises:
        UsageError: It was interrupted.
    """
    from evo_tune.genome.genes import Choice
    from evo_tune.loop.search import Search

    if (store / name).exists():
        search = Search.resume(name, store=store, trials=len(genomes))
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
            seed=run.manifest.seed,
            threads=run.manifest.threads,
            store=store,
            name=name,
            trials=len(genomes),
            calibrate=0,
        )
    with search:
        search.run()
        if search.stopping:
            raise UsageError(f"interrupted; go on with the same command, or `evo-tune resume {name}`")
        return search.saved.trials()


def _emit(path: Path, plugin: Evaluator, name: str, told: ScaledRecipe, run: Run) -> None:
    from evo_tune.forecast.carry import as_flags

    reference = plugin.name if plugin.origin == "bundled" else plugin.reference
    try:
        path.write_text(as_flags(reference, name, told, run.manifest.options, plugin.options), encoding="utf-8")
    except OSError as error:
        raise OptionError(f"--emit {path}: {error.strerror}; choose another file") from None


def _print(told: ScaledRecipe) -> None:
    """Print it for people."""
    target, found = told.target, told.found
    shared.print_table([_gene(row) for row in told.rows], f"trial {told.trial} of {told.run}, carried")
    for remark in told.remarks:
        shared.echo(f"note: {remark}")
    shared.print_table([_law(row) for row in told.laws], "peak learning rates")
    shared.echo(f"of hidden matrices {found.lr_hidden:.3g} in the run, {target.lr_hidden:.3g} at the target")
    shared.echo("")
    shared.echo(
        f"model: depth {target.depth}, width {target.width}, {target.heads} heads, context "
        f"{target.context}: "
        f"{target.parameters:,} weights, {target.without_embeddings:,} without embeddings"
    )
    shared.echo(
        f"training: {target.tokens:,.0f} tokens in {target.steps:,} steps of {target.batch:,}, "
        f"{target.flops:.3g} FLOPs ({target.flops / found.flops:.3g} times the run's training)"
    )
    shared.echo(
        f"tokens per parameter: {told.tokens_per_parameter:.3g} (compute-optimal: 20, {told.optimal_tokens:.3g} "
        f"tokens, arXiv:2203.15556); the text is read {target.epochs:.3g} times"
    )
    for fit in told.fits:
        shared.echo(f"memory: {_fit(fit)}")
    price = "" if told.price is None else f", {told.price:,.2f} for the hours"
    hours = "unknown" if told.hours is None else f"{told.hours:,.3g}"
    shared.echo(f"hours: {hours} on one device ({told.speed}){price}")
    shared.echo(_loss(told.loss))
    for basin in told.probe or ():
        shared.echo(_basin(basin))


def _gene(row: GeneMove) -> dict[str, Any]:
    factor = "" if row.factor is None or row.kind == "carried" else f"x{row.factor:.3g}"
    return {
        "gene": row.gene,
        "kind": row.kind,
        "found": row.found,
        "target": row.target,
        "factor": factor,
        "rule": row.rule,
        "source": row.source,
    }


def _law(row: LawRate) -> dict[str, Any]:
    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.3g}"

    marks = [text for text in (_outside("run", row.outside_run), _outside("target", row.outside)) if text]
    return {
        "law": row.law,
        "for the run": number(row.at_run),
        "at the target": number(row.lr),
        "moved from the run's": number(row.moved),
        "batch": number(row.batch),
        "outside of its fit": "; ".join(marks),
        "source": row.source,
    }


def _outside(what: str, text: str) -> str:
    return f"{what}: {text}" if text else ""


def _fit(row: MemoryFit) -> str:
    where = f"{row.ranks} GPU{'s' if row.ranks > 1 else ''} of {row.memory:g} GiB"
    if row.micro_batch is None or row.passes is None:
        return f"not even one window fits into {where}"
    again = ", blocks computed again" if row.recompute else ""
    passes = f"{row.passes} pass{'es' if row.passes > 1 else ''}"
    return f"{where}: {row.micro_batch} windows at a time, {passes} a step{again}, {row.predicted:.3g} GiB"


def _loss(loss: TargetLoss) -> str:
    name = f"predicted {loss.metric}"
    law = loss.law
    if law is None or loss.further is None:
        return f"{name}: not identifiable: {loss.why} (`run --for-scale` makes them; --with RUN adds a run's)"
    far = f"; {loss.further:.3g} times beyond what was trained" if loss.further > 1 else ""
    return (
        f"{name}: {loss.loss:.4g}, {loss.share:.0%} between {loss.low:.4g} and {loss.high:.4g} "
        f"({law.floor:.3g} + {law.size:.3g}/N^{law.alpha:.2f} + {law.text:.3g}/D^{law.beta:.2f} from "
        f"{loss.trainings} trainings{far})"
    )


def _basin(row: Basin) -> str:
    where = f"probe at {row.depth}x{row.width}"
    if row.holds is None:
        return f"{where}: nothing can be told from {row.trainings} training{'s' * (row.trainings > 1)}"
    best = "" if row.optimum is None else f", lowest at {row.optimum:.3g} by a parabola"
    verdict = "the basin holds" if row.holds else "the basin does not hold"
    return (
        f"{where}: {verdict}: {row.loss:.4g} at the carried {row.carried:.3g}, the best "
        f"{row.best_loss:.4g} at {row.best:.3g}{best}"
    )
