"""Runs that are made up without training, and a real browser to open their reports in."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from evo_tune import Choice, Float, Int, Search, SearchSpace
from evo_tune.report.run_data import RunData
from evo_tune.store.run import Run
from tests.conftest import benchmark

Made = Callable[..., Run]

SAMPLE = Path(__file__).parents[2] / "populations" / "sample"

HOSTILE = '</script><script>window.hacked=1</script><img src=x onerror="window.hacked=1"><a href="javascript:1">%{x}'


def hostile_space() -> SearchSpace:
    """Return a space in which every name and every text wants to be executed."""
    genes = {
        HOSTILE: Float(1e-5, 1e-1, log=True),
        "<b onmouseover=window.hacked=1>": Choice((HOSTILE, "${x}", "'\"><svg onload=window.hacked=1>")),
        "__proto__": Int(1, 12),
        "%{customdata}": Choice((1, 2, 4, 8), ordered=True),
    }
    return SearchSpace(**genes)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Return a function that makes up a run, once for the same arguments."""
    store, known = tmp_path_factory.mktemp("made"), dict[str, Path]()
    make_run = benchmark("report").make_run

    def make(trials: int = 80, **more: Any) -> Run:
        key = f"run-{len(known)}" if (found := known.get(repr((trials, more)))) is None else found.name
        if found is None:
            known[repr((trials, more))] = found = make_run(store, key, trials, **more)
        return Run.open(found)

    return make


PROMOTED = """
from evo_tune import Float, Minimize, SearchSpace
SPACE = SearchSpace(x=Float(0.0, 1.0, default=0.9))
OBJECTIVES = [Minimize("loss")]
SUPPORTS = ["budget"]
def evaluate(genome, context):
    loss = genome["x"] + 0.01 * (context.seed % 7) / context.budget
    for part in (context.budget - 0.25, context.budget):
        context.report(part, loss=loss)
    return {"loss": loss}
"""


@pytest.fixture
def promoted(begin: Callable[..., Search], tmp_path: Path) -> Run:
    """Return a run with rungs and a final comparison whose best genome was promoted."""
    (tmp_path / "parts.py").write_text(PROMOTED)
    return begin(evaluator=str(tmp_path / "parts.py"), fidelity="1/2,1", trials=12, final_seeds=2, slots=1).run().saved


@pytest.fixture(scope="session")
def material(made: Made) -> RunData:
    """What a run of 80 trials, with failures, pruned ones and parents, is made of."""
    return RunData(made())


@dataclass
class Opened:
    """A page in a browser.

    Args:
        page: Playwright's.
        said: What its console said, errors included.
        asked: Whom it asked, itself included.
        refused: What the page's policy did not let it ask for.
    """

    page: Any
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def count(self, selector: str) -> int:
        """Return how many elements there are."""
        return int(self.page.locator(selector).count())

    def marks(self, chart: str) -> int:
        """Return how many points are drawn in a chart."""
        return self.count(f"#{chart} .trace.scatter .point")

    def value(self, script: str) -> Any:
        """Return what a script gives: the browser's own door, which no policy of a page shuts."""
        return self.page.evaluate(script)

    def until(self, script: str) -> None:
        """Wait until a script gives something true; Playwright's own way is shut by a page's policy."""
        deadline = time.monotonic() + 30
        while not self.value(script):
            assert time.monotonic() < deadline, script
            self.page.wait_for_timeout(20)


Open = Callable[..., Opened]


@pytest.fixture(scope="module")  # and no longer: tests of slots look for processes that are left over
def chromium() -> Iterator[Any]:
    """A browser; tests that need one are skipped where there is none."""
    path = next((found for name in ("chromium", "google-chrome") if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("there is no chromium here: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


def opened_in(
    context: Any, where: Path | str, wait: bool = True, before: Callable[[Any], object] | None = None
) -> Opened:
    """Open a page in a new tab, which `before` is given while it is empty; wait until all of its charts are drawn."""
    opened = Opened(context.new_page())
    if before is not None:
        before(opened.page)
    opened.page.on("console", lambda message: opened.said.append(f"{message.type}: {message.text}"))
    opened.page.on("pageerror", lambda error: opened.said.append(str(error)))
    opened.page.on("request", lambda request: opened.asked.append(request.url))
    opened.page.on("requestfailed", lambda request: request.failure == "csp" and opened.refused.append(request.url))
    opened.page.goto(where.resolve().as_uri() if isinstance(where, Path) else where)
    if wait:
        opened.page.wait_for_selector("html[data-drawn]", state="attached", timeout=60_000)
    return opened


@pytest.fixture
def browse(chromium: Any) -> Iterator[Open]:
    """Return a function that opens a page and waits until all of its charts are drawn."""
    contexts = []

    def open_page(where: Path | str, wait: bool = True, before: Any = None, **options: Any) -> Opened:
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        return opened_in(context, where, wait, before)

    yield open_page
    for context in contexts:
        context.close()
