"""The project that patches change: its files when the run began, and each trial's training in a clean copy of them.

The project is the folder where evo-tune was started. Files of code are copied into the run, named by their SHA-256, so
that later edits of the user change no trial. Data are linked. Every file is checked when a trial's copy is made, as a
training could have changed it. Links of the project lead to where they led.
"""

import contextlib
import hashlib
import os
import shutil
import stat
import subprocess
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from evo_tune.errors import OptionError, PluginError, explain_error
from evo_tune.genome.trial import Objective, TrialCode
from evo_tune.genome.values import Genome
from evo_tune.plugins.context import Context
from evo_tune.plugins.patches import CODE_FOLDER, Patch, parse_patch, read_code, read_patch_folder, text_hash
from evo_tune.plugins.patches.combining import PatchSet
from evo_tune.plugins.patches.diff import checked_path
from evo_tune.plugins.scripts.processes import Ended
from evo_tune.plugins.scripts.script import TRIAL_PLACEHOLDERS, CommandTemplate, Script
from evo_tune.text import one_line
from evo_tune.trust import safe_files

# Suffixes of files by which a folder counts as code. Other folders are data: they are linked.
CODE_SUFFIXES = frozenset(
    ".py .pyx .sh .toml .yaml .yml .cfg .ini .c .cc .cpp .cu .cuh .h .hpp .jl .r .rs .go .js .ts .lua".split()  # noqa: SIM905
)

# Maximum bytes of a file that counts as code, and maximum number and bytes of all of them.
LARGEST, MOST, LARGEST_SUM = 1 << 20, 5000, 1 << 26

# Maximum number of files that are looked at in a folder before it counts as data.
MOST_LOOKS = 20_000

# Folders that are never part of the project.
SKIPPED = frozenset({".git", "__pycache__"})


