"""`evo-tune run … --template conf.yaml`: real programs that read the file, and what the run keeps of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from evo_tune import Search, load
from evo_tune.genome.genes import Float
from evo_tune.store.manifest import read_manifest
from tests.cli.conftest import Typed
from tests.extras import need

CONF = "lr: {lr=log(1e-5,1e-1) @ 1e-5}\nmodel:\n  depth: 2\n"

TRAIN = """
import json
def train(lr, depth):
    assert (type(lr), type(depth)) == (float, int), (lr, depth)
    print(json.dumps({"val_loss": lr * 100 + depth}))
"""

YAML = """
import sys, yaml
from use import train
config = yaml.safe_load(open(sys.argv[1]))
train(config["lr"], config["model"]["depth"])
"""

OMEGACONF = """
import sys
from omegaconf import OmegaConf
from use import train
config = OmegaConf.load(sys.argv[1])
train(config.lr, config.model.depth)
"""

HYDRA = """
import hydra
from use import train
@hydra.main(version_base=None, config_path=None, config_name="conf")
def main(config):
    train(config.lr, config.model.depth)
main()
"""

JSONARGPARSE = """
from jsonargparse import ArgumentParser
from use import train
parser = ArgumentParser()
parser.add_argument("--config", action="config")
parser.add_argument("--lr", type=float)
parser.add_argument("--model.depth", type=int)
config = parser.parse_args()
train(config.lr, config.model.depth)
"""

PROGRAMS = [
    ("yaml", "{config}", YAML),
    ("omegaconf", "{config}", OMEGACONF),
    ("hydra", "--config-path={folder} --config-name=conf hydra.run.dir={folder}", HYDRA),
    ("jsonargparse", "--config {config}", JSONARGPARSE),
]

BRIEF = ("--objective", "val_loss:min", "--quiet", "--no-report", "--final-seeds", "0", "--name", "one")


@pytest.mark.parametrize(("package", "words", "code"), PROGRAMS)
def test_real_programs_read_the_configuration(typed: Typed, folder: Path, package: str, words: str, code: str) -> None:
    pytest.importorskip(package)
    need("yaml")
    (folder / "use.py").write_text(TRAIN)
    (folder / "train.py").write_text(code)
    (folder / "conf.yaml").write_text(CONF)
    flags = ("--template", "conf.yaml", "--set", "model.depth={depth}", "--gene", "depth=2|4|8", "--trials", "2")
    done = typed("run", f"{sys.executable} train.py {words}", *flags, *BRIEF)
    assert done.code == 0, done
    trials = load(folder / "populations" / "one").trials
    assert trials[0].genome == {"lr": 1e-5, "depth": 2}  # as in the file
    for trial in trials:
        assert trial.outcome.metrics["val_loss"] == pytest.approx(trial.genome["lr"] * 100 + trial.genome["depth"])


LIGHTNING = """
import json, torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LightningCLI
from torch.utils.data import DataLoader, TensorDataset

class Line(LightningModule):
    def __init__(self, lr: float = 0.1, width: int = 2):
        super().__init__()
        self.save_hyperparameters()
        self.net = torch.nn.Sequential(torch.nn.Linear(1, width), torch.nn.Tanh(), torch.nn.Linear(width, 1))
    def loss(self, batch):
        return ((self.net(batch[0]) - batch[0]) ** 2).mean()
    def training_step(self, batch, number):
        return self.loss(batch)
    def validation_step(self, batch, number):
        self.log('val_loss', self.loss(batch))
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.hparams.lr)
    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.linspace(-1, 1, 32)[:, None]), batch_size=8)
    val_dataloader = train_dataloader

LightningCLI(Line)
"""

LIGHTNING_CONF = """
seed_everything: {seed}
model:
  lr: {lr=log(1e-3,1e-1) @ 1e-3}
  width: 2
trainer:
  accelerator: cpu
  max_epochs: 2
  enable_progress_bar: false
  default_root_dir: {folder}
  logger:
    class_path: lightning.pytorch.loggers.CSVLogger
    init_args:
      save_dir: {folder}
