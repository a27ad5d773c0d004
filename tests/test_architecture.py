"""The plan of the house: ARCHITECTURE.md's table says what each room is for and may import; the code must agree.

`python -m tests.test_architecture` prints the plan as the code has it, and warns of what has grown large.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import evo_tune

pytestmark = pytest.mark.xdist_group("architecture")  # every file is parsed once

PACKAGE = Path(evo_tune.__file__).parent
ROOT = PACKAGE.parent
PUBLIC = set(evo_tune.__all__)

BOXES = 19
"""Most modules and folders on the first level: what a newcomer sees at once."""
FILES = 16
"""Most files in a folder, but for those whose files are known by being there."""
KNOWN_BY_BEING_THERE = {"strategies", "commands"}
LINES, EVALUATOR_LINES = 700, 300
"""Longest file."""


HALF = PACKAGE / "training"
"""The half that knows how models are trained; all else in the package is the half of the search."""

ABOUT_MODELS = {
    "evo_tune/cli/training/*",
    *(f"evo_tune/cli/commands/{name}.py" for name in ("auto", "devices", "export", "predict", "scale")),
}
"""Files of the search half that may import training: the commands about trained models, and their parts."""

FRONT_DOOR = PACKAGE / "__init__.py"
"""It imports `load_model`, a public name, on first use."""

TORCH_FREE = {"recipe", "scale"}
"""Parts of training that load no torch."""

HEAVY = {"torch", "optuna", "hyperopt", "cmaes"}
"""What is imported where it is used: it takes long, or may not be installed."""


@cache
def rooms() -> dict[str, set[str]]:
    """Return the table of ARCHITECTURE.md: each room, from the ground up, and the rooms that it may import."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|[^|]+\|([^|]*)\|$", text, re.MULTILINE)
    return {name: set(re.findall(r"\w+", allowed)) for name, allowed in rows}


@cache
def rows() -> list[str]:
    """Return the rows of training, in the order of ARCHITECTURE.md's second table."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    return re.findall(r"^\| `((?:recipe|training)/(?:\w+|\*))` \|", text, re.MULTILINE)


def row_of(path: Path) -> str:
    """Return the row of a file of training: 'recipe/FOLDER' or 'training/FOLDER', with '*' for files at the top."""
    parts = path.relative_to(HALF).parts
    part, inside = ("recipe", parts[1:]) if parts[0] == "recipe" else ("training", parts)
    return f"{part}/{inside[0] if len(inside) > 1 else '*'}"


def loads_torch(path: Path) -> bool:
    """Return whether a file may import torch at its top: those of training, except the recipe and the scale."""
    return HALF in path.parents and path != HALF / "__init__.py" and path.relative_to(HALF).parts[0] not in TORCH_FREE


def python_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if "evaluators" not in path.relative_to(folder).parts)


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes())


@cache
def imports(path: Path) -> frozenset[str]:
    """Return every module that a file imports anywhere, functions and type-checking blocks included.

    `from a.b import c` gives a.b.c where that is a module, else a.b.
    """
    return frozenset(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            assert not getattr(node, "level", 0), f"{path}:{node.lineno}: relative import"
            yield from _named(node)


def _named(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    for alias in node.names:
        whole = alias.name if isinstance(node, ast.Import) else f"{node.module}.{alias.name}"
        yield whole if isinstance(node, ast.Import) or file_of(whole) else str(node.module)


@cache
def file_of(module: str) -> Path | None:
    """Return the file of one of the package's modules; None for other modules."""
    base = ROOT.joinpath(*module.split("."))
    found = [path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()]
    return found[0] if found and PACKAGE in found[0].parents else None


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


MODULES = [path for path in python_files(PACKAGE) if path != PACKAGE / "__init__.py"]
EVALUATORS = sorted((ROOT / "evaluators").glob("*.py"))


@cache
def inner(path: Path) -> frozenset[Path]:
    """Return the files of the package that a file imports."""
    files = {file_of(name) for name in imports(path) if name.split(".")[0] == "evo_tune"}
    return frozenset(file for file in files if file and file != path)


def arrows() -> dict[tuple[str, str], int]:
    """Return how many files of one room import another."""
    found: dict[tuple[str, str], int] = {}
    for path in MODULES:
        for other in {room_of(file) for file in inner(path)} - {room_of(path), "__init__"}:
            found[room_of(path), other] = found.get((room_of(path), other), 0) + 1
    return found


