"""`evo-tune verify`: whether a run's strategy would propose again what is recorded."""

from __future__ import annotations

from pathlib import Path

import click

from evo_tune.cli import _shared as shared
from evo_tune.cli.help import command as made

PLACE = 70


@made("verify")
@shared.run_argument
@shared.store_option
@click.option("--evaluator", metavar="PATH", help="Where the evaluator's file is now, if it has moved.")
@click.option("--strategy", metavar="PATH", help="Where the strategy's file is now, if it has moved.")
@shared.trust_option
@shared.format_option("table", "json")
def command(run: str | None, store: str, evaluator: str | None, strategy: str | None, trust: bool, form: str) -> int:
    """Replay every proposal of RUN; say whether they agree."""
    from evo_tune.loop.code import code_of, place_of
    from evo_tune.loop.replay import Verification, other_strategy, other_versions, verify
    from evo_tune.store.manifest import space_of
    from evo_tune.store.places import find_run
    from evo_tune.store.run import Run

    saved = Run.open(find_run(Path(store), run))
    manifest = saved.manifest
    plugin, rules = code_of(saved, evaluator, trust, shared.asking(), strategy)
    found = verify(saved, space_of(manifest, plugin.space(manifest.options)), rules)
    changed = other_strategy(manifest, place_of(manifest, strategy))
    notes = ([changed] if changed else []) + (other_versions(manifest) if found else [])
    if form == "json":
        shared.print_json(
            Verification(run=saved.name, proposals=len(saved.candidates), disagreements=found, notes=notes)
        )
        return 1 if found else 0
    if not found:
        shared.echo(f"{saved.name}: all {len(saved.candidates)} proposals agree with the recorded ones")
    else:
        for row in found[:5]:
            shared.echo(f"trial {row.id}: recorded {shared.show_genome(row.recorded.genome)}", err=True)
            told = shared.show_genome(row.replayed.genome) if row.replayed else "nothing"
            shared.echo(f"  but replayed {told}", err=True)
        shared.echo(f"{saved.name}: {len(found)} of {len(saved.candidates)} proposals do not agree", err=True)
    for note in notes:
        shared.echo(note, err=True)
    return 1 if found else 0
