"""The inbox of a run: genomes that others submit while the run, which holds the lock of the journal, is in progress.

Each submission is a small file in a folder of the run. The run records it as a candidate, then removes the file; the
file's name in the journal says that it was taken. A file may come from a stranger, so only plain values within the
ranges of the run, or the limits to which it widens them, are accepted. Nothing here executes code.
"""

import contextlib
import os
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from evo_tune.errors import SpaceError, StoreError, UsageError, explain_error
from evo_tune.genome.genes import Gene
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.values import Genome, genome_key, space_error_prefix
from evo_tune.genome.widening import WIDENINGS, widen_to_value
from evo_tune.store.events import SOURCE, PatchSubmission, Submission
from evo_tune.store.run import Run
from evo_tune.text import one_line
from evo_tune.trust import safe_files

# Folder of the submissions, inside that of the run.
INBOX = "_inbox"

# Names of submissions: the time in nanoseconds, which orders them, and a random number.
FILE = re.compile(r"\d{20}-[0-9a-f]{16}(?:\.patch)?\.json")

# End of the names of patches.
PATCH = ".patch.json"

# Maximum size of a file in bytes: a patch of 1 MiB, in JSON.
LARGEST = 1 << 22

# Maximum number of submissions that wait.
MOST_WAITING = 10_000


def submit(run: Run, genomes: Sequence[Mapping[str, Any]], source: str) -> list[Genome]:
    """Submit genomes to a run, which may be in progress in another process: all of them, or none if one is refused.

    Args:
        run: The run, as it is now; it need not be open for writing.
        genomes: Values of genes by name; genes without a value have their defaults.
        source: Who proposes them: letters, digits and '._@-'.

    Returns:
        Each genome with all genes, before the evaluator's repair.

    Raises:
        UsageError: The source has another form, or too many submissions wait.
        SpaceError: A genome is not allowed, or was proposed already.
        StoreError: The folder cannot be written.
    """
    _check_source(source)
    if len(genomes) + len(waiting := waiting_files(run)) > MOST_WAITING:
        raise UsageError(f"run {run.name} would have more than {MOST_WAITING} waiting genomes: resume it first")
    space = SearchSpace(None, None, **run.genes)
    owners = {genome_key(candidate.genome): f"trial {candidate.id}" for candidate in reversed(run.candidates)}
    for file in waiting:
        with contextlib.suppress(UsageError, SpaceError, OSError):  # the run refuses it
            if isinstance(submission := read_file(run, file), Submission):
                owners.setdefault(genome_key(complete_genome(run, space, submission.genome)[1]), "a waiting proposal")
    files, complete_genomes = [], []
    for number, genome in enumerate(genomes, 1):
        with space_error_prefix(f"genome {number}") if len(genomes) > 1 else contextlib.nullcontext():
            wider, complete = complete_genome(run, space, genome)
            if owner := owners.get(genome_key(complete)):
                raise SpaceError(f"{owner} has this genome already: expected another one")
            owners[genome_key(complete)] = f"genome {number}"
        values = {name: {**space.genes, **wider}[name].check(value) for name, value in genome.items()}
        files.append((msgspec.json.encode(Submission(source=source, genome=values)), ".json"))
        complete_genomes.append(complete)
    _write_files(run, files)
    return complete_genomes


def submit_patch(run: Run, name: str, text: str, source: str, values: Mapping[str, Any]) -> None:
    """Submit a patch, and after it a genome that switches it on. The run checks both when it takes them.

    Args:
        run: The run, as it is now.
        name: Name of the patch.
        text: Its text.
        source: Who proposes it.
        values: Values of the genome's genes by name; the others have their defaults.

    Raises:
        UsageError: The source has another form.
        StoreError: The folder cannot be written.
    """
    _check_source(source)
    patch = msgspec.json.encode(PatchSubmission(source=source, name=name, text=text))
    genome = msgspec.json.encode(Submission(source=source, genome=dict(values)))
    _write_files(run, [(patch, PATCH), (genome, ".json")])


def _check_source(source: str) -> None:
    if not re.fullmatch(SOURCE, source):
        raise UsageError(f"source {one_line(repr(source), 60)}: expected up to 40 letters, digits and '._@-'")


def complete_genome(run: Run, space: SearchSpace, genome: Mapping[str, Any]) -> tuple[dict[str, Gene], Genome]:
    """Return the genes that must be wider for a submitted genome, by name, and the genome with all genes, repaired.

    Args:
        run: The run, with the limits of its ranges.
        space: Its space with the present ranges.
        genome: Values of genes by name.

    Raises:
        SpaceError: A gene is unknown, or a value is neither in its range nor within the limits of the run.
    """
    if not isinstance(genome, Mapping) or not genome:
        raise SpaceError(f"{one_line(repr(genome), 60)}: expected values by gene: {', '.join(space.genes)}")
    wider: dict[str, Gene] = {}
    for name, gene in space.genes.items():
        with space_error_prefix(f"gene {name}"):
            if name in genome and (wide := widen_to_value(gene, genome[name], run.manifest.limits.get(name))) != gene:
                wider[name] = wide
    if wider and len(run.widened) >= WIDENINGS:
        raise SpaceError(f"the genes of this run were widened {WIDENINGS} times: expected values in {', '.join(wider)}")
    return wider, space.with_genes(wider).check(genome, fill_defaults=True)


def _write_files(run: Run, files: Sequence[tuple[bytes, str]]) -> None:
    """Write a file for each submission, durably; the run sees none before it is whole.

    Args:
        run: The run.
        files: Content of each file, and the end of its name.
    """
    now = time.time_ns()
    with explain_error(StoreError, f"cannot write {run.folder / INBOX}", "mend that and propose again"):
        with safe_files.folder(run.folder, INBOX, make=True) as inbox:
            for number, (text, end) in enumerate(files):
                name = f"{now + number:020d}-{secrets.token_hex(8)}{end}"
                safe_files.replace(inbox, name, text, part=f".{name}.part")
        safe_files.sync_folder(run.folder)


def list_files(run: Run) -> list[str]:
    """Return the names of all files in the inbox that are not hidden, the oldest submission first.

    Raises:
        OSError: The inbox is a link or cannot be read.
    """
    try:
        with safe_files.folder(run.folder, INBOX) as inbox:
            return sorted(name for name in os.listdir(inbox) if not name.startswith("."))
    except FileNotFoundError:
        return []


def waiting_files(run: Run) -> list[str]:
    """Return the names of the submissions that the run has not taken yet; none if the inbox cannot be read."""
    with contextlib.suppress(OSError):
        return [name for name in list_files(run) if FILE.fullmatch(name) and name not in run.submitted_files]
    return []


def read_file(run: Run, name: str) -> Submission | PatchSubmission:
    """Return the submission in a file of the inbox.

    Raises:
        UsageError: It is none.
        OSError: It cannot be read, or it is too large or no regular file.
    """
    if not FILE.fullmatch(name):
        raise UsageError("its name is not that of a submission")
    try:
        data = safe_files.read(run.folder, INBOX, name, limit=LARGEST)
        if name.endswith(PATCH):
            return msgspec.json.decode(data, type=PatchSubmission)
        return msgspec.json.decode(data, type=Submission)
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise UsageError(str(error)) from None


def remove_file(run: Run, name: str) -> None:
    """Remove a submission that was taken or refused, if the disk allows it; other files stay."""
    if FILE.fullmatch(name):
        with contextlib.suppress(OSError), safe_files.folder(run.folder, INBOX) as inbox:
            os.unlink(name, dir_fd=inbox)
