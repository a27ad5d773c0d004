"""What to do next: drawn from counts, and silent where a run is too small to say anything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from evo_tune import Choice, Float, Int, Outcome, SearchSpace
from evo_tune.report.charts import next_steps
from evo_tune.report.charts.next_steps import advice, range_end_lines
from evo_tune.report.data import run_details, run_summary
from evo_tune.report.run_data import RunData
from evo_tune.report.summary import MoreTrials
from evo_tune.store.run import Run
from tests.conftest import cut_copy
from tests.report.conftest import Made


def told(run: Run) -> list[str]:
    return [f"{command.why} {command.command}" for command in advice(RunData(run))]


def with_losses(run: Run, loss: Any) -> Run:
    """Return a run with a loss of its trials' genomes in place of their own; None fails one."""
    for id, outcome in run.outcomes.items():
        value = loss(run.candidates[id].genome)
        ok = {"loss": value, "params": 1.0, "flops": 1.0, "peak_memory": 1.0}
        run.outcomes[id] = (
            Outcome("diverged", {}, (), 1.0, "cpu", "loss is nan") if value is None else replace(
                outcome, status="ok", metrics=ok, error=None)
        )  # fmt: skip
    return run


def test_bests_at_the_end_of_a_range_are_told_with_the_gene_that_widens_it(made: Made) -> None:
    space = SearchSpace(lr=Float(1e-4, 1e-2, log=True), depth=Int(1, 8), kind=Choice(("a", "b")))
    run = made(60, space=space)
    run.candidates = [replace(c, genome={**c.genome, "lr": 1e-2}) if c.id % 5 == 1 else c for c in run.candidates]
    run = with_losses(run, lambda genome: -genome["lr"] + 1e-6 * abs(genome["depth"] - 4))
    text = next(line for line in told(run) if "--gene " in line)
    assert "'lr=log(0.0001,0.03)'" in text
    (line,) = range_end_lines(run)
    assert f"`evo-tune resume {run.name} --" in line
    assert "--gene 'lr=log(0.0001,0.03)' --trials 96" in line
    assert run_details(run, 1).at_ends == run_summary(run).at_ends == {"lr": "lr=log(0.0001,0.03)"}
    assert f"evo-tune resume {run.name} --" in text
    assert "depth" not in text.split("--gene")[1]
    middle = with_losses(made(60, space=space), lambda genome: abs(genome["lr"] - 1e-3) + abs(genome["depth"] - 4))
    assert not [line for line in told(middle) if "--gene " in line]


def test_a_gene_of_a_command_is_widened_with_its_default(made: Made) -> None:
    space = SearchSpace(lr=Float(1e-4, 1e-2, log=True, default=3e-3), kind=Choice(("a b", "$(c)"), default="$(c)"))
    run = made(60, space=space)
    run.candidates = [replace(c, genome={**c.genome, "lr": 1e-2}) if c.id % 5 == 1 else c for c in run.candidates]
    run = with_losses(run, lambda genome: -genome["lr"])
    run.manifest = structs.replace(run.manifest, evaluator="command:python train.py --lr {lr} --kind {kind}")
    (line,) = range_end_lines(run)
    assert "--gene 'lr=log(0.0001,0.03) @ 0.003' --trials 96" in line


def test_what_the_run_widens_by_itself_is_not_advised_until_its_limit(made: Made) -> None:
    run = made(60, space=SearchSpace(lr=Float(1e-4, 1e-2, log=True), depth=Int(1, 8)))
    run.candidates = [replace(c, genome={**c.genome, "lr": 1e-2}) if c.id % 5 == 1 else c for c in run.candidates]
    run = with_losses(run, lambda genome: -genome["lr"] + 1e-6 * abs(genome["depth"] - 4))
    for limits, advised in (({"lr": (1e-5, 0.1)}, []), ({"lr": (1e-5, 1e-2)}, ["lr"]), ({"depth": (1, 16)}, ["lr"])):
        run.manifest = structs.replace(run.manifest, limits=limits)
        assert list(run_summary(run).at_ends) == advised
        assert len(range_end_lines(run)) == len(advised)


def test_one_best_at_an_end_is_told_though_the_others_lie_inside(made: Made) -> None:
    run = made(60, space=SearchSpace(lr=Float(1e-4, 1e-2, log=True), depth=Int(1, 8)))
    run.candidates = [replace(c, genome={**c.genome, "lr": 1e-2}) if c.id == 7 else c for c in run.candidates]
    run = with_losses(run, lambda genome: -1.0 if genome["lr"] == 1e-2 else abs(genome["lr"] - 1e-3))
    (line,) = range_end_lines(run)
    assert "lr (1 of the best 6 trials is at its high end, 0.01)" in line


def test_failures_are_told_with_what_may_help(made: Made) -> None:
    space = SearchSpace(lr=Float(1e-4, 1e-2, log=True), depth=Int(1, 8))
    run = with_losses(made(60, space=space), lambda genome: None if genome["lr"] > 1e-3 else genome["lr"])
    count = sum(outcome.status == "diverged" for outcome in run.outcomes.values())
    assert count > 3
    text = next(line for line in told(run) if "diverged" in line)
    assert text.startswith(f"{count} of 60 evaluations ended as diverged")
    assert "a smaller learning rate" in text


@pytest.mark.parametrize(("chance", "words"), [(0.9, "continue."), (0.3, "depends on the cost"), (0.01, "gain little")])
def test_more_trials_are_recommended_by_their_predicted_chance(
    made: Made, monkeypatch: pytest.MonkeyPatch, chance: float, words: str
) -> None:
    run = made(60)
    assert "From the losses so far" not in " ".join(told(run)), "the noise between seeds is not known"
    monkeypatch.setattr(next_steps, "predict_next_generation", lambda run: MoreTrials(chance, 12, 0.1))
    assert f"the next 12 trainings have a chance of {chance:.0%} to improve the best" in told(run)[-1]
    assert words in told(run)[-1]
    assert told(run)[-1].endswith(" --trials 96"), "as many more as its time was given for"


def test_a_run_that_has_not_ended_is_told_how_it_goes_on(made: Made, tmp_path: Path) -> None:
    run = Run.open(cut_copy(made(), tmp_path / "cut", 30))
    first, *others = told(run)
    assert first.endswith(f"evo-tune resume cut --store {tmp_path}")
    assert not [line for line in others if "--gene " in line or "losses so far" in line], "too few results for advice"


def test_a_running_run_is_told_of_failures_only(made: Made) -> None:
    found = advice(RunData(made()), running=True)
    assert found
    assert not [one for one in found if one.command], "no command continues a run that is running"
