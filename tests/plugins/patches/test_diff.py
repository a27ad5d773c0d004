"""Diffs in memory: the same result as `git apply`, and nothing but text files of the project."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from evo_tune.errors import PluginError
from evo_tune.plugins.patches.diff import DoesNotApply, apply_changes, parse_diff

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def diff(path: str, *hunks: str, header: str = "") -> str:
    return f"diff --git a/{path} b/{path}\n{header}--- a/{path}\n+++ b/{path}\n" + "".join(hunks)


def git(folder: Path, *words: str, text: str = "") -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "GIT_CEILING_DIRECTORIES": str(folder.parent.parent),
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_CONFIG_NOSYSTEM": "1",
    }
    return subprocess.run(["git", *words], cwd=folder, env=environment, input=text, capture_output=True, text=True)


def edited(lines: list[str], rng: random.Random) -> list[str]:
    lines = list(lines)
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(lines) + 1)
        if rng.random() < 0.6 or place == len(lines):
            lines[place:place] = [f"{rng.choice('abcx')}\n" for _ in range(rng.randint(1, 2))]
        else:
            del lines[place]
    return lines


@needs_git
def test_two_patches_apply_where_git_applies_them(tmp_path: Path) -> None:
    rng, applied = random.Random(0), 0
    for number in range(60):
        base = [f"{rng.choice('abc')}\n" for _ in range(rng.randint(4, 16))]
        work = tmp_path / f"{number}" / "work"
        texts = []
        for _ in range(2):
            for side, lines in (("a", base), ("b", edited(base, rng))):
                (work.parent / side).mkdir(parents=True, exist_ok=True)
                (work.parent / side / "f").write_text("".join(lines))
            text = git(work.parent, "diff", "--no-index", "--no-renames", "a/f", "b/f").stdout
            texts.append(text.replace("a/a/f", "a/f").replace("b/b/f", "b/f"))
        if not all(texts):
            continue
        work.mkdir()
        (work / "f").write_text("".join(base))
        by_git = all(git(work, "apply", "-", text=text).returncode == 0 for text in texts)
        files: dict[str, tuple[str, ...] | None] = {"f": tuple(base)}
        try:
            for text in texts:
                files.update(apply_changes(parse_diff("p", text), files.get, "p"))
        except DoesNotApply:
            assert not by_git, texts
        else:
            assert by_git, texts
            assert "".join(files["f"] or ()) == (work / "f").read_text()
            applied += 1
    assert applied > 5


def test_files_are_made_and_removed() -> None:
    new = "diff --git a/n b/n\nnew file mode 100755\n--- /dev/null\n+++ b/n\n@@ -0,0 +1 @@\n+x\n"
    (change,) = parse_diff("p", new)
    assert (change.path, change.mode, change.creates) == ("n", 0o755, True)
    assert apply_changes([change], {}.get, "p") == {"n": ("x\n",)}
    with pytest.raises(DoesNotApply, match="is there already"):
        apply_changes([change], {"n": ("x\n",)}.get, "p")
    old = "diff --git a/n b/n\ndeleted file mode 100644\n--- a/n\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n"
    assert apply_changes(parse_diff("p", old), {"n": ("x\n",)}.get, "p") == {"n": None}


def test_a_patch_that_applies_nowhere_names_its_hunk() -> None:
    changes = parse_diff("p", diff("train.py", "@@ -2,2 +2,3 @@\n b\n+x\n c\n"))
    with pytest.raises(DoesNotApply, match=r"patch p: the hunk at line 4 does not apply to train\.py:2, near 'b'"):
        apply_changes(changes, {"train.py": ("a\n", "z\n", "c\n")}.get, "p")


@pytest.mark.parametrize(
    "path", ["../x", "a/../../x", "/etc/passwd", "a//b", ".git/config", "a/.GIT/hooks/x", ".git /x", "a\\b", "a\x07b"]
)
def test_a_path_out_of_the_project_is_refused(path: str) -> None:
    text = f"--- a/{path}\n+++ b/{path}\n@@ -1 +1 @@\n-a\n+b\n"
    for patch in (text, f"diff --git a/{path} b/{path}\n{text}"):
        with pytest.raises(PluginError, match=r"expected files below its folder|no plain path"):
            parse_diff("p", patch)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (diff("x", "@@ -0,0 +1 @@\n+/etc/passwd\n", header="new file mode 120000\n"), "mode 120000, a link"),
        (diff("x", "@@ -1 +1 @@\n-a\n+b\n", header="new file mode 160000\n"), "mode 160000"),
        ("diff --git a/x b/x\nindex 1..2 100644\nGIT binary patch\nliteral 4\nabc\n", "a binary file"),
        ("diff --git a/x b/x\nBinary files a/x and b/x differ\n", "a binary file"),
        ("diff --git a/x b/y\nsimilarity index 100%\nrename from x\nrename to y\n", "the same file twice"),
        (diff("x", "@@ -1,3 +1,3 @@\n a\n-b\n+c\n"), "the hunk has 2 old and 2 new lines: expected 3 and 3"),
        (diff("x", "@@ broken @@\n-b\n+c\n"), "expected '@@ -LINE,COUNT"),
        ("@@ -1 +1 @@\n-b\n+c\n", "a hunk without a file"),
        ("--- a/x\n+++ b/y\n@@ -1 +1 @@\n-b\n+c\n", "it names two files"),
        ("hello\n", "has no change"),
        ("", "has no change"),
    ],
)
def test_what_is_no_change_of_a_text_file_is_refused(text: str, reason: str) -> None:
    with pytest.raises(PluginError, match=reason):
        parse_diff("p", text)


@pytest.mark.parametrize("path", [" b/" * 300_000, "a b/" * 250_000 + "x"], ids=["same", "other"])
def test_a_header_of_a_megabyte_takes_no_time(path: str) -> None:
    with pytest.raises(PluginError, match="expected the same file twice"):
        parse_diff("p", f"diff --git a/{path}\n")


@pytest.mark.parametrize(
    "hunks",
    [
        "@@ -5,200002 +5,200002 @@\n-\n+q\n" + " \n" * 200_000 + " z\n",
        "@@ -5,2 +5,2 @@\n-\n+\n \n" * 40_000,
        "".join(f"@@ -5,2 +5,2 @@\n-{number}\n+y\n \n" for number in range(20_000)),
    ],
    ids=["one that is long", "many", "many that are far away"],
)
def test_hunks_that_would_take_hours_do_not_apply(hunks: str) -> None:
    lines = ("\n",) * 300_000 + tuple(line for number in range(20_000) for line in (f"{number}\n", "\n"))
    began = time.process_time()
    with pytest.raises(DoesNotApply, match="the hunk at line"):
        apply_changes(parse_diff("p", f"--- a/t.py\n+++ b/t.py\n{hunks}"), {"t.py": lines}.get, "p")
    assert time.process_time() - began < 5.0
