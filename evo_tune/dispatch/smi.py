"""What nvidia-smi knows of a machine's GPUs, for a process that does not load torch. Decides nothing.

One broken card makes nvidia-smi fail or hang: what it says of the others is kept, and what is wrong is told as well.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from typing import NamedTuple

__all__ = ["Gpu", "Listing", "listed", "look_up"]

NO_GPU = "No devices were found"
"""What nvidia-smi says, failing, where its driver is and no GPU: nothing is wrong then."""

SMI_SECONDS = 15.0
"""How long nvidia-smi may take: seconds on a machine of many GPUs without the persistence daemon."""


class Gpu(NamedTuple):
    """What nvidia-smi knows of a GPU.

    Args:
        name: Its model.
        total: Its memory, bytes; None if it does not say.
        free: What nobody holds of it now.
        capability: Its compute capability: '8.0'.
    """

    name: str
    total: int | None
    free: int | None
    capability: str | None


class Listing(NamedTuple):
    """The GPUs of this machine.

    Args:
        gpus: Name and UUID of each.
        trouble: Why there may be more, in a line; '' if nothing is wrong.
    """

    gpus: tuple[tuple[str, str], ...]
    trouble: str


def listed() -> Listing:
    """Return name and UUID of each GPU; one that is cut into MIG instances gives those.

    By UUID, since nvidia-smi counts along the PCI bus, CUDA by speed.
    """
    text, trouble = _ask("-L")
    return Listing(tuple(_listed(text)), trouble)


def _listed(text: str) -> Iterator[tuple[str, str]]:
    whole: tuple[str, str] | None = None
    for line in text.splitlines():
        uuid = re.search(r"\(UUID: ([^)]+)\)", line)
        number = re.match(r"GPU (\d+):", line)
        if number and uuid:
            if whole:
                yield whole
            whole = (f"cuda:{number[1]}", uuid[1])
        elif uuid and line.strip().startswith("MIG"):
            whole = None
            yield f"cuda:{uuid[1]}", uuid[1]
    if whole:
        yield whole


def look_up(ids: Iterable[str]) -> dict[str, Gpu]:
    """Return what is known of GPUs, by number, UUID or MIG id; of those that are known."""
    wanted = set(ids)
    rows = _rows() if wanted else {}
    found = {id: _look_up_one(id, rows) for id in wanted}
    return {id: gpu for id, gpu in found.items() if gpu is not None}


def _look_up_one(id: str, rows: dict[str, Gpu]) -> Gpu | None:
    if id.isdigit():  # CUDA numbers GPUs of several models by speed, nvidia-smi along the PCI bus
        same = len({gpu.name for gpu in rows.values()}) == 1
        return list(rows.values())[int(id)] if same and int(id) < len(rows) else None
    known = _instances() if id.startswith("MIG") else rows.items()
    return next((gpu for uuid, gpu in known if uuid.startswith(id)), None)


def _rows() -> dict[str, Gpu]:
    """Return every GPU by UUID."""
    capabilities = {row[0]: row[1] for row in _query("compute_cap")}  # apart: older drivers do not know it
    return {
        uuid: Gpu(name, _bytes(total), _bytes(free), capabilities.get(uuid))
        for uuid, name, total, free in _query("name", "memory.total", "memory.free")
    }


def _bytes(mebibytes: str) -> int | None:
    return int(mebibytes) * 2**20 if mebibytes.isdigit() else None  # '[N/A]' where it is the machine's own


def _query(*fields: str) -> Iterator[tuple[str, ...]]:
    """Yield UUID and fields of each GPU."""
    text, _ = _ask("--query-gpu=" + ",".join(("uuid", *fields)), "--format=csv,noheader,nounits")
    for line in text.splitlines():
        parts = tuple(part.strip() for part in line.split(","))
        if len(parts) == 1 + len(fields):
            yield parts


def _instances() -> Iterator[tuple[str, Gpu]]:
    """Yield UUID and what is known of each MIG instance; its profile tells its memory: 3g.20gb."""
    for line in _ask("-L")[0].splitlines():
        mig = re.search(r"(MIG \S*?(\d+)gb\S*)\s+Device.*\(UUID: ([^)]+)\)", line)
        if mig:
            yield mig[3], Gpu(mig[1], int(mig[2]) * 10**9, None, "8.0")  # no GPU of less has instances


def _ask(*flags: str) -> tuple[str, str]:
    """Return what nvidia-smi answers, and what is wrong, in a line: '' where it is not installed."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return "", ""
    command = f"nvidia-smi {flags[0]}"
    try:
        asked = subprocess.run([program, *flags], capture_output=True, text=True, errors="replace", timeout=SMI_SECONDS)
    except subprocess.TimeoutExpired as late:
        told = late.stdout or b""
        text = told.decode(errors="replace") if isinstance(told, bytes) else told
        return text, f"{command} does not answer within {SMI_SECONDS:g} s"
    except OSError as error:
        return "", f"{command} cannot be started: {error.strerror}"
    if not asked.returncode or NO_GPU in asked.stdout + asked.stderr:
        return asked.stdout, ""
    lines = [line.strip() for line in (asked.stderr + "\n" + asked.stdout).splitlines() if "UUID" not in line]
    said = next((line for line in lines if line), "and says nothing")
    return asked.stdout, f"{command} fails with exit code {asked.returncode}: {said[:200]}"
