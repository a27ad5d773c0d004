"""Decide which code and settings of a saved run may be used: the one module that distrusts runs.

A run's folder may come from a stranger, and its manifest and journal may name any file and any address. All code that
continues a run, replays it or retrains its genomes gets evaluator and strategy from here. The module `trust` remembers
what the user named and began, as hashes, and decides. Nothing is trained here.
"""

import inspect
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from evo_tune.errors import OptionError, PluginError, StoreError, UsageError
from evo_tune.genome.genes import Choice, Gene
from evo_tune.genome.notation import read_space
from evo_tune.genome.space import SearchSpace
from evo_tune.options.binding import options_of, refused_values
from evo_tune.options.declare import dropped_options, without_dropped
from evo_tune.plugins.code import source_hash
from evo_tune.plugins.command import COMMAND, is_command
from evo_tune.plugins.evaluator import BoundEvaluator, Evaluator
from evo_tune.plugins.find import (
    file_being_imported,
    find_evaluator,
    find_strategy,
    is_file_name,
    load_evaluator,
    load_function,
    make_strategy,
)
from evo_tune.plugins.function import (
    FUNCTION,
    OWN_FILE,
    Reference,
    function_evaluator,
    prepare_for_workers,
    space_of_saved_run,
)
from evo_tune.plugins.patches import CODE_FOLDER, read_patches
from evo_tune.plugins.patches.combining import PatchSet
from evo_tune.plugins.patches.project import PatchedCode, make_patch_set, prepare_code, read_listing, read_project
from evo_tune.plugins.scripts.script import TRIAL_PLACEHOLDERS
from evo_tune.plugins.strategy import Strategy
from evo_tune.rules.ruled import StrategyWithRules
from evo_tune.settings import DEVICE_SETTINGS, RunSettings, SessionSettings
from evo_tune.store.binding import copied_results
from evo_tune.store.journal import JOURNAL, write_atomically
from evo_tune.store.manifest import MANIFEST, Manifest, read_manifest
from evo_tune.store.run import Run
from evo_tune.text import escape_unprintable, one_line
from evo_tune.trust import decide

# Package of evo-tune's own strategies: their version is evo-tune's.
OWN = "evo_tune.strategies."

# Prefixes of references to installed code.
PREFIXES = ("bundled", "entry")


def load_named_evaluator(
    name: str | Callable[..., Any],
    genes: Mapping[str, Gene | None] | None = None,
    options: Mapping[str, Any] | None = None,
    space: SearchSpace | Mapping[str, Gene | str] | None = None,
    patches: PatchSet | None = None,
) -> Evaluator:
    """Load the evaluator that the user names; a file is trusted from now on.

    Args:
        name: Name, path or command of an evaluator; or a function.
        genes: Genes that the user gave.
        options: Options that the user gave.
        space: Search space of a function or a command, or a dict of its genes.
        patches: Patches of a command's project.

    Raises:
        PluginError: There is no such evaluator, or it is broken.
        SpaceError: The space is none.
        OptionError: The evaluator is a command, which does not allow these genes or options.
        UsageError: A file that begins a search is being imported.
    """
    if file_being_imported() is not None:
        raise UsageError(
            f"{file_being_imported()} begins a search while it is imported, and each worker imports it: put the search "
            'under if __name__ == "__main__":'
        )
    space = None if space is None else read_space(space)
    if not isinstance(name, str):
        evaluator = function_evaluator(*prepare_for_workers(name, space), space, None)
    elif space is not None and (space.repair is not None or not is_command(name)):
        raise OptionError("space= is for a function, or a command if it has no repair: a file defines SPACE instead")
    else:
        if space is not None or patches is not None:
            own, of_patches = space.genes if space else {}, patches.genes if patches else {}
            genes = {**own, **(genes or {}), **of_patches}
        evaluator = find_evaluator(name, genes, options, patches)
    in_file = evaluator.origin == FUNCTION and Reference.read(evaluator.reference).path != ""
    if evaluator.origin == "file" or in_file:
        _remember_file(evaluator.path)
    return evaluator


