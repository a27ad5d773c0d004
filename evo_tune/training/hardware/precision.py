"""In which precision a model computes. Weights, moments and sums of losses stay in float32 throughout.

'bf16' casts matrix products (torch's autocast); it has float32's range, so nothing overflows. 'fp16' has
not: the loss is multiplied by a scale before the backward pass, and the gradients are divided by it before
anything looks at them. A scale that was too large shows as a gradient that is not finite; the trainer then
halves it and does the step again, or on a GPU, where it does not wait to see, leaves the step out. Knows
nothing of steps or optimizers' rates.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch

from evo_tune.errors import RecipeError
from evo_tune.options.bounds import check_integer, check_name, check_number

__all__ = ["Precision"]

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Precision:
    """Options of precision.

    Args:
        name: 'fp32', 'tf32' (float32 whose products round their factors to 10 bits), 'bf16' or 'fp16'.
        initial_scale: The loss's scale at the start, 1 or more; for fp16 only.
        growth_interval: Steps in a row without overflow after which the scale doubles, 1 or more.

    Raises:
        RecipeError: A field is out of its range.
    """

    name: str = "fp32"
    initial_scale: float = 65536.0
    growth_interval: int = 2000

    def __post_init__(self) -> None:
        check_name("precision", self.name, ("fp32", "tf32", *_DTYPES))
        check_number("initial_scale", self.initial_scale, "[1, 1e30]")
        check_integer("growth_interval", self.growth_interval, 1)

    def check_device(self, device: torch.device) -> None:
        """Require a device that computes in this precision; there is no silent change to another.

        Raises:
            RecipeError: It does not.
        """
        if self.name == "fp32":
            return
        able = device.type in ("cpu", "cuda")
        if device.type == "cuda" and self.name == "bf16":
            able = torch.cuda.is_bf16_supported(including_emulation=False)
        if self.name == "tf32":  # as bfloat16, from Ampere on
            able = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
        if not able:
            raise RecipeError("precision", self.name, f"one that {device} computes in, such as 'fp32'")

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """Return the context in which forward passes are to be done."""
        return torch.autocast(device.type, dtype=_DTYPES[self.name]) if self.name in _DTYPES else nullcontext()

    @contextmanager
    def products(self) -> Iterator[None]:
        """Have float32 matrices be multiplied as this precision says, forward and backward; put back after."""
        if self.name != "tf32":
            yield
            return
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)

    def scaler(self, device: torch.device) -> torch.amp.GradScaler | None:
        """Return the keeper of the loss's scale; None where none is needed."""
        if self.name != "fp16":
            return None
        return torch.amp.GradScaler(device.type, init_scale=self.initial_scale, growth_interval=self.growth_interval)
