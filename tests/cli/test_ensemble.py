"""`export --ensemble` and `auto --single`: several models in one folder, if they predict better together."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

import evo_tune
from evo_tune.cli.training import final_training, model_training
from evo_tune.cli.training.final_training import Wish, read_wish
from evo_tune.cli.training.model_training import (
    Pace,
    Training,
    choose_pace,
    count_trainings,
    member_candidates,
    write_ensemble,
)
from evo_tune.dispatch.devices import plan
from evo_tune.errors import PluginError
from evo_tune.forecast.clock import Clock
from evo_tune.genome.trial import Candidate
from evo_tune.loop import slots
from evo_tune.loop.search import Search
from evo_tune.plugins.find import find_evaluator
from evo_tune.store.run import Run
from tests.cli.conftest import Typed
from tests.conftest import open_here
from tests.extras import need


@pytest.fixture
def data(folder: Path) -> Path:
    """A folder with a table on which a linear model and boosted trees make different errors."""
    return write_tables(folder)


def write_tables(folder: Path) -> Path:
    need("boosting")
    rng = np.random.default_rng(0)
    values = rng.normal(size=(240, 3))
    target = values[:, 0] + np.sign(values[:, 1]) + 0.3 * rng.normal(size=240)
    frame = pd.DataFrame(values, columns=["a", "b", "c"]).assign(target=target.round(4))
    frame.iloc[:200].to_csv(folder / "table.csv", index=False)
    frame.iloc[200:].to_csv(folder / "new.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run over two families, which nobody changes."""
    folder = write_tables(tmp_path_factory.mktemp("families"))
    options = {"data": "table.csv", "target": "target", "families": "boosting,linear", "evaluations": 4}
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.setattr(slots, "open_slots", open_here)
        Search("tabular", options=options, trials=5, slots=1, final_seeds=0, baseline=False, name="mine").run()
    return folder


@pytest.fixture
def run(original: Path, folder: Path) -> Run:
    """A run over two families."""
    shutil.copytree(original, folder, dirs_exist_ok=True)
    return Run.open(folder / "populations" / "mine")


def test_an_export_has_several_models_and_says_what_each_adds(run: Run, folder: Path, typed: Typed) -> None:
    done = typed("export", "mine", "model", "--ensemble", "4")
    assert done.code == 0, done
    config = json.loads((folder / "model" / "config.json").read_text())
    members = config["members"]
    assert {member["family"] for member in members} == {"boosting", "linear"}
    assert re.search(r"an ensemble of \d models: its test loss is \S+ ± \S+ (lower|higher) than that of one", done.out)
    names = {path.name for path in (folder / "model").iterdir()}
    assert names == {"README.md", "config.json", *(f"member-{number}" for number in range(len(members)))}
    model: Any = evo_tune.load_model("model")
    single: Any = [evo_tune.load_model(folder / "model" / f"member-{number}") for number in range(len(members))]
    rows, total = pd.read_csv("new.csv"), sum(member["weight"] for member in members)
    mean = sum(member["weight"] / total * one.predict(rows) for member, one in zip(members, single, strict=True))
    assert model.predict(rows) == pytest.approx(mean)
    card = (folder / "model" / "README.md").read_text()
    assert "pipeline_tag: tabular-regression" in card
    assert "evo-tune export mine model --ensemble 4" in card
    for number, member in enumerate(members):
        row = next(line for line in card.splitlines() if line.startswith(f"| member-{number} |"))
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[1:5] == [str(member[name]) for name in ("trial", "family", "seed", "weight")]
        assert float(cells[5]) == pytest.approx(member["loss"], rel=1e-3)
        assert member["training_seconds"] > 0
        assert member["size"] > (folder / "model" / f"member-{number}" / "model.safetensors").stat().st_size
    losses = [member["loss"] for member in members]
    assert config["metrics"]["val_loss"] < min(losses)
    predicted = typed("predict", "model", "new.csv", "--format", "json")
    assert predicted.code == 0, predicted
    assert json.loads(predicted.out)["metrics"]["rmse"] == pytest.approx(model.evaluate(rows)["rmse"])


