"""Files of generations: written when they close and when a run ends, and left alone by one that only reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from evo_tune.strategies.ga import GA
from tests.conftest import drive, rows, survivors
from tests.loop.cases import Begin, some_fail

pytestmark = pytest.mark.usefixtures("fast_disk")


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Return when each file was written, and which it is: a file that was replaced is another one."""
    return {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.glob("generation-*.parquet")}


@pytest.mark.parametrize("order", ["arrival", "proposal"])
def test_a_run_that_is_at_its_limit_follows_nothing_and_writes_no_file(
    begin: Begin, resume: Begin, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = drive(begin("run", generations=None, trials=14, order=order), 3, some_fail).saved.folder
    before, kept = files(folder), survivors(folder)
    assert len(before) == 4
    asked: list[int] = []
    monkeypatch.setattr(GA, "survivors", lambda self, history: asked.append(len(history.trials)) or [])
    drive(resume("run", trials=14))
    assert files(folder) == before
    assert asked == []
    monkeypatch.undo()
    drive(resume("run", trials=30), 3, some_fail)
    whole = drive(begin("whole", generations=None, trials=30, order=order), 3, some_fail).saved.folder
    if order == "proposal":
        assert survivors(folder) == survivors(whole)
    after = files(folder)
    assert all(after[name] == before[name] for name in sorted(before)[:3])  # those that had closed
    assert survivors(folder)[:12] == kept[:12]


@pytest.mark.parametrize("number", [0, 2, 3])
def test_a_file_that_was_lost_or_damaged_is_as_it_was(begin: Begin, resume: Begin, number: int) -> None:
    search = drive(begin("run", generations=None, trials=14), evaluate=some_fail)
    path = search.saved.folder / f"generation-{number:04d}.parquet"
    marked = survivors(search.saved.folder)
    for ruin in (path.unlink, lambda: path.write_bytes(b"PAR1")):
        ruin()
        again = drive(resume("run", trials=14))
        assert survivors(again.saved.folder) == marked
        assert rows(again) == rows(search)