def _remember_file(path: Path) -> None:
    decide.remember_file(path, source_hash(path))


def remember(run: Run, evaluator: Evaluator, session: SessionSettings) -> Evaluator:
    """Remember that this user began a run with a session, and named its strategy.

    Returns:
        The evaluator; the file of a notebook's function is now in the run's folder.

    Raises:
        StoreError: The file cannot be written.
    """
    if evaluator.origin == FUNCTION and not Reference.read(evaluator.reference).path:
        write_atomically(run.folder / OWN_FILE, evaluator.path.read_bytes())
        evaluator = replace(evaluator, path=(run.folder / OWN_FILE).absolute())
        _remember_file(evaluator.path)
    if is_file_name(run.manifest.strategy):
        _remember_file(Path(run.manifest.strategy))
    code = {CODE: evaluator.hash} if evaluator.origin == COMMAND else {}
    decide.remember_run(run.folder, {**hashes_of(run.manifest, run.genes), **code, **_hash_places(session)})
    return evaluator


def _hashes(run: Run) -> dict[str, str]:
    """Return `hashes_of` a run, without the patches that joined it: each of them is allowed by its text."""
    joined = {name for widening in run.widened if widening.patch for name in widening.changed}
    return hashes_of(run.manifest, {name: gene for name, gene in run.genes.items() if name not in joined})


def remember_patch(run: Run, hash: str) -> None:
    """Remember that the user gave a patch to a run, or began it as one that others may give patches."""
    decide.remember_run(run.folder, _patch_key(run, hash))


def _patch_key(run: Run, hash: str) -> dict[str, str]:
    """Return what is remembered of a patch: another run may take the folder."""
    return {f"patch {hash}": run.manifest.identity}


def is_patch_allowed(run: Run, hash: str) -> bool:
    """Return whether a patch may join a run: the user proposed it, or began the run with `--allow-patches`."""
    patched = run.manifest.patched
    return patched is not msgspec.UNSET and (patched.allow or decide.is_remembered(run.folder, _patch_key(run, hash)))


def patch_set_of(run: Run) -> PatchSet | None:
    """Return all patches of a saved run, in a set that can grow; None if it has no patches. Nothing is executed.

    Raises:
        PluginError: A copy of a patch or of a project's file is missing or has changed.
    """
    patched = run.manifest.patched
    if patched is msgspec.UNSET:
        return None
    project, patches = read_project(run.folder, patched.project), read_patches(run.folder, run.patch_hashes)
    genes = run.genes.keys() - {name for patch in patches for name in patch.space}
    return make_patch_set(patches, project, {*genes, *TRIAL_PLACEHOLDERS})


def _allow_patches(run: Run, user: decide.Consent) -> None:
    """Allow the patches that joined a run, or refuse it.

    Raises:
        UsageError: The user gave one of them neither to this run nor allows it now.
    """
    for patch in run.added_patches:
        if not decide.is_remembered(run.folder, _patch_key(run, patch.hash)):
            text = f"patch {patch.name} joined run {run.name}, and you have not given it"
            remedy = f"look at {CODE_FOLDER}/{patch.hash} in its folder, then give --trust (from Python: trust=True)"
            user.require(text, "Execute it?", remedy)
            remember_patch(run, patch.hash)


def remember_session(run: Run, session: SessionSettings) -> None:
    """Remember what the user gave to a run as they continue it: wider genes, and where it trains."""
    decide.remember_run(run.folder, {GENES: _hashes(run)[GENES], **_hash_places(session)})


