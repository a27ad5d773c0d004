"""What a run is refused for: a new one before anything is made, a saved one before it goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evo_tune.errors import OptionError, PluginError, SpaceError, StoreError, UsageError
from evo_tune.genome.notation import parse_gene
from evo_tune.loop.search import Search
from evo_tune.store.run import Run
from evo_tune.strategies import random
from tests.conftest import drive
from tests.extras import need
from tests.loop.cases import TASK, Begin


def test_a_changed_evaluator_is_refused_unless_accepted(begin: Begin, resume: Begin, quick: Path) -> None:
    drive(begin("run", trials=5))
    (quick.parent / "helper.py").write_text("y = 1")
    quick.write_text(quick.read_text() + "\nimport helper\n")
    with pytest.raises(UsageError, match=r"quick\.py', which has changed since you named it.*--accept-changes"):
        resume("run")
    with pytest.raises(StoreError, match=r"quick\.py \(or a module that it imports\) has changed.*--accept-changes"):
        resume("run", trust=True)
    drive(resume("run", accept_changes=True, trials=6))
    assert len(drive(resume("run", trials=7)).trials) == 7, "what was accepted once is known"
    (quick.parent / "helper.py").write_text("y = 2")
    with pytest.raises(UsageError, match="has changed"):
        resume("run")


def test_changed_data_is_refused_unless_accepted(begin: Begin, resume: Begin, quick: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.txt"
    data.write_text("one")
    quick.write_text(
        quick.read_text() + f"\nimport pathlib\ndef fingerprint(): return pathlib.Path({str(data)!r}).read_text()\n"
    )
    drive(begin("run", trials=5))
    data.write_text("two")
    with pytest.raises(StoreError, match="the evaluator's data has changed since run run began"):
        resume("run")
    assert len(drive(resume("run", accept_changes=True, trials=6)).trials) == 6
    assert Run.open(tmp_path / "store" / "run").fingerprint == "two"
    assert resume("run").ask() is None


LAYERS = """from dataclasses import dataclass

from evo_tune import Choice, Float, Minimize, SearchSpace

SPACE = SearchSpace(lr=Float(0.1, 1.0))
OBJECTIVES = [Minimize("loss")]


@dataclass
class Options:
    layers: int = 2


def evaluate(genome, context, options: Options):
    return {"loss": genome["lr"] * options.layers}
