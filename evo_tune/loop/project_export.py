"""The project of a trial of a run with patches, as a folder: patches applied, values set, and the verdict in a file.

Nothing of the project is executed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evo_tune.errors import StoreError
from evo_tune.genome.trial import Candidate
from evo_tune.plugins.command import command_of
from evo_tune.plugins.patches.project import write_copy
from evo_tune.plugins.scripts.processes import Ended
from evo_tune.report.charts.patches import rows
from evo_tune.report.run_data import RunData
from evo_tune.store.run import Run
from evo_tune.text import one_line, show_genome

README = "EVO-TUNE.md"


def export_project(run: Run, candidate: Candidate, target: Path) -> None:
    """Write the project of a trial into a new or empty folder.

    Args:
        run: Run with patches.
        candidate: The trial.
        target: The folder.

    Raises:
        StoreError: A file of the run cannot be read, or the folder cannot be written.
    """
    code = run.code_of(candidate.genome)
    assert code is not None
    try:
        write_copy(run.folder, code, candidate.genome, target)
        (target / README).write_text(_readme(run, candidate), encoding="utf-8")
    except (Ended, OSError) as error:
        raise StoreError(f"cannot export trial {candidate.id}: {one_line(str(error))}; choose another DIR") from None


def _readme(run: Run, candidate: Candidate) -> str:
    """Return the README: the command, the genome, and the table of patches."""
    outcome = run.outcomes.get(candidate.id)
    device = outcome.device if outcome else "cpu"
    lines = [
        f"# Trial {candidate.id} of run {_cell(run.name)}",
        f"Patches are applied and values set. Genome: {_cell(show_genome(candidate.genome))}",
        f"    {one_line(command_of(run.manifest.evaluator, candidate, run.manifest.options, device, 1), 4000)}",
        "\n".join(_markdown(rows(RunData(run)))),
        "effect: by how much the best genome is worse without the patch, over fresh seeds, with its standard error.",
    ]
    return "\n\n".join(lines) + "\n"


def _markdown(table: Sequence[Mapping[str, Any]]) -> list[str]:
    names = list(table[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    return lines + ["| " + " | ".join(_cell(row[name]) for name in names) + " |" for row in table]


def _cell(value: object) -> str:
    """Return a value as the cell of a Markdown table."""
    return one_line(str(value)).replace("|", "\\|").replace("<", "&lt;")