def remember_copy(run: Run, original: Path) -> None:
    """Remember the parts of a copy that the user gave to the original; none, if somebody else changed the original.

    Args:
        run: Copied run.
        original: Folder of the original, which may have changed since.
    """
    manifest = msgspec.structs.replace(run.manifest, identity=read_manifest(original).identity)
    of_original = {**_hashes(run), MANIFEST: hashes_of(manifest, {})[MANIFEST]}
    mine = {} if decide.reason_for_distrust(original, of_original) else _hashes(run)
    of_patches = {
        f"patch {patch.hash}": run.manifest.identity
        for patch in run.added_patches
        if decide.is_remembered(original, {f"patch {patch.hash}": manifest.identity})
    }
    results = copied_results(original, manifest.identity, run.manifest.identity)
    decide.remember_run(run.folder, {**decide.run_hashes(original), **mine, **of_patches, **results})


# Name of the hash of the genes' values.
GENES = f"a value of a gene in {JOURNAL}"

# Name of the hash of all files that a run's command names.
CODE = "the files of the command"


def hashes_of(manifest: Manifest, genes: Mapping[str, Gene]) -> dict[str, str]:
    """Return the hashes of what determines what a run executes and reads, by name.

    Args:
        manifest: Manifest of the run.
        genes: Its present genes. Only values that are text count: they may be names of files, or words of a command.
    """
    fields = msgspec.to_builtins(manifest)
    # With dropped settings, as an earlier version remembered the manifest: an upgrade is no change of the run.
    fields["settings"] = {**dropped_options(RunSettings), **fields["settings"], **fields.pop("dropped", {})}
    return {MANIFEST: decide.digest(fields), GENES: decide.digest(sorted(_gene_texts(genes)))}


def _hash_places(session: SessionSettings) -> dict[str, str]:
    """Return the hash of where a session trains, by name."""
    places = {name: getattr(session, name) for name in DEVICE_SETTINGS}
    if places["scheduler_file"] is None:  # as version 1.0 remembered the places, which had no such setting
        del places["scheduler_file"]
    return {"places": decide.digest(places)}


def _gene_texts(genes: Mapping[str, Gene]) -> set[str]:
    return {text for gene in genes.values() if isinstance(gene, Choice) for text in _texts(gene.values)}


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts in plain data."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(item)


def patched_code(
    evaluator: str | Callable[..., Any],
    patches: str | Path | None,
    protect: Sequence[str],
    allow_patches: bool,
    store: Path,
    genes: Mapping[str, Gene | None],
    space: SearchSpace | Mapping[str, Gene | str] | None = None,
) -> PatchedCode | None:
    """Return the project and the patches of a new run; None if the user gives none of these.

    Args:
        evaluator: Evaluator as the user names it.
        patches: Folder with the patches.
        protect: Paths of files and folders that no trial may change.
        allow_patches: Whether patches that others propose may join the run.
        store: Folder of the saved runs.
        genes: Genes that the user gave.
        space: Search space that the user gave.

    Raises:
        OptionError: The evaluator is no command.
        PluginError: The project cannot be copied, or a patch cannot be used.
    """
    if patches is None and not allow_patches:
        if protect:
            raise OptionError("--protect is for a run with patches: give --patches FOLDER, or leave it out")
        return None
    if not isinstance(evaluator, str) or not is_command(evaluator):
        shown = one_line(str(evaluator), 60)
        raise OptionError(f"--patches is for a command such as 'python train.py --lr {{lr}}', and {shown} is none")
    names = {*genes, *(read_space(space).genes if space is not None else ())}
    folder = None if patches is None else Path(patches)
    return prepare_code(folder, protect, allow_patches, store, evaluator.removeprefix(f"{COMMAND}:"), names)


def load_code(
    run: Run, user: decide.Consent, evaluator: str | Callable[..., Any] | None = None, strategy: str | None = None
) -> tuple[BoundEvaluator, StrategyWithRules]:
    """Load the evaluator and the strategy of a saved run, if they may be executed.

    Args:
        run: Saved run.
        user: What the user allows.
        evaluator: New path of the evaluator's file, if it has moved; or the function itself.
        strategy: New path of the strategy's file, if it has moved.

    Raises:
        UsageError: The evaluator, the strategy, or a path that they read is not trusted.
        PluginError: The evaluator or the strategy is missing or broken.
        StoreError: The evaluator does not accept the run's options.
    """
    chosen = _allow_strategy(run.manifest, user, strategy)
    plugin = load_run_evaluator(run, user, evaluator)
    _, gone = _present_values(run.manifest, plugin, chosen)
    if gone:
        raise StoreError(message_of_changed_evaluator(run, plugin, f"no longer supported: {', '.join(gone)}"))
    bound = bind_to_run(run, plugin)
    return bound, strategy_with_rules(run.manifest, bound, chosen)


