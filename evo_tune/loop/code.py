"""Decide which code and settings of a saved run may be used: the one module that distrusts runs.

A run's folder may come from a stranger, and its manifest and journal may name any file and any address. All code that
continues a run, replays it or retrains its genomes gets evaluator and strategy from here. The module `trust` remembers
what the user named and began, and decides. Nothing is trained here.
"""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from evo_tune.errors import OptionError, PluginError, StoreError, UsageError
from evo_tune.genome.genes import Gene
from evo_tune.genome.space import SearchSpace
from evo_tune.plugins.evaluator import BoundEvaluator, Evaluator
from evo_tune.plugins.find import (
    COMMAND,
    find_evaluator,
    find_strategy,
    importing,
    is_command,
    load_evaluator,
    load_function,
    make_strategy,
    names_file,
    source_hash,
)
from evo_tune.plugins.function import FUNCTION, OWN_FILE, Reference, again, function_evaluator, sent
from evo_tune.rules.ruled import Ruled
from evo_tune.settings import PLACES, SessionSettings
from evo_tune.store.journal import write_atomically
from evo_tune.store.manifest import Manifest
from evo_tune.store.run import Run
from evo_tune.trust.decide import allow, allow_command, doubt, remember_file, remember_run

OWN = "evo_tune.strategies."
"""Package of evo-tune's own strategies: their version is evo-tune's."""

Ask = Callable[[str], bool]
"""Function that asks the user a question; returns whether the answer is yes."""

PREFIXES = ("bundled", "entry")
"""Prefixes of references to installed code."""


def named_evaluator(
    name: str | Callable[..., Any],
    genes: Mapping[str, Gene | None] | None = None,
    options: Mapping[str, Any] | None = None,
    space: SearchSpace | None = None,
) -> Evaluator:
    """Load the evaluator that the user names; a file is trusted from now on.

    Args:
        name: Name, path or command of an evaluator; or a function.
        genes: Genes that the user gave.
        options: Options that the user gave.
        space: Search space of a function or a command.

    Raises:
        PluginError: There is no such evaluator, or it is broken.
        OptionError: The evaluator is a command, which does not allow these genes or options.
        UsageError: A file that begins a search is being imported.
    """
    if importing() is not None:
        raise UsageError(
            f"{importing()} begins a search while it is imported as an evaluator, as every worker does: put that under "
            'if __name__ == "__main__":'
        )
    if not isinstance(name, str):
        evaluator = function_evaluator(*sent(name, space), space, None)
    elif space is None:
        evaluator = find_evaluator(name, genes, options)
    elif is_command(name) and space.repair is None:
        evaluator = find_evaluator(name, {**space.genes, **(genes or {})}, options)
    else:
        raise OptionError("space= is for functions, and for commands if it has no repair: files have SPACE")
    if evaluator.origin == FUNCTION and Reference.read(evaluator.reference).path:
        remember_file(evaluator.path)
    if evaluator.origin == "file":
        remember_file(evaluator.path)
    return evaluator


def remember(run: Run, evaluator: Evaluator) -> Evaluator:
    """Remember that this user began a run and named its strategy.

    Returns:
        The evaluator; the file of a notebook's function is now in the run's folder.

    Raises:
        StoreError: The file cannot be written.
    """
    if evaluator.origin == FUNCTION and not Reference.read(evaluator.reference).path:
        write_atomically(run.folder / OWN_FILE, evaluator.path.read_bytes())
        evaluator = replace(evaluator, path=(run.folder / OWN_FILE).absolute())
        _made_here.add(run.manifest.identity)
    if names_file(run.manifest.strategy):
        remember_file(Path(run.manifest.strategy))
    remember_run(run.folder, run.manifest.identity)
    return evaluator


_made_here: set[str] = set()
"""Identities of the runs of notebook functions that this process began and whose files it therefore trusts."""


