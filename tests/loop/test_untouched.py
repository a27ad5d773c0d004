"""The test set: no search sees it, finalists are chosen without it, and the best is compared with the default on it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from evo_tune.cli import cli
from evo_tune.errors import OptionError
from evo_tune.genome.trial import Candidate, Maximize, Outcome
from evo_tune.loop.comparison import comparison_jobs, record_result
from evo_tune.loop.search import Search
from evo_tune.report.recommendation import comparison_objective, current_comparison, fresh_values, recommend_trial
from evo_tune.report.serving import LiveStore
from evo_tune.report.summary import RunResult, verdict
from evo_tune.store.run import Run
from evo_tune.store.table import read_comparison
from evo_tune.text import show_value
from tests.conftest import drive
from tests.journals import events_of

Begin = Callable[..., Search]

TASK = '''"""A landscape whose test set is the other way round, measured and told whether asked for or not."""

from evo_tune import Float, Minimize, SearchSpace

SPACE = SearchSpace(x=Float(0.0, 1.0, default=0.0))
OBJECTIVES = [Minimize("loss")]
METRICS = {"loss": "nats", "accuracy": "", "test_loss": "nats"}
TEST = {"loss": "test_loss", "accuracy": "test_accuracy"}


def evaluate(genome, context, *, returns: str = "test_loss"):
    loss, noise = 1.0 - genome["x"], context.seed % 1000 / 1e6
    test = {returns: 5.0 + genome["x"] + noise, "test_accuracy": float(context.test), "test_extra": 1.0}
    context.report(0.5, loss=loss, **test)
    return {"loss": loss + noise, "accuracy": genome["x"], **test}


def export(genome, context, folder):
    (folder / "model.txt").write_text("x")
    return evaluate(genome, context)
'''

SETTINGS = {"final_seeds": 2, "slots": 1, "trials": 6, "strategy": "random", "order": "proposal"}


@pytest.fixture
def quick(tmp_path: Path) -> Path:
    path = tmp_path / "quick.py"
    path.write_text(TASK)
    return path


def falling(search: Search, candidate: Candidate) -> dict[str, float]:
    return {"loss": 10.0 - candidate.id}


@pytest.mark.usefixtures("here")
def test_no_trial_has_a_metric_of_the_test_set_and_the_last_comparison_has_nothing_else(begin: Begin) -> None:
    search = begin("run", **SETTINGS, finalists=2).run()
    run = Run.open(search.saved.folder)
    for trial in search.trials:
        assert trial.ok
        assert trial.outcome.metrics.keys() == {"loss", "accuracy"}
        assert [(at, point.keys()) for at, point in trial.outcome.curve] == [(0.5, {"loss"})]
    assert not [event for event in events_of(run.folder) if event["event"] != "fresh" and "test_" in str(event)]
    assert not [name for name in pq.read_table(run.folder).column_names if "test_" in name]
    fresh = read_comparison(run)
    choosing = [trial for trial in fresh if "test_loss" not in trial.outcome.metrics]
    told = [trial for trial in fresh if "test_loss" in trial.outcome.metrics]
    assert {trial.id for trial in choosing} == set(current_comparison(run).finalists)
    assert {trial.id for trial in told} == {row.id for row in fresh_values(run)}
    assert all(trial.outcome.metrics["test_accuracy"] == 1.0 for trial in told)
    assert {trial.candidate.seed for trial in told}.isdisjoint(trial.candidate.seed for trial in choosing)
    default, best = fresh_values(run)
    assert all(5.0 <= value < 5.1 for value in default.values), "of the test set, and not 1 as in the search"
    assert all(5.1 < value < 6.1 for value in best.values)
    assert pq.read_schema(run.folder / "_comparison.parquet").field("metric.test_loss").metadata == {b"unit": b"nats"}


def test_finalists_are_chosen_by_validation_and_compared_by_the_test_set(begin: Begin, resume: Begin) -> None:
    drive(begin("run", trials=6), evaluate=falling)
    run = resume("run", final_seeds=3, finalists=2).saved
    validation = {0: 9.0, 4: 1.0, 5: 2.0}
    test = {0: 3.0, 4: 2.5, 5: 0.1}
    seen = set()
    while work := comparison_jobs(run, current_comparison(run)):
        for one, job in work.items():
            seen.add((one.purpose, job.candidate.test))
            metrics = {"loss": validation[one.id] + one.seed_number / 100}
            more = {"test_loss": test[one.id] + one.seed_number / 100 * (1 + one.id)} if job.candidate.test else {}
            record_result(run, job.candidate, Outcome("ok", {**metrics, **more}))
    assert seen == {("choose", False), ("report", True)}
    end, best = RunResult(run), recommend_trial(run)
    assert best is not None
    assert best.id == 4, "5 is better on the test set, which nothing was chosen by"
    assert (end.metric, end.reported_metric, end.on_test_set) == ("loss", "test_loss", True)
    assert end.gain == pytest.approx(0.5 - 0.04 * 2.5)
    assert verdict(end).endswith("paired over 4 fresh seeds, on the test set; t test at 5%)")


@pytest.mark.usefixtures("here")
def test_what_is_better_in_the_search_and_worse_on_the_test_set_is_not_recommended(begin: Begin) -> None:
    end = RunResult(begin("run", **SETTINGS).run().saved)
    assert (end.best and end.best.id, end.beaten) == (0, False)
    assert "nothing beat the default genome: on fresh seeds and the test set trial" in verdict(end)


@pytest.mark.usefixtures("here")
def test_everything_that_tells_of_fresh_seeds_says_test(begin: Begin, quick: Path, tmp_path: Path) -> None:
    quick.write_text(TASK.replace("5.0 + genome", "5.0 - genome"))
    run = begin("run", **SETTINGS).run().saved
    run.close()

    def typed(*words: str) -> str:
        result = CliRunner().invoke(cli, [*words, "--store", str(tmp_path / "store")], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    best, end = fresh_values(run)[1], RunResult(run)
    assert end.beaten
    data = json.loads(typed("best", "run", "--format", "json"))
    assert (data["fresh_seeds"]["metric"], data["fresh_seeds"]["mean"]) == ("test_loss", best.mean)
    assert data["metrics"].keys() == {"loss", "accuracy"}
    assert typed("best", "run").startswith(f"test_loss {best.mean:.5f} ± ")
    assert "over fresh seeds, loss " in typed("best", "run")
    assert "test_loss over fresh seeds" in typed("show", "run").replace("\n", " ")
    shown = json.loads(typed("show", "run", "--format", "json"))
    assert shown["best"][0]["fresh_seeds"]["metric"] == "test_loss"
    assert json.loads(typed("list", "--format", "json"))[0]["seeds"].endswith("fresh seeds, test_loss")
    value = f"test_loss {show_value(best.mean)}"
    assert value in typed("list").replace("\n", " ")
    assert value in LiveStore(tmp_path / "store").page()
    exported = typed("export", "run", str(tmp_path / "out"), "--evaluator", str(quick), "--trust")
    assert "test_loss" in exported


@pytest.mark.usefixtures("here")
def test_the_closing_table_names_the_test_metric(begin: Begin, capsys: pytest.CaptureFixture[str]) -> None:
    from evo_tune.cli.session import print_summary
    from evo_tune.cli.shared import print_json
    from evo_tune.report.data import run_summary

    run = begin("run", **SETTINGS).run().saved
    print_summary(run)
    assert "test_loss over fresh seeds" in " ".join(capsys.readouterr().out.split())
    print_json(run_summary(run))
    data = json.loads(capsys.readouterr().out)
    assert data["reported"] == data["final_comparison"]["best"]["metric"] == "test_loss"


@pytest.mark.usefixtures("here")
def test_a_training_that_is_to_tell_of_the_test_set_and_does_not_has_failed(begin: Begin) -> None:
    run = begin("run", **SETTINGS, options={"returns": "test_loose"}).run().saved
    errors = {trial.outcome.error for trial in read_comparison(run)}
    assert len(errors) == 1
    assert str(errors.pop()).startswith("evaluate returned no 'test_loss' (it returned loss, accuracy, test_loose")
    assert "they cannot be compared" in verdict(RunResult(run))


@pytest.mark.parametrize("given", [{"objectives": ["test_loss:min"]}, {"subject_to": ["test_loss<=1"]}])
def test_the_test_set_is_no_objective_and_no_limit(begin: Begin, given: dict[str, list[str]]) -> None:
    with pytest.raises(OptionError, match="test_loss is of the test set, which no search may see: expected loss"):
        begin("run", **given)


def test_an_objective_without_a_counterpart_is_compared_as_it_is(begin: Begin, quick: Path) -> None:
    run = begin("run", objectives=["accuracy:max"]).saved
    assert comparison_objective(run) == Maximize("test_accuracy")
    quick.write_text(TASK.replace('"accuracy": "test_accuracy"', ""))
    run = begin("other", objectives=["accuracy:max"]).saved
    assert comparison_objective(run) == Maximize("accuracy")
