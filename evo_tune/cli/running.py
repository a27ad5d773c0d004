"""`evo-tune run` and `evo-tune resume`: make a run, or go on with one, and say how it ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from evo_tune.cli import _shared as shared
from evo_tune.errors import OptionError

if TYPE_CHECKING:
    from evo_tune.genome.space import Gene
    from evo_tune.loop.search import Search

Command = TypeVar("Command", bound=Callable[..., Any])

SESSION = (
    *("trials", "generations", "budget", "hours", "slots", "devices", "per_device", "timeout", "retries"),
    *("calibrate", "calibrate_best", "backend", "address", "max_slots"),
)
"""Flags that are fields of `store.session.Session`; all of them default to None here: not given."""


def _session_options(function: Command) -> Command:
    """Add the flags that may differ from one session of a run to the next."""
    positive = click.IntRange(min=1)
    above = click.FloatRange(min=0, min_open=True)
    for option in reversed(
        [
            click.option("--generations", type=positive, help="Stop after so many generations in all.  [default: 5]"),
            click.option("--trials", type=positive, help="Stop after so many births in all."),
            click.option("--budget", type=above, help="Stop after training worth so many full trainings in all."),
            click.option("--hours", type=above, help="Stop after so many hours in all."),
            click.option("--slots", type=positive, help="Trainings at once.  [default: one per GPU, else per core]"),
            click.option("--devices", metavar="LIST", help="'cpu', 'cuda', or GPUs by number: 0,2."),
            shared.per_device_option,
            click.option("--timeout", type=above, metavar="SECONDS", help="Give up an evaluation after so long."),
            click.option("--retries", type=click.IntRange(min=0), help="Tries more if its process dies.  [default: 0]"),
            click.option(
                "--calibrate",
                type=click.IntRange(min=0),
                help="Fresh seeds with which the best and the default are trained at the end.  [default: 3]",
            ),
            click.option("--calibrate-best", type=positive, help="How many of the best.  [default: 2]"),
            click.option(
                "--backend",
                type=click.Choice(["joblib", "dask", "ray"]),
                help="Where trainings run: processes here, or a cluster.  [default: joblib]",
            ),
            click.option("--address", metavar="URL", help="Of a cluster, tcp://HOST:8786.  [default: one is started]"),
            click.option("--max-slots", type=positive, help="On a cluster that grows: slots there may be."),
            click.option("--quiet", is_flag=True, help="Print nothing but errors."),
            shared.format_option("table", "json"),
        ]
    ):
        function = option(function)
    return function


def _read_config(ctx: click.Context, parameter: click.Parameter, path: str | None) -> None:
    """Take the flags of `run` from a TOML file; flags typed beside it win."""
    if path is None:
        return
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib
    try:
        given = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OptionError(f"--config {path}: {error}; expected a TOML file") from None
    flags = {opt.lstrip("-").replace("-", "_"): flag for flag in ctx.command.params for opt in flag.opts}
    defaults: dict[str, Any] = {}
    for key, value in given.items():
        flag = flags.get(key.replace("-", "_"))
        if flag is None or flag.name is None or flag is parameter:
            raise OptionError(f"--config {path}: {key!r} is no flag of run; `evo-tune run --help` lists them")
        if flag.name in defaults:
            raise OptionError(f"--config {path}: {key} is given twice, by two names: give it once")
        try:
            defaults[flag.name] = _of_flag(flag, value, ctx)
        except (ValueError, click.BadParameter) as error:
            what = error.message.rstrip(".") if isinstance(error, click.BadParameter) else f"{value!r}: {error}"
            raise OptionError(f"--config {path}, {key}: {what}") from None
    ctx.default_map = {**(ctx.default_map or {}), **defaults}


def _of_flag(flag: click.Parameter, value: object, ctx: click.Context) -> object:
    """Return a TOML value as a flag takes it.

    Raises:
        ValueError: It is of another kind; the text says which was expected.
        click.BadParameter: It is out of range, or none of the flag's choices.
    """
    if getattr(flag, "multiple", False):
        return _repeated(value, pairs=str(flag.metavar).startswith("NAME="))
    if value == "auto" and isinstance(flag.type, shared.CountOrAuto):
        return value
    kind: type = str
    what = "text, in quotes"
    if getattr(flag, "is_flag", False):
        kind, what = bool, "true or false"
    elif isinstance(flag.type, click.types.IntParamType):
        kind, what = int, "a whole number"
    elif isinstance(flag.type, click.types.FloatParamType):
        kind, what = float, "a number"
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise ValueError(f"expected {what}")
    return flag.type.convert(value, flag, ctx)


def _repeated(value: object, pairs: bool) -> list[str]:
    """Return the values of a repeatable flag, given as one text, a list of texts, or a table of NAME=VALUE."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    if pairs and isinstance(value, dict):  # [option] tokens = 100000
        scalar = (str, int, float)  # bool is an int
        wrong = next((name for name, item in value.items() if not isinstance(item, scalar)), None)
        if wrong is not None:
            raise ValueError(f"expected one value for {wrong}: text, a number, true or false")
        return [f"{name}={_as_text(item)}" for name, item in value.items()]
    raise ValueError("expected text, a list of texts" + (", or a table of names and values" if pairs else ""))


