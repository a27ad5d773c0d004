"""The search half works where torch cannot be imported: functions, scripts, saved runs, reports and EvoSearchCV."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.extras import need

pytestmark = pytest.mark.slow

BLOCK = '''"""Imported by every process at its start: importing torch raises an error, and says so in a file."""
import os
import sys


class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            with open(os.environ["TORCH_WAS_IMPORTED"], "a") as file:
                file.write(f"{sys.argv}\\n")
            raise ImportError("torch must not be imported here")


sys.meta_path.insert(0, Blocked())
'''

FUNCTION = """from evo_tune import Float, Search


def train(genome, context):
    return {"loss": (genome["lr"] - 0.3) ** 2}


if __name__ == "__main__":
    space = {"lr": Float(0.0, 1.0)}
    with Search(train, space=space, objectives=["loss:min"], name="function", trials=4, slots=1) as search:
        search.run()
    print(search.best.genome["lr"])
"""

SCRIPT = """import sys
print("loss", (float(sys.argv[1]) - 0.3) ** 2)
"""

ESTIMATOR = """from sklearn.datasets import load_iris
from sklearn.tree import DecisionTreeClassifier

from evo_tune import Int
from evo_tune.sklearn import EvoSearchCV

if __name__ == "__main__":
    x, y = load_iris(return_X_y=True)
    search = EvoSearchCV(DecisionTreeClassifier(random_state=0), {"max_depth": Int(1, 5)}, n_iter=3, cv=2)
    print(search.fit(x, y).best_score_)
"""


class Without:
    """Commands in a folder whose processes cannot import torch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.imports = folder / "imports"
        (folder / "block").mkdir()
        (folder / "block" / "sitecustomize.py").write_text(BLOCK)
        root = str(Path(__file__).parents[1])
        path = os.pathsep.join([str(folder / "block"), root])
        self.env = {**os.environ, "PYTHONPATH": path, "TORCH_WAS_IMPORTED": str(self.imports)}

    def python(self, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, *words], cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=200
        )
        assert done.returncode == 0, done.stderr
        assert not self.imports.exists(), f"torch was imported by {self.imports.read_text()}"
        return done.stdout

    def evo_tune(self, *words: str) -> str:
        return self.python("-m", "evo_tune", *words)


@pytest.fixture
def without(tmp_path: Path) -> Without:
    return Without(tmp_path)


def test_a_process_that_imports_torch_is_noticed(without: Without) -> None:
    with pytest.raises(AssertionError, match="torch must not be imported here"):
        without.python("-c", "import torch")
    without.imports.unlink()
    with pytest.raises(AssertionError, match="torch was imported by"):
        without.python("-c", "try:\n    import torch\nexcept ImportError:\n    pass")


def test_a_function_is_tuned_and_its_run_continued(without: Without) -> None:
    (without.folder / "function.py").write_text(FUNCTION)
    assert 0.0 <= float(without.python("function.py")) <= 1.0
    without.evo_tune("resume", "function", "--trials", "6")
    assert json.loads(without.evo_tune("verify", "function", "--format", "json"))["disagreements"] == []


def test_a_script_is_tuned_and_reported(without: Without) -> None:
    (without.folder / "train.py").write_text(SCRIPT)
    without.evo_tune(
        *("run", f"{sys.executable} train.py {{lr}}", "--gene", "lr=float(0,1)", "--metric", r"loss=loss ([\d.e-]+)"),
        *("--objective", "loss:min", "--name", "script", "--trials", "4", "--slots", "1"),
    )
    for command in ("show", "status", "best", "list", "report", "verify"):
        without.evo_tune(command, *([] if command == "list" else ["script"]))
    assert (without.folder / "populations" / "script" / "_report.html").is_file()
    without.evo_tune("resume", "script", "--trials", "5")
    without.evo_tune("strategies")
    without.evo_tune("evaluators")


def test_a_live_page_is_served(without: Without) -> None:
    need("web")
    (without.folder / "train.py").write_text(SCRIPT)
    command = f"{sys.executable} train.py {{lr}}"
    genes = ("--gene", "lr=float(0,1)", "--metric", r"loss=loss ([\d.e-]+)", "--objective", "loss:min")
    without.evo_tune("run", command, *genes, "--name", "script", "--trials", "2", "--slots", "1")
    words = [sys.executable, "-m", "evo_tune", "watch", "script", "--port", "0", "--format", "json"]
    with subprocess.Popen(words, cwd=without.folder, env=without.env, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            lines = [server.stdout.readline()]
            while not lines[-1].startswith("}"):
                lines.append(server.stdout.readline())
            address = json.loads("".join(lines))["address"]
            with urllib.request.urlopen(address, timeout=30) as page:
                assert b"script" in page.read()
        finally:
            server.terminate()
    assert not without.imports.exists()


def test_an_estimator_is_tuned(without: Without) -> None:
    need("sklearn")
    (without.folder / "estimator.py").write_text(ESTIMATOR)
    assert float(without.python("estimator.py")) > 0.5
