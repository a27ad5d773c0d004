"""The project of a trial of a run with patches, as a folder: patches applied, values set, and the verdict in a file.

Where git is installed and the user's folder is a git repository, the new folder is one too, with a commit for the
project as it was and one for each patch. Nothing of the project is executed, not even a hook of git.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evo_tune.errors import StoreError
from evo_tune.genome.trial import Candidate, TrialCode
from evo_tune.plugins.command import command_of
from evo_tune.plugins.patches.project import write_copy
from evo_tune.plugins.scripts.processes import Ended
from evo_tune.report.charts.patches import rows
from evo_tune.report.run_data import RunData
from evo_tune.store.run import Run
from evo_tune.text import one_line, show_genome

README = "EVO-TUNE.md"

# Name of the author of commits where the user has told git none.
WHO: Mapping[str, str] = {"NAME": "evo-tune", "EMAIL": "evo-tune@localhost"}

# Variables that would lead git into another repository.
PLACES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")

GIT = ("git", "-c", "core.hooksPath=/dev/null", "-c", "commit.gpgsign=false", "-c", "init.defaultBranch=main")


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
    titles = {patch.name: patch.title for patch in run.patches}
    in_git, count = _is_in_git(), len(code.patches)
    try:
        if in_git:
            _git(target, "init", "-q")
        for step in range(count + 1) if in_git else [count]:
            _write_step(run, TrialCode(code.project, code.patches[:step]), candidate, target)
            if step == count:
                (target / README).write_text(_readme(run, candidate), encoding="utf-8")
            if in_git:
                name = code.patches[step - 1][0] if step else ""
                subject = f"Apply {name}: {titles[name]}" if step else f"Add the project of run {run.name}"
                _git(target, "add", "-A", "-f")
                _git(target, "commit", "-q", "--allow-empty", "-m", one_line(subject, 100))
    except Ended as error:
        raise StoreError(f"cannot export trial {candidate.id}: {error}") from None
    except (OSError, subprocess.SubprocessError) as error:
        raise StoreError(f"cannot write {target}: {one_line(str(error))}; choose another DIR") from None


def _write_step(run: Run, code: TrialCode, candidate: Candidate, target: Path) -> None:
    """Make a folder the project with some patches; its history stays."""
    with tempfile.TemporaryDirectory() as scratch:
        write_copy(run.folder, code, candidate.genome, Path(scratch) / "project")
        for entry in target.iterdir():
            if entry.name != ".git":
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        shutil.copytree(Path(scratch) / "project", target, symlinks=True, dirs_exist_ok=True)


def _is_in_git() -> bool:
    words = ["git", "rev-parse", "--is-inside-work-tree"]
    return shutil.which("git") is not None and subprocess.run(words, capture_output=True, check=False).returncode == 0


def _git(folder: Path, *words: str) -> None:
    """Run git in a folder, as somebody if the user has told it no name."""
    who = {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in WHO.items()}
    named = subprocess.run(["git", "config", "user.email"], capture_output=True, check=False).returncode == 0
    clean = {name: value for name, value in os.environ.items() if name not in PLACES}
    environment = clean if named else {**clean, **who}
    subprocess.run([*GIT, *words], cwd=folder, env=environment, check=True, capture_output=True)


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
