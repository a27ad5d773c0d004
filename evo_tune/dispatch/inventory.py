"""What is known of the devices of a plan, for people. Torch is not asked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from evo_tune.dispatch import smi
from evo_tune.dispatch.devices import CPU, MPS, USABLE, Device, Plan, gpus, none_found
from evo_tune.dispatch.limits import affinity, cpu_count, memory

__all__ = ["Facts", "Inventory", "inventory"]

BF16_FROM = (8, 0)
"""Compute capability from which a GPU multiplies in bfloat16; `training.fastest_precision` asks torch for the same."""

CPUINFO = Path("/proc/cpuinfo")


class Facts(NamedTuple):
    """What is known of a device.

    Args:
        what: Its model; '-' if that is not known.
        total: Its memory, bytes; of several GPUs in one the smallest's.
        free: What nobody holds of it now.
        precision: In which `precision=auto` trains there.
    """

    what: str
    total: int | None
    free: int | None
    precision: str


class Inventory(NamedTuple):
    """What is known of a plan.

    Args:
        facts: Of each slot's device.
        why: How the plan came about, in lines.
        cards: How each GPU would be used and why, a line for each; empty where there is none.
    """

    facts: tuple[Facts, ...]
    why: tuple[str, ...]
    cards: tuple[str, ...]


def inventory(plan: Plan) -> Inventory:
    """Return what is known of a plan's devices and why they were chosen."""
    ids = {id for device in plan.slots for id in device.visible.split(",") if device.name.startswith("cuda")}
    known = smi.look_up(ids)
    facts = {device: _facts(device, known) for device in set(plan.slots)}
    gpus = dict.fromkeys(device for device in plan.slots if device != CPU)
    cards = tuple(_use(device, facts[device], plan) for device in gpus)
    return Inventory(tuple(facts[device] for device in plan.slots), tuple(_why(plan)), cards)


def _use(device: Device, facts: Facts, plan: Plan) -> str:
    """Say how a GPU, or several that are one slot's, would be used and why."""
    count, given = plan.slots.count(device), plan.memory.get(device.visible)
    known = [] if facts.what == "-" else [facts.what]
    known += [] if facts.total is None else [f"{_gib(facts.total)} GiB"]
    name = f"{device.name} ({', '.join(known)})" if known else device.name
    if "," in device.visible:
        return f"{name}: one training at a time, on all {device.visible.count(',') + 1} GPUs"
    if given is None:
        held = facts.total is not None and facts.free is not None and facts.free < USABLE * facts.total
        beside = f"; others hold {_gib(facts.total - facts.free)} GiB of it now" if held else ""  # type: ignore[operator]
        often = "one training at a time" if count == 1 else f"{count} trainings at once, whatever each takes"
        return f"{name}: {often}{beside}"
    ours = facts.total is None or given >= int(USABLE * facts.total)
    rest = f"{USABLE:.0%} of it" if ours else f"what others, who hold {_gib(facts.total - given)} GiB now, leave of it"  # type: ignore[operator]
    slots = "one slot has" if count == 1 else f"{count} slots share out"
    return f"{name}: {slots} {_gib(given)} GiB, {rest}; who waits for room here may go to another card that has it"


def _gib(amount: float) -> str:
    return f"{amount / 2**30:.1f}"


def _facts(device: Device, known: dict[str, smi.Gpu]) -> Facts:
    if device == CPU:
        total, free = memory() or (None, None)
        return Facts("-", total, free, "by a timing")
    if not device.name.startswith("cuda"):
        return Facts("-", None, None, "fp32" if device == MPS else "bf16")
    found = [known[id] for id in device.visible.split(",") if id in known]
    if not found:
        return Facts("-", None, None, "-")
    least = min(found, key=lambda gpu: gpu.total or 0)
    what = least.name if len(found) == 1 else f"{len(found)} x {least.name}"
    return Facts(what, least.total, least.free, _precision(least.capability))


def _precision(capability: str | None) -> str:
    parts = (capability or "").split(".")
    if not all(part.isdigit() for part in parts):
        return "-"
    return "bf16" if tuple(map(int, parts)) >= BF16_FROM else "fp16"


def _why(plan: Plan) -> Iterator[str]:
    cores, seen = cpu_count(), affinity()
    quota = f", of {seen} that its container would show" if cores < seen else ""
    yield f"this process may keep {cores} cores busy{quota}"
    if plan.slots[0] == CPU:
        yield f"no GPU is used: {none_found() if not gpus() else 'the CPU was asked for'}"
        yield "one slot a core, one thread each: many slots of one thread outdo one of many threads"
        yield f"precision: bf16 if a timing at the first training finds it faster{_bf16()}; --probe does it now"
    else:
        given = os.environ.get("CUDA_VISIBLE_DEVICES")
        yield "GPUs as nvidia-smi lists them" if given is None else f"GPUs by CUDA_VISIBLE_DEVICES={given}"
        if plan.memory:
            least = min(plan.memory.values()) / 2**30
            yield f"slots of a GPU share out its memory ({least:.1f} GiB or more): a training begins when it fits"
        yield "precision: bf16 from compute capability 8.0 on, which multiplies in it; fp16 below"
    yield "--devices, --slots, --per-device and --threads change this"


def _bf16() -> str:
    """Say what the processor tells of bfloat16."""
    try:
        words = set(CPUINFO.read_text().split())
    except OSError:
        return ""
    able = sorted(words & {"amx_bf16", "avx512_bf16", "bf16"})
    return f" (this processor has {', '.join(able)})" if able else " (this processor names no instruction for it)"
