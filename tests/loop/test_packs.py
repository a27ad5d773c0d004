"""Trainings done as one: which they are, and that a run is the same without."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from evo_tune.dispatch import Slot, SlotUnfit, Task
from evo_tune.dispatch.slot import Member
from evo_tune.errors import OptionError, PluginError, StoreError
from evo_tune.genome.genes import Int
from evo_tune.genome.trial import Candidate, Outcome
from evo_tune.loop import opening
from evo_tune.loop.driving import Drivers
from evo_tune.loop.replay import verify
from evo_tune.loop.search import Search
from evo_tune.store.calibration import read_calibration
from evo_tune.store.events import read
from evo_tune.store.manifest import read_manifest
from evo_tune.store.run import Run
from tests.here import Here
from tests.packs import calls, packs

RULED: dict[str, Any] = {"order": "birth", "fidelity": "1/3,1", "replicates": 3, "trials": 12}
RULED |= {"strategy": "random", "population": 4, "calibrate_best": 3}
Table = list[tuple[Any, ...]]
Make = Callable[..., Search]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Return a function that has a run done by slots of this process."""

    def make(name: str, slots: int = 1, kind: type[Slot] = Here, watch: Any = None, **given: Any) -> Search:
        folder = tmp_path / name
        folder.mkdir()

        def opened(task: Task, *others: Any) -> list[Slot]:
            made = [kind(task) for _ in range(slots)]  # type: ignore[call-arg]
            for number, slot in enumerate(made):
                slot.name = f"slot {number}"
            return made

        monkeypatch.setattr(opening, "open_slots", opened)
        search = Search(str(packs(folder)), store=tmp_path / "store", name=name, **{**RULED, "slots": slots, **given})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return search.run() if watch is None else search.run(watch)

    return make


def row(trial: Any) -> tuple[Any, ...]:
    candidate, outcome = trial.candidate, trial.outcome
    came = outcome.status, tuple(sorted(outcome.metrics.items())), outcome.curve, outcome.error
    return (*(getattr(candidate, name) for name in vars(candidate) if name != "genome"), str(candidate.genome), came)


def table(run: Run) -> Table:
    """Everything of each trial but its time, its device and with whom it was trained."""
    return [row(trial) for trial in run.trials()]


def raced(run: Run) -> Table:
    return sorted((one.candidate.seed, one.id, str(one.outcome.metrics)) for one in read_calibration(run))


def as_one(folder: Path) -> list[int]:
    return [len(call["seeds"]) for call in calls(folder) if call["how"] == "pack"]


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"replicates": 1, "fidelity": "1/9,1/3,1"},
        *(pytest.param(more, marks=pytest.mark.proof) for more in ({"fidelity": "1"}, {"lag": 2})),
    ],
)
def test_a_run_in_packs_is_the_run_without(run: Make, tmp_path: Path, more: dict[str, Any]) -> None:
    plain = run("plain", calibrate=3, **more).saved
    packed = run("packed", calibrate=3, pack=4, **more).saved
    assert table(packed) == table(plain)
    assert packed.told_at_birth == plain.told_at_birth
    assert raced(packed) == raced(plain)
    assert raced(plain)
    assert as_one(tmp_path / "plain") == []
    assert max(as_one(tmp_path / "packed")) > 1
    assert {trial.outcome.packed for trial in plain.trials()} == {1}
    assert not verify(packed, *_parts(packed, tmp_path))


def _parts(run: Run, tmp_path: Path) -> tuple[Any, Any]:
    with Search.resume(run.name, store=tmp_path / "store") as again:
        return again.space, again.strategy


def test_promotions_and_replicates_that_are_due_at_once_are_done_as_one(run: Make, tmp_path: Path) -> None:
    saved = run("packed", pack=4).saved
    found = [call for call in calls(tmp_path / "packed") if call["how"] == "pack"]
    packed = [trial for trial in saved.trials() if trial.outcome.packed > 1]
    assert {trial.candidate.operator for trial in packed} >= {"promotion", "replicate"}
    assert all(not trial.candidate.fresh for trial in packed), "no birth is made for the sake of a pack"
    for call in found:
        assert len(set(call["widths"])) == len(set(call["budgets"])) == 1, "one shape, one rung"
        assert len(call["seeds"]) <= 4
        assert all(
            saved.outcomes[int(folder)].packed == len(call["folders"]) for folder in call["folders"] if folder.isdigit()
        )


