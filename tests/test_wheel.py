"""The wheel by itself: built, unpacked into an empty place, and used from an empty folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the wheel's content in it; dependencies come from this environment."""
    place = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    sources = place / "sources"  # a build leaves its traces where it builds
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        if (ROOT / name).is_file():
            (sources / name).parent.mkdir(parents=True, exist_ok=True)
            (sources / name).write_bytes((ROOT / name).read_bytes())
    build = ["wheel", str(sources), "--no-deps", "--no-build-isolation", "--wheel-dir", str(place)]
    subprocess.run([*pip, *build], check=True)
    (wheel,) = place.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(place / "lib"), str(wheel)], check=True)
    return place / "lib"


@pytest.mark.slow
def test_the_main_job_with_nothing_but_the_wheel(installed: Path, tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(installed)}

    def typed(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "evo_tune", *words], cwd=tmp_path, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = "import evo_tune, evo_tune.plugins.find as p; print(evo_tune.__file__, p.bundled_evaluators())"
    found = subprocess.run([sys.executable, "-c", where], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert found.stdout.split() == [str(installed / "evo_tune/__init__.py"), str(installed / "evo_tune/evaluators")]

    (tmp_path / "text.txt").write_bytes((ROOT / "README.md").read_bytes() * 8)
    words = ["-o", "data=text.txt", "-o", "tokens=1500", "-o", "eval_tokens=1000", "--calibrate", "0", "--slots", "1"]
    words += ["--population", "2"]
    typed("run", "language_model", *words, "--generations", "2", "--name", "r1", "--store", "pops", "--quiet")
    typed("resume", "r1", "--store", "pops", "--quiet")  # at its end: all is read, nothing is trained
    assert "4 evaluations" in typed("show", "r1", "--store", "pops")
    assert "val_loss" in typed("best", "r1", "--store", "pops")
    assert "all 4 proposals agree" in typed("verify", "r1", "--store", "pops")
    typed("export", "r1", "model", "--store", "pops", "--tokens", "1500")
    use = "from evo_tune.training import GPT; print(len(GPT.load('model').generate('The ', 40)))"
    used = subprocess.run([sys.executable, "-c", use], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert used.returncode == 0, used.stderr
    assert int(used.stdout) > 0
