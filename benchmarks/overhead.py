"""What an evaluation costs beside its training: evo-tune against Optuna, with an evaluator that returns at once.

evo-tune: proposal by the genetic algorithm, dispatch to a worker process of its own and back, journal
with fsync, Parquet generations. Optuna: `study.optimize` with its genetic algorithm (NSGA-II), TPE and random
search, over a journal file and over SQLite; its jobs are threads of the same process, without isolation. The whole
call is measured, start and end included, and the cost at an evaluation as the mean of the hundred
around it. The last column is what a write with fsync took just before: disks have their moods.

    python benchmarks/overhead.py           all of them, 2,000 evaluations each
    python benchmarks/overhead.py --long    evo-tune alone, 10,000 evaluations
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from evo_tune import Search

EVALUATOR = '''"""Returns at once; the genes of a small Transformer."""

import math

from evo_tune import Choice, Float, Int, Minimize, SearchSpace

SPACE = SearchSpace(
    lr=Float(1e-5, 1e-1, log=True),
    batch=Choice((512, 1024, 2048, 4096, 8192), ordered=True),
    depth=Int(1, 12),
    width=Int(32, 1024, log=True),
    heads=Choice((1, 2, 4, 8), ordered=True),
    dropout=Float(0.0, 0.5),
)
OBJECTIVES = [Minimize("loss")]
METRICS = {"loss": "nats"}


def evaluate(genome, context):
    return {"loss": loss(**genome)}


def loss(lr, batch, depth, width, heads, dropout):
    return abs(math.log10(lr) + 2.5) + abs(math.log2(batch) - 11) / 9 + 4 / depth + 30 / width + dropout / heads
'''


@dataclass(frozen=True)
class Measured:
    """How long a run took.

    Args:
        what: Which contender.
        jobs: Slots, or threads.
        seconds: Of the whole call.
        times: When each evaluation ended, in seconds, sorted.
        fsync: Milliseconds that a write with fsync took just before, the median of some.
    """

    what: str
    jobs: int
    seconds: float
    times: Sequence[float]
    fsync: float

    @property
    def mean(self) -> float:
        """Milliseconds per evaluation."""
        return 1000 * self.seconds / len(self.times)

    def around(self, number: int) -> float:
        """Milliseconds per evaluation in the hundred around one; at the end, in the last hundred."""
        last = min(number + 50, len(self.times) - 1)
        return 1000 * (self.times[last] - self.times[last - 100]) / 100


def time_of_fsync(folder: Path) -> float:
    """Return the median milliseconds of a short write with fsync."""
    times = []
    with open(folder / "fsync", "ab", buffering=0) as file:
        for _ in range(200):
            began = time.perf_counter()
            file.write(bytes(400))
            os.fsync(file.fileno())
            times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times)


def evo_tune(folder: Path, evaluations: int, slots: int) -> Measured:
    (folder / "instant.py").write_text(EVALUATOR)
    fsync = time_of_fsync(folder)
    began = time.perf_counter()
    search = Search(str(folder / "instant.py"), strategy="ga", store=folder, trials=evaluations, slots=slots)
    search.run()
    seconds = time.perf_counter() - began
    events = map(json.loads, search.saved.journal.path.read_bytes().splitlines())
    times = [event["time"] for event in events if event["event"] == "recorded"]
    return Measured("evo-tune ga", slots, seconds, times, fsync)


def optuna(folder: Path, evaluations: int, jobs: int, sampler: str, storage: str) -> Measured:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    module: dict[str, Callable[..., float]] = {}
    exec(EVALUATOR, module)

    def objective(trial: optuna.Trial) -> float:
        return module["loss"](
            lr=trial.suggest_float("lr", 1e-5, 1e-1, log=True),
            batch=trial.suggest_categorical("batch", (512, 1024, 2048, 4096, 8192)),
            depth=trial.suggest_int("depth", 1, 12),
            width=trial.suggest_int("width", 32, 1024, log=True),
            heads=trial.suggest_categorical("heads", (1, 2, 4, 8)),
            dropout=trial.suggest_float("dropout", 0.0, 0.5),
        )

    name = f"{sampler}-{storage}-{jobs}"
    fsync = time_of_fsync(folder)
    samplers = {
        "NSGA-II": optuna.samplers.NSGAIISampler,
        "TPE": optuna.samplers.TPESampler,
        "random": optuna.samplers.RandomSampler,
    }
    began = time.perf_counter()
    where: optuna.storages.BaseStorage | str = f"sqlite:///{folder / name}.db"
    if storage == "journal":
        where = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / name)))
    study = optuna.create_study(storage=where, sampler=samplers[sampler](seed=0))
    study.optimize(objective, n_trials=evaluations, n_jobs=jobs)
    seconds = time.perf_counter() - began
    times = sorted(trial.datetime_complete.timestamp() for trial in study.trials if trial.datetime_complete)
    return Measured(f"Optuna {sampler}, {storage}", jobs, seconds, times, fsync)


def show(rows: Sequence[Measured], at: Sequence[int]) -> None:
    head = "".join(f"{f'at {number}':>10}" for number in at)
    print(f"{'ms per evaluation':<24}{'jobs':>5}{'mean':>9}{head}{'times evo-tune':>16}{'fsync':>8}", flush=True)
    for row in rows:
        own = next(other.mean for other in rows if other.jobs == row.jobs and other.what.startswith("evo-tune"))
        cells = "".join(f"{row.around(number):>10.2f}" for number in at)
        print(f"{row.what:<24}{row.jobs:>5}{row.mean:>9.2f}{cells}{row.mean / own:>16.1f}{row.fsync:>8.2f}", flush=True)


def measure(folder: Path, evaluations: int, jobs: int, alone: bool) -> list[Measured]:
    """Return every contender's run; of evo-tune the median of several, one before each of the others."""
    if alone:
        return [evo_tune(folder, evaluations, jobs)]
    own, others = [], []
    for sampler in ("NSGA-II", "TPE", "random"):
        for storage in ("journal", "SQLite"):
            own.append(evo_tune(folder, evaluations, jobs))
            others.append(optuna(folder, evaluations, jobs, sampler, storage))
    return [sorted(own, key=lambda run: run.seconds)[len(own) // 2], *others]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluations", type=int, help="of each contender (default 2000; 10000 with --long)")
    parser.add_argument("--long", action="store_true", help="evo-tune alone, to 10,000 evaluations")
    parser.add_argument("--alone", action="store_true", help="evo-tune alone")
    given = parser.parse_args()
    warnings.simplefilter("ignore")  # Optuna's, about experimental parts
    evaluations = given.evaluations or (10_000 if given.long else 2_000)
    with tempfile.TemporaryDirectory(prefix="overhead-") as name:
        runs = [measure(Path(name), evaluations, jobs, given.long or given.alone) for jobs in (1, 2)]
    rows = [row for jobs in runs for row in jobs]
    show(rows, [number for number in (100, 1_000, 10_000) if number <= evaluations])
    worst = max(row.around(evaluations) / row.around(100) for row in rows if row.what.startswith("evo-tune"))
    print(f"evo-tune at evaluation {evaluations} costs {worst:.2f} times what it costs at 100 (worse of 1 and 2 slots)")


if __name__ == "__main__":
    main()
