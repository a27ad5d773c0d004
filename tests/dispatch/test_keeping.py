"""Memory comes back between evaluations, and a worker that keeps it is replaced."""

from __future__ import annotations

import pytest
from slot_helpers import candidate

from evo_tune.dispatch import open_slots
from evo_tune.dispatch.devices import CPU, Plan
from evo_tune.dispatch.worker import MemoryLevel

MIB = 2**20

LEAKING = """
    kept = sys.modules["__main__"].__dict__.setdefault("kept", [])
    kept.append(b"x" * (100 << 20))
    return {"loss": float(os.getpid())}
    """

CLEAN = """
    cache = sys.modules["__main__"].__dict__.setdefault("cache", [])
    if genome["x"] > 0.5 and not cache:
        cache.append(b"x" * (200 << 20))  # filled once, and not by the first
    cycle = [b"x" * (100 << 20)]
    cycle.append(cycle)  # garbage that nobody has collected yet
    small = [bytearray(1000) for _ in range(20_000)]  # what the allocator likes to keep
    return {"loss": float(os.getpid())}
    """


def pids(slot, evaluations):
    return [slot.run(candidate(i, genome={"x": i / 10})).metrics["loss"] for i in range(evaluations)]


@pytest.fixture
def slot_of(task_of):
    opened = []

    def make(body):
        little = "\nfrom evo_tune.dispatch import worker\nworker.KEPT_MEMORY = 64 << 20\n"
        opened.extend(open_slots(task_of(body, top=little), Plan((CPU,), 1)))
        return opened[-1]

    yield make
    for slot in opened:
        slot.close()


@pytest.mark.slow
def test_a_worker_that_keeps_more_and_more_is_replaced_and_a_line_says_so(slot_of):
    slot = slot_of(LEAKING)
    with pytest.warns(UserWarning, match=r"kept 3\d\d MiB of its evaluations, .* evaluate of evaluator leaves behind"):
        found = pids(slot, 5)
    assert found[:4] == [found[0]] * 4
    assert found[4] != found[0]


@pytest.mark.slow
def test_a_worker_whose_memory_comes_back_stays(slot_of):
    assert len(set(pids(slot_of(CLEAN), 8))) == 1


@pytest.mark.parametrize(
    ("kept", "too_much"),
    [
        ([500, 1000, 1500, 2000, 2500, 3000], [0, 0, 0, 0, 0, 2500]),
        ([500, 2000, 3000, 3000, 3002, 3000], [0] * 6),
        ([500, *range(600, 1500, 20)], [0] * 46),
        ([500, 1600, 500, 1700, 500, 1800, 500], [0, 0, 0, 0, 0, 1300, 0]),
        ([500, *range(1500, 1550, 2)], [0] * 20 + [*range(1038, 1050, 2)]),
        ([0, 0, 0], [0] * 3),
    ],
    ids=["a leak", "two caches", "code for each shape", "what comes back", "a slow leak", "nothing"],
)
def test_far_above_the_first_and_still_growing_is_too_much(kept, too_much):
    level = MemoryLevel()
    assert [level.note(bytes * MIB) for bytes in kept] == [bytes * MIB for bytes in too_much]
