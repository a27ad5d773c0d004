"""`--dry-run`, the timing of a few steps, and `--hours` alone: what is told beforehand; and nothing is left of it."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest

from evo_tune.cli.output import outputs
from evo_tune.cli.planning import SHORTER, Planned, plan
from evo_tune.loop.begin import Request
from evo_tune.loop.search import Search
from evo_tune.settings import settings_of
from evo_tune.store.run import Run
from tests.cli.conftest import Typed
from tests.conftest import rows

TIMED = '''"""Takes as long as it says, by its budget in flops."""
import time

from evo_tune import Float, Minimize, SearchSpace

SPACE = SearchSpace(x=Float(0.5, 1.5), y=Float(-1, 1))
OBJECTIVES = [Minimize("loss")]
SUPPORTS = ["timing"]


def takes(genome, pace, flops):
    return pace * genome["x"] * (0.1 + 0.9 * (flops or 1e6) / 1e6)


def evaluate(genome, context, *, pace: float = 0.02, flops: float | None = None):
    if context.timing:
        (context.folder / "left.txt").write_text("of a timing")
        return {"seconds": takes(genome, pace, flops), "judging": 0.1 * pace, "checkpoint": 1000.0}
    time.sleep(takes(genome, pace, flops))
    return {"loss": genome["x"] + genome["y"] ** 2}


def estimate(genome, *, pace, flops):
    return {"flops": flops or 1e6}
'''


@pytest.fixture
def timed(folder: Path) -> Path:
    path = folder / "timed.py"
    path.write_text(TIMED)
    return path


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_dry_run_tells_a_plan_and_leaves_no_file(timed: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    aside = timed.parent / "aside"
    aside.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(aside))
    before, state = files(timed.parent), files(Path(os.environ["XDG_STATE_HOME"]))
    what = ("run", "timed.py", "-o", "pace=2", "--trials", "20", "--slots", "1", "--dry-run")
    done = typed(*what, "--price-per-hour", "3", "--name", "mine")
    assert done.code == 0, done
    assert "2 s with the default genome" in done.out
    assert "genomes      20" in done.out
    assert "at the given price" in done.out
    printed = typed(*what, "--format", "json").out
    data = json.loads(printed)["forecast"]
    msgspec.json.decode(printed.encode(), type=outputs()["run --dry-run"])
    search, race = 20 * 2, (6 + 14) / 2 * 2
    assert data["seconds"]["expected"] == pytest.approx(search + race, rel=0.25)
    assert data["seconds"]["low"] < search + race < data["seconds"]["high"]
    assert files(timed.parent) == before
    assert files(Path(os.environ["XDG_STATE_HOME"])) == state, "nor is anything trusted for it"


def test_a_dry_run_of_what_cannot_be_timed_says_so(folder: Path, typed: Typed) -> None:
    done = typed("run", "quick.py", "--trials", "5", "--dry-run")
    assert done.code == 0
    assert "'timing'" in done.out
    assert "after three trainings" in done.out


@pytest.mark.slow
def test_timings_are_no_trials_and_a_run_tells_its_forecast(timed: Path, typed: Typed) -> None:
    what = (
        "run",
        "timed.py",
        "--trials",
        "6",
        "--final-seeds",
        "0",
        "--slots",
        "1",
        "--order",
        "proposal",
        "--no-report",
    )
    told = typed(*what, "--name", "told", "--store", "store")
    assert told.code == 0, told
    assert told.out.splitlines()[0].startswith("forecast: about")
    assert typed(*what, "--name", "quiet", "--store", "store", "--quiet").code == 0
    runs = [Run.open(timed.parent / "store" / name) for name in ("told", "quiet")]
    assert rows(runs[0]) == rows(runs[1])
    assert not [name for name in files(runs[0].folder) if "timing" in name]
    with Search("timed.py", store="store", name="by-hand", trials=3, final_seeds=0) as search:
        search.run()
        assert search.pace is None, "nobody asked"


def planned(options: dict[str, str], **settings: Any) -> Planned:
    return plan("timed.py", Request(options=options), *settings_of({"slots": 2, **settings}), Path("store"))


@pytest.mark.slow
@pytest.mark.usefixtures("timed")
def test_hours_alone_plan_how_long_a_training_is() -> None:
    found = planned({"pace": "5"}, hours=0.05)
    assert found.pace is not None
    assert "0.05 h: -o flops=" in found.told
    count = (180 - found.seconds) * 2 / found.pace.usual
    assert count == pytest.approx(SHORTER, rel=0.1)
    assert found.manifest.options["flops"] == float(found.options["flops"]) < 1e6
    timed_again = planned({"pace": "5", **found.options}, hours=0.05)
    assert timed_again.told == "", "a budget of the user's own stands"
    assert timed_again.pace is not None
    assert timed_again.pace.usual == pytest.approx(found.pace.usual, rel=0.05), "what was planned is what it takes"
    assert planned({"pace": "5"}, hours=0.05, trials=9).told == "", "not alone"
    assert not Path("store").exists()
