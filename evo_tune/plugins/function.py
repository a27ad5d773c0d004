"""An evaluator that is a function: `Search(train, space=…, objectives=…)`. Workers receive a file and a name.

A function of a file is imported by the path of the file, so that code under `if __name__ == "__main__":` is not
executed again. For a function of a notebook, its source and all that it uses of the notebook are written to a file.
Functions that cannot be sent either way are refused before anything is made.
"""

import ast
import builtins
import contextlib
import importlib
import inspect
import linecache
import os
import re
import symtable
import sys
import tempfile
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from evo_tune.errors import PluginError, UnguardedError
from evo_tune.genome.genes import Gene
from evo_tune.genome.space import SearchSpace
from evo_tune.plugins.evaluator import Evaluator
from evo_tune.text import one_line

# Origin of such an evaluator, and prefix of its reference.
FUNCTION = "function"

# File in the run folder for a function of a notebook.
OWN_FILE = "_function.py"

# Maximum characters of a notebook's plain value that a function uses.
LONGEST = 20_000

# Temporary folders of notebook functions, removed at the end of the process.
_temporary_folders: list[tempfile.TemporaryDirectory[str]] = []


@dataclass(frozen=True)
class Reference:
    """Name of a function in a manifest: 'function:NAME:PATH', or 'function:NAME+REPAIR:PATH'.

    Args:
        name: Name of the function at the top level of its file.
        repair: Name of the space's repair in the same file; '' for none.
        path: The file; '' for OWN_FILE of the run.
    """

    name: str
    repair: str
    path: str

    def __str__(self) -> str:
        return f"{FUNCTION}:{self.name}{'+' if self.repair else ''}{self.repair}:{self.path}"

    @classmethod
    def read(cls, text: str) -> "Reference":
        """Parse the text that `str` returns.

        Raises:
            PluginError: The text is something else.
        """
        match = re.fullmatch(rf"{FUNCTION}:([^\W\d]\w*)(?:\+([^\W\d]\w*))?:(.*)", text, re.DOTALL)
        if match is None:
            raise PluginError(f"{one_line(text, 100)!r} names no function: expected {FUNCTION}:NAME:PATH")
        return cls(match[1], match[2] or "", match[3])


def function_evaluator(
    reference: Reference,
    path: Path,
    names: Mapping[str, Any],
    space: SearchSpace | None,
    genes: Mapping[str, Gene] | None,
) -> Evaluator:
    """Return the evaluator of a function.

    Args:
        reference: Name in the manifest.
        path: Absolute path of its file.
        names: Top-level names of the file with their values.
        space: Search space; None for a saved run.
        genes: Genes of a saved run; None in a worker, which needs no space.

    Raises:
        PluginError: The file has no such function.
    """
    for name in filter(None, (reference.name, reference.repair)):
        if not callable(names.get(name)):
            raise PluginError(f"{path}: expected the run's function {name} at its top level, found none")
    function = names[reference.name]
    module = ModuleType(reference.name)
    module.__doc__ = inspect.getdoc(function)
    if space is None and genes:
        space = SearchSpace(names[reference.repair] if reference.repair else None, None, **genes)
    unsupported = {
        "budget": f"{reference.name} does not look at context.budget: let it train that share of a full training",
        "curve": f"{reference.name} does not call context.report: let it report its first objective as it goes",
    }
    used = _used_names(function)
    supports = [feature for feature, name in (("budget", "budget"), ("curve", "report")) if name in used]
    vars(module)["SPACE"] = _no_space if space is None else space
    vars(module).update(evaluate=function, OBJECTIVES=[], SUPPORTS=supports, UNSUPPORTED=unsupported)
    return Evaluator(module, reference.name, str(reference), path, FUNCTION)


def _no_space() -> SearchSpace:
    raise PluginError("a function has no genes of its own: give Search(function, space={'lr': Float(…)}, …)")


