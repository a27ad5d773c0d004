"""`evo-tune schedule`, mostly in this process: it loads nothing heavy."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from evo_tune.cli import cli
from evo_tune.errors import RecipeError, UsageError
from evo_tune.training.recipe.optim.schedule import SCHEDULES, Schedule, Scheduling
from tests.cli.conftest import Typed


def ask(*words: str) -> Result:
    return CliRunner().invoke(cli, ["schedule", *words])


@pytest.mark.parametrize("name", SCHEDULES)
def test_numbers_are_those_that_a_training_uses(name: str) -> None:
    fraction = Scheduling().decay_fraction
    schedule = Schedule(name=name, steps=40, cycle=8, warmup_fraction=0.1, decay_fraction=fraction)
    words = [name, "--steps", "40", "--lr", "0.002", "--cycle", "8", "--warmup-fraction", "0.1"]
    expected = [0.002 * schedule(step) for step in range(40)]
    rows = list(csv.DictReader(io.StringIO(ask(*words, "--format", "csv").output)))
    assert [int(row["step"]) for row in rows] == list(range(40))
    assert [float(row["lr"]) for row in rows] == expected
    assert [row["lr"] for row in json.loads(ask(*words, "--format", "json").output)] == expected
    assert ask(*words).exit_code == 0


def test_the_chart_is_as_high_as_the_rate_and_names_what_happens() -> None:
    out = ask("multi_step", "--steps", "600", "--warmup-fraction", "0", "--lr", "1e-3").output
    heights = [sum(line[11 + column : 12 + column] == "█" for line in out.splitlines()[:10]) for column in range(60)]
    assert heights == [10] * 48 + [3] * 6 + [1] * 6
    lines = {line.split()[0]: line for line in out.splitlines()[12:] if line.split()}
    assert "step down" in lines["480"]
    assert "3.16e-04" in lines["480"] or "0.000316" in lines["480"]
    assert "restart" in ask("sgdr", "--steps", "100").output
    assert "decay begins" in ask("wsd", "--steps", "100").output
    assert max(map(len, ask("sgdr", "--steps", "100000", "--cycle", "10").output.splitlines())) <= 80


@pytest.mark.parametrize("steps", ["1", "2", "7"])
def test_short_trainings_have_charts_too(steps: str) -> None:
    result = ask("cosine", "--steps", steps)
    assert result.exit_code == 0, result.output
    assert result.output.count("█") >= 10


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (["cosin", "--steps", "9"], "schedule"),
        (["cosine", "--steps", "0"], "steps"),
        (["cosine", "--steps", "9", "--lr", "nan"], "lr"),
        (["cosine", "--steps", "9", "--lr", "0"], "lr"),
        (["cosine", "--steps", "9", "--lr", "1.5"], "lr"),
        (["cosine", "--steps", "9", "--warmup-fraction", "0.6"], "warmup_fraction"),
        (["wsd", "--steps", "9", "--decay-shape", "round"], "decay_shape"),
        (["sgdr", "--steps", "9", "--gamma", "0"], "gamma"),
        (["sgdr", "--steps", "9", "--cycle", "0"], "cycle"),
    ],
)
def test_a_field_out_of_its_range_is_one_error(words: list[str], field: str) -> None:
    error = ask(*words).exception
    assert isinstance(error, RecipeError)
    assert error.field == field


def test_too_many_steps_and_a_folder_that_is_not_there_are_refused(tmp_path: Path) -> None:
    assert isinstance(ask("cosine", "--steps", "10000001").exception, UsageError)
    error = ask("cosine", "--steps", "9", "--png", str(tmp_path / "no" / "a.png")).exception
    assert isinstance(error, UsageError)
    assert "no folder" in str(error)


def test_a_png_is_drawn_or_the_error_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path / "matplotlib"))
    file = tmp_path / "rates.png"
    result = ask("cosine_step", "--steps", "50", "--png", str(file), "--format", "csv")
    assert result.exit_code == 0, result.exception
    assert file.read_bytes().startswith(b"\x89PNG")
    assert "wrote" not in result.stdout
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    other = tmp_path / "other.png"
    error = ask("cosine", "--steps", "50", "--png", str(other)).exception
    assert isinstance(error, UsageError)
    assert "pip install 'evo-tune[plots]'" in str(error)
    assert not other.exists()


def test_it_loads_neither_torch_nor_numpy() -> None:
    code = (
        "import sys; sys.argv = ['evo-tune', 'schedule', 'sgdr', '--steps', '50']\n"
        "from evo_tune.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'torch', 'numpy', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_help_names_the_schedules_and_the_default_decay(typed: Typed) -> None:
    from evo_tune.training.recipe.optim.schedule import SCHEDULES, Scheduling

    shown = " ".join(typed("schedule", "--help").out.split())
    assert f"NAME is one of {', '.join(SCHEDULES)}." in shown
    assert f"share of the steps that decay. [default: {Scheduling().decay_fraction}]" in shown
