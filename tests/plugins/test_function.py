"""A function as an evaluator: how it travels from a script and from a notebook, and why it does not."""

from __future__ import annotations

import json
import linecache
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from evo_tune import Float, Search, SearchSpace, load
from evo_tune.errors import EvoTuneError, PluginError, StoreError, UsageError
from evo_tune.loop.code import load_code
from evo_tune.loop.verifying import verify
from evo_tune.plugins.code import source_hash
from evo_tune.plugins.find import find_evaluator
from evo_tune.settings import parse_rungs
from evo_tune.store.run import Run
from evo_tune.trust import decide as trust
from evo_tune.trust.decide import Consent
from tests.here import Here

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "function.py"

SPACE = SearchSpace(x=Float(0.0, 1.0, default=0.5))

LIMITS: dict[str, Any] = {"objectives": ["loss:min"], "trials": 3}

SCRIPT = """
import functools
from evo_tune import Float, Search, SearchSpace

def repair(genome):
    return {"x": min(genome["x"], 0.75)}

def train(genome, context, *, bias: int = 0):
    context.report(1.0, loss=genome["x"])
    return {"loss": genome["x"] + bias}

def parted(genome, context):
    return {"loss": genome["x"] * context.budget}

def decorated(function):
    @functools.wraps(function)
    def inner(*args, **kwargs):
        return function(*args, **kwargs)
    return inner

@decorated
def wrapped(genome, context):
    return {"loss": genome["x"]}

class Model:
    def train(self, genome, context):
        return {"loss": 1.0}

def maker():
    def inside(genome, context):
        return {"loss": 1.0}
    return inside

short = lambda genome, context: {"loss": 1.0}
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr("evo_tune.loop.slots.open_slots", lambda task, *_: [Here(task)])
    return tmp_path


@pytest.fixture
def script(here: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A script, as the module that a user's process has of it."""
    (here / "mine.py").write_text(SCRIPT)
    module = ModuleType("__main__")
    module.__file__ = str(here / "mine.py")
    monkeypatch.setitem(sys.modules, "__main__", module)
    exec(compile(SCRIPT, module.__file__, "exec"), vars(module))
    return module


Cell = Callable[[str], ModuleType]


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> Cell:
    """Execute text as a notebook does: in a main module without a file, its source known line by line."""
    module = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)

    def execute(text: str) -> ModuleType:
        name = f"<cell {len(linecache.cache)}>"
        linecache.cache[name] = (len(text), None, text.splitlines(True), name)
        exec(compile(text, name, "exec"), vars(module))
        return module

    return execute


def losses(search: Search) -> list[float]:
    return [trial.outcome.metrics.get("loss", -1.0) for trial in search.trials]


@pytest.mark.slow
def test_a_function_of_a_script_is_trained_and_the_run_resumes_and_verifies(script: ModuleType) -> None:
    space = SearchSpace(script.repair, x=Float(0.0, 1.0, default=1.0))
    search = Search(script.train, space=space, options={"bias": 2}, prune=True, name="one", **LIMITS).run()
    assert [trial.outcome.status for trial in search.trials] == ["ok"] * 3
    assert losses(search) == [trial.genome["x"] + 2 for trial in search.trials]
    assert search.trials[0].genome == {"x": 0.75}
    assert search.saved.manifest.evaluator == "function:train+repair:mine.py"
    again = Search.resume("one", trials=5).run()
    assert max(trial.genome["x"] for trial in again.trials) <= 0.75  # repaired as before
    assert len(Search.resume("one", evaluator=script.train, trials=6).run().trials) == 6
    run = Run.open(Path("populations/one"))
    assert verify(run, space, load_code(run, Consent())[1]) == []
    text = Path("mine.py").read_text()
    Path("mine.py").write_text(text + "# other")
    with pytest.raises(UsageError, match=r"mine\.py', which has changed since you named it"):
        Search.resume("one", trials=7)
    with pytest.raises(StoreError, match=r"mine\.py .* has changed since run one began"):
        Search.resume("one", trials=7, trust=True)
    Path("mine.py").write_text(text.replace("def train", "def other"))
    with pytest.raises(PluginError, match=r"expected the run.s function train at its top level"):
        Search.resume("one", trials=7, accept_changes=True)
    Path("other.py").write_text(text)
    Path("mine.py").unlink()
    assert len(Search.resume("one", evaluator="other.py", trials=7, accept_changes=True).run().trials) == 7


