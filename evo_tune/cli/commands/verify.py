"""`evo-tune verify`: replay the proposals of a run and compare them with the recorded ones."""

from __future__ import annotations

import click

from evo_tune.cli import shared
from evo_tune.cli.help import cli_command

# Most disagreements to print.
SHOWN = 5


@cli_command("verify", order=70)
@shared.run_argument
@shared.store_option
@shared.evaluator_option
@click.option("--strategy", metavar="PATH", help="New path of the strategy's file, if it has moved.")
@shared.trust_option
@shared.format_option("table", "json")
def command(
    run: str | None, store: str, evaluator: str | None, strategy: str | None, trust: bool, output_format: str
) -> int:
    """Replay the proposals of RUN against the recorded ones.

    Each proposal is made again from the results that were known at the time, and must equal the recorded one.
    """
    from evo_tune.loop import verifying
    from evo_tune.loop.code import load_code
    from evo_tune.store.manifest import space_of

    saved = shared.open_run(run, store)
    manifest = saved.manifest
    bound, rules = load_code(saved, evaluator, trust, shared.ask_function(), strategy)
    differing = verifying.verify(saved, space_of(manifest, bound.space), rules)
    disagreements = [row for row in differing if isinstance(row, verifying.Disagreement)]
    ranges = [row for row in differing if isinstance(row, verifying.RangeDisagreement)]
    changed = verifying.note_of_changed_strategy(manifest, rules.inner)
    notes = ([changed] if changed else []) + (verifying.notes_of_changed_versions(manifest) if differing else [])
    count = len(saved.candidates)
    if output_format == "json":
        verification = verifying.Verification(
            run=saved.name, proposals=count, disagreements=disagreements, ranges=ranges, notes=notes
        )
        shared.print_json(verification)
        return 1 if differing else 0
    if not differing:
        shared.echo(f"{saved.name}: all {count} proposals agree with the recorded ones")
    lines = []
    for row in disagreements[:SHOWN]:
        replayed = shared.show_genome(row.replayed.genome) if row.replayed else "nothing"
        lines += [f"trial {row.id}: recorded {shared.show_genome(row.recorded.genome)}", f"  but replayed {replayed}"]
    for change in ranges[:SHOWN]:
        lines.append(f"before trial {change.before}: recorded {change.recorded or 'no wider range'}")
        lines.append(f"  but replayed {change.replayed or 'no wider range'}")
    if ranges:
        lines.append(f"{saved.name}: {len(ranges)} changes of ranges do not agree")
    if disagreements:
        lines.append(f"{saved.name}: {len(disagreements)} of {count} proposals do not agree")
    shared.echo(*lines, *notes, err=True)
    return 1 if differing else 0
