"""What trials have saved is removed once no other can use it, and their logs stay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from evo_tune.genome.trial import Outcome
from evo_tune.loop.generations import clean_checkpoints_after
from evo_tune.loop.search import Search


@pytest.mark.parametrize("status", ["ok", "failed", "pruned", "crashed"])
def test_a_checkpoint_that_was_gone_on_from_is_removed_whatever_came_of_it(
    begin: Callable[..., Search], status: str
) -> None:
    search = begin()
    candidate = search.ask()
    assert candidate is not None
    folder = search.saved.folder / "_trials" / "000000"
    (folder / "checkpoint").mkdir(parents=True)
    for name in ("log.txt", "error.txt", "weights.pt", "checkpoint/state"):
        (folder / name).write_text("text")
    clean_checkpoints_after(search.saved, candidate, Outcome("ok", {"loss": 1.0}))
    assert len(list(folder.iterdir())) == 4, "it went on from nothing"
    clean_checkpoints_after(search.saved, replace(candidate, id=1, resumes=0), Outcome(status))  # type: ignore[arg-type]
    assert sorted(path.name for path in folder.iterdir()) == ["error.txt", "log.txt"]


@pytest.mark.usefixtures("here")
def test_the_checkpoint_inside_a_training_is_removed_once_its_result_is_recorded(
    begin: Callable[..., Search], quick: Path
) -> None:
    write = '(context.folder / "unfinished.pt").write_text("x")\n    '
    quick.write_text(quick.read_text().replace("    time.sleep(", f"    {write}time.sleep("))
    folder = begin("run", trials=3, slots=1, final_seeds=1).run().saved.folder
    trained = [path.name for path in (folder / "_trials").iterdir()]
    assert len([name for name in trained if name.startswith("comparison")]) >= 2
    assert len(trained) >= 5
    assert list(folder.rglob("unfinished.pt")) == []


RUNGS = """
from evo_tune import Choice, Minimize, SearchSpace
SPACE = SearchSpace(a=Choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 9)))
OBJECTIVES = [Minimize("loss")]
SUPPORTS = ["budget"]
def evaluate(genome, context):
    (context.folder / "state").write_text("half")
    if genome["a"] == 5:
        raise ValueError("no luck")
    return {"loss": genome["a"] + (context.budget < 1) * (genome["a"] * 7 % 10)}
"""


def saved(search: Search) -> set[int]:
    """Return the trials that have a checkpoint."""
    folders = [path.parent for path in (search.saved.folder / "_trials").glob("*/state")]
    return {int(folder.name) for folder in folders}


@pytest.mark.usefixtures("here")
def test_checkpoints_of_parts_are_removed_once_nothing_can_go_on(
    begin: Callable[..., Search], resume: Callable[..., Search], tmp_path: Path
) -> None:
    path = tmp_path / "rungs.py"
    path.write_text(RUNGS)
    given = {"evaluator": str(path), "strategy": "random", "fidelity": "1/3,1", "slots": 1, "final_seeds": 0}
    search = begin("run", **given, trials=8).run()
    parts = {one.id for one in search.saved.candidates if one.budget < 1}
    gone_on = {one.resumes for one in search.saved.candidates}
    failed = {id for id, outcome in search.saved.outcomes.items() if outcome.status == "failed"}
    assert saved(search) & parts == parts - gone_on - failed != set(), "a longer run may promote them"
    search = resume("run", trials=99).run()
    assert search.finished == "the strategy has nothing more to propose"
    parts = {one.id for one in search.saved.candidates if one.budget < 1}
    assert not saved(search) & parts
    assert saved(search), "what was trained in full stays"


@pytest.mark.parametrize("name", ["_trials", "_trials/000000", "_trials/000000/checkpoint"])
def test_nothing_is_removed_behind_a_link(begin: Callable[..., Search], tmp_path: Path, name: str) -> None:
    search = begin()
    candidate = search.ask()
    assert candidate is not None
    outside = tmp_path / "outside"
    (outside / "000000").mkdir(parents=True)
    precious = [outside / "precious", outside / "000000" / "precious"]
    for path in precious:
        path.write_text("text")
    link = search.saved.folder / name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(outside)
    clean_checkpoints_after(search.saved, replace(candidate, id=1, resumes=0), Outcome("ok", {"loss": 1.0}))
    assert all(path.exists() for path in precious)
    assert link.is_symlink() is (name != "_trials/000000/checkpoint"), "the link itself may go"
