"""Finding evaluators and strategies, and what is said of a broken one."""

from __future__ import annotations

import importlib.metadata
import json
import os
import py_compile
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from evo_tune.cli.commands.strategies import command as strategies_command
from evo_tune.errors import OptionError, PluginError
from evo_tune.plugins import find as plugins
from evo_tune.plugins.code import local_sources, source_hash
from evo_tune.plugins.find import (
    find_evaluator,
    find_strategy,
    list_evaluators,
    list_strategies,
    load_evaluator,
    make_strategy,
    working_strategies,
)
from evo_tune.plugins.strategy import Strategy

TASK = '''"""{doc}"""
from evo_tune import Int, Minimize, SearchSpace

SPACE = SearchSpace(n=Int(1, 9))
OBJECTIVES = [Minimize("loss")]

def evaluate(genome, context):
    return {{"loss": genome["n"]}}
'''

STRATEGY = '''"""A strategy."""
from dataclasses import dataclass
from evo_tune import Strategy

@dataclass(frozen=True)
class Climb(Strategy):
    """Climb by one gene.

    More.
    """

    step: float = 0.1

    def propose(self, history, rng):
        return None

    def survivors(self, history):
        return []
'''


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work in an empty folder, with bundled evaluators of the test's own and no installed ones."""
    (tmp_path / "bundled").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(plugins, "bundled_folder", lambda: tmp_path / "bundled")
    monkeypatch.setattr(plugins, "_loaded", {})
    before = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = before[0]
    for name in set(sys.modules) - before[1]:
        del sys.modules[name]


@pytest.fixture
def bundled(tmp_path: Path) -> Path:
    return tmp_path / "bundled"


