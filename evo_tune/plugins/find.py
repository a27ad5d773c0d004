"""Find evaluators and strategies: by path, in ./evaluators, by entry point, or bundled.

A plug-in is a Python file, loaded by its path under a name of its own, on both sides of a slot. This
module knows how to find and import one and how to say what is wrong with it; not what it does.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import os
import shlex
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from evo_tune.errors import EvoTuneError, PluginError
from evo_tune.genome.genes import Gene
from evo_tune.options.binding import build, options_of, suggest
from evo_tune.plugins.code import local_sources, package_of, source_hash
from evo_tune.plugins.command import COMMAND, command_evaluator, is_command
from evo_tune.plugins.evaluator import Evaluator, what_of, where_of
from evo_tune.plugins.function import FUNCTION, Reference, function_evaluator
from evo_tune.plugins.source import FromSource
from evo_tune.plugins.strategy import Strategy
from evo_tune.trust.decide import is_identifier

__all__ = [
    "COMMAND",
    "find_evaluator",
    "find_strategy",
    "importing",
    "install_command",
    "is_command",
    "list_evaluators",
    "list_strategies",
    "load_evaluator",
    "load_function",
    "local_sources",
    "make_strategy",
    "names_file",
    "package_of",
    "source_hash",
    "working_strategies",
]

PACKAGE = Path(__file__).parents[1]

EVALUATORS = "evo_tune.evaluators"
STRATEGIES = "evo_tune.strategies"
"""Names of the entry point groups; an entry point's value is a module."""


def bundled_evaluators() -> Path:
    """Return the folder of the bundled evaluators: inside the wheel, or beside the package in a checkout."""
    package = PACKAGE
    inside = package / "evaluators"
    return inside if inside.is_dir() else package.parent / "evaluators"


def names_file(name: str) -> bool:
    """Whether a name that has no prefix ('bundled:', 'entry:') means a file of code."""
    return name.endswith(".py") or os.sep in name


def find_evaluator(
    name: str, genes: Mapping[str, Gene | None] | None = None, options: Mapping[str, Any] | None = None
) -> Evaluator:
    """Load the evaluator that the user means by a name, a path, a command or a manifest's reference.

    A file in ./evaluators beats an entry point, which beats a bundled one.

    Args:
        name: It.
        genes: What the placeholders of a command are; for other evaluators, which have their own, of no account.
        options: What is given of a command's options; likewise.

    Raises:
        PluginError: There is none, or it is broken.
        OptionError: It is a command that does not go with genes and options.
    """
    if is_command(name):
        return command_evaluator(name, genes, options)
    kind, _, rest = name.partition(":")
    if kind == "bundled":
        if not is_identifier(rest):
            raise PluginError(f"there is no bundled evaluator {rest!r}: expected a plain name, or a path to a .py file")
        return load_evaluator(bundled_evaluators() / f"{rest}.py", f"bundled:{rest}", "bundled")
    if kind == "entry":
        installed = _entry_points(EVALUATORS)
        if rest not in installed:
            raise PluginError(
                f"there is no installed evaluator {rest!r}: install the package that brings it, or give a saved run "
                "its file with --evaluator PATH"
            )
        return load_evaluator(installed[rest], name, "entry point")
    if names_file(name):
        return load_evaluator(Path(name).absolute(), name, "file")
    for found, path, origin in _evaluator_files():
        if found == name:
            reference = f"{'entry' if origin == 'entry point' else origin}:{name}"
            return load_evaluator(path, str(path) if origin == "file" else reference, origin)
    known = sorted({found for found, _, _ in _evaluator_files()})
    raise PluginError(
        f"there is no evaluator {name!r}{suggest(name, known)}: expected a path to a .py file or one of "
        f"{', '.join(known)}; `evo-tune new {name}` writes a template"
    )


def list_evaluators() -> list[tuple[str, str, Path, str]]:
    """Return (name, origin, path, first docstring line) of every evaluator; hidden ones are left out.

    Files are parsed, not run, so a broken one does not hide the others.
    """
    rows: dict[str, tuple[str, str, Path, str]] = {}
    for name, path, origin in _evaluator_files():
        if name in rows:  # found earlier on the search path: that one is used
            first = rows[name]
            rows[name] = (name, f"{first[1]} (hides {origin})", first[2], first[3])
        else:
            rows[name] = (name, origin, path, _docstring_line(path))
    return [rows[name] for name in sorted(rows)]


