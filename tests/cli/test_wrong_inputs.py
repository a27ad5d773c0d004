"""Wrong inputs of every command: one line that names the input, a status, and nothing lost."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from tests.cli.conftest import Typed

CONFIG = "run 'python train.py {config}' --gene 'lr=float(0,1)' --objective loss:min "

SCRIPT = "run 'python train.py {lr}' --gene 'lr=log(1e-4,1)' --objective loss:min --trials 1 "

WRONG = {
    # What is run.
    "run train.py": "train.py",
    "run 'python nothing.py {lr}' --gene lr=float(0,1) --objective loss:min": "nothing.py",
    "run 'nowhere train.py {lr}' --gene lr=float(0,1) --objective loss:min": "nowhere",
    "run 'python train.py {lr' --gene lr=float(0,1) --objective loss:min": "{lr",
    "run 'python train.py {lr} {depth}' --gene lr=float(0,1) --objective loss:min": "depth",
    "run 'python train.py' --gene lr=float(0,1) --objective loss:min": "lr",
    "run 'python train.py {lr}' --objective loss:min": "--gene",
    "run 'python train.py {lr}' --gene lr=float(0,1)": "objective",
    "run 'python \"train.py {lr}' --gene lr=float(0,1) --objective loss:min": "quot",
    SCRIPT + "--metric 'loss=('": "loss=(",
    SCRIPT + "--metric 'loss=([0-9]+) ([0-9]+)'": "loss=",
    SCRIPT + "--progress step/": "step/",
    SCRIPT + "--progress -3": "-3",
    SCRIPT + "--metrics-file metrics.json": "{folder}",
    SCRIPT + "--metrics-file '{folder}/../metrics.json'": "..",
    SCRIPT + "--template none.yaml": "none.yaml",
    SCRIPT + "--template conf.yaml": "{config}",
    SCRIPT + "--set a.b={lr}": "--template",
    CONFIG + "--template conf.yaml --set 'z.y={lr}'": "z.y",
    CONFIG + "--template bad.json --set 'a={lr}'": "bad.json",
    SCRIPT + "--prune": "--progress",
    SCRIPT + "--fidelity 1/3,1": "{budget}",
    SCRIPT + "--judge 'nowhere {folder}'": "nowhere",
    SCRIPT + "--patches none": "none",
    SCRIPT + "--patches empty": "empty",
    SCRIPT + "--protect train.py": "--patches",
    # Genes and settings.
    "run quick.py --gene 'x=float(0,1) ~ 3±'": "x",
    "run quick.py --gene 'depth=int(1.5,3)'": "depth",
    "run quick.py --gene 'x=log(0,1)'": "x",
    "run quick.py --gene 'x=float(0,1) widest 5..2'": "x",
    "run quick.py --gene 'x=float(0,1) when colour=red'": "colour",
    "run quick.py --gene 'kind=a|a'": "kind",
    "run quick.py --gene x=nan": "x",
    "run quick.py --trials 1e3": "1e3",
    "run quick.py --hours -1": "-1",
    "run quick.py --hours nan": "nan",
    "run quick.py --seed -1": "-1",
    "run quick.py --slots 0": "0",
    "run quick.py --final-seeds -1": "-1",
    "run quick.py --final-seeds 100000": "100000",
    "run quick.py --timeout 0": "0",
    "run quick.py --subject-to 'cost<3'": "cost<3",
    "run quick.py --learn-from nothing": "nothing",
    "run quick.py --track mlflow:x": "mlflow",
    "run quick.py --backend slurm": "slurm",
    "run quick.py --scheduler-file none.json": "--backend",
    "run quick.py --name first --trials 1": "first",
    "run quick.py --config broken.toml": "broken.toml",
    "run quick.py --warm-start broken.toml": "broken.toml",
    "run quick.py --strategy none.py": "none.py",
    # Runs.
    "resume nothing": "nothing",
    "resume first --trials 1 --gene 'x=float(0,0.5)'": "x",
    "resume first --seed 3": "--seed",
    "resume first --as first": "first",
    "show nothing": "nothing",
    "show first --predict x=9": "x",
    "show first --predict nothing=1": "nothing",
    "best nothing": "nothing",
    "status nothing": "nothing",
    "verify nothing": "nothing",
    "report first nothing": "nothing",
    "report first -o none/report.html": "none/report.html",
    "list --store none": "none",
    "list --sort colour": "colour",
    "rename first ../up": "../up",
    "rename first first": "first",
    "delete nothing --yes": "nothing",
    "propose first x=much": "x",
    "propose first y=1": "y",
    "propose first genomes.json": "genomes.json",
    "propose first --patch none.patch": "patch",
    "convert first --to excel": "excel",
    "convert nothing --to optuna": "nothing",
    "export nothing model": "nothing",
    "scale first --depth 2 --width 64": "--tokens",
    # Data and models.
    "predict none table.csv": "none",
    "predict empty table.csv": "empty",
    "run tabular -o data=none.csv -o target=kind --dry-run": "none.csv",
    "run tabular -o data=table.csv -o target=colour --dry-run": "colour",
    "run tabular -o data=table.csv": "target",
    "run forecasting -o data=table.csv --dry-run": "table.csv",
    "auto none.csv --target kind": "none.csv",
    "auto table.csv --target colour": "colour",
    "auto empty": "empty",
    "verdict none.csv --baseline base": "none.csv",
    "verdict table.csv --baseline base": "table.csv",
    "new ../up": "../up",
    "evaluators nothing": "nothing",
    "mcp none": "none",
    "completion powershell": "powershell",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    (folder / "train.py").write_text("import sys\nprint('loss', sys.argv[1])\n")
    (folder / "table.csv").write_text("width,kind\n1,a\n2,b\n")
    (folder / "conf.yaml").write_text("a: 1\n")
    (folder / "bad.json").write_text('{"a": }')
    (folder / "broken.toml").write_text("trials = \n")
    (folder / "genomes.json").write_text('{"x": ')
    (folder / "empty").mkdir()
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files of a run, without what tells readers of its lock."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("_*.json*")) if path.is_file()}


def complaint(typed: Typed, runs: Path, words: str, named: str) -> str:
    """Return what is wrong with the answer to an input; '' for one line that names it, a status and no loss."""
    before, done = contents(runs / "first"), typed(*shlex.split(words))
    errors = [line for line in done.err.splitlines() if line.startswith("Error: ")]
    if done.code == 0 or len(errors) != 1 or "Traceback" in done.err + done.out:
        return f"{words}: {done}"
    if named not in errors[0]:
        return f"{words}: {named!r} is not named: {errors[0]}"
    others = [path.name for path in runs.iterdir() if path.is_dir() and path.name != "first"]
    return f"{words}: {others} {errors}" if others or contents(runs / "first") != before else ""


def test_a_wrong_input_is_one_line_a_status_and_no_loss(typed: Typed, folder: Path, files: Path) -> None:
    for path in files.iterdir():
        (folder / path.name).symlink_to(path)
    assert typed("run", "quick.py", "--trials", "2", "--final-seeds", "0", "--name", "first", "--no-report").code == 0
    runs = folder / "populations"
    assert len(contents(runs / "first")) >= 2
    assert len(WRONG) >= 90, "a case is left out only with what it is about"
    complaints = [complaint(typed, runs, words, named) for words, named in WRONG.items()]
    assert not any(complaints), "\n".join(filter(None, complaints))
