"""A patch of a project as genes: its file with its head, and the patches of a saved run.

A `*.patch` or `*.diff` file is a unified diff. Its name makes the gene that switches it on. Lines before the first
change may say `# title:`, `# requires:` and `# excludes:`. A placeholder in an added line, `{momentum=log(0.8,0.99)}`,
is a gene that is active only if the patch is on. A run keeps a copy of each text, named by its SHA-256. This module
executes nothing, and knows neither the project nor which patches go together.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from evo_tune.errors import PluginError, SpaceError, explain_error
from evo_tune.genome.genes import Gene
from evo_tune.genome.notation import parse_gene
from evo_tune.genome.switches import SWITCH
from evo_tune.genome.values import Genome
from evo_tune.plugins.patches.diff import FileChange, parse_diff
from evo_tune.text import one_line
from evo_tune.trust import safe_files

# Folder of a run with the texts of its patches and the files of its project, each named by its SHA-256.
CODE_FOLDER = "_code"

# Maximum bytes of a patch, and maximum number of patches of a run and of placeholders of a patch.
LARGEST, MOST, MOST_PLACEHOLDERS = 1 << 20, 200, 100

SUFFIXES = (".patch", ".diff")

# A placeholder with the values of its gene. Braces with other contents are left alone: they are code.
PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)=((?:log|float|int|choice|ordered)\([^{}\n]*|[^{}\n|(]+(?:\|[^{}\n|]+)+)\}")

HEAD = re.compile(r"#\s*(title|requires|excludes)\s*:(.*)")


@dataclass(frozen=True)
class Patch:
    """A patch of a project.

    Args:
        name: Name of its file, without suffix.
        gene: Name of the gene that switches it on: its name as an identifier.
        title: Line for people; by default its name.
        text: Its whole text, head included.
        requires: Names of patches without which it is off.
        excludes: Names of patches with which it is off.
        genes: Genes of its placeholders by name, each active only if the patch is on.
    """

    name: str
    gene: str
    title: str
    text: str
    requires: tuple[str, ...]
    excludes: tuple[str, ...]
    genes: Mapping[str, Gene]

    @property
    def hash(self) -> str:
        """SHA-256 of its text."""
        return text_hash(self.text)

    @cached_property
    def changes(self) -> tuple[FileChange, ...]:
        """The changes that it makes to files, in the order of its text."""
        return parse_diff(self.name, self.text)

    @property
    def space(self) -> dict[str, Gene]:
        """All of its genes by name: the one that switches it on, off by default, and those of its placeholders."""
        return {self.gene: SWITCH, **self.genes}

    def fill(self, text: str, genome: Genome) -> str:
        """Return a text with the genome's values in place of this patch's placeholders."""

        def value_of(match: re.Match[str]) -> str:
            return str(genome[match[1]]) if match[1] in self.genes else match[0]

        return PLACEHOLDER.sub(value_of, text)


def text_hash(text: str | bytes) -> str:
    """Return the SHA-256 of a text."""
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()


def parse_patch(name: str, text: str) -> Patch:
    """Return the patch in a text.

    Args:
        name: Name of its file, without suffix.
        text: Content of the file.

    Raises:
        PluginError: The name makes no gene, or the text is no patch that can be applied safely.
    """
    gene = re.sub(r"\W", "_", name)
    gene = f"p{gene}" if gene[:1].isdigit() else gene
    if not gene.isidentifier() or not gene.isascii() or len(name) > 100 or one_line(name) != name:
        raise PluginError(f"patch {one_line(repr(name), 120)}: expected a name of at most 100 letters, digits, _ and -")
    heads: dict[str, list[str]] = {"title": [], "requires": [], "excludes": []}
    for line in text.splitlines():
        if line.startswith(("diff ", "--- ", "Index: ")):
            break
        if head := HEAD.fullmatch(line.strip()):
            heads[head[1]].append(head[2].strip())
    requires, excludes = (_names(heads[key]) for key in ("requires", "excludes"))
    title = one_line(" ".join(heads["title"]), 120) or name
    patch = Patch(name, gene, title, text, requires, excludes, {})
    patch.changes  # noqa: B018  (raises an error for a text that is no patch)
    return replace(patch, genes=_placeholder_genes(patch))


def _names(values: list[str]) -> tuple[str, ...]:
    """Return the names of patches in heads, without the suffixes of their files."""
    names = (name for value in values for name in re.split(r"[,\s]+", value) if name)
    return tuple(dict.fromkeys(re.sub(r"\.(patch|diff)\Z", "", name) for name in names))


def _placeholder_genes(patch: Patch) -> dict[str, Gene]:
    genes: dict[str, Gene] = {}
    for number, line in enumerate(patch.text.split("\n"), 1):
        for match in PLACEHOLDER.finditer(line) if line.startswith("+") and not line.startswith("+++ ") else ():
            place = f"patch {patch.name}, line {number}"
            try:
                gene = parse_gene(match[1], match[2])
                if gene.when is not None:
                    raise SpaceError("it is active with its patch: leave 'when' out")
                gene = replace(gene, when={patch.gene: [True]})  # type: ignore[type-var]
            except SpaceError as error:
                raise PluginError(f"{place}: {str(error).removeprefix('--gene ')}") from None
            if match[1] == patch.gene or genes.setdefault(match[1], gene) != gene:
                raise PluginError(f"{place}: {{{match[1]}}} is another gene already: give it another name")
            if len(genes) > MOST_PLACEHOLDERS:
                raise PluginError(f"{place}: expected at most {MOST_PLACEHOLDERS} placeholders: make several patches")
    return genes


def read_patch_file(path: Path) -> Patch:
    """Return the patch in a file of the user.

    Raises:
        PluginError: The file cannot be read, is too large, or is no patch.
    """
    if path.suffix not in SUFFIXES:
        raise PluginError(f"{path}: expected a file whose name ends in .patch or .diff")
    with explain_error(PluginError, str(path), f"expected a patch of at most {LARGEST} bytes"):
        real = path.resolve()  # the user's own link
        data = safe_files.read(real.parent, real.name, limit=LARGEST)
    try:
        return parse_patch(path.stem, data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise PluginError(f"{path}: byte {error.start} is not UTF-8: a patch is text") from None


def read_patch_folder(folder: Path) -> tuple[Patch, ...]:
    """Return the patches in a folder of the user, in the order of their names.

    Raises:
        PluginError: The folder has no patch or too many, one of them is none, or two have the same gene.
    """
    with explain_error(PluginError, f"--patches {folder}", "expected a folder with *.patch files"):
        files = sorted((path for path in folder.iterdir() if path.suffix in SUFFIXES), key=lambda path: path.stem)
    if not 0 < len(files) <= MOST:
        raise PluginError(f"--patches {folder}: {len(files)} files *.patch or *.diff: expected 1 to {MOST}")
    return tuple(map(read_patch_file, files))


def read_patches(run_folder: Path, hashes: Mapping[str, str]) -> tuple[Patch, ...]:
    """Return patches of a saved run, from the copies in its folder.

    Args:
        run_folder: Folder of the run.
        hashes: SHA-256 of each text by the patch's name, as the run records them (`Run.patch_hashes`).

    Raises:
        PluginError: A copy is missing, or its content is not that of its hash.
    """
    return tuple(parse_patch(name, read_code(run_folder, hash).decode()) for name, hash in sorted(hashes.items()))


def read_code(run_folder: Path, hash: str) -> bytes:
    """Return the file of a run's code with a SHA-256, which is checked.

    Raises:
        PluginError: The file is missing, cannot be read, or has another content.
    """
    place = run_folder / CODE_FOLDER / one_line(hash, 80)
    with explain_error(PluginError, str(place), "restore it from a copy of the run"):
        data = safe_files.read(run_folder, CODE_FOLDER, hash, limit=1 << 26)
    if text_hash(data) != hash:
        raise PluginError(f"{place} has changed: restore it from a copy of the run")
    return data
