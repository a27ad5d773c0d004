"""`evo-tune devices`: what a run would use, and why; with --probe, what is fast there. Starts no training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import click

from evo_tune.cli import _shared as shared
from evo_tune.cli.help import command as made
from evo_tune.errors import RunError

if TYPE_CHECKING:
    from evo_tune.cli.formats import ProbedDevice
    from evo_tune.dispatch import Plan

PLACE = 140


@made("devices")
@click.option("--devices", metavar="LIST", help="'cpu', 'cuda', or GPUs by number: 0,2.")
@shared.per_device_option
@click.option("--slots", type=click.IntRange(min=1), help="Trainings at once.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of one training.")
@click.option("--probe", is_flag=True, help="Time products, attention and memory on each kind of device; loads torch.")
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
    from msgspec import structs

    from evo_tune.cli.formats import Devices, PlannedSlot
    from evo_tune.dispatch import CPU, inventory, plan

    planned = plan(slots, devices, per_device or 1, threads)
    found = inventory(planned)
    timed = _timed(planned.threads) if probe and CPU in planned.slots else None
    probed = _probed(planned) if probe else []
    slots_found = [
        PlannedSlot(
            slot=f"slot {number}",
            device=device.name,
            what=facts.what,
            threads=planned.threads,
            memory=facts.total,
            free=facts.free,
            precision=timed or facts.precision,
        )
        for number, (device, facts) in enumerate(zip(planned.slots, found.facts, strict=True))
    ]
    if form == "json":
        shared.print_json(Devices(slots=slots_found, cards=found.cards, probed=probed, why=found.why))
        return
    rows = [structs.asdict(one) for one in slots_found]
    shared.print_table([{**row, "memory": _gib(row["memory"]), "free": _gib(row["free"])} for row in rows])
    for line in (*found.cards, *found.why):
        shared.echo(line)
    for one in probed:
        _print_probed(one)


def _gib(bytes: int | None) -> str:
    return "-" if bytes is None else f"{bytes / 2**30:.1f} GiB"


def _timed(threads: int) -> str:
    """Return the precision in which this CPU trains faster, with so many threads."""
    import torch

    from evo_tune.training.hardware.probe import fastest_precision

    torch.set_num_threads(threads)
    return fastest_precision("cpu")


def _probed(planned: Plan) -> list[ProbedDevice]:
    """Return the timings of each device of a plan, and what it wants, each in a process that sees no other."""
    import msgspec

    from evo_tune.cli.formats import ProbedDevice
    from evo_tune.dispatch import Device

    once: dict[str, Device] = {device.name: device for device in planned.slots}
    found = []
    for device in once.values():
        if device.inside == "mps":
            continue
        env = {**os.environ, "CUDA_VISIBLE_DEVICES": device.visible}
        command = [sys.executable, "-m", "evo_tune.training.probing.timing", device.inside, str(planned.threads)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise RunError(f"--probe: {device.name} could not be timed ({last}): does torch see it, and is it free?")
        found.append(msgspec.convert({"name": device.name, **json.loads(done.stdout)}, ProbedDevice, strict=False))
    return found


def _print_probed(one: ProbedDevice) -> None:
    timings, wants, known = one.timings, one.wants, one.known or {}
    sides = list(next(iter(timings.products.values())))
    rows = [
        {"GFLOP/s by side": name, **{str(side): f"{speeds[side] / 1e9:,.0f}" for side in sides}}
        for name, speeds in timings.products.items()
    ]
    shared.print_table(rows, title=f"{one.name}: {timings.device}")
    heads = ", ".join(map(str, wants.head_sizes))
    peak = known.get(wants.precision)
    sheet = f" (its data sheet: {1e3 * peak:,.0f} GFLOP/s, {known['bandwidth']:,.0f} GB/s)" if peak else ""
    for line in (
        f"products are fastest in {wants.precision}{sheet}",
        f"widths: multiples of {wants.width}; vocabularies: multiples of {wants.vocabulary}; "
        f"channels of a head: {heads}",
        f"below {wants.batch} tokens a step it idles half of the time or more",
        f"memory: {timings.bandwidth / 1e9:,.1f} GB/s; the smallest operation: {timings.launch * 1e6:.1f} µs",
    ):
        shared.echo(line)