def _used_names(function: Callable[..., Any]) -> set[str]:
    """Return the names that a function uses, directly or through functions of its own file."""
    names: set[str] = set()
    globals_ = getattr(function, "__globals__", {})
    waiting, visited = [getattr(function, "__code__", None)], set()
    while waiting:
        code = waiting.pop()
        if code is None or code in visited:
            continue
        visited.add(code)
        names |= {*code.co_names}
        values = [globals_.get(name) for name in code.co_names]
        waiting += [value.__code__ for value in values if isinstance(value, FunctionType)]
        waiting += [inner for inner in code.co_consts if isinstance(inner, CodeType)]
    return names


def prepare_for_workers(
    function: Callable[..., Any], space: SearchSpace | None
) -> tuple[Reference, Path, Mapping[str, Any]]:
    """Prepare a function for workers: return its reference, its file, and the names in the file.

    Args:
        function: The function.
        space: Search space, whose repair is sent as well.

    Raises:
        PluginError: The function cannot be sent; the text says why, and what to do.
    """
    repair = None if space is None else space.repair
    for sent_function in filter(None, (function, repair)):
        _check_travels(sent_function)
    name, repair_name = function.__name__, getattr(repair, "__name__", "")
    path = _file_of(function)
    if repair is not None and _file_of(repair) != path:
        raise PluginError(f"the space's repair {repair_name} is not in the file of {name}: put both into one file")
    if path is not None:
        _check_file(path)
        shown = os.path.relpath(path)
        return Reference(name, repair_name, str(path) if shown.startswith("..") else shown), path, _names_of(function)
    text = _notebook_source(_names_of(function), function, repair)
    folder = tempfile.TemporaryDirectory(prefix="evo-tune-")
    _temporary_folders.append(folder)
    path = Path(folder.name, OWN_FILE)
    path.write_text(text, encoding="utf-8")
    return Reference(name, repair_name, ""), path, _names_of(function)


def space_of_saved_run(function: Callable[..., Any], reference: Reference, genes: Mapping[str, Gene]) -> SearchSpace:
    """Return the search space of a saved run that the user resumes with a function.

    Args:
        function: Training function that the user gave.
        reference: Names of the function and its repair in the run's manifest.
        genes: Genes of the run by name.

    Raises:
        PluginError: The repair of the run's space is not in the function's file.
    """
    repair = _names_of(function).get(reference.repair) if reference.repair else None
    if reference.repair and not callable(repair):
        raise PluginError(f"expected the run's repair {reference.repair} in the file of {function.__name__}")
    return SearchSpace(repair, None, **genes)


def _check_travels(function: Any) -> None:
    """Refuse an object that has no name at the top level of a file.

    Raises:
        PluginError: It is no function, or a lambda, a method, or made inside another function.
    """
    if not isinstance(function, FunctionType) or _names_of(function).get(function.__name__) is not function:
        shown = one_line(getattr(function, "__qualname__", "") or repr(function), 80)
        expected = "a function (def …) at the top level of its file or notebook, with options for what it needs"
        raise PluginError(f"{shown} cannot be sent to a worker: expected {expected}")


def _names_of(function: Any) -> Mapping[str, Any]:
    """Return the names in a function's module, or in the notebook, with their values."""
    return vars(sys.modules[function.__module__]) if function.__module__ in sys.modules else function.__globals__


def _file_of(function: Any) -> Path | None:
    """Return the file of a function; None for a function of a notebook."""
    module = sys.modules.get(function.__module__)
    file = getattr(module, "__file__", None)
    return Path(file).absolute() if file and os.path.isfile(file) else None


