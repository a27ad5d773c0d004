"""Find and import evaluators and strategies: by path, in ./evaluators, by entry point, or bundled; write a new one.

A plug-in is a Python file that is loaded by its path, as a module of its own, in the parent and in the workers.
"""

import ast
import contextlib
import errno
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import keyword
import os
import shlex
import sys
import warnings
from collections.abc import Iterator, Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, get_origin

from evo_tune.errors import EvoTuneError, PluginError, UsageError, explain_error
from evo_tune.genome.genes import Gene
from evo_tune.options.binding import build_options, did_you_mean, options_of
from evo_tune.plugins.code import PACKAGE, package_of
from evo_tune.plugins.command import COMMAND, command_evaluator, is_command
from evo_tune.plugins.evaluator import AS_COMMAND, Evaluator, error_location, error_text
from evo_tune.plugins.function import FUNCTION, OWN_FILE, Reference, function_evaluator
from evo_tune.plugins.patches.combining import PatchSet
from evo_tune.plugins.strategy import Strategy
from evo_tune.trust import safe_files
from evo_tune.trust.decide import is_identifier

# Maximum bytes of a plug-in's file.
LARGEST = 1 << 24

# Text of a new evaluator.
TEMPLATE = Path(__file__).with_name("templates") / "evaluator.py.txt"

EVALUATORS = "evo_tune.evaluators"
# Entry point groups; the value of an entry point is a module.
STRATEGIES = "evo_tune.strategies"


def bundled_folder() -> Path:
    """Return the folder of the bundled evaluators: inside the package of a wheel, or next to it in a checkout."""
    inside = PACKAGE / "evaluators"
    return inside if inside.is_dir() else PACKAGE.parent / "evaluators"


def is_file_name(name: str) -> bool:
    """Return whether a name without a prefix ('bundled:', 'entry:') is the path of a file."""
    return name.endswith(".py") or os.sep in name


def find_evaluator(
    name: str,
    genes: Mapping[str, Gene | None] | None = None,
    options: Mapping[str, Any] | None = None,
    patches: PatchSet | None = None,
) -> Evaluator:
    """Load an evaluator.

    A file in ./evaluators has precedence over an entry point, and that over a bundled evaluator. A bundled evaluator
    that is not used is said in a warning.

    Args:
        name: Name, path, command, or reference of a manifest.
        genes: Genes for the placeholders of a command; ignored for other evaluators.
        options: Options of a command; ignored for other evaluators.
        patches: Patches of a command's project; ignored for other evaluators.

    Raises:
        PluginError: There is no such evaluator, or it is broken.
        OptionError: A command does not go with the genes or options.
    """
    kind, _, short_name = name.partition(":")
    if kind == "bundled":
        if not is_identifier(short_name):
            raise PluginError(f"there is no bundled evaluator {short_name!r}: expected a name, or the path of a file")
        return load_evaluator(bundled_folder() / f"{short_name}.py", f"bundled:{short_name}", "bundled")
    if kind == "entry":
        installed = _entry_points(EVALUATORS)
        if short_name not in installed:
            raise PluginError(
                f"there is no installed evaluator {short_name!r}: install the package that brings it, or give a saved "
                "run its file with --evaluator PATH"
            )
        return load_evaluator(installed[short_name], name, "entry point")
    if is_command(name):  # after the prefixes, with which a saved run names installed code
        return command_evaluator(name, genes, options, patches)
    if is_file_name(name):
        return load_evaluator(Path(name).absolute(), name, "file")
    matches = [(path, origin) for file_name, path, origin in _evaluator_files() if file_name == name]
    if matches:
        (path, origin), *hidden = matches
        if "bundled" in [hidden_origin for _, hidden_origin in hidden]:
            text = f"uses {path}, not the bundled evaluator {name}: write bundled:{name} for that one"
            warnings.warn(text, stacklevel=1)  # its place is the same for all callers, so it is printed once
        reference = f"{'entry' if origin == 'entry point' else origin}:{name}"
        return load_evaluator(path, str(path) if origin == "file" else reference, origin)
    names = sorted({file_name for file_name, _, _ in _evaluator_files()})
    hint = f"`evo-tune new {name}` writes a template"
    if os.path.exists(name):
        hint = f"give data as -o data={name}, or let `evo-tune auto {name}` choose the evaluator"
    raise PluginError(
        f"there is no evaluator {name!r}{did_you_mean(name, names)}: expected a path to a .py file or one of "
        f"{', '.join(names)}; {hint}"
    )


def list_evaluators() -> list[tuple[str, str, Path, str]]:
    """Return (name, origin, path, first docstring line) of every evaluator, without those that another one hides.

    Files are parsed and not executed, so a broken one does no harm.
    """
    rows: dict[str, tuple[str, str, Path, str]] = {}
    for name, path, origin in _evaluator_files():
        if name in rows:  # found earlier on the search path
            first = rows[name]
            rows[name] = (name, f"{first[1]} (hides {origin})", first[2], first[3])
        else:
            try:
                docstring = ast.get_docstring(ast.parse(_source(path))) or ""
            except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
                docstring = f"broken: {error}"
            rows[name] = (name, origin, path, docstring.partition("\n")[0])
    return [rows[name] for name in sorted(rows)]


