"""The shape of the house: imports run downward only, rooms never import each other, and importing is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import evo_tune

PACKAGE = Path(evo_tune.__file__).parent
ROOT = PACKAGE.parent
PUBLIC = set(evo_tune.__all__)

# From the bottom up, as ARCHITECTURE.md draws them: a module may import those of the lines above it, and none of
# its own line. A name stands for a module or for a whole folder, inside which imports are free.
LINES = """
    errors interrupts importance heartbeat
    options constraint
    space
    trial
    history
    evaluator standing
    strategy
    template fidelity
    plugins inheritance
    strategies dispatch journal
    table
    population
    ruled
    begin generations warm_start calibration
    report
    search
    replay
    cli
    __main__
"""
RANKS = {name: rank for rank, line in enumerate(LINES.split("\n")) for name in line.split()}
ROOMS = {
    "strategies": {"strategies"},
    "dispatch": {"dispatch"},
    "population": {"journal", "table", "population"},
}
HEAVY = {"torch", "optuna", "hyperopt", "cmaes"}
"""What is imported where it is used: it takes long, or may not be installed."""

APART = {"training"}
"""What no other module of the package imports, and what imports errors alone."""
LIGHT = {"evo_tune.training.schedule", "evo_tune.training.probe"}
"""What the command line may import of it all the same: arithmetic that loads no torch, and what times a machine."""


def python_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Return every module that a file imports anywhere, functions and type-checking blocks included.

    `from a.b import c` gives both a.b and a.b.c, since c may be a module.
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: relative import"
            found |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def place(path: Path) -> str:
    """Return a file's name in LINES: its folder in the package, or its own stem."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def inner(path: Path) -> set[str]:
    """Return the names in LINES that a file imports; a public name stands for the module that it lives in."""
    homes = {f"evo_tune.{name}": home for name, home in evo_tune._HOMES.items()}
    names = {homes.get(name, name.removeprefix("evo_tune.").partition(".")[0]) for name in packaged(path)}
    return {name for name in names if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()}


def packaged(path: Path) -> set[str]:
    return {name for name in imports(path) if name.startswith("evo_tune.")}


MODULES = [path for path in python_files(PACKAGE) if place(path) not in {"__init__", "evaluators"}]
EVALUATORS = python_files(ROOT / "evaluators") or python_files(PACKAGE / "evaluators")


def named(paths: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", paths, ids=[str(path.relative_to(ROOT)) for path in paths])


def test_every_module_has_its_place() -> None:
    unplaced = {place(path) for path in MODULES} - RANKS.keys() - APART
    assert not unplaced, f"place {unplaced} in LINES and in ARCHITECTURE.md"


@named([path for path in MODULES if place(path) not in APART])
def test_imports_run_downward(path: Path) -> None:
    mine = place(path)
    for other in inner(path) - {mine}:
        if other in APART:
            apart = {name for name in packaged(path) if name.split(".")[1] == other}
            assert mine == "cli", f"{other} is for evaluators"
            assert all({name, name.rpartition(".")[0]} & LIGHT for name in apart), apart
            continue
        assert RANKS[other] < RANKS[mine], f"{mine} imports {other}"


@named([path for path in MODULES if any(place(path) in room for room in ROOMS.values())])
def test_rooms_never_import_each_other(path: Path) -> None:
    room = next(name for name, members in ROOMS.items() if place(path) in members)
    for other, members in ROOMS.items():
        assert other == room or not inner(path) & members


@named([path for path in MODULES if place(path) == "training"])
def test_training_is_an_island(path: Path) -> None:
    assert inner(path) <= {"training", "errors"}


@named(MODULES + EVALUATORS)
def test_deap_is_imported_in_one_file(path: Path) -> None:
    users = {name for name in imports(path) if name.partition(".")[0] == "deap"}
    assert not users or path == PACKAGE / "strategies" / "_deap.py"


@named([path for path in MODULES if place(path) not in APART])
def test_torch_and_extras_are_imported_inside_functions_only(path: Path) -> None:
    tree = ast.parse(path.read_bytes())
    top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in top if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in top if isinstance(node, ast.ImportFrom)}
    assert not {name for name in names if name.partition(".")[0] in HEAVY}


@named(EVALUATORS)
def test_evaluators_see_the_public_names_and_the_recipe(path: Path) -> None:
    allowed = {f"evo_tune.{name}" for name in PUBLIC}
    for name in packaged(path) - allowed:
        assert name.split(".")[1] in {"errors", "training"}, f"{path.name} imports {name}"
    others = {other.stem for other in EVALUATORS} - {path.stem}
    assert not {name.partition(".")[0] for name in imports(path)} & ({"evaluators"} | others)


def test_the_front_door_imports_lazily() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_bytes())
    eager = {str(node.module) for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert {name for name in eager if name.startswith("evo_tune")} == {"evo_tune.errors"}


def loaded_after(code: str) -> set[str]:
    """Return the top-level modules that are loaded after some code has run in a process of its own."""
    report = "import sys; print(' '.join({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stdout.split())


def test_importing_is_light() -> None:
    names = sorted(PUBLIC - {"Search"})
    loaded = loaded_after(f"import evo_tune\nfor name in {names!r}:\n    getattr(evo_tune, name)")
    assert "numpy" in loaded
    assert not loaded & {"torch", "deap", "pandas", "pyarrow", "joblib", "click", "rich"}
    assert "numpy" not in loaded_after("import evo_tune")


def test_public_names_are_what_they_say() -> None:
    assert len(PUBLIC) == len(evo_tune.__all__)
    assert set(evo_tune._HOMES) | {"EvoTuneError"} == PUBLIC
    for name in PUBLIC:
        assert getattr(evo_tune, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Serch'"):
        _ = evo_tune.Serch