def _check_file(path: Path) -> None:
    """Refuse a file that a worker could not import.

    Raises:
        UnguardedError: The import of the file would begin a search.
    """
    for node in ast.parse(path.read_bytes()).body:
        passed = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
        if isinstance(node, passed) or (isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)):
            continue
        for call in (inner for inner in ast.walk(node) if isinstance(inner, ast.Call)):
            if ast.unparse(call.func).rpartition(".")[2] == "Search":
                raise UnguardedError(
                    f"{path}:{call.lineno}: every worker imports this file and would begin its own search: put the "
                    'search under if __name__ == "__main__":'
                )


def _notebook_source(names: Mapping[str, Any], *functions: Any) -> str:
    """Return the source of a file with functions of a notebook and all that they use of it.

    Args:
        names: Names in the notebook with their values.
        functions: The functions; None is left out.

    Raises:
        PluginError: A value that they use cannot be written to a file.
    """
    parts: dict[str, str] = {}

    def add(name: str, value: Any, user: str) -> None:
        if name in parts:
            return
        if isinstance(value, ModuleType):
            parts[name] = f"import {value.__name__}" + (f" as {name}" if name != value.__name__ else "")
        elif (
            isinstance(value, FunctionType | type) and value.__name__.isidentifier() and value.__module__ == "__main__"
        ):
            parts[name] = ""  # it may be recursive
            text = _source_text(value)
            for used in sorted(_used_globals(text)):
                if used in names and used != name:
                    add(used, names[used], name)
            del parts[name]
            parts[name] = f"\n\n{text}" + ("" if value.__name__ == name else f"\n{name} = {value.__name__}")
        elif line := _import_or_assignment(name, value):
            parts[name] = line
        else:
            kind = "lambda" if getattr(value, "__name__", "") == "<lambda>" else type(value).__name__
            article = "an" if kind[0].lower() in "aeiou" else "a"
            raise PluginError(
                f"{user} cannot be sent to a worker: it uses {name}, {article} {kind} of the notebook; make it inside "
                "the function, or read it from a file whose path is an option"
            )

    for function in filter(None, functions):
        add(function.__name__, function, function.__name__)
    return '"""A function of a notebook, as a run began with it."""\n\n' + "\n".join(parts.values())


def _source_text(value: Any) -> str:
    """Return the source of a notebook's function or class; inspect finds classes of files only."""
    with contextlib.suppress(OSError, TypeError, SyntaxError):
        if not isinstance(value, type):
            return textwrap.dedent(inspect.getsource(value)).rstrip()
        methods = [method for method in vars(value).values() if isinstance(method, FunctionType)]
        for file in {method.__code__.co_filename for method in methods}:
            text = "".join(linecache.getlines(file))
            for node in ast.parse(text).body:
                if isinstance(node, ast.ClassDef) and node.name == value.__name__:
                    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                    return "\n".join(text.split("\n")[first - 1 : node.end_lineno])
    raise PluginError(f"{value.__name__} cannot be sent to a worker: its source is not available; write it into a file")


def _used_globals(text: str) -> set[str]:
    """Return the global names that the source of a function or a class uses."""
    names: set[str] = set()
    tables = [symtable.symtable(text, "notebook", "exec")]
    while tables:
        table = tables.pop()
        names |= {symbol.get_name() for symbol in table.get_symbols() if symbol.is_global() and symbol.is_referenced()}
        tables += table.get_children()
    return names - set(dir(builtins))


def _import_or_assignment(name: str, value: Any) -> str:
    """Return the statement that makes a value which is no function or class of the notebook; '' if there is none.

    It imports a value that another module has under its own name, or assigns a plain value (numbers, texts, lists,
    tuples, sets, dicts).
    """
    module, own_name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if isinstance(module, str) and isinstance(own_name, str) and own_name.isidentifier() and module != "__main__":
        with contextlib.suppress(Exception):
            if getattr(importlib.import_module(module), own_name, None) is value:
                return f"from {module} import {own_name}" + (f" as {name}" if name != own_name else "")
    text = repr(value)
    with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
        if len(text) <= LONGEST and (ast.literal_eval(text) == value) is True:
            return f"{name} = {text}"
    return ""
