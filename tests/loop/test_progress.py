"""A search from Python shows its progress, and calls the user's functions with each trial."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evo_tune.genome.trial import Trial
from evo_tune.loop.search import Search

Begin = Callable[..., Search]

SCRIPT = """
import sys
from evo_tune import Search

def train(genome, context):
    return {"loss": genome["x"] ** 2}

if __name__ == "__main__":
    search = Search(train, space={"x": "float(-1,1)"}, objectives=["loss:min"], trials=3, final_seeds=0, name="shown")
    search.run(**eval(sys.argv[1]))
    print(repr(search))
"""


def run_script(folder: Path, keywords: str = "{}", terminal: bool = False) -> tuple[str, str]:
    """Return what a script with a search prints on standard output and on standard error."""
    (folder / "script.py").write_text(SCRIPT)
    words = [sys.executable, "script.py", keywords]
    if not terminal:
        result = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True)
        return result.stdout, result.stderr
    ours, theirs = pty.openpty()
    with subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, stderr=theirs, text=True) as process:
        os.close(theirs)
        pieces: list[bytes] = []

        def read() -> None:
            try:
                while piece := os.read(ours, 4096):
                    pieces.append(piece)
            except OSError:  # the other end is closed
                pass

        reader = threading.Thread(target=read)
        reader.start()
        out = process.communicate()[0]
        reader.join(10)
    os.close(ours)
    assert process.returncode == 0
    return out, b"".join(pieces).decode()


def test_a_terminal_shows_a_line_and_a_pipe_does_not(tmp_path: Path) -> None:
    for name in ("terminal", "pipe"):
        (tmp_path / name).mkdir()
    out, err = run_script(tmp_path / "terminal", terminal=True)
    assert "\r\x1b[Kshown: 3 of 3 trials have a result, best loss " in err
    assert err.endswith("s\r\n")
    assert out.startswith("<Search shown: 3 of 3 trials have a result, best loss ")
    assert run_script(tmp_path / "pipe")[1] == ""


def test_the_line_can_be_asked_for_and_left_out(tmp_path: Path) -> None:
    for name in ("with", "without"):
        (tmp_path / name).mkdir()
    assert "3 of 3 trials" in run_script(tmp_path / "with", "{'progress': True}")[1]
    assert run_script(tmp_path / "without", "{'progress': False}", terminal=True)[1] == ""


def test_each_trial_is_told_once(begin: Begin) -> None:
    told: list[Trial] = []
    search = begin(trials=6)
    search.run(callbacks=[told.append], progress=False)
    assert [trial.id for trial in told] == search.saved.recorded[: len(told)]
    assert len(told) == len(search.saved.outcomes)
    again: list[Trial] = []
    Search.resume(search.name, store=search.saved.folder.parent, trials=8).run(callbacks=[again.append])
    assert {trial.id for trial in told}.isdisjoint(trial.id for trial in again)


def test_a_callback_that_fails_ends_nothing(begin: Begin) -> None:
    told: list[Trial] = []

    def fail(trial: Trial) -> None:
        told.append(trial)
        raise ValueError("no\x1b[31m network")

    search = begin(trials=4)
    with pytest.warns(UserWarning, match=r"callback fail raised ValueError: no\\x1b\[31m network; it is not called"):
        search.run(callbacks=[fail])
    assert len(told) == 1
    assert len(search.trials) == 4


NOTEBOOK: list[str] = [
    "from evo_tune import Search",
    "def train(genome, context):\n    return {'loss': genome['x'] ** 2}",
    "space = {'x': 'float(-1,1)'}",
    "search = Search(train, space=space, objectives=['loss:min'], trials=3, final_seeds=0, name='shown')",
    "search.run(); None",
    "import evo_tune; evo_tune.load('shown')",
]


@pytest.mark.slow
def test_a_notebook_shows_the_progress_below_the_cell(tmp_path: Path) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook: Any = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in NOTEBOOK])
    client = nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    shown = json.dumps([cell.get("outputs") for cell in notebook.cells])
    assert "shown: 3 of 3 trials have a result, best loss " in shown
    assert "text/html" in shown, "the table of the results"