def _present_values(manifest: Manifest, evaluator: Evaluator, strategy: str) -> tuple[Manifest, list[str]]:
    """Return a manifest without the values that options no longer have, and these and those of dropped settings.

    The latter are as a user types them. A dropped option with the value that changed nothing is not among them.
    """
    kind, settings = find_strategy(strategy), {} if manifest.dropped is msgspec.UNSET else manifest.dropped
    options = without_dropped(evaluator.options_type, manifest.options)
    of_strategy = without_dropped(kind, manifest.strategy_options)
    gone = refused_values(options, evaluator.options, "-o")
    of_strategy_gone = refused_values(of_strategy, options_of(kind), "-s")
    present = msgspec.structs.replace(
        manifest,
        options={name: value for name, value in options.items() if name not in gone},
        strategy_options={name: value for name, value in of_strategy.items() if name not in of_strategy_gone},
    )
    shown = [refused_values(settings, {}, "--"), gone, of_strategy_gone]
    return present, [flag for flags in shown for flag in flags.values()]


def load_code_to_replay(
    run: Run, user: decide.Consent, strategy: str | None
) -> tuple[BoundEvaluator, StrategyWithRules]:
    """Load what makes the proposals of a saved run again; see `load_code`.

    A command has no part in proposals: it is not executed, needs no script and no trust. A file that is missing is left
    out, and so are values that options no longer have. In these cases the evaluator cannot train, and
    `unsupported["training"]` says why.
    """
    chosen = _allow_strategy(run.manifest, user, strategy)
    kind, _, text = run.manifest.evaluator.partition(":")
    path = Reference.read(run.manifest.evaluator).path if kind == FUNCTION else run.manifest.evaluator
    if kind == COMMAND:
        missing = "not checked: whether trials give these values again; --retrain N trains N of them, with the script"
    elif path and is_file_name(path) and not os.path.isfile(path):
        missing = f"not checked: all that needs the evaluator {path!r}, which is not here: --evaluator PATH names it"
    else:
        plugin = load_run_evaluator(run, user)
        manifest, gone = _present_values(run.manifest, plugin, chosen)
        if gone:
            missing = f"not checked: all that follows from {', '.join(gone)}, which this version no longer has"
            module = ModuleType(plugin.name)  # a copy, because the file's own one serves other runs too
            vars(module).update(vars(plugin.module), UNSUPPORTED={**plugin.unsupported, "training": missing})
            plugin = replace(plugin, module=module)
        bound = bind_to_run(run, plugin, manifest.options)
        return bound, strategy_with_rules(manifest, bound, chosen)
    patches, module = patch_set_of(run), ModuleType(kind)
    space = SearchSpace(None if patches is None else patches.repair, None, **run.manifest.genes())
    remedy = {"training": missing}
    vars(module).update(SPACE=space, OBJECTIVES=[], UNSUPPORTED=remedy, evaluate=lambda genome, context: {})
    origin = COMMAND if kind == COMMAND else FUNCTION
    bound = Evaluator(module, text, run.manifest.evaluator, Path(path), origin).bind({})
    return bound, strategy_with_rules(run.manifest, bound, chosen)


def bind_to_run(run: Run, evaluator: Evaluator, options: Mapping[str, Any] | None = None) -> BoundEvaluator:
    """Return the evaluator of a saved run with the run's options, or others.

    Raises:
        StoreError: The evaluator no longer accepts these options.
    """
    try:
        values = run.manifest.options if options is None else options
        return replace(evaluator.bind(values), run_genes=frozenset(run.manifest.space))
    except OptionError as error:
        raise StoreError(message_of_changed_evaluator(run, evaluator, str(error))) from None


