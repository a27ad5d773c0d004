"""The wheel by itself: built as `make release` does, unpacked into an empty place, and used from an empty folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import evo_tune
from tests.test_release import release

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the wheel's content in it; dependencies come from this environment."""
    place = tmp_path_factory.mktemp("wheel")
    sdist, wheel = release.build(place)
    release.check_contents(sdist, wheel)
    assert release.version_of(wheel) == evo_tune.__version__
    with zipfile.ZipFile(wheel) as content:
        content.extractall(place / "lib")  # as pip does: it has no scripts or data of its own
    return place / "lib"


TYPED = """
import json, sys
from evo_tune.cli import main
for words in json.loads(sys.argv[1]):
    sys.argv = ["evo-tune", *words]
    try:
        main()
    except SystemExit as end:
        assert not end.code, (words, end.code)
    print(chr(12))
"""


@pytest.mark.slow
def test_the_main_job_with_nothing_but_the_wheel(installed: Path, tmp_path: Path) -> None:
    """And the parent of the main job never loads torch."""
    env = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}  # threads that wait take a core each
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # each process would compile all of it

    def typed(*lines: list[str], then: str) -> list[str]:
        """Type commands one after the other in one process, then Python; return what each printed."""
        words = [sys.executable, "-c", TYPED + then, json.dumps([[*line, "--store", "pops"] for line in lines])]
        done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.split(chr(12))

    where = "import evo_tune, evo_tune.plugins.find as p; print(evo_tune.__file__, p.bundled_folder())"
    found = subprocess.run([sys.executable, "-c", where], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert found.stdout.split() == [str(installed / "evo_tune/__init__.py"), str(installed / "evo_tune/evaluators")]

    (tmp_path / "text.txt").write_bytes((ROOT / "README.md").read_bytes() * 8)
    words = ["-o", "data=text.txt", "-o", "tokens=1500", "-o", "eval_tokens=1000", "--final-seeds", "0", "--slots", "1"]
    words += ["--population", "2", "--generations", "2", "--name", "r1", "--quiet"]
    _, _, shown, best, verified, _ = typed(
        ["run", "language_model", *words],
        ["resume", "r1", "--quiet"],  # at its end: all is read, nothing is trained
        ["show", "r1"],
        ["best", "r1"],
        ["verify", "r1"],
        then="assert 'torch' not in sys.modules, 'torch was loaded'",
    )
    assert "4 evaluations" in shown
    assert "val_loss" in best
    assert "all 4 proposals agree" in verified
    use = "import evo_tune; print(len(evo_tune.load_model('model').generate('The ', 40)))"
    assert int(typed(["export", "r1", "model", "--tokens", "1500"], then=use)[-1]) > 0
    module = [sys.executable, "-m", "evo_tune", "--version"]
    assert subprocess.run(module, cwd=tmp_path, env=env, capture_output=True).stdout.startswith(b"evo-tune, version ")
