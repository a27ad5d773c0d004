"""What is taken as it was meant before the first birth of a run, and what it is named."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evo_tune.errors import OptionError, PluginError, SpaceError
from evo_tune.genome.genes import Int
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Maximize, Minimize
from evo_tune.loop.budget import StepTimings, fit_cost
from evo_tune.loop.search import Search, new_name
from evo_tune.plugins.cost import JUDGED, Cost
from evo_tune.plugins.evaluator import Evaluator
from evo_tune.plugins.find import find_evaluator
from tests.loop.cases import TASK


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"seed": "x"}, "--seed x: expected a whole number"),
        ({"seed": 1.5}, "--seed 1.5: expected a whole number"),
        ({"seed": True}, "--seed True: expected a whole number"),
        ({"seed": -1}, "--seed -1: expected a whole number, 0 or more"),
        ({"seed": None}, "--seed None: expected a whole number"),
        ({"lag": 1.5}, "--lag 1.5: expected a whole number"),
        ({"lag": False}, "--lag False: expected a whole number"),
        ({"lag": -1}, "--lag -1: expected a whole number"),
        ({"order": "random"}, "--order random: expected arrival or proposal"),
        ({"population": 1.5}, "-s population=1.5: expected a whole number"),
        ({"population": True}, "-s population=True: expected a whole number"),
        ({"options": "bias=1"}, "expected a dict of names to values"),
        ({"genes": {"lr": 3}}, "gene 'lr': 3 is not a Gene; expected Float, Int or Choice"),
        ({"genes": ["lr"]}, "genes ['lr']: expected a dict"),
        ({"genes": {3: Int(1, 2)}}, "--gene 3: expected one of lr, depth"),
        (
            {"genes": {"dept": Int(1, 2)}},
            "--gene dept: expected one of lr, depth, size, width, tied, mixed, noise, window (did you mean",
        ),
        ({"warm_start": [5]}, "--warm-start, genome 1: 5: expected a dict of gene names to values"),
        ({"warm_start": 5}, "warm_start 5: expected a list of genomes"),
        ({"warm_start": {"lr": 0.5}}, "--warm-start, genome 1: 'lr': expected a dict"),
        ({"warm_start": [{3: 0.5}]}, "--warm-start, genome 1: unknown gene 3"),
        ({"objectives": "loss"}, "expected METRIC:min or METRIC:max"),
        ({"objectives": 5}, "objective 5: expected METRIC:min"),
        ({"objectives": [5]}, "objective 5: expected METRIC:min"),
        ({"objectives": [Minimize]}, "expected METRIC:min"),
        ({"objectives": [Minimize(5)]}, "expected METRIC:min"),  # type: ignore[arg-type]
        ({"objectives": ["\udcff:min"]}, r"objective '\udcff:min': expected METRIC:min"),
    ],
)
def test_a_value_of_another_type_is_refused_in_one_line(
    search: Callable[..., Search], tmp_path: Path, given: dict[str, Any], said: str
) -> None:
    with pytest.raises((OptionError, SpaceError)) as caught:
        search(**given)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "store").exists()


def test_whole_numbers_of_numpy_are_whole_numbers(search: Callable[..., Search]) -> None:
    given = {"seed": np.int64(3), "lag": np.int32(2), "population": np.uint8(5), "options": {"bias": np.int64(7)}}
    manifest = search(**given).saved.manifest
    found = (manifest.settings.seed, manifest.settings.lag, manifest.population, manifest.options["bias"])
    assert found == (3, 2, 5, 7)
    assert {type(number) for number in found} == {int}


@pytest.mark.parametrize(
    ("objectives", "held"),
    [
        ("loss:min", ["loss:min"]),
        (Maximize("loss"), ["loss:max"]),
        ((text for text in ("loss:min", "params:min")), ["loss:min", "params:min"]),
        ((), ["loss:min"]),
    ],
)
def test_objectives_may_be_one_or_several(search: Callable[..., Search], objectives: Any, held: list[str]) -> None:
    assert search(objectives=objectives).saved.manifest.objectives == held


@pytest.mark.parametrize(
    ("evaluator", "slug"),
    [
        ("task", "task"),
        ("my task", "my-task"),
        ("_x", "x"),
        ("évé", "eve"),
        ("任务", "run"),
        ("--", "run"),
        ("a.b", "a-b"),
        ("x" * 300, "x" * 50),
    ],
)
def test_every_evaluator_gives_a_name(tmp_path: Path, evaluator: str, slug: str) -> None:
    assert re.fullmatch(re.escape(slug) + r"-\d{8}-\d{6}", new_name(evaluator, tmp_path))


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("stem", ["évé", "_x", "my task", "任务"])
def test_a_file_of_any_name_runs(task: Path, tmp_path: Path, stem: str) -> None:
    path = task.rename(tmp_path / f"{stem}.py")
    search = Search(str(path), store=tmp_path / "store", trials=1, slots=1).run()
    assert [trial.outcome.error for trial in search.trials] == [None]


def test_an_error_is_saved_as_it_can_be_printed(task: Path, tmp_path: Path) -> None:
    raising = 'raise ValueError("\\x1b[31mred\\n\\udcff" + "x" * 999)'
    task.write_text(TASK.replace('return {"loss": genome["lr"]}', raising))
    search = Search(str(task), store=tmp_path / "store", trials=1, slots=1).run()
    error = search.frame()["error"][0]
    assert error.startswith(r"ValueError: \x1b[31mred \udcffxxx")
    assert error.endswith("x… (task.py:19)")
    assert r"\udcffxxx" in next((tmp_path / "store").glob("*/_trials/000000/error.txt")).read_text()


@pytest.mark.parametrize("options", [{}, {"seconds": "0.5"}])
def test_a_run_begins_with_one_bind_and_three_spaces(
    options: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: Counter[str] = Counter()

    def count(kind: type, name: str) -> None:
        original = getattr(kind, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            counts[f"{kind.__name__}.{name}"] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(kind, name, counted)

    timings = StepTimings({0: {"seconds": 5.0, "step": 0.01, "judging": 0.1}}, 0, 1, "cpu")
    monkeypatch.setattr("evo_tune.loop.budget.time_steps", lambda *_, **__: timings)
    count(Evaluator, "bind")
    count(SearchSpace, "__init__")
    with Search("tabular", options=options or {"epochs": 2}, store=tmp_path, trials=3, slots=1) as search:
        assert search.ask() is not None
    spaces = 4 if options else 3  # the budget in time may change the evaluator's space
    assert counts["Evaluator.bind"] == 1
    assert 0 < counts["SearchSpace.__init__"] <= spaces


def test_the_usual_costs_that_an_evaluator_declares_reach_the_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    bound = find_evaluator("tabular").bind({"epochs": 2})
    genome = bound.space.default()
    declared = bound.plugin.cpu_costs
    assert {name for name in bound.work(genome) if not name.startswith(JUDGED)} <= declared.keys()
    calls: list[dict[str, float]] = []
    monkeypatch.setattr(Cost, "fit", lambda points, device, cpu_costs: calls.append(cpu_costs))
    fit_cost(bound, [genome], StepTimings({0: {"seconds": 5.0, "step": 0.01, "judging": 0.1}}, 0, 1, "cpu"))
    assert calls == [declared]


@pytest.mark.parametrize("costs", ["[1]", "{'step': 0.0}", "{'step': 'much'}"])
def test_costs_that_are_none_are_refused(costs: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.py"
    path.write_text(f"{TASK}\nCPU_COSTS = {costs}\n")
    with pytest.raises(PluginError, match=r"CPU_COSTS is .*: expected a dict of kinds of work to seconds above 0"):
        find_evaluator(str(path))