def test_a_strangers_function_is_executed_when_the_user_says_so(
    script: ModuleType, here: Path, monkeypatch: Any
) -> None:
    Search(script.train, space=SPACE, name="one", **LIMITS).run()
    monkeypatch.setenv("XDG_STATE_HOME", str(here / "elsewhere"))
    for _ in range(2):
        with pytest.raises(UsageError, match=r"not begun by you here; it executes the function train of 'mine\.py'"):
            Search.resume("one", trials=4)
        # That allows what the user calls of it, not what a stranger does.
        trust.remember_file(Path("mine.py"), source_hash(Path("mine.py")))
    assert len(Search.resume("one", trials=4, trust=True).run().trials) == 4


def test_a_decorated_function_travels_by_its_name(script: ModuleType) -> None:
    assert losses(Search(script.wrapped, space=SPACE, name="one", **LIMITS).run())[0] == 0.5


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("short", r"<lambda> cannot be sent to a worker: expected a function \(def …\) at the top level of its file"),
        ("inside", "maker.<locals>.inside cannot be sent"),
        ("method", "Model.train cannot be sent"),
        ("len", "len cannot be sent"),
        ("partial", "functools.partial.* cannot be sent"),
    ],
)
def test_what_cannot_travel_is_refused_in_a_line(script: ModuleType, here: Path, name: str, said: str) -> None:
    things = {
        "short": script.short,
        "inside": script.maker(),
        "method": script.Model.train,
        "len": len,
        "partial": script.functools.partial(script.train),
    }
    with pytest.raises(PluginError, match=said) as caught:
        Search(things[name], space=SPACE, name="one", **LIMITS)
    assert "\n" not in str(caught.value)
    assert not (here / "populations").exists()


def test_what_a_function_needs_beside_itself_is_said(script: ModuleType) -> None:
    with pytest.raises(EvoTuneError, match="a function has no genes of its own: give Search"):
        Search(script.train, name="one", **LIMITS)
    with pytest.raises(EvoTuneError, match=r"names no objective: .*objectives=\['METRIC:min'\]"):
        Search(script.train, space=SPACE, name="one")
    with pytest.raises(EvoTuneError, match=r"--fidelity: wrapped does not look at context\.budget"):
        Search(script.wrapped, space=SPACE, fidelity=(0.5, 1), name="one", **LIMITS)
    with pytest.raises(EvoTuneError, match="space= is for a function"):
        Search("language_model", space=SPACE, name="one")


def test_a_space_is_a_dict_of_genes_too(script: ModuleType, here: Path) -> None:
    for given in ({"x": Float(0.0, 1.0, default=0.5)}, {"x": "float(0,1) @ 0.5"}):
        with Search(script.train, space=given, name=f"run{len(list(here.glob('populations/*')))}", **LIMITS) as search:
            assert search.space.genes == SPACE.genes
    wrong = [
        ({"x": [1, 2]}, r"gene 'x': \[1, 2\] is not a Gene"),
        ([1], r"space=\[1\]: expected SearchSpace\(…\) or a dict"),
    ]
    for given, said in wrong:
        with pytest.raises(EvoTuneError, match=said):
            Search(script.train, space=given, name="wrong", **LIMITS)  # type: ignore[arg-type]


def test_a_script_without_the_guard_ends_with_a_line_and_no_traceback(here: Path) -> None:
    text = "from evo_tune import Search\n\ndef train(genome, context):\n    return {'loss': 1}\n\n"
    (here / "plain.py").write_text(f"{text}Search(train, space={{'x': 'float(0,1)'}}, objectives=['loss:min'])\n")
    done = subprocess.run([sys.executable, "plain.py"], cwd=here, capture_output=True, text=True)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
    assert done.stderr.startswith(f"Error: {here / 'plain.py'}:6: every worker imports this file")


def test_a_search_outside_of_the_guard_is_refused_here_and_in_workers(script: ModuleType, here: Path) -> None:
    text = SCRIPT + "\nevo_tune.Search(train)\n"
    (here / "mine.py").write_text(text)
    with pytest.raises(
        PluginError, match=rf'mine\.py:{text.count(chr(10))}: every worker .* if __name__ == "__main__":'
    ):
        Search(script.train, space=SPACE, name="one", **LIMITS)
    (here / "hidden.py").write_text("import evo_tune\nSPACE = None\n[evo_tune.Search()]\n")
    with pytest.raises(PluginError, match=r"hidden\.py begins a search while it is imported"):
        find_evaluator("hidden.py")


def test_fidelity_takes_numbers(script: ModuleType) -> None:
    for given in ((1 / 3, 1), [1 / 3, 1.0], "1/3,1", ("1/3", 1)):
        name = f"run{len(list(Path().glob('populations/*')))}"
        with Search(script.parted, space=SPACE, fidelity=given, name=name, **LIMITS) as search:
            assert search.saved.manifest.settings.rungs == (1 / 3, 1.0)
    for wrong in ((1, 1 / 3), (), (0.5,), (None, 1), 0.5, (float("nan"), 1)):
        with pytest.raises(EvoTuneError, match=r"--fidelity .*expected"):
            Search(script.parted, space=SPACE, fidelity=wrong, name="wrong", **LIMITS)  # type: ignore[arg-type]