def _evaluator_files() -> Iterator[tuple[str, Path, str]]:
    """Yield (name, path, origin) in the order of the search path."""
    local = Path("evaluators")
    bundled = bundled_evaluators()
    if local.is_dir() and local.resolve() != bundled.resolve():
        for path in _python_files(local):
            yield path.stem, path, "file"
    for name, path in _entry_points(EVALUATORS).items():
        yield name, path, "entry point"
    for path in _python_files(bundled):
        yield path.stem, path, "bundled"


def _python_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.py") if not path.name.startswith("_"))


def _entry_points(group: str) -> dict[str, Path]:
    """Return the file of each installed entry point of a group, without importing it.

    One that cannot be found, or whose name could be taken for a path, is passed over with a warning: a broken package
    must not stop other runs.
    """
    found = {}
    for entry in importlib.metadata.entry_points(group=group):
        if not is_identifier(entry.name):
            warnings.warn(f"entry point {entry.name!r} of {group}: its name is not a plain one", stacklevel=2)
            continue
        try:
            with _quiet():
                spec = importlib.util.find_spec(entry.module)
            reason = "no such module"
        except Exception as error:  # finding pkg.module imports pkg
            spec, reason = None, what_of(error)
        if spec is not None and spec.origin is not None:
            found[entry.name] = Path(spec.origin)
        else:
            warnings.warn(f"entry point {entry.name} = {entry.value} of {group}: {reason}", stacklevel=2)
    return found


def _docstring_line(path: Path) -> str:
    try:
        doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    except (OSError, SyntaxError, ValueError) as error:
        return f"broken: {error}"
    return doc.partition("\n")[0]


def load_evaluator(path: Path, reference: str, origin: str) -> Evaluator:
    """Import an evaluator's file and check its shape; a command has none, and is read.

    Raises:
        PluginError: It is missing, raises on import, or lacks a part.
    """
    if origin == COMMAND:
        return command_evaluator(reference)
    if origin == FUNCTION:
        return load_function(path, Reference.read(reference))
    name = reference.partition(":")[2] if origin == "entry point" else path.stem
    return Evaluator(_load(path, "evaluator", named=origin == "file"), name, reference, path.absolute(), origin)


def load_function(path: Path, reference: Reference, genes: Mapping[str, Gene] | None = None) -> Evaluator:
    """Import the file of a function that is an evaluator.

    Args:
        path: The file.
        reference: How the manifest names it.
        genes: Those of the run, where they are known.

    Raises:
        PluginError: It is missing, raises on import, or has no such function.
    """
    module = _load(path, "function's file", named=True)
    return function_evaluator(reference, path.absolute(), vars(module), None, genes)


def importing() -> Path | None:
    """Return the file of a plug-in that is being imported; None if there is none."""
    return _importing[-1] if _importing else None


_importing: list[Path] = []

_loaded: dict[tuple[str, str], ModuleType] = {}
"""A memo by path and content: importing a plug-in twice would make two classes of each of its own."""


def _load(path: Path, kind: str, named: bool) -> ModuleType:
    """Import a file once.

    Args:
        path: The file.
        kind: What it is, for messages.
        named: Whether the user named the file: then it may import from the working directory, whatever lies there.
    """
    path = path.absolute()
    try:
        content = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise PluginError(f"cannot read the {kind} {path}: {error.strerror}; check the path") from None
    key = (str(path), content)
    package, root = package_of(path)
    # Console scripts lack the working directory. evo-tune's own folder comes before it, so that nothing that lies there
    # is taken for evo-tune where it is installed in a way that import hooks serve last.
    for folder in (str(path.parent), str(root), *([str(PACKAGE.parent), os.getcwd()] if named else [])):
        if folder not in sys.path:
            sys.path.append(folder)
    if key not in _loaded:
        name = f"evo_tune_plugin_{path.stem}_{hashlib.sha256(repr(key).encode()).hexdigest()[:12]}"
        _loaded[key] = _execute(path, f"{package}.{name}" if package else name, kind)
    return _loaded[key]


def _quiet() -> contextlib.AbstractContextManager[object]:
    """Keep what a plug-in prints as it is imported out of standard output: that is for results, JSON perhaps."""
    return contextlib.redirect_stdout(sys.stderr)


