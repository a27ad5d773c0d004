"""Trainings that share a GPU: by the rule alone, by slots that are only told to be busy, and by a run."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slot_helpers import answering, candidate, until

from evo_tune.dispatch.devices import Device
from evo_tune.dispatch.packing import CONTEXT, Card, MemoryForecast, SharedSlot
from evo_tune.dispatch.slot import SlotClosed
from evo_tune.errors import OptionError
from evo_tune.genome.trial import Outcome
from evo_tune.loop.search import Search
from tests.conftest import drive, rows

MIB, GIB = 2**20, 2**30


@given(st.integers(1, 20), st.lists(st.tuples(st.integers(1, 30), st.integers(0, 5), st.integers(0, 4)), max_size=40))
def test_a_card_never_gives_more_than_it_has_and_lets_everyone_have_their_turn(memory, trainings):
    """Each of up to five slots trains again and again; who ends next is drawn, and its worker may stay."""
    card, begun, entered = Card(memory), [], []
    for needed, chosen, held in trainings:
        free = [f"slot {i}" for i in range(5) if f"slot {i}" not in {*card.running, *card.waiting}]
        if not free:  # somebody is at work, so somebody can end: no deadlock
            running = list(card.running)
            assert running
            card.leave(running[chosen % len(running)], held)
        else:
            slot = free[chosen % len(free)]
            entered.append(slot)
            card.enter(slot, needed)
        while (admitted := card.admit()) is not None:
            begun.append(admitted.slot)
            assert not {*admitted.resting} & {*card.idle, *card.running}
        assert sum(card.running.values()) + sum(card.idle.values()) <= memory
        assert not {*card.running} & {*card.idle}
        if any(amount == memory for amount in card.running.values()):
            assert len(card.running) == 1
            assert not card.idle
    while card.running:
        card.leave(next(iter(card.running)))
        while (admitted := card.admit()) is not None:
            begun.append(admitted.slot)
    assert begun == entered, "nobody overtakes and nobody is left"
    assert not card.waiting


def test_idle_workers_end_only_where_their_memory_is_needed():
    card = Card(10)
    for slot in "abc":
        card.enter(slot, 3)
        assert card.admit() == (slot, [])
    for slot in "bac":
        card.leave(slot, idle_bytes=1)
    card.enter("a", 8)
    assert card.admit() == ("a", [])
    card.leave("a", idle_bytes=1)
    card.enter("a", 9)
    assert card.admit() == ("a", ["b"]), "the one that has been idle for longest"


def forecast_of(*measured: tuple[float, float]) -> MemoryForecast:
    """A forecast that has seen trainings: predicted and measured bytes."""
    forecast = MemoryForecast(lambda genome: {"gpu_memory": genome["x"]})
    for predicted, took in measured:
        forecast.learn({"x": predicted}, {"peak_memory": took})
    return forecast


def set_aside(forecast: MemoryForecast, predicted: float) -> float:
    needed = forecast.bytes_needed({"x": predicted})
    assert needed is not None
    return needed - CONTEXT


def test_until_a_training_was_measured_twice_its_prediction_is_set_aside():
    assert set_aside(forecast_of(), 4 * GIB) == 8 * GIB
    forecast = forecast_of()
    forecast.learn({"x": 1.0}, {})
    assert set_aside(forecast, 4 * GIB) == 8 * GIB
    assert MemoryForecast(lambda genome: {"params": 7.0}).bytes_needed({"x": 1.0}) is None


def test_a_small_training_that_took_far_more_says_little_of_a_large_one():
    """One genome of 4 MiB that took 44 used to move one of 8 GiB to 89."""
    small = (4 * MIB, 44 * MIB)
    assert set_aside(forecast_of(small), 4 * MIB) == pytest.approx(44 * MIB)
    assert set_aside(forecast_of(small), 8 * GIB) == 16 * GIB, "as if nothing had been measured"
    large = [(size * GIB, 1.25 * size * GIB + 40 * MIB) for size in (1.0, 2.0, 4.0)]
    forecast = forecast_of(small, *large)
    assert set_aside(forecast, 8 * GIB) == pytest.approx(10 * GIB + 80 * MIB, rel=0.01)
    assert set_aside(forecast, 4 * MIB) == pytest.approx(45 * MIB, rel=0.05)


def test_one_odd_measurement_among_many_moves_nothing():
    sound = [(size * GIB / 4, 0.8 * size * GIB / 4 + 100 * MIB) for size in range(1, 21)]
    expected = set_aside(forecast_of(*sound), 3 * GIB)
    assert expected == pytest.approx(0.8 * 3 * GIB + 300 * MIB, rel=0.01)
    for odd in ((GIB, 20 * GIB), (3 * GIB, 0.1 * GIB)):
        assert set_aside(forecast_of(*sound, odd), 3 * GIB) == pytest.approx(expected, rel=0.04)


def test_what_was_measured_is_believed_up_to_four_times_its_size():
    forecast = forecast_of((1.0 * GIB, 0.5 * GIB), (2.0 * GIB, 1.0 * GIB))
    assert set_aside(forecast, 8 * GIB) == pytest.approx(4 * GIB, rel=1e-6)
    assert set_aside(forecast, 9 * GIB) == pytest.approx(18 * GIB, rel=1e-6)


def test_nine_tenths_take_no_more_than_was_set_aside():
    rng = random.Random(4)
    drawn = [(size, size * rng.uniform(0.7, 1.6) + 50 * MIB) for size in (rng.uniform(0.1, 8) * GIB for _ in range(60))]
    forecast = forecast_of(*drawn)
    kept = sum(set_aside(forecast, predicted) >= took - 1 for predicted, took in drawn)
    assert kept >= 0.88 * len(drawn)


def test_what_cannot_be_predicted_gets_the_card_to_itself():
    def broken(genome):
        raise OptionError("no such genome")

    assert MemoryForecast(broken).bytes_needed({"x": 1.0}) is None
    forecast = MemoryForecast(broken)
    forecast.learn({"x": 1.0}, {"peak_memory": 1.0})


class Inner(SharedSlot):
    """A slot without a process: what it is told to do takes until it is let go."""

    pid = None

    def __init__(self, card: Card, forecast: MemoryForecast, name: str, *outcomes: str) -> None:
        super().__init__(card, forecast, name, Device("cuda:0", "0"), None)
        self.begun = self.rested = 0
        self.going = threading.Semaphore(0)
        self._outcomes = list(outcomes) or ["ok"]

    def _attempt(self, candidate: Any, folder: str | None) -> Outcome:
        self.begun += 1
        self.pid = 1
        self.going.acquire()
        status = self._outcomes.pop(0) if len(self._outcomes) > 1 else self._outcomes[0]
        return Outcome(status, {"loss": 0.0} if status == "ok" else {})

    def rest(self) -> None:
        self.pid = None
        self.rested += 1

    def kill(self) -> None:
        super().kill()
        self.going.release()


@pytest.fixture
def pair():
    """Two slots on a card of ten contexts; x is what a genome needs of it."""

    def make(*outcomes: str) -> tuple[Inner, Inner]:
        forecast = MemoryForecast(lambda genome: {"gpu_memory": (genome["x"] * 10 - 1) * CONTEXT / 2})
        card = Card(10 * CONTEXT)
        return Inner(card, forecast, "a"), Inner(card, forecast, "b", *outcomes)

    with ThreadPoolExecutor(2) as threads:
        yield make, lambda slot, x: threads.submit(slot.run, candidate(genome={"x": x}))


def test_small_ones_share_and_a_large_one_waits_for_the_card(pair):
    make, start = pair
    a, b = make()
    small = [start(a, 0.4), start(b, 0.5)]
    assert until(lambda: a.begun and b.begun), "both at once"
    a.going.release()
    assert small[0].result(5).status == "ok"
    large = start(a, 1.0)
    assert until(lambda: not b.available), "a card that somebody waits for takes no candidate"
    assert (a.begun, a.waits, b.waits) == (1, True, False)
    b.going.release()
    assert until(lambda: a.begun == 2)
    assert (b.available, b.rested) == (True, 1), "the idle neighbour's worker has ended"
    a.going.release()
    assert [large.result(5).status, small[1].result(5).status] == ["ok", "ok"]


def test_out_of_memory_beside_others_is_tried_again_alone(pair):
    make, start = pair
    a, b = make("out_of_memory", "ok")
    long, lost = start(a, 0.4), start(b, 0.4)
    assert until(lambda: a.begun and b.begun)
    b.going.release()
    assert until(lambda: not a.available)
    assert b.begun == 1
    a.going.release()
    assert until(lambda: b.begun == 2)
    b.going.release()
    assert (lost.result(5).status, long.result(5).status) == ("ok", "ok")


def test_out_of_memory_alone_is_a_result(pair):
    make, start = pair
    _, b = make("out_of_memory")
    b.going.release()
    assert start(b, 1.0).result(5).status == "out_of_memory"
    assert b.begun == 1


def test_who_waits_can_be_killed(pair):
    make, start = pair
    a, b = make()
    running, waiting = start(a, 1.0), start(b, 1.0)
    assert until(lambda: a.begun + b.begun == 1 and not (a.available and b.available))
    (busy, late), (other, idle) = ((a, running), (b, waiting)) if a.begun else ((b, waiting), (a, running))
    other.kill()
    with pytest.raises(SlotClosed):
        idle.result(5)
    busy.going.release()
    assert late.result(5).status == "ok"


SIZED = '''"""Takes as much of a GPU as its gene says, and notes when."""

import time

from evo_tune import Choice, Float, Minimize, SearchSpace

SPACE = SearchSpace(size=Choice((0.5, 1.0, 2.0, 12.0)), x=Float(0.0, 1.0))
OBJECTIVES = [Minimize("loss")]


def estimate(genome):
    return {"gpu_memory": genome["size"] * 2**30}


def evaluate(genome, context, *, notes: str):
    began = time.time()
    time.sleep(0.03)
    with open(notes, "a") as file:
        file.write(f"{began} {time.time()} {genome['size']} {context.device}\\n")
    return {"loss": genome["x"], "peak_memory": genome["size"] * 2**30}
'''


def test_a_run_gives_a_card_no_more_than_it_has_and_trains_everything(tmp_path, machine, fast_disk):
    """On a GPU with 10 GiB to give out and two cores to feed it."""
    machine(smi=answering(**{"GPU-a": "A GPU, 11377, 11377"}), cores=2)
    path, notes = tmp_path / "sized.py", tmp_path / "notes"
    path.write_text(SIZED)
    settings = {"strategy": "random", "seed": 3, "order": "proposal", "trials": 8, "store": tmp_path / "store"}
    settings["warm_start"] = [{"size": size, "x": 0.5} for size in (2.0, 12.0, 0.5, 1.0)]
    packed = Search(str(path), options={"notes": str(notes)}, per_device="auto", **settings).run()
    noted = [line.split() for line in notes.read_text().splitlines()]
    spans = [(float(began), float(ended), int(float(size) * GIB)) for began, ended, size, _ in noted]
    assert {device for *_, device in noted} == {"cuda:0"}
    assert len(spans) == 8
    for began, _, _ in spans:
        there = [size + CONTEXT for start, end, size in spans if start <= began < end]
        assert sum(there) <= 10 * GIB or len(there) == 1
    assert max(size for *_, size in spans) > 10 * GIB, "one is too large for the card, and has it to itself"
    alone = drive(Search(str(path), options={"notes": str(notes)}, name="alone", **settings))
    assert rows(packed) == rows(alone), "who waits for whom changes no birth"


@pytest.mark.parametrize(
    ("memory", "why"), [("10000", "quick predicts no gpu_memory"), ("[N/A]", "nvidia-smi does not report")]
)
def test_where_memory_is_not_known_each_gpu_has_one_training_and_a_line_says_why(quick, machine, tmp_path, memory, why):
    machine(smi=answering(**{"GPU-a": f"A GPU, {memory}, {memory}"}))
    search = Search(str(quick), per_device="auto", trials=2, store=tmp_path / "store")
    with pytest.warns(UserWarning, match=f"--per-device auto: {why}.*, so each GPU runs one training at a time"):
        search.run()
    assert [trial.outcome.device for trial in search.trials] == ["cuda:0"] * 2


def test_auto_is_for_this_machine(quick, tmp_path):
    with pytest.raises(OptionError, match="--per-device auto is for GPUs of this machine"):
        Search(str(quick), per_device="auto", backend="dask", store=tmp_path)