NOTEBOOK = """
import math as m
from pathlib import Path
from evo_tune import Float
STEPS = {"a": [1, 2], "b": (3.5, None, "x")}
unused = open
class Model:
    scale = 2
    def loss(self, x):
        return m.fabs(helper(x)) * self.scale

def helper(x):
    return x if x > 0 else helper(x + 1)

def train(genome, context, *, more: int = len(STEPS)):
    local = [STEPS["a"][0] for _ in range(more)]
    return {"loss": Model().loss(genome["x"]) + sum(local), "here": float(Path(".").is_dir())}
"""


@pytest.mark.slow
def test_a_function_of_a_notebook_travels_with_what_it_uses(cell: Cell, here: Path) -> None:
    search = Search(cell(NOTEBOOK).train, space=SPACE, name="one", **LIMITS).run()
    assert losses(search) == [2 * trial.genome["x"] + 2 for trial in search.trials]
    saved = (here / "populations" / "one" / "_function.py").read_text()
    assert "unused" not in saved
    assert len(Search.resume("one", trials=4).run().trials) == 4  # its own process
    assert len(Search.resume("one", copy_as="copy", trials=5, trust=True).run().trials) == 5
    changed = cell(NOTEBOOK.replace("sum(local)", "7"))
    with pytest.raises(StoreError, match="has changed since run one began"):
        Search.resume("one", evaluator=changed.train, trials=5)
    assert len(Search.resume("one", trials=5).run().trials) == 5
    (here / "populations" / "one" / "_function.py").write_text(saved + "\nopen('pwned', 'w')")
    with pytest.raises(UsageError, match=r"_function\.py', which has changed since you named it"):
        Search.resume("one", trials=5)
    assert not (here / "pwned").exists()


@pytest.mark.slow
def test_a_moved_run_of_a_function_of_a_notebook_needs_no_trust_flag(cell: Cell, here: Path) -> None:
    """Its code lies in the folder of the run, which has another path now."""
    Search(cell(NOTEBOOK).train, space=SPACE, name="one", **LIMITS).close()
    (here / "populations" / "one").rename(here / "populations" / "other")
    assert len(Search.resume("other", trials=4).run().trials) == 4


def test_a_module_that_came_back_beside_a_function_of_a_notebook_is_not_imported(
    cell: Cell, here: Path, monkeypatch: Any
) -> None:
    """A library may try to import what is not installed."""
    text = (
        "def train(genome, context):\n    import importlib\n    try: importlib.import_module('un' + 'installed')\n"
        "    except ImportError: return {'loss': 0.0}"
    )
    monkeypatch.setattr(sys, "path", [*sys.path])
    Search(cell(text).train, space=SPACE, name="one", **LIMITS).close()
    (here / "populations" / "one" / "uninstalled.py").write_text(f"open({str(here / 'pwned')!r}, 'w')")
    (here / "populations" / "one" / "__init__.py").write_text(f"open({str(here / 'pwned')!r}, 'w')")
    Search.resume("one", trials=4).run()
    assert not (here / "pwned").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("data = iter([])\ndef train(genome, context):\n    return data", "train .*uses data, a list_iterator of the"),
        (
            "n = float('nan')\ndef other():\n    return n\ndef train(g, c):\n    return other()",
            "other .*uses n, a float of",
        ),
        ("f = lambda x: x\ndef train(genome, context):\n    return f(1)", "train .*uses f, a lambda of"),
    ],
)
def test_what_of_a_notebook_cannot_travel_is_named(cell: Cell, here: Path, text: str, said: str) -> None:
    with pytest.raises(PluginError, match=said):
        Search(cell(text).train, space=SPACE, name="one", **LIMITS)
    assert not (here / "populations").exists()


def test_a_function_without_a_source_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)
    exec("def train(genome, context):\n    return {}", vars(module))
    with pytest.raises(PluginError, match="train cannot be sent to a worker: its source is not available"):
        Search(module.train, space=SPACE, name="one", **LIMITS)


@pytest.mark.slow
def test_the_example_runs_and_goes_on(here: Path) -> None:
    """As a script, with workers of its own; then here, without them."""
    done = subprocess.run([sys.executable, EXAMPLE], capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 0, done.stderr
    for count in (12, 16):
        if count == 16:
            runpy.run_path(str(EXAMPLE), run_name="__main__")
        run = load(here / "populations" / "bowl")
        assert sum(trial.candidate.fresh for trial in run.trials) == count
    settings = json.loads((here / "populations" / "bowl" / "_run.json").read_text())["settings"]
    assert parse_rungs(settings["fidelity"]) == (1 / 3, 1.0)
