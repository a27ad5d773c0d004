"""What a shell completes, and that completing neither takes long, shows an error, nor obeys a stranger's names."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from evo_tune.cli import COMPLETE, PROG, cli, shared
from evo_tune.store.manifest import MANIFEST
from evo_tune.store.run_folders import DEFAULT_STORE
from tests.cli.conftest import Typed

NASTY = ["$(touch owned)", "a b", "-rf", "x\ny", "x\033[31m", "`id`", "mine;ls", "a,b", "c'd", ".hidden", "ünder"]


def completed(*words: str) -> list[str]:
    """Return what is offered for the last of the words behind `evo-tune`."""
    shell = ShellComplete(cli, {}, PROG, COMPLETE)
    return [one.value for one in shell.get_completions(list(words[:-1]), words[-1]) if one.type == "plain"]


@pytest.fixture
def store(folder: Path) -> Path:
    """A store with two runs, and folders of names that a shell would obey."""
    for name in ("mine", "mine-2", *NASTY):
        (folder / DEFAULT_STORE / name).mkdir(parents=True)
        (folder / DEFAULT_STORE / name / shared.MANIFEST).write_text("not even JSON")
    (folder / DEFAULT_STORE / "no-run").mkdir()
    return folder / DEFAULT_STORE


def test_commands_flags_and_choices_are_completed(folder: Path) -> None:
    assert {"run", "report", "resume"} <= set(completed("r"))
    assert completed("run", "--finalis") == ["--finalists"]
    assert completed("run", "--order", "") == ["arrival", "proposal"]
    assert completed("rnu", "x") == [], "what is misspelt is no error yet"
    assert completed("export", "--check") == [], "what is not shown is not offered"


@pytest.mark.parametrize("words", ["show", "resume", "export", "report mine", "run --learn-from", "run --warm-start"])
def test_runs_are_completed_and_only_names_that_are_words(store: Path, words: str) -> None:
    assert completed(*words.split(), "") == ["mine", "mine-2"]
    assert completed(*words.split(), "mine-") == ["mine-2"]


def test_the_name_of_a_manifest_is_that_of_the_store() -> None:
    assert shared.MANIFEST == MANIFEST


def test_the_store_that_is_typed_is_looked_into(folder: Path) -> None:
    (folder / "else" / "other").mkdir(parents=True)
    (folder / "else" / "other" / MANIFEST).touch()
    assert completed("show", "--store", "else", "") == ["other"]
    assert completed("show", "--store", "nowhere", "") == []
    assert completed("show", "") == []


@pytest.mark.parametrize(
    "words",
    ["run ./qu", "evaluate own.p", "run --strategy my/", "run --config r", "run --warm-start genomes.c", "show ./r"],
)
def test_files_are_left_to_the_shell(folder: Path, words: str) -> None:
    *before, last = words.split()
    found = ShellComplete(cli, {}, PROG, COMPLETE).get_completions(before, last)
    assert [(one.type, one.value) for one in found] == [("file", last)]


def test_bash_completes_with_the_printed_script(typed: Typed, store: Path) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash here")
    script = typed("completion", "bash").out
    assert json.loads(typed("completion", "bash", "--format", "json").out) == {"shell": "bash", "script": script}
    caller = store.parent / "evo-tune"
    caller.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m evo_tune "$@"\n')
    caller.chmod(0o755)
    lines = [script]
    for typed_words in (["show", "m"], ["show", ""], ["rnu", "x"], ["show", "'"]):
        words = ["evo-tune", *typed_words]
        lines.append(f"COMP_WORDS=({shlex.join(words)}) COMP_CWORD={len(words) - 1} COMPREPLY=()")
        lines.append(f'_evo_tune_completion {shlex.quote(str(caller))}; echo "[${{COMPREPLY[*]}}]"')
    done = subprocess.run([bash, "-c", "\n".join(lines)], capture_output=True, text=True, cwd=store.parent)
    assert done.stdout.splitlines()[:3] == ["[mine mine-2]", "[mine mine-2]", "[]"], done
    assert done.stderr == ""
    assert not (store.parent / "owned").exists()


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_shells_get_scripts_that_ask_as_theirs(typed: Typed, shell: str) -> None:
    assert f"{COMPLETE}={shell}_complete" in typed("completion", shell).out
    assert typed("completion", "csh").code == 2


def test_completing_loads_nothing_heavy_and_shows_no_error(store: Path) -> None:
    code = (
        "import sys; sys.argv = ['evo-tune']\n"
        "from evo_tune.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print({'torch', 'pandas', 'deap', 'numpy', 'msgspec', 'pyarrow', 'rich'} & set(sys.modules))"
    )
    env = {**os.environ, COMPLETE: "zsh_complete", "COMP_WORDS": "evo-tune resume mine-", "COMP_CWORD": "2"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, cwd=store.parent)
    assert (done.stdout, done.stderr) == ("plain\nmine-2\n_\nset()\n", "")


@pytest.mark.parametrize("error", ["click.UsageError", "ValueError"])
def test_an_error_is_not_shown_where_one_types(error: str) -> None:
    code = (
        "import click\n"
        "from evo_tune import cli\n"
        f"def broken(**_): raise {error}('this would stand in the middle of what is typed')\n"
        "cli.cli.main = broken\n"
        "cli.main()"
    )
    env = {**os.environ, COMPLETE: "zsh_complete"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode in (1, 2)
    assert (done.stdout, done.stderr) == ("", "")
