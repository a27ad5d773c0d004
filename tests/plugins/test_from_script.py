"""`evo-tune new NAME --from train.py`: what is read of a script's syntax, the guess around it, and that it trains."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest

from evo_tune import Choice, Context, Float, Int
from evo_tune.errors import UsageError
from evo_tune.genome.genes import Gene
from evo_tune.plugins.evaluator import Evaluator
from evo_tune.plugins.find import find_evaluator
from evo_tune.plugins.new import guessed, write
from evo_tune.plugins.scripts.launch import replaced
from evo_tune.plugins.scripts.settings import read_settings

PRINTS = "print('step 1: train loss 9.0, val loss %r' % value)\n"

FLAGS = (
    """
import argparse, os
open("ran", "w").close()
parser = argparse.ArgumentParser()
parser.add_argument("-l", "--lr", type=float, default=1e-3)
parser.add_argument("--batch-size", type=int, default=8)
parser.add_argument("--dropout", type=float, default=0)
parser.add_argument("--tied", action="store_true")
parser.add_argument("--no-norm", action="store_false", dest="norm")
parser.add_argument("--act", choices=["relu", "gelu"], default="gelu")
parser.add_argument("--log-interval", type=int, default=10)
parser.add_argument("--seed", type=int, default=1)
parser.add_argument("--out-dir", default="out")
parser.add_argument("--steps", type=int, default=4 * 100)
parser.add_argument("--resume", action="store_true")
parser.add_argument("--bad name", default=1)
a = parser.parse_args()
value = a.lr + a.batch_size + a.dropout + 100 * a.tied + 1000 * (not a.norm) + (a.act == "relu") / 4
assert a.seed == int(os.environ["EVO_TUNE_SEED"]) and os.path.isdir(a.out_dir)
"""
    + PRINTS
)

CONSTANTS = (
    """
from dataclasses import dataclass, field
from typing import Literal
LR = 3e-4
WEIGHT_DECAY: float = 0.0
BATCH = 2 * 16
NAME = "x"
lower = 5
@dataclass
class Config:
    layers: int = field(default=2)
    kind: Literal["a", "b"] = "b"
    bias: bool = True
    other: list = field(default_factory=list)
value = LR + WEIGHT_DECAY + BATCH + Config().layers + 100 * (not Config().bias) + (Config().kind == "a") / 4
if __name__ == "__main__":
"""
    + "    "
    + PRINTS
)

CONFIGURED = (
    """
import sys
learning_rate = 6e-4 # max learning rate
n_layer = 4
bias = False
_private = 3
exec(open('configurator.py').read()) # overrides from the command line
iter_num = 0
value = learning_rate + n_layer + 100 * bias
"""
    + PRINTS
)

CONFIGURATOR = """
from ast import literal_eval
for arg in sys.argv[1:]:
    key, value = arg.split('=')
    assert type(literal_eval(value)) == type(globals()[key[2:]])
    globals()[key[2:]] = literal_eval(value)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configurator.py").write_text(CONFIGURATOR)
    return tmp_path


def made(folder: Path, script: str) -> Evaluator:
    (folder / "train.py").write_text(script)
    write("task", Path("evaluators"), guessed("task", Path("train.py"), Path("evaluators")).text)
    assert not (folder / "ran").exists()  # nothing was executed
    return find_evaluator("task")


SPACES: list[tuple[str, dict[str, Gene]]] = [
    (
        FLAGS,
        {
            "lr": Float(1e-4, 1e-2, log=True, default=1e-3),
            "batch_size": Choice((2, 4, 8, 16, 32), ordered=True, default=8),
            "dropout": Float(0.0, 0.5, default=0.0),
            "tied": Choice((False, True), default=False),
            "norm": Choice((False, True), default=True),
            "act": Choice(("relu", "gelu"), default="gelu"),
        },
    ),
    (
        CONSTANTS,
        {
            "LR": Float(3e-5, 3e-3, log=True, default=3e-4),
            "WEIGHT_DECAY": Float(0.0, 0.1, default=0.0),
            "BATCH": Choice((8, 16, 32, 64, 128), ordered=True, default=32),
            "layers": Int(1, 4, default=2),
            "kind": Choice(("a", "b"), default="b"),
            "bias": Choice((False, True), default=True),
        },
    ),
    (
        CONFIGURED,
        {
            "learning_rate": Float(6e-5, 6e-3, log=True, default=6e-4),
            "n_layer": Int(2, 8, default=4),
            "bias": Choice((False, True), default=False),
        },
    ),
]