def code_of(
    run: Run,
    evaluator: str | Callable[..., Any] | None = None,
    trust: bool = False,
    ask: Ask | None = None,
    strategy: str | None = None,
) -> tuple[BoundEvaluator, Ruled]:
    """Load the evaluator and the strategy of a saved run, if they may be executed.

    Args:
        run: Saved run.
        evaluator: New path of the evaluator's file, if it has moved; or the function itself.
        trust: Whether the user trusts the files that the run names.
        ask: Function that asks the user about a file that they have not named themselves; None without a terminal.
        strategy: New path of the strategy's file, if it has moved.

    Raises:
        UsageError: The evaluator or the strategy is not trusted.
        PluginError: The evaluator or the strategy is missing or broken.
        StoreError: The evaluator does not accept the run's options.
    """
    chosen = _allowed_strategy(run.manifest, trust, ask, strategy)
    bound = bound_again(run, evaluator_of(run, evaluator, trust, ask))
    return bound, ruled(run.manifest, bound, chosen)


def bound_again(run: Run, evaluator: Evaluator) -> BoundEvaluator:
    """Return the evaluator of a saved run with the run's options.

    Raises:
        StoreError: The evaluator no longer accepts these options.
    """
    try:
        return evaluator.bind(run.manifest.options)
    except OptionError as error:
        raise StoreError(cannot_resume(run, evaluator, str(error))) from None


def cannot_resume(run: Run, evaluator: Evaluator, cause: str) -> str:
    """Return the error message for a run whose evaluator has changed too much."""
    place = evaluator.place
    return f"run {run.name} cannot go on with {place} as it is now: {cause}; change that back, or start a new run"


def ruled(manifest: Manifest, evaluator: BoundEvaluator, strategy: str) -> Ruled:
    """Return the strategy of a run with the rules around it.

    Args:
        manifest: Manifest of the run.
        evaluator: Evaluator of the run, with its options.
        strategy: Name or path of the strategy, already trusted.

    Raises:
        PluginError: There is no such strategy, or it is broken.
        OptionError: An option of the strategy is wrong.
    """
    return Ruled.of(
        make_strategy(strategy, manifest.strategy_options),
        manifest.settings,
        manifest.constraints(),
        evaluator.estimate,
        manifest.limits,
    )


def hash_of(strategy: str) -> str:
    """Return the hash of a strategy's file and its local modules; '' for a strategy of evo-tune.

    Raises:
        PluginError: There is no such strategy, or it is broken.
    """
    found = find_strategy(strategy)
    return "" if found.__module__.startswith(OWN) else source_hash(Path(inspect.getfile(found)))


def place_of(manifest: Manifest, moved_to: str | None) -> str:
    """Return the name or path of a saved run's strategy, which exists.

    Args:
        manifest: Manifest of the run.
        moved_to: New path of the strategy's file, if it has moved.

    Raises:
        OptionError: The strategy is not a file, so it cannot have moved.
        PluginError: The strategy is missing or broken.
    """
    name = manifest.strategy
    is_file = names_file(name)
    if moved_to is not None and not is_file:
        raise OptionError(f"--strategy {moved_to}: the run's strategy {name} is no file that can move; leave it out")
    try:
        find_strategy(moved_to or name)
    except PluginError as error:
        if moved_to is None and is_file and not Path(name).is_file():
            raise PluginError(f"{error}, or say where it is now: --strategy PATH") from None
        raise
    return moved_to or name


def evaluator_of(
    run: Run, moved_to: str | Callable[..., Any] | None = None, trust: bool = False, ask: Ask | None = None
) -> Evaluator:
    """Load the evaluator of a saved run, if it may be executed; see `code_of`."""
    manifest = run.manifest
    reference = manifest.evaluator
    if reference.startswith(f"{FUNCTION}:") and (moved_to is None or isinstance(moved_to, str)):
        return _function(run, moved_to, trust, ask)
    if moved_to is not None:
        space = None
        if not isinstance(moved_to, str):
            name = reference if reference.startswith(f"{FUNCTION}:") else f"{FUNCTION}:{moved_to.__name__}:"
            space = again(moved_to, Reference.read(name), manifest.genes())
        return named_evaluator(moved_to, manifest.genes(), manifest.options, space)
    if reference.startswith(f"{COMMAND}:"):
        return _command(run, trust, ask)
    if reference.partition(":")[0] in PREFIXES:
        return find_evaluator(reference)
    if not names_file(reference):  # it would be searched in ./evaluators, which may contain any code
        raise PluginError(
            f"the run names the evaluator {reference!r}: expected bundled:NAME, entry:NAME or a path to a .py file; "
            "say which it is: --evaluator NAME or PATH"
        )
    remedy = "say --trust, or --evaluator PATH (from Python: trust=True)"
    path = _allowed(Path(reference), "evaluator", trust, remedy, "or say where it is now: --evaluator PATH", ask)
    return load_evaluator(path, reference, "file")


