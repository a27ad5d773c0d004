"""Which precision this machine gains from: timed once, and remembered in the user's cache folder.

A processor that multiplies in bfloat16 is about twice as fast in it; one that only imitates it is slower. The
answer is for a processor, a torch and a number of threads. Knows nothing of models or trainings.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F

__all__ = ["fastest_precision"]

GAIN = 1.3
"""How many times faster products must be in bfloat16: far from what those have that gain (2) and do not (1, less)."""


def fastest_precision(device: str | torch.device = "cpu", folder: Path | None = None, *, narrow: bool = False) -> str:
    """Return the name of the `Precision` in which a device trains fastest: 'bf16', 'fp16' or 'fp32'.

    Args:
        device: A GPU is asked, and one without bfloat16 has fp16; a CPU is timed (a tenth of a second) with as
            many threads as torch has now; any other computes in fp32.
        folder: Where the answer is kept; None: the user's cache folder. A file that cannot be read is
            written anew, and one that cannot be written is done without.
        narrow: Whether products are so small that casts outweigh them on any CPU.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if kind != "cpu" or narrow:
        return "fp32"
    key = f"{_processor()}, torch {torch.__version__}, {torch.get_num_threads()} threads"
    name = f"precision-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
    path = (folder or _cache_folder()) / name
    gain = _remembered(path, key)
    if gain is None:
        gain = _measured()
        _remember(path, {"key": key, "gain": gain})
    return "bf16" if gain >= GAIN else "fp32"


def _measured() -> float:
    """Return how many times faster a linear layer's three products are in bfloat16."""
    seconds: dict[torch.dtype, float] = {}
    dtypes = (torch.float32, torch.bfloat16)
    try:
        layers = {
            dtype: (torch.ones(1024, 128, dtype=dtype), torch.ones(512, 128, dtype=dtype, requires_grad=True))
            for dtype in dtypes
        }
        for _ in range(6):  # by turns, and the best of each: others may be at work on this machine
            for dtype in dtypes:
                before = time.perf_counter()
                x = layers[dtype][0].detach().requires_grad_()
                F.linear(x, layers[dtype][1]).sum().backward()  # type: ignore[no-untyped-call]
                seconds[dtype] = min(seconds.get(dtype, 1e9), time.perf_counter() - before)
    except RuntimeError:  # a processor or a build without these products
        return 0.0
    return seconds[torch.float32] / seconds[torch.bfloat16]


def _processor() -> str:
    """Return what tells this processor from others: names alone do not, on virtual machines."""
    lines = [platform.machine(), platform.processor()]
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
        lines += [line for line in first.splitlines() if line.startswith(("model name", "flags", "Features"))]
    except OSError:
        pass
    return "; ".join(lines)


def _cache_folder() -> Path:
    """Return the user's folder for what can be made again, as the system has it."""
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "evo-tune"


def _remembered(path: Path, key: str) -> float | None:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return float(kept["gain"]) if kept["key"] == key else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _remember(path: Path, answer: dict[str, object]) -> None:
    """Write whole or not at all: workers may be asking at the same time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(prefix=path.name, dir=path.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(answer, file)
        os.replace(partial, path)
    except OSError:
        pass