def _evaluator_files() -> Iterator[tuple[str, Path, str]]:
    """Yield (name, path, origin) of every evaluator in the order of the search path."""
    local = Path("evaluators")
    bundled = bundled_folder()
    if local.is_dir() and local.resolve() != bundled.resolve():
        for path in _python_files(local):
            yield path.stem, path, "file"
    for name, path in _entry_points(EVALUATORS).items():
        yield name, path, "entry point"
    for path in _python_files(bundled):
        yield path.stem, path, "bundled"


def _python_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.py") if not path.name.startswith("_") and path.is_file())


def _entry_points(group: str) -> dict[str, Path]:
    """Return the file of each installed entry point of a group, without importing it.

    An entry point without a module or with an unusual name is skipped with a warning: a broken package must not stop
    other runs.
    """
    paths = {}
    for entry in importlib.metadata.entry_points(group=group):
        if not is_identifier(entry.name):
            warnings.warn(f"entry point {entry.name!r} of {group}: its name is not a plain one", stacklevel=2)
            continue
        try:
            with contextlib.redirect_stdout(sys.stderr):  # standard output is for results
                spec = importlib.util.find_spec(entry.module)
            reason = "no such module"
        except Exception as error:  # this imports the parent package
            spec, reason = None, error_text(error)
        if spec is not None and spec.origin is not None:
            paths[entry.name] = Path(spec.origin)
        else:
            warnings.warn(f"entry point {entry.name} = {entry.value} of {group}: {reason}", stacklevel=2)
    return paths


def _source(path: Path) -> bytes:
    """Return the content of a plug-in's file.

    Raises:
        OSError: The file cannot be read, is no regular file (a FIFO is waited for, a device has no end), too large, or
            empty. A file of the kernel such as /proc/kmsg has a size of 0, and reading it may wait forever.
    """
    real = Path(os.path.realpath(path))  # the user's own link
    with safe_files.open_to_read(real.parent, real.name, limit=LARGEST) as file:
        if not os.fstat(file.fileno()).st_size:
            raise OSError(errno.ENODATA, "it is empty")
        return file.read()


def load_evaluator(path: Path, reference: str, origin: str) -> Evaluator:
    """Import an evaluator's file and check its shape.

    Args:
        path: The file; a command has none.
        reference: Name in the manifest.
        origin: See `Evaluator`.

    Raises:
        PluginError: The file is missing, raises on import, or lacks a part.
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
        reference: Name in the manifest.
        genes: Genes of the run, if they are known.

    Raises:
        PluginError: The file is missing, raises on import, or has no such function.
    """
    module = _load(path, "function's file", named=True)
    return function_evaluator(reference, path.absolute(), vars(module), None, genes)


def file_being_imported() -> Path | None:
    """Return the file of the plug-in that is being imported; None if there is none."""
    return _importing[-1] if _importing else None


_importing: list[Path] = []

# Imported modules by path and content: a second import would make a second class of each of its classes.
_loaded: dict[tuple[str, str], ModuleType] = {}


def _load(path: Path, kind: str, named: bool) -> ModuleType:
    """Import a file once.

    Args:
        path: The file.
        kind: Kind of plug-in, for messages.
        named: Whether the user named the file, so that it may import from the working directory.
    """
    path = path.absolute()
    with explain_error(PluginError, f"cannot read the {kind} {path}", "check the path"):
        content = _source(path)
    key = (str(path), hashlib.sha256(content).hexdigest())
    package, root = package_of(path)
    folders = [path.parent, root]
    if path.name == OWN_FILE:  # it imports no neighbour, and a run's folder may have come back with some
        package, folders = "", []
    # Console scripts lack the working directory. evo-tune's own folder comes before it, so that nothing in the working
    # directory is imported as evo-tune, even if an import hook that comes last serves evo-tune itself.
    for folder in (*map(str, folders), *([str(PACKAGE.parent), os.getcwd()] if named else [])):
        if folder not in sys.path:
            sys.path.append(folder)
    if key in _loaded:
        return _loaded[key]
    name = f"evo_tune_plugin_{path.stem}_{hashlib.sha256(repr(key).encode()).hexdigest()[:12]}"
    if path.suffix != ".py":
        raise PluginError(f"cannot load the {kind} {path}: expected a Python file")
    _importing.append(path)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # standard output is for results
            module = execute_file(f"{package}.{name}" if package else name, path, content)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        hint = AS_COMMAND if kind == "evaluator" and b"SPACE" not in content else ""
        text = f"{error_location(error, path)}: {error_text(error)}; the {kind} cannot be imported{hint}"
        raise PluginError(text) from error
    finally:
        _importing.pop()
    _loaded[key] = module
    return module