def _function(run: Run, moved_to: str | None, trust: bool, ask: Ask | None) -> Evaluator:
    """Return the function of a run; its file is imported only if it may be executed."""
    reference = Reference.read(run.manifest.evaluator)
    if moved_to is not None:
        path = Path(moved_to)
        remember_file(path)
    else:
        path = Path(reference.path) if reference.path else run.folder / OWN_FILE
        if doubt(run.folder, run.manifest.identity):  # for one function: the user's file may contain others
            what, shown = f"{run.manifest.identity} {reference}", f"the function {reference.name} of {str(path)!r}"
            allow_command(run.folder, run.manifest.identity, what, shown, (), trust, ask)
            trust = True
        if reference.path or run.manifest.identity not in _made_here:
            remedy, if_gone = "say --trust (from Python: trust=True)", "or say where it is now: --evaluator PATH"
            path = _allowed(path, "evaluator", trust, remedy, if_gone, ask)
    return load_function(path, reference, run.manifest.genes())


def _command(run: Run, trust: bool, ask: Ask | None) -> Evaluator:
    """Return the command of a run that this user began or trusts; nothing is executed yet."""
    manifest = run.manifest
    identity = f"{manifest.identity} {manifest.evaluator} {sorted(manifest.options.items())}"
    evaluator = find_evaluator(manifest.evaluator, manifest.genes(), manifest.options)
    shown = f"the command {evaluator.summary!r}"
    allow_command(run.folder, manifest.identity, identity, shown, evaluator.code or (), trust, ask)
    return evaluator


def _allowed_strategy(manifest: Manifest, trust: bool, ask: Ask | None, moved_to: str | None) -> str:
    """Return the name of a run's strategy, or the resolved path that the user allowed."""
    if moved_to is not None:
        place = place_of(manifest, moved_to)
        remember_file(Path(place))
        return place
    if not names_file(manifest.strategy):
        return manifest.strategy
    path, remedy = Path(manifest.strategy), "say --trust, or --strategy PATH (from Python: trust=True)"
    return str(_allowed(path, "strategy", trust, remedy, "or say where it is now: --strategy PATH", ask))


def _allowed(path: Path, what: str, trust: bool, remedy: str, if_gone: str, ask: Ask | None) -> Path:
    """Return the resolved path of a file that a run names, because a link could change after it was allowed."""
    if not os.path.isfile(path):
        raise PluginError(f"the run names the {what} {str(path)!r}, which is no file here: check the path, {if_gone}")
    real = Path(os.path.realpath(path))
    allow(real, what, trust, remedy, ask)
    return real


def believed(run: Run, changes: Mapping[str, Any]) -> SessionSettings:
    """Return the settings of the last session, without places to train if the run may come from a stranger.

    Args:
        run: Saved run. Its places are used only if this user began it and nobody else may write it.
        changes: Settings that the user gives now; the warning does not name them.
    """
    last = run.sessions[-1] if run.sessions else SessionSettings()
    why = doubt(run.folder, run.manifest.identity)
    if not why:
        return last
    usual = SessionSettings()
    strange = {name: value for name in PLACES if (value := getattr(last, name)) != getattr(usual, name)}
    told = [f"--{name.replace('_', '-')} {value}" for name, value in strange.items() if name not in changes]
    if told:
        warnings.warn(
            f"run {run.name} {why}, so what it says of where to train is not used "
            f"({', '.join(told)}): give the flags that you want",
            stacklevel=4,
        )
    return last.but(**{name: getattr(usual, name) for name in PLACES})
