"""Find this machine's devices without importing torch, assign slots to them, and describe both for people.

The user's CUDA_VISIBLE_DEVICES is used as it is, UUIDs and MIG ids included. Only if it is unset is nvidia-smi
asked. This module starts no worker.
"""

import math
import os
import platform
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from evo_tune.errors import OptionError
from evo_tune.text import with_plural

# Value of `--per-device`: several slots on each GPU, which share its memory.
AUTO = "auto"

# Maximum number of slots on a GPU under `--per-device auto`, if there are enough CPU cores for them.
MOST = 8

# Share of a GPU's memory that is shared out; a training run adapts to the same share.
USABLE = 0.9


@dataclass(frozen=True)
class Device:
    """A device to pin a worker to.

    Args:
        name: Name in Outcomes: 'cpu', 'cuda:2', 'cuda:MIG-…', 'rocm:0', 'mps'; 'cuda:0+1' for a group of two GPUs.
        visible: Value of CUDA_VISIBLE_DEVICES in the worker.
        inside: Torch's name of the device in the worker, which sees no other GPU; of a group the first.
    """

    name: str
    visible: str
    inside: str = "cuda:0"


CPU = Device("cpu", "", "cpu")
# An AMD GPU: torch calls it cuda, and HIP follows CUDA_VISIBLE_DEVICES too.
ROCM = Device("rocm:0", "0")
# Apple's GPU.
MPS = Device("mps", "", "mps")


@dataclass(frozen=True)
class Plan:
    """The slots to open.

    Args:
        slots: Device of each slot.
        threads: CPU threads of each slot.
        memory: Bytes that the slots of a GPU share (see `packing`), by `Device.visible`; empty if slots have no
            memory limit.
    """

    slots: tuple[Device, ...]
    threads: int
    memory: dict[str, int] = field(default_factory=dict)