"""


def test_a_run_continues_without_a_gene_that_is_new_and_an_option(begin: Begin, resume: Begin, quick: Path) -> None:
    quick.write_text(LAYERS)
    drive(begin("run", trials=5))
    quick.write_text(LAYERS.replace("(lr=", "(layers=Choice((1, 2)), lr="))
    trials = drive(resume("run", accept_changes=True, trials=8)).trials
    assert [set(trial.candidate.genome) for trial in trials] == [{"lr"}] * 8
    assert all(trial.outcome.metrics["loss"] == trial.candidate.genome["lr"] * 2 for trial in trials)
    quick.write_text(LAYERS.replace("(lr=", "(size=Choice((1, 2)), lr="))
    with pytest.raises(StoreError, match="size is new"):
        resume("run", accept_changes=True)


def test_an_evaluator_that_has_moved(begin: Begin, resume: Begin, quick: Path) -> None:
    drive(begin("run", trials=5))
    moved = quick.with_name("elsewhere")
    moved.mkdir()
    quick.rename(moved / "quick.py")
    with pytest.raises(PluginError, match=r"quick\.py"):
        resume("run")
    assert len(drive(resume("run", evaluator=str(moved / "quick.py"), trials=6)).trials) == 6


def test_a_strategy_that_has_moved(begin: Begin, resume: Begin, tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text(Path(random.__file__).read_text())
    drive(begin("run", strategy=str(own), trials=5))
    (tmp_path / "elsewhere").mkdir()
    moved = own.rename(tmp_path / "elsewhere" / "own.py")
    with pytest.raises(PluginError, match=r"own\.py.*or say where it is now: --strategy PATH"):
        resume("run")
    assert len(drive(resume("run", strategy=str(moved), trials=6)).trials) == 6
    moved.write_text(moved.read_text() + "\n")
    with pytest.raises(StoreError, match=r"the strategy's file .*own\.py \(or a module.*later proposals would differ"):
        resume("run", strategy=str(moved))
    drive(resume("run", strategy=str(moved), trials=7, accept_changes=True))
    moved.rename(own)
    assert len(drive(resume("run", trials=8, trust=True)).trials) == 8, "what was accepted once is known"


def test_a_strategy_that_is_no_file_cannot_have_moved(begin: Begin, resume: Begin) -> None:
    drive(begin("run", trials=5))
    with pytest.raises(OptionError, match=r"--strategy x\.py: the run's strategy ga is no file that can move"):
        resume("run", strategy="x.py")


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"evaluator": "nope"}, PluginError, "there is no evaluator 'nope'"),
        ({"strategy": "gaa"}, PluginError, r"there is no strategy 'gaa' \(did you mean ga\?\)"),
        ({"options": {"slep": 1}}, OptionError, r"quick has no option 'slep' \(did you mean sleep\?\)"),
        ({"options": {"sleep": "long"}}, OptionError, "sleep=long: expected a number"),
        ({"strategy_options": {"elite": 1}}, OptionError, "strategy ga has no option 'elite'"),
        ({"population": 1}, OptionError, "-s population=1: expected a whole number, 2 or more"),
        (
            {"objectives": ["loss"]},
            SpaceError,
            "expected METRIC:min or METRIC:max, such as loss:max if larger is better",
        ),
        ({"objectives": ["lost:min"]}, SpaceError, r"--objective lost:min: quick returns no metric 'lost'"),
        ({"objectives": ["loss:min", "loss:max"]}, SpaceError, "objectives loss, loss: one is given twice"),
        (
            {"objectives": ["loss:min", "cost:min"], "strategy": "ga"},
            PluginError,
            r"strategy ga optimises one objective, and 2 were given \(loss, cost\): give one --objective, or choose "
            r"--strategy (\w+ or )*nsga2 or ",
        ),
        (
            {"strategy": "cma"},
            PluginError,
            "strategy cma searches numbers and ordered choices, and kind has no order: fix it with --gene kind=VALUE, "
            r"or choose --strategy (\w+ or )*ga or ",
        ),
        ({"order": "size"}, OptionError, "--order size: expected arrival or proposal"),
        ({"lag": -1}, OptionError, "--lag -1"),
        ({"slots": 0}, OptionError, "--slots 0: expected a whole number, 1 to 10000"),
        ({"per_device": 0}, OptionError, "--per-device 0: expected a whole number, 1 to 1000"),
        ({"threads": -1}, OptionError, "--threads -1: expected a whole number, 1 to 1000000"),
        ({"timeout": 0.0}, OptionError, "--timeout 0.0: expected a number in"),
        ({"timeout": float("nan")}, OptionError, "--timeout nan: expected a number in"),
        ({"retries": -1}, OptionError, "--retries -1: expected a whole number, 0 to 10000"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_made(
    begin: Begin, tmp_path: Path, fields: dict[str, Any], error: type[UsageError], message: str
) -> None:
    if fields.get("strategy") == "cma":
        need("cma")
    with pytest.raises(error, match=message) as caught:
        begin(**fields)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("genes", "said"),
    [
        ({"noise": "float(0,3)"}, "--gene noise, at 3.0: noise=3.0: expected 0 to 2"),
        ({"noise": "1|5"}, "--gene noise, at 5: "),
        ({"noise": "fast"}, "--gene noise: 'fast' is not allowed: expected numbers"),
        ({"nois": "1"}, r"--gene nois: expected one of .*noise, window.*did you mean noise"),
        ({"lr": None}, "--gene lr: it is on as it is"),
    ],
)
def test_a_gene_out_of_range_is_refused_before_a_trial(
    search: Callable[..., Search], genes: dict[str, str | None], said: str
) -> None:
    with pytest.raises(SpaceError, match=said):
        search(genes={name: text and parse_gene(name, text) for name, text in genes.items()})


def test_a_broken_estimate_costs_no_evaluation(search: Callable[..., Search], task: Path, tmp_path: Path) -> None:
    task.write_text(TASK.replace('return {"params": bias + genome["depth"]}', "return 5"))
    with pytest.raises(PluginError, match=r"task\.py:22: estimate gives 5: expected a dict of metric names"):
        search()
    task.write_text(TASK.replace('genome["depth"]}', 'genome["dept"]}'))
    with pytest.raises(PluginError, match=r"task\.py:25: KeyError: 'dept'"):
        search()
    assert not (tmp_path / "store").exists()


def test_what_the_user_gave_stays_whatever_the_evaluator_says_now(
    search: Callable[..., Search], task: Path, tmp_path: Path
) -> None:
    search(genes={"depth": parse_gene("depth", "int(2,3)"), "noise": None}, objectives=["params:min"])
    task.write_text(TASK.replace("Int(1, 8,", "Int(1, 9,").replace('Minimize("loss")', 'Minimize("params")'))
    Search.resume("run", store=tmp_path / "store", accept_changes=True).saved.close()
    task.write_text(TASK.replace("default=0.5", "default=0.6"))
    Search.resume("run", store=tmp_path / "store", accept_changes=True).saved.close()
    task.write_text(TASK.replace("Float(0.0, 1.0, d", "Float(0.0, 2.0, d"))
    with pytest.raises(StoreError, match=r"noise is now Float\(low=0\.0, high=2\.0"):
        Search.resume("run", store=tmp_path / "store", accept_changes=True)


def test_a_broken_strategy_does_not_stop_the_advice(
    search: Callable[..., Search], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "broken.py").write_text("1 / 0")
    monkeypatch.setattr(
        "evo_tune.plugins.find._entry_points",
        lambda group: {"broken": tmp_path / "broken.py"} if group.endswith("strategies") else {},
    )
    with pytest.raises(PluginError, match=r"choose --strategy nsga2 or .*random"):
        search(objectives=["loss:min", "params:min"], strategy="ga")


def test_genes_that_a_package_has_changed_are_named_so(
    search: Callable[..., Search], task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_package = """
