"""What a report costs: seconds to write it, megabytes on disk, elements, and seconds until a browser has drawn it.

CPU seconds stand beside those of the clock: of this process, and of the browser's thread that draws.

A run is made up without training anything: 12 genes, curves, failures, pruned trials, parents. Then, at 60, 1,000 and
10,000 trials: reading the journal, writing the page as `evo-tune run` does at its end, and opening it in Debian's
chromium, headless, if there is one.

    python benchmarks/report.py
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np

from evo_tune import Choice, Float, Int, Outcome, SearchSpace
from evo_tune.genome.trial import Candidate, trial_seed
from evo_tune.report.page import write_beside
from evo_tune.settings import RunSettings, SessionSettings
from evo_tune.store.events import CandidateRecord, Ended, Proposed, Recorded, Reported, Result, SessionBegun, write
from evo_tune.store.journal import JOURNAL, seal_line
from evo_tune.store.manifest import Manifest, write_manifest
from evo_tune.store.run import Run
from evo_tune.store.run_folders import REPORT

SPACE = SearchSpace(
    lr=Float(1e-5, 1e-1, log=True, default=1e-3),
    batch=Choice((512, 1024, 2048, 4096, 8192), ordered=True),
    depth=Int(1, 12),
    width=Int(32, 1024, log=True),
    heads=Choice((1, 2, 4, 8), ordered=True),
    dropout=Float(0.0, 0.5, default=0.0),
    weight_decay=Float(1e-3, 1.0, log=True),
    warmup=Float(0.0, 0.2),
    context=Choice((64, 128, 256), ordered=True),
    optimizer=Choice(("adamw", "muon", "sgd")),
    activation=Choice(("gelu", "relu", "swiglu")),
    clip=Float(0.1, 10.0, log=True),
)
SLOTS = 4


def make_run(
    store: Path,
    name: str,
    trials: int,
    seed: int = 0,
    objectives: tuple[str, ...] = ("loss:min",),
    fidelity: tuple[float, ...] = (1.0,),
    space: SearchSpace = SPACE,
) -> Path:
    """Make up a saved run of so many births and return its folder.

    Half of the births are children of good ones; one in fifteen fails, one in ten is pruned.
    """
    rng = np.random.default_rng(seed)
    manifest = Manifest(
        evaluator="bundled:language_model", evaluator_hash="0" * 64, fingerprint="", options={"tokens": 5000},
        space=space.describe(), objectives=list(objectives), strategy="ga", strategy_options={"population": 12},
        settings=RunSettings(seed=seed, fidelity=",".join(map(str, fidelity))), threads=1,
        created="2026-01-01T00:00:00+00:00",
        units={"loss": "nats", "params": "", "flops": "", "peak_memory": "B"}, identity=f"{seed:032x}",
    )  # fmt: skip
    folder = store / name
    folder.mkdir(parents=True)
    lines = [write(event) for event in _events(space, trials, rng, seed, fidelity)]
    (folder / JOURNAL).write_bytes(b"".join(seal_line(line) + b"\n" for line in lines))
    write_manifest(folder, manifest)
    return folder


def _events(
    space: SearchSpace,
    trials: int,
    rng: np.random.Generator,
    seed: int,
    fidelity: tuple[float, ...],
) -> Iterator[object]:
    began = 1.7e9
    yield SessionBegun(session=SessionSettings(trials=trials, slots=SLOTS).to_json(), time=began)
    free, known = [0.0] * SLOTS, list[tuple[float, int, np.ndarray]]()
    made: list[tuple[float, int, object]] = []
    for id in range(trials):
        slot = int(np.argmin(free))
        operator, parents, units = _birth(id, known, space, rng)
        genome = space.snap(units)
        units = space.encode(genome)
        budget = fidelity[0] if len(fidelity) > 1 and rng.random() < 0.6 and id else 1.0
        candidate = Candidate(id, id // 12, trial_seed(seed, 0), len(known), genome, operator, parents, budget)
        outcome, loss = _outcome(units, rng, budget)
        made.append((free[slot], id, Proposed(candidate=CandidateRecord.of(candidate), time=began + free[slot])))
        free[slot] += outcome.seconds + float(rng.exponential(0.05))
        made.append((free[slot], id, Recorded(id=id, outcome=Result.of(outcome), time=began + free[slot])))
        made.append((free[slot], id, Reported(id=id, time=began + free[slot])))
        if math.isfinite(loss) and budget == 1.0:
            known.append((loss, id, units))
    for at, _, event in sorted(made, key=lambda row: row[:2]):
        event.spent = round(at, 3)  # type: ignore[attr-defined]
        yield event
    yield Ended(reason=f"the limit of {trials} trials is reached", time=began + max(free), spent=round(max(free), 3))


def _birth(
    id: int, known: list[tuple[float, int, np.ndarray]], space: SearchSpace, rng: np.random.Generator
) -> tuple[str, tuple[int, ...], np.ndarray]:
    """Return how a genome is made, its parents, and its unit coordinates."""
    if id == 0:
        return "default", (), space.encode(space.default())
    if len(known) < 5 or rng.random() < 0.2:
        return "random", (), rng.random(len(space.genes))
    best = sorted(known, key=lambda row: row[:2])[: max(3, len(known) // 10)]
    mother, father = (best[int(rng.integers(len(best)))] for _ in range(2))
    mask = rng.random(len(space.genes)) < 0.5
    units = np.clip(np.where(mask, mother[2], father[2]) + rng.normal(0, 0.08, len(mask)), 0, 1)
    parents = tuple(dict.fromkeys((mother[1], father[1])))
    return "crossover+mutation" if len(parents) > 1 else "mutation", parents, units


def _outcome(units: np.ndarray, rng: np.random.Generator, budget: float) -> tuple[Outcome, float]:
    place = np.linspace(0.2, 0.8, len(units))
    weight = np.geomspace(4.0, 0.05, len(units))
    loss = 1.5 + float((weight * (units - place) ** 2).sum()) + 0.02 * float(rng.normal())
    size = 10 ** (4 + 2 * float(units[min(3, len(units) - 1)]))
    seconds = float(rng.uniform(2, 6)) * budget
    if rng.random() < 1 / 15:
        text = "loss is nan at step 12" if units[0] > 0.6 else "CUDA out of memory: tried to allocate 2.0 GiB"
        status = "diverged" if units[0] > 0.6 else "out_of_memory"
        return Outcome(status, {}, (), seconds / 2, "cuda:0", text), math.inf  # type: ignore[arg-type]
    pruned = rng.random() < 0.1 and budget == 1.0
    points = np.linspace(budget / 8, budget, 8) if not pruned else np.array([0.125, 0.25])
    curve = tuple((float(x), {"loss": loss + (1.2 - x) ** 3 + 0.01 * float(rng.normal())}) for x in points)
    if pruned:
        return Outcome("pruned", {}, curve, seconds / 4, "cuda:0", "loss=2.9 at 25% is beyond its bound"), math.inf
    metrics = {"loss": curve[-1][1]["loss"], "params": round(size), "flops": 1e9 * size, "peak_memory": 5e3 * size}
    return Outcome("ok", metrics, curve, seconds, "cuda:0"), metrics["loss"]


def _browser() -> str | None:
    return next((path for name in ("chromium", "google-chrome") if (path := shutil.which(name))), None)


def drawn_in(path: Path) -> tuple[float, float, float]:
    """Return the seconds until all charts of a page are drawn, those of its thread on a CPU, and its elements.

    NaN without a browser.
    """
    chromium = _browser()
    if chromium is None:
        return math.nan, math.nan, math.nan
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        metrics = page.context.new_cdp_session(page)
        metrics.send("Performance.enable", {"timeDomain": "threadTicks"})
        began = time.perf_counter()
        page.goto(path.resolve().as_uri())
        page.wait_for_selector("html[data-drawn]", state="attached", timeout=120_000)
        took = time.perf_counter() - began
        found = {row["name"]: row["value"] for row in metrics.send("Performance.getMetrics")["metrics"]}
        elements = page.evaluate("document.querySelectorAll('*').length")
        browser.close()
    return took, found["TaskDuration"], elements


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[60, 1000, 10_000])
    counts = parser.parse_args().trials
    names = ("trials", "read s", "write s", "CPU s", "page MB", "library MB", "drawn s", "CPU s", "elements")
    print(*(f"{name:>10}" for name in names))
    with tempfile.TemporaryDirectory() as home, mock.patch.object(os, "fsync"):
        for count in counts:
            folder = make_run(Path(home) / "store", f"of-{count}", count)
            began = time.perf_counter()
            run = Run.open(folder)
            read = time.perf_counter() - began
            write_beside(run)
            began, cpu = time.perf_counter(), time.process_time()
            write_beside(run)
            wrote, cpu = time.perf_counter() - began, time.process_time() - cpu
            page = (folder / REPORT).stat().st_size / 1e6
            library = sum(path.stat().st_size for path in folder.parent.glob("_plotly-*")) / 1e6
            drawn, painted, elements = drawn_in(folder / REPORT)
            row = (read, wrote, cpu, page, library, drawn, painted)
            print(f"{count:>10}", *(f"{value:>10.2f}" for value in row), f"{elements:>10.0f}")


if __name__ == "__main__":
    main()
