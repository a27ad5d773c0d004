"""docs/training.md: its example runs as it stands there, and its tables point at what is there."""

import ast
import re
from pathlib import Path

import pytest

import evo_tune
import evo_tune.training as training
from tests.public import script

TESTS = Path(__file__).parents[1]
PAGE = script("docs/generated.py").filled((TESTS.parent / "docs" / "training.md").read_text(encoding="utf-8"))
ROWS = [row.split(" | ") for row in re.findall(r"^\| ((?:P|E)\d+ .*) \|$", PAGE, re.M)]


def test_each_part_and_each_mistake_has_its_row_once() -> None:
    names = [row[0].split()[0] for row in ROWS]
    assert names == [*(f"P{n}" for n in range(1, 23)), *(f"E{n}" for n in range(1, 11))]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].split()[0])
def test_files_and_tests_of_a_row_are_there(row: list[str]) -> None:
    _, files, tests = row
    for file in re.findall(r"`(.+?)`", files):
        assert (Path(evo_tune.__file__).parent / file).is_file(), file
    for reference in re.findall(r"`(.+?)`", tests):
        file, _, name = reference.partition("::")
        tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
        assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, reference


def test_the_short_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (schedule,) = re.findall(r"^```python\n(from .*?)^```", PAGE, re.M | re.S)
    exec(schedule, {})
    rates = [float(line.split()[1]) for line in capsys.readouterr().out.splitlines()]
    assert (len(rates), max(rates)) == (40, 3e-4)


def test_the_example_runs_and_learns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = (TESTS.parent / "docs/examples/train_gpt.py").read_text(encoding="utf-8")
    for line in re.search(r"```\n(recipe = .*?)```", PAGE, re.S)[1].splitlines():  # type: ignore[index]
        assert line in code, "the page shows lines of the example"
    monkeypatch.chdir(tmp_path)
    exec(code, {"__name__": "__main__"})
    said = capsys.readouterr().out
    assert float(said.split()[0]) < 3.5
    assert "40960 tokens" in said
    assert training.GPT.load(tmp_path / "model").config.position == "rope"
