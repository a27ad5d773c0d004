"""Exported models of every kind, each trained once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from evo_tune import Context
from evo_tune.plugins.evaluator import BoundEvaluator
from evo_tune.plugins.find import find_evaluator
from evo_tune.training.tuned import FINE_TUNING_FILE
from tests.cli.conftest import folder, typed  # noqa: F401 # fixtures
from tests.training.prediction.cases import CASES, Case


@dataclass(frozen=True)
class Exported:
    """An exported model, and the rows of its data that it did not see; the data itself is gone."""

    case: Case
    bound: BoundEvaluator
    folder: Path
    metrics: dict[str, float]
    held_out: Path
    test: Path

    @property
    def notes(self) -> dict[str, Any]:
        name = FINE_TUNING_FILE if (self.folder / FINE_TUNING_FILE).exists() else "config.json"
        return dict(json.loads((self.folder / name).read_text(encoding="utf-8")))


Export = Callable[[str], Exported]


@pytest.fixture(scope="session")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Return a function that exports the model of a case; each is trained once."""
    from evo_tune.training import GPT
    from evo_tune.training.recipe import GPTConfig

    made: dict[str, Exported] = {}

    def of(name: str) -> Exported:
        if name not in made:
            case, folder = CASES[name], tmp_path_factory.mktemp("exported")
            (folder / "data").mkdir()
            data = case.data(folder / "data")
            options = {**case.options, "data": str(data)}
            if case.evaluator == "fine_tuning":
                GPT(GPTConfig(context=64, depth=1, width=16, heads=2), seed=3).save(folder / "base")
                options["base"] = str(folder / "base")
            plugin = find_evaluator(f"bundled:{case.evaluator}")
            bound = plugin.bind({key: value for key, value in options.items() if key in plugin.options})
            context = Context(seed=5, folder=folder / "trial")
            metrics = bound.export(bound.space.default(), context, folder / "model")
            parts = [case.rows(bound, data, test, folder) for test in (False, True)]
            shutil.rmtree(folder / "data")
            made[name] = Exported(case, bound, folder / "model", metrics, parts[0], parts[1])
        return made[name]

    return of


@pytest.fixture(params=list(CASES))
def exported(request: pytest.FixtureRequest, export: Export) -> Exported:
    return export(request.param)


@pytest.fixture
def copied(tmp_path: Path, export: Export) -> Callable[[str], Path]:
    """Return a function that copies the model of a case, to be damaged."""

    def of(name: str) -> Path:
        return Path(shutil.copytree(export(name).folder, tmp_path / "copy"))

    return of
