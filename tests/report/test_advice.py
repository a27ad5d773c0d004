"""What to do next: drawn from counts, and silent where a run is too small to say anything."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from evo_tune import Choice, Float, Int, Outcome, SearchSpace
from evo_tune.cli.commands.run import command as run_command
from evo_tune.genome.genes import Gene
from evo_tune.genome.notation import parse_gene
from evo_tune.report.charts.next_steps import advice, ends_of, widened
from evo_tune.report.data import run_details, run_summary
from evo_tune.report.material import Material
from evo_tune.store.run import Run
from tests.conftest import cut_copy
from tests.report.conftest import Made


@pytest.mark.parametrize(
    ("gene", "end", "text"),
    [
        (Float(1e-3, 1e-2, log=True), "low", "log(0.00025,0.01)"),
        (Float(1e-3, 1e-2, log=True), "high", "log(0.001,0.04)"),
        (Float(1.0, 3.0), "high", "float(1,4)"),
        (Float(1.0, 3.0), "low", "float(0,3)"),
        (Float(-1.0, 1.0), "low", "float(-2,1)"),
        (Float(0.0, 0.5), "low", None),
        (Float(0.0, 1.0), "high", None),
        (Int(2, 8), "high", "int(2,11)"),
        (Int(2, 8), "low", "int(1,8)"),
        (Int(32, 128, step=32), "high", "int(32,160,32)"),
        (Int(32, 128, step=32), "low", None),
        (Int(1, 8), "low", None),
        (Choice((512, 1024, 2048), ordered=True), "high", "512|1024|2048|4096"),
        (Choice((512, 1024, 2048), ordered=True), "low", "256|512|1024|2048"),
        (Choice((1, 2), ordered=True), "low", None),
        (Choice(("small", "large"), ordered=True), "high", None),
        (Choice((48, 80), ordered=True), "low", "32|48|80"),
        (Choice((48, 80), ordered=True), "high", "48|80|128"),
    ],
)
def test_a_range_is_widened_where_its_end_is_no_natural_one(gene: Gene, end: str, text: str | None) -> None:
    assert widened(gene, end) == text
    if text is not None:
        parse_gene("x", text)  # it can be typed


def told(run: Run) -> list[str]:
    return [f"{command.why} {command.typed}" for command in advice(Material(run))]


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
    assert "'lr=log(0.0001,0.04)'" in text
    (line,) = ends_of(run)
    assert f"`evo-tune resume {run.name} --" in line
    assert "--gene 'lr=log(0.0001,0.04)' --generations" in line
    assert run_details(run, 1).at_ends == run_summary(run).at_ends == {"lr": "lr=log(0.0001,0.04)"}
    assert f"evo-tune resume {run.name} --" in text
    assert "depth" not in text.split("--gene")[1]
    middle = with_losses(made(60, space=space), lambda genome: abs(genome["lr"] - 1e-3) + abs(genome["depth"] - 4))
    assert not [line for line in told(middle) if "--gene " in line]


def test_a_runs_command_is_advised_with_all_that_it_needs(made: Made) -> None:
    space = SearchSpace(lr=Float(1e-4, 1e-2, log=True, default=3e-3), kind=Choice(("a b", "$(c)"), default="$(c)"))
    run = made(60, space=space)
    run.candidates = [replace(c, genome={**c.genome, "lr": 1e-2}) if c.id % 5 == 1 else c for c in run.candidates]
    run = with_losses(run, lambda genome: -genome["lr"])
    patterns = "loss=loss ([0-9.]+)\nparams='(\\d+)'"
    options = {"metric": patterns, "progress": "step/2000", "shell": True}
    command = "command:python train.py --lr {lr} --kind '{kind}' | tail -1"
    run.manifest = structs.replace(run.manifest, evaluator=command, options=options)
    text = next(command.typed for command in advice(Material(run)) if command.typed.startswith("evo-tune run"))
    words = shlex.split(text)
    assert words[:2] == ["evo-tune", "run"]
    given = run_command.make_context("run", words[2:]).params
    assert given["evaluator"] == "python train.py --lr {lr} --kind '{kind}' | tail -1"
    assert given["objectives"] == tuple(run.manifest.objectives)
    assert given["metrics"] == tuple(patterns.splitlines())
    assert (given["progress"], given["shell"], given["warm_start"]) == ("step/2000", True, (run.name,))
    genes = {name: parse_gene(name, text) for name, _, text in (gene.partition("=") for gene in given["genes"])}
    assert genes == {"lr": Float(1e-4, 4e-2, log=True, default=3e-3), "kind": space.genes["kind"]}
    (line,) = ends_of(run)
    assert "--gene 'lr=log(0.0001,0.04) @ 0.003' --generations" in line


def test_one_best_at_an_end_is_told_though_the_others_lie_inside(made: Made) -> None:
    run = made(60, space=SearchSpace(lr=Float(1e-4, 1e-2, log=True), depth=Int(1, 8)))
    run.candidates = [replace(c, genome={**c.genome, "lr": 1e-2}) if c.id == 7 else c for c in run.candidates]
    run = with_losses(run, lambda genome: -1.0 if genome["lr"] == 1e-2 else abs(genome["lr"] - 1e-3))
    (line,) = ends_of(run)
    assert "lr = 0.01 (1 of the best 6 is at that end)" in line


def test_failures_are_told_with_where_they_happen_and_what_may_help(made: Made) -> None:
    space = SearchSpace(lr=Float(1e-4, 1e-2, log=True), depth=Int(1, 8))
    run = with_losses(made(60, space=space), lambda genome: None if genome["lr"] > 1e-3 else genome["lr"])
    count = sum(outcome.status == "diverged" for outcome in run.outcomes.values())
    assert count > 3
    text = next(line for line in told(run) if "diverged" in line)
    assert text.startswith(f"{count} of 60 evaluations ended as diverged")
    assert f"{count} of these {count} have lr of at least 0.00" in text
    assert f"and 0 of the {60 - count}" in text
    assert "a smaller learning rate" in text


def test_more_trials_are_recommended_while_the_last_ones_helped(made: Made) -> None:
    order = iter(range(1000))
    falling = with_losses(made(60), lambda genome: 100.0 - next(order))
    assert "still gained 20 in loss: continue." in told(falling)[-1]
    assert f"evo-tune resume {falling.name}" in told(falling)[-1]
    order = iter(range(1000))
    still = with_losses(made(60), lambda genome: float(next(order)))
    assert "found nothing better" in told(still)[-1]


def test_a_run_that_has_not_ended_is_told_how_it_goes_on(made: Made, tmp_path: Path) -> None:
    run = Run.open(cut_copy(made(), tmp_path / "cut", 30))
    first, *others = told(run)
    assert first.endswith(f"evo-tune resume cut --store {tmp_path}")
    assert not [line for line in others if "--gene " in line or "last third" in line], "too few results for advice"