def _execute(path: Path, name: str, kind: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path, loader=FromSource(name, str(path)))
    if path.suffix != ".py" or spec is None or spec.loader is None:
        raise PluginError(f"cannot load the {kind} {path}: expected a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and typing look their module up
    _importing.append(path)
    try:
        with _quiet():
            spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, KeyboardInterrupt):
            raise
        raise PluginError(f"{where_of(error, path)}: {what_of(error)}; the {kind} cannot be imported") from error
    finally:
        _importing.pop()
    return module


def find_strategy(name: str) -> type[Strategy]:
    """Return the class of the strategy that the user means by a name or a path.

    Raises:
        PluginError: There is none, or it is broken.
    """
    if names_file(name):
        return _strategy_class(_load(Path(name), "strategy", named=True), name)
    builtin = _builtin_strategies()
    if name in builtin:
        return _strategy_class(importlib.import_module(f"evo_tune.strategies.{name}"), name)
    installed = _entry_points(STRATEGIES)
    if name in installed:
        return _strategy_class(_load(installed[name], "strategy", named=False), name)
    known = sorted({*builtin, *installed})
    raise PluginError(
        f"there is no strategy {name!r}{suggest(name, known)}: expected a path to a .py file or one of "
        f"{', '.join(known)}"
    )


def list_strategies() -> list[tuple[str, str]]:
    """Return (name, first docstring line of the class) of every strategy known by name.

    A broken one does not hide the others: its line says what is wrong. One whose packages are not installed
    has a line that ends with the command that installs them.
    """
    rows = []
    for name, found in _known_strategies():
        line = f"broken: {found}" if isinstance(found, EvoTuneError) else (found.__doc__ or "").strip()
        command = "" if isinstance(found, EvoTuneError) else install_command(found)
        rows.append((name, line.partition("\n")[0] + (f" (first: {command})" if command else "")))
    return rows


def install_command(strategy: type[Strategy]) -> str:
    """Return the command that installs what a strategy needs and this Python lacks; '' if it lacks nothing."""
    lacking = [target for package, target in strategy.needs.items() if importlib.util.find_spec(package) is None]
    return f"pip install {' '.join(map(shlex.quote, dict.fromkeys(lacking)))}" if lacking else ""


def working_strategies() -> dict[str, type[Strategy]]:
    """Return the class of every strategy known by name; broken ones are left out."""
    return {name: found for name, found in _known_strategies() if not isinstance(found, EvoTuneError)}


def _known_strategies() -> Iterator[tuple[str, type[Strategy] | EvoTuneError]]:
    """Yield the name of every strategy, and its class or what is wrong with it."""
    for name in sorted({*_builtin_strategies(), *_entry_points(STRATEGIES)}):
        try:
            found = find_strategy(name)
            options_of(found)
        except EvoTuneError as error:
            yield name, error
        else:
            yield name, found


def make_strategy(name: str, given: dict[str, Any]) -> Strategy:
    """Return a strategy with its options bound.

    Raises:
        PluginError: There is none of that name, it is broken, or a package that it needs is not installed.
        OptionError: An option is unknown or wrong.
    """
    strategy = find_strategy(name)
    command = install_command(strategy)
    if command:
        raise PluginError(
            f"strategy {name} needs {', '.join(strategy.needs)}: install what is missing with `{command}`"
        )
    try:
        return build(strategy, given, f"strategy {name}", "-s")
    except EvoTuneError:
        raise
    except Exception as error:  # a method of the contract is missing, or its own __post_init__ failed
        raise PluginError(f"strategy {name} cannot be made: {what_of(error)}") from error


def _builtin_strategies() -> list[str]:
    return [path.stem for path in _python_files(PACKAGE / "strategies")]


def _strategy_class(module: ModuleType, name: str) -> type[Strategy]:
    classes = [
        thing
        for thing in vars(module).values()
        if isinstance(thing, type) and issubclass(thing, Strategy) and thing.__module__ == module.__name__
    ]
    for one in classes:
        lost = sorted(set(inspect.get_annotations(one)) - {*one.__dataclass_fields__})
        if lost:
            raise PluginError(f"strategy {name}: {', '.join(lost)} is no option; put @dataclass(frozen=True) above it")
    if len(classes) != 1:
        found = ", ".join(c.__name__ for c in classes) or "none"
        raise PluginError(f"strategy {name}: expected one subclass of evo_tune.Strategy in its file, found {found}")
    return classes[0]