def message_of_changed_evaluator(run: Run, evaluator: Evaluator, cause: str) -> str:
    """Return the error message for a run whose evaluator has changed too much."""
    remedy = f"undo the change, use the earlier version, or start a new run, perhaps with --learn-from {run.name}"
    return f"run {run.name} cannot continue with the present {evaluator.place}: {cause}; {remedy}"


def strategy_with_rules(manifest: Manifest, evaluator: BoundEvaluator, strategy: str) -> StrategyWithRules:
    """Return the strategy of a run with the rules around it.

    Args:
        manifest: Manifest of the run.
        evaluator: Evaluator of the run, with its options.
        strategy: Name or path of the strategy, already trusted.

    Raises:
        PluginError: There is no such strategy, or it is broken.
        OptionError: An option of the strategy is wrong.
    """
    return StrategyWithRules(
        inner=make_strategy(strategy, manifest.strategy_options),
        settings=manifest.settings,
        constraints=manifest.constraints(),
        estimate=evaluator.estimate,
        limits=manifest.limits,
    )


def hash_of(strategy: Strategy) -> str:
    """Return the hash of a strategy's file and its local modules; '' for a strategy of evo-tune."""
    kind = type(strategy)
    return "" if kind.__module__.startswith(OWN) else source_hash(Path(inspect.getfile(kind)))


def load_run_evaluator(run: Run, user: decide.Consent, moved_to: str | Callable[..., Any] | None = None) -> Evaluator:
    """Load the evaluator of a saved run, if it may be executed and the run's options followed; see `load_code`."""
    manifest, hashes = run.manifest, _hashes(run)
    consent = user
    if decide.reason_for_distrust(run.folder, hashes) and not decide.recognize_moved_run(run.folder, hashes):
        consent = decide.allow_run(run.folder, hashes, _actions_to_allow(run, moved_to is not None), user)
    reference = manifest.evaluator
    if reference.startswith(f"{FUNCTION}:") and (moved_to is None or isinstance(moved_to, str)):
        return _load_function_of(run, moved_to, consent)
    if moved_to is not None:
        space = None
        if not isinstance(moved_to, str):
            name = reference if reference.startswith(f"{FUNCTION}:") else f"{FUNCTION}:{moved_to.__name__}:"
            space = space_of_saved_run(moved_to, Reference.read(name), manifest.genes())
        return load_named_evaluator(moved_to, manifest.genes(), manifest.options, space)
    if reference.startswith(f"{COMMAND}:"):
        # Nothing is executed yet.
        evaluator = find_evaluator(reference, manifest.genes(), manifest.options, patch_set_of(run))
        _allow_patches(run, consent)
        decide.allow_command(run.folder, evaluator.code or (), {CODE: evaluator.hash}, consent)
        return evaluator
    if reference.partition(":")[0] in PREFIXES:
        return find_evaluator(reference)
    if not is_file_name(reference):  # it would be searched in ./evaluators, which may contain any code
        raise PluginError(
            f"the run names the evaluator {reference!r}: expected bundled:NAME, entry:NAME or a path to a .py file; "
            "say which it is: --evaluator NAME or PATH"
        )
    return load_evaluator(_allow_file(Path(reference), "evaluator", user), reference, "file")


