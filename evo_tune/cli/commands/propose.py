"""`evo-tune propose`: submit genomes to a run, which may be in progress."""

from pathlib import Path

import click

from evo_tune.cli import shared
from evo_tune.cli.help import cli_command


@cli_command(
    "propose",
    "evo-tune propose mine 'lr=3e-3 depth=4'  # other genes have their defaults",
    "evo-tune propose mine '{\"lr\": 0.003}' ideas.csv",
    "evo-tune propose mine --patch ideas/muon.patch",
    order=28,
)
@click.argument("run", shell_complete=shared.complete_runs)
@click.argument("genomes", metavar="GENOME|FILE…", nargs=-1)
@click.option("--patch", "patches", multiple=True, metavar="FILE", help="Patch for a run with patches; repeatable.")
@click.option("--source", default="person", show_default=True, metavar="NAME", help="Who proposes them.")
@shared.store_option
def command(
    run: str, genomes: tuple[str, ...], patches: tuple[str, ...], source: str, store: str, output_format: str
) -> None:
    """Propose genomes to RUN: it trains them next.

    A GENOME is 'NAME=VALUE NAME=VALUE' or a JSON object; a FILE has a list of genomes in JSON or CSV. RUN may be in
    progress in another process. If it is not, or is at its limit, the genomes wait for `evo-tune resume`. A value
    outside of a range widens it if the run may do so by itself; `resume --gene` widens others.

    A patch becomes a gene that was off in all earlier trials; the run then trains its best genome with it.
    """
    if not genomes and not patches:
        raise click.UsageError("Missing argument 'GENOME|FILE…' or option '--patch'.")
    from evo_tune.cli.flags import parse_genome, read_genome_file
    from evo_tune.cli.formats import ProposedGenomes
    from evo_tune.loop.proposing import submit_patch_file
    from evo_tune.report.summary import present_beat, resume_command
    from evo_tune.store.inbox import submit, waiting_files

    remedy = f"`evo-tune run … --name {run}` begins it, and its --warm-start trains the genomes of a file first"
    saved = shared.open_run(run, store, remedy)
    submitted = []
    for text in genomes:
        rows = read_genome_file("genomes", Path(text))
        submitted += [parse_genome(text, saved.genes)] if rows is None else rows
    if genomes and not submitted:
        raise click.UsageError(f"No genome in {', '.join(genomes)}: expected at least one.")
    complete = submit(saved, submitted, source) if submitted else []
    names = [submit_patch_file(saved, Path(path), source) for path in patches]
    beat = present_beat(saved)
    result = ProposedGenomes(
        run=saved.name,
        source=source,
        running=beat is not None and beat.alive,
        waiting=len(waiting_files(saved)),
        genomes=complete,
        patches=names,
    )
    lines = [f"proposed: {shared.show_genome(genome)}" for genome in complete]
    lines += [f"proposed: patch {name}, and the best genome with it" for name in names]
    when = "the run trains them next" if result.running else f"`{resume_command(saved)}` trains them first"
    shared.print_json_or_text(output_format, result, *lines, f"{result.waiting} waiting: {when}")
