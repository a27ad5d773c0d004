"""What known chips can do, a row each: another chip is another row. No torch here.

Peaks are those of dense matrix products with sums in float32 (half of what NVIDIA prints 'with sparsity', and of what
it prints for GeForce with sums in float16), as the makers' own papers have them. A chip is known by exactly the name
that its driver reports: a name that only resembles one belongs to another chip ('RTX 4090 Laptop GPU', 'RTX 3090 Ti'),
or to a slice of one ('MIG 1g.5gb'). Chips for notebooks are left out, because their makers set how fast they run.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["CHIPS", "Chip", "chip"]


class Chip(NamedTuple):
    """A chip.

    Args:
        names: What torch reports, without a leading 'NVIDIA', which older drivers leave out.
        fp32: TFLOP/s in float32, without TF32, which torch leaves off.
        tf32: TFLOP/s of float32 by TF32; None: it has none.
        bf16: TFLOP/s in bfloat16; None: it has none.
        fp16: TFLOP/s in float16.
        bandwidth: Of its memory, GB/s.
        source: Where this stands.
    """

    names: tuple[str, ...]
    fp32: float
    tf32: float | None
    bf16: float | None
    fp16: float
    bandwidth: float
    source: str


_TURING = "NVIDIA T4 data sheet"
_VOLTA = "NVIDIA V100 data sheet"
_AMPERE = "NVIDIA A100 data sheet"
_HOPPER = "NVIDIA H100 data sheet"
_GRACE = "NVIDIA GH200 data sheet"
_GA102 = "NVIDIA Ampere GA102 white paper"
_ADA = "NVIDIA Ada white paper"
_ADA_PRO = "NVIDIA Ada professional white paper"
_RTX_50 = "NVIDIA RTX Blackwell white paper"

CHIPS: tuple[Chip, ...] = (
    Chip(("GB200",), 80.0, 1250.0, 2500.0, 2500.0, 8000.0, "NVIDIA GB200 NVL72 data sheet"),
    Chip(("B200",), 75.0, 1125.0, 2250.0, 2250.0, 8000.0, "NVIDIA HGX B200 data sheet"),
    Chip(("H200",), 67.0, 494.5, 989.0, 989.0, 4800.0, "NVIDIA H200 data sheet"),
    Chip(("H200 NVL",), 60.0, 417.5, 835.0, 835.0, 4800.0, "NVIDIA H200 data sheet"),
    Chip(("GH200 480GB",), 67.0, 494.5, 989.0, 989.0, 4000.0, _GRACE),
    Chip(("GH200 144G HBM3e",), 67.0, 494.5, 989.0, 989.0, 4900.0, _GRACE),
    Chip(("H100 80GB HBM3",), 67.0, 494.5, 989.0, 989.0, 3350.0, _HOPPER),
    Chip(("H100 NVL",), 60.0, 417.5, 835.0, 835.0, 3900.0, _HOPPER),
    Chip(("H100 PCIe",), 51.0, 378.0, 756.0, 756.0, 2000.0, _HOPPER),
    Chip(("H20",), 44.0, 74.0, 148.0, 148.0, 4000.0, "NVIDIA H20 data sheet"),
    Chip(("A100-SXM4-80GB",), 19.5, 156.0, 312.0, 312.0, 2039.0, _AMPERE),
    Chip(("A100 80GB PCIe",), 19.5, 156.0, 312.0, 312.0, 1935.0, _AMPERE),
    Chip(("A100-SXM4-40GB", "A100-PCIE-40GB"), 19.5, 156.0, 312.0, 312.0, 1555.0, _AMPERE),
    Chip(("A40",), 37.4, 74.8, 149.7, 149.7, 696.0, "NVIDIA A40 data sheet"),
    Chip(("A30",), 10.3, 82.0, 165.0, 165.0, 933.0, "NVIDIA A30 data sheet"),
    Chip(("A10",), 31.2, 62.5, 125.0, 125.0, 600.0, "NVIDIA A10 data sheet"),
    Chip(("A10G",), 35.0, 35.0, 70.0, 70.0, 600.0, "NVIDIA A10G data sheet"),
    Chip(("L40S",), 91.6, 183.0, 362.0, 362.0, 864.0, "NVIDIA L40S data sheet"),
    Chip(("L40",), 90.5, 90.5, 181.0, 181.0, 864.0, "NVIDIA L40 data sheet"),
    Chip(("L4",), 30.3, 60.0, 121.0, 121.0, 300.0, "NVIDIA L4 data sheet"),
    Chip(("Tesla T4",), 8.1, None, None, 65.0, 320.0, _TURING),
    Chip(("Tesla V100-SXM2-16GB", "Tesla V100-SXM2-32GB"), 15.7, None, None, 125.0, 900.0, _VOLTA),
    Chip(("Tesla V100-PCIE-16GB", "Tesla V100-PCIE-32GB"), 14.0, None, None, 112.0, 900.0, _VOLTA),
    Chip(("Tesla V100S-PCIE-32GB",), 16.4, None, None, 130.0, 1134.0, _VOLTA),
    Chip(("Tesla P100-PCIE-16GB",), 9.3, None, None, 18.7, 732.0, "NVIDIA P100 data sheet"),
    Chip(("RTX 6000 Ada Generation",), 91.1, 182.1, 364.2, 364.2, 960.0, _ADA_PRO),
    Chip(("RTX A6000",), 38.7, 77.4, 154.8, 154.8, 768.0, _GA102),
    Chip(("GeForce RTX 5090",), 104.8, 104.8, 209.5, 209.5, 1792.0, _RTX_50),
    Chip(("GeForce RTX 5080",), 56.3, 56.3, 112.6, 112.6, 960.0, _RTX_50),
    Chip(("GeForce RTX 4090",), 82.6, 82.6, 165.2, 165.2, 1008.0, _ADA),
    Chip(("GeForce RTX 4080",), 48.7, 48.7, 97.5, 97.5, 717.0, _ADA),
    Chip(("GeForce RTX 3090 Ti",), 40.0, 40.0, 80.0, 80.0, 1008.0, _ADA),
    Chip(("GeForce RTX 3090",), 35.6, 35.6, 71.0, 71.0, 936.0, _GA102),
    Chip(("AMD Instinct MI300X",), 163.4, 653.7, 1307.4, 1307.4, 5300.0, "AMD Instinct MI300X data sheet"),
)

_BY_NAME = {name: row for row in CHIPS for name in row.names}


def chip(device_name: str) -> Chip | None:
    """Return the row of a chip by the name that `torch.cuda.get_device_name` gives; None if it has none."""
    return _BY_NAME.get(device_name.strip().removeprefix("NVIDIA "))
