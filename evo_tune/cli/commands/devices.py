"""`evo-tune devices`: print the slots that a run would have, and with --probe the speed of their devices."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

import click

from evo_tune.cli import shared
from evo_tune.cli.help import cli_command
from evo_tune.errors import RunError

if TYPE_CHECKING:
    from evo_tune.cli.training.devices import ProbedDevice
    from evo_tune.dispatch import Plan

HELP_ORDER = 140


@cli_command("devices")
@click.option("--devices", metavar="LIST", help="Devices to use: 'cpu', 'cuda', or GPUs by number (0,2).")
@shared.per_device_option
@click.option("--slots", type=click.IntRange(min=1), help="Number of trainings at the same time.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of a training.")
@click.option("--probe", is_flag=True, help="Measure the speed of each kind of device with torch.")
@shared.format_option("table", "json")
def command(
    devices: str | None,
    per_device: int | str | None,
    slots: int | None,
    threads: int | None,
    probe: bool,
    output_format: str,
) -> None:
    """Print the slots that a run would have, and why.

    The flags are those of `run`. No training is started. Only --probe loads torch.
    """
    from msgspec import structs

    from evo_tune.cli.training.devices import Devices, PlannedSlot
    from evo_tune.dispatch import CPU, inventory, plan

    planned = plan(slots, devices, per_device or 1, threads)
    device_facts = inventory(planned)
    precision = _fastest_on_cpu(planned.threads) if probe and CPU in planned.slots else None
    devices_json = Devices(
        slots=[
            PlannedSlot(
                slot=f"slot {number}",
                device=device.name,
                model=facts.name,
                threads=planned.threads,
                memory=facts.total,
                free=facts.free,
                precision=precision or facts.precision,
            )
            for number, (device, facts) in enumerate(zip(planned.slots, device_facts.facts, strict=True))
        ],
        cards=device_facts.cards,
        probed=_probe_devices(planned) if probe else [],
        why=device_facts.why,
    )
    if output_format == "json":
        shared.print_json(devices_json)
        return
    shared.print_table(
        [{**structs.asdict(one), "memory": _gib(one.memory), "free": _gib(one.free)} for one in devices_json.slots]
    )
    for line in (*devices_json.cards, *devices_json.why):
        shared.echo(line)
    for one in devices_json.probed:
        _print_probe(one)


def _gib(size: int | None) -> str:
    return "-" if size is None else f"{size / 2**30:.1f} GiB"


def _fastest_on_cpu(threads: int) -> str:
    """Return the precision in which this CPU trains faster."""
    import torch

    from evo_tune.training.hardware.precision import fastest_precision

    torch.set_num_threads(threads)
    return fastest_precision("cpu")


def _probe_devices(planned: Plan) -> list[ProbedDevice]:
    """Return the measured speed of each device of a plan. Each device has a process that sees no other one."""
    import subprocess

    import msgspec

    from evo_tune.cli.training.devices import ProbedDevice

    probes = []
    for device in {device.name: device for device in planned.slots}.values():
        if device.inside == "mps":
            continue
        env = {**os.environ, "CUDA_VISIBLE_DEVICES": device.visible}
        command = [sys.executable, "-m", "evo_tune.training.probing.timing", device.inside, str(planned.threads)]
        process = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        if process.returncode:
            last = (process.stderr.strip().splitlines() or ["no message"])[-1]
            raise RunError(f"--probe: cannot time {device.name} ({last}): does torch see it, and is it free?")
        probes.append(msgspec.convert({"name": device.name, **json.loads(process.stdout)}, ProbedDevice, strict=False))
    return probes


def _print_probe(probe: ProbedDevice) -> None:
    timings, suited, data_sheet = probe.timings, probe.suited, probe.known or {}
    rows = [
        {"GFLOP/s by side": name, **{str(side): f"{speed / 1e9:,.0f}" for side, speed in speeds.items()}}
        for name, speeds in timings.products.items()
    ]
    shared.print_table(rows, title=f"{probe.name}: {timings.device}")
    heads = ", ".join(map(str, suited.head_sizes))
    peak = data_sheet.get(suited.precision)
    sheet = f" (data sheet: {1e3 * peak:,.0f} GFLOP/s, {data_sheet['bandwidth']:,.0f} GB/s)" if peak else ""
    for line in (
        f"fastest precision of products: {suited.precision}{sheet}",
        f"widths: multiples of {suited.width}; vocabularies: multiples of {suited.vocabulary}; head sizes: {heads}",
        f"with fewer than {suited.batch} tokens a step it idles half of the time or more",
        f"memory: {timings.bandwidth / 1e9:,.1f} GB/s; smallest operation: {timings.launch * 1e6:.1f} µs",
    ):
        shared.echo(line)