class Listing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The files of a project, by path from its folder.

    Args:
        files: SHA-256 of each file of code.
        executable: Paths of those that can be executed.
        links: Target of each link: data of the user, or another path of the project.
        protect: Paths of files and folders that no trial may change.
        protected: SHA-256 of each file of these.
    """

    files: dict[str, str]
    executable: list[str]
    links: dict[str, str]
    protect: list[str]
    protected: dict[str, str]


@dataclass(frozen=True)
class Project:
    """A project with the content of its files.

    Args:
        listing: Its files.
        contents: Content of each file of code by SHA-256, and that of its listing.
        hash: SHA-256 of the listing.
    """

    listing: Listing
    contents: Mapping[str, bytes] = field(repr=False)
    hash: str

    def read_lines(self, path: str) -> tuple[str, ...] | None:
        """Return the lines of a file of code, with their line ends; None if there is no such file."""
        if path not in self.listing.files:
            return None
        *lines, last = self.contents[self.listing.files[path]].decode("utf-8", "surrogateescape").split("\n")
        return (*(f"{line}\n" for line in lines), *([last] if last else []))


@dataclass(frozen=True)
class PatchedCode:
    """The project and the patches of a new run.

    Args:
        project: The project.
        patches: The patches.
        allow: Whether patches that others propose may join the run.
    """

    project: Project
    patches: PatchSet
    allow: bool

    def save(self, run_folder: Path) -> None:
        """Write the copies of all files and patches into the folder of a run, durably."""
        texts = (patch.text.encode() for patch in self.patches.patches)
        save_code(run_folder, [*self.project.contents.values(), *texts])


def prepare_code(
    folder: Path | None, protect: Sequence[str], allow: bool, store: Path, command: str, genes: Collection[str]
) -> PatchedCode:
    """Read the patches of a new run and the project in the working directory, without changing anything.

    Args:
        folder: Folder with the patches; None to begin without any.
        protect: Paths of files and folders that no trial may change.
        allow: Whether patches that others propose may join the run.
        store: Folder of the saved runs.
        command: Command of the run, without 'command:'.
        genes: Names of the user's own genes.

    Raises:
        PluginError: The project cannot be copied, or a patch cannot be used.
        OptionError: The command names a file of the project by its absolute path.
    """
    root = Path.cwd()
    for word in CommandTemplate(command).words:
        if os.path.isabs(word) and Path(word).resolve().is_relative_to(root.resolve()) and os.path.isfile(word):
            remedy = f"write {os.path.relpath(word, root)}, which is found in the copy of each trial"
            raise OptionError(f"the command names {word}, which no patch would change: {remedy}")
    patches = () if folder is None else read_patch_folder(folder)
    project = scan_project(root, {change.path for patch in patches for change in patch.changes}, protect, store)
    names = {*genes, *CommandTemplate(command).names, *TRIAL_PLACEHOLDERS, "repair", "optional"}
    return PatchedCode(project, make_patch_set(patches, project, names), allow)


def make_patch_set(patches: Iterable[Patch], project: Project, other_genes: Collection[str] = ()) -> PatchSet:
    """Return the set of some patches of a project; see `PatchSet`."""
    listing = project.listing
    return PatchSet(patches, project.read_lines, listing.protect, listing.links, other_genes)


def scan_project(root: Path, patched: Collection[str], protect: Sequence[str], store: Path) -> Project:
    """Read a project, without changing anything.

    Args:
        root: Folder of the project.
        patched: Paths of files that patches change: they are copied, whatever their size.
        protect: Paths of files and folders that no trial may change.
        store: Folder of the saved runs, which is left out.

    Raises:
        PluginError: It has too many files, one cannot be read, or a protected path does not exist.
    """
    root = root.resolve()
    files, links, executable, contents = dict[str, str](), dict[str, str](), list[str](), dict[str, bytes]()
    for path, target in _entries(root, frozenset(patched), store.resolve()):
        if target is not None:
            links[path] = target
            continue
        with explain_error(PluginError, f"cannot read {path} of the project"):
            data, mode = (root / path).read_bytes(), (root / path).stat().st_mode
        files[path] = text_hash(data)
        contents[files[path]] = data
        if mode & stat.S_IXUSR:
            executable.append(path)
        if len(files) > MOST or sum(map(len, contents.values())) > LARGEST_SUM:
            raise PluginError(
                f"the project {root} has more than {MOST} files of code or {LARGEST_SUM >> 20} MB: start evo-tune in "
                "the folder of the training"
            )
    names = [os.path.normpath(name) for name in protect]
    for name in names:
        if os.path.isabs(name) or name.split("/")[0] in ("..", ".") or not (root / name).exists():
            raise PluginError(f"--protect {one_line(name, 80)}: expected an existing path below the project's folder")
    listing = Listing(files, executable, links, names, _protected_hashes(root, names))
    data = msgspec.json.encode(listing)
    return Project(listing, {**contents, text_hash(data): data}, text_hash(data))


def _entries(root: Path, patched: frozenset[str], store: Path) -> Iterator[tuple[str, str | None]]:
    """Yield the path of each file, and the target if it is linked; None for a file of code."""
    in_git = _code_in_git(root)
    folders = {str(parent) for path in {*(in_git or ()), *patched} for parent in PurePosixPath(path).parents}
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        for entry in sorted(os.scandir(root / folder), key=lambda entry: entry.name):
            path, real = f"{folder}{entry.name}", root / folder / entry.name
            if entry.name in SKIPPED or real == store:
                continue
            if entry.is_symlink():
                text = os.readlink(real)
                target = os.path.realpath(real)
                is_inside = not os.path.isabs(text) and Path(target).is_relative_to(root)
                yield path, text if is_inside else target
            elif entry.is_dir():
                if path in folders or (in_git is None and not entry.name.startswith(".") and _has_code(real)):
                    waiting.append(f"{path}/")
                else:
                    yield path, str(real)
            elif entry.is_file():
                yield path, None if path in patched or entry.stat().st_size <= LARGEST else str(real)


def _code_in_git(root: Path) -> frozenset[str] | None:
    """Return the files of code of a git repository that it does not ignore; None if the folder is in none."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        # A repository may name a program that git starts to look for changes.
        command = ["git", "-c", "core.fsmonitor=false", "-C", str(root), "ls-files", "-z"]
        command += ["--cached", "--others", "--exclude-standard"]
        output = subprocess.run(command, capture_output=True, check=True, stdin=subprocess.DEVNULL, timeout=60).stdout
        names = frozenset(os.fsdecode(name) for name in output.split(b"\0"))
        return frozenset(name for name in names if Path(name).suffix in CODE_SUFFIXES) or None  # an ignored folder
    return None