def test_in_arrival_order_births_see_what_they_would_have_seen(run: Make, tmp_path: Path) -> None:
    plain, packed = (run(name, order="arrival", calibrate=3, pack=k).saved for name, k in (("one", 1), ("four", 4)))
    assert table(packed) == table(plain)
    assert packed.told_at_birth == plain.told_at_birth
    assert {trial.outcome.packed for trial in packed.trials()} == {1}
    assert max(as_one(tmp_path / "four")) > 1, "its calibration is packed"
    assert raced(packed) == raced(plain)


def test_the_seeds_of_the_best_and_of_the_default_are_one_pack_where_their_shapes_agree(
    run: Make, tmp_path: Path
) -> None:
    run("same", calibrate=3, pack=64, genes={"width": Int(2, 2)}, fidelity="1", replicates=1, trials=4)
    first = next(call for call in calls(tmp_path / "same") if call["how"] == "pack")
    names = {folder.rpartition("-")[0] for folder in first["folders"]}
    assert {name.rpartition("-")[2] for name in names} == {"choose", "report"}
    assert len({name.rpartition("-")[0] for name in names}) > 2, "of the default and of two finalists or more"
    assert len({*first["folders"]}) == len(first["folders"])


def test_no_slot_is_left_without_for_the_sake_of_a_pack(run: Make, tmp_path: Path) -> None:
    class Slow(Here):
        def run_pack(self, members: Sequence[Member]) -> list[Outcome]:
            time.sleep(0.2)
            return super().run_pack(members)

    given = {"calibrate": 3, "pack": 64, "fidelity": "1", "replicates": 1, "trials": 4, "genes": {"width": Int(2, 2)}}
    two, one = run("two", slots=2, kind=Slow, **given), run("one", **given)
    assert raced(one.saved) == raced(two.saved)
    assert max(as_one(tmp_path / "one")) == as_one(tmp_path / "one")[0] > 3
    assert as_one(tmp_path / "two")[0] <= -(-as_one(tmp_path / "one")[0] // 2)


def test_a_slot_that_trains_one_at_a_time_is_given_one_at_a_time(run: Make, tmp_path: Path) -> None:
    class Single(Here):
        """As a slot of a cluster is."""

        packs = False

        def run_pack(self, members: Sequence[Member]) -> list[Outcome]:
            raise AssertionError("it was given several")

    plain = run("plain", calibrate=3)
    single = run("single", kind=Single, pack=4, calibrate=3)
    assert table(single.saved) == table(plain.saved)
    assert raced(single.saved) == raced(plain.saved)
    assert as_one(tmp_path / "single") == []


@pytest.mark.parametrize("broken", ["raises", "few", "ok fails", "ok memory", "nan ok", "ok lacks"])
def test_whatever_becomes_of_a_pack_each_candidate_has_one_result(run: Make, tmp_path: Path, broken: str) -> None:
    options = {"broken": broken}
    saved = run("packed", pack=2, options=options, calibrate=2).saved
    assert as_one(tmp_path / "packed")
    assert len(saved.outcomes) == len(saved.candidates)
    whole = broken in ("raises", "few")
    statuses = {trial.outcome.status for trial in saved.trials() if trial.outcome.packed > 1}
    if whole:
        assert statuses == set()
        assert table(saved) == table(run("plain", options=options, calibrate=2).saved)
        assert raced(saved) == raced(Run.open(tmp_path / "store" / "plain"))
    else:
        assert len(statuses) == 2


def test_with_limits_that_depend_on_what_comes_nothing_is_born_ahead(run: Make, tmp_path: Path) -> None:
    for number, limit in enumerate(({"budget": 6.0}, {"stop_when_done": True, "trials": 12})):
        plain, packed = (run(f"{name}{number}", pack=k, **limit).saved for name, k in (("plain", 1), ("packed", 4)))
        assert table(packed) == table(plain)
        assert {trial.outcome.packed for trial in packed.trials()} == {1}


def test_what_waits_since_a_run_was_killed_is_done_as_one_in_either_order(run: Make, tmp_path: Path) -> None:
    run("other", trials=1)  # from now on slots are of this process
    given: dict[str, Any] = {"strategy": "random", "population": 4, "trials": 4, "slots": 1}
    for order in ("arrival", "birth"):
        folder = tmp_path / order
        folder.mkdir()
        given |= {"name": order, "order": order, "pack": 3, "genes": {"width": Int(2, 2)}}
        search = Search(str(packs(folder)), store=tmp_path / "store", **given)
        assert all(search.ask() for _ in range(4))
        search.close()
        again = Search.resume(order, store=tmp_path / "store").run()
        assert as_one(folder) == [3], "and one alone"
        assert [again.saved.outcomes[id].packed for id in range(4)] == [3, 3, 3, 1]


class Doubtful(Here):
    """Its device fails whatever is trained as one, and does well what it is given by itself."""

    def run_pack(self, members: Sequence[Member]) -> list[Outcome]:
        return [
            Outcome("failed", error="No GPU", device=self.device, seconds=0.1, packed=len(members)) for _ in members
        ]


def test_a_member_that_is_in_doubt_is_tried_again_elsewhere_by_itself(
    run: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Slot] = []

    class Several(Doubtful):
        def __init__(self, task: Task) -> None:
            super().__init__(task)
            self.device = f"cuda:{len(made)}"
            made.append(self)

        def run(self, candidate: Candidate, folder: str | None = None) -> Outcome:
            return replace(super().run(candidate, folder), device=self.device)

    found = run("doubt", slots=2, kind=Several, pack=4, lag=8).saved
    plain = run("plain", slots=1, pack=1).saved
    assert table(found) == table(plain), "what another device did well is what is recorded"
    assert {trial.outcome.packed for trial in found.trials()} == {1}


def test_a_slot_that_cannot_train_leaves_each_of_them_to_another(run: Make, tmp_path: Path) -> None:
    class Unfit(Here):
        def __init__(self, task: Task) -> None:
            super().__init__(task)
            self.task = task

        def run_pack(self, members: Sequence[Member]) -> list[Outcome]:
            if self.name == "slot 0":
                raise SlotUnfit("slot 0: its worker 7 cannot be killed")
            return super().run_pack(members)

    found = run("unfit", slots=2, kind=Unfit, pack=4).saved
    assert table(found) == table(run("plain").saved)


def test_at_the_end_an_idle_slot_has_its_part(run: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"fidelity": "1", "trials": 4, "pack": 4, "genes": {"width": Int(2, 2)}}
    run("one", **given)
    assert set(as_one(tmp_path / "one")) == {2}, "two replicates of a leader"
    monkeypatch.setattr(Drivers, "idle", lambda self: 2)
    run("two", **given)
    assert as_one(tmp_path / "two") == []


def test_all_that_a_slot_is_at_is_shown(run: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from evo_tune.store import heartbeat

    monkeypatch.setattr(heartbeat, "EVERY", 0.0)
    seen: set[tuple[str, ...]] = set()

    class Slow(Here):
        def run_pack(self, members: Sequence[Member]) -> list[Outcome]:
            time.sleep(0.5)
            return super().run_pack(members)

    def watch(search: Search) -> None:
        whats = [working.what for working in search.drivers.working.values()]
        beat = heartbeat.last_beat(search.saved.folder)
        assert beat is not None
        seen.update(tuple(heartbeat.apart(busy.what)) for busy in beat.slots if busy.what in whats)

    given = {"fidelity": "1", "replicates": 1, "trials": 2, "genes": {"width": Int(2, 2)}}
    run("shown", kind=Slow, pack=4, calibrate=3, watch=watch, **given)
    assert ("calibration of trial 0 x2", "calibration of trial 1 x2") in {tuple(sorted(one)) for one in seen}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"pack": 0}, "--pack 0: expected auto, or a whole number from 1 to 64"),
        ({"pack": 65}, "--pack 65: expected auto, or a whole number from 1 to 64"),
        ({"pack": "many"}, "--pack many: expected auto, or a whole number from 1 to 64"),
        ({"pack": True}, "--pack True: expected auto, or a whole number from 1 to 64"),
        ({"pack": 2.5}, "--pack 2.5: expected auto"),
        ({"pack": 2, "objectives": ["seconds:min"]}, "--pack 2: seconds, by which trainings are judged, is the time"),
        ({"pack": 2, "subject_to": ["seconds<=9"]}, "--pack 2: seconds, by which trainings are judged, is the time"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(run: Make, given: dict[str, Any], told: str) -> None:
    with pytest.raises(OptionError, match=told):
        run("refused", **given)


TIMED = """
from evo_tune import Float, Minimize, SearchSpace

SPACE = SearchSpace(x=Float(0.0, 1.0))
OBJECTIVES = [Minimize("loss")]


def evaluate(genome, context, *, seconds: float = 0.0):
    return {"loss": genome["x"]}
"""
SAYS = """
SUPPORTS = ["pack"]


def pack_key(genome, options):
    return "one"


def pack_pays(genome, options, device):
    return 100 if device == "cpu" else 8


def evaluate_pack(genomes, contexts, options):
    return [{"loss": genome["x"]} for genome in genomes]
"""


def test_what_is_settled_stands_in_the_manifest(tmp_path: Path) -> None:
    file = tmp_path / "timed.py"

    def settled(source: str, **given: Any) -> int:
        file.write_text(source)
        with Search(str(file), store=tmp_path / "store", trials=2, slots=1, **given) as search:
            assert read_manifest(search.saved.folder).pack == search.saved.manifest.pack
            return search.saved.manifest.pack

    assert settled(TIMED) == settled(TIMED, pack="auto") == 1, "it does not say that it can"
    with pytest.raises(PluginError, match=r"--pack 2: .* does not say that it supports it: .* SUPPORTS = \['pack'\]"):
        settled(TIMED, pack=2)
    assert settled(TIMED + SAYS) == 1, "nobody asked for it"
    assert settled(TIMED + SAYS, pack="4") == settled(TIMED + SAYS, pack=4) == 4
    assert settled(TIMED + SAYS, pack="auto") == 64, "what pays, and no more than there may be"
    assert settled((TIMED + SAYS).replace("def pack_pays", "def other"), pack="auto") == 1
    assert settled(TIMED + SAYS, pack="auto", options={"seconds": 9}) == 1
    with pytest.raises(OptionError, match=r"--pack 4: -o seconds=9.0 is the time of a training that has its device to"):
        settled(TIMED + SAYS, pack=4, options={"seconds": 9})


def test_an_extension_goes_on_with_what_was_settled(run: Make, tmp_path: Path) -> None:
    run("plain", trials=12)
    run("short", pack="auto", trials=12)
    assert read_manifest(tmp_path / "store" / "short").pack == 3
    file = tmp_path / "short" / "packing.py"
    file.write_text(file.read_text().replace("return 3 if", "return 9 if"))
    plain = Search.resume("plain", store=tmp_path / "store", trials=24).run()
    again = Search.resume("short", store=tmp_path / "store", trials=24, accept_changes=True).run()
    assert 1 < max(as_one(tmp_path / "short")) <= 3
    assert table(again.saved) == table(plain.saved)


def test_a_strangers_manifest_and_journal_are_read_within_bounds(run: Make, tmp_path: Path) -> None:
    saved = run("run", pack=2).saved
    manifest, journal = saved.folder / "_run.json", saved.folder / "_journal.jsonl"
    whole, lines = manifest.read_text(), journal.read_bytes().splitlines()
    line = next(line for line in lines if b'"recorded"' in line and b"packed" not in line)
    assert '"pack": 2' in whole
    assert read(line.replace(b'"outcome":{', b'"outcome":{"packed":64,')) is not None
    for pack in ("0", "65", "10000000000000000000000", "null", "-3", "1e9", '"auto"', "true", "[4]"):
        manifest.write_text(whole.replace('"pack": 2', f'"pack": {pack}'))
        with pytest.raises(StoreError, match="is damaged"):
            Run.open(saved.folder)
        with pytest.raises(ValueError, match="packed"):
            read(line.replace(b'"outcome":{', f'"outcome":{{"packed":{pack},'.encode()))


def test_a_run_of_an_older_version_goes_on_without(run: Make, tmp_path: Path) -> None:
    run("plain", calibrate=2, trials=12)
    saved = run("old", calibrate=2, trials=12).saved
    manifest, journal = saved.folder / "_run.json", saved.folder / "_journal.jsonl"
    manifest.write_text(manifest.read_text().replace('  "pack": 1,\n', ""))
    assert '"pack"' not in manifest.read_text()
    assert b"packed" not in journal.read_bytes()
    _without_column(saved.folder / "_calibration.parquet")
    before = raced(Run.open(saved.folder))
    assert before
    plain, again = (Search.resume(name, store=tmp_path / "store", trials=16).run() for name in ("plain", "old"))
    assert table(again.saved) == table(plain.saved)
    assert {trial.outcome.packed for trial in again.saved.trials()} == {1}
    assert set(before) <= set(raced(again.saved))
    assert as_one(tmp_path / "old") == []


def _without_column(path: Path) -> None:
    import pyarrow.parquet as pq

    rows = pq.read_table(path)
    assert "packed" in rows.column_names
    pq.write_table(rows.drop_columns(["packed"]), path)


def test_the_rows_say_it(run: Make, tmp_path: Path) -> None:
    import pandas as pd

    from evo_tune.report.data import run_as_data

    saved = run("packed", pack=4, calibrate=3).saved
    frame = pd.read_parquet(saved.folder)
    assert frame.packed.tolist() == [saved.outcomes[id].packed for id in frame.id]
    assert frame.packed.max() > 1
    assert pd.read_parquet(saved.folder / "_calibration.parquet").packed.max() > 1
    assert {one.outcome.packed for one in read_calibration(saved)} != {1}
    told = run_as_data(saved, 3)
    assert (told["pack"], {one["packed"] for one in told["best"]} >= {1}) == (4, True)
    assert msgspec.json.decode(msgspec.json.encode(told))["pack"] == 4


DRIVER = """
import sys
from evo_tune.loop.search import Search
if sys.argv[1] == "begin":
    Search(sys.argv[2], store=sys.argv[3], name="run", options={"sleep": 0.1}, **GIVEN).run()
else:
    Search.resume("run", store=sys.argv[3]).run()
"""


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_as_if_nothing_had_happened(run: Make, tmp_path: Path) -> None:
    given = {**RULED, "trials": 10, "calibrate": 3, "pack": 4, "slots": 1}
    first, whole, torn = run("whole", **given).saved, tmp_path / "whole", tmp_path / "torn"
    torn.mkdir()

    def start(what: str, folder: Path) -> subprocess.Popen[bytes]:
        words = [what, str(packs(folder)), str(folder / "store")]
        driver = DRIVER.replace("GIVEN", repr(given))
        return subprocess.Popen([sys.executable, "-W", "ignore", "-c", driver, *words], start_new_session=True)

    what, packed, kills = "begin", 0, [signal.SIGKILL, "worker"]
    while kills:
        child = start(what, torn)
        what = "resume"
        while child.poll() is None and as_one(torn)[packed:] == []:
            time.sleep(0.01)
        if child.poll() is not None:
            break
        packed = len(as_one(torn))
        if kills.pop() == "worker":  # in the middle of a pack
            for worker in _workers(child.pid):
                os.kill(worker, signal.SIGKILL)
            while child.poll() is None and len(as_one(torn)) == packed:
                time.sleep(0.01)
            packed = len(as_one(torn))
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    assert not kills, "it was killed twice, once with its worker gone before"
    assert start("resume", torn).wait() == 0
    second = Run.open(torn / "store" / "run")
    assert table(second) == table(first)
    assert raced(second) == raced(first)
    assert len(raced(first)) > 3
    assert len(as_one(torn)) > len(as_one(whole)), "packs that were lost were trained again"
    with Search.resume("run", store=torn / "store") as again:
        assert not verify(second, again.space, again.strategy)


def _workers(pid: int) -> list[int]:
    import psutil

    children = psutil.Process(pid).children(recursive=True)
    words = {child.pid: " ".join(child.cmdline()) for child in children}
    return [pid for pid, line in words.items() if "loky" in line and "tracker" not in line]