def test_the_test_loss_is_that_of_the_folder(run: Run, folder: Path, typed: Typed) -> None:
    """The rows of the test part, predicted from the folder, have the metrics that it states."""
    from evo_tune.loop.code import load_run_evaluator
    from evo_tune.trust.decide import Consent

    assert typed("export", "mine", "model", "--ensemble", "3").code == 0
    assert typed("export", "mine", "single").code == 0
    plugin = load_run_evaluator(run, Consent(trust=True))
    test = plugin.bind(run.manifest.options).values.table.test
    rows, model = pd.read_csv("table.csv").iloc[test], evo_tune.load_model("model")
    config = json.loads((folder / "model" / "config.json").read_text())
    metrics: Any = model.evaluate(rows)
    assert metrics["loss"] == pytest.approx(config["metrics"]["test_loss"])
    single: Any = evo_tune.load_model("single")
    assert config["test_gain"] == pytest.approx(single.evaluate(rows)["loss"] - metrics["loss"])
    assert config["test_count"] == len(rows)


def test_candidates_are_the_best_of_each_family_then_the_ranking_then_seeds(run: Run) -> None:
    best = run.ranked()[0].candidate
    candidates = member_candidates(run, best, 8)
    families = [candidate.genome["family"] for candidate in candidates]
    assert candidates[0] is best
    assert set(families[:2]) == {"boosting", "linear"}
    ranked = [trial.id for trial in run.ranked()]
    assert [one.id for one in candidates[2:5]] == [
        id for id in ranked if id not in {candidates[0].id, candidates[1].id}
    ]
    assert [one.id for one in candidates[5:]] == [best.id] * 3, "fresh seeds of the best"
    assert len({(one.id, one.seed) for one in candidates}) == 8
    assert member_candidates(run, best, 2) == candidates[:2]


def test_a_family_with_a_far_higher_loss_does_not_come_first(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    best, other = member_candidates(run, run.ranked()[0].candidate, 2)
    losses = [run.outcomes[candidate.id].metrics["val_loss"] for candidate in (best, other)]
    monkeypatch.setattr(model_training, "LARGEST_RATIO", 0.99 * losses[1] / losses[0])
    assert member_candidates(run, best, 5)[1:] == [trial.candidate for trial in run.ranked()[1:]]


def test_fits_of_a_kept_model_are_counted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    best, reserves = run.ranked()[0], {}
    genome = best.candidate.genome
    search: Any = SimpleNamespace(saved=run, clock=Clock(), plan_timed_steps=None, best=best)
    search.session = SimpleNamespace(hours=1.0)
    for refit, fits in (("none", 1.0), ("validation", 1.25), ("all", 1.5)):
        bound = search.evaluator = find_evaluator("tabular").bind({**run.manifest.options, "refit": refit})
        assert bound.values.fits == 4, "a fit takes a quarter of the time of a trial"
        assert count_trainings(bound, genome) == fits
        assert count_trainings(bound, {**genome, "family": "transformer"}) == 1
        assert count_trainings(bound.with_options(families="transformer"), {}) == 1
        monkeypatch.setattr(final_training, "read_wish", lambda run: Wish(single=True))
        reserves[fits] = final_training.time_for_model(search)(10.0)
        most = 1.05e4 + 5.0 + (0.15 + 0.03) * 3600.0
        assert final_training.time_for_model(search)(1e4) <= most, "at most 15 % of the hours, and 3 % for the files"
        pace = choose_pace(run, bound, best.candidate, plan(1, "cpu", 1, None), None)
        assert pace.seconds == pytest.approx(fits * best.outcome.seconds)
    assert reserves[1.25] - reserves[1.0] == reserves[1.5] - reserves[1.25] == pytest.approx(1.05 * 10.0 / 4)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--ensemble", "1"), "1 is not in the range 2<=x<=16"),
        (("--ensemble", "17"), "17 is not in the range 2<=x<=16"),
        (("--ensemble", "many"), "'many' is not a valid whole number"),
    ],
)
def test_a_wrong_number_of_models_is_refused(words: tuple[str, ...], told: str, folder: Path, typed: Typed) -> None:
    done = typed("export", "mine", "model", *words)
    assert (done.code, told in done.err) == (2, True), done


