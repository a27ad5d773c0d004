"""The baseline of an evaluator: trained once in a run, recorded, compared with the best, and no part of the search."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from evo_tune.errors import PluginError
from evo_tune.genome.trial import Outcome
from evo_tune.loop.search import Search
from evo_tune.plugins.find import find_evaluator
from evo_tune.report.data import run_summary
from evo_tune.report.recommendation import AgainstBaseline as Baseline
from evo_tune.report.summary import RunResult, baseline_verdict
from evo_tune.store.run import Run
from tests.loop.cases import agrees

pytestmark = pytest.mark.usefixtures("here")

TASK = """
from pathlib import Path

from evo_tune import Float, Minimize, SearchSpace

SPACE = SearchSpace(x=Float(0.0, 1.0, default=0.75))
OBJECTIVES = [Minimize("loss")]
METRICS, TEST = {"loss": ""}, {"loss": "test_loss"}
BASELINE = "the mean"


def evaluate(genome, context, *, fail: str = "", value: float = 0.5):
    loss = (genome["x"] - 0.3) ** 2 + context.seed % 7 / 1000
    return {"loss": loss, **({"test_loss": loss + 0.01} if context.test else {})}


def baseline(*, fail, value):
    with open(Path(__file__).with_name("calls"), "a") as file:
        file.write("x")
    if fail and Path(fail).exists():
        raise RuntimeError("no such package: pip install it")
    return {"loss": value, "test_loss": value + 0.02}
"""


@pytest.fixture
def task(tmp_path: Path) -> Path:
    (tmp_path / "task.py").write_text(TASK)
    return tmp_path / "task.py"


def calls(task: Path) -> int:
    known = task.with_name("calls")
    return len(known.read_text()) if known.exists() else 0


def run(task: Path, name: str = "run", **given: Any) -> Run:
    with Search(str(task), store=task.parent / "store", name=name, strategy="random", slots=1, **given) as search:
        search.run()
    assert agrees(search)
    return Run.open(search.saved.folder)


def resumed(task: Path, **given: Any) -> Run:
    with Search.resume(store=task.parent / "store", name="run", trust=[task], **given) as search:
        search.run()
    assert agrees(search)
    return Run.open(search.saved.folder)


def test_it_is_trained_once_and_compared_over_fresh_seeds(task: Path) -> None:
    saved = run(task, trials=4, final_seeds=3)
    assert calls(task) == 1
    found = RunResult(saved).baseline
    assert found is not None
    fresh = RunResult(saved).fresh_best
    assert fresh is not None
    assert (found.name, found.metric, found.value) == ("the mean", "test_loss", 0.52)
    assert (found.best, found.error, found.beaten) == (fresh.mean, fresh.error, True)
    assert found.gain == pytest.approx(0.52 - fresh.mean)
    assert "the best trial beats the mean by" in baseline_verdict(found)
    assert json.loads(json.dumps(run_summary(saved).baseline.__struct_fields__))[0] == "name"  # type: ignore[union-attr]
    assert saved.candidates[0].id == 0
    assert len(saved.outcomes) == 4
    resumed(task, trials=5)
    assert calls(task) == 1


def test_without_it_the_same_genomes_are_proposed(task: Path) -> None:
    one, two = run(task, trials=4), run(task, "other", trials=4, baseline=False)
    assert calls(task) == 1
    assert two.baseline is None
    assert RunResult(two).baseline is None
    assert [each.genome for each in one.candidates] == [each.genome for each in two.candidates]


def test_one_that_fails_costs_nothing_and_is_tried_again_on_resume(task: Path) -> None:
    (marker := task.with_name("marker")).touch()
    saved = run(task, trials=2, options={"fail": str(marker)})
    found = RunResult(saved).baseline
    assert len(saved.outcomes) == 2
    assert found is not None
    assert found.value is None
    assert "no such package: pip install it" in baseline_verdict(found)
    marker.unlink()
    again = RunResult(resumed(task, trials=3)).baseline
    assert again is not None
    assert again.value == 0.5
    assert calls(task) == 2


def test_other_data_ask_for_another_baseline(task: Path) -> None:
    run(task, trials=2)
    task.write_text(TASK.replace('return {"loss": value,', 'return {"loss": 0.25,'))
    found = RunResult(resumed(task, trials=3, accept_changes=True)).baseline
    assert found is not None
    assert found.value == 0.25
    assert calls(task) == 2


@pytest.mark.parametrize("part", ['BASELINE = "the mean"\n', "def baseline(*, fail, value):"])
def test_a_name_without_a_function_is_refused(task: Path, part: str) -> None:
    task.write_text(TASK.replace(part, part.replace("baseline(", "other(") if "def" in part else ""))
    with pytest.raises(PluginError, match=r"task.py.*: BASELINE is .*: expected a name"):
        find_evaluator(str(task))


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (Baseline("B", "loss", 0.5, 0.4, 0.1, 0.01, True), "the best trial beats B by 0.10000 ± 0.01000: loss 0.4"),
        (Baseline("B", "loss", 0.4, 0.5, -0.1, 0.01, False), "B beats the best trial by 0.10000 ± 0.01000: loss 0.5"),
        (Baseline("B", "loss", 0.5, 0.4, 0.1, 0.0, True), "the best trial beats B by 0.10000: loss 0.4"),
        (Baseline("B", "loss", 0.4, 0.5, -0.1, 0.2), "does not clearly beat B: .*, a difference of -0.10000 ± 0.2"),
        (Baseline("B", "loss", 0.4, 0.5, -0.1), "not better than B: loss 0.5.* against .*over fresh seeds$"),
        (Baseline("B", "loss", 0.5, 0.4, 0.1), "better than B: loss 0.4.* against .*: it may be luck$"),
        (Baseline("B", "loss", 0.4), "B: loss 0.4"),
        (Baseline("B", "loss", problem="it burnt"), "B has no value to compare with: it burnt"),
    ],
)
def test_the_comparison_is_said_in_one_line(found: Baseline, words: str) -> None:
    assert re.search(words, baseline_verdict(found))


def test_a_maximised_metric_is_better_when_larger(task: Path) -> None:
    task.write_text(TASK.replace('Minimize("loss")', 'Maximize("loss")').replace("Minimize,", "Maximize,"))
    found = RunResult(run(task, trials=2, options={"value": 0.9})).baseline
    assert found is not None
    assert found.best is not None
    assert found.gain == pytest.approx(found.best - 0.9)
    assert found.error is None


def test_a_journal_holds_it_as_an_event(task: Path) -> None:
    saved = run(task, trials=1)
    assert saved.baseline is not None
    assert isinstance(saved.baseline[1], Outcome)
    lines = [line for line in saved.journal.path.read_bytes().splitlines() if b'"event":"baseline"' in line]
    assert len(lines) == 1
