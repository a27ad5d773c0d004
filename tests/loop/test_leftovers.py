"""What trials have saved is removed once no other can use it, and their logs stay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from evo_tune.genome.trial import Outcome
from evo_tune.loop.leftovers import Leftovers
from evo_tune.loop.search import Search


@pytest.mark.parametrize(
    ("status", "left"),
    [("ok", ["error.txt", "log.txt"]), ("failed", ["checkpoint", "error.txt", "log.txt", "weights.pt"])],
)
def test_a_checkpoint_that_was_gone_on_from_is_removed(
    begin: Callable[..., Search], status: str, left: list[str]
) -> None:
    search = begin()
    candidate = search.ask()
    assert candidate is not None
    folder = search.saved.folder / "_trials" / "000000"
    (folder / "checkpoint").mkdir(parents=True)
    for name in ("log.txt", "error.txt", "weights.pt", "checkpoint/state"):
        (folder / name).write_text("text")
    leftovers = Leftovers(search.saved, search.history)
    leftovers.recorded(candidate, Outcome("ok", {"loss": 1.0}))
    assert len(list(folder.iterdir())) == 4, "it went on from nothing"
    leftovers.recorded(replace(candidate, id=1, resumes=0), Outcome(status))  # type: ignore[arg-type]
    assert sorted(path.name for path in folder.iterdir()) == left


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
    Leftovers(search.saved, search.history).recorded(replace(candidate, id=1, resumes=0), Outcome("ok", {"loss": 1.0}))
    assert all(path.exists() for path in precious)
    assert link.is_symlink() is (name != "_trials/000000/checkpoint"), "the link itself may go"
