"""Precision of matrix products, and the fastest precision of a device."""

import hashlib
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from evo_tune.errors import RecipeError
from evo_tune.options.declare import check_integer, check_name, check_number
from evo_tune.trust import safe_files
from evo_tune.trust.safe_files import cache_folder

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Precision:
    """Options of precision.

    Args:
        name: 'fp32', 'tf32' (float32 whose products round their factors to 10 bits), 'bf16' or 'fp16'.
        initial_scale: Initial loss scale, 1 or more; for fp16 only.
        growth_interval: Consecutive steps without overflow after which the scale doubles (int ≥ 1).

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
        """Raise an error if a device does not support this precision; there is no silent fallback.

        Raises:
            RecipeError: The device does not support it.
        """
        if self.name == "fp32":
            return
        able = device.type in ("cpu", "cuda")
        if device.type == "cuda" and self.name == "bf16":
            able = torch.cuda.is_bf16_supported(including_emulation=False)
        if self.name == "tf32":  # like bfloat16, supported from Ampere on
            able = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
        if not able:
            raise RecipeError("precision", self.name, f"one that {device} computes in, such as 'fp32'")

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """Return the context for forward passes."""
        return torch.autocast(device.type, dtype=_DTYPES[self.name]) if self.name in _DTYPES else nullcontext()

    @contextmanager
    def products(self) -> Iterator[None]:
        """Multiply float32 matrices in this precision, forward and backward; the setting is restored afterwards."""
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
        """Return the loss scaler; None if the precision needs none."""
        if self.name != "fp16":
            return None
        return torch.amp.GradScaler(device.type, init_scale=self.initial_scale, growth_interval=self.growth_interval)


# Smallest speed-up of products in bfloat16: between that of CPUs that gain (2) and of others (1 or less).
GAIN = 1.3


def fastest_precision(device: str | torch.device = "cpu", folder: Path | None = None, *, narrow: bool = False) -> str:
    """Return the name of a device's fastest `Precision` for training: 'bf16', 'fp16' or 'fp32'.

    Args:
        device: A GPU gives bf16, or fp16 if it does not support bfloat16. A CPU is timed (a tenth of a second)
            with torch's current number of threads. Any other device gives fp32.
        folder: Folder that caches the answer; None: the user's cache folder. An unreadable file is
            rewritten; a failure to write is ignored.
        narrow: Whether products are so small that casts outweigh them on any CPU.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if kind != "cpu" or narrow:
        return "fp32"
    processor = [platform.machine(), platform.processor()]  # on virtual machines its name is not enough
    with suppress(OSError):
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
        processor += [line for line in first.splitlines() if line.startswith(("model name", "flags", "Features"))]
    key = f"{'; '.join(processor)}, torch {torch.__version__}, {torch.get_num_threads()} threads"
    name = f"precision-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
    path = (folder or cache_folder()) / name
    with suppress(OSError, ValueError, TypeError, KeyError):
        cached = json.loads(path.read_text(encoding="utf-8"))
        if cached["key"] == key:
            return "bf16" if float(cached["gain"]) >= GAIN else "fp32"
    gain = _measure_gain()
    with suppress(OSError):  # several workers may write at the same time
        path.parent.mkdir(parents=True, exist_ok=True)
        data = json.dumps({"key": key, "gain": gain}).encode()
        safe_files.replace(path.parent, name, data, part=f"{name}.{os.getpid()}.part", sync=False)
    return "bf16" if gain >= GAIN else "fp32"


def _measure_gain() -> float:
    """Return the speed-up of a linear layer's three products in bfloat16."""
    seconds: dict[torch.dtype, float] = {}
    dtypes = (torch.float32, torch.bfloat16)
    try:
        layers = {
            dtype: (torch.ones(1024, 128, dtype=dtype), torch.ones(512, 128, dtype=dtype, requires_grad=True))
            for dtype in dtypes
        }
        for _ in range(6):  # alternate and take the best of each: other processes may slow some rounds down
            for dtype in dtypes:
                before = time.perf_counter()
                x = layers[dtype][0].detach().requires_grad_()
                F.linear(x, layers[dtype][1]).sum().backward()  # type: ignore[no-untyped-call]
                seconds[dtype] = min(seconds.get(dtype, 1e9), time.perf_counter() - before)
    except RuntimeError:  # the processor or the torch build lacks these products
        return 0.0
    return seconds[torch.float32] / seconds[torch.bfloat16]