@pytest.mark.parametrize(("script", "genes"), SPACES, ids=["flags", "constants", "configurator"])
def test_the_guess_is_around_the_defaults_and_every_gene_reaches_the_script(
    folder: Path, script: str, genes: dict[str, Gene]
) -> None:
    evaluator = made(folder, script)
    space = evaluator.bind({}).space
    assert dict(space.genes) == genes
    default = space.default()
    assert default == {name: gene.default for name, gene in genes.items()}

    def loss(**changes: object) -> float:
        context = Context(seed=7, folder=folder / "trial", objectives=evaluator.objectives)
        return float(evaluator.bind({}).evaluate({**default, **changes}, context)["val_loss"])  # type: ignore[dict-item]

    expected = loss()
    assert expected == pytest.approx(sum(value for value in default.values() if type(value) in (int, float)))
    for name, gene in genes.items():
        other = next(value for u in (0.0, 1.0) if (value := gene.decode(u)) != default[name])
        assert loss(**{name: other}) != expected, name


def test_what_does_not_vary_stands_as_a_comment_and_what_a_trial_is_given_is_passed(folder: Path) -> None:
    (folder / "train.py").write_text(FLAGS)
    found = guessed("task", Path("train.py"), Path("evaluators"))
    assert found.others == ["log_interval", "steps"]
    assert "    # steps=Int(200, 800, default=400),\n" in found.text
    assert "ALWAYS = ['--seed={seed}', '--out-dir={folder}']" in found.text
    assert "# For --fidelity: put '--steps={budget*400}' into ALWAYS" in found.text
    uncommented = found.text.replace("    # steps=", "    steps=")
    assert {"steps", "lr"} <= {keyword.arg for node in ast.walk(ast.parse(uncommented)) for keyword in calls(node)}


def calls(node: ast.AST) -> list[ast.keyword]:
    return node.keywords if isinstance(node, ast.Call) else []


def test_what_the_script_needs_is_named(folder: Path) -> None:
    (folder / "train.py").write_text(
        FLAGS.replace('"--seed"', '"--data", required=True)\nparser.add_argument("--seed"')
    )
    found = guessed("task", Path("train.py"), Path("evaluators"))
    assert found.needed == ["data"]
    assert "# Words of every call. The script needs more: data." in found.text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"def f(:\n", "line 1: invalid syntax"),
        (b"x = (" + b"(" * 5000, "train.py"),
        (b"x = " + b"-" * 100_000 + b"1", "train.py"),
        (b"x = " + b"1+" * 50_000 + b"1", "train.py"),
        (b"A" * (2 << 20), "more than 1048576 bytes"),
        (b"\x00\xff", "train.py"),
        (b"\xff\xfe = 1", "train.py"),
        (b"print('hello')\n", "nothing in it can vary"),
        (b"", "it is empty"),
        (b"LR = 10**99999999999\nWD = 1e999\nX = 'a' * 10**10\n", "nothing in it can vary"),
    ],
)
def test_odd_scripts_are_refused_in_a_line(folder: Path, content: bytes, said: str) -> None:
    (folder / "train.py").write_bytes(content)
    with pytest.raises(UsageError) as caught:
        guessed("task", Path("train.py"), Path("evaluators"))
    message = str(caught.value)
    assert said in message
    assert message.startswith("--from train.py")
    assert message.isprintable()
    assert len(message) < 500


