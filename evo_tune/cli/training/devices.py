"""What `evo-tune devices` prints as JSON."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from evo_tune.training.recipe.hardware.computing import DeviceSizes, Timings


class PlannedSlot(Struct, forbid_unknown_fields=True, kw_only=True):
    """A slot that a run would have.

    Args:
        slot: Name of the slot.
        device: cpu, or the name of a GPU in CUDA's numbering.
        model: Model of the GPU; - on a CPU.
        threads: CPU threads of a training.
        memory: Memory of the device; null if unknown. Unit: bytes.
        free: Free memory of the device; null if unknown. Unit: bytes.
        precision: Precision of a training there, or how it will be found.
    """

    slot: str
    device: str
    model: str
    threads: int
    memory: int | None
    free: int | None
    precision: str


class ProbedDevice(Struct, forbid_unknown_fields=True, kw_only=True):
    """A device whose speed was measured.

    Args:
        name: Name of the device, as slots have it.
        timings: Measured speeds.
        suited: Sizes and precision that suit the device.
        known: Data sheet of the device; null if it is not in the table.
    """

    name: str
    timings: Timings
    suited: DeviceSizes
    known: dict[str, Any] | None


class Devices(Struct, forbid_unknown_fields=True, kw_only=True):
    """The devices that a run would use.

    Args:
        slots: Slots of the run.
        cards: Use of each GPU and its reason, a sentence each.
        probed: Measurements of each device, with --probe.
        why: Reasons for these slots, a sentence each.
    """

    slots: list[PlannedSlot]
    cards: tuple[str, ...]
    probed: list[ProbedDevice]
    why: tuple[str, ...]
