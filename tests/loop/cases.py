"""What several tests of the loop share: ways to search, an evaluator that fails now and then, a task to bind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from evo_tune.genome.trial import Candidate, Outcome
from evo_tune.loop.code import strategy_with_rules
from evo_tune.loop.search import Search
from evo_tune.loop.verifying import verify
from evo_tune.store.run import Run
from tests.conftest import evaluate

Begin = Callable[..., Search]


WAYS: list[dict[str, Any]] = [
    {"strategy": "ga"},
    {"strategy": "ga", "strategy_options": {"generational": True}},
    {"strategy": "nsga2", "objectives": ["loss:min", "cost:max"]},
    {"strategy": "nsga2", "strategy_options": {"generational": True}, "objectives": ["loss:min", "cost:max"]},
    {"strategy": "random"},
]


NAMES = ["ga", "ga-generational", "nsga2", "nsga2-generational", "random"]


def some_fail(search: Search, candidate: Candidate) -> Any:
    """Evaluate; one in three fails, and which ones depends on the genome alone."""
    metrics = evaluate(search, candidate)
    return Outcome("failed", error="no luck") if int(metrics["loss"] * 1e6) % 3 == 0 else metrics


def agrees(search: Search) -> bool:
    """Whether every proposal of a closed search comes out again."""
    run = Run.open(search.saved.folder)
    return not verify(run, search.space, strategy_with_rules(run.manifest, search.evaluator, run.manifest.strategy))


TASK = """
from evo_tune import Choice, Float, Int, Minimize, SearchSpace
from evo_tune.errors import UsageError

SPACE = SearchSpace(
    optional={"noise": Float(0.0, 1.0, default=0.25), "window": Choice((8, 16), ordered=True)},
    lr=Float(0.1, 1.0, default=0.5),
    depth=Int(1, 8, default=2),
    size=Choice(["1", "two"]),
    width=Choice([8, 16]),
    tied=Choice([True, False]),
    mixed=Choice(["a", 1]),
)
OBJECTIVES = [Minimize("loss")]
METRICS = {"loss": "", "params": ""}


def evaluate(genome, context, *, bias: int = 0):
    return {"loss": genome["lr"]}


def estimate(genome, *, bias):
    if not 0.0 <= genome.get("noise", 0.0) <= 2.0:
        raise UsageError(f"noise={genome['noise']}: expected 0 to 2")
    return {"params": bias + genome["depth"]}
"""
