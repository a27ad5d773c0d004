"""benchmarks/real.py: what counts, and that a stop costs nothing; the job itself takes too long for a test."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import benchmark


@pytest.fixture(scope="module")
def real() -> ModuleType:
    return benchmark("real")


def test_only_what_was_finished_in_time_counts(real: ModuleType) -> None:
    results = [(1.0, 3.0, {"lr": 1}), (2.0, None, {"lr": 2}), (60.0, 2.0, {"lr": 3}), (60.1, 1.0, {"lr": 4})]
    trained = [(2.0, {"lr": 3}), (3.0, {"lr": 1})]
    assert real.best_of(results, 60.0) == real.Found({"lr": 3}, 2.0, seeds=1, full=2, stopped=1, trained=trained)
    with pytest.raises(real.NothingFoundError, match="not one of 1 trainings was finished well in 2 s"):
        real.best_of(results[1:], 2.0)


def test_what_stands_in_the_csv_is_not_done_again(
    real: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = real.Row("", 0, 0.1, "{}", 10, 2, 1.5, 1.6, 0.01, '{"kind": "a, b"}')
    played: list[tuple[str, int]] = []

    def play(method: str, job: object, seed: int) -> object:
        played.append((method, seed))
        if len(played) == 3:
            raise KeyboardInterrupt
        return replace(row, method=method, seed=seed, searched_loss=1.5 + seed)

    monkeypatch.setattr(real, "play", play)
    monkeypatch.setattr(sys, "argv", ["real.py", "--minutes", "0.1", "--seeds", "2", "--csv", str(tmp_path / "a.csv")])
    with pytest.raises(KeyboardInterrupt):
        real.main()
    assert [row.seed for row in real.read(tmp_path / "a.csv")] == [0, 0]
    real.main()
    assert len(played) == 9  # eight, and the one that was stopped
    assert len(set(played)) == 8
    assert "2.0000" in capsys.readouterr().out