def _as_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@click.command("run")
@click.argument("evaluator", default="language_model")
@shared.option_option
@click.option("--strategy", help="Strategy by name or path.  [default: saea]")
@click.option(
    "-s", "--strategy-option", multiple=True, metavar="NAME=VALUE", help="Option of the strategy; repeatable."
)
@click.option(
    "--ladder",
    metavar="SIZES",
    help="Sizes (depth x width) tried in order while they pay: 2x64,4x96,6x128.",
)
@click.option(
    "--gene",
    "genes",
    multiple=True,
    metavar="NAME=GENE",
    help="E.g. lr=log(1e-5,1e-2), depth=int(1,8), heads=2|4, heads=4; NAME alone switches an optional gene on.",
)
@click.option(
    "--objective", "objectives", multiple=True, metavar="METRIC:min|max", help="Instead of the evaluator's own."
)
@click.option("--population", type=click.IntRange(min=2), help="Births in a generation.  [default: 12]")
@click.option(
    "--fidelity", default="1", metavar="FRACTIONS", help="Train in steps, the best go on: 1/9,1/3,1.  [default: 1]"
)
@click.option("--prune", is_flag=True, help="Stop a training whose learning curve is hopeless.")
@click.option(
    "--replicates", type=click.IntRange(min=1), default=1, help="Seeds with which the leader is trained.  [default: 1]"
)
@click.option(
    "--inherit",
    default="0",
    metavar="FRACTION",
    help="Begin with a relative's trained weights, for so much of a training: 1/3.  [default: 0]",
)
@click.option(
    "--subject-to", multiple=True, metavar="METRIC<=N", help="Constraint, e.g. 'params<=2e6', 'accuracy>=0.9'."
)
@_session_options
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the run.")
@click.option("--name", help="Name of the run.  [default: evaluator and time]")
@shared.store_option
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of one training.  [default: 1 on CPUs]")
@click.option(
    "--order",
    type=click.Choice(["arrival", "birth"]),
    default="arrival",
    show_default=True,
    help="birth: the same run for any number of slots.",
)
@click.option(
    "--lag",
    type=click.IntRange(min=0),
    default=8,
    show_default=True,
    help="How far births may run ahead of results told.",
)
@click.option(
    "--warm-start", multiple=True, metavar="RUN|FILE", help="Seed with a run's population, or a CSV or JSON of genomes."
)
@click.option("--fill-defaults", is_flag=True, help="Give genes that a warm start lacks their defaults.")
@click.option(
    "--config",
    metavar="FILE.toml",
    callback=_read_config,
    is_eager=True,
    expose_value=False,
    help="Read flags from a file.",
)
def run_command(
    evaluator: str,
    options: tuple[str, ...],
    strategy: str | None,
    strategy_option: tuple[str, ...],
    ladder: str | None,
    genes: tuple[str, ...],
    objectives: tuple[str, ...],
    store: str,
    quiet: bool,
    form: str,
    warm_start: tuple[str, ...],
    **rest: Any,
) -> int:
    r"""Evolve EVALUATOR, by name or by file (default: language_model).

    \b
    evo-tune run                                     # a small GPT on English text
    evo-tune run language_model -o data=corpus/      # on your own text
    evo-tune run evaluators/mine.py --trials 100     # your own task
    """
    from evo_tune.loop.search import Search
    from evo_tune.loop.warm_start import read_genomes
    from evo_tune.plugins.options import split_assignments

    session = {name: rest.pop(name) for name in SESSION}
    for name, usual in (("calibrate", 3), ("calibrate_best", 2)):
        session[name] = usual if session[name] is None else session[name]
    given, own, read = split_assignments(options, "-o"), split_assignments(strategy_option, "-s"), _read_genes(genes)
    if ladder is not None:
        if strategy not in (None, "ladder") or "sizes" in own:
            raise OptionError("--ladder stands for --strategy ladder -s sizes=…: give one of the two")
        strategy, own = "ladder", {**own, "sizes": ladder}
        read = {**_genes_of_ladder(ladder, evaluator, given), **read}
    search = Search(
        evaluator,
        options=given,
        strategy=strategy,
        strategy_options=own,
        genes=read,
        objectives=objectives,
        store=store,
        warm_start=[genome for source in warm_start for genome in read_genomes(source, Path(store))],
        **rest,
        **{name: value for name, value in session.items() if value is not None},
    )
    return _go(search, quiet, form)


