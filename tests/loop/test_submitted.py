"""Genomes from outside: trained next, recorded with their source, the same in a replay, neither lost nor twice."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evo_tune.errors import SpaceError
from evo_tune.loop.search import Search
from evo_tune.loop.verifying import verify
from evo_tune.store.inbox import INBOX, submit
from evo_tune.store.run import Run
from tests.conftest import cut_copy, drive, evaluate, rows
from tests.loop.cases import agrees

Begin = Callable[..., Search]


def step(search: Search) -> Any:
    candidate = search.ask()
    assert candidate is not None
    search.tell(candidate, evaluate(search, candidate))
    return candidate


def test_a_genome_is_trained_next_and_recorded_with_its_source(begin: Begin) -> None:
    search = begin()
    step(search)
    step(search)
    search.enqueue({"n": 3})
    search.enqueue({"x": 0.25, "kind": 2}, source="alice")
    assert [step(search).genome for _ in range(2)] == [{"x": 0.0, "n": 3, "kind": "a"}, {"x": 0.25, "n": 6, "kind": 2}]
    assert search.saved.candidates[2].operator == "proposed by python"
    assert search.saved.submissions[3].source == "alice"
    assert search.saved.submissions[3].genome == {"x": 0.25, "kind": 2}
    drive(search)
    assert len(search.saved.candidates) == 12  # they count for the limit
    assert agrees(search)


@pytest.mark.parametrize("settings", [{}, {"order": "proposal"}, {"fidelity": "1/3,1"}, {"seeds_per_trial": 2}])
@pytest.mark.parametrize("strategy", ["ga", "saea", "nsga2", "random"])
def test_verify_agrees_with_genomes_in_the_middle(
    begin: Begin, quick: Path, strategy: str, settings: dict[str, Any]
) -> None:
    quick.write_text(quick.read_text() + '\nSUPPORTS = ["budget"]\n')
    search, asked = begin(strategy=strategy, generations=6, **settings), 0
    ask = search.ask

    def ask_and_propose() -> Any:
        nonlocal asked
        asked += 1
        if asked % 4 == 0:
            search.enqueue({"x": asked / 64, "n": 1 + asked % 60})
        return ask()

    search.ask = ask_and_propose  # type: ignore[method-assign]
    drive(search, slots=3)
    assert len(search.saved.submissions) >= 4
    assert agrees(search)


def test_warm_starts_come_first(begin: Begin) -> None:
    search = begin(warm_start=[{"x": 0.5, "n": 2, "kind": 2}])
    search.enqueue({"x": 0.25})
    assert [step(search).operator for _ in range(3)] == ["default", "warm-start", "proposed by python"]
    drive(search)
    assert agrees(search)


@pytest.mark.parametrize("order", ["arrival", "proposal"])
def test_a_value_outside_of_a_range_widens_it_by_a_recorded_step(begin: Begin, order: str) -> None:
    search = begin(order=order)
    step(search)
    search.enqueue({"x": 1.75})
    candidate = step(search)
    assert candidate.genome["x"] == 1.75
    widening = search.saved.widened[0]
    assert (widening.proposed, widening.reason, widening.submitted) == (1, "proposed by python", True)
    assert search.space.genes["x"].decode(1.0) == 2.0
    assert search.space.genes["x"].decode(0.0) == -1.0
    drive(search)
    assert agrees(search)
    run = Run.open(search.saved.folder)
    assert run.genes["x"].decode(1.0) == 2.0


def test_no_widening_where_the_run_does_none(begin: Begin) -> None:
    search = begin(widen=False)
    step(search)
    with pytest.raises(SpaceError, match=r"gene x: 1.75 is not allowed: expected a number from -1 to 1"):
        search.enqueue({"x": 1.75})


def test_at_its_limit_a_run_leaves_the_genomes_to_a_longer_one(begin: Begin, resume: Callable[..., Search]) -> None:
    search = begin(generations=None, trials=3)
    for _ in range(3):
        step(search)
    search.enqueue({"x": 0.25})
    assert search.ask() is None
    search.close()
    submit(search.saved, [{"x": 0.5}], "person")  # after the end
    same = resume(search.name)
    assert same.ask() is None
    same.close()
    longer = resume(search.name, trials=5)
    drive(longer)
    assert [candidate.genome["x"] for candidate in longer.saved.candidates[3:]] == [0.25, 0.5]
    assert os.listdir(longer.saved.folder / INBOX) == []
    assert agrees(longer)


def test_at_its_limit_a_run_makes_extra_seeds_and_takes_no_genome(begin: Begin) -> None:
    search = begin(generations=None, trials=3, seeds_per_trial=2)
    fresh = 0
    while (candidate := search.ask()) is not None:
        search.tell(candidate, evaluate(search, candidate))
        fresh += candidate.fresh
        if fresh == 3 and not search.saved.submissions and not (search.saved.folder / INBOX).exists():
            search.enqueue({"x": 0.25})
    assert len(search.saved.candidates) > 3
    assert search.saved.submissions == {}
    assert len(os.listdir(search.saved.folder / INBOX)) == 1


def test_a_genome_is_safe_on_disk_before_its_file_is_removed(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    search = begin()
    step(search)
    search.enqueue({"x": 0.25})
    calls: list[str] = []
    sync, unlink = os.fsync, os.unlink

    def noted_sync(file: int) -> None:
        calls.append(os.readlink(f"/proc/self/fd/{file}").rpartition("/")[2])
        sync(file)

    def noted_unlink(path: Any, **more: Any) -> None:
        calls.append(str(path))
        unlink(path, **more)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(os, "unlink", noted_unlink)
    (name,) = os.listdir(search.saved.folder / INBOX)
    search.ask()
    assert [call for call in calls if call in ("_journal.jsonl", name)] == ["_journal.jsonl", name]


def test_a_genome_without_time_stays_until_there_is_time(begin: Begin) -> None:
    search = begin()
    step(search)
    search.enqueue({"x": 0.25})
    assert search._queue.next(False, lambda proposal: False) is None
    assert len(os.listdir(search.saved.folder / INBOX)) == 1
    assert step(search).genome["x"] == 0.25


def test_two_equal_genomes_are_trained_once(begin: Begin) -> None:
    search = begin()
    step(search)
    search.enqueue({"x": 0.25})
    inbox = search.saved.folder / INBOX
    (file,) = os.listdir(inbox)
    shutil.copy(inbox / file, inbox / f"{int(file[:20]) + 1:020d}{file[20:]}")  # another process at the same moment
    assert step(search).operator == "proposed by python"
    with pytest.warns(UserWarning, match=r"a proposed genome is refused: .*: this genome was proposed already"):
        assert "proposed" not in step(search).operator
    assert os.listdir(search.saved.folder / INBOX) == []


def test_a_run_without_submissions_writes_what_it_wrote_before(begin: Begin) -> None:
    search = drive(begin())
    journal = (search.saved.folder / "_journal.jsonl").read_text()
    assert "submission" not in journal
    assert not (search.saved.folder / INBOX).exists()


def test_killed_after_any_event_nothing_is_lost_and_nothing_twice(
    begin: Begin, resume: Callable[..., Search], tmp_path: Path
) -> None:
    search = begin(generations=2)
    step(search)
    submit(search.saved, [{"x": number / 64} for number in (5, 6, 7, 80)], "person")
    files = {path.name: path.read_bytes() for path in (search.saved.folder / INBOX).iterdir()}
    whole = drive(search)
    events = (whole.saved.folder / "_journal.jsonl").read_bytes().count(b"\n")
    for count in range(4, events):  # the kill came before the files were removed
        name = f"cut-{count}"
        folder = cut_copy(whole.saved, tmp_path / "store" / name, count)
        (folder / INBOX).mkdir()
        for file, content in files.items():
            (folder / INBOX / file).write_bytes(content)
        again = resume(name, trust=True)
        drive(again)
        submitted = [candidate.genome["x"] for candidate in again.saved.candidates if "proposed" in candidate.operator]
        assert submitted == [5 / 64, 6 / 64, 7 / 64, 80 / 64]
        assert agrees(again)
        assert rows(again) == rows(whole)


def tampered(run: Run, change: Callable[[Any], None]) -> list[Any]:
    change(run)
    from evo_tune.loop.code import load_code
    from evo_tune.trust.decide import Consent

    bound, rules = load_code(run, Consent(trust=True))
    return verify(run, bound.space, rules)


def test_verify_tells_a_genome_or_a_range_that_was_not_submitted(begin: Begin) -> None:
    search = begin()
    step(search)
    search.enqueue({"x": 1.75})
    step(search)
    search.close()

    def other_value(run: Run) -> None:
        run.submissions[1].genome["x"] = 1.5

    def other_range(run: Run) -> None:
        run.submissions[1].genome["x"] = 0.5

    folder = search.saved.folder
    assert [row.id for row in tampered(Run.open(folder), other_value)] == [1]
    range_row, row = tampered(Run.open(folder), other_range)
    assert range_row.recorded == "x=float(-1.0,2.0) @ 0.0 widest ..: proposed by python"
    assert range_row.replayed is None
    assert row.id == 1