def test_what_is_no_file_is_refused(folder: Path) -> None:
    for name in ("missing.py", ".", "a\0b"):
        with pytest.raises(UsageError, match=r"--from .*expected a Python script"):
            guessed("task", Path(name), Path("evaluators"))
    os.mkfifo(folder / "pipe")
    with pytest.raises(UsageError, match="no regular file"):
        guessed("task", Path("pipe"), Path("evaluators"))


HOSTILE = [
    '"""; import os; open("ran", "w").close(); """',
    "x\\\n); open('ran', 'w').close()  #",
    "{lr} {{ }} {unknown}",
    "\x1b[2J \u202e",
    "'" * 3 + '"' * 3,
]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_of_a_script_becomes_code(folder: Path, text: str) -> None:
    script = f"LR = 0.1\nNAME = {text!r}\nimport argparse\np = argparse.ArgumentParser()\n"
    script += f"p.add_argument('--wd', default=0.1)\np.add_argument({'--' + text!r}, default={text!r})\n"
    script += f"p.add_argument('--act', choices=[{text!r}, 'b'], default='b')\n# {PRINTS}"
    evaluator = made(folder, script)
    _ = evaluator.bind({}).space
    assert not (folder / "ran").exists()
    assert (folder / "evaluators" / "task.py").read_text().replace("\n", "").isprintable()


def test_a_script_name_of_any_kind_is_called(folder: Path) -> None:
    (folder / 'a {x} "b".py').write_text("LR = 0.5\nprint('val_loss', LR)\n")
    text = guessed("task", Path('a {x} "b".py'), Path("evaluators")).text
    write("task", Path("evaluators"), text)
    evaluator = find_evaluator("task")
    context = Context(folder=folder / "trial", objectives=evaluator.objectives)
    assert evaluator.bind({}).evaluate({"LR": 0.25}, context) == {"val_loss": 0.25}


def test_constants_are_replaced_by_their_like() -> None:
    tree = ast.parse("A = 1\nB = True\nC = 'x'\nD: float = 0.5\nclass E:\n    f: int = 2\n")
    changed = replaced(tree, {"A": "3", "B": "False", "C": "7", "D": "1e-3", "E.f": "4"})
    assert ast.unparse(changed).split("\n") == [
        "A = 3",
        "B = False",
        "C = '7'",
        "D: float = 0.001",
        "",
        "class E:",
        "    f: int = 4",
    ]
    for values, said in (({"Z": "1"}, "no constant Z any more"), ({"B": "7"}, "expected a value like True")):
        with pytest.raises(UsageError, match=said):
            replaced(ast.parse("A = 1\nB = True"), values)


def test_what_is_printed_is_guessed(folder: Path) -> None:
    for text, wanted in (
        ("import json\nprint(json.dumps({'val_loss': 1}))", ("Minimize('val_loss')", "[]")),
        (
            "best_val_loss = 3\nprint(f'epoch {1} | Valid loss {2}')",
            ("Minimize('val_loss')", "['val_loss=Valid loss']"),
        ),
        ("print('accuracy: %f' % 1)", ("Maximize('accuracy')", "['accuracy']")),
        ("print('hello')", ("Minimize('val_loss')", "['val_loss']")),
    ):
        (folder / "train.py").write_text(f"LR = 0.1\n{text}\n")
        made = guessed("task", Path("train.py"), Path("evaluators")).text
        assert f"OBJECTIVES = [{wanted[0]}]\n" in made
        assert f"METRICS_IN_OUTPUT = {wanted[1]}\n" in made


def test_dataclasses_whose_parser_is_known_are_flags(folder: Path) -> None:
    text = "from dataclasses import dataclass\n@dataclass\nclass A:\n    lr: float = 1\n    bias: bool = True\n"
    for parser, words in (
        ("from transformers import HfArgumentParser", ["--lr={lr}", "--bias={bias}"]),
        ("import tyro", ["--lr={lr}", "{bias?--bias:--no-bias}"]),
        ("", ["A.lr={lr}", "A.bias={bias}"]),
    ):
        (folder / "train.py").write_text(f"{parser}\n{text}")
        assert [one.word for one in read_settings(Path("train.py")).settings] == words
