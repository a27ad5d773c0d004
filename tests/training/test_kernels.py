"""Number of kernels in a step, by depth: no loop over the weights outside the forward and the backward pass."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from evo_tune.training import GPT, AdamW, Muon, Recipe, Trainer
from evo_tune.training.recipe import GPTConfig, Schedule, WeightDecay

MATRICES = 4  # in a block: queries, keys and values; result; two of the feed-forward layer


class Windows:
    """Source of one small window."""

    def window(self, step: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [(torch.zeros(2, 32, dtype=torch.long),) * 2]


class Kernels(TorchDispatchMode):
    """Counts operations that compute something; views do not."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += all(value.alias_info is None or value.alias_info.is_write for value in func._schema.returns)
        return func(*args, **(kwargs or {}))


def kernels(depth: int, optimizer: AdamW | Muon, late: int, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Return the kernels of the passes of a step, and those of its other parts."""
    shape = {"position": "rope", "qk_norm": True}
    config = GPTConfig(context=32, depth=depth, width=32, heads=2, **shape)  # type: ignore[arg-type]
    recipe = Recipe(
        optimizer=optimizer, schedule=Schedule(steps=10), weight_decay=WeightDecay(start=0.1), ema=0.9, clip=1e-3
    )
    trainer = Trainer(GPT(config).train(), Windows(), recipe, late=late)
    accumulate, passes = trainer._accumulate, 0

    def count_passes(fed: Any) -> torch.Tensor:
        nonlocal passes
        before = mode.count
        loss = accumulate(fed)
        passes += mode.count - before
        return loss

    for _ in range(2):  # the first makes the moments
        trainer.advance()
    monkeypatch.setattr(trainer, "_accumulate", count_passes)
    with Kernels() as mode:
        trainer.advance()
    return passes, mode.count - passes


@pytest.mark.parametrize("late", [0, 8], ids=["read", "late"])
@pytest.mark.parametrize("optimizer", [AdamW(lr=1e-3), Muon(lr=1e-3)], ids=["adamw", "muon"])
def test_kernels_outside_the_passes_do_not_depend_on_depth(
    optimizer: AdamW | Muon, late: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (passes, others), (deep_passes, deep_others) = (kernels(n, optimizer, late, monkeypatch) for n in (4, 12))
    assert deep_passes - passes <= 8 * 148
    # Only a device that refuses steps takes one kernel for each matrix, which sets a refused gradient to zero.
    masked = MATRICES * 8 if late and isinstance(optimizer, Muon) else 0
    assert deep_others - others == masked
    assert others - MATRICES * 4 * bool(masked) < 140