def test_models_that_cannot_be_averaged_are_refused_before_a_training(folder: Path, typed: Typed) -> None:
    text = (folder / "quick.py").read_text() + "\n\ndef export(genome, context, folder):\n    raise AssertionError\n"
    (folder / "quick.py").write_text(text)
    assert typed("run", "quick.py", "--trials", "2", "--name", "q", "--quiet").code == 0
    done = typed("export", "q", "model", "--ensemble", "2")
    assert (done.code, "--ensemble: the models of evaluator quick cannot be averaged" in done.err) == (2, True), done
    (folder / "quick.py").write_text(f"{text}\nSUPPORTS = ['ensemble']\n".replace("raise AssertionError", "return {}"))
    done = typed("export", "q", "model", "--ensemble", "2", "--trust")
    assert "noted no predictions in context.predictions: leave --ensemble out" in done.err, done
    assert not Path("model").exists()


def test_an_interrupt_leaves_no_folder(run: Run, folder: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    export, begun = Training.export, []

    def interrupt(self: Training, *arguments: Any) -> Any:
        begun.append(1)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return export(self, *arguments)

    monkeypatch.setattr(Training, "export", interrupt)
    before = set(folder.iterdir())
    assert typed("export", "mine", "model", "--ensemble", "3").code == 130
    assert len(begun) == 2
    assert set(folder.iterdir()) == before


# ---------------------------------------------------------------- the rules, on models that take no time


@dataclass(frozen=True)
class Quick:
    """A training that takes no time, whose model has one error for all samples."""

    candidate: Candidate
    seed: int
    error: Any
    failure: bool = False

    def export(self, target: Path, scratch: Path, err: bool, predictions: Any = None) -> dict[str, Any]:
        from evo_tune.training.samples import PartPredictions

        if self.failure:
            raise PluginError("the training was lost")
        target.mkdir(parents=True)
        config = {"class": "LinearModel", "options": {"data": "x"}, "labels": ["price"], "scale": [0, 1]}
        (target / "config.json").write_text(json.dumps(config))
        for part in ("held_out", "test"):
            predictions[part] = PartPredictions(np.full((4, 1), self.error), np.zeros(4), 1.0)
        return {"val_loss": float(np.square(self.error).mean())}

    def write_card(self, target: Path, metrics: Any) -> None:
        (target / "README.md").write_text(str(metrics["val_loss"]))


Write = Callable[..., dict[str, Any]]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def of(*trainings: Any, fits: Callable[[Any], bool] = lambda training: True, least_gain: float = 0.0) -> Any:
        (tmp_path / "out").mkdir()
        return write_ensemble(iter(trainings), tmp_path / "out", tmp_path / "scratch", False, fits, least_gain)

    return of


def quick(error: float, id: int = 0, **fields: Any) -> Quick:
    return Quick(Candidate(id, 0, 0, 0, {"family": "linear"}, "default"), id, error, **fields)


def content(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_models_that_cancel_become_an_ensemble(write: Write, tmp_path: Path) -> None:
    metrics = write(quick(1.0, 3), quick(5.0, 4), quick(-1.0, 5))
    assert metrics["val_loss"] == 0.0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert [member["trial"] for member in config["members"]] == [3, 5]
    assert [member["gain"] for member in config["members"]] == [1.0, 1.0], "the other one alone has a loss of 1"
    assert (config["test_gain"], config["test_error"], config["test_count"]) == (1.0, 0.0, 4)
    assert content(tmp_path / "out") == {"README.md", "config.json", "member-0", "member-1"}


def test_where_no_mean_is_better_the_first_model_is_written(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert write(quick(1.0), quick(2.0)) == {"val_loss": 1.0}
    assert content(tmp_path / "out") == {"README.md", "config.json"}
    assert "2 models are trained, and the first is written: no mean of them is better" in capsys.readouterr().out


def test_a_gain_that_is_too_small_gives_one_model(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert write(quick(1.0), quick(-0.5), least_gain=1.0) == {"val_loss": 1.0}
    assert "member-0" not in content(tmp_path / "out")
    assert "a mean has a validation loss of 0, the best of them alone 0.25" in capsys.readouterr().out


def test_an_ensemble_that_is_hardly_better_than_a_member_is_not_written(write: Write, tmp_path: Path) -> None:
    """The final comparison has preferred the first model to that member."""
    alike = (np.array([[1.0], [1.0], [1.0], [last]]) for last in (0.1, -0.9))
    assert write(quick(2.0), *map(quick, alike), least_gain=0.01) == {"val_loss": 4.0}
    assert "member-0" not in content(tmp_path / "out")


def test_a_model_for_which_no_time_is_left_is_not_trained(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A later one, which takes less time, is trained all the same."""
    write(quick(1.0), quick(-1.0, 1), quick(-0.5, 2), fits=lambda training: training.error == -0.5)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert {member["trial"] for member in config["members"]} == {0, 2}
    assert "trial 1 is no member: no time is left for its training" in capsys.readouterr().out


def test_a_lost_training_is_no_member_unless_it_is_the_first(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(quick(1.0), quick(0.0, 7, failure=True), quick(-1.0, 2))
    assert "trial 7 is no member: the training was lost" in capsys.readouterr().out
    assert "member-1" in content(tmp_path / "out")
    with pytest.raises(PluginError):
        write_ensemble(iter([quick(0.0, failure=True)]), tmp_path / "x", tmp_path, False, lambda training: True, 0.0)


# ---------------------------------------------------------------- auto


AUTO = ["auto", "table.csv", "--target", "target", "--families", "boosting,linear", "-o", "evaluations=4"]
AUTO += ["--trials", "4", "--slots", "1"]


def test_auto_writes_an_ensemble_unless_one_model_is_asked_for(data: Path, typed: Typed) -> None:
    done = typed(*AUTO, "--name", "mine", "--out", "model")
    assert done.code == 0, done
    assert re.search(r"\nuse model: an ensemble of \d models: its test loss is", done.out), done
    members = json.loads((data / "model" / "config.json").read_text())["members"]
    assert content(data / "model") == {"README.md", "config.json", *(f"member-{n}" for n in range(len(members)))}
    assert content(data / "populations" / "mine" / "_model") == content(data / "model")
    again = typed(*AUTO, "--name", "mine", "--out", "model")
    assert again.code == 0, "it has this model already"
    single = typed(*AUTO, "--name", "other", "--out", "single", "--single")
    assert single.code == 0, single
    assert content(data / "single") == {"README.md", "config.json", "model.safetensors"}
    assert "an ensemble of" not in single.out
    assert read_wish(Run.open(data / "populations" / "other")).single  # type: ignore[union-attr]


def test_auto_writes_one_model_where_an_ensemble_gains_too_little(
    data: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(final_training, "LEAST_GAIN", 1.0)
    monkeypatch.setattr(final_training, "MEMBERS", 3)
    done = typed(*AUTO, "--name", "mine", "--out", "model")
    assert "3 models are trained, and the first is written: a mean has a validation loss of" in done.out, done
    assert content(data / "model") == {"README.md", "config.json", "model.safetensors"}


def test_time_for_members_is_reserved_and_asked_for(data: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    def reserve(single: bool, supports: tuple[str, ...], hours: float) -> float:
        wish = Wish(single=single)
        monkeypatch.setattr(final_training, "read_wish", lambda run: wish)
        plugin = SimpleNamespace(name="tabular", supports=supports)
        best = SimpleNamespace(candidate=SimpleNamespace(genome={}))
        search: Any = SimpleNamespace(saved=None, clock=Clock(), plan_timed_steps=None, best=best)
        search.evaluator = SimpleNamespace(plugin=plugin, options={}, values=None)
        search.session = SimpleNamespace(hours=hours)
        return final_training.time_for_model(search)(10.0)

    one = reserve(True, ("ensemble",), 1.0)
    assert one == reserve(False, (), 1.0)
    assert reserve(False, ("ensemble",), 1.0) == pytest.approx(one + 3 * 1.05 * 10.0)
    assert one == pytest.approx(5.0 + 1.05 * 10.0 + 0.03 * 3600.0), "it ends 3 % of the hours before their end"
    short = reserve(True, ("ensemble",), 0.01)
    assert reserve(False, ("ensemble",), 0.01) == pytest.approx(short + 0.05 * 36.0), "at most 5 % of the hours"


def test_a_training_fits_by_its_predicted_seconds() -> None:
    pace: Any = final_pace(10.0)
    training = Training(None, None, None, None, pace, 0, "", time.monotonic() + 20.0)  # type: ignore[arg-type]
    assert training.fits(training)
    assert not training.fits(replace(training, pace=final_pace(20.0)))
    assert not training.fits(replace(training, pace=final_pace(float("nan")))), "an unknown duration"
    assert replace(training, ends_at=float("inf")).fits(replace(training, pace=final_pace(float("nan"))))


def final_pace(seconds: float) -> Any:
    return Pace(1, seconds, "")
