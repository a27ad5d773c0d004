"""Weights & Biases: each trial with a result is an offline run, written once, with nothing about the machine."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from evo_tune.integrations.converting import sink
from evo_tune.store.run import Run
from tests.extras import need
from tests.integrations.conftest import FAILED, Begin, evaluated

need("wandb")
pytestmark = [pytest.mark.xdist_group("tools"), pytest.mark.extended, pytest.mark.slow]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)


def written(folder: Path, run: Run, id: int) -> bytes:
    """Return what W&B has saved of a trial; texts and numbers in it are plain."""
    [path] = folder.glob(f"wandb/offline-run-*-{run.manifest.identity[:12]}-{id}/*.wandb")
    return path.read_bytes()


def test_a_run_is_written_offline_and_without_its_machine(eventful: Run, converted: Callable[[Run, str], Path]) -> None:
    folder = converted(eventful, "wandb")
    assert len(list(folder.glob("wandb/offline-run-*"))) == len(eventful.outcomes)
    first = written(folder, eventful, 0)
    genes = [name.encode() for name in eventful.genes]
    for text in (b"mine", b"loss", b"grad", eventful.manifest.identity.encode(), *genes):
        assert text in first
    assert b"ValueError: no luck" in written(folder, eventful, FAILED)
    everything = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert not re.search(rb"\b%s\b" % re.escape(platform.node().encode()), everything)


def test_a_trial_is_written_once_when_it_has_a_result(begin: Begin, tmp_path: Path) -> None:
    search, folder = begin("mine", trials=4), tmp_path / "boards"
    for _ in range(2):
        candidate = search.ask()
        assert candidate is not None
        search.tell(candidate, evaluated(search, candidate))
        sink("wandb", folder, "--track wandb").update(Run.open(search.saved.folder))  # as after a resume
    search.ask()
    sink("wandb", folder, "--track wandb").update(Run.open(search.saved.folder))
    assert len(list(folder.glob("wandb/offline-run-*"))) == 2