FIRST = SPACE


def SPACE():
    import os
    return FIRST.with_genes({"added": Float(0.0, 1.0)}) if "NEW" in os.environ else FIRST
"""
    task.write_text(TASK.replace("\nOBJECTIVES", f"{of_package}\n\nOBJECTIVES"))
    search()
    monkeypatch.setenv("NEW", "1")
    with pytest.raises(StoreError, match=r"added is new.*though its code has not, perhaps by a package that was"):
        Search.resume("run", store=tmp_path / "store", trust=True)


@pytest.mark.parametrize(
    ("old", "new", "cause"),
    [
        ("lr=Float(0.1, 1.0, default=0.5),", "", "its genes have changed (lr is gone)"),
        ("lr=Float", "rate=Float", "its genes have changed (lr is gone; rate is new)"),
        ("depth=Int", "width_2=Int(1, 2), depth=Int", "its genes have changed (width_2 is new)"),
        ("depth=Int(1, 8,", "depth=Int(1, 9,", "its genes have changed (depth is now Int(low=1, high=9, "),
        ('"two"]', '"three"]', "its genes have changed (size is now Choice(values=('1', 'three'), "),
        ("[8, 16])", "[8.0, 16])", "its genes have changed (width is now Choice(values=(8.0, 16), "),
        ('Minimize("loss")', 'Minimize("params")', "its objectives have changed (now params:min, and were loss:min)"),
        ("bias: int = 0", "offset: int = 0", "no longer supported: -o bias=5"),
        ("bias: int = 0", "bias: int = 0, data: str", "task needs -o data="),
        ("bias: int = 0", "bias: bool | None = None", "bias=5"),
    ],
)
@pytest.mark.parametrize("accept", [False, True])
def test_what_a_run_cannot_go_on_with_is_named(
    search: Callable[..., Search], task: Path, tmp_path: Path, old: str, new: str, cause: str, accept: bool
) -> None:
    search(options={"bias": 5})
    task.write_text(TASK.replace(old, new))
    with pytest.raises(StoreError) as caught:
        Search.resume("run", store=tmp_path / "store", accept_changes=accept, trust=True)
    message = str(caught.value)
    assert message.startswith(f"run run cannot continue with the present {task}: ")
    assert cause in message
    assert message.endswith("or start a new run, perhaps with --learn-from run")
