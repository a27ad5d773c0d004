"""A run whose slots are a job array of SLURM, by the scripts of docs/examples/slurm/, disturbed in every way.

It needs a running SLURM on which this user may submit jobs, with six cores: four workers, and two for the run. It is
skipped elsewhere.
"""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from slot_helpers import until

from evo_tune import Search
from evo_tune.store.run import Run
from tests import extras

ROOT = Path(__file__).parents[2]

TASK = '''"""A training that continues from its checkpoint."""
import os
import time
from pathlib import Path

from evo_tune import Float, Minimize, SearchSpace

SPACE = SearchSpace(x=Float(0.0, 1.0))
OBJECTIVES = [Minimize("loss")]


def evaluate(genome, context, *, pause: float = 0.2):
    folder = Path(context.folder)
    checkpoint = folder / "unfinished.pt"
    step = int(checkpoint.read_text()) if checkpoint.exists() else 0
    with open("begun.txt", "a") as file:
        print(folder.name, step, os.environ.get("SLURM_JOB_ID"), file=file)
    while step < 20:
        time.sleep(pause)
        step += 1
        (folder / "part").write_text(str(step))
        (folder / "part").rename(checkpoint)
    return {"loss": (genome["x"] - 0.3) ** 2}
'''


def slurm(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True, timeout=60).stdout.strip()


def blocks() -> Iterator[tuple[str, str]]:
    yield from ((path.name, path.read_text()) for path in (ROOT / "docs/examples/slurm").glob("*.sh"))


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the scripts; its jobs are cancelled at the end."""
    extras.need("dask")
    if shutil.which("sbatch") is None or subprocess.run(["sinfo"], capture_output=True).returncode:
        pytest.skip("there is no SLURM here: sinfo does not answer")
    folder = tmp_path_factory.mktemp("slurm")
    for name, text in blocks():
        for old, new in {
            "source .venv/bin/activate": f"export PATH={Path(sys.executable).parent}:$PATH PYTHONPATH={ROOT}\n"
            f"export XDG_STATE_HOME={folder}/state USER={getpass.getuser()}",
            "--cpus-per-task=2": "",
            "--gpus=1 --cpus-per-task=8 --partition=preempt": "",
            "mytask.py --name night --trials 200": "task.py --name night --trials 10 --order proposal --final-seeds 0",
            "evo-tune run": f"{sys.executable} -m evo_tune run",
            "search-worker": f"worker-{folder.name}",
        }.items():
            text = text.replace(old, new)
        (folder / name).write_text(text)
    (folder / "task.py").write_text(TASK)
    key = "req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=evo-tune"
    subprocess.run(["openssl", *key.split()], cwd=folder, check=True, capture_output=True)
    jobs = [
        slurm("sbatch", "--parsable", "-D", str(folder), str(folder / f"{name}.sh")) for name in ("worker", "search")
    ]
    (folder / "jobs").write_text(" ".join(jobs))
    yield folder
    slurm("scancel", *jobs)


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_a_disturbed_run_has_the_trials_of_an_undisturbed_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers, search = (folder / "jobs").read_text().split()
    begun = folder / "begun.txt"

    def begins() -> list[list[str]]:
        return [line.split() for line in begun.read_text().splitlines()] if begun.exists() else []

    def running(task: int) -> str:
        """Return the job of a task of the array, once a training runs in it."""
        job = slurm("squeue", "-h", "-o", "%A", "-j", f"{workers}_{task}")
        assert until(lambda: job in {line[2] for line in begins()[-4:]}, 90.0)
        return job

    def start_again(job: str) -> None:
        """Start a requeued job now: SLURM waits for minutes.

        It refuses a job that starts in the second in which it was requeued ("Job credential revoked").
        """
        assert until(lambda: slurm("squeue", "-h", "-o", "%T", "-j", job) == "PENDING", 90.0)
        time.sleep(3)
        while slurm("squeue", "-h", "-o", "%T", "-j", job) == "PENDING":
            subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], capture_output=True)
            time.sleep(1)

    disturbances: list[Callable[[], object]] = [
        lambda: slurm("scancel", running(1)),  # cancelled
        lambda: slurm("scontrol", "requeue", running(2)),  # as a preemption does
        lambda: slurm("scancel", "--batch", "--signal=USR1", running(3)),  # before its time limit
        lambda: (slurm("scontrol", "requeue", search), start_again(search)),
        lambda: (slurm("scancel", "--batch", "--signal=USR1", search), start_again(search)),
    ]
    for disturb in disturbances:
        count = len(begins())
        assert until(lambda count=count: len(begins()) > count, 120.0)
        time.sleep(1)  # some checkpoints
        disturb()
    assert until(lambda: not slurm("squeue", "-h", "-j", f"{search},{workers}"), 300.0)

    run = Run.open(folder / "populations/night")
    assert [outcome.status for outcome in run.outcomes.values()] == ["ok"] * 10, begun.read_text()
    assert len(run.sessions) == 3
    assert any(int(step) > 0 for _, step, _ in begins()), "no training has continued from its checkpoint"
    monkeypatch.chdir(tmp_path)
    Path("task.py").write_text(TASK)
    plain = Search("task.py", options={"pause": 0}, trials=10, order="proposal", final_seeds=0, slots=2, name="plain")
    plain.run()
    assert [trial.genome for trial in run.trials()] == [trial.genome for trial in plain.trials]
    assert [trial.losses for trial in run.trials()] == [trial.losses for trial in plain.trials]
    verified = subprocess.run(
        [sys.executable, "-m", "evo_tune", "verify", "night"],
        cwd=folder,
        env={**os.environ, "XDG_STATE_HOME": f"{folder}/state", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert "all 10 proposals agree" in verified.stdout
