"""Replay: every finished run agrees with its strategy, and whatever was tampered with is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evo_tune.errors import RunError
from evo_tune.genome.trial import Candidate, Outcome
from evo_tune.loop.code import strategy_with_rules
from evo_tune.loop.search import Search
from evo_tune.loop.verifying import Disagreement, RangeDisagreement, verify
from evo_tune.plugins.find import find_evaluator, list_strategies
from evo_tune.store.manifest import space_of
from evo_tune.store.run import Run
from tests.conftest import drive, evaluate
from tests.journals import events_of, write_events
from tests.strategies.cases import SMALL

Begin = Callable[..., Search]


def verified(folder: Path) -> list[Disagreement | RangeDisagreement]:
    run = Run.open(folder)
    evaluator = find_evaluator(run.manifest.evaluator).bind(run.manifest.options)
    space = space_of(run.manifest, evaluator.space)
    return verify(run, space, strategy_with_rules(run.manifest, evaluator, run.manifest.strategy))


SIZED = """
from evo_tune import Choice, Float, Int, Minimize, SearchSpace
SPACE = SearchSpace(
    lr=Float(1e-4, 1e-1, log=True), depth=Int(1, 4), width=Int(32, 128, step=32), rows=Choice((8, 16, 32), ordered=True)
)
OBJECTIVES = [Minimize("loss")]
def evaluate(genome, context):
    return {"loss": (genome["lr"] - 0.01) ** 2 + 1 / (genome["depth"] * genome["width"]) + context.seed % 7 / 1e4}
"""
"""An evaluator that every strategy can search."""


@pytest.mark.parametrize("strategy", [name for name, *_ in list_strategies()])
def test_an_asynchronous_run_of_every_strategy_agrees(begin: Begin, tmp_path: Path, strategy: str) -> None:
    def evaluate_some(search: Search, candidate: Candidate) -> Any:
        return Outcome("failed", error="no luck") if candidate.id % 5 == 3 else evaluate(search, candidate)

    path = tmp_path / "sized.py"
    path.write_text(SIZED)
    options = SMALL.get(strategy, {})
    search = begin(evaluator=str(path), strategy=strategy, strategy_options=options, generations=4)
    folder = drive(search, slots=3, evaluate=evaluate_some).saved.folder
    assert Run.open(folder).candidates[10:]
    assert verified(folder) == []


def test_an_unfinished_run_agrees(begin: Begin) -> None:
    search = begin(generations=6)
    out = [search.ask() for _ in range(5)]
    assert out[3] is not None
    assert out[1] is not None
    search.tell(out[3], {"loss": 1.0})
    search.tell(out[1], {"loss": 2.0})
    search.ask()
    assert verified(search.saved.folder) == []


def tamper(folder: Path, id: int, change: Callable[[dict[str, Any]], Any]) -> None:
    events = events_of(folder)
    for event in events:
        if event["event"] == "proposed" and event["candidate"]["id"] == id:
            change(event["candidate"])
    write_events(folder, events)


@pytest.mark.parametrize(
    "change",
    [
        lambda candidate: candidate["genome"].update(x=0.123456),
        lambda candidate: candidate.update(reported_before=candidate["reported_before"] - 1),
        lambda candidate: candidate.update(reported_before=0),
        lambda candidate: candidate.update(reported_before=1000),
        lambda candidate: candidate.update(parents=[1, 2, 3]),
        lambda candidate: candidate.update(operator="magic"),
        lambda candidate: candidate.update(seed=candidate["seed"] + 1),
        lambda candidate: candidate.update(generation=0),
        lambda candidate: candidate.update(budget=0.5),
    ],
    ids=["genome", "reported_before", "told_none", "told_more", "parents", "operator", "seed", "generation", "budget"],
)
@pytest.mark.parametrize("order", ["arrival", "proposal"])
def test_tampering_is_noticed(begin: Begin, order: str, change: Callable[[dict[str, Any]], Any]) -> None:
    folder = drive(begin(generations=4, order=order), slots=3).saved.folder
    tamper(folder, 13, change)
    found = verified(folder)
    assert found
    assert found[0].id == 13
    assert found[0].recorded.genome == Run.open(folder).candidates[13].genome


def test_a_tampered_result_is_noticed_in_what_was_bred_from_it(begin: Begin) -> None:
    folder = drive(begin(generations=6)).saved.folder
    lines = events_of(folder)
    for event in lines:
        if event["event"] == "recorded" and event["id"] == 6:
            event["outcome"]["metrics"]["loss"] = -99.0
    write_events(folder, lines)
    assert all(disagreement.id > 6 for disagreement in verified(folder))
    assert verified(folder)


def test_a_strategy_that_raises_says_so(begin: Begin, tmp_path: Path) -> None:
    strategy = tmp_path / "mine.py"
    text = (
        "from dataclasses import dataclass\n"
        "from evo_tune import Proposal, Strategy\n"
        "@dataclass(frozen=True)\n"
        "class Mine(Strategy):\n"
        "    '''Random.'''\n"
        "    def propose(self, history, rng):\n"
        "        return Proposal(history.space.sample(rng), 'random')\n"
        "    def survivors(self, history):\n"
        "        return []\n"
    )
    strategy.write_text(text)
    folder = drive(begin(strategy=str(strategy))).saved.folder
    assert verified(folder) == []
    strategy.write_text(text.replace("return Proposal", "1 / 0; return Proposal"))
    with pytest.raises(RunError, match=r"mine\.py raised ZeroDivisionError in propose\(\)"):
        verified(folder)
    strategy.write_text(text.replace("return Proposal", "rng.random(); return Proposal"))
    assert [disagreement.id for disagreement in verified(folder)] == list(range(1, 12))


def test_reading_changes_nothing(begin: Begin) -> None:
    folder = drive(begin()).saved.folder
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    verified(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
