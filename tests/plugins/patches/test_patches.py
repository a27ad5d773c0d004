"""A patch's file: its gene, its head, its placeholders, and the copies in a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from evo_tune import Float
from evo_tune.errors import PluginError
from evo_tune.genome.switches import SWITCH
from evo_tune.plugins.patches import CODE_FOLDER, LARGEST, parse_patch, read_patch_file, read_patch_folder, read_patches

TEXT = """# title: Momentum of the optimizer
# requires: base.patch, other
# excludes: adam
diff --git a/train.py b/train.py
--- a/train.py
+++ b/train.py
@@ -1,2 +1,3 @@
 a = {x=int(1,2)}
-b
+momentum = {momentum=log(0.8,0.99) @ 0.95}
+kind, shown = {kind="a"|"b"}, f"{loss=} {a:.2f}"
"""


def test_a_patch_is_a_gene_and_its_placeholders_are_genes_of_it() -> None:
    patch = parse_patch("01-mom", TEXT)
    assert (patch.gene, patch.title) == ("p01_mom", "Momentum of the optimizer")
    assert (patch.requires, patch.excludes) == (("base", "other"), ("adam",))
    assert patch.space["p01_mom"] == SWITCH
    when = {"p01_mom": [True]}
    assert patch.genes["momentum"] == Float(0.8, 0.99, log=True, default=0.95, when=when)  # type: ignore[arg-type]
    assert list(patch.genes) == ["momentum", "kind"]  # not x: an unchanged line is the user's own code
    filled = patch.fill(TEXT, {"momentum": 0.9, "kind": '"b"'})
    assert '+momentum = 0.9\n+kind, shown = "b", f"{loss=} {a:.2f}"\n' in filled
    assert "{x=int(1,2)}" in filled


@pytest.mark.parametrize(
    ("placeholder", "reason"),
    [
        ("{m=log(0.8)}", "patch p, line 5: m=log.0.8. is not understood"),
        ("{m=log(0,1)}", "patch p, line 5: .*needs low above 0"),
        ("{p=int(1,2)}", "line 5: {p} is another gene already"),
        ("{m=int(1,2)} {m=int(1,3)}", "line 5: {m} is another gene already"),
        ("{m=int(1,2) when lr=1}", "leave 'when' out"),
    ],
)
def test_a_wrong_placeholder_names_its_line(placeholder: str, reason: str) -> None:
    with pytest.raises(PluginError, match=reason):
        parse_patch("p", f"--- a/x\n+++ b/x\n@@ -1 +1,2 @@\n a\n+{placeholder}\n")


@pytest.mark.parametrize("name", ["", "-" * 101, "a\x1b[2J", "ümlaut", "a\nb"])
def test_a_name_that_makes_no_gene_is_refused(name: str) -> None:
    with pytest.raises(PluginError, match="expected a name of at most 100"):
        parse_patch(name, TEXT)


def test_files_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b.patch", "a.diff", "notes.txt"):
        (tmp_path / name).write_text(TEXT)
    assert [patch.name for patch in read_patch_folder(tmp_path)] == ["a", "b"]
    with pytest.raises(PluginError, match=r"notes\.txt: expected a file whose name ends"):
        read_patch_file(tmp_path / "notes.txt")
    for folder in (tmp_path / "missing", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(PluginError, match=r"--patches .* expected"):
            read_patch_folder(folder)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    huge, binary = tmp_path / "huge.patch", tmp_path / "binary.patch"
    with huge.open("wb") as file:
        file.truncate(100 << 20)
    binary.write_bytes(b"--- a/x\n+++ b/x\n\xff\xfe\n")
    with pytest.raises(PluginError, match=f"expected at most {LARGEST}"):
        read_patch_file(huge)
    with pytest.raises(PluginError, match="byte 16 is not UTF-8"):
        read_patch_file(binary)


def test_copies_in_a_run_are_checked(tmp_path: Path) -> None:
    patch, folder = parse_patch("p", TEXT), tmp_path / CODE_FOLDER
    folder.mkdir()
    (folder / patch.hash).write_text(TEXT)
    assert read_patches(tmp_path, {"p": patch.hash}) == (patch,)
    (folder / patch.hash).write_text(TEXT + "\n")
    with pytest.raises(PluginError, match="has changed: restore it"):
        read_patches(tmp_path, {"p": patch.hash})
    (folder / patch.hash).unlink()
    with pytest.raises(PluginError, match="No such file"):
        read_patches(tmp_path, {"p": patch.hash})


def test_a_patch_has_few_placeholders() -> None:
    lines = "".join(f"+{{gene{number}=1|2}}\n" for number in range(101))
    with pytest.raises(PluginError, match="patch p, line 105: expected at most 100 placeholders"):
        parse_patch("p", f"--- a/f\n+++ b/f\n@@ -1 +1,101 @@\n-a\n{lines}")