def plan() -> str:
    """Return the rooms as the code has them: files, lines, and which rooms each imports; then the longest files."""
    lines, drawn = [], arrows()
    for room in rooms():
        files = [path for path in MODULES if room_of(path) == room]
        size = sum(map(length, files))
        into = ", ".join(other for (one, other) in drawn if one == room) or "-"
        lines.append(f"{room:<12} {len(files):>3} files {size:>6} lines   imports {into}")
    lines.append(f"{len(boxes())} boxes on the first level, {len(drawn)} arrows between rooms")
    longest = sorted(MODULES + EVALUATORS, key=length, reverse=True)[:10]
    lines += ["the longest files:"] + [f"{length(p):>5}  {p.relative_to(ROOT)}" for p in longest]
    return "\n".join(lines + [f"warning: {text}" for text in oversized()])


def oversized() -> list[str]:
    """Return a line for each level, folder and file that is larger than a newcomer takes in: a hint, and no rule."""
    found = [] if len(boxes()) <= BOXES else [f"{len(boxes())} boxes on the first level: more than {BOXES}"]
    for folder in sorted({path.parent for path in MODULES}):
        count = len(list(folder.glob("*.py")))
        if count > FILES and folder.name not in KNOWN_BY_BEING_THERE:
            found.append(f"{shown(folder)} has {count} files: more than {FILES}")
    for path in MODULES + EVALUATORS:
        most = EVALUATOR_LINES if path in EVALUATORS else LINES
        if length(path) > most:
            found.append(f"{shown(path)} has {length(path)} lines: more than {most}")
    return found


def length(path: Path) -> int:
    return len(path.read_bytes().splitlines())


def boxes() -> list[str]:
    """Return the modules and folders of code on the first level."""
    return sorted({room_of(path) for path in python_files(PACKAGE)})


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_every_room_is_in_the_table_and_is_there() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    to_come = set(re.findall(r"^\| `(\w+)` \| \*to come\*", text, re.MULTILINE))
    assert {room_of(path) for path in MODULES} == set(rooms()) - to_come


def test_rooms_import_one_way_only() -> None:
    known: set[str] = set()
    for room, allowed in rooms().items():
        assert allowed <= known, f"{room}: {allowed - known} stand below it in the table, or not at all"
        known.add(room)


@pytest.mark.slow
def test_imports_are_those_of_the_table() -> None:
    pairs = [(path, other) for path in MODULES for other in inner(path) - {PACKAGE / "__init__.py"}]
    assert len(pairs) > len(MODULES)
    wrong = [
        f"{shown(path)} imports {shown(other)}"
        for path, other in pairs
        if room_of(other) not in {room_of(path)} | rooms()[room_of(path)]
    ]
    assert not wrong


@pytest.mark.slow
def test_no_files_import_each_other_in_a_circle() -> None:
    graph = {path: {file for file in inner(path) if file.name != "__init__.py"} for path in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(str(path.relative_to(ROOT)) for path in error.args[1]))


def test_tests_mirror_the_rooms() -> None:
    folders = {path.name for path in (ROOT / "tests").iterdir() if (path / "__init__.py").is_file()}
    assert folders <= {*rooms(), "evaluators"}


def test_inside_training_imports_go_up_the_table_only() -> None:
    doors = {HALF / "__init__.py", HALF / "public.py", HALF / "recipe/__init__.py", HALF / "recipe/public.py"}
    files = [path for path in MODULES if HALF in path.parents and path not in doors]
    order = {row: place for place, row in enumerate(rows())}
    assert {row_of(path) for path in files} == set(order)
    pairs = [(path, other) for path in files for other in inner(path) if HALF in other.parents]
    public = order["training/*"]  # rows below it use the public names

    def is_wrong(path: Path, other: Path) -> bool:
        row = order[row_of(path)]
        return row <= public if other in doors else order[row_of(other)] > row

    assert not [f"{shown(path)} imports {shown(other)}" for path, other in pairs if is_wrong(path, other)]


