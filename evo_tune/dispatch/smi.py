"""Read facts about a machine's GPUs from nvidia-smi, for a process that does not load torch.

This module decides nothing. One broken GPU makes nvidia-smi fail or hang. Then the facts about the other GPUs are kept,
and the error is reported too.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from typing import NamedTuple

# Message with which nvidia-smi fails if there is a driver but no GPU; it is not an error here.
NO_GPU = "No devices were found"

# Longest run of nvidia-smi in seconds: it is slow with many GPUs and no persistence daemon.
SMI_SECONDS = 15.0


class Gpu(NamedTuple):
    """Facts that nvidia-smi reports about a GPU.

    Args:
        name: Model name.
        total: Memory in bytes; None if not reported.
        free: Memory that is free now, bytes; None if not reported.
        capability: Compute capability, such as '8.0'; None if not reported.
    """

    name: str
    total: int | None
    free: int | None
    capability: str | None


def list_gpus() -> tuple[list[tuple[str, str]], str]:
    """Return name and UUID of each GPU, or of its MIG instances if it is split into them, and the error of nvidia-smi.

    The error is one line, '' if there is none; it may hide more GPUs. UUIDs are used because nvidia-smi numbers GPUs
    along the PCI bus, CUDA by speed.
    """
    text, trouble = _ask("-L")
    gpus: list[tuple[str, str]] = []
    for line in text.splitlines():
        uuid = re.search(r"\(UUID: ([^)]+)\)", line)
        number = re.match(r"GPU (\d+):", line)
        if number and uuid:
            gpus.append((f"cuda:{number[1]}", uuid[1]))
        elif uuid and line.strip().startswith("MIG"):
            if gpus and not gpus[-1][1].startswith("MIG"):  # the GPU that is split into these instances
                gpus.pop()
            gpus.append((f"cuda:{uuid[1]}", uuid[1]))
    return gpus, trouble


def gpu_facts(ids: Iterable[str]) -> dict[str, Gpu]:
    """Return facts about GPUs by id (number, UUID or MIG id); unknown ids are omitted."""
    ids_wanted = set(ids)
    rows: dict[str, Gpu] = {}  # all GPUs by UUID
    if ids_wanted:
        capabilities = {row[0]: row[1] for row in _query("compute_cap")}  # its own query: old drivers do not know it
        for uuid, name, total, free in _query("name", "memory.total", "memory.free"):
            rows[uuid] = Gpu(name, _bytes(total), _bytes(free), capabilities.get(uuid))
    one_model = len({gpu.name for gpu in rows.values()}) == 1
    facts: dict[str, Gpu] = {}
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


def _query(*fields: str) -> Iterator[tuple[str, ...]]:
    """Yield the UUID and the queried fields of each GPU."""
    text, _ = _ask("--query-gpu=" + ",".join(("uuid", *fields)), "--format=csv,noheader,nounits")
    for line in text.splitlines():
        parts = tuple(part.strip() for part in line.split(","))
        if len(parts) == 1 + len(fields):
            yield parts


def _instances() -> Iterator[tuple[str, Gpu]]:
    """Yield UUID and facts of each MIG instance; its profile gives its memory: 3g.20gb has 20 GB."""
    for line in _ask("-L")[0].splitlines():
        mig = re.search(r"(MIG \S*?(\d+)gb\S*)\s+Device.*\(UUID: ([^)]+)\)", line)
        if mig:
            yield mig[3], Gpu(mig[1], int(mig[2]) * 10**9, None, "8.0")  # GPUs below 8.0 have no instances


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
