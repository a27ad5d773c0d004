"""What several test modules share: a quick evaluator's file, runs over it, and the table that a run must give."""

from __future__ import annotations

import gc
import heapq
import importlib.util
import itertools
import os
import shutil
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from evo_tune.dispatch.devices import Plan
from evo_tune.dispatch.slot import Slot, Task
from evo_tune.errors import EvoTuneError
from evo_tune.genome.trial import Candidate
from evo_tune.loop import slots
from evo_tune.loop.search import Search
from evo_tune.plugins.context import Context
from evo_tune.store import table
from evo_tune.store.manifest import copy_manifest
from evo_tune.store.run import Run
from tests.extras import extra_missed_by, reason
from tests.here import Here

QUICK = '''"""A landscape that answers at once, the same for the same genome and seed."""

import hashlib
import json
import time

from evo_tune import Choice, Float, Int, Minimize, SearchSpace

SPACE = SearchSpace(x=Float(-1.0, 1.0, widest=(None, None)), n=Int(1, 64, log=True), kind=Choice(("a", 2, True)))
OBJECTIVES = [Minimize("loss")]
METRICS = {"loss": "nats", "cost": "s"}


def share(genome, seed):
    """A number in [0, 1) that looks random."""
    digest = hashlib.sha256(json.dumps([genome, seed], sort_keys=True).encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32


def evaluate(genome, context, *, sleep: float = 0.0, failing: float = 0.0):
    noise = share(genome, context.seed)
    time.sleep(sleep * (0.1 + 1.9 * noise))
    if noise < failing:
        raise ValueError(f"no luck with {genome}")
    loss = (genome["x"] - 0.4) ** 2 + abs(genome["n"] - 20) / 64 + 0.1 * noise
    return {"loss": loss, "cost": genome["n"] * (1.5 + genome["x"])}
'''


# A busy machine pauses for longer than an example takes.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all-slots", action="store_true", help="run all of the slots' contract over clusters too")
    parser.addoption("--proofs", action="store_true", help="run the long proofs, and nothing else")


def pytest_configure() -> None:
    """Have what tests write lie in memory where there is room: a disk that is waited for took a minute of the suite."""
    memory = Path("/dev/shm")
    if memory.is_dir() and shutil.disk_usage(memory).free > 4 * 2**30:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(memory))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the proofs apart; begin with the long tests, lest one of them runs alone at the end."""
    proofs = [item for item in items if item.get_closest_marker("proof") is not None]
    others = [item for item in items if item.get_closest_marker("proof") is None]
    kept, left_out = (proofs, others) if config.getoption("--proofs") else (others, proofs)
    items[:] = sorted(kept, key=lambda item: item.get_closest_marker("slow") is None)
    config.hook.pytest_deselected(items=left_out)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Refuse to go on where tests of a group would be spread: what they share would be made again and again."""
    if session.config.getoption("loadgroup", False):
        grouped = (item.nodeid for item in session.items if item.get_closest_marker("xdist_group") is not None)
        if any("@" not in name.rpartition("]")[2] for name in grouped):
            raise pytest.UsageError("pytest-xdist keeps no group together here: take the versions of pyproject.toml")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep what is there once the tests are known, torch included, out of the garbage collector's way.

    It is a million objects, which a full collection searches for 0.4 s; a worker in this process makes many.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, None, None]:
    """Skip a test whose fixtures need an extra that is not installed."""
    return (yield from _skipping())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, None, None]:
    """Skip a test that needs an extra that is not installed."""
    return (yield from _skipping())


def _skipping() -> Generator[None, None, None]:
    try:
        return (yield)
    except (ImportError, EvoTuneError) as error:
        extra = extra_missed_by(error)
        if extra is None:
            raise
        pytest.skip(reason(extra))


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep what tests and their workers cache, and whom they trust, out of the user's own folders."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


@pytest.fixture
def quick(tmp_path: Path) -> Path:
    """Return the file of a deterministic evaluator with a gene of each kind; two metrics, loss and cost."""
    path = tmp_path / "quick.py"
    path.write_text(QUICK)
    return path


