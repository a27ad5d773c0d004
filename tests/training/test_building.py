"""How a step of a GPT fits the device: each rank fits its share, and all do what the least can."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from evo_tune.training import LanguageTraining, Ranks, StepSplit, reading
from evo_tune.training.recipe import GPTConfig, Memory, TrainingOptions
from evo_tune.training.recipe.hardware.memory import Fit
from evo_tune.training.recipe.plan import Phase


class Other(Ranks):
    """Two ranks, of which the other has room for three windows only, computed again."""

    def least(self, *numbers: int) -> list[int]:
        return [min(pair) for pair in zip(numbers, (3, 0), strict=True)]


def test_each_rank_fits_its_share_and_all_do_what_the_least_can(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def fit_device(config: GPTConfig, batch: int, device: str, **options: Any) -> Fit:
        seen.update(batch=batch, **options)
        return Fit(4, None, Memory(1.0, 1.0, 1.0))

    monkeypatch.setattr(reading, "fit_device", fit_device)
    options = TrainingOptions(precision="bf16")
    plan: Any = SimpleNamespace(options=options)
    run: Any = SimpleNamespace(device="cuda:0")
    phase = Phase(config=GPTConfig(), windows=100, per_step=9)
    for ranks, micro, recompute, each in ((None, 4, None, 9), (Other(0, 2, torch.device("cuda", 0)), 3, 1, 5)):
        assert LanguageTraining(plan, run, ranks).passes(phase) == StepSplit(micro, recompute)
        assert (seen["batch"], seen["sharing"]) == (each, 1 if ranks is None else 2)
        assert seen["precision"] == "bf16"
