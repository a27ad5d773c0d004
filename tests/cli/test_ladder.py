"""`run --ladder`: what it stands for, what it says at the end, and what it refuses before a run."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Typed

SIZED = '''"""Loss falls with size, up to a point."""
from evo_tune import Float, Int, Minimize, SearchSpace

SPACE = SearchSpace(lr=Float(0.1, 1.0), depth=Int(1, 4, default=3), width=Int(8, 64, step=8))
OBJECTIVES = [Minimize("loss")]


def evaluate(genome, context):
    return {"loss": 1.0 / min(8, genome["depth"]) + 0.001 * genome["lr"]}
'''


def test_it_climbs_says_where_it_stopped_and_can_be_verified(typed: Typed, folder: Path) -> None:
    (folder / "sized.py").write_text(SIZED)
    flags = ("--ladder", "1x8,2x8,8x16,16x32", "--trials", "14", "--population", "3", "--final-seeds", "0")
    done = typed("run", "sized.py", *flags, "-s", "threshold=0.05", "--name", "a", "--slots", "1")
    assert done.code == 0, done
    assert "stopped at rung 16x32: gain " in done.out
    assert "per doubling is below 0.05" in done.out
    rows = [row.split(",") for row in typed("show", "a", "--format", "csv").out.splitlines()]
    depths = [row[rows[0].index("gene.depth")] for row in rows[2:13]]
    assert list(dict.fromkeys(depths)) == ["1", "2", "8", "16"]
    assert depths == sorted(depths, key=int)
    assert typed("verify", "a").code == 0
    again = typed("resume", "a", "--trials", "15", "--slots", "1", "--format", "json")
    assert "stopped at rung 16x32" in json.loads(again.out)["status"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--ladder", "1x8,2x8"), "strategy ladder needs genes depth and width"),
        (("--ladder", "1x8,huge"), "expected DEPTHxWIDTH"),
        (("--ladder", "1x8", "--strategy", "ga"), "--ladder stands for --strategy ladder"),
        (("--strategy", "ladder"), "needs -s sizes"),
    ],
)
def test_what_cannot_be_climbed_is_said_before_a_run(
    typed: Typed, folder: Path, flags: tuple[str, ...], said: str
) -> None:
    done = typed("run", "quick.py", *flags, "--trials", "2")
    assert done.code == 2
    assert said in done.err
    assert not (folder / "populations").exists()
