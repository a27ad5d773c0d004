"""`evo-tune report`, and the report that `run` and `resume` leave: and that nothing stops a run for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from evo_tune.errors import StoreError
from tests.cli.conftest import Typed

SHORT = ("--population", "4", "--trials", "4", "--final-seeds", "0", "--slots", "1", "--strategy", "random")


def test_a_run_ends_with_the_path_of_its_report(folder: Path, typed: Typed) -> None:
    done = typed("run", "quick.py", "--name", "mine", *SHORT)
    assert done.out.splitlines()[-1] == "report: populations/mine/_report.html"
    assert "evo-tune report" in (folder / "populations/mine/_report.html").read_text()
    assert len(list((folder / "populations").glob("_plotly-*.min.js"))) == 1


def test_no_report_leaves_none_and_programs_are_told(folder: Path, small_run: str, typed: Typed) -> None:
    for path in (folder / "populations").rglob("_*.html"):
        path.unlink()
    done = typed("resume", small_run, "--trials", "9", "--no-report", "--final-seeds", "0", "--format", "json")
    assert json.loads(done.out)["report"] is None
    assert not list((folder / "populations").rglob("*.html"))
    done = typed("resume", small_run, "--trials", "10", "--final-seeds", "0", "--format", "json")
    assert json.loads(done.out)["report"] == "populations/one/_report.html"
    assert (folder / "populations/one/_report.html").exists()


def test_a_report_that_cannot_be_written_costs_a_warning(folder: Path, small_run: str, typed: Typed) -> None:
    report = folder / "populations" / "one" / "_report.html"
    report.unlink()
    report.mkdir()
    done = typed("resume", small_run, "--trials", "9", "--final-seeds", "0")
    assert done.code == 0
    assert "saved in populations/one" in done.out
    assert "report:" not in done.out
    assert "Warning: no report was written (StoreError: " in done.err
    assert "`evo-tune report one` tries again" in done.err


def test_report_writes_beside_the_run_or_where_it_is_told(folder: Path, small_run: str, typed: Typed) -> None:
    assert typed("report").out == "populations/one/_report.html\n"
    assert typed("report", small_run, "-o", "alone.html").out == "alone.html\n"
    assert (folder / "alone.html").stat().st_size > 1_000_000
    failed = typed("report", "nobody")
    assert failed.code == 1
    assert "there is no run 'nobody'" in failed.err


def test_several_runs_have_one_report(folder: Path, small_run: str, typed: Typed) -> None:
    typed("report", small_run, small_run, "-o", "both.html")
    assert "<h1>2 runs side by side</h1>" in (folder / "both.html").read_text()


def test_what_writes_a_report_is_light(folder: Path, small_run: str) -> None:
    code = (
        "import sys; from pathlib import Path; from evo_tune.store.run import Run\n"
        "from evo_tune.report.page import write_beside\n"
        "write_beside(Run.open(Path('populations/one')))\n"
        "print({'torch', 'IPython', 'matplotlib', 'sklearn'} & {name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_report_that_cannot_lie_in_the_runs_folder_can_be_written_elsewhere(
    folder: Path, small_run: str, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, data: bytes) -> None:
        raise StoreError(f"cannot write {path}: Read-only file system")

    monkeypatch.setattr("evo_tune.report.page.write_atomically", refuse)
    failed = typed("report", small_run)
    assert failed.code == 1
    assert "Read-only file system; `evo-tune report one -o FILE` writes it elsewhere" in failed.err
    assert typed("report", small_run, "-o", "alone.html").code == 0
