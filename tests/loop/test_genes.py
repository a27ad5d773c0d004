"""A space widened on resume: an event of the journal, before which the old space holds and after which the new one."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from evo_tune.cli import cli
from evo_tune.errors import EvoTuneError, SpaceError, StoreError
from evo_tune.genome.genes import Choice, Float, Int
from evo_tune.genome.notation import parse_gene
from evo_tune.genome.trial import EXTRA_SEED, PROMOTION, Candidate, Minimize, Outcome
from evo_tune.genome.values import genome_key
from evo_tune.loop.code import load_code
from evo_tune.loop.genes import limits_for
from evo_tune.loop.search import Search
from evo_tune.loop.verifying import Disagreement, verify
from evo_tune.plugins.find import find_evaluator, make_strategy
from evo_tune.report.charts.next_steps import range_end_lines
from evo_tune.store.manifest import space_of
from evo_tune.store.run import WIDENINGS, Run
from evo_tune.trust.decide import Consent
from tests.conftest import cut_copy, drive, rows, survivors
from tests.journals import line_of
from tests.strategies.cases import some

WIDE = '''"""Descends faster the larger x and lr are, far beyond their ranges."""
import math

from evo_tune import Choice, Float, Int, Minimize, SearchSpace

SPACE = SearchSpace(
    lr=Float(1e-4, 1e-2, log=True), x=Float(0.0, 0.3), width=Int(32, 128, step=32),
    kind=Choice((8, 16), ordered=True), depth=Int(1, 4, log=True),
)
OBJECTIVES = [Minimize("loss")]
SUPPORTS = ["budget", "curve"]


def evaluate(genome, context):
    if genome["x"] > 5.0:
        raise ValueError("x is too large")
    noise = context.seed % 1000 / 1e5
    loss = -math.log(genome["lr"]) - genome["x"] - genome["width"] / 1e3 + 1.0 / context.budget + noise
    context.report(context.budget / 2, loss=loss + 1.0)
    return {"loss": loss}


def estimate(genome):
    if genome["x"] > 5.0:
        raise ValueError("x is too large")
    return {"width": genome["width"]}
'''

WIDER = {"lr": parse_gene("lr", "log(1e-5,1e1)"), "x": parse_gene("x", "float(-2,4)"), "kind": Choice((4, 8, 16, 64))}

RULES: dict[str, dict[str, Any]] = {
    "none": {},
    "rungs": {"fidelity": "1/3,1", "prune": True, "seeds_per_trial": 2},
    "by worth": {"seeds_per_trial": "auto", "subject_to": ["width<=100"]},
    "seeds_per_trial": {"seeds_per_trial": 3, "subject_to": ["width<=100"]},
}

Begin = Callable[..., Search]


@pytest.fixture
def wide(begin: Begin, tmp_path: Path) -> Begin:
    """Return a function that begins a run whose best genomes lie at the ends of their ranges."""
    path = tmp_path / "wide.py"
    path.write_text(WIDE)
    return lambda **fields: begin(**{"evaluator": str(path), "generations": 3, "widen": False, **fields})


def disagreements(folder: Path) -> list[Disagreement]:
    run = Run.open(folder)

    plugin, strategy = load_code(run, Consent(trust=True))
    return verify(run, space_of(run.manifest, plugin.space), strategy)


def beyond(candidate: Candidate) -> bool:
    genome = candidate.genome
    return not (1e-4 <= genome["lr"] <= 1e-2 and 0.0 <= genome["x"] <= 0.3 and genome["kind"] in (8, 16))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "rules"),
    some(
        [(strategy, rules) for strategy in ("saea", "ga", "tpe", "cma") for rules in RULES],
        *(("saea", "none"), ("saea", "by worth"), ("ga", "rungs"), ("tpe", "seeds_per_trial"), ("cma", "none")),
    ),
)
def test_births_from_then_on_use_the_wider_space(wide: Begin, resume: Begin, strategy: str, rules: str) -> None:
    first = drive(wide(name="r", strategy=strategy, population=5, **RULES[rules]), slots=3)
    count = len(first.saved.candidates)
    before = rows(first)
    second = drive(resume("r", genes=WIDER, generations=6), slots=3)
    assert rows(second)[:count] == before
    assert not any(beyond(one) for one in second.saved.candidates[:count])
    assert any(beyond(one) for one in second.saved.candidates[count:])
    assert second.saved.genes["lr"] == Float(1e-5, 1e1, log=True, default=0.001)
    assert second.saved.genes["kind"] == Choice((4, 8, 16, 64), ordered=True, default=16)
    assert disagreements(second.saved.folder) == []
    third = drive(resume("r", generations=7))
    assert third.saved.genes == second.saved.genes
    assert disagreements(third.saved.folder) == []


@pytest.mark.parametrize("order", ["arrival", "proposal"])
def test_a_run_killed_anywhere_after_it_goes_on_the_same(
    wide: Begin, resume: Begin, tmp_path: Path, order: str
) -> None:
    drive(wide(name="r", strategy="saea", order=order, population=4, generations=2))
    whole = drive(resume("r", genes=WIDER, generations=4)).saved
    events = (whole.folder / "_journal.jsonl").read_bytes().splitlines()
    (place,) = [number for number, line in enumerate(events, 1) if b'"event":"widened"' in line]
    for cut in (place, place + 1, place + 2, place + 5, place + 8):
        name = f"cut-{cut}"
        cut_copy(whole, tmp_path / "store" / name, cut)
        again = drive(resume(name, generations=4, trust=True)).saved
        assert [rest[:3] for rest in rows(again)] == [rest[:3] for rest in rows(whole)]
        assert survivors(again.folder) == survivors(whole.folder)
        assert len(again.widened) == 1


def test_old_genomes_keep_their_values_to_the_last_digit_and_may_be_trained_further(wide: Begin, resume: Begin) -> None:
    first = wide(name="r", strategy="random", fidelity="1/3,1", seeds_per_trial=2, generations=4)
    born = [first.ask() for _ in range(10)]
    for one in born:
        first.tell(one, {"loss": float(one.genome["x"]) - one.budget})
    first.close()
    fine = [one.genome for one in born]
    second = resume("r", genes={"x": Float(-4000.0, 4.0)}, generations=9)
    coarse = second.saved.genes["x"]
    assert any(coarse.check(genome["x"]) != genome["x"] for genome in fine), "a case in which rounding differs"
    drive(second, evaluate=lambda search, one: {"loss": float(one.genome["x"]) % 1 + one.id / 1e3 - 2 * one.budget})
    further = [one for one in second.saved.candidates[len(fine) :] if not one.fresh]
    old = {genome_key(genome) for genome in fine}
    for kind in (PROMOTION, EXTRA_SEED):
        assert any(genome_key(one.genome) in old and one.operator == kind for one in further)
    assert disagreements(second.saved.folder) == []


def test_units_are_those_of_the_new_space_and_memos_are_made_anew(wide: Begin, resume: Begin) -> None:
    drive(wide(name="r", strategy="saea"))
    search = resume("r", genes={"x": Float(-0.3, 0.3)}, generations=4)
    place = search.space.names.index("x")
    for one in search.saved.candidates:
        expected = (one.genome["x"] + 0.3) / 0.6
        assert search.history.proposed_units[one.id][place] == pytest.approx(expected)
    assert search.space.genes["x"].low == -0.3


def test_earlier_runs_are_learned_from_in_the_wider_space(wide: Begin, resume: Begin) -> None:
    drive(wide(name="old", strategy="random"))
    drive(wide(name="r", strategy="saea", learn_from=["old"]))
    second = drive(resume("r", genes=WIDER, generations=5))
    place = second.space.names.index("x")
    (lesson,) = second.history.lessons
    assert lesson.units[0][place] == pytest.approx((second.saved.manifest.learned[0]["genomes"][0]["x"] + 2) / 6)
    assert disagreements(second.saved.folder) == []


REFUSED = [
    ({"lr": "log(1e-3,1e-1)"}, "--gene lr: log(0.001,0.1) has no 0.0001, which log(0.0001,0.01) has"),
    ({"x": "float(-1,0.2)"}, "--gene x: float(-1.0,0.2) has no 0.3"),
    ({"lr": "float(1e-5,1)"}, "--gene lr: float(1e-05,1.0) is of another kind than log(0.0001,0.01)"),
    ({"x": "int(0,4)"}, "--gene x: int(0,4) is of another kind than float(0.0,0.3)"),
    ({"lr": "0.001"}, "--gene lr: 0.001 is of another kind than log(0.0001,0.01)"),
    ({"lr": "log(1e-4,1e-2)"}, "--gene lr: it is log(0.0001,0.01) as it is: expected a wider range"),
    ({"dept": "int(1,8)"}, "--gene dept: expected a gene of the run: lr, x, width, kind, depth"),
    ({"width": "int(32,160,64)"}, "--gene width: int(32,160,64) has no 64"),
    ({"width": "int(32,96,32)"}, "--gene width: int(32,96,32) has no 128"),
    ({"kind": "8|32"}, "--gene kind: ordered(8,32) has no 16"),
    ({"kind": "16|8|4"}, "--gene kind: ordered(16,8,4) has another order than ordered(8,16)"),
    ({"kind": "8|16|many"}, "--gene kind: 8, 16, 'many' is not allowed: expected whole numbers"),
    ({"x": "float(0,9)"}, "--gene x, at 9.0:"),
    ({"lr": "log(1e-4,1) @ 0.5"}, "--gene lr: its default is "),
    ({"x": "float(0,1) when kind=8"}, "--gene x: 'when' cannot change in a run"),
]


def test_what_is_not_wider_is_refused_in_a_line_and_nothing_is_written(wide: Begin, resume: Begin) -> None:
    folder = drive(wide(name="r", strategy="random", generations=1)).saved.folder
    before = (folder / "_journal.jsonl").read_bytes()
    for given, said in REFUSED:
        with pytest.raises(EvoTuneError) as error:
            resume("r", genes={name: parse_gene(name, text) for name, text in given.items()}, generations=2)
        assert str(error.value).startswith(said)
        assert "\n" not in str(error.value)
        assert (folder / "_journal.jsonl").read_bytes() == before
    with pytest.raises(SpaceError, match="expected its wider range"):
        resume("r", genes={"lr": None}, generations=2)


def test_a_logarithmic_whole_number_and_steps_may_be_widened(wide: Begin, resume: Begin) -> None:
    drive(wide(name="r", strategy="random", generations=1))
    genes = {"depth": parse_gene("depth", "int(1,64)"), "width": parse_gene("width", "int(16,256,16)")}
    search = drive(resume("r", genes=genes, generations=4))
    assert search.saved.genes["depth"] == Int(1, 64, log=True, default=2)
    assert search.saved.genes["width"].step == 16
    assert disagreements(search.saved.folder) == []


FLOAT = {"kind": "float", "low": 1e-5, "high": 1.0, "log": True, "default": None}

HOSTILE: list[Any] = [
    {},
    {"nothing": FLOAT},
    {"lr": {**FLOAT, "low": "1e-5"}},
    {"lr": {**FLOAT, "low": None}},
    {"lr": {**FLOAT, "low": [1e-5]}},
    {"lr": {**FLOAT, "low": 0.001}},
    {"lr": {**FLOAT, "high": 1e999}},
    {"lr": {**FLOAT, "more": 1}},
    {"lr": {**FLOAT, "_digits": 1}},
    {"lr": {**FLOAT, "kind": "gene"}},
    {"lr": {"kind": "float"}},
    {"lr": {**FLOAT, "default": 7.0}},
    {"lr": {**FLOAT, "log": 1}},
    {"lr": {**FLOAT, "when": {"kind": [8]}}},
    {"lr": {**FLOAT, "when": 5}},
    {"kind": {"kind": "choice", "values": 8, "ordered": True}},
    {"kind": {"kind": "choice", "values": [8, 16, {"a": 1}], "ordered": True}},
    {"kind": {"kind": "choice", "values": [8, 16, 10**400], "ordered": True}},
    {"kind": {"kind": "choice", "values": [8, 16, 8], "ordered": True}},
    {"kind": {"kind": "choice", "values": [8, 16, True], "ordered": True}},
    {"width": {"kind": "int", "low": 0, "high": 10**15, "step": 32}},
    {"width": {"kind": "int", "low": 0, "high": 128, "step": 0}},
    [],
    None,
    "lr",
]


def test_a_strangers_event_is_data_and_refused_where_it_is_no_widening(wide: Begin) -> None:
    folder = drive(wide(name="r", strategy="random", generations=1)).saved.folder
    before = (folder / "_journal.jsonl").read_text()
    for genes in HOSTILE:
        line = json.dumps({"event": "widened", "time": 1.0, "genes": genes}).replace("Infinity", "1e999")
        (folder / "_journal.jsonl").write_text(before + line_of(line))
        with pytest.raises(StoreError) as error:
            Run.open(folder)
        assert "_journal.jsonl" in str(error.value), genes
        assert "\n" not in str(error.value)


def test_a_strangers_journal_cannot_widen_without_end(wide: Begin) -> None:
    folder = drive(wide(name="r", strategy="random", generations=1)).saved.folder
    with (folder / "_journal.jsonl").open("a") as file:
        for number in range(WIDENINGS + 1):
            gene = {"kind": "int", "low": 1, "high": 5 + number, "log": True, "default": None}
            file.write(line_of({"event": "widened", "time": 1.0, "genes": {"depth": gene}}))
    with pytest.raises(StoreError, match="the time after the 100th"):
        Run.open(folder)


def test_a_failed_birth_after_it_is_a_value_too(wide: Begin, resume: Begin) -> None:
    drive(wide(name="r", strategy="saea", generations=2))
    search = resume("r", genes=WIDER, generations=4)
    drive(search, evaluate=lambda search, one: Outcome("failed", error="no luck"))
    assert disagreements(search.saved.folder) == []


def test_what_is_advised_where_the_best_lie_at_an_end_can_be_typed(wide: Begin) -> None:
    search = wide(name="r", strategy="ga", population=8, generations=6)
    run = drive(search, evaluate=lambda search, one: {"loss": -float(one.genome["width"])}).saved
    line = next(line for line in range_end_lines(Run.open(run.folder)) if " width" in line)
    words = shlex.split(line.split("`")[1])
    assert words[:3] == ["evo-tune", "resume", "r"]
    more = ["--final-seeds", "0", "--no-report", "--quiet"]
    done = CliRunner().invoke(cli, [*words[1:-1], "7", *more], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    again = Run.open(run.folder)
    assert again.genes["width"].high > 128
    assert any(one.genome["width"] > 128 for one in again.candidates)


def test_a_run_widens_ranges_of_bundled_evaluators_but_not_those_that_a_user_states() -> None:
    evaluator = find_evaluator("bundled:language_model").bind({})
    own = limits_for(evaluator, evaluator.space, make_strategy("saea", {}), [Minimize("val_loss")])
    lr = evaluator.space.genes["lr"]
    space = evaluator.space.with_genes({"lr": Float(lr.decode(0.1), lr.decode(0.9), log=True)})
    stated = limits_for(evaluator, space, make_strategy("saea", {}), [Minimize("val_loss")])
    assert {"lr", "dropout"} <= own.keys()
    assert own.keys() - stated.keys() == {"lr"}