"""


@pytest.mark.slow
def test_a_lightning_cli_reads_its_configuration_and_its_csv_is_the_curve(typed: Typed, folder: Path) -> None:
    need("lightning")
    need("yaml")
    pytest.importorskip("jsonargparse")
    (folder / "train.py").write_text(LIGHTNING)
    (folder / "conf.yaml").write_text(LIGHTNING_CONF)
    done = typed(
        *("run", f"{sys.executable} train.py fit --config {{config}}", "--template", "conf.yaml"),
        *("--set", "model.width={width}", "--gene", "width=2|8", "--trials", "2"),
        *("--metrics-file", "{folder}/lightning_logs/version_0/metrics.csv", "--progress", "epoch/2"),
        *BRIEF,
    )
    assert done.code == 0, done
    assert all(trial.outcome.metrics["val_loss"] > 0 for trial in load(folder / "populations" / "one").trials)


# ---------------------------------------------------------------------------------------------------------
# The run


SCRIPT = "import json, sys; c = json.load(open(sys.argv[1])); print(json.dumps({'val_loss': c['a']['lr']}))"
JSON = '{"a": {"lr": 1}, "b": "{on=true|false}"}'


@pytest.fixture
def command(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
    (folder / "train.py").write_text(SCRIPT)
    (folder / "c.json").write_text(JSON)
    flags = ("--template", "c.json", "--set", "a.lr={lr}", "--gene", "lr=log(1e-4,1)")
    return (f"{sys.executable} train.py {{config}}", *flags, *BRIEF)


def test_a_run_keeps_its_template_and_notices_a_change(typed: Typed, folder: Path, command: tuple[str, ...]) -> None:
    assert typed("run", *command, "--trials", "2").code == 0
    manifest = read_manifest(folder / "populations" / "one")
    assert manifest.options["template"] == f"c.json\n{JSON}"
    assert {*manifest.space} == {"lr", "on"}
    (folder / "c.json").write_text(JSON.replace('"lr": 1', '"lr": 2, "new": 3'))
    refused = typed("resume", "one", "--trials", "4", "--no-report")
    assert refused.code != 0
    assert "c.json" in refused.err
    assert typed("resume", "one", "--trials", "4", "--no-report", "--accept-changes").code == 0
    for trial in load(folder / "populations" / "one").trials:  # the run has its own copy
        text = (folder / "populations" / "one" / "_trials" / f"{trial.id:06d}" / "c.json").read_text()
        assert json.loads(text) == {"a": {"lr": trial.genome["lr"]}, "b": trial.genome["on"]}
    assert typed("verify", "one", "--trust").code == 0


def test_best_prints_a_command_that_writes_the_file(typed: Typed, folder: Path, command: tuple[str, ...]) -> None:
    assert typed("run", *command, "--trials", "2").code == 0
    best = load(folder / "populations" / "one").best
    line = typed("best", "one").out.partition("train it: ")[2].strip()
    assert "\n" not in line
    printed = subprocess.run(line, shell=True, cwd=folder, capture_output=True, text=True, check=True).stdout
    assert json.loads(printed) == best.outcome.metrics


DAMAGED = [
    ('"evaluator": "command:', '"evaluator": "command:\'unclosed '),
    ('"template": "', '"template": 7, "shell": "'),
    ('"template": "', '"template": "c.json\\n{{", "shell": "'),
    ('"template": "', f'"template": "{"x" * (1 << 18)}'),
    ('"set_values": "', '"set_values": [1], "judge": "'),
]


def test_a_damaged_command_is_left_out_of_best_and_report(typed: Typed, folder: Path, command: tuple[str, ...]) -> None:
    assert typed("run", *command, "--trials", "1").code == 0
    path = folder / "populations" / "one" / "_run.json"
    text = path.read_text()
    for old, new in DAMAGED:
        assert old in text
        path.write_text(text.replace(old, new, 1))
        for name in ("best", "report"):
            done = typed(name, "one")
            assert (done.code, "Traceback" in done.err) == (0, False), done
        report = (folder / "populations" / "one" / "_report.html").read_text(encoding="utf-8")
        assert "Print the genome" in report, new[:40]


def test_a_stranger_is_told_of_the_template(
    typed: Typed, folder: Path, command: tuple[str, ...], monkeypatch: Any
) -> None:
    assert typed("run", *command, "--trials", "1").code == 0
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "another"))
    asked = typed("resume", "one", "--trials", "2")
    assert asked.code != 0
    assert "with the configuration 'c.json' of the run" in asked.err


def test_a_template_changes_what_a_stranger_runs(typed: Typed, folder: Path, command: tuple[str, ...]) -> None:
    assert typed("run", *command, "--trials", "1").code == 0
    path = folder / "populations" / "one" / "_run.json"
    path.write_text(path.read_text().replace('\\"lr\\": 1', '\\"lr\\": 9'))
    assert "--trust" in typed("resume", "one", "--trials", "2").err


def test_from_python(folder: Path, command: tuple[str, ...]) -> None:
    options = {"template": "c.json", "set_values": "a.lr={lr}"}
    search = Search(command[0], genes={"lr": Float(1e-4, 1.0, log=True)}, options=options, objectives=["val_loss:min"])
    with search:
        assert search.saved.manifest.options["template"] == f"c.json\n{JSON}"