def execute_file(name: str, path: Path, content: bytes) -> ModuleType:
    """Return a new module with the content of a file. A compiled copy is neither read nor written.

    Python accepts a compiled copy if size and second agree. So it would execute the first version of a file that was
    written twice within a second, or a file that somebody has put into `__pycache__`.
    """
    module = importlib.util.module_from_spec(ModuleSpec(name, None, origin=str(path)))
    module.__file__ = str(path)
    sys.modules[name] = module  # dataclasses and typing look up their module
    try:
        exec(compile(content, path, "exec"), vars(module))
    except BaseException:
        del sys.modules[name]
        raise
    return module


def write(name: str, folder: Path) -> Path:
    """Write a new evaluator and return its file, FOLDER/NAME.py; the folder is made if it does not exist.

    Args:
        name: Python identifier that does not begin with an underscore.
        folder: Folder that is searched for evaluators: ./evaluators.

    Raises:
        UsageError: The name is invalid, the file exists, or it cannot be written.
    """
    if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
        raise UsageError(f"an evaluator cannot be named {name!r}: expected a name of Python, such as my_task")
    path = folder / f"{name}.py"
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is not a folder: move it out of the way to write {path}")
    if path.exists():
        raise UsageError(f"{path} exists already: choose another name, or edit that file")
    with explain_error(UsageError, f"cannot write {path}", "choose a folder that can be written"):
        folder.mkdir(parents=True, exist_ok=True)
        with open(path, "x", encoding="utf-8") as file:
            file.write(TEMPLATE.read_text(encoding="utf-8").replace("NAME", name))
    return path


def find_strategy(name: str) -> type[Strategy]:
    """Return the class of a strategy, by name or path.

    Raises:
        PluginError: There is no such strategy, or it is broken.
    """
    if is_file_name(name):
        return _strategy_class(_load(Path(name), "strategy", named=True), name)
    builtin = _builtin_strategies()
    if name in builtin:
        return _strategy_class(importlib.import_module(f"evo_tune.strategies.{name}"), name)
    installed = _entry_points(STRATEGIES)
    if name in installed:
        return _strategy_class(_load(installed[name], "strategy", named=False), name)
    names = sorted({*builtin, *installed})
    raise PluginError(
        f"there is no strategy {name!r}{did_you_mean(name, names)}: expected a path to a .py file or one of "
        f"{', '.join(names)}"
    )


def list_strategies() -> list[tuple[str, str, type[Strategy] | None]]:
    """Return (name, first docstring line, class) of every strategy that is known by name.

    The line of a broken strategy tells what is wrong, and its class is None. If a strategy lacks a package, its line
    ends with the command that installs it.
    """
    rows: list[tuple[str, str, type[Strategy] | None]] = []
    for name in sorted({*_builtin_strategies(), *_entry_points(STRATEGIES)}):
        try:
            strategy = find_strategy(name)
            options_of(strategy)
        except EvoTuneError as error:
            rows.append((name, f"broken: {error}".partition("\n")[0], None))
            continue
        line, command = (strategy.__doc__ or "").strip().partition("\n")[0], install_command(strategy)
        rows.append((name, line + (f" (first: {command})" if command else ""), strategy))
    return rows


def install_command(strategy: type[Strategy]) -> str:
    """Return the command that installs the missing packages of a strategy; '' if none is missing."""
    lacking = [target for package, target in strategy.needs.items() if importlib.util.find_spec(package) is None]
    return f"pip install {' '.join(map(shlex.quote, dict.fromkeys(lacking)))}" if lacking else ""


def working_strategies() -> dict[str, type[Strategy]]:
    """Return the class of every strategy that is known by name, without broken ones."""
    return {name: strategy for name, _, strategy in list_strategies() if strategy is not None}


def make_strategy(name: str, options: dict[str, Any]) -> Strategy:
    """Return the strategy of a name or path, with checked options.

    Raises:
        PluginError: There is none of that name, it is broken, or a package that it needs is not installed.
        OptionError: An option is unknown or wrong.
    """
    strategy = find_strategy(name)
    command = install_command(strategy)
    if command:
        raise PluginError(f"strategy {name} needs {', '.join(strategy.needs)}: install them with `{command}`")
    try:
        return build_options(strategy, options, f"strategy {name}", "-s")
    except EvoTuneError:
        raise
    except Exception as error:  # a method is missing, or its __post_init__ raised
        raise PluginError(f"strategy {name} cannot be made: {error_text(error)}") from error


def _builtin_strategies() -> list[str]:
    return [path.stem for path in _python_files(PACKAGE / "strategies")]


def _strategy_class(module: ModuleType, name: str) -> type[Strategy]:
    classes = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and get_origin(value) is None  # Python 3.10 calls list[int] a type
        if issubclass(value, Strategy) and value.__module__ == module.__name__
    ]
    for class_ in classes:
        lost = sorted(set(inspect.get_annotations(class_)) - {*class_.__dataclass_fields__})
        if lost:
            raise PluginError(f"strategy {name}: {', '.join(lost)} is no option; put @dataclass(frozen=True) above it")
    if len(classes) != 1:
        names = ", ".join(c.__name__ for c in classes) or "none"
        raise PluginError(f"strategy {name}: expected one subclass of evo_tune.Strategy in its file, found {names}")
    return classes[0]
