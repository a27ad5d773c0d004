"""The file that `evo-tune new` writes: valid as it is, quick, and never over another file."""

import time
from pathlib import Path

import numpy as np
import pytest

from evo_tune import Context, Search
from evo_tune.cli.commands.new import command as new_command
from evo_tune.errors import UsageError
from evo_tune.plugins.evaluator import Evaluator
from evo_tune.plugins.find import find_evaluator, write


@pytest.fixture
def evaluator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Evaluator:
    monkeypatch.chdir(tmp_path)
    assert write("my_task", Path("evaluators")) == Path("evaluators/my_task.py")
    return find_evaluator("my_task")


def test_it_has_every_part(evaluator: Evaluator) -> None:
    assert evaluator.summary.startswith("my_task: ")
    options = evaluator.bind({"steps": "1e2"})
    assert options.options == {"steps": 100, "points": 200}
    space = options.space
    assert space.repair is not None
    assert options.estimate(space.default()) == {"params": 96}
    assert options.fingerprint() != evaluator.bind({**options.options, "points": 10}).fingerprint()


def test_it_evaluates_quickly_and_repeats(evaluator: Evaluator, tmp_path: Path) -> None:
    options = evaluator.bind({})
    genome = options.space.default()
    contexts = [Context(seed=seed, folder=tmp_path / "trial") for seed in (1, 1, 2)]
    began = time.process_time()
    first, again, other = (options.evaluate(genome, context) for context in contexts)
    assert (time.process_time() - began) / 3 < 0.2
    assert first == again != other
    assert contexts[0].curve[-1] == (1.0, {"val_loss": first["val_loss"], "decayed": 1.0})
    assert not (tmp_path / "trial").exists()


@pytest.mark.slow
def test_every_genome_is_valid_and_trains_to_a_number(evaluator: Evaluator, tmp_path: Path) -> None:
    options = evaluator.bind({})
    space = options.space
    rng = np.random.default_rng(0)
    losses = []
    for genome in [space.default(), *(space.sample(rng) for _ in range(30))]:
        assert space.check(genome) == genome
        assert genome["warmup"] + genome["decay"] <= 1.000001
        losses.append(options.evaluate(genome, Context(seed=1, folder=tmp_path))["val_loss"])
    assert all(0.0 < loss < 2.0 for loss in losses)
    assert sum(loss < losses[0] for loss in losses) < 15  # the default is an honest opponent
    assert min(losses) < 0.8 * losses[0]  # and there is something to find


def test_its_test_set_is_its_own_and_shown_only_where_it_is_asked_for(evaluator: Evaluator, tmp_path: Path) -> None:
    options = evaluator.bind({})
    genome = options.space.default()
    shown, asked = (options.evaluate(genome, Context(folder=tmp_path, test=test)) for test in (False, True))
    assert evaluator.tests == {"val_loss": "test_loss"}
    assert asked.keys() - shown.keys() == {"test_loss"}
    assert asked["test_loss"] != asked["val_loss"] == shown["val_loss"]
    points = [tuple(x) for x, _ in evaluator.module.data(50)]
    assert len(set(sum(points, ()))) == 150


def test_it_stops_at_its_budget(evaluator: Evaluator, tmp_path: Path) -> None:
    context = Context(budget=0.4, folder=tmp_path)
    options = evaluator.bind({})
    options.evaluate(options.space.default(), context)
    assert [round(fraction * 300) for fraction, _ in context.curve] == [50, 60, 100, 120]


def test_a_part_is_a_whole_training_in_small_and_its_fall_is_thrown_away(evaluator: Evaluator, tmp_path: Path) -> None:
    options = evaluator.bind({})
    genome = {**options.space.default(), "warmup": 0.0}  # warm-up is of the full training's length
    part, small = Context(budget=0.4, folder=tmp_path / "part"), Context(folder=tmp_path / "small")
    found = options.evaluate(genome, part)
    assert found == evaluator.bind({**options.options, "steps": 120}).evaluate(genome, small)
    assert [point["decayed"] for _, point in part.curve] == [0.0, 0.0, 1.0, 1.0]
    assert np.load(tmp_path / "part" / "state.npy")[0] == 60, "what goes on, goes on from before the fall"
    whole = options.evaluate({**genome, "decay": 1.0}, Context(budget=0.4, folder=tmp_path / "all fall"))
    assert not (tmp_path / "all fall").exists(), "there is nothing to go on from"
    assert whole["val_loss"] != found["val_loss"]


def test_it_goes_on_from_where_it_stopped(evaluator: Evaluator, tmp_path: Path) -> None:
    options = evaluator.bind({})
    genome = options.space.default()
    part = Context(budget=0.4, folder=tmp_path / "part")
    options.evaluate(genome, part)
    rest = Context(folder=tmp_path / "rest", resume_folder=tmp_path / "part")
    whole = Context(folder=tmp_path / "whole")
    assert options.evaluate(genome, rest) == options.evaluate(genome, whole)
    assert [round(fraction * 300) for fraction, _ in rest.curve] == [100, 150, 200, 250, 300]


@pytest.mark.usefixtures("here")
def test_it_runs(evaluator: Evaluator) -> None:
    search = Search("my_task", trials=3, slots=1).run()
    assert [trial.outcome.error for trial in search.trials] == [None] * 3
    assert list(search.frame()["metric.params"]) == [3 * trial.genome["width"] for trial in search.trials]


@pytest.mark.parametrize("name", ["", "my-task", "my_task.py", "2fast", "class", "_hidden", "a/b", "../up"])
def test_a_name_that_is_no_identifier_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as raised:
        write(name, tmp_path / "evaluators")
    assert repr(name) in str(raised.value)
    assert "expected" in str(raised.value)
    assert not (tmp_path / "evaluators").exists()


def test_no_file_is_overwritten(tmp_path: Path) -> None:
    write("mine", tmp_path)
    (tmp_path / "mine.py").write_text("# edited\n")
    with pytest.raises(UsageError, match=r"mine\.py exists already: choose another name"):
        write("mine", tmp_path)
    assert (tmp_path / "mine.py").read_text() == "# edited\n"


@pytest.mark.parametrize(("name", "warned"), [("language_model", True), ("mine", False)])
def test_a_name_that_hides_a_bundled_evaluator_is_warned_of(
    name: str, warned: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    new_command.main([name], standalone_mode=False)
    out, err = capsys.readouterr()
    assert out.startswith(f"wrote evaluators/{name}.py")
    assert err.count("\n") == warned
    assert ("hides the bundled evaluator language_model" in err) == warned


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "evaluators").write_text("a file")
    with pytest.raises(UsageError, match="evaluators is not a folder"):
        write("mine", tmp_path / "evaluators")
    with pytest.raises(UsageError, match=r"cannot write .*mine\.py: Not a directory"):
        write("mine", tmp_path / "evaluators" / "deeper")


def test_it_has_its_name_and_short_lines(tmp_path: Path) -> None:
    text = write("my_task", tmp_path).read_text(encoding="utf-8")
    assert "evo-tune run my_task" in text
    assert "NAME" not in text
    assert max(len(line) for line in text.splitlines()) <= 120
