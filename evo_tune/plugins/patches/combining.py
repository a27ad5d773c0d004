"""Patches that go together: which sets of them apply to a project, and the repair that keeps a genome within these.

Patches are applied in the order of their names. Whether a set applies follows from the texts alone, so the repair is a
pure function of a genome, also in a replay; results are only cached. Nothing is read or written here.
"""

import contextlib
import re
from collections.abc import Callable, Collection, Iterable
from itertools import combinations

from evo_tune.errors import PluginError
from evo_tune.genome.genes import Gene
from evo_tune.genome.values import Genome
from evo_tune.options.binding import did_you_mean
from evo_tune.plugins.patches import MOST, Patch
from evo_tune.plugins.patches.diff import DoesNotApply, Files, Lines, apply_changes
from evo_tune.text import one_line

# Maximum number of sets whose files are cached.
MOST_CACHED = 4096


class PatchSet:
    """The patches of a run.

    Args:
        patches: Patches, in any order.
        read: Function that returns the lines of a file of the project, given its path; None if there is none.
        protected: Paths of files and folders that no patch may change.
        linked: Paths of links to data, behind which no patch may change a file.
        other_genes: Names of genes that no patch may have.

    Raises:
        PluginError: A patch cannot be used; see `add`.
    """

    def __init__(
        self,
        patches: Iterable[Patch],
        read: Callable[[str], Lines],
        protected: Collection[str] = (),
        linked: Collection[str] = (),
        other_genes: Collection[str] = (),
    ) -> None:
        self._read, self._other_genes = read, frozenset(other_genes)
        # Paths that no patch may change, with the reason.
        self._refused = {path: f"--protect {path} forbids" for path in protected}
        self._refused |= dict.fromkeys(linked, "is data: its file or folder is linked, not copied")
        self.patches: tuple[Patch, ...] = ()
        # Files after each set of patches, by their names in order; None if it does not apply.
        self._results: dict[tuple[str, ...], Files | None] = {}
        new = sorted(patches, key=lambda patch: patch.name)
        self._set(new)
        for patch in new:
            self._check(patch)

    @property
    def genes(self) -> dict[str, Gene]:
        """The genes of all patches by name."""
        return {name: gene for patch in self.patches for name, gene in patch.space.items()}

    def add(self, patch: Patch) -> None:
        """Add a patch. Sets without it stay as they are, so the repair of a genome without its gene does too.

        Raises:
            PluginError: Its name or a gene is taken, it names a patch that does not exist, changes a protected file, or
                does not apply to the project with the patches that it requires.
        """
        before = self.patches
        try:
            self._set(sorted([*before, patch], key=lambda patch: patch.name))
            self._check(patch)
        except PluginError:
            self._set(before)
            raise

    def _set(self, patches: Iterable[Patch]) -> None:
        self.patches = tuple(patches)
        self._by_name = {patch.name: patch for patch in self.patches}
        if len(self.patches) > MOST:
            raise PluginError(f"{len(self.patches)} patches: expected at most {MOST}")
        places = dict.fromkeys(self._other_genes, "the command")
        for patch in self.patches:
            if self._by_name[patch.name] is not patch:
                raise PluginError(f"patch {patch.name} is there twice: give one of them another name")
            for name in patch.space:
                if name in places:
                    raise PluginError(f"patch {patch.name}: gene {name} is one of {places[name]} too: rename it")
                places[name] = f"patch {patch.name}"

    def _check(self, patch: Patch) -> None:
        for key, names in (("requires", patch.requires), ("excludes", patch.excludes)):
            for name in names:
                if name not in self._by_name:
                    hint = did_you_mean(name, self._by_name)
                    raise PluginError(f"patch {patch.name}: # {key}: {name}: there is no such patch{hint}")
        for change in patch.changes:
            for path, reason in self._refused.items():
                if change.path == path or change.path.startswith(f"{path}/"):
                    raise PluginError(f"patch {patch.name} changes {change.path}, which {reason}")
        needed = self._with_required(patch)
        if late := [name for name in needed if name > patch.name]:
            order = "patches are applied in the order of their names, so rename one of the two"
            raise PluginError(f"patch {patch.name} requires {late[0]}, which is applied after it: {order}")
        for name in needed:
            if clashes := [other for other in self._by_name[name].excludes if other in needed]:
                raise PluginError(f"patch {patch.name} requires {name} and {clashes[0]}, which exclude each other")
        self.apply(needed)

    def _with_required(self, patch: Patch) -> tuple[str, ...]:
        """Return the names of a patch and of all that it requires, directly or indirectly, in order."""
        names, waiting = {patch.name}, [patch]
        while waiting:
            new = set(waiting.pop().requires) - names
            names |= new
            waiting += [self._by_name[name] for name in new if name in self._by_name]
        return tuple(sorted(names))

    def apply(self, names: Iterable[str]) -> Files:
        """Return the files that patches change, as they are after them; placeholders stay.

        Args:
            names: Names of the patches.

        Raises:
            DoesNotApply: One of them does not apply after those before it; the message names the hunk.
        """
        files: Files = {}
        for name in sorted(names):
            files = self._with_patch(files, name)
        return files

    def _with_patch(self, files: Files, name: str) -> Files:
        """Return changed files after one more patch."""

        def read(path: str) -> Lines:
            return files[path] if path in files else self._read(path)

        return {**files, **apply_changes(self._by_name[name].changes, read, name)}

    def _apply_cached(self, names: tuple[str, ...]) -> Files | None:
        """Return the files after patches in order; None if they do not apply."""
        if not names:
            return {}
        if names not in self._results:
            before, files = self._apply_cached(names[:-1]), None
            if before is not None:
                with contextlib.suppress(DoesNotApply):
                    files = self._with_patch(before, names[-1])
            if len(self._results) >= MOST_CACHED:
                self._results.clear()
            self._results[names] = files
        return self._results[names]

    def repair(self, genome: Genome) -> Genome:
        """Return a genome whose patches apply together: the first ones by name stay on, others that clash are off.

        A patch without one that it requires is off too. The result is its own repair.
        """
        names = tuple(patch.name for patch in self.patches if genome.get(patch.gene) is True)
        usable = self._usable(names)
        off = {self._by_name[name].gene: False for name in names if name not in usable}
        return {**genome, **off} if off else genome

    def _usable(self, names: tuple[str, ...]) -> tuple[str, ...]:
        while True:
            usable: tuple[str, ...] = ()
            for name in names:
                patch = self._by_name[name]
                clashes = any(other in patch.excludes or name in self._by_name[other].excludes for other in usable)
                if not clashes and self._apply_cached((*usable, name)) is not None:
                    usable = (*usable, name)
            usable = tuple(name for name in usable if set(self._by_name[name].requires) <= set(usable))
            if usable == names:
                return usable
            names = usable

    def conflicts(self) -> list[tuple[str, str]]:
        """Return the pairs of patches that exclude each other or do not apply together, by name."""
        pairs, needed = [], {patch.name: self._with_required(patch) for patch in self.patches}
        for first, second in combinations(self.patches, 2):
            alone = needed[first.name], needed[second.name]  # each of these applies: `_check`
            names = tuple(sorted({*alone[0], *alone[1]}))
            if names not in alone and self._usable(names) != names:
                pairs.append((first.name, second.name))
        return pairs

    def remarks(self) -> list[str]:
        """Return what a user should know of the patches before a run, a line each."""
        others: dict[str, list[str]] = {}
        for first, second in self.conflicts():
            others.setdefault(first, []).append(second)
        pairs = "; ".join(f"{first} with {', '.join(names)}" for first, names in others.items())
        remedy = "less context, as of `git diff -U1`, lets more of them apply together"
        lines = [one_line(f"patches that do not go together ({remedy}): {pairs}", 500)] if pairs else []
        for patch in self.patches:
            changed = (line for line in patch.text.split("\n") if re.match(r"[-+](?!--|\+\+)", line))
            if seeded := next((line for line in changed if "seed" in line.lower()), None):
                lines.append(f"patch {patch.name} changes a line about the seed, look at it: {one_line(seeded, 80)}")
        return lines