def _has_code(folder: Path) -> bool:
    """Return whether a folder has a file of code, at any depth."""
    looks = 0
    if (folder / "pyvenv.cfg").exists():
        return False
    for _, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in SKIPPED and not name.startswith(".")]
        if any(os.path.splitext(name)[1] in CODE_SUFFIXES for name in names):
            return True
        looks += len(names)
        if looks > MOST_LOOKS:
            return False
    return False


def _protected_hashes(root: Path, protect: Iterable[str]) -> dict[str, str]:
    """Return the SHA-256 of each file that exists below the protected paths of a project or a copy of it, by path.

    Raises:
        PluginError: There are too many.
    """
    hashes: dict[str, str] = {}
    for name in protect:
        files: list[Path] = []
        looks = 0  # folders count too: links in a circle have no end
        for folder, _, names in os.walk(root / name, followlinks=True):
            looks += 1 + len(names)
            if looks > MOST_LOOKS:
                text = f"--protect {one_line(name, 80)}: expected a folder of at most {MOST_LOOKS} files and folders"
                raise PluginError(text)
            files += [Path(folder, file) for file in names if "__pycache__" not in folder]
        for file in files or [root / name]:
            with contextlib.suppress(OSError):  # it is gone
                status = file.stat()
                if not stat.S_ISREG(status.st_mode):  # a folder, or a device without an end
                    continue
                signature = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
                hashes[file.relative_to(root).as_posix()] = _file_hash(str(file), signature)
    return hashes


@lru_cache(maxsize=MOST_LOOKS)
def _file_hash(path: str, signature: tuple[int, ...]) -> str:
    """Return the SHA-256 of a file; `signature` changes if its content does, as no program sets st_ctime."""
    del signature
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def save_code(run_folder: Path, contents: Iterable[bytes]) -> None:
    """Write files of code into a run, each named by its SHA-256, durably.

    Raises:
        OSError: The disk refuses.
    """
    with safe_files.folder(run_folder, CODE_FOLDER, make=True) as folder:
        for data in contents:
            name = text_hash(data)
            if not safe_files.exists(folder, name):
                safe_files.replace(folder, name, data, part=f".{name}.part")


def read_listing(run_folder: Path, hash: str) -> Listing:
    """Return the listing of a run's project.

    Raises:
        PluginError: It is missing, has changed, or names files outside of the project.
    """
    with explain_error(PluginError, "the listing of the project is damaged", caught=ValueError):  # also msgspec's
        listing = msgspec.json.decode(read_code(run_folder, hash), type=Listing)
    for path in (*listing.files, *listing.links):
        checked_path(path, lambda reason: PluginError(f"the listing of the project is damaged: {reason}"))
    return listing


def read_project(run_folder: Path, hash: str) -> Project:
    """Return the project of a run with the content of its files.

    Raises:
        PluginError: A file is missing or has changed.
    """
    listing = read_listing(run_folder, hash)
    hashes = {*listing.files.values()}
    return Project(listing, {hash: read_code(run_folder, hash) for hash in hashes}, hash)


