"""How many slots one parent can feed: a simulated cluster of 8 to 4,096 slots with the real ask and tell.

Proposals, journal with fsync, and Parquet are real, and take the time that they take on this machine; trainings of
about 60 s only pass in simulated time. One parent serves one request at a time, as under the real lock: a slot
that finishes while others are being served waits for its turn. Utilisation is the share of slot time spent
in trainings between the first results and the last birth.

    python benchmarks/scale.py
    python benchmarks/scale.py --slots 1000 --strategy saea --per-slot 3
"""

from __future__ import annotations

import argparse
import heapq
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from evo_tune import Search
from evo_tune.genome.trial import Outcome

EVALUATOR = '''"""A quadratic with a gene of each kind; never evaluated here."""

from evo_tune import Choice, Float, Int, Minimize, SearchSpace

SPACE = SearchSpace(
    lr=Float(1e-5, 1e-1, log=True),
    batch=Choice((8, 16, 32, 64, 128), ordered=True),
    depth=Int(1, 24),
    width=Int(64, 1024, step=64),
    dropout=Float(0.0, 0.5),
    schedule=Choice(("cosine", "wsd", "linear")),
)
OBJECTIVES = [Minimize("loss")]


def evaluate(genome, context):
    raise NotImplementedError
'''

SECONDS = 60.0
"""Mean duration of a training; they differ by half of that to either side."""


class Server:
    """The parent: serves one request at a time, each for as long as it really takes.

    Args:
        search: Asked and told.
        rng: Draws losses and durations.
    """

    def __init__(self, search: Search, rng: np.random.Generator) -> None:
        self.search, self.rng = search, rng
        self.free = 0.0
        self.costs: list[float] = []

    def serve(self, now: float, finished: tuple[int, float] | None) -> tuple[float, tuple[int, float]] | None:
        """Tell a result and ask for the next candidate, for a slot that comes at simulated time `now`.

        Returns:
            When the slot begins its next training, and (id, duration) of that; None if there is none.
        """
        began = time.perf_counter()
        if finished is not None:
            id, seconds = finished
            candidate = self.search.saved.candidates[id]
            loss = float((np.log10(candidate.genome["lr"]) + 3) ** 2 + self.rng.normal(0, 0.1))
            self.search.tell(candidate, Outcome("ok", {"loss": loss}, seconds=seconds, device="simulated"))
        candidate = self.search.ask()
        cost = time.perf_counter() - began
        self.costs.append(cost)
        self.free = max(self.free, now) + cost
        if candidate is None:
            return None
        return self.free, (candidate.id, SECONDS * self.rng.uniform(0.5, 1.5))


def simulate(folder: Path, slots: int, strategy: str, evaluations: int) -> Iterator[str]:
    """Yield the columns of a row: proposals a second, how busy the slots were, what a request costs."""
    search = Search(
        str(folder / "quadratic.py"),
        strategy=strategy,
        population=24,
        store=folder,
        trials=evaluations,
        name=f"s{slots}",
    )
    server = Server(search, np.random.default_rng(slots))
    waiting: list[tuple[float, int, tuple[int, float] | None]] = [(0.0, slot, None) for slot in range(slots)]
    spans: list[tuple[float, float]] = []
    last_birth = 0.0
    while waiting:
        now, slot, finished = heapq.heappop(waiting)
        served = server.serve(now, finished)
        if served is not None:
            last_birth, (id, seconds) = served
            spans.append((last_birth, last_birth + seconds))
            heapq.heappush(waiting, (last_birth + seconds, slot, (id, seconds)))
    search.close()
    first_result = min(end for _, end in spans)
    busy = sum(max(0.0, min(last_birth, end) - max(first_result, start)) for start, end in spans)
    steady = sorted(server.costs[slots:])
    mean = statistics.fmean(steady)
    yield f"{slots:>6}{evaluations:>13}"
    yield f"{busy / (slots * (last_birth - first_result)):>12.1%}"
    yield f"{1e3 * mean:>11.1f}{1e3 * steady[int(0.99 * len(steady))]:>11.1f}"
    yield f"{1 / mean:>13.0f}{SECONDS / mean:>12.0f}"


def journal_rate(folder: Path, results: int = 500) -> float:
    """Return how many results a second the journal takes, one fsync each."""
    from evo_tune.store.journal import Journal

    journal = Journal(folder / "journal.jsonl")
    line = b'{"event":"recorded","id":1,"outcome":{"status":"ok","metrics":{"loss":1.0},"curve":[]}}'
    began = time.perf_counter()
    for _ in range(results):
        journal.append([line], sync=True)
    seconds = time.perf_counter() - began
    journal.close()
    return results / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", type=int, nargs="*", default=[8, 64, 256, 1000, 4096])
    parser.add_argument("--strategy", nargs="*", default=["ga", "saea"])
    parser.add_argument("--per-slot", type=int, default=3, help="trainings on each slot")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="scale-") as name:
        folder = Path(name)
        print(f"journal alone: {journal_rate(folder):.0f} results a second, each with its fsync\n")
        print(f"{'':<8}{'slots':>6}{'evaluations':>13}{'utilisation':>12}{'ms, mean':>11}{'ms, 99 %':>11}", end="")
        print(f"{'requests/s':>13}{'slots fed':>12}", flush=True)
        for strategy in given.strategy:
            for slots in given.slots:
                inside = folder / strategy
                inside.mkdir(exist_ok=True)
                (inside / "quadratic.py").write_text(EVALUATOR)
                row = "".join(simulate(inside, slots, strategy, max(100, given.per_slot * slots)))
                print(f"{strategy:<8}{row}", flush=True)


if __name__ == "__main__":
    main()
