"""Evaluators written for one test, and slots of every kind that evaluate them."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from slot_helpers import HEAD, KINDS, OVER_CLUSTERS, note_processes, until, workers

from evo_tune.dispatch import devices
from evo_tune.dispatch.devices import CPU, Device
from evo_tune.dispatch.slot import Slot, Task


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks for groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep a cluster to one process of the suite, and to the tests that are about the way there and back."""
    kept, left_out = [], []
    for item in items:
        case = item.callspec.params if hasattr(item, "callspec") else {}
        kind = case.get("open_all")
        if kind in ("dask", "ray"):
            item.add_marker(pytest.mark.cluster)
            item.add_marker(pytest.mark.xdist_group(kind))
        wanted = kind in (None, "local") or config.getoption("--all-slots")
        if not wanted and item.originalname in OVER_CLUSTERS:
            wanted = OVER_CLUSTERS[item.originalname].items() <= case.items()
        (kept if wanted else left_out).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=left_out)


@pytest.fixture(autouse=True)
def _processes() -> None:
    note_processes()


@pytest.fixture
def trials(tmp_path: Path) -> Path:
    return tmp_path / "run" / "_trials"


@pytest.fixture
def task_of(tmp_path: Path, trials: Path) -> Callable[..., Task]:
    """Write an evaluator, given the body of its `evaluate`, and describe it."""

    def make(body: str, threads: int = 1, top: str = "", **options: Any) -> Task:
        path = tmp_path / "evaluator.py"
        source = HEAD.replace("\nSPACE", f"{top}\nSPACE") + textwrap.indent(textwrap.dedent(body).strip("\n"), "    ")
        path.write_text(source + "\n")
        objectives = ("loss:min",)
        return Task(str(path), "evaluator", str(path), "file", options, objectives, str(trials), threads)

    return make


@pytest.fixture(params=sorted(KINDS))
def open_all(request: pytest.FixtureRequest, task_of: Callable[..., Task]) -> Iterator[Callable[..., list[Slot]]]:
    """Open slots on an evaluator given by its body; afterwards no process may be left."""
    opened: list[Slot] = []

    def make(
        body: str, devices: tuple[Device, ...] = (CPU,), timeout: float | None = None, retries: int = 0, **task: Any
    ) -> list[Slot]:
        slots = KINDS[request.param](task_of(body, **task), devices, timeout=timeout, retries=retries)
        opened.extend(slots)
        return slots

    yield make
    for slot in opened:
        slot.close()
    assert until(lambda: not workers(), 5.0), [(one, one.cmdline()) for one in workers()]


@pytest.fixture
def open_one(open_all: Callable[..., list[Slot]]) -> Callable[..., Slot]:
    def make(body: str, **settings: Any) -> Slot:
        return open_all(body, **settings)[0]

    return make


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Make a machine of CUDA_VISIBLE_DEVICES, an nvidia-smi and a number of cores."""

    def make(visible: str | None = None, smi: str | None = None, cores: int = 4) -> None:
        if visible is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        if smi is not None:
            program = tmp_path / "nvidia-smi"
            program.write_text(f"#!/bin/sh\n{smi}\n")
            program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin" if smi is not None else str(tmp_path))
        monkeypatch.setattr(devices, "cpu_count", lambda: cores)

    return make