def plan(
    slots: int | None = None,
    devices: str | None = None,
    per_device: int | str = 1,
    threads: int | None = None,
    ranks: int = 1,
) -> Plan:
    """Assign slots to devices: `per_device` to each GPU, or one to each core if there is no GPU.

    If a training run has several ranks, each slot has that many GPUs, or cores, for the whole run.

    Args:
        slots: Number of slots (≥ 1), spread over the GPUs; None: all that fit.
        devices: 'cpu', 'cuda', or GPUs by number or id: '0,2'. None uses the GPUs, or else the CPU.
        per_device: Slots on each GPU (≥ 1); 'auto': up to 8 that share its memory, if nvidia-smi reports its size.
        threads: CPU threads of each slot, by default 1. It never depends on the number of slots, because
            the thread count changes floating-point results.
        ranks: Processes of one training run.

    Raises:
        OptionError: A missing device, fewer GPUs than ranks, or more slots than fit on the GPUs.
    """
    chosen = _choose_gpus(devices)
    if not chosen:
        if per_device not in (1, AUTO):
            raise OptionError(f"--per-device {per_device} needs a GPU, and this run uses none: give --slots instead")
        count, threads_each = slots or max(1, cpu_count() // ranks), threads or 1
        return Plan((CPU,) * count, threads_each)
    chosen = chosen if ranks == 1 else _groups(chosen, ranks)
    memory: dict[str, int] = {}
    if not isinstance(per_device, int):
        # Memory that other processes use now is left to them. It changes when training runs start, but no result.
        gpu_facts = query_gpus(device.visible for device in chosen) if ranks == 1 else {}
        for id, gpu in gpu_facts.items():
            if gpu.total is not None:
                memory[id] = max(1, min(int(USABLE * gpu.total), gpu.total if gpu.free is None else gpu.free))
        if not all(device.visible in memory for device in chosen):  # unknown memory cannot be shared
            memory = {}
        fed = cpu_count() // (len(chosen) * (threads or 1))
        per_device = max(1, min(MOST, fed), math.ceil((slots or 1) / len(chosen))) if memory else 1
    room = len(chosen) * per_device
    if slots is not None and slots > room:
        units = "GPU(s)" if ranks == 1 else f"group(s) of {ranks} GPUs"
        raise OptionError(
            f"--slots {slots} is more than {room}, which is {len(chosen)} {units} with {per_device} slot(s) each: "
            "raise --per-device or lower --slots"
        )
    return Plan(tuple(chosen[i % len(chosen)] for i in range(slots or room)), threads or 1, memory)


def _groups(devices: tuple[Device, ...], ranks: int) -> tuple[Device, ...]:
    """Return complete groups of `ranks` GPUs.

    Raises:
        OptionError: There are too few GPUs for a group.
    """
    # CUDA uses only one MIG instance, and NCCL a GPU only once.
    whole = tuple(dict.fromkeys(device for device in devices if not device.visible.startswith("MIG-")))
    groups = [whole[first : first + ranks] for first in range(0, len(whole) - ranks + 1, ranks)]
    if not groups:
        remedy = "give fewer ranks, more GPUs (MIG instances cannot join) or --devices cpu"
        raise OptionError(f"ranks={ranks} wants {ranks} GPUs for each training; this run has {len(whole)}: {remedy}")
    names = ["cuda:" + "+".join(device.name.removeprefix("cuda:") for device in group) for group in groups]
    visible = [",".join(device.visible for device in group) for group in groups]
    return tuple(map(Device, names, visible))


def _choose_gpus(devices: str | None) -> tuple[Device, ...]:
    """Return the GPUs to use; an empty tuple means the CPU."""
    if devices == "cpu":
        return ()
    devices_found, error = find_gpus()
    if devices is None:
        if error:
            used = f"the {len(devices_found)} GPU(s) that it lists" if devices_found else "the CPU"
            warnings.warn(f"{error}; the run uses {used}; mend that, or name what to use by --devices", stacklevel=4)
        return devices_found
    if not devices_found:
        raise OptionError(f"--devices {devices}: {error or no_gpu_reason()}; use --devices cpu")
    if devices == "cuda":
        if error:
            raise OptionError(f"--devices cuda: {error}; mend that, or name the GPUs to use: --devices 0,1")
        return devices_found
    names = [name.strip().removeprefix("cuda:") for name in devices.split(",")]
    by_name = {device.visible: device for device in devices_found}
    by_name |= {device.name.removeprefix("cuda:"): device for device in devices_found}
    for name in names:
        if name not in by_name:
            expected = ", ".join(device.name.removeprefix("cuda:") for device in devices_found)
            why = f" ({error})" if error else ""
            found = f"there is no GPU {name!r}{why}"
            raise OptionError(f"--devices {devices}: {found}; expected cpu, cuda, or some of {expected}")
    return tuple(by_name[name] for name in names)


def no_gpu_reason() -> str:
    """Return the reason why no GPU was found, in one line."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return f"CUDA_VISIBLE_DEVICES={visible!r} hides every GPU"
    if shutil.which("nvidia-smi") is None:
        return "there is no nvidia-smi, so no GPU was found"
    return find_gpus()[1] or "nvidia-smi lists no GPU"


def find_gpus() -> tuple[tuple[Device, ...], str]:
    """Return the GPUs that a worker can be pinned to, and the error of nvidia-smi in one line, '' if it works.

    Each MIG instance is a GPU. With an error, some GPUs may be missing.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        listing, error = list_gpus()
        devices = [Device(*pair) for pair in listing]
        if not devices and os.path.exists("/dev/kfd"):  # AMD's driver
            devices = [ROCM]
        elif not devices and sys.platform == "darwin" and platform.machine() == "arm64":
            devices = [MPS]
        return tuple(devices), error
    devices = []
    for name in (part.strip() for part in visible.split(",")):
        if not re.fullmatch(r"\d+|(GPU|MIG)-.+", name):
            break  # CUDA also ignores everything after an unknown id, such as -1
        devices.append(Device(f"cuda:{name}", name))
    return tuple(devices), ""


# Lowest compute capability that multiplies in bfloat16; `training.fastest_precision` asks torch for the same.
BF16_FROM = (8, 0)


class Facts(NamedTuple):
    """Known facts about a device.

    Args:
        name: Model name; '-' if unknown.
        total: Memory in bytes, of the smallest GPU in a group; None if unknown.
        free: Memory that is free now, bytes; None if unknown.
        precision: Precision that `precision=auto` uses there; '-' if unknown.
    """

    name: str
    total: int | None
    free: int | None
    precision: str


class Inventory(NamedTuple):
    """Known facts about a plan.

    Args:
        facts: Facts about each slot's device.
        why: Reasons for the plan, in lines.
        cards: Planned use of each GPU and the reason, one line each; empty without GPUs.
    """

    facts: tuple[Facts, ...]
    why: tuple[str, ...]
    cards: tuple[str, ...]


def inventory(plan: Plan) -> Inventory:
    """Return facts about a plan's devices and the reasons for the plan."""
    ids = {id for device in plan.slots for id in device.visible.split(",") if device.name.startswith("cuda")}
    gpu_facts = query_gpus(ids)
    facts = {device: _facts(device, gpu_facts) for device in set(plan.slots)}
    gpus = dict.fromkeys(device for device in plan.slots if device != CPU)
    cards = tuple(_use_text(device, facts[device], plan) for device in gpus)
    return Inventory(tuple(facts[device] for device in plan.slots), tuple(_reasons(plan)), cards)


def _use_text(device: Device, facts: Facts, plan: Plan) -> str:
    """Return a line that says how a GPU, or a slot's group of GPUs, would be used."""
    count, shared = plan.slots.count(device), plan.memory.get(device.visible)
    memory = "" if facts.total is None else f", {_gib(facts.total)} GiB"
    name = device.name if facts.name == "-" else f"{device.name} ({facts.name}{memory})"
    if "," in device.visible:
        return f"{name}: one training at a time, on all {device.visible.count(',') + 1} GPUs"
    use = "one training at a time" if count == 1 else f"{count} trainings at once, whatever memory each needs"
    if shared is not None:
        use = f"{with_plural(count, 'slot')} in {_gib(shared)} GiB"
    if facts.total is not None and facts.free is not None and facts.free < USABLE * facts.total:
        use += f"; other processes use {_gib(facts.total - facts.free)} GiB now"
    return f"{name}: {use}"


def _gib(amount: float) -> str:
    return f"{amount / 2**30:.1f}"


def _facts(device: Device, gpu_facts: dict[str, Facts]) -> Facts:
    if device == CPU:
        return Facts("-", None, None, "measured later")
    if not device.name.startswith("cuda"):
        return Facts("-", None, None, "fp32" if device == MPS else "bf16")
    gpus = [gpu_facts[id] for id in device.visible.split(",") if id in gpu_facts]
    least = min(gpus, key=lambda gpu: gpu.total or 0, default=Facts("-", None, None, "-"))
    return least if len(gpus) < 2 else least._replace(name=f"{len(gpus)} x {least.name}")


def _reasons(plan: Plan) -> Iterator[str]:
    yield f"this process may use {with_plural(cpu_count(), 'core')}"
    if plan.slots[0] == CPU:
        yield f"no GPU is used: {no_gpu_reason() if not find_gpus()[0] else 'the CPU was asked for'}"
        yield "one slot per core with one thread each, which is faster than fewer slots with more threads"
    else:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        yield "GPUs as nvidia-smi lists them" if visible is None else f"GPUs by CUDA_VISIBLE_DEVICES={visible}"
        if plan.memory:
            least = min(plan.memory.values()) / 2**30
            yield f"the slots of a GPU share its memory ({least:.1f} GiB or more): a training begins when it fits"
    yield "--devices, --slots, --per-device and --threads change this"


# ---------------------------------------------------------------- the answers of nvidia-smi
# One broken GPU makes nvidia-smi fail or hang. Then the facts about the other GPUs are kept, and the error is reported.

# Message with which nvidia-smi fails if there is a driver but no GPU; it is not an error here.
NO_GPU = "No devices were found"

# Longest run of nvidia-smi in seconds: it is slow with many GPUs and no persistence daemon.
SMI_SECONDS = 15.0


def list_gpus() -> tuple[list[tuple[str, str]], str]:
    """Return name and UUID of each GPU, or of its MIG instances if it is split into them, and the error of nvidia-smi.

    The error is one line, '' if there is none; it may hide more GPUs. UUIDs are used because nvidia-smi numbers GPUs
    along the PCI bus, CUDA by speed.
    """
    text, trouble = _ask("-L")
    gpus: list[tuple[str, str]] = []
    for number, uuid in re.findall(r"^(?:GPU (\d+):|\s*MIG).*\(UUID: ([^)]+)\)", text, re.MULTILINE):
        if not number and gpus and not gpus[-1][1].startswith("MIG"):  # the GPU that is split into these instances
            gpus.pop()
        gpus.append((f"cuda:{number or uuid}", uuid))
    return gpus, trouble


def query_gpus(ids: Iterable[str]) -> dict[str, Facts]:
    """Return facts about GPUs by id (number, UUID or MIG id); unknown ids are omitted."""
    ids_wanted = set(ids)
    rows: dict[str, Facts] = {}  # all GPUs by UUID
    if ids_wanted:
        text, _ = _ask("--query-gpu=uuid,name,memory.total,memory.free,compute_cap", "--format=csv,noheader,nounits")
        for cells in ([cell.strip() for cell in line.split(",")] for line in text.splitlines()):
            if len(cells) == 5:
                uuid, name, total, free, capability = cells
                rows[uuid] = Facts(name, _bytes(total), _bytes(free), _precision(capability))
    one_model = len({gpu.name for gpu in rows.values()}) == 1
    facts: dict[str, Facts] = {}
    for id in ids_wanted:
        if id.isdigit():  # CUDA numbers GPUs of several models by speed, nvidia-smi along the PCI bus
            gpus = list(rows.values())[int(id) :] if one_model else []
        else:
            candidates = _instances() if id.startswith("MIG") else rows.items()
            gpus = [gpu for uuid, gpu in candidates if uuid.startswith(id)]
        if gpus:
            facts[id] = gpus[0]
    return facts


def _bytes(mebibytes: str) -> int | None:
    return int(mebibytes) * 2**20 if mebibytes.isdigit() else None  # '[N/A]' if the GPU uses the machine's memory


def _precision(capability: str) -> str:
    version = capability.split(".")
    if not all(part.isdigit() for part in version):
        return "-"
    return "bf16" if tuple(map(int, version)) >= BF16_FROM else "fp16"


def _instances() -> Iterator[tuple[str, Facts]]:
    """Yield UUID and facts of each MIG instance; its profile gives its memory: 3g.20gb has 20 GB."""
    pattern = r"(MIG \S*?(\d+)gb\S*)\s+Device.*\(UUID: ([^)]+)\)"
    for name, gigabytes, uuid in re.findall(pattern, _ask("-L")[0]):
        yield uuid, Facts(name, int(gigabytes) * 10**9, None, "bf16")  # GPUs below 8.0 have no instances


def _ask(*flags: str) -> tuple[str, str]:
    """Return the output of nvidia-smi and its error in one line; both are '' if it is not installed."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return "", ""
    command = f"nvidia-smi {flags[0]}"
    try:
        process = subprocess.run(
            [program, *flags], capture_output=True, text=True, errors="replace", timeout=SMI_SECONDS
        )
    except subprocess.TimeoutExpired as late:
        output = late.stdout or b""
        text = output.decode(errors="replace") if isinstance(output, bytes) else output
        return text, f"{command} does not answer within {SMI_SECONDS:g} s"
    except OSError as error:
        return "", f"{command} cannot be started: {error.strerror}"
    if not process.returncode or NO_GPU in process.stdout + process.stderr:
        return process.stdout, ""
    lines = [line.strip() for line in (process.stderr + "\n" + process.stdout).splitlines() if "UUID" not in line]
    first_line = next((line for line in lines if line), "and says nothing")
    return process.stdout, f"{command} fails with exit code {process.returncode}: {first_line[:200]}"


# ---------------------------------------------------------------- limits of this process, in a container too


def check_system(system: str = os.name) -> None:
    """Reject a system without process groups and signals, which are needed to kill workers.

    Raises:
        OptionError: The system is not POSIX.
    """
    if system != "posix":
        raise OptionError(f"evo-tune cannot train on this system ({system}): expected Linux; on Windows, use WSL")


def cpu_count() -> int:
    """Return the number of cores that this process may use, by its affinity and a container's quota, rounded up."""
    from joblib import cpu_count as joblib_cpu_count  # slower to import than this module

    return int(joblib_cpu_count())
