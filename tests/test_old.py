"""What an older version saved goes on: runs are shown, verified and resumed, an exported model is loaded.

tests/old was made by the last version before the modules went into rooms: a run with rungs that was stopped while a
genome waited for its next one, its checkpoint beside it; a calibrated run with pruning and replicates; a run with two
objectives; an exported model with SwiGLU, rotary positions, fewer heads of keys and normed queries, and its logits.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from evo_tune import Search
from evo_tune.cli import cli
from evo_tune.loop.replay import verify

ROOT = Path(__file__).parents[1]
OLD = ROOT / "tests" / "old"
RUNS = {"rungs": 20, "calibrated": 14, "two": 8}
"""The trials that each holds."""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a store with copies of the old runs; the working directory is where their text lies."""
    monkeypatch.chdir(ROOT)
    for name in RUNS:
        shutil.copytree(OLD / name, tmp_path / name)
    return tmp_path


def typed(*words: str) -> str:
    result = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("name", RUNS)
def test_an_old_run_is_shown_and_verified(store: Path, name: str) -> None:
    shown = json.loads(typed("show", name, "--store", str(store), "--format", "json"))
    assert shown["evaluations"] == RUNS[name]
    assert name in typed("list", "--store", str(store))
    assert "val_loss" in typed("best", name, "--store", str(store))
    assert f"all {RUNS[name]} proposals agree" in typed("verify", name, "--store", str(store))


@pytest.mark.slow
@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("name", RUNS)
def test_an_old_run_goes_on(store: Path, name: str) -> None:
    limits = {"budget": 7.3} if name == "rungs" else {"trials": RUNS[name] + 2, "calibrate": 0}
    search = Search.resume(name, store=store, accept_changes=True, slots=1, **limits)
    try:
        search.run()
        assert len(search.trials) > RUNS[name]
        assert all(trial.ok or trial.outcome.status == "pruned" for trial in search.trials)
        assert not verify(search.saved, search.space, search.strategy)
    finally:
        search.close()
    if name == "rungs":  # from the checkpoint that the older version left
        assert search.trials[20].candidate.resumes == 19
        assert search.trials[20].outcome.metrics["resumed_step"] == 2


def test_an_old_model_is_loaded() -> None:
    import torch

    from evo_tune.training import GPT

    model = GPT.load(OLD / "model").eval()
    with torch.no_grad():
        logits = model(torch.arange(32)[None] + 64)[0, -1, :16]
    assert np.allclose(logits.numpy(), json.loads((OLD / "logits.json").read_text()), atol=1e-4)
    assert len(model.generate("The ", 20, seed=1)) > 4
