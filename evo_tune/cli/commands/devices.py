"""`evo-tune devices`: what a run would use, and why. Starts nothing."""

from __future__ import annotations

from typing import Any

import click

from evo_tune.cli import _shared as shared
from evo_tune.cli.help import command as made

PLACE = 140


@made("devices")
@click.option("--devices", metavar="LIST", help="'cpu', 'cuda', or GPUs by number: 0,2.")
@shared.per_device_option
@click.option("--slots", type=click.IntRange(min=1), help="Trainings at once.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of one training.")
@click.option("--probe", is_flag=True, help="Time a CPU's precisions now, as the first training would; loads torch.")
@shared.format_option("table", "json")
def command(
    devices: str | None,
    per_device: int | str | None,
    slots: int | None,
    threads: int | None,
    probe: bool,
    form: str,
) -> None:
    """Print what a run with these flags would use, and why.

    Nothing is started, and torch is not loaded but by --probe.
    """
    from evo_tune.dispatch import CPU, inventory, plan

    planned = plan(slots, devices, per_device or 1, threads)
    found = inventory(planned)
    timed = _timed(planned.threads) if probe and CPU in planned.slots else None
    rows: list[dict[str, Any]] = []
    for number, (device, facts) in enumerate(zip(planned.slots, found.facts, strict=True)):
        row = {"slot": f"slot {number}", "device": device.name, "what": facts.what, "threads": planned.threads}
        rows.append({**row, "memory": facts.total, "free": facts.free, "precision": timed or facts.precision})
    if form == "json":
        shared.print_json({"slots": rows, "why": found.why})
        return
    shared.print_table([{**row, **{name: _gib(row[name]) for name in ("memory", "free")}} for row in rows])
    for line in found.why:
        shared.echo(line)


def _gib(bytes: int | None) -> str:
    return "-" if bytes is None else f"{bytes / 2**30:.1f} GiB"


def _timed(threads: int) -> str:
    """Return the precision in which this CPU trains faster, with so many threads."""
    import torch

    from evo_tune.training.hardware.probe import fastest_precision

    torch.set_num_threads(threads)
    return fastest_precision("cpu")
