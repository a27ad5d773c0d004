"""--learn-from: earlier runs shift what is believed, are copied as plain data, and are no results of this run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evo_tune.errors import OptionError, StoreError, UsageError
from evo_tune.genome.genes import Choice, Float, Int
from evo_tune.genome.history import Lesson
from evo_tune.genome.space import SearchSpace
from evo_tune.loop.search import Search
from evo_tune.loop.verifying import verify
from evo_tune.store.manifest import MANIFEST
from evo_tune.store.run import Run
from evo_tune.strategies._models import EarlierRuns
from tests.conftest import drive, rows
from tests.loop.cases import Begin


@pytest.fixture
def old(begin: Begin) -> Search:
    return drive(begin("old", strategy="random", trials=12))


def test_what_is_learned_from_lies_in_the_run_and_replays_without_the_other(
    begin: Begin, resume: Begin, old: Search
) -> None:
    search = begin("new", strategy="saea", trials=10, learn_from=["old"])
    (lesson,) = search.saved.manifest.learned
    assert lesson["name"] == "old"
    assert lesson["losses"] == sorted(lesson["losses"])
    assert len(search.history.lessons[0].losses) == len(lesson["losses"]) > 5
    shutil.rmtree(old.saved.folder)
    drive(search)
    assert len(search.trials) == 10  # of the other run nothing counts
    assert search.trials[1].candidate.operator == "learned"
    assert search.trials[1].genome == lesson["genomes"][0]
    run = Run.open(search.saved.folder)
    assert not verify(run, search.space, search.strategy)
    assert len(rows(drive(resume("new", trials=12)))) == 12


def test_it_changes_what_is_proposed_after_the_first_births(begin: Begin, old: Search) -> None:
    plain = drive(begin("plain", strategy="saea", trials=12, warm_start=[one.genome for one in old.trials[1:7]]))
    taught = drive(
        begin(
            "taught", strategy="saea", trials=12, warm_start=[one.genome for one in old.trials[1:7]], learn_from=["old"]
        )
    )
    assert [one.genome for one in plain.trials[:7]] == [one.genome for one in taught.trials[:7]]
    assert [one.genome for one in plain.trials[7:]] != [one.genome for one in taught.trials[7:]]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"learn_from": ["none"]}, "--learn-from none: expected the name or path of a run"),
        ({"learn_from": ["old"], "strategy": "ga"}, "strategy ga does not learn from earlier runs"),
        ({"learn_from": ["old"], "objectives": ["loss:min", "cost:max"]}, "expected one objective"),
        ({"learn_from": ["old"], "objectives": ["other:min"]}, "other"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(
    begin: Begin, old: Search, fields: dict[str, Any], message: str
) -> None:
    assert old.trials
    with pytest.raises((OptionError, UsageError), match=message):
        begin("new", **{"strategy": "saea", **fields})


def test_a_manifest_whose_lessons_were_changed_is_damaged(begin: Begin, old: Search) -> None:
    assert old.trials
    search = drive(begin("new", strategy="saea", trials=2, learn_from=["old"]))
    path = Path(search.saved.folder) / MANIFEST
    manifest = json.loads(path.read_text())
    manifest["learned"][0]["losses"][0] -= 1.0
    path.write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match="learned from old"):
        Run.open(search.saved.folder)


def test_genomes_of_another_space_are_moved_into_this_one() -> None:
    space = SearchSpace(x=Float(0, 1), n=Int(2, 8), kind=Choice(("a", "b")), size=Choice((8, 16), ordered=True))
    genomes = [{"x": 3.0, "n": 1, "kind": "a"}, {"x": 0.5, "n": 4.0, "kind": "c"}, {"x": 0.25, "n": 5, "kind": "b"}]
    lesson = Lesson.of("old", genomes, [1.0, 2.0, 3.0], space)  # type: ignore[arg-type]
    assert lesson.shared.tolist() == [0, 1, 2]
    assert lesson.losses.tolist() == [1.0, 3.0]
    assert [space.snap(units) for units in lesson.units] == [
        {"x": 1.0, "n": 2, "kind": "a", "size": 16},
        {"x": 0.25, "n": 5, "kind": "b", "size": 16},
    ]


def test_only_a_run_that_ranks_as_this_one_does_is_believed() -> None:
    rng = np.random.default_rng(0)
    units, asked, sizes = rng.random((40, 3)), rng.random((15, 3)), np.zeros(3)

    def loss(at: np.ndarray) -> np.ndarray:
        return np.asarray(((at - 0.3) ** 2).sum(axis=1))

    good, negated, shuffled = (
        Lesson("old", np.arange(3), units, losses)
        for losses in (loss(units), -loss(units), rng.permutation(loss(units)))
    )
    scores = -loss(asked)
    scores = (scores - scores.mean()) / scores.std()
    believed = EarlierRuns.of([good, negated], asked, scores, sizes)
    assert believed.lessons == (good,)
    assert np.corrcoef(believed(asked), scores)[0, 1] > 0.9
    assert np.abs(EarlierRuns.of([negated], asked, scores, sizes)(asked)).max() == 0.0
    assert np.abs(EarlierRuns.of([shuffled], asked, scores, sizes)(asked)).max() < 0.5
