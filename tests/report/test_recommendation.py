"""Which trial is recommended where the leader is to be trained with further seeds, and a run may end before it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from evo_tune.loop.search import Search
from evo_tune.report.recommendation import current_comparison, rank_trials, recommend_trial

Begin = Callable[..., Search]

EVALUATOR = '''"""Losses come from outside."""
from evo_tune import Float, Minimize, SearchSpace

SPACE = SearchSpace(x=Float(0.0, 1.0))
OBJECTIVES = [Minimize("loss")]
METRICS = {"size": ""}


def evaluate(genome, context):
    raise NotImplementedError
'''


@pytest.fixture
def told(begin: Begin, tmp_path: Path) -> Callable[..., Search]:
    """Return a function that begins a run and tells it losses, until those of either kind are used up."""
    path = tmp_path / "outside.py"
    path.write_text(EVALUATOR)

    def tell(
        first: Sequence[float], further: Sequence[float | None], sizes: Sequence[float] = (), **given: Any
    ) -> Search:
        settings = {"strategy": "random", "seeds_per_trial": 2, "trials": 30, "final_seeds": 1, "finalists": 2, **given}
        search = begin(**{"evaluator": str(path), **settings})
        fresh, again, large = list(first), list(further), list(sizes)
        while True:
            candidate = search.ask()
            assert candidate is not None
            losses = again if candidate.extra_seed else fresh
            if not losses:
                return search
            loss, size = losses.pop(0), large.pop(0) if large and not candidate.extra_seed else 0.0
            search.tell(candidate, {"size": size} if loss is None else {"loss": loss, "size": size})

    return tell


def genomes(search: Search) -> list[int]:
    return [trial.id for trial in rank_trials(search.saved)]


def test_who_has_had_all_seeds_stands_before_those_that_look_better_after_fewer(told: Callable[..., Search]) -> None:
    """The default leads with 1.0 and 1.2; trial 3 is seen once, at 0.5, and the run ends before its second seed."""
    search = told([1.0, 1.3, 0.5], [1.2])
    run = search.saved
    newcomer = 3
    assert run.ranked()[0].id == newcomer
    assert genomes(search)[:2] == [0, newcomer]
    best = recommend_trial(run)
    assert best is not None
    assert best.id == 0
    assert current_comparison(run).finalists == (newcomer,), "it may yet show its worth in the comparison"


def test_once_it_has_had_them_it_is_recommended(told: Callable[..., Search]) -> None:
    search = told([1.0, 1.3, 0.5], [1.2, 0.9])
    best = recommend_trial(search.saved)
    assert best is not None
    assert (best.id, best.losses) == (3, (0.7,))


@pytest.mark.parametrize(
    ("first", "further", "given"),
    [
        ([1.0, 1.3, 0.5], [1.0], {}),
        ([0.5], [], {}),
        ([1.0, 1.3, 0.5], [], {"seeds_per_trial": 1}),
        ([1.0, 1.3, 0.5], [1.2], {"sizes": [5.0, 9.0, 1.0], "subject_to": ["size<=2"]}),
    ],
    ids=["seeds change nothing", "nobody has had all", "none are asked for", "it breaks a constraint"],
)
def test_else_the_best_that_was_seen_is(
    told: Callable[..., Search], first: list[float], further: list[float | None], given: dict[str, Any]
) -> None:
    search = told(first, further, **given)
    assert genomes(search) == [trial.id for trial in search.saved.ranked()]
    best = recommend_trial(search.saved)
    assert best is not None
    assert best.losses == (0.5,)


def test_a_seed_that_failed_was_had(told: Callable[..., Search]) -> None:
    """So it is counted by the rule that trains them; a leader that fails with one is not trained for ever."""
    search = told([1.0, 1.3, 0.5, 0.4], [1.2, None])
    assert genomes(search)[0] == 3
