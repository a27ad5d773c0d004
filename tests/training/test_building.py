"""How a step of a GPT fits the device: each rank probes its share, and all do what the least can."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from evo_tune.training import LanguageTraining, Ranks, StepSplit, reading
from evo_tune.training.recipe import Fit, GPTConfig, Memory, Phase


class Other(Ranks):
    """Two ranks, of which the other has room for three windows only, computed again."""

    def least(self, *numbers: int) -> list[int]:
        return [min(pair) for pair in zip(numbers, (3, 0), strict=True)]


def test_each_rank_is_probed_by_a_step_of_its_share_and_all_do_what_the_least_can(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: dict[str, Any] = {}
    fit = Fit(4, None, Memory(1.0, 1.0, 1.0))

    def fit_device(config: GPTConfig, batch: int, device: str, *, probe: Any, **options: Any) -> Fit:
        seen.update(batch=batch, **options)
        probe(fit)
        return fit

    def trainer(self: Any, phase: Phase, steps: int, **options: Any) -> Any:
        seen.update(phase=phase, passes=options["passes"], alone="ranks" not in options)
        return SimpleNamespace(run=lambda until: seen.update(steps=until))

    monkeypatch.setattr(reading, "fit_device", fit_device)
    monkeypatch.setattr(LanguageTraining, "trainer", trainer)
    options = SimpleNamespace(
        micro_batch="auto", optimizer_name="adamw", ema=None, precision="bf16", z_loss=1e-4, recompute=None
    )
    plan: Any = SimpleNamespace(options=options)
    run: Any = SimpleNamespace(device="cuda:0")
    phase = Phase(config=GPTConfig(), windows=100, per_step=9)
    for ranks, micro, recompute, each in ((None, 4, None, 9), (Other(0, 2, torch.device("cuda", 0)), 3, 1, 5)):
        assert LanguageTraining(plan, run, ranks).passes(phase) == StepSplit(micro, recompute)
        assert (seen["batch"], seen["sharing"], seen["ranks"]) == (each, *2 * (1 if ranks is None else 2,))
        assert (seen["phase"].windows, seen["phase"].per_step, seen["steps"]) == (each, each, 1)
        assert seen["z_loss"]
        assert seen["alone"]
        assert seen["passes"] == StepSplit(4, None)