@pytest.fixture
def begin(quick: Path, tmp_path: Path) -> Iterator[Callable[..., Search]]:
    """Return a function that begins a run in tmp_path/store; what is left open is closed at the end."""
    begun: list[Search] = []
    numbers = itertools.count()

    def make(name: str | None = None, **fields: Any) -> Search:
        defaults = {"evaluator": str(quick), "strategy": "ga", "population": 4, "generations": 3, "seed": 1}
        search = Search(store=tmp_path / "store", name=name or f"run-{next(numbers)}", **{**defaults, **fields})
        begun.append(search)
        return search

    yield make
    for search in begun:
        search.saved.close()


@pytest.fixture
def resume(tmp_path: Path) -> Iterator[Callable[..., Search]]:
    """Return a function that resumes a run of tmp_path/store."""
    begun: list[Search] = []

    def make(name: str, **changes: Any) -> Search:
        search = Search.resume(name, store=tmp_path / "store", **changes)
        begun.append(search)
        return search

    yield make
    for search in begun:
        search.saved.close()


@pytest.fixture
def fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let fsync do nothing: for tests that write much and lose no power."""
    monkeypatch.setattr(os, "fsync", lambda file: None)


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each file of trials have 4 genomes, so that a short run has several."""
    monkeypatch.setattr(table, "GENOMES_PER_FILE", 4)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have runs done by slots of this process: for tests to which workers of their own would add seconds only."""
    monkeypatch.setattr(slots, "open_slots", open_here)


def open_here(task: Task, plan: Plan, *others: object) -> list[Slot]:
    """Open slots of this process."""
    opened: list[Slot] = [Here(task) for _ in plan.slots]
    for number, slot in enumerate(opened):
        slot.name = f"slot {number}"
    return opened


def copy_state(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this machine remember its runs in a copy of what it remembers now, which the test may change."""
    shutil.copytree(os.environ["XDG_STATE_HOME"], target)
    monkeypatch.setenv("XDG_STATE_HOME", str(target))


def benchmark(name: str) -> ModuleType:
    """Return the module of a script in benchmarks/."""
    path = Path(__file__).parents[1] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def evaluate(search: Search, candidate: Candidate) -> dict[str, float]:
    """Return the metrics of a candidate, evaluated right here and without sleeping."""
    options = {name: value for name, value in search.saved.manifest.options.items() if name != "sleep"}
    bound = search.evaluator.plugin.bind(options)
    metrics: dict[str, float] = bound.evaluate(candidate.genome, Context(seed=candidate.seed))
    return metrics


def drive(search: Search, slots: int = 1, evaluate: Callable[[Search, Candidate], Any] = evaluate) -> Search:
    """Go on to the end by ask and tell, as so many slots of uneven speed would, and close."""
    running: list[tuple[float, int, Candidate]] = []
    now = 0.0
    while True:
        while len(running) < slots and (candidate := search.ask()) is not None:
            duration = 1 + 7 * ((candidate.id * 7919) % 5)
            heapq.heappush(running, (now + duration, candidate.id, candidate))
        if not running:
            break
        now, _, candidate = heapq.heappop(running)
        search.tell(candidate, evaluate(search, candidate))
    search.close()
    return search


def rows(run: Run | Search) -> list[tuple[Any, ...]]:
    """Return everything about each trial that does not depend on time, by id."""
    saved = run.saved if isinstance(run, Search) else run
    return [
        (t.candidate, t.outcome.status, t.outcome.metrics, t.outcome.error, t.reported_order) for t in saved.trials()
    ]


def survivors(folder: Path) -> list[tuple[int, bool]]:
    """Return the column `survivor` of all generation files, by id."""
    import pandas as pd

    frame = pd.read_parquet(folder).sort_values("id")
    return list(zip(frame["id"], frame["survivor"], strict=True))


def cut_copy(run: Run, folder: Path, events: int) -> Path:
    """Make a copy of a run whose journal ends after so many events, as if it had been killed there."""
    os.makedirs(folder)
    copy_manifest(run.folder, folder)
    lines = (run.folder / "_journal.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "_journal.jsonl").write_bytes(b"".join(lines[:events]))
    return folder
