"""Every command and piece of code in the README and on the pages of docs/ is understood, and does what it says.

In the suite all command lines are parsed, down to options and genes, and the README is read at toy size; `make proofs`
reads every page so (`tests.pages.shortened` says what is left out), and the README to the letter.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from evo_tune.cli import cli, command_module
from evo_tune.genome.notation import parse_gene
from evo_tune.options.binding import options_of, split_assignments
from evo_tune.plugins.find import PACKAGE, bundled_folder, find_evaluator, find_strategy
from tests.pages import FENCE, PAGES, ROOT, command_lines, furnish, mentioned, shortened, text_of, typed

BUNDLED = {path.stem for path in bundled_folder().glob("[!_]*.py")}
READ = [page for page in PAGES if any(language in ("sh", "python") for language, _ in FENCE.findall(text_of(page)))]


@pytest.fixture
def desk(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    furnish(tmp_path, getattr(request, "param", "README.md"))
    return tmp_path


def understood(words: list[str]) -> None:
    """Parse a command's words as it would; of a bundled evaluator also its options, and genes."""
    with click.Context(cli) as context:
        command = cli.get_command(context, words[0])  # type: ignore[attr-defined]
        assert command is not None, f"there is no command {words[0]!r}"
        given = command.make_context(words[0], words[1:], parent=context).params
    if words[0] in ("run", "evaluate") and given["evaluator"] in BUNDLED:
        plugin = find_evaluator(f"bundled:{given['evaluator']}")
        plugin.bind(split_assignments(given["options"], "-o"))
    if words[0] == "run":
        for name, text in split_assignments((one for one in given["genes"] if "=" in one), "--gene").items():
            parse_gene(name, text)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_line_is_understood(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("run.toml", "target.toml"):  # which a reader has, or a command of the page writes
        (tmp_path / name).write_text("trials = 2\n")
    monkeypatch.chdir(tmp_path)
    for words in command_lines(page):
        if words[0] == "verdict":  # results of the reader's own, or a public collection
            Path(words[1]).touch()
        try:
            understood(words)
        except Exception as error:
            pytest.fail(f"evo-tune {' '.join(words)}: {error}")
    for name, *words in mentioned(page):
        command = command_module(name).command
        flags = {flag for one in command.get_params(click.Context(command)) for flag in one.opts}
        assert {word for word in words if word.startswith("-")} <= {*flags, "--help"}, f"evo-tune {name} {words}"


def test_options_within_sentences_exist() -> None:
    """Of a bundled evaluator (`-o name`) or strategy (`-s name`)."""
    files = (PACKAGE / "strategies").glob("[!_]*.py")
    known = {
        "-o": {name for one in BUNDLED for name in find_evaluator(f"bundled:{one}").options} | {"name"},
        "-s": {name for path in files for name in options_of(find_strategy(path.stem))} | {"name"},
    }
    for page in PAGES:
        for flag, name in re.findall(r"(-[os]) ([a-z]\w*)(?=[=`])", FENCE.sub("", text_of(page))):
            assert name in known[flag], f"{page}: {flag} {name}"


def test_command_lines_are_found_and_one_that_is_wrong_is_not_understood() -> None:
    assert sum(len(list(command_lines(page))) for page in PAGES) > 80
    for wrong in ("rnu", "run --trails 3", "run -o token=5", "run --gene lr=log(1)", "best --format xml"):
        with pytest.raises(Exception, match=r"no command|No such option|no option|expected|is not one of"):
            understood(wrong.split())


@pytest.mark.parametrize("page", PAGES)
def test_code_on_a_page_is_python(page: str) -> None:
    for language, body in FENCE.findall(text_of(page)):
        if language == "python":
            compile(body, page, "exec")


def read(*pages: tuple[str, Path]) -> None:
    """Do in a folder what a page tells, in order, as its reader would, at toy size; all pages in one process."""
    lines = [(str(desk), shortened(what)) for page, desk in pages for what in typed(page, desk)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.reader"],
        cwd=pages[0][1],
        env={**environment(), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},  # threads that wait take a core each
        input=json.dumps(lines),
        capture_output=True,
        text=True,
    )
    ends = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(ends) == len(lines), (done.returncode, done.stderr)
    for (_, what), (code, printed) in zip(lines, ends, strict=True):
        assert code == 0, (what, printed)
        assert isinstance(what, str) or printed.strip(), (what, "printed nothing")


def environment() -> dict[str, Any]:
    script = Path(sys.executable).with_name("evo-tune")
    return {**os.environ, "PATH": f"{script.parent}{os.pathsep}{os.environ['PATH']}"}


@pytest.mark.slow
def test_everything_in_the_readme_and_the_tutorials_works(tmp_path: Path) -> None:
    """One tutorial transfers a search to a large model: from `run --for-scale` over probes to the target, exported."""
    pages = [(page, tmp_path / page.removesuffix(".md").lower()) for page in ("README.md", "start.md", "scale.md")]
    for page, desk in pages:
        desk.mkdir()
        furnish(desk, page)
    read(*pages)
    assert (tmp_path / "scale" / "model" / "model.safetensors").is_file()


@pytest.mark.proof
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("page", "desk"), [(page, page) for page in READ], indirect=["desk"])
def test_everything_on_a_page_works(page: str, desk: Path) -> None:
    read((page, desk))


@pytest.mark.proof
@pytest.mark.timeout(1200)
def test_everything_in_the_readme_works_to_the_letter(desk: Path) -> None:
    """As a reader types it: each a process of its own, with workers of its own, and nothing shortened."""
    for what in typed("README.md", desk):
        command = [sys.executable, "-c", what] if isinstance(what, str) else what
        done = subprocess.run(command, cwd=desk, env=environment(), capture_output=True, text=True)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        assert done.stdout.strip() or done.stderr.strip(), (command, "printed nothing")
