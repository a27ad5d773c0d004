"""What is refused, or taken as it was meant, before the first birth of a run and before going on with one."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evo_tune import Search
from evo_tune.errors import OptionError, PluginError, SpaceError, StoreError, UsageError
from evo_tune.genome.genes import Choice, Float, Gene, Int
from evo_tune.genome.notation import parse_gene
from evo_tune.genome.trial import Maximize, Minimize
from evo_tune.loop.begin import new_name
from evo_tune.loop.warm_start import read_genomes

TASK = """
from evo_tune import Choice, Float, Int, Minimize, SearchSpace
from evo_tune.errors import UsageError

SPACE = SearchSpace(
    optional={"noise": Float(0.0, 1.0, default=0.25), "window": Choice((8, 16), ordered=True)},
    lr=Float(0.1, 1.0, default=0.5),
    depth=Int(1, 8, default=2),
    size=Choice(["1", "two"]),
    width=Choice([8, 16]),
    tied=Choice([True, False]),
    mixed=Choice(["a", 1]),
)
OBJECTIVES = [Minimize("loss")]
METRICS = {"loss": "", "params": ""}


def evaluate(genome, context, *, bias: int = 0):
    return {"loss": genome["lr"]}


def estimate(genome, *, bias):
    if not 0.0 <= genome.get("noise", 0.0) <= 2.0:
        raise UsageError(f"noise={genome['noise']}: expected 0 to 2")
    return {"params": bias + genome["depth"]}