def _read_genes(texts: Sequence[str]) -> dict[str, Gene | None]:
    """Return the genes behind `--gene`; None for a name alone."""
    from evo_tune.genome.space import parse_gene
    from evo_tune.plugins.options import split_assignments

    alone = {text for text in texts if "=" not in text}
    given = split_assignments((text for text in texts if "=" in text), "--gene")
    for name in alone & given.keys():
        raise OptionError(f"--gene {name} is given twice: give it once")
    return {**dict.fromkeys(alone), **{name: parse_gene(name, text) for name, text in given.items()}}


def _genes_of_ladder(text: str, evaluator: str, options: dict[str, str]) -> dict[str, Gene]:
    """Return the evaluator's depth and width as the ladder has them: its rungs may lie outside of their own range."""
    from evo_tune.genome.space import Choice
    from evo_tune.plugins.find import find_evaluator
    from evo_tune.strategies.ladder import parse_sizes

    plugin = find_evaluator(evaluator)
    known = plugin.space(plugin.bind(options)).genes
    values = zip(*parse_sizes(text), strict=True)
    genes = {
        name: Choice(tuple(sorted({*held})), ordered=True)
        for name, held in zip(("depth", "width"), values, strict=True)
    }
    return {name: gene for name, gene in genes.items() if name in known}


@click.command("resume")
@shared.run_argument
@_session_options
@shared.store_option
@click.option("--as", "copy_as", metavar="NAME", help="Copy the run first, and go on with the copy.")
@click.option("--accept-changes", is_flag=True, help="Go on although the evaluator's file or data changed.")
@click.option("--evaluator", metavar="PATH", help="Where the evaluator's file is now, if it has moved.")
@shared.trust_option
def resume_command(
    run: str | None,
    store: str,
    quiet: bool,
    form: str,
    copy_as: str | None,
    accept_changes: bool,
    evaluator: str | None,
    trust: bool,
    **session: Any,
) -> int:
    """Go on with RUN, after a stop or beyond its limit.

    RUN left out means the latest one.

    Limits are totals: a run of 5 generations goes on to 8 with `--generations 8`.
    """
    from evo_tune.loop.search import Search
    from evo_tune.store.places import find_run

    shared.check_own(find_run(Path(store), run), evaluator, trust)
    changes = {name: value for name, value in session.items() if value is not None}
    search = Search.resume(
        run, store=store, copy_as=copy_as, accept_changes=accept_changes, evaluator=evaluator, **changes
    )
    return _go(search, quiet, form)


def _go(search: Search, quiet: bool, form: str) -> int:
    """Run, show how it goes, and print how it ended; return the exit code: 1 if nothing gave a value."""
    from evo_tune.cli.closing import print_closing
    from evo_tune.cli.live import watcher
    from evo_tune.store.places import as_typed

    before = len(search.saved.outcomes)
    with watcher(quiet or form == "json") as watch:
        search.run(watch)
    run = search.saved
    if form == "json" or not quiet:
        print_closing(run, form, search.status)
    if search.stopping:
        if not quiet:
            click.echo(f"Interrupted. Go on with: evo-tune resume {as_typed(run.folder)}", err=True)
        return 130
    if len(run.outcomes) == before and not quiet:
        click.echo(f"Nothing was left to do: {run.ended}; limits are totals over all sessions", err=True)
    return 0 if search.best is not None else 1
