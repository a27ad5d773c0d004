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
    search = {"space": {"x": "float(-1,1)"}, "objectives": ["loss:min"], "trials": 3, "final_seeds": 0, "slots": 1}
    Search(train, **search, name="hidden").run(progress=False)
    print(repr(Search(train, **search, name="shown").run()))
"""


def run_on_terminal(folder: Path) -> tuple[str, str]:
    """Return what a script with searches prints on standard output and on standard error, which is a terminal."""
    (folder / "script.py").write_text(SCRIPT)
    words = [sys.executable, "script.py"]
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


def test_a_terminal_shows_a_line_unless_it_is_left_out(tmp_path: Path) -> None:
    out, err = run_on_terminal(tmp_path)
    assert "\r\x1b[Kshown: 3 of 3 trials have a result, best loss " in err
    assert err.endswith("s\r\n")
    assert "hidden" not in err
    assert out.startswith("<Search shown: 3 of 3 trials have a result, best loss ")


def test_a_pipe_shows_a_line_if_it_is_asked_for(begin: Begin, here: None, capfd: pytest.CaptureFixture[str]) -> None:
    for given, shown in (({}, False), ({"progress": True}, True)):
        begin(trials=3, slots=1).run(**given)
        assert ("3 of 3 trials" in capfd.readouterr().err) == shown


def test_each_trial_is_told_once(begin: Begin, here: None) -> None:
    told: list[Trial] = []
    search = begin(trials=6)
    search.run(callbacks=[told.append], progress=False)
    assert [trial.id for trial in told] == search.saved.recorded[: len(told)]
    assert len(told) == len(search.saved.outcomes)
    again: list[Trial] = []
    Search.resume(search.name, store=search.saved.folder.parent, trials=8).run(callbacks=[again.append])
    assert {trial.id for trial in told}.isdisjoint(trial.id for trial in again)


def test_a_callback_that_fails_ends_nothing(begin: Begin, here: None) -> None:
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
