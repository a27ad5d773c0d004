"""`evo-tune devices`: print the slots that a run would have, and with --probe the speed of their devices."""

from typing import Any

import click

from evo_tune.cli import shared
from evo_tune.cli.help import cli_command


@cli_command("devices", order=140)
@click.option("--devices", metavar="LIST", help="Devices to use: 'cpu', 'cuda', or GPUs by number (0,2).")
@shared.per_device_option
@click.option("--slots", type=shared.COUNT, help="Number of trainings at the same time.")
@click.option("--threads", type=shared.COUNT, help="CPU threads of a training.")
@click.option("--probe", is_flag=True, help="Measure the speed of each kind of device with torch.")
def command(probe: bool, output_format: str, **flags: Any) -> None:
    """Print the slots that a run would have, and why.

    The flags are those of `run`. No training is started. Only --probe loads torch.
    """
    from msgspec import structs

    from evo_tune.cli.training.devices import Devices, PlannedSlot, probe_devices
    from evo_tune.dispatch.devices import inventory, plan

    planned = plan(**{name: value for name, value in flags.items() if value is not None})
    device_inventory = inventory(planned)
    result = Devices(
        slots=[
            PlannedSlot(
                slot=f"slot {number}",
                device=device.name,
                model=facts.name,
                threads=planned.threads,
                memory=facts.total,
                free=facts.free,
                precision=facts.precision,
            )
            for number, (device, facts) in enumerate(zip(planned.slots, device_inventory.facts, strict=True))
        ],
        cards=device_inventory.cards,
        probed=probe_devices(planned) if probe else [],
        why=device_inventory.why,
    )
    if output_format == "json":
        shared.print_json(result)
        return
    rows = [structs.asdict(slot) for slot in result.slots]
    for row in rows:
        for name in ("memory", "free"):
            row[name] = "-" if row[name] is None else f"{row[name] / 2**30:.1f} GiB"
    shared.print_rows(rows, "table")
    shared.echo(*result.cards, *result.why)
    for device_probe in result.probed:
        timings, suited, data_sheet = device_probe.timings, device_probe.suited, device_probe.known or {}
        speed_rows = [
            {"GFLOP/s by side": name, **{str(side): f"{speed / 1e9:,.0f}" for side, speed in speeds.items()}}
            for name, speeds in timings.products.items()
        ]
        shared.print_rows(speed_rows, "table", f"{device_probe.name}: {timings.device}")
        heads, peak = ", ".join(map(str, suited.head_sizes)), data_sheet.get(suited.precision)
        sheet = f" (data sheet: {1e3 * peak:,.0f} GFLOP/s, {data_sheet['bandwidth']:,.0f} GB/s)" if peak else ""
        shared.echo(
            f"fastest precision of products: {suited.precision}{sheet}",
            f"widths: multiples of {suited.width}; vocabularies: multiples of {suited.vocabulary}; head sizes: {heads}",
            f"with fewer than {suited.batch} tokens a step it idles half of the time or more",
            f"memory: {timings.bandwidth / 1e9:,.1f} GB/s; smallest operation: {timings.launch * 1e6:.1f} µs",
        )