def write_copy(run_folder: Path, code: TrialCode, genome: Genome, target: Path) -> Listing:
    """Write the project of a trial: its files with the patches that are on, and the genome's values in them.

    Args:
        run_folder: Folder of the run.
        code: Project and patches.
        genome: Values of the genes.
        target: Folder of the copy, which is made, or made anew.

    Returns:
        The files of the project without patches.

    Raises:
        PluginError: A file of the run is missing or has changed.
        Ended: The copy cannot be written.
    """
    project = read_project(run_folder, code.project)
    listing = project.listing
    patches = [parse_patch(name, read_code(run_folder, hash).decode()) for name, hash in code.patches]
    changed = make_patch_set(patches, project).apply(patch.name for patch in patches) if patches else {}
    contents = {path: project.contents[hash] for path, hash in listing.files.items()}
    modes = dict.fromkeys(listing.executable, 0o755)
    for path, lines in changed.items():
        contents.pop(path, None)
        if lines is not None:
            text = "".join(lines)
            for patch in patches:
                text = patch.fill(text, genome)
            contents[path] = text.encode("utf-8", "surrogateescape")
    modes |= {change.path: change.mode for patch in patches for change in patch.changes if change.mode is not None}
    try:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for path, data in contents.items():
            place = target / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
            place.chmod(modes.get(path, 0o644))
        for path, link in listing.links.items():
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            (target / path).symlink_to(link)
    except OSError as error:
        shutil.rmtree(target, ignore_errors=True)
        raise Ended(f"cannot make the copy of the project in {target}: {error.strerror}", "crashed") from None
    return listing


def check_protected(listing: Listing, copy: Path) -> None:
    """Refuse the result of a trial that changed protected files.

    Raises:
        Ended: One was changed, is gone or is new.
    """
    present = _protected_hashes(copy, listing.protect)
    for path in sorted({*present, *listing.protected}):
        if present.get(path) != listing.protected.get(path):
            what = "removed" if path not in present else "changed" if path in listing.protected else "made"
            raise Ended(f"the trial {what} {one_line(path, 200)}, which is protected (--protect)")


# Folders of the copies in that of the trial.
COPY, JUDGE_COPY = "project", "judge"


def run_trial(script: Script, judge: Script | None, genome: Genome, context: Context) -> dict[str, float]:
    """Train once, and return the metrics; those of the judge replace the training's own.

    With patches, both run in copies of the project, the judge in one without patches. The copies are removed.

    Args:
        script: Command of the training.
        judge: Command that measures the objectives. Its {folder} is the trial's folder if the training's command names
            that, else the folder where the training ran. None: the training's own metrics count.
        genome: Values of the genes.
        context: Context of the evaluation.

    Raises:
        RunError: A program failed, or the training changed a protected file.
        PluginError: The code of the run has changed.
    """
    with contextlib.ExitStack() as copies:  # links in a copy are not followed when it is removed
        place = listing = None
        if context.code is not None:
            run_folder, place = run_folder_of(context), context.folder.absolute() / COPY
            copies.callback(shutil.rmtree, place, ignore_errors=True)
            listing = write_copy(run_folder, context.code, genome, place)
        training = context if judge is None else _part_of(context, context.folder, ())
        metrics = script.run(genome, training, place)
        if listing is not None and place is not None:
            check_protected(listing, place)
        if judge is None:
            return metrics
        output, clean = context.folder if "folder" in script.command.names or place is None else place, None
        if context.code is not None:
            clean = context.folder.absolute() / JUDGE_COPY
            copies.callback(shutil.rmtree, clean, ignore_errors=True)
            write_copy(run_folder_of(context), TrialCode(context.code.project), genome, clean)
        own = {objective.metric for objective in context.objectives}
        judged = judge.run(genome, _part_of(context, output, context.objectives), clean)
        return {**{name: value for name, value in metrics.items() if name not in own}, **judged}


def run_folder_of(context: Context) -> Path:
    """Return the folder of the run that an evaluation belongs to."""
    return Path(os.path.abspath(context.folder)).parents[1]


def _part_of(context: Context, folder: Path, objectives: Sequence[Objective]) -> Context:
    """Return the context of a part of an evaluation, with its own folder and objectives, and no bounds."""
    names = ("device", "threads", "seed", "budget", "resume_folder", "test", "code")
    shared: dict[str, Any] = {name: getattr(context, name) for name in names}
    return Context(folder=folder, objectives=objectives, **shared)