"""


@pytest.fixture
def task(tmp_path: Path) -> Path:
    path = tmp_path / "task.py"
    path.write_text(TASK)
    return path


@pytest.fixture
def search(task: Path, tmp_path: Path) -> Callable[..., Search]:
    """Return a function that makes a run, closed again."""

    def make(**given: Any) -> Search:
        search = Search(str(task), store=tmp_path / "store", name="run", **given)
        search.saved.close()
        return search

    return make


# Types.


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"seed": "x"}, "--seed x: expected a whole number of at least 0"),
        ({"seed": 1.5}, "--seed 1.5: expected a whole number"),
        ({"seed": True}, "--seed True: expected a whole number"),
        ({"seed": -1}, "--seed -1: expected a whole number of at least 0"),
        ({"seed": None}, "--seed None: expected a whole number"),
        ({"lag": 1.5}, "--lag 1.5: expected a whole number"),
        ({"lag": False}, "--lag False: expected a whole number"),
        ({"lag": -1}, "--lag -1: expected a whole number"),
        ({"order": "random"}, "--order random: expected arrival or birth"),
        ({"population": 1.5}, "-s population=1.5: expected a whole number"),
        ({"population": True}, "-s population=True: expected a whole number"),
        ({"options": "bias=1"}, "expected a dict of names to values"),
        ({"genes": {"lr": 3}}, "gene 'lr': 3 is not a Gene; expected Float, Int or Choice"),
        ({"genes": ["lr"]}, "genes ['lr']: expected a dict"),
        ({"genes": {3: Int(1, 2)}}, "--gene 3: expected one of lr, depth"),
        (
            {"genes": {"dept": Int(1, 2)}},
            "--gene dept: expected one of lr, depth, size, width, tied, mixed, noise, window (did you mean",
        ),
        ({"warm_start": [5]}, "--warm-start, genome 1: 5: expected a dict of gene names to values"),
        ({"warm_start": 5}, "warm_start 5: expected a list of genomes"),
        ({"warm_start": {"lr": 0.5}}, "--warm-start, genome 1: 'lr': expected a dict"),
        ({"warm_start": [{3: 0.5}]}, "--warm-start, genome 1: unknown gene 3"),
        ({"objectives": "loss"}, "expected METRIC:min or METRIC:max"),
        ({"objectives": 5}, "objective 5: expected METRIC:min"),
        ({"objectives": [5]}, "objective 5: expected METRIC:min"),
        ({"objectives": [Minimize]}, "expected METRIC:min"),
        ({"objectives": [Minimize(5)]}, "expected METRIC:min"),  # type: ignore[arg-type]
        ({"objectives": ["\udcff:min"]}, r"objective '\udcff:min': expected METRIC:min"),
    ],
)
def test_a_value_of_another_type_is_refused_in_one_line(
    search: Callable[..., Search], tmp_path: Path, given: dict[str, Any], said: str
) -> None:
    with pytest.raises((OptionError, SpaceError)) as caught:
        search(**given)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "store").exists()


def test_whole_numbers_of_numpy_are_whole_numbers(search: Callable[..., Search]) -> None:
    given = {"seed": np.int64(3), "lag": np.int32(2), "population": np.uint8(5), "options": {"bias": np.int64(7)}}
    manifest = search(**given).saved.manifest
    found = (manifest.seed, manifest.lag, manifest.population, manifest.options["bias"])
    assert found == (3, 2, 5, 7)
    assert {type(number) for number in found} == {int}


@pytest.mark.parametrize(
    ("objectives", "held"),
    [
        ("loss:min", ["loss:min"]),
        (Maximize("loss"), ["loss:max"]),
        ((text for text in ("loss:min", "params:min")), ["loss:min", "params:min"]),
        ((), ["loss:min"]),
    ],
)
def test_objectives_may_be_one_or_several(search: Callable[..., Search], objectives: Any, held: list[str]) -> None:
    assert search(objectives=objectives).saved.manifest.objectives == held


# Genes that replace the evaluator's own.


@pytest.mark.parametrize(
    ("name", "text", "gene"),
    [
        ("lr", "2", Choice((2,))),
        ("lr", "choice(0.5, 2)", Choice((0.5, 2), default=0.5)),
        ("lr", "int(0,3)", Int(0, 3)),
        ("depth", "99", Choice((99,))),
        ("depth", "2.0", Choice((2,), default=2)),
        ("depth", "ordered(1e1,20)", Choice((10, 20), ordered=True)),
        ("size", "1", Choice(("1",), default="1")),
        ("size", "choice(two,three)", Choice(("two", "three"))),
        ("width", "int(8,64,8)", Int(8, 64, step=8, default=8)),
        ("width", "128", Choice((128,))),
        ("tied", "false", Choice((False,))),
        ("mixed", "1.5", Choice((1.5,))),
    ],
)
def test_a_gene_of_the_same_type_is_taken(search: Callable[..., Search], name: str, text: str, gene: Gene) -> None:
    assert search(genes={name: parse_gene(name, text)}).saved.manifest.genes()[name] == gene


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("lr", "fast", "--gene lr: 'fast' is not allowed: expected numbers, as the evaluator's own gene has"),
        ("lr", "true", "--gene lr: True is not allowed: expected numbers"),
        ("depth", "2.5", "--gene depth: 2.5 is not allowed: expected whole numbers"),
        ("depth", "choice(2,x)", "--gene depth: 2, 'x' is not allowed: expected whole numbers"),
        ("depth", "float(1,8)", "--gene depth: Float(…) is not allowed: expected whole numbers"),
        ("size", "7", "--gene size: 7 is not allowed: expected text"),
        ("size", "int(1,2)", "--gene size: Int(…) is not allowed: expected text"),
        ("width", "wide", "--gene width: 'wide' is not allowed: expected whole numbers"),
        ("tied", "1", "--gene tied: 1 is not allowed: expected true or false"),
        ("depth", "choice(2,2.0)", "--gene depth: Choice([2, 2]): a value is given twice"),
    ],
)
def test_a_gene_of_another_type_is_refused(search: Callable[..., Search], name: str, text: str, said: str) -> None:
    with pytest.raises(SpaceError) as caught:
        search(genes={name: parse_gene(name, text)})
    assert said in str(caught.value)


# Estimates.


@pytest.mark.parametrize(
    ("given", "gene"), [(None, Float(0.0, 1.0, default=0.25)), ("0|2", Choice((0, 2), ordered=True))]
)
def test_an_optional_gene_is_switched_on_by_its_name(
    search: Callable[..., Search], tmp_path: Path, given: str | None, gene: Gene
) -> None:
    made = search(genes={"noise": given and parse_gene("noise", given)}, trials=3, slots=1)
    assert made.space.genes["noise"] == gene
    again = Search.resume("run", store=tmp_path / "store")
    assert "noise" in again.ask().genome  # type: ignore[union-attr]
    again.close()


def test_without_its_name_an_optional_gene_is_in_no_genome(search: Callable[..., Search]) -> None:
    assert search().space.names == ("lr", "depth", "size", "width", "tied", "mixed")


@pytest.mark.parametrize(
    ("genes", "said"),
    [
        ({"noise": "float(0,3)"}, "--gene noise, at 3.0: noise=3.0: expected 0 to 2"),
        ({"noise": "1|5"}, "--gene noise, at 5: "),
        ({"noise": "fast"}, "--gene noise: 'fast' is not allowed: expected numbers"),
        ({"nois": "1"}, r"--gene nois: expected one of .*noise, window.*did you mean noise"),
        ({"lr": None}, "--gene lr: it is on as it is"),
    ],
)
def test_a_gene_out_of_range_is_refused_before_a_trial(
    search: Callable[..., Search], genes: dict[str, str | None], said: str
) -> None:
    with pytest.raises(SpaceError, match=said):
        search(genes={name: text and parse_gene(name, text) for name, text in genes.items()})


def test_a_broken_estimate_costs_no_evaluation(search: Callable[..., Search], task: Path, tmp_path: Path) -> None:
    task.write_text(TASK.replace('return {"params": bias + genome["depth"]}', "return 5"))
    with pytest.raises(PluginError, match=r"task\.py:22: estimate gives 5: expected a dict of metric names"):
        search()
    task.write_text(TASK.replace('genome["depth"]}', 'genome["dept"]}'))
    with pytest.raises(PluginError, match=r"task\.py:25: KeyError: 'dept'"):
        search()
    assert not (tmp_path / "store").exists()


def test_a_broken_strategy_does_not_stop_the_advice(
    search: Callable[..., Search], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "broken.py").write_text("1 / 0")
    monkeypatch.setattr(
        "evo_tune.plugins.find._entry_points",
        lambda group: {"broken": tmp_path / "broken.py"} if group.endswith("strategies") else {},
    )
    with pytest.raises(PluginError, match=r"choose --strategy nsga2 or .*random"):
        search(objectives=["loss:min", "params:min"], strategy="ga")


# Names.


@pytest.mark.parametrize(
    ("evaluator", "slug"),
    [
        ("task", "task"),
        ("my task", "my-task"),
        ("_x", "x"),
        ("évé", "eve"),
        ("任务", "run"),
        ("--", "run"),
        ("a.b", "a-b"),
        ("x" * 300, "x" * 50),
    ],
)
def test_every_evaluator_gives_a_name(tmp_path: Path, evaluator: str, slug: str) -> None:
    assert re.fullmatch(re.escape(slug) + r"-\d{8}-\d{6}", new_name(evaluator, tmp_path))


@pytest.mark.parametrize("stem", ["évé", "_x", "my task", "任务"])
def test_a_file_of_any_name_runs(task: Path, tmp_path: Path, stem: str) -> None:
    path = task.rename(tmp_path / f"{stem}.py")
    search = Search(str(path), store=tmp_path / "store", trials=1, slots=1).run()
    assert [trial.outcome.error for trial in search.trials] == [None]


def test_an_error_is_saved_as_it_can_be_printed(task: Path, tmp_path: Path) -> None:
    raising = 'raise ValueError("\\x1b[31mred\\n\\udcff" + "x" * 999)'
    task.write_text(TASK.replace('return {"loss": genome["lr"]}', raising))
    search = Search(str(task), store=tmp_path / "store", trials=1, slots=1).run()
    error = search.frame()["error"][0]
    assert error.startswith(r"ValueError: \x1b[31mred \udcffxxx")
    assert error.endswith("x… (task.py:19)")
    assert r"\udcffxxx" in next((tmp_path / "store").glob("*/_trials/000000/error.txt")).read_text()


# Going on.


@pytest.mark.parametrize(
    ("old", "new", "cause"),
    [
        ("lr=Float(0.1, 1.0, default=0.5),", "", "its genes have changed (lr is gone)"),
        ("lr=Float", "rate=Float", "its genes have changed (lr is gone; rate is new)"),
        ("depth=Int", "width_2=Int(1, 2), depth=Int", "its genes have changed (width_2 is new)"),
        ("bias: int = 0", "offset: int = 0", "task has no option 'bias'"),
        ("bias: int = 0", "bias: int = 0, data: str", "task needs -o data="),
        ("bias: int = 0", "bias: bool | None = None", "bias=5"),
    ],
)
@pytest.mark.parametrize("accept", [False, True])
def test_what_a_run_cannot_go_on_with_is_named(
    search: Callable[..., Search], task: Path, tmp_path: Path, old: str, new: str, cause: str, accept: bool
) -> None:
    search(options={"bias": 5})
    task.write_text(TASK.replace(old, new))
    with pytest.raises(StoreError) as caught:
        Search.resume("run", store=tmp_path / "store", accept_changes=accept)
    message = str(caught.value)
    assert message.startswith(f"run run cannot go on with {task} as it is now: ")
    assert cause in message
    assert message.endswith("start a new run")


# Genomes of a warm start.


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("long.csv", b"lr,depth\n0.5,2\n0.5,2,3\n", "long.csv, line 3: 3 columns: expected 2, as in line 1"),
        ("short.csv", b"lr,depth\n0.5\n", "short.csv, line 2: 1 columns: expected 2"),
        ("latin.csv", b"lr,size\n0.5,\xe9\n", "latin.csv: byte 12 is not UTF-8: save it as UTF-8"),
        ("quote.csv", b'lr,depth\n"0.5"x,2\n', "quote.csv, line 2: "),
        ("open.csv", b'lr,depth\n"0.5,2\n', "open.csv, line 2: unexpected end of data; expected CSV"),
        ("big.csv", b"lr\n" + b"1" * 200_000, "big.csv, line 2: field larger than field limit"),
        ("empty.csv", b"", "empty.csv: it holds no genome"),
        ("head.csv", b"lr,depth\n", "head.csv: it holds no genome"),
        ("number.json", b"5", "number.json, row 1: 5 is no genome: expected an object of gene names"),
        ("texts.json", b'["abc"]', "texts.json, row 1: 'abc' is no genome"),
        ("second.json", b'[{"lr": 0.5}, {"genome": 5}]', "second.json, row 2: 5 is no genome"),
        ("null.json", b'{"genome": null}', "null.json, row 1: None is no genome"),
        ("none.json", b"[]", "none.json: it holds no genome"),
        ("cut.json", b'[{"lr": 0.5}', "cut.json: Expecting"),
        ("latin.json", b'["\xe9"]', "latin.json: byte 2 is not UTF-8"),
    ],
)
def test_a_warm_start_that_cannot_be_read_says_where(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_genomes(str(tmp_path / name), tmp_path)
    assert str(caught.value).startswith(f"--warm-start {tmp_path}")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("plain.csv", "lr,kind\n0.5,a b\n\n1e-3,\n"),
        ("excel.csv", "\ufefflr,kind\r\n0.5,a b\r\n1e-3,\r\n"),
        ("quoted.csv", '"lr","kind"\n0.5,"a b"\n1e-3,""'),
        ("table.csv", "id,gene.lr,seed,gene.kind\n0,0.5,7,a b\n1,1e-3,7,\n"),
        ("list.json", '[{"lr": 0.5, "kind": "a b"}, {"lr": 0.001, "kind": ""}]'),
        (
            "best.json",
            '\ufeff[{"genome": {"lr": 0.5, "kind": "a b"}}, {"trial": 1, "genome": {"lr": 0.001, "kind": ""}}]',
        ),
    ],
)
def test_genomes_are_read_as_they_are_usually_written(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    genomes = read_genomes(str(tmp_path / name), tmp_path)
    assert genomes == [{"lr": 0.5, "kind": "a b"}, {"lr": 0.001, "kind": ""}]
