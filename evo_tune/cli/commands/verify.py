"""`evo-tune verify`: replay the proposals of a run, compare its files with its journal, and train trials again."""

import dataclasses
from typing import TYPE_CHECKING

import click

from evo_tune.cli import shared
from evo_tune.cli.help import cli_command
from evo_tune.errors import PluginError
from evo_tune.text import one_line, with_plural

if TYPE_CHECKING:
    from evo_tune.loop.verifying import Disagreement, Verification

# Most disagreements to print.
SHOWN = 5


@cli_command("verify", order=70)
@shared.run_argument
@shared.store_option
@shared.evaluator_option
@click.option("--strategy", metavar="PATH", help="New path of the strategy's file, if it has moved.")
@click.option("--retrain", metavar="N", type=shared.COUNT, help="Train N random trials again and compare their values.")
@shared.trust_option
def command(
    run: str | None,
    store: str,
    evaluator: str | None,
    strategy: str | None,
    retrain: int | None,
    trust: bool,
    output_format: str,
) -> int:
    """Check that the proposals and results of RUN are unchanged.

    Each proposal is made again from the results that were known at the time, and must equal the recorded one. The
    journal must be as this machine wrote it, and the other files must agree with it. The exit code is 1 if not. Only
    --retrain trains: without it no script is needed.
    """
    from evo_tune.loop.code import load_code, load_code_to_replay, session_settings_to_trust
    from evo_tune.loop.verifying import verify_run
    from evo_tune.trust.decide import Consent

    saved, user = shared.open_run(run, store), Consent(trust, shared.ask_function())
    try:
        if retrain or evaluator:
            bound, rules = load_code(saved, user, evaluator, strategy)
        else:
            bound, rules = load_code_to_replay(saved, user, strategy)
    except PluginError as error:
        raise PluginError(f"--retrain trains with the code of the run: {error}" if retrain else str(error)) from None
    session = session_settings_to_trust(saved, {}) if retrain else saved.session
    local = {"slots": 1, "per_device": 1, "address": None, "scheduler_file": None}
    if retrain:
        shared.interrupt_on_signals()
    verification = verify_run(saved, bound, rules, retrain or 0, session.with_changes(**local))
    if output_format == "json":
        shared.print_json(verification)
    else:
        shared.echo(*_agreements(verification))
        shared.echo(*_disagreements(verification), *verification.notes, err=True)
    return 0 if verification.agrees else 1


def _agreements(verification: "Verification") -> list[str]:
    """Return what agrees, and what is not known, a line each."""
    row, lines = verification, []
    if row.proposals and not row.disagreements and not row.ranges:
        lines.append(f"all {row.proposals} proposals agree with the recorded ones")
    if row.bound_from is None:
        lines.append("results not bound: version 1.0 wrote the run")
    elif row.bound_from > 1:
        lines.append(f"results not bound up to record {row.bound_from - 1}, which version 1.0 wrote")
    if row.results == "unchanged":
        later = row.records - row.remembered
        more = f"; {with_plural(later, 'later record')} not known here" if later else ""
        lines.append(f"results unchanged since this machine last wrote the run ({row.remembered} records){more}")
    elif row.results == "not known here":
        lines.append("results not known here: this machine has not written the run")
    if row.files is None:
        lines.append("files not compared: the last session has not ended, and resume writes them again")
    elif not row.files:
        lines.append("files agree with the journal")
    if row.retrained and all(value.retrained == value.recorded for value in row.retrained):
        trials = with_plural(len({value.id for value in row.retrained}), "trial")
        lines.append(f"{trials} trained again, with the same values")
    return [*(f"{row.run}: {line}" for line in lines), f"not detected: {row.undetected}"]


def _show_difference(row: "Disagreement") -> tuple[str, str]:
    """Return the recorded and the replayed genome, or what else differs if the genomes are equal."""
    if row.replayed is None:
        return shared.show_genome(row.recorded.genome), "nothing"
    old, new = (dataclasses.asdict(proposal) for proposal in (row.recorded, row.replayed))
    name = next((name for name in old if old[name] != new[name]), "genome")
    show = shared.show_genome if name == "genome" else lambda value: f"{name} {one_line(str(value or 'none'), 300)}"
    return show(old[name]), show(new[name])


def _disagreements(verification: "Verification") -> list[str]:
    """Return what does not agree, a line each."""
    row, lines = verification, []
    for proposal in row.disagreements[:SHOWN]:
        recorded, replayed = _show_difference(proposal)
        lines += [f"trial {proposal.id}: recorded {recorded}", f"  but replayed {replayed}"]
    for change in row.ranges[:SHOWN]:
        lines.append(f"before trial {change.before}: recorded {change.recorded or 'no wider range'}")
        lines.append(f"  but replayed {change.replayed or 'no wider range'}")
    if row.ranges:
        lines.append(f"{row.run}: {len(row.ranges)} changes of ranges do not agree")
    if row.disagreements:
        lines.append(f"{row.run}: {len(row.disagreements)} of {row.proposals} proposals do not agree")
    if row.results == "changed":
        lines.append(f"{row.run}: results changed since this machine last wrote the run")
    if row.broken_at is not None:
        lines.append(f"{row.run}: record {row.broken_at} does not follow: one was changed, removed or moved before it")
    lines += [f"{row.run}: {file.file} does not agree: {file.difference}" for file in row.files or ()]
    for value in row.retrained:
        if value.retrained != value.recorded:
            new_value = "no value" if value.retrained is None else value.retrained
            lines.append(f"trial {value.id}: recorded {value.metric} {value.recorded}, trained again {new_value}")
    return lines