def _actions_to_allow(run: Run, named: bool) -> dict[str, Any]:
    """Return what a run would do that its user may not know of, for `allow_run`.

    Args:
        run: Saved run.
        named: Whether the user has named another evaluator.
    """
    manifest = run.manifest
    actions: dict[str, Any] = {}
    kind, _, text = manifest.evaluator.partition(":")
    if kind == COMMAND and not named:
        shell = " in a shell" if manifest.options.get("shell") else ""
        judge = f" and the judge {manifest.options['judge']!r}" if manifest.options.get("judge") else ""
        template = str(manifest.options.get("template") or "").partition("\n")[0]
        judge += f" with the configuration {template!r} of the run" if template else ""
        patches = f" in a project with {len(run.patches)} patches" if run.patches else ""
        actions[f"executes the command {text!r}{shell}{judge}{patches}"] = None
        if manifest.patched is not msgspec.UNSET:
            links = read_listing(run.folder, manifest.patched.project).links.values()
            if outside := sorted(link for link in links if os.path.isabs(link)):
                actions[f"reads {decide.describe_paths(outside)}"] = outside
    if kind == FUNCTION and not named:  # one function: the user's file may contain others
        reference = Reference.read(manifest.evaluator)
        actions[f"executes the function {reference.name} of {reference.path or OWN_FILE!r}"] = None
    options = {} if kind == COMMAND and not named else manifest.options  # those of a command are patterns, not paths
    texts = {*_texts([options, manifest.strategy_options, manifest.warm_start]), *_gene_texts(run.genes)}
    if paths := decide.paths_outside_folder(texts, run.folder):
        actions[f"reads {decide.describe_paths(paths)}"] = paths
    return actions


def _load_function_of(run: Run, moved_to: str | None, user: decide.Consent) -> Evaluator:
    """Return the function of a run; its file is imported only if it may be executed."""
    reference, genes = Reference.read(run.manifest.evaluator), run.manifest.genes()
    if moved_to is not None:
        evaluator = load_function(Path(moved_to), reference, genes)
        _remember_file(evaluator.path)
        return evaluator
    path = Path(reference.path) if reference.path else run.folder / OWN_FILE
    return load_function(_allow_file(path, "evaluator", user), reference, genes)


def _allow_strategy(manifest: Manifest, user: decide.Consent, moved_to: str | None) -> str:
    """Return the name of a run's strategy, or the path that the user gave or allowed."""
    name = manifest.strategy
    if moved_to is not None:
        if not is_file_name(name):
            raise OptionError(f"--strategy {moved_to}: the run's strategy {name} is no file that can move: omit it")
        find_strategy(moved_to)
        _remember_file(Path(moved_to))
        return moved_to
    if not is_file_name(name):
        return name
    return str(_allow_file(Path(name), "strategy", user))


def _allow_file(path: Path, kind: str, user: decide.Consent) -> Path:
    """Return the resolved path of a file that a run names as evaluator or strategy, if its code may be executed."""
    if not os.path.isfile(path):
        remedy = f"check the path, or say where it is now: --{kind} PATH"
        raise PluginError(f"the {kind} of the run, {str(path)!r}, is not a file here: {remedy}")
    return decide.allow(path, kind, source_hash, f"say --trust, or --{kind} PATH (from Python: trust=True)", user)


def session_settings_to_trust(run: Run, changes: Mapping[str, Any]) -> SessionSettings:
    """Return the settings of the last session, without places to train that are not those that this user gave last.

    A dropped setting is left out with a warning, because each session may have other settings.

    Args:
        run: Saved run.
        changes: Settings that the user gives now; the warning does not name them.
    """
    last = run.session
    if dropped := refused_values(run.dropped_settings, {}, "--").values():
        text = f"run {run.name} was begun with {', '.join(dropped)}, which this version no longer has: it is not used"
        warnings.warn(escape_unprintable(text), stacklevel=4)
    if decide.is_remembered(run.folder, _hash_places(last)):
        return last
    default_places = {name: getattr(SessionSettings(), name) for name in DEVICE_SETTINGS}
    places = {name: getattr(last, name) for name in DEVICE_SETTINGS if name not in changes}
    untrusted_places = {name: value for name, value in places.items() if value != default_places[name]}
    flags = [f"--{name.replace('_', '-')} {value}" for name, value in untrusted_places.items()]
    if flags:
        text = f"run {run.name} names places to train that you have not given it here ({', '.join(flags)})"
        warnings.warn(escape_unprintable(f"{text}: they are not used; give the flags that you want"), stacklevel=4)
    return last.with_changes(**default_places)
