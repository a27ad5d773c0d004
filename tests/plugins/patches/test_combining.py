"""Sets of patches: which go together, and the repair that keeps a genome within these."""

from __future__ import annotations

import time
from itertools import product

import pytest

from evo_tune import Choice, SearchSpace
from evo_tune.errors import PluginError
from evo_tune.loop.checks import check_repair
from evo_tune.plugins.patches import Patch, parse_patch
from evo_tune.plugins.patches.combining import PatchSet

LINES = tuple(f"{letter}\n" for letter in "abcdefghijkl")


def patch(name: str, line: str, head: str = "", path: str = "f", lines: tuple[str, ...] = LINES) -> Patch:
    """Return a patch that replaces a line by the patch's name."""
    at = lines.index(f"{line}\n")
    before, after = lines[max(0, at - 1) : at], lines[at + 1 : at + 2]
    start, count = max(1, at), len(before) + 1 + len(after)
    hunk = [f" {text}" for text in before] + [f"-{line}\n", f"+{name}\n"] + [f" {text}" for text in after]
    text = f"{head}--- a/{path}\n+++ b/{path}\n@@ -{start},{count} +{start},{count} @@\n{''.join(hunk)}"
    return parse_patch(name, text)


def patch_set(*patches: Patch, protected: tuple[str, ...] = (), linked: tuple[str, ...] = ()) -> PatchSet:
    return PatchSet(patches, {"f": LINES, "g/h": LINES}.get, protected, linked, {"lr"})


def on(*names: str, all_names: str = "pqrstu") -> dict[str, bool | float | int | str]:
    return {name: name in names for name in all_names}


def test_of_two_that_change_a_line_the_first_stays_on() -> None:
    patches = patch_set(patch("p", "c"), patch("q", "c"), patch("r", "j"))
    assert patches.conflicts() == [("p", "q")]
    assert patches.repair(on("p", "q", "r")) == on("p", "r")
    assert patches.repair(on("q", "r")) == on("q", "r")
    assert patches.remarks()[0].startswith("patches that do not go together (less context, as of `git diff -U1`, lets")
    assert patches.remarks()[0].endswith(": p with q")


def test_lines_around_a_change_count() -> None:
    first = parse_patch("p", "--- a/f\n+++ b/f\n@@ -2,2 +2,3 @@\n b\n+x\n c\n")
    second = parse_patch("q", "--- a/f\n+++ b/f\n@@ -4,2 +4,3 @@\n d\n+y\n e\n")
    third = parse_patch("r", "--- a/f\n+++ b/f\n@@ -2,4 +2,5 @@\n b\n c\n d\n+z\n e\n")
    either = parse_patch("s", "--- a/g/h\n+++ b/g/h\n@@ -2,2 +2,3 @@\n b\n+x\n c\n")
    patches = patch_set(first, second, third, either)
    assert patches.conflicts() == [("p", "r"), ("q", "r")]
    assert patches.repair(on("p", "q", "r", "s")) == on("p", "q", "s")


def test_requires_and_excludes_are_kept_by_the_repair() -> None:
    patches = patch_set(
        patch("p", "b"), patch("q", "e", "# requires: p.patch\n"), patch("r", "h", "# excludes: p\n"), patch("s", "k")
    )
    assert patches.repair(on("q", "s")) == on("s")
    assert patches.repair(on("p", "q", "r")) == on("p", "q")
    assert patches.conflicts() == [("p", "r"), ("q", "r")]


def test_the_repair_is_its_own_result_for_every_genome() -> None:
    patches = patch_set(
        patch("p", "c"),
        patch("q", "d", "# excludes: s\n"),
        patch("r", "g", "# requires: q\n"),
        patch("s", "j"),
        patch("t", "c"),
        patch("u", "c", "# requires: s\n", path="g/h"),
    )
    again = patch_set(*reversed(patches.patches))
    for switches in product((False, True), repeat=6):
        genome = dict(zip("pqrstu", switches, strict=True))
        repaired = patches.repair(dict(genome))
        assert patches.repair(repaired) == repaired == again.repair(dict(genome))  # whatever was cached before
        assert all(genome[name] for name, value in repaired.items() if value)
        patches.apply(name for name, value in repaired.items() if value)
    check_repair(SearchSpace(patches.repair, None, **patches.genes, lr=Choice((1, 2))))


def test_a_patch_that_joins_changes_no_set_without_it() -> None:
    patches = patch_set(patch("p", "c"), patch("r", "j"))
    before = patches.repair(on("p", "r", all_names="pr"))
    patches.add(patch("o", "c"))
    assert patches.repair(on("p", "r", all_names="pr")) == before
    assert patches.repair(on("o", "p", "r", all_names="opr")) == on("o", "r", all_names="opr")
    with pytest.raises(PluginError, match="does not apply to f"):
        patches.add(parse_patch("z", "--- a/f\n+++ b/f\n@@ -1,2 +1,1 @@\n a\n-z\n"))
    assert [one.name for one in patches.patches] == ["o", "p", "r"]


@pytest.mark.parametrize(
    ("new", "reason"),
    [
        (patch("p", "e"), "patch p is there twice"),
        (parse_patch("p-", patch("x", "e").text.replace("+x", "+{p=int(1,2)}")), "gene p is one of patch p"),
        (patch("lr", "e"), "gene lr is one of the command"),
        (patch("x", "e", "# requires: pp\n"), "# requires: pp: there is no such patch"),
        (patch("a", "e", "# requires: p\n"), "requires p, which is applied after it"),
        (patch("x", "e", "# requires: p, q\n"), "requires p and q, which exclude each other"),
        (patch("x", "e", path="g/h"), "changes g/h, which --protect g forbids"),
        (patch("x", "e", path="d"), "changes d, which is data"),
        (patch("x", "c", "# requires: p\n"), "patch x: the hunk at line 4 does not apply to f:2"),
        (patch("x", "e", path="missing"), "missing is not a file of the project"),
    ],
)
def test_a_patch_that_cannot_be_used_is_refused(new: Patch, reason: str) -> None:
    patches = patch_set(patch("p", "c", "# excludes: q\n"), patch("q", "j"), protected=("g",), linked=("d",))
    with pytest.raises(PluginError, match=reason):
        patches.add(new)


def test_a_patch_that_changes_the_seed_is_noticed() -> None:
    text = "--- a/f\n+++ b/f\n@@ -3,3 +3,3 @@\n c\n-d\n+seed_everything(3)\n e\n"
    (remark,) = patch_set(parse_patch("p", text)).remarks()
    assert remark == "patch p changes a line about the seed, look at it: +seed_everything(3)"


def test_a_long_chain_of_patches_has_no_conflicts_at_once() -> None:
    chain = [
        parse_patch(f"p{number:03}", f"{head}--- /dev/null\n+++ b/new{number}\n@@ -0,0 +1 @@\n+x\n")
        for number in range(100)
        for head in [f"# requires: p{number - 1:03}\n" if number else ""]
    ]
    began = time.process_time()
    assert PatchSet(chain, {}.get).conflicts() == []
    assert time.process_time() - began < 1.0, "it took 3 s"