def write(path: Path, source: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)
    return path


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Fake an installed package: a module on the path and an entry point that names it."""
    entries: list[importlib.metadata.EntryPoint] = []
    site = tmp_path / "site-packages"
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda group: [entry for entry in entries if entry.group == group]
    )

    def make(name: str, module: str, source: str | None, group: str = plugins.EVALUATORS) -> Path:
        entries.append(importlib.metadata.EntryPoint(name, module, group))
        path = site / (module.replace(".", "/") + ".py")
        if source is not None:
            write(path, source)
            for folder in path.relative_to(site).parents[:-1]:
                write(site / folder / "__init__.py", "")
        return path

    return make


def test_an_evaluator_is_given_by_path(tmp_path: Path) -> None:
    path = write(tmp_path / "tasks" / "mine.py", TASK.format(doc="Mine."))
    found = find_evaluator(str(path))
    assert (found.name, found.reference, found.path, found.origin) == ("mine", str(path), path, "file")
    relative = find_evaluator("../tasks/mine.py")
    assert relative.reference == "../tasks/mine.py", "a path is kept as it was typed"
    assert relative.path.is_absolute()


def test_an_evaluator_is_found_by_name(bundled: Path, install: Callable[..., Path]) -> None:
    write(bundled / "task.py", TASK.format(doc="Bundled."))
    assert find_evaluator("task").reference == "bundled:task"
    assert find_evaluator("task").summary == "Bundled."

    path = install("task", "some_package.evaluators", TASK.format(doc="Installed."))
    with pytest.warns(match="not the bundled evaluator task: write bundled:task"):
        found = find_evaluator("task")
    assert (found.name, found.reference, found.path, found.origin) == ("task", "entry:task", path, "entry point")
    assert found.summary == "Installed."

    write(Path("evaluators/task.py"), TASK.format(doc="The user's own."))
    with pytest.warns(match="uses evaluators/task.py, not the bundled evaluator task"):
        found = find_evaluator("task")
    assert (found.summary, found.reference) == ("The user's own.", "evaluators/task.py")

    # A manifest's reference goes on meaning what it meant.
    assert find_evaluator("bundled:task").summary == "Bundled."
    assert find_evaluator("entry:task").summary == "Installed."
    for reference in ("bundled:task", "entry:task", "evaluators/task.py"):
        assert find_evaluator(find_evaluator(reference).reference).path == find_evaluator(reference).path


def test_the_list_says_which_is_used(bundled: Path, install: Callable[..., Path]) -> None:
    write(bundled / "task.py", TASK.format(doc="Bundled.\n\nMore."))
    write(bundled / "other.py", TASK.format(doc="Other."))
    write(bundled / "_hidden.py", TASK.format(doc="Hidden."))
    write(Path("evaluators/task.py"), TASK.format(doc="Mine."))
    broken = write(Path("evaluators/broken.py"), "def :")
    install("far", "far_away", TASK.format(doc="Far."))
    rows = list_evaluators()
    assert [(name, origin, line) for name, origin, _, line in rows if name != "broken"] == [
        ("far", "entry point", "Far."),
        ("other", "bundled", "Other."),
        ("task", "file (hides bundled)", "Mine."),
    ]
    name, origin, path, line = rows[0]
    assert (name, origin, path) == ("broken", "file", Path("evaluators/broken.py"))
    assert line.startswith("broken: ")
    assert broken.exists()


def test_the_evaluators_of_a_checkout_are_bundled_ones(monkeypatch: pytest.MonkeyPatch, bundled: Path) -> None:
    monkeypatch.setattr(plugins, "bundled_folder", lambda: Path.cwd() / "evaluators")
    write(Path("evaluators/task.py"), TASK.format(doc="Bundled."))
    assert find_evaluator("task").reference == "bundled:task"
    assert [row[1] for row in list_evaluators()] == ["bundled"]


def test_the_real_bundled_evaluators_are_found() -> None:
    folder = plugins.PACKAGE
    assert (folder / "evaluators").is_dir() or (folder.parent / "evaluators").is_dir()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tsk", r"no evaluator 'tsk' \(did you mean task\?\): expected a path to a .py file or one of task"),
        ("bundled:none", r"cannot read the evaluator .*none\.py: No such file or directory; check the path"),
        ("entry:none", "no installed evaluator 'none': install the package .* --evaluator PATH"),
        ("nowhere/task.py", r"cannot read the evaluator .*nowhere/task\.py: No such file"),
        ("./task", "cannot read the evaluator .*task: No such file"),
        (".", "no evaluator '.'"),
        ("", "no evaluator ''"),
        ("../bundled/", "cannot read the evaluator .*bundled: it is no regular file"),
    ],
)
def test_what_is_not_there_is_named(bundled: Path, name: str, said: str) -> None:
    write(bundled / "task.py", TASK.format(doc="Bundled."))
    with pytest.raises(PluginError, match=said) as caught:
        find_evaluator(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "line", "said"),
    [
        ("x = 1\ndef f(:\n  pass", ":2: ", "SyntaxError: "),
        ("x = 1\n\nraise ValueError('no\\nluck')", ":3: ", "ValueError: no luck; the evaluator cannot be imported"),
        ("import no_such_module_at_all", ":1: ", "ModuleNotFoundError: No module named 'no_such_module_at_all'"),
        ("import sys\nsys.exit(3)", ":2: ", "SystemExit: 3; the evaluator cannot be imported; a script is run by its "),
        ("def f():\n    return missing\nf()", ":2: ", "NameError: name 'missing' is not defined"),
        ("from evo_tune import Float\nFloat(2, 1)", ":2: ", "Float(2.0, 1.0): low must be below high"),
        ("from evo_tune import Nothing", ":1: ", "ImportError: cannot import name 'Nothing'"),
        ("import helper_that_breaks", ":1: ", "ZeroDivisionError"),
        ("import helper_that_does_not_parse", "", "helper_that_does_not_parse.py:2: SyntaxError"),
        ("\0", "", "null bytes"),
    ],
)
def test_a_file_that_breaks_on_import_says_where_and_what(tmp_path: Path, source: str, line: str, said: str) -> None:
    write(tmp_path / "helper_that_breaks.py", "1 / 0")
    write(tmp_path / "helper_that_does_not_parse.py", "x = 1\nx = = 1")
    path = write(tmp_path / "task.py", source)
    before = set(sys.modules)
    with pytest.raises(PluginError) as caught:
        find_evaluator(str(path))
    message = str(caught.value)
    assert message.startswith(f"{path}{line}") or not line
    assert said in message
    assert "\n" not in message
    assert not [name for name in set(sys.modules) - before if name.startswith("evo_tune_plugin_task")]


def test_ctrl_c_on_import_is_not_swallowed(tmp_path: Path) -> None:
    path = write(tmp_path / "task.py", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        find_evaluator(str(path))


def test_what_a_plug_in_prints_as_it_is_imported_stays_out_of_results(
    tmp_path: Path, install: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "task.py", "print('from a file')\n" + TASK.format(doc="Loud."))
    assert find_evaluator(str(path)).summary == ""  # its docstring no longer comes first
    install("loud", "loud_package.task", TASK.format(doc="Loud."))
    write(tmp_path / "site-packages" / "loud_package" / "__init__.py", "print('from a package')")
    assert find_evaluator("loud").summary == "Loud."
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["from a file", "from a package"]


def test_a_file_is_imported_once_and_anew_when_it_changes(tmp_path: Path) -> None:
    path = write(tmp_path / "task.py", TASK.format(doc="One."))
    first = find_evaluator(str(path)).module
    assert find_evaluator(str(path)).module is first
    write(path, TASK.format(doc="Two."))
    second = find_evaluator(str(path))
    assert second.module is not first
    assert second.summary == "Two."


def test_no_compiled_copy_is_read_or_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = write(tmp_path / "task.py", TASK.format(doc="One."))
    py_compile.compile(str(path))
    before = path.stat()
    write(path, TASK.format(doc="Two."))  # as long as before
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert find_evaluator(str(path)).summary == "Two."
    write(tmp_path / "other.py", TASK.format(doc="One."))
    find_evaluator(str(tmp_path / "other.py"))
    assert [file.name.partition(".")[0] for file in (tmp_path / "__pycache__").iterdir()] == ["task"]


def test_files_of_one_name_in_two_folders_do_not_meet(tmp_path: Path) -> None:
    paths = [write(tmp_path / folder / "task.py", TASK.format(doc=f"{folder}.")) for folder in "ab"]
    assert [find_evaluator(str(path)).summary for path in paths] == ["a.", "b."]


def test_its_folder_and_the_working_directory_can_be_imported_from(tmp_path: Path) -> None:
    write(tmp_path / "tasks" / "beside_task.py", "A = 1")
    write(Path("in_working_directory.py"), "B = 2")
    source = TASK.format(doc="Mine.") + "import beside_task, in_working_directory\n"
    find_evaluator(str(write(tmp_path / "tasks" / "task.py", source)))


def test_what_is_known_by_name_does_not_import_from_the_working_directory(
    bundled: Path, install: Callable[..., Path]
) -> None:
    write(bundled / "task.py", TASK.format(doc="Bundled."))
    install("far", "far_away", TASK.format(doc="Far."))
    install("climb", "far_climb", STRATEGY, plugins.STRATEGIES)
    for name in ("task", "far", "bundled:task", "entry:far"):
        find_evaluator(name)
    find_strategy("climb")
    assert not {"", ".", str(Path.cwd())} & set(sys.path)
    find_evaluator(str(bundled / "task.py"))
    assert str(Path.cwd()) in sys.path, "the user named the file"


@pytest.mark.parametrize("rest", ["../elsewhere/task", "sub/task", "", "..", "task.py", "./task"])
def test_what_is_bundled_has_a_plain_name(bundled: Path, tmp_path: Path, rest: str) -> None:
    for path in (tmp_path / "elsewhere" / "task.py", bundled / "sub" / "task.py", bundled / "task.py"):
        write(path, TASK.format(doc="Found."))
    for name in (f"bundled:{rest}", f"bundled:{tmp_path}/elsewhere/task"):
        with pytest.raises(PluginError, match="no bundled evaluator"):
            find_evaluator(name)


def test_a_module_of_a_package_may_import_its_neighbours(install: Callable[..., Path]) -> None:
    source = TASK.format(doc="Packed.").replace("Int(1, 9)", "Int(1, LARGEST)")
    path = install("packed", "packed_tasks.deep.task", "from .data import LARGEST\nfrom .. import deep\n" + source)
    write(path.parent / "data.py", "LARGEST = 5")
    assert find_evaluator("packed").bind({}).space.size == 5
    # A worker gets the path alone.
    assert load_evaluator(path, "entry:packed", "entry point").name == "packed"


@pytest.mark.parametrize("module", ["no_such_package", "no_such_package.module"])
def test_a_broken_entry_point_is_passed_over_with_a_warning(
    bundled: Path, install: Callable[..., Path], module: str
) -> None:
    write(bundled / "task.py", TASK.format(doc="Bundled."))
    install("ghost", module, None)
    with pytest.warns(UserWarning, match=f"entry point ghost = {module}"):
        assert [row[0] for row in list_evaluators()] == ["task"]


@pytest.mark.parametrize("name", ["../task", "/etc/task", "task.py", "a b", "a\x1b[2Jb", ""])
def test_an_entry_point_whose_name_is_not_plain_is_passed_over(
    bundled: Path, install: Callable[..., Path], name: str
) -> None:
    write(bundled / "task.py", TASK.format(doc="Bundled."))
    install(name, "some_package.evaluators", TASK.format(doc="Installed."))
    install(name, "some_package.strategies", STRATEGY, plugins.STRATEGIES)
    with pytest.warns(UserWarning, match="of evo_tune.evaluators: its name is not a plain one"):
        assert [row[0] for row in list_evaluators()] == ["task"]
    with pytest.warns(UserWarning, match="its name is not a plain one"), pytest.raises(PluginError):
        find_evaluator(f"entry:{name}")
    with pytest.warns(UserWarning, match="of evo_tune.strategies: its name is not a plain one"):
        assert name not in [row[0] for row in plugins.list_strategies()]


# Hashes.


def test_the_hash_covers_local_imports(tmp_path: Path) -> None:
    tasks = tmp_path / "tasks"
    path = write(tasks / "task.py", "import os, json, evo_tune, helper\nfrom pack.sub import thing\nimport deep.er.est")
    write(tasks / "helper.py", "def f():\n    import lazy")
    write(tasks / "lazy.py", "import task")  # in a circle
    write(tasks / "pack" / "__init__.py", "")
    write(tasks / "pack" / "sub.py", "from . import near\nfrom ..above import x")
    write(tasks / "pack" / "near.py", "")
    write(tasks / "above.py", "")
    write(tasks / "deep" / "er" / "est.py", "")  # a namespace
    write(tasks / "unrelated.py", "")
    write(Path("os.py"), "")  # in the working directory: it would be imported there
    names = {file.name for file in local_sources(path)}
    assert names == {
        "task.py",
        "helper.py",
        "lazy.py",
        "__init__.py",
        "sub.py",
        "near.py",
        "above.py",
        "est.py",
        "os.py",
    }

    before = source_hash(path)
    write(tasks / "unrelated.py", "changed = 1")
    assert source_hash(path) == before
    for name in ("lazy.py", "pack/near.py", "pack/__init__.py", "deep/er/est.py", "task.py"):
        with (tasks / name).open("a") as file:
            file.write("\n# changed")
        assert source_hash(path) != before, name
        before = source_hash(path)


def test_the_hash_does_not_depend_on_where_the_files_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = set()
    for project, tasks in (("a", "z"), ("z", "a")):
        path = write(tmp_path / tasks / "deep" / "task.py", "import helper, other")
        write(path.parent / "helper.py", "x = 1")
        write(tmp_path / project / "project" / "other.py", "y = 1")
        monkeypatch.chdir(tmp_path / project / "project")
        hashes.add(source_hash(path))
        shutil.rmtree(tmp_path / tasks)
    assert len(hashes) == 1


def test_installed_packages_are_not_local(install: Callable[..., Path]) -> None:
    path = install("task", "lone_task", "import other_package\nimport evo_tune.genome.space")
    write(path.parent / "other_package.py", "")
    assert local_sources(path) == [path]
    path = install("packed", "packed_with.task", "import other_package\nfrom packed_with import data")
    write(path.parent / "data.py", "import packed_with.more")
    write(path.parent / "more.py", "")
    assert [file.name for file in local_sources(path)] == ["__init__.py", "data.py", "more.py", "task.py"]


def test_a_file_that_does_not_parse_has_a_hash(tmp_path: Path) -> None:
    path = write(tmp_path / "task.py", "import helper")
    write(tmp_path / "helper.py", "def (")
    assert [file.name for file in local_sources(path)] == ["helper.py", "task.py"]
    assert len(source_hash(path)) == 64


# Strategies.


def test_bundled_strategies_are_found_by_name() -> None:
    rows = {name: line for name, line, _ in list_strategies()}
    assert {"ga", "nsga2", "random"} <= rows.keys()
    assert not [name for name in rows if name.startswith("_")]
    assert all(line and not line.startswith("broken") for line in rows.values())
    assert all(issubclass(find_strategy(name), Strategy) for name in rows)


def test_a_strategy_may_be_the_users_own(tmp_path: Path, install: Callable[..., Path]) -> None:
    path = write(tmp_path / "climb.py", STRATEGY + "\nRows = list[int]  # a class to Python 3.10\n")
    strategy = make_strategy(str(path), {"step": "0.5", "population": "6"})
    assert (type(strategy).__name__, strategy.population, vars(strategy)["step"]) == ("Climb", 6, 0.5)
    assert make_strategy(str(path), {"step": "0.5", "population": 6}) == strategy

    install("climb", "climbing", STRATEGY, plugins.STRATEGIES)
    assert find_strategy("climb").__doc__ is not None
    assert ("climb", "Climb by one gene.") in [row[:2] for row in list_strategies()]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("x = 1", "expected one subclass of evo_tune.Strategy in its file, found none"),
        (STRATEGY + "\nclass Other(Climb): ...", "found Climb, Other"),
        ("from evo_tune import Strategy\nfrom evo_tune.strategies.ga import GA", "found none"),
        ("1 / 0", r"climb\.py:1: ZeroDivisionError: division by zero; the strategy cannot be imported"),
        (STRATEGY.replace("frozen=True", ""), r"climb\.py:[56]: TypeError: cannot inherit non-frozen"),
    ],
)
def test_a_broken_strategy_says_what_is_wrong(tmp_path: Path, source: str, said: str) -> None:
    path = write(tmp_path / "climb.py", source)
    with pytest.raises(PluginError, match=said):
        find_strategy(str(path))


def test_a_strategy_without_a_method_of_the_contract_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "climb.py", STRATEGY.replace("def propose", "def proposed"))
    with pytest.raises(PluginError, match=r"climb\.py cannot be made: TypeError: .*propose"):
        make_strategy(str(path), {})


def test_a_broken_strategy_does_not_hide_the_others(install: Callable[..., Path]) -> None:
    install("broken", "broken_strategy", "1 / 0", plugins.STRATEGIES)
    install("odd", "odd_strategy", STRATEGY.replace("float = 0.1", "list = None"), plugins.STRATEGIES)
    rows = {name: line for name, line, _ in list_strategies()}
    assert "ZeroDivisionError" in rows["broken"]
    assert "option step: its type list" in rows["odd"]
    assert rows["ga"]
    working = working_strategies()
    assert {"ga", "nsga2"} <= working.keys()
    assert not {"broken", "odd"} & working.keys()


def test_a_broken_strategy_has_a_row_that_says_so(install: Callable[..., Path]) -> None:
    install("broken", "broken_strategy", "1 / 0", plugins.STRATEGIES)
    needing = STRATEGY.replace("step: float = 0.1", "step: float = field(kw_only=True)")
    install(
        "needing",
        "needing_strategy",
        needing.replace("import dataclass", "import dataclass, field"),
        plugins.STRATEGIES,
    )
    result = CliRunner().invoke(strategies_command, ["--format", "json"], catch_exceptions=False)
    rows = {row["strategy"]: row for row in json.loads(result.stdout)}
    assert rows["broken"]["summary"].startswith("broken: ")
    assert (rows["broken"]["objectives"], rows["broken"]["options"]) == ("-", [])
    told = [(option["option"], option["required"], option["default"]) for option in rows["needing"]["options"]]
    assert told == [("population", False, 12), ("step", True, None)]
    table = CliRunner().invoke(strategies_command, ["--format", "csv"], catch_exceptions=False)
    assert '"population=12, step"' in table.stdout
    assert rows["nsga2"]["objectives"] == "several"


def test_a_strategy_whose_packages_are_not_installed_names_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)  # as if it were not there
    with pytest.raises(PluginError) as caught:
        make_strategy("tpe", {})
    assert "strategy tpe needs optuna" in str(caught.value)
    assert "`pip install 'evo-tune[optuna]'`" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert {name: line for name, line, _ in list_strategies()}["tpe"].endswith(
        "(first: pip install 'evo-tune[optuna]')"
    )
    assert "pip" not in {name: line for name, line, _ in list_strategies()}["ga"]

    needing = STRATEGY.replace("    step:", "    needs = {'no_such_package': 'such>=2', 'json': 'never'}\n    step:")
    with pytest.raises(PluginError, match=r"`pip install 'such>=2'`"):
        make_strategy(str(write(tmp_path / "climb.py", needing)), {})


def test_unknown_strategies_and_options_are_named() -> None:
    with pytest.raises(PluginError, match=r"no strategy 'randm' \(did you mean random\?\)"):
        find_strategy("randm")
    with pytest.raises(OptionError, match="strategy random has no option 'elites': expected one of population"):
        make_strategy("random", {"elites": 1})
    with pytest.raises(OptionError, match=r"-s population=few: expected a whole number \(an option of strategy ga\)"):
        make_strategy("ga", {"population": "few"})
    with pytest.raises(OptionError, match="-s population=1: expected a whole number, 2 or more"):
        make_strategy("ga", {"population": "1"})
