"""What a machine does of a training, as options: in which precision, in how many passes and processes.

Each says what the task's machine is, so none can be a gene. Loads no torch; knows nothing of how it is done (see
`precision`, `memory`, `recompute`, `launcher`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from evo_tune.options.declare import Options, option

__all__ = ["Computing", "Passes", "Processes", "has_gpu", "in_memory"]


@dataclass(frozen=True, kw_only=True)
class Computing(Options):
    """Precision, and how it is computed."""

    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = option(
        "auto",
        gene=None,
        help="Of products; auto: bf16 where that gains, fp16 on a GPU without it; tf32: fp32 by a GPU's TF32",
    )
    compile: bool = option(
        False,
        gene=None,
        help="Compile the blocks, a minute a shape; windows of attention go by flex_attention then, on a GPU",
    )
    deterministic: bool = option(
        True, gene=None, help="Only algorithms that give the same bits twice; false: a GPU may take faster ones"
    )


@dataclass(frozen=True, kw_only=True)
class Passes(Options):
    """Memory."""

    micro_batch: int | Literal["auto"] | None = option(
        "auto",
        bounds="[2, inf)",
        unit="tokens",
        gene=None,
        help="Most in one pass, which changes no gradient; auto: what the device's whole memory has room for",
    )
    recompute: int | None = option(
        None, bounds="[1, inf)", gene=None, help="Compute every so-manieth block again for the gradient"
    )


@dataclass(frozen=True, kw_only=True)
class Processes(Options):
    """Processes on this machine."""

    ranks: int = option(
        1, bounds="[1, 64]", gene=None, help="That train together, each with the slot's threads or a GPU of its own"
    )


def in_memory(precision: str) -> str:
    """Return the precision in whose bytes a training is held: TF32 is a way to multiply float32."""
    return "fp32" if precision == "tf32" else precision


def has_gpu(device: str | None = None) -> bool:
    """Whether a training has, or would have, an NVIDIA GPU.

    Args:
        device: What it has; None: it is not known yet, and since torch must not be loaded to ask, the driver's files
            are looked for, and CUDA_VISIBLE_DEVICES.
    """
    if device is not None:
        return device.startswith("cuda")
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1")
    return not hidden and (Path("/proc/driver/nvidia/gpus").is_dir() or Path("/dev/nvidia0").exists())
