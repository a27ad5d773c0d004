"""A job that SLURM starts again executes the same command, which then continues its run."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from evo_tune.cli import cli
from evo_tune.store.run import Run


@pytest.mark.parametrize(("count", "sessions"), [(None, 1), ("", 1), ("0", 1), ("2", 2)])
def test_run_continues_its_run_in_a_requeued_job(
    count: str | None, sessions: int, quick: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)

    def run(*more: str, trials: str = "4") -> Result:
        words = ["run", str(quick), "--name", "night", "--store", str(tmp_path), "--final-seeds", "0", "--slots", "1"]
        return CliRunner().invoke(cli, [*words, "--trials", trials, "--quiet", "--no-report", *more])

    if count == "2":  # a job that ended before its run began starts it
        monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    first = run(trials="2")
    assert first.exit_code == 0, first.output
    if count is not None:
        monkeypatch.setenv("SLURM_RESTART_COUNT", count)
    again = run()
    saved = Run.open(tmp_path / "night")
    assert len(saved.sessions) == sessions
    assert len(saved.outcomes) == (2 if sessions == 1 else 4)
    assert ("night exists: choose another name" in str(again.exception)) == (sessions == 1)


def test_an_old_run_still_knows_its_cluster() -> None:
    """1.0 remembered the places of a session without the scheduler file; the hash must not change."""
    from evo_tune.loop.code import _hash_places
    from evo_tune.settings import SessionSettings
    from evo_tune.trust.decide import digest

    old = {"slots": 2, "devices": None, "per_device": 1, "backend": "dask", "address": "tcp://a:1", "max_slots": None}
    settings = SessionSettings(slots=2, backend="dask", address="tcp://a:1")
    assert _hash_places(settings) == {"places": digest(old)}
    assert _hash_places(SessionSettings(backend="dask", scheduler_file="a")) != _hash_places(
        SessionSettings(backend="dask", scheduler_file="b")
    )
