"""Several candidates trained as one in a slot: what came of each is its own; where it fails each is trained alone."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from slot_helpers import until

from evo_tune.dispatch import CPU, Forecast, LocalSlot, SharedCards, SharedSlot, Slot, Task
from evo_tune.dispatch.clusters.remote import RemoteSlot
from evo_tune.dispatch.packing import CONTEXT
from evo_tune.dispatch.telling import telling_name
from evo_tune.dispatch.worker import Worker
from evo_tune.genome.trial import Candidate, Outcome
from tests.packs import calls, packs

Members = list[tuple[Candidate, str | None]]


def member(id: int, folder: str | None = None, x: float = 0.5, **fields: Any) -> tuple[Candidate, str | None]:
    given = {"generation": 0, "seed": id, "told_before": 0, "operator": "test", **fields}
    return Candidate(id=id, genome={"x": x, "width": 2}, **given), folder


@pytest.fixture
def task(tmp_path: Path) -> Callable[..., Task]:
    def make(broken: str = "", sleep: float = 0.0) -> Task:
        path = packs(tmp_path)
        options = {"sleep": sleep, "broken": broken}
        return Task(str(path), "packing", str(path), "file", options, ("loss:min",), str(tmp_path / "run" / "_trials"))

    return make


@pytest.fixture
def slot(task: Callable[..., Task]) -> Iterator[Callable[..., LocalSlot]]:
    opened: list[LocalSlot] = []

    def make(broken: str = "", timeout: float | None = None, sleep: float = 0.0) -> LocalSlot:
        opened.append(LocalSlot("slot 0", CPU, task(broken, sleep), timeout))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


def in_process(task: Task, members: Members) -> list[Outcome]:
    return [Outcome(**fields) for fields in Worker(task, "cpu").work_pack(members)["outcomes"]]


def test_each_has_what_it_would_have_had_alone_but_for_its_share_of_the_time(
    task: Callable[..., Task], tmp_path: Path
) -> None:
    alone = [Outcome(**Worker(task(), "cpu").work(*member(id))["outcome"]) for id in range(3)]
    together = in_process(task(sleep=0.3), [member(id) for id in range(3)])
    for one, other in zip(alone, together, strict=True):
        assert (other.status, other.metrics, other.curve, other.error) == ("ok", one.metrics, one.curve, None)
        assert (one.packed, other.packed) == (1, 3)
        assert 0.1 <= other.seconds < 0.3
    assert len({one.metrics["loss"] for one in together}) == 3, "each has its own seed"
    *_, called = calls(tmp_path)
    assert (called["how"], called["seeds"]) == ("pack", [0, 1, 2])
    assert called["folders"] == ["000000", "000001", "000002"]


def test_what_is_wrong_with_one_is_its_own(task: Callable[..., Task], tmp_path: Path) -> None:
    broken = "ok fails diverges nan prunes memory none class lacks ok"
    found = in_process(task(broken), [member(id) for id in range(10)])
    assert [one.status for one in found] == [
        *("ok", "failed", "diverged", "diverged", "pruned", "out_of_memory"),
        *("failed", "failed", "failed", "ok"),
    ]
    told = [one.error or "" for one in found]
    assert "ValueError: no luck" in told[1]
    assert "loss is nan" in told[2]
    assert "beyond its bound" in told[4]
    assert "a NoneType: expected a dict" in told[6]
    assert "no 'loss'" in told[8]
    assert [one.metrics == {} for one in found] == [one.status != "ok" for one in found]
    assert all(one.packed == 10 for one in found)
    trials = tmp_path / "run" / "_trials"
    assert (trials / "000001" / "error.txt").exists()
    assert not (trials / "000000" / "error.txt").exists()


def test_each_has_its_own_context(task: Callable[..., Task], tmp_path: Path) -> None:
    worker = Worker(task(), "cpu")
    for id in range(2):
        worker.work(*member(id, budget=0.25))
    going_on = [member(id + 2, budget=1.0, resumes=id) for id in range(2)]
    assert [one["status"] for one in worker.work_pack([*going_on, member(9, "calibration-9")])["outcomes"]] == [
        "ok"
    ] * 3
    *_, called = calls(tmp_path)
    assert called["folders"] == ["000002", "000003", "calibration-9"]
    trials = tmp_path / "run" / "_trials"
    states = [(trials / name / "state").read_text() for name in called["folders"]]
    assert states == ["1.25", "1.25", "1.0"], "those that go on have found what they had left"


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        ("raises", "RuntimeError: the pack is too large"),
        ("few", "evaluate_pack returned 1 items: expected a list of 2"),
        ("dict", "evaluate_pack returned a dict: expected a list of 2"),
        ("dies", "worker died: killed by signal 9"),
    ],
)
def test_where_they_cannot_be_trained_as_one_each_is_trained_alone(
    slot: Callable[..., LocalSlot], tmp_path: Path, broken: str, why: str
) -> None:
    with pytest.warns(UserWarning, match=rf"slot 0: 2 trainings could not be done as one \(.*{why}"):
        found = slot(broken).run_pack([member(0), member(1, x=0.9)])
    assert [(one.status, one.packed) for one in found] == [("ok", 1), ("failed", 1)]
    assert [call["how"] for call in calls(tmp_path)] == ["pack", "alone", "alone"]
    assert (tmp_path / "run" / "_trials" / "000000" / "state").exists()


def test_one_whose_device_broke_down_is_trained_alone_by_a_new_process(
    slot: Callable[..., LocalSlot], tmp_path: Path
) -> None:
    one = slot("ok poison")
    found = one.run_pack([member(0), member(1)])
    assert [(each.status, each.packed) for each in found] == [("ok", 2), ("ok", 1)]
    pack, alone = calls(tmp_path)
    assert (pack["how"], alone["how"], alone["folders"]) == ("pack", "alone", ["000001"])
    assert pack["pid"] != alone["pid"]


def test_what_fails_again_and_again_is_tried_no_more(slot: Callable[..., LocalSlot], tmp_path: Path) -> None:
    one = slot("raises")
    assert one.packs
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for id in range(3):
            assert one.packs, f"after {id}"
            one.run_pack([member(2 * id), member(2 * id + 1)])
    assert not one.packs
    assert len(told) == 1, "it is said once"
    assert sum(call["how"] == "pack" for call in calls(tmp_path)) == 3


def test_the_timeout_is_of_the_packs_wall_time_and_each_is_then_trained_alone(
    slot: Callable[..., LocalSlot], tmp_path: Path
) -> None:
    one = slot("hangs", timeout=1.5)
    with pytest.warns(UserWarning, match=r"no result within 1\.5 s: killed"):
        found = one.run_pack([member(0), member(1)])
    assert [each.status for each in found] == ["ok", "ok"]
    assert all(each.seconds < 1.5 for each in found)
    assert [call["how"] for call in calls(tmp_path)] == ["pack", "alone", "alone"]


def test_all_of_them_are_told_of_while_they_are_at_work_and_what_they_print_is_the_firsts(
    slot: Callable[..., LocalSlot], tmp_path: Path
) -> None:
    import threading

    one, found = slot(sleep=0.0), []
    source = (tmp_path / "packing.py").read_text()
    (tmp_path / "packing.py").write_text(
        source.replace(
            "    return found\n", "    while not (HERE / 'seen').exists(): time.sleep(0.01)\n    return found\n"
        )
    )
    thread = threading.Thread(target=lambda: found.extend(one.run_pack([member(4), member(7), member(0, "again")])))
    thread.start()
    trials = tmp_path / "run" / "_trials"
    try:
        told = until(lambda: next(iter(trials.glob(".worker-*.json")), None), 60.0)
        assert told is not None
        told = json.loads(told.read_text())
    finally:
        (tmp_path / "seen").touch()
        thread.join()
    assert [told["trial"], *(other["trial"] for other in told["others"])] == [4, 7]
    assert told["others"][0]["curve"] == [[1.0, {"loss": pytest.approx(found[1].curve[0][1]["loss"])}]]
    assert not (trials / telling_name(os.getpid())).exists()
    assert (trials / "000004" / "log.txt").read_text() == "as one: 3\n"
    assert not (trials / "000007" / "log.txt").exists()


class Place:
    """Where a shared slot trains, in this test: it remembers what it was given."""

    name, device, pid, closed, memory, packs = "slot 0", "cuda:0", None, False, None, True

    def __init__(self, statuses: list[str]) -> None:
        self.statuses, self.asked = statuses, []  # type: ignore[var-annotated]
        self.held = {"peak_memory": 1e9}

    def run(self, candidate: Candidate, folder: str | None = None) -> Outcome:
        self.asked.append([candidate.id])
        return Outcome("ok", self.held, device="cuda:0")

    def run_pack(self, members: Members) -> list[Outcome]:
        self.asked.append([candidate.id for candidate, _ in members])
        statuses = [self.statuses.pop(0) if self.statuses else "ok" for _ in members]
        return [Outcome(status, {"peak_memory": 9e9}, packed=len(members)) for status in statuses]  # type: ignore[arg-type]

    def rest(self) -> None: ...


def shared(memory: float, statuses: list[str] | None = None) -> tuple[Slot, Place, SharedCards]:
    place = Place(statuses or [])
    cards = SharedCards({"cuda:0": int(memory)}, Forecast(lambda genome: {"gpu_memory": 1e9}))
    return SharedSlot(place, cards), place, cards  # type: ignore[arg-type]


def test_on_a_card_they_need_what_all_of_them_do_and_one_process_does() -> None:
    members = [member(id) for id in range(4)]
    for memory, asked in (
        (8e9 + CONTEXT, [[0, 1, 2, 3]]),
        (8e9 + CONTEXT - 1, [[0, 1], [2, 3]]),
        (2e9 + CONTEXT, [[0], [1], [2], [3]]),
        (1e9, [[0], [1], [2], [3]]),
    ):
        slot, place, _ = shared(memory)
        place.held = {}
        assert [one.status for one in slot.run_pack(members)] == ["ok"] * 4
        assert place.asked == asked, memory


def test_one_that_lacks_memory_is_trained_with_the_whole_card_and_what_several_held_is_not_learned() -> None:
    slot, place, cards = shared(20e9, ["ok", "out_of_memory", "ok"])
    before = cards.forecast.needed({"x": 0.5})
    found = slot.run_pack([member(id) for id in range(3)])
    assert [one.status for one in found] == ["ok", "ok", "ok"]
    assert place.asked == [[0, 1, 2], [1]]
    assert cards.forecast.needed({"x": 0.5}) != before, "that of one alone is"
    assert (cards.forecast.needed({"x": 0.5}) or 0) < 3e9


def test_a_slot_of_a_cluster_trains_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def run(self: RemoteSlot, candidate: Candidate, folder: str | None = None) -> Outcome:
        asked.append(candidate.id)
        return Outcome("ok")

    monkeypatch.setattr(RemoteSlot, "run", run)
    slot = RemoteSlot("slot 0", SimpleNamespace(join=lambda: None))  # type: ignore[arg-type]
    assert not slot.packs
    assert [one.packed for one in slot.run_pack([member(3), member(4)])] == [1, 1]
    assert asked == [3, 4]
