"""Slots that cannot be opened, or would wait for each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evo_tune.errors import OptionError
from evo_tune.loop import slots
from tests.conftest import drive
from tests.loop.cases import Begin


def test_too_many_slots_for_the_lag_is_a_warning(begin: Begin) -> None:
    with pytest.warns(UserWarning, match="with --lag 0, at most 1 slots work at the same time: 2 slots will wait"):
        begin(order="proposal", lag=0, slots=2, trials=3).run()


@pytest.mark.parametrize("field", [{"timeout": 0.0}, {"slots": -1}, {"devices": "cuda:77"}])
def test_a_session_that_cannot_be_opened_leaves_the_run_free(
    begin: Begin, resume: Begin, field: dict[str, Any]
) -> None:
    drive(begin("run", trials=5))
    with pytest.raises(OptionError, match=f"--{next(iter(field))}"):
        resume("run", trials=6, **field).run()
    assert len(resume("run", trials=6, timeout=None, slots=1, devices=None).run().trials) == 6


def test_what_a_worker_that_died_with_its_parent_had_printed_is_swept(
    begin: Begin, resume: Begin, tmp_path: Path
) -> None:
    trials = drive(begin("run", trials=2)).saved.folder / "_trials"
    trials.mkdir(exist_ok=True)
    (tmp_path / "far").write_text("another's")
    for name in (".worker-17.log", ".worker-notes", "notes.log"):
        (trials / name).write_text("half a line")
    (trials / ".worker-18.log").symlink_to(tmp_path / "far")
    resume("run", trials=3).run()
    assert sorted(path.name for path in trials.iterdir()) == [".worker-notes", "notes.log"]
    assert (tmp_path / "far").read_text() == "another's"


def test_a_run_is_named_on_a_cluster_by_its_identity(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = begin().saved, begin().saved
    name = slots.name_on_cluster(one)
    assert name != slots.name_on_cluster(other)
    monkeypatch.setattr("platform.node", lambda: "elsewhere")
    assert slots.name_on_cluster(one) == name, "what it left on the cluster is found from another machine too"