def test_of_the_search_only_commands_about_models_import_training() -> None:
    search = [path for path in [*MODULES, FRONT_DOOR] if HALF not in path.parents]
    users = {path for path in search for other in inner(path) if HALF in other.parents}
    others = [path for path in users - {FRONT_DOOR} if not any(path.match(pattern) for pattern in ABOUT_MODELS)]
    assert not [shown(path) for path in others]
    assert {shown(path) for path in users} > {"evo_tune/cli/commands/scale.py"}, "the test sees imports"


def test_training_imports_nothing_of_the_search_but_the_contract() -> None:
    contract = {"errors", "text", "trust", "options", "genome", "plugins", "training", "__init__"}
    wrong = [
        (path, other)
        for path in MODULES
        if HALF in path.parents
        for other in inner(path)
        if room_of(other) not in contract
    ]
    assert not [f"{shown(path)} imports {shown(other)}" for path, other in wrong]


@pytest.mark.slow
def test_the_parent_of_a_run_can_plan_without_torch() -> None:
    assert "torch" not in loaded_after("import evo_tune.training.recipe.public")
    for path in EVALUATORS:
        code = f"import runpy\nrunpy.run_path({str(path)!r})"
        assert "torch" not in loaded_after(code), path.name


def test_other_rooms_import_those_with_torch_inside_functions_only() -> None:
    for path in (path for path in MODULES if not loads_torch(path)):
        top = [node for node in parsed(path).body if isinstance(node, ast.Import | ast.ImportFrom)]
        files = {file for node in top for name in _named(node) if (file := file_of(name))}
        assert not {shown(file) for file in files if loads_torch(file)}, shown(path)


def test_deap_is_imported_in_one_file() -> None:
    users = {shown(path) for path in MODULES + EVALUATORS for name in imports(path) if name.split(".")[0] == "deap"}
    assert users == {"evo_tune/strategies/_deap.py"}


def test_torch_and_extras_are_imported_inside_functions_only() -> None:
    for path in (path for path in MODULES if not loads_torch(path)):
        top = [node for node in parsed(path).body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = {alias.name for node in top if isinstance(node, ast.Import) for alias in node.names}
        names |= {str(node.module) for node in top if isinstance(node, ast.ImportFrom)}
        assert not {name for name in names if name.partition(".")[0] in HEAVY}, shown(path)


@pytest.mark.parametrize("path", EVALUATORS, ids=lambda path: path.stem)
def test_evaluators_see_the_public_names_and_the_recipe(path: Path) -> None:
    names = set(imports(path))
    mine = {name for name in names if name.startswith("evo_tune.")}
    assert all(name.split(".")[1] in {"errors", "training"} for name in mine), f"{path.name} imports {mine}"
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ImportFrom) and node.module == "evo_tune":
            assert {alias.name for alias in node.names} <= PUBLIC | {"training"}
    others = {other.stem for other in EVALUATORS} - {path.stem}
    assert not {name.partition(".")[0] for name in names} & ({"evaluators"} | others)


def test_the_wheel_has_every_room() -> None:
    listed = re.search(r"^packages = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.MULTILINE | re.DOTALL)
    assert listed is not None
    folders = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in PACKAGE.rglob("__init__.py")}
    assert set(re.findall(r'"([\w.]+)"', listed[1])) == {
        *folders,
        "evo_tune.evaluators",
        "hydra_plugins.evo_tune_sweeper",
    }


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
    names = sorted(PUBLIC - {"Search", "load", "load_model"})
    loaded = loaded_after(f"import evo_tune\nfor name in {names!r}:\n    getattr(evo_tune, name)")
    assert "numpy" in loaded
    assert not loaded & {"torch", "deap", "pandas", "pyarrow", "joblib", "msgspec", "click", "rich"}
    assert "numpy" not in loaded_after("import evo_tune")
    assert "numpy" not in loaded_after("import evo_tune.training.recipe.optim.schedule")
    assert "msgspec" not in loaded_after("from evo_tune.cli import cli\ncli(['--help'], standalone_mode=False)")


def test_public_names_are_what_they_say() -> None:
    assert len(PUBLIC) == len(evo_tune.__all__)
    assert {"EvoTuneError"}.union(*evo_tune._HOMES.values()) == PUBLIC
    for name in PUBLIC:
        assert getattr(evo_tune, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Serch'"):
        _ = evo_tune.Serch


if __name__ == "__main__":
    print(plan())
