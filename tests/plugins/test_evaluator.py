"""The shape of an evaluator's file, and the Context that its evaluate is given."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from evo_tune.errors import PluginError, UsageError
from evo_tune.genome.trial import Maximize, Minimize
from evo_tune.plugins.context import Context, Pruned
from evo_tune.plugins.evaluator import Evaluator
from evo_tune.plugins.find import load_evaluator

GOOD = '''
"""Counts.

More about it.
"""
from evo_tune import Int, Maximize, Minimize, SearchSpace

SPACE = SearchSpace(n=Int(1, 9))
OBJECTIVES = [Minimize("loss")]

def evaluate(genome, context, *, tokens: int = 5):
    genome["n"] += 1
    return {"loss": genome["n"] + tokens}
'''


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Evaluator]:
    def make(*changes: tuple[str, str], more: str = "") -> Evaluator:
        source = GOOD
        for old, new in changes:
            assert old in source
            source = source.replace(old, new)
        path = tmp_path / "task.py"
        path.write_text(source.lstrip() + textwrap.dedent(more))
        return load_evaluator(path, str(path), "file")

    return make


def test_a_good_file_is_what_it_says(load: Callable[..., Evaluator]) -> None:
    evaluator = load()
    assert evaluator.summary == "Counts."
    assert evaluator.name == "task"
    assert evaluator.objectives == (Minimize("loss"),)
    assert list(evaluator.options) == ["tokens"]
    assert evaluator.bind({"tokens": "7"}).options == {"tokens": 7}
    assert evaluator.bind({}).space.names == ("n",)
    assert evaluator.bind({}).fingerprint() == ""
    assert evaluator.bind({}).estimate({"n": 1}) == {}
    genome = {"n": 1}
    assert evaluator.bind({"tokens": 5}).evaluate(genome, Context()) == {"loss": 7}
    assert genome == {"n": 1}, "evaluate works on a copy"


def test_options_that_evaluate_changes_are_not_kept_for_the_next_training(load: Callable[..., Evaluator]) -> None:
    evaluator = load(
        ("from evo_tune import Int", "from dataclasses import dataclass\n\nfrom evo_tune import Int"),
        ("def evaluate(genome, context, *, tokens: int = 5):", "def evaluate(genome, context, options: Options):"),
        (
            """    genome["n"] += 1
    return {"loss": genome["n"] + tokens}""",
            """    options.tokens += 1
    return {"loss": options.tokens}""",
        ),
        ("SPACE = ", "@dataclass\nclass Options:\n    tokens: int = 5\n\n\nSPACE = "),
    )
    bound = evaluator.bind({})
    assert [bound.evaluate({"n": 1}, Context()) for _ in range(2)] == [{"loss": 6}, {"loss": 6}]


def test_the_optional_parts_get_the_options_that_they_declare(load: Callable[..., Evaluator]) -> None:
    evaluator = load(
        ("SPACE = SearchSpace(n=Int(1, 9))", "def SPACE(tokens=0):\n    return SearchSpace(n=Int(1, tokens))"),
        more="""
        def fingerprint(*, tokens):
            return tokens

        def estimate(genome, **options):
            return {"params": genome["n"] * options["tokens"]}
        """,
    )
    assert evaluator.bind({"tokens": 5}).space.size == 5
    assert evaluator.bind({"tokens": 5}).fingerprint() == "5"
    assert evaluator.bind({"tokens": 5}).estimate({"n": 2}) == {"params": 10}


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("SPACE = SearchSpace(n=Int(1, 9))", "", "", "expected SPACE = SearchSpace(…), found no SPACE"),
        ("OBJECTIVES = [Minimize(", "OTHER = [Minimize(", "", "found no OBJECTIVES"),
        ("def evaluate(", "def train(", "", "expected a function evaluate(genome, context), found none"),
        ("genome, context, *, tokens: int = 5", "genome", ":10", "evaluate takes 1 positional arguments: expected"),
        ("context, *, tokens", "context, tokens", ":10", "evaluate takes 3 positional arguments"),
        ("genome, context, *, tokens: int = 5", "*args", ":10", "evaluate takes 0 positional arguments"),
        ('[Minimize("loss")]', "[]", ":8", "OBJECTIVES is []: expected a list of Minimize"),
        ('[Minimize("loss")]', '["loss"]', ":8", "OBJECTIVES is ['loss']: expected a list"),
        ('[Minimize("loss")]', "[Minimize]", ":8", "expected a list of Minimize"),
        ('[Minimize("loss")]', 'Minimize("loss")', ":8", "expected a list of Minimize"),
        ("SearchSpace(n=Int(1, 9))", "{'n': (1, 9)}", ":7", "SPACE is {'n': (1, 9)}: expected a SearchSpace"),
    ],
)
def test_a_broken_file_says_where_and_what(
    load: Callable[..., Evaluator], tmp_path: Path, old: str, new: str, line: str, said: str
) -> None:
    with pytest.raises(PluginError) as caught:
        load((old, new))
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'task.py'}{line}: ")
    assert said in message
    assert "\n" not in message


def test_an_evaluate_from_elsewhere_is_judged_all_the_same(load: Callable[..., Evaluator], tmp_path: Path) -> None:
    (tmp_path / "elsewhere_of_task.py").write_text("def evaluate(genome): ...\n")
    with pytest.raises(PluginError, match=r"task\.py: evaluate takes 1 positional"):
        load(("def evaluate(", "def train("), more="from elsewhere_of_task import evaluate")
    with pytest.raises(PluginError, match=r"task\.py:13: evaluate takes 1 positional"):
        load(("def evaluate(", "def train("), more="evaluate = lambda genome: 1")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return 5", ":7: SPACE gives 5: expected a SearchSpace"),
        ("return SearchSpace(n=Int(1, size))", ":8: NameError: name 'size' is not defined"),
        ("raise ValueError('two\\nlines')", ":8: ValueError: two lines"),
        ("return SearchSpace()", "at least one gene"),
    ],
)
def test_a_function_for_a_space_may_break_too(load: Callable[..., Evaluator], body: str, said: str) -> None:
    evaluator = load(("SPACE = SearchSpace(n=Int(1, 9))", f"def SPACE():\n    {body}"))
    with pytest.raises(UsageError) as caught:
        _ = evaluator.bind({}).space
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_space_that_asks_for_an_option_that_is_none_says_so(load: Callable[..., Evaluator]) -> None:
    evaluator = load(("SPACE = SearchSpace(n=Int(1, 9))", "def SPACE(*, size):\n    return SearchSpace(n=Int(1, 2))"))
    with pytest.raises(PluginError, match="size"):
        _ = evaluator.bind({}).space


@pytest.mark.parametrize("value", ["5", "None", "[('params', 1)]", "{'params': 'many'}", "{'params': [1, 2]}"])
def test_an_estimate_that_is_no_numbers_by_name_says_where(load: Callable[..., Evaluator], value: str) -> None:
    evaluator = load(more=f"def estimate(genome):\n    return {value}\n")
    said = re.escape(f"task.py:13: estimate gives {value}: expected a dict of metric names to numbers")
    with pytest.raises(PluginError, match=said):
        evaluator.bind({}).estimate({"n": 1})


@pytest.mark.parametrize("option", ["tokens: list[int] = 5", "tokens=[5]", "tokens: Nowhere = 5"])
def test_an_option_that_cannot_be_given_says_where(load: Callable[..., Evaluator], option: str) -> None:
    head = "" if "Nowhere" not in option else "from __future__ import annotations\n"
    with pytest.raises(PluginError, match=r"task\.py:1[01]: option tokens: "):
        load(("tokens: int = 5", option), ("from evo_tune", f"{head}from evo_tune"))


@pytest.mark.parametrize("name", ["fingerprint", "estimate"])
def test_an_error_in_an_optional_part_has_file_and_line(load: Callable[..., Evaluator], name: str) -> None:
    evaluator = load(more=f"def {name}(*args):\n    return 1 / 0\n")
    with pytest.raises(PluginError, match=r"task\.py:14: ZeroDivisionError"):
        evaluator.bind({}).fingerprint() if name == "fingerprint" else evaluator.bind({}).estimate({"n": 1})


def test_an_evaluator_speaks_for_itself_where_it_knows_better(load: Callable[..., Evaluator]) -> None:
    evaluator = load(
        more="""
        from evo_tune.errors import UsageError
        def fingerprint():
            raise UsageError("data/ is empty: give -o data=FOLDER with text in it")
        """
    )
    with pytest.raises(UsageError, match=r"^data/ is empty: give -o data=FOLDER with text in it$"):
        evaluator.bind({}).fingerprint()


def test_a_folder_is_made_on_first_use(tmp_path: Path) -> None:
    context = Context(folder=tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()
    assert context.folder.is_dir()
    assert context.folder == context.folder
    assert Context(resume_folder=str(tmp_path)).resume_folder == tmp_path
    assert Context().resume_folder is None


def test_a_curve_is_made_of_reports() -> None:
    context = Context()
    context.report(0.5, loss=1, acc=0.25)
    context.report(1, loss=math.nan)
    assert context.curve[0] == (0.5, {"loss": 1.0, "acc": 0.25})
    assert context.curve[1][0] == 1.0
    assert math.isnan(context.curve[1][1]["loss"])


def test_a_point_says_whether_it_is_decayed_or_nothing() -> None:
    context = Context()
    context.report(0.5, loss=1.0)
    context.report(0.6, loss=1.0, decayed=False)
    context.report(0.7, decayed=True, loss=1.0)
    assert [point.get("decayed") for _, point in context.curve] == [None, 0.0, 1.0]
    assert [point["loss"] for _, point in context.curve] == [1.0] * 3


def test_a_bound_is_for_points_before_the_decay() -> None:
    context = Context(stop_if=[(0.5, "loss", 2.0)], objectives=[Minimize("loss")])
    context.report(0.6, loss=3.0, decayed=True)  # another kind
    with pytest.raises(Pruned):
        context.report(0.6, loss=3.0, decayed=False)
    with pytest.raises(Pruned):
        context.report(0.6, loss=3.0)


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.1, math.nan, math.inf])
def test_a_report_outside_the_training_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match="expected more than 0 and at most 1"):
        Context().report(fraction, loss=1.0)


@pytest.mark.parametrize("value", [None, "low", [1.0, 2.0]])
def test_a_report_of_no_number_is_refused(value: object) -> None:
    context = Context()
    with pytest.raises(ValueError, match=r"low|expected numbers"):
        context.report(0.5, loss=value)  # type: ignore[arg-type]
    assert context.curve == []


def test_a_bound_fixed_at_birth_stops_a_training() -> None:
    bounds = [(0.5, "acc", -0.6), (0.25, "loss", 2.0)]
    context = Context(stop_if=bounds, objectives=[Minimize("loss"), Maximize("acc")])
    context.report(0.2, loss=9.0, acc=0.0)  # before both
    context.report(0.25, loss=2.0, acc=0.0)  # at its bound is not beyond it
    context.report(0.5, acc=0.6)
    context.report(0.6, other=99.0)
    with pytest.raises(Pruned, match=r"acc=0\.5 at 70% is beyond its bound"):
        context.report(0.7, acc=0.5)
    with pytest.raises(Pruned, match="loss=nan"):
        context.report(0.8, loss=math.nan)
    assert len(context.curve) == 6, "the point that stopped it is part of its curve"
    assert not issubclass(Pruned, Exception), "an evaluator's own `except Exception` must not catch it"


@pytest.mark.parametrize(
    ("more", "error"),
    [
        (
            "TEST = ['loss']",
            r"TEST is \['loss'\]: expected a dict of metric names to those of the same on the test set",
        ),
        ("TEST = {'loss': 1}", "expected a dict of metric names"),
        ("TEST = {'loss': 'loss'}", "loss is of the test set, which no search may see"),
        ("TEST = {'cost': 'loss'}", "loss is of the test set, which no search may see"),
        ("TEST = {'test_loss': 'test_lost'}", "test_loss is of the test set"),
        ("TEST = {'cost': 'test_cost'}\nMETRICS = {'loss': ''}", "TEST names cost, of which METRICS says nothing"),
    ],
)
def test_a_test_set_is_declared_by_pairs_of_metrics(load: Callable[..., Evaluator], more: str, error: str) -> None:
    with pytest.raises(PluginError, match=error) as caught:
        load(more="\n" + more)
    assert re.search(r"task\.py:\d+: ", str(caught.value))


def test_without_a_test_set_any_name_is_a_metrics(load: Callable[..., Evaluator]) -> None:
    evaluator = load(('Minimize("loss")', 'Minimize("test_loss")'), more="\nMETRICS = {'test_loss': ''}")
    assert not evaluator.is_test("test_loss")
    assert evaluator.metrics == {"test_loss": ""}
    other = load(more="\nTEST = {'loss': 'final'}\nMETRICS = {'loss': '', 'final': '', 'test_more': ''}")
    assert [name for name in ("loss", "final", "test_more") if other.is_test(name)] == ["final", "test_more"]
    assert other.metrics == {"loss": ""}
