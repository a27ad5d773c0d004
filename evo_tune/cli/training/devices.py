"""The measured speed of devices, and what `evo-tune devices` prints as JSON."""

import json
import os
import subprocess
import sys
from typing import Any

import msgspec
from msgspec import Struct

from evo_tune.dispatch.devices import Plan
from evo_tune.errors import RunError
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


def probe_devices(planned: Plan) -> list[ProbedDevice]:
    """Return the measured speed of each device of a plan. Each device has a process that sees no other one.

    Raises:
        RunError: A device could not be timed.
    """
    probes = []
    for device in {device.name: device for device in planned.slots}.values():
        if device.inside == "mps":
            continue
        env = {**os.environ, "CUDA_VISIBLE_DEVICES": device.visible}
        command = [sys.executable, "-m", "evo_tune.training.hardware.timing", device.inside, str(planned.threads)]
        process = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        if process.returncode:
            last_line = (process.stderr.strip().splitlines() or ["no message"])[-1]
            raise RunError(f"--probe: cannot time {device.name} ({last_line}): does torch see it, and is it free?")
        probes.append(msgspec.convert({"name": device.name, **json.loads(process.stdout)}, ProbedDevice, strict=False))
    return probes
