"""Hydra's sweeper: its overrides as genes, its launchers, a killed sweep, and the commands on its run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evo_tune import Choice, Float, Int, Minimize, Search
from evo_tune.errors import SpaceError, UsageError
from evo_tune.integrations import hydra as integration
from evo_tune.store.run import Run
from tests import extras

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs/examples/integrations/hydra_sweep.py"
SPACE = ["lr=tag(log, interval(1e-2,1))", "model.degree=choice(1,3,5)"]


def needs_hydra(function: Any) -> Any:
    return pytest.mark.skipif(extras.missing("hydra"), reason=extras.reason("hydra"))(function)


def words(*overrides: str, script: str = "train.py") -> list[str]:
    return [sys.executable, script, "-m", "hydra/sweeper=evo_tune", *overrides]


def environment(**variables: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}


def typed(folder: Path, *command: str, code: int = 0) -> str:
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=200)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def evo_tune(folder: Path, *command: str) -> str:
    return typed(folder, sys.executable, "-m", "evo_tune", *command)


def application(folder: Path, body: str) -> None:
    text = "import hydra, time\n\n\n@hydra.main(version_base=None, config_path='conf', config_name='config')\n"
    text += f"def train(config):\n    {body}\n\n\nif __name__ == '__main__':\n    train()\n"
    (folder / "train.py").write_text(text)
    for name, content in {
        "config": "defaults: [{optimizer: adam}, _self_]\nlr: 0.1\ntag: none\nmodel: {degree: 3}\n",
        "optimizer/adam": "beta: 0.9",
        "optimizer/sgd": "beta: 0.1",
    }.items():
        path = folder / f"conf/{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def genomes(folder: Path, name: str) -> list[Any]:
    return [(candidate.genome, candidate.parents) for candidate in Run.open(folder / "populations" / name).candidates]


def results(folder: Path) -> str:
    (path,) = folder.glob("multirun/*/*/optimization_results.yaml")
    return path.read_text()


# ---------------------------------------------------------------- overrides


def read(*texts: str, **config: Any) -> dict[str, Any]:
    omegaconf = pytest.importorskip("omegaconf")
    composed = omegaconf.OmegaConf.create({**config, "hydra": {"runtime": {"choices": {"optimizer": "sgd"}}}})
    return integration.read_overrides(list(texts), composed, None)


@needs_hydra
@pytest.mark.parametrize(
    ("text", "gene"),
    [
        ("a=interval(0,1)", Float(0, 1)),
        ("a=int(interval(1,8))", Int(1, 8)),
        ("a=interval(0.0,1)", Float(0, 1)),
        ("a=tag(log,interval(1e-4,1e-2))", Float(1e-4, 1e-2, log=True)),
        ("a=int(tag(log,interval(1,64)))", Int(1, 64, log=True)),
        ("a=range(1,8)", Int(1, 7)),
        ("a=range(8,0,-2)", Int(2, 8, step=2)),
        ("a=range(0,1,0.25)", Choice([0.0, 0.25, 0.5, 0.75], ordered=True)),
        ("a=shuffle(range(1,4))", Int(1, 3)),
        ("a=choice(2,4,8)", Choice([2, 4, 8], ordered=True)),
        ("a=2,4", Choice([2, 4], ordered=True)),
        ("a=sort(4,2)", Choice([2, 4], ordered=True)),
        ("a=true,x,null,'b c',[1,2]", Choice([True, "x", "null", "'b c'", "[1,2]"])),
    ],
)
def test_each_sweep_of_the_grammar_is_a_gene(text: str, gene: object) -> None:
    assert read(text) == {"a": gene}


@needs_hydra
def test_the_configuration_is_the_default_and_other_overrides_stay() -> None:
    sweep = read("a.b=range(1,8)", "optimizer=adam,sgd", "+c=1,2", "~d", "e={x: 1}", "f=1,2", "f=3", a={"b": 2}, f=1)
    assert sweep == {
        "a.b": Int(1, 7, default=2),
        "optimizer": Choice(["adam", "sgd"], default="sgd"),
        "+c": Choice([1, 2], ordered=True),
        "~d": "~d",
        "e": "e={x: 1}",
        "f": "f=3",
    }
    overrides = integration.overrides_of(sweep, {"a.b": 5, "optimizer": "adam", "+c": 1})
    assert overrides == ["a.b=5", "optimizer=adam", "+c=1", "~d", "e={x: 1}", "f=3"]
    assert read("a=interval(5,6)", a=1) == {"a": Float(5, 6)}  # out of the interval


@needs_hydra
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a=interval(2,1)", "low must be below high"),
        ("a=tag(log,interval(0.0,1))", "needs low above 0"),
        ("a=range(1e-4,1e-1)", "has one value here, 0.0001: give interval(0.0001,0.1)"),
        ("a=range(1,1)", "expected a list of one or more values"),
        ("a=range(0,1,1e-9)", "more than 1000 values: give an interval"),
        ("a=1", "no override is a sweep"),
    ],
)
def test_a_sweep_that_cannot_be_searched_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)) as error:
        read(text)
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------- batches


def test_a_batch_cut_off_at_any_event_is_completed_as_without_the_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("job.py").touch()

    def sweep(name: str, events: int) -> Search:
        """Run batches of 3 in sessions of so many events (ask or tell) each."""
        search = Search("python job.py {x}", space={"x": "float(0,1)"}, objectives=["loss:min"], trials=8, name=name)
        while search.finished is None:
            budget = [events]

            def spend(call: Any, *arguments: Any, budget: list[int] = budget) -> Any:
                if budget[0] == 0:
                    raise KeyboardInterrupt
                budget[0] -= 1
                return call(*arguments)

            try:
                asked, told = search.ask, search.tell
                search.ask = lambda asked=asked: spend(asked)  # type: ignore[method-assign]
                while batch := integration._next_batch(search, 3):
                    for candidate in batch:
                        spend(told, candidate, {"loss": candidate.genome["x"]})
            except KeyboardInterrupt:
                search.saved.close()
                search = Search.resume(name, trials=8)
        search.close()
        return search

    whole = sweep("whole", 1000).saved.candidates
    assert [candidate.reported_before for candidate in whole] == [0, 0, 0, 3, 3, 3, 6, 6]
    for events in (4, 5, 7):
        cut = sweep(f"cut-{events}", events).saved.candidates
        assert [(c.genome, c.reported_before) for c in cut] == [(c.genome, c.reported_before) for c in whole]


@pytest.mark.parametrize(
    ("returned", "metrics"),
    [
        (1, {"a": 1.0}),
        ([2], {"a": 2.0}),
        ({"a": 1.0, "b": 2}, {"a": 1.0, "b": 2}),
        (None, None),
        ([1, 2], None),
        ("x", None),
    ],
)
def test_the_return_value_of_a_job(returned: object, metrics: object) -> None:
    objectives = [Minimize("a")]
    if metrics is None:
        with pytest.raises(UsageError, match="expected numbers for a, or a dict"):
            integration._metrics_of(returned, objectives)
    else:
        assert integration._metrics_of(returned, objectives) == metrics


def test_the_command_of_a_run_trains_one_trial_without_a_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["-m", "-cn", "big", "hydra/sweeper=evo_tune", "hydra.job.chdir=true", "lr=1,2", "e={x: 1}"]
    monkeypatch.setattr(sys, "argv", ["/code/train.py", *arguments])
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "train", *arguments])
    command = integration.job_command({"+lr": Choice([1, 2]), "e": "e={x: 1}"})
    assert command == "python -m train -cn big hydra.job.chdir=true 'e={{x: 1}}' '+lr={+lr}'"


# ---------------------------------------------------------------- whole sweeps


@needs_hydra
@pytest.mark.slow
def test_the_example_is_an_ordinary_run(tmp_path: Path) -> None:
    limits = ["hydra.sweeper.n_trials=6", "hydra.sweeper.n_jobs=2", "hydra.sweeper.name=mine"]
    (tmp_path / "train.py").write_bytes(EXAMPLE.read_bytes())
    printed = typed(tmp_path, *words(*SPACE, "steps=50", *limits))
    assert "mine, 0 of 6 trials: the same command with hydra.sweeper.name=mine continues it" in printed
    run = Run.open(tmp_path / "populations/mine")
    assert run.candidates[0].genome == {"lr": 0.1, "model.degree": 3}  # the configuration as it is
    best = min(run.trials(), key=lambda trial: trial.outcome.metrics["loss"])
    assert f"best loss {best.outcome.metrics['loss']:.6g}, trial {best.id}: {{'lr':" in printed
    assert f"`evo-tune report {run.name}` shows all trials" in printed
    lines = [f"trial: {best.id}", f"  lr: {best.genome['lr']}", f"best_value: {best.outcome.metrics['loss']}"]
    assert {"name: evo_tune", *lines} <= set(results(tmp_path).splitlines())
    assert {path.name for path in tmp_path.glob("multirun/*/*/[0-9]*")} == set("012345")
    assert "all 6 proposals agree" in evo_tune(tmp_path, "verify", "mine")
    shown = evo_tune(tmp_path, "best", "mine")
    assert re.search(rf"train it: \S+ train.py steps=50 lr={best.genome['lr']} model.degree=", shown)
    assert "_report.html" in evo_tune(tmp_path, "report", "mine")
    evo_tune(tmp_path, "resume", "mine", "--trials", "7", "--quiet")  # the application prints its loss
    assert Run.open(tmp_path / "populations/mine").outcomes[6].status == "ok"


@needs_hydra
@pytest.mark.slow
def test_a_killed_sweep_continues_with_the_same_command(tmp_path: Path) -> None:
    application(tmp_path, "time.sleep(0.2); return abs(config.lr - 0.5)")
    overrides = ["lr=interval(0.0,1)", "hydra.sweeper.n_trials=6", "hydra.sweeper.n_jobs=2"]
    typed(tmp_path, *words(*overrides, "hydra.sweeper.name=whole"))
    journal = tmp_path / "populations/killed/_journal.jsonl"
    killed = words(*overrides, "hydra.sweeper.name=killed")
    for count in (1, 3):
        process = subprocess.Popen(killed, cwd=tmp_path, env=environment(), stderr=subprocess.DEVNULL)
        while process.poll() is None and not (journal.is_file() and journal.read_text().count('"ok"') >= count):
            time.sleep(0.02)
        process.kill()
        process.wait()
    typed(tmp_path, *killed)
    assert genomes(tmp_path, "killed") == genomes(tmp_path, "whole")
    assert "all 6 proposals agree" in evo_tune(tmp_path, "verify", "killed")
    other = typed(tmp_path, *words("lr=interval(0.0,2)", "hydra.sweeper.name=killed"), code=1)
    assert "that run has other genes" in other
    typed(tmp_path, *words(*overrides, "hydra.sweeper.name=killed", "hydra.sweeper.n_trials=7"))
    assert len(genomes(tmp_path, "killed")) == 7


@needs_hydra
@pytest.mark.slow
def test_failed_trials_are_values_up_to_the_maximum_rate(tmp_path: Path) -> None:
    application(tmp_path, "assert config.optimizer.beta > 0.5, 'no sgd'; return [config.lr, -config.lr]")
    overrides = ["optimizer=glob(*)", "lr=interval(0.0,1)", "hydra.sweeper.objectives=[a:min,b:max]"]
    overrides += ["hydra.sweeper.n_trials=6", "hydra.sweeper.name=mine", "+hydra.sweeper.search.population=3"]
    stopped = typed(tmp_path, *words(*overrides), code=1)
    assert "AssertionError: no sgd" in stopped
    assert "1 of 1 failed, with hydra.sweeper.max_failure_rate=0.0" in stopped
    assert "interrupted: the same command with hydra.sweeper.name=mine continues it" in stopped
    assert Run.open(tmp_path / "populations/mine").ended == "interrupted"
    typed(tmp_path, *words(*overrides, "hydra.sweeper.max_failure_rate=1"))
    run = Run.open(tmp_path / "populations/mine")
    failed = {candidate.id for candidate in run.candidates if candidate.genome["optimizer"] == "sgd"}
    assert failed == {id for id, outcome in run.outcomes.items() if outcome.error == "AssertionError: no sgd"} != set()
    assert "solutions:" in results(tmp_path)


@needs_hydra
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer=choice(adam,sdg)", "Could not find 'optimizer/sdg'"),
        ("modle.degree=choice(2,4)", "Key 'modle' is not in struct"),
        ("+hydra.sweeper.search.slots=3", "hydra.sweeper.search.slots is unknown: expected one of population"),
        ("hydra.sweeper.max_failure_rate=2", "max_failure_rate=2.0 is not allowed: expected a number in [0, 1]"),
    ],
)
def test_a_wrong_override_writes_nothing(override: str, message: str, tmp_path: Path) -> None:
    application(tmp_path, "return 0.0")
    printed = typed(tmp_path, *words("tag=a,b", override), code=1)
    assert message in printed
    assert "Traceback" not in printed
    assert not (tmp_path / "populations").exists()


@needs_hydra
@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_the_launcher_trains_a_batch_at_once(launcher: str, tmp_path: Path) -> None:
    package = f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher"
    if find_spec("hydra_plugins") is None or find_spec(package) is None:
        pytest.skip(f"the launcher is not installed: pip install {package.partition('.')[2].replace('_', '-')}")
    application(tmp_path, "time.sleep(0.5); return config.lr")
    limits = ["hydra.sweeper.n_trials=4", "hydra.sweeper.n_jobs=2", "hydra.sweeper.name=mine"]
    typed(tmp_path, *words("lr=interval(0.0,1)", f"hydra/launcher={launcher}", *limits))
    run = Run.open(tmp_path / "populations/mine")
    assert [candidate.reported_before for candidate in run.candidates] == [0, 0, 2, 2]
    assert [outcome.status for outcome in run.outcomes.values()] == ["ok"] * 4


@needs_hydra
def test_hydra_loads_the_plugin_without_the_rest_of_evo_tune() -> None:
    modules = "[name for name in sys.modules if 'evo_tune' in name and not name.startswith('__editable__')]"
    code = f"import sys, hydra_plugins.evo_tune_sweeper; print({modules})"
    assert typed(ROOT, sys.executable, "-c", code).strip() == "['hydra_plugins.evo_tune_sweeper']"


def test_settings_of_the_sweeper_are_documented() -> None:
    text = (ROOT / "hydra_plugins/evo_tune_sweeper/__init__.py").read_text()
    fields = re.findall(r"^    ([a-z]\w+): ", text, re.M)
    page = (ROOT / "docs/integrations.md").read_text()
    assert fields
    assert [name for name in fields if f"`{name}`" not in page] == []


def test_a_range_of_all_numbers_is_not_counted_through() -> None:
    def override(numbers: range) -> Any:
        sweep = SimpleNamespace(tags=(), range=lambda: numbers)
        return SimpleNamespace(value=lambda: sweep, is_interval_sweep=lambda: False, is_range_sweep=lambda: True)

    assert integration._gene_of(override(range(10**11, 1, -3))) == Int(4, 10**11, step=3)
    with pytest.raises(SpaceError, match="use a Float"):
        integration._gene_of(override(range(1, 10**24)))
