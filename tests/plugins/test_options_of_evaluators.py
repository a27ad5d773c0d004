"""An evaluator whose options are a dataclass: every function takes the same one, and fields become genes."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from evo_tune import Context, Float, Search
from evo_tune.cli import cli
from evo_tune.errors import OptionError, PluginError, RecipeError, UsageError
from evo_tune.genome.trial import Outcome
from evo_tune.plugins.evaluator import Evaluator
from evo_tune.plugins.find import load_evaluator
from evo_tune.store.manifest import read_manifest

FILE = """
from __future__ import annotations

from dataclasses import dataclass

from evo_tune import Float, Minimize, Options, SearchSpace, option


@dataclass(frozen=True, kw_only=True)
class Own(Options):
    \"\"\"What is mine.\"\"\"

    steps: int = option(10, bounds="[1, 100]", help="How many")
    rate: float | None = option(None, bounds="(0, 1)", help="How fast", gene="0.1|0.2")
    kind: str = option("a", choices=("a", "b"), help="Which")
    data: str = option("", help="Where", gene=None)


def SPACE(options: Own) -> SearchSpace:
    genes = {} if options.rate is not None else {"rate": Float(0.0, 1.0)}
    return SearchSpace(x=Float(0.0, float(options.steps)), **genes)


OBJECTIVES = [Minimize("loss")]


def evaluate(genome, context, options: Own):
    return {"loss": genome["x"], "steps": options.steps, "kind": float(options.kind == "b")}


def estimate(genome, options: Own):
    return {"known": float(options.steps)}


def fingerprint(options: Own):
    return f"{options.data}!"


def export(genome, context, folder, options: Own):
    return {"exported": float(options.steps)}
"""


@pytest.fixture
def mine(tmp_path: Path) -> Evaluator:
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return load_evaluator(path, str(path), "file")


def test_every_function_takes_the_same_options(mine: Evaluator, tmp_path: Path) -> None:
    bound = mine.bind({"steps": "7", "data": "here"})
    assert bound.options == {"steps": 7, "rate": None, "kind": "a", "data": "here"}
    space = bound.space
    assert space.genes.keys() == {"x", "rate"}
    assert bound.fingerprint() == "here!"
    genome = space.default()
    assert bound.estimate(genome) == {"known": 7.0}
    assert bound.evaluate(genome, Context()) == {"loss": 3.5, "steps": 7, "kind": 0.0, "known": 7.0}
    assert bound.export(genome, Context(), tmp_path) == {"exported": 7.0}


def test_a_field_becomes_a_gene_and_is_read_from_the_options(mine: Evaluator) -> None:
    bound = mine.bind({})
    space = bound.space
    assert set(space.optional) == {"kind"}  # rate is a gene of its own, data never one, steps offers no range
    genome = space.including(["kind"]).check({"kind": "b"}, fill_defaults=True)
    assert bound.evaluate(genome, Context())["kind"] == 1.0


def test_a_gene_of_the_space_is_not_mistaken_for_the_option_of_its_name(mine: Evaluator) -> None:
    bound = mine.bind({})
    genome = {"x": 1.0, "rate": 1.0}  # beyond the option's bounds, and within the gene's
    assert bound.evaluate(genome, Context())["loss"] == 1.0
    assert set(mine.bind({"rate": "0.5"}).space.optional) == {"kind", "rate"}


def test_a_gene_beyond_the_bounds_of_its_option_is_refused(mine: Evaluator) -> None:
    with pytest.raises(RecipeError, match="steps=101 is not allowed: expected a whole number, 1 to 100"):
        mine.bind({}).estimate({"x": 1.0, "rate": 0.5, "steps": 101})


def test_wrong_options_are_refused_before_anything_is_called(mine: Evaluator) -> None:
    with pytest.raises(UsageError, match="-o steps=0: expected a whole number, 1 to 100"):
        mine.bind({"steps": "0"})


@pytest.mark.parametrize("annotation", ["int", "'Options | None'", "Nowhere"])
def test_the_third_parameter_is_a_dataclass(tmp_path: Path, annotation: str) -> None:
    path = tmp_path / "mine.py"
    signature = "def evaluate(genome, context, options: "
    path.write_text(FILE.replace(f"{signature}Own", f"{signature}{annotation}"))
    with pytest.raises(PluginError, match="annotated with no dataclass of this file: expected evaluate"):
        load_evaluator(path, str(path), "file")


SETTLING = """
from dataclasses import dataclass, replace

from evo_tune import Float, Minimize, Options, SearchSpace, option

SPACE = SearchSpace(x=Float(0.0, 1.0))
OBJECTIVES = [Minimize("loss")]
SUPPORTS = ["budget"]


@dataclass(frozen=True, kw_only=True)
class Own(Options):
    kind: str = option("auto", choices=("auto", "parts", "whole"))
    other: int = 3

    def settled(self, rungs):
        if self.other == 0:
            raise ValueError("no such thing")
        return replace(self, kind="parts" if rungs else "whole") if self.kind == "auto" else self


def evaluate(genome, context, options: Own):
    return {"loss": genome["x"]}


def export(genome, context, folder, options: Own):
    (folder / "kind").write_text(options.kind)
"""


@pytest.fixture
def settling(tmp_path: Path) -> Evaluator:
    path = tmp_path / "settling.py"
    path.write_text(SETTLING)
    return load_evaluator(path, str(path), "file")


@pytest.mark.parametrize(("fidelity", "kind"), [("1", "whole"), ("1/3,1", "parts")])
def test_what_options_leave_open_is_settled_once_when_a_run_begins(
    settling: Evaluator, tmp_path: Path, fidelity: str, kind: str
) -> None:
    assert settling.bind({}).for_run(rungs=fidelity != "1").options == {"kind": kind, "other": 3}
    assert settling.bind({"kind": "whole"}).for_run(rungs=True).options["kind"] == "whole"
    Search(str(settling.path), fidelity=fidelity, store=tmp_path, name="run", trials=1).close()
    assert read_manifest(tmp_path / "run").options == {"kind": kind, "other": 3}
    assert "auto" not in settling.bind({}).space.optional["kind"].values  # type: ignore[attr-defined]


def test_single_options_change_without_another_bind(settling: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    bound = settling.bind({}).for_run(rungs=True)
    monkeypatch.setattr(Evaluator, "bind", None)
    changed = bound.with_options(other="5")
    assert (changed.options, changed.values.other) == ({"kind": "parts", "other": 5}, 5)
    assert bound.options["other"] == 3
    with pytest.raises(OptionError, match=r"-o other=many: expected a whole number"):
        bound.with_options(other="many")
    with pytest.raises(OptionError, match="no option 'others'"):
        bound.with_options(others=1)


def test_a_run_has_the_genes_that_are_on(settling: Evaluator) -> None:
    bound = settling.bind({"kind": "whole"})
    half = Float(0.0, 0.5)
    space = bound.space.including(["x", "kind"]).with_genes({"x": half}, optional={})
    assert (list(space.genes), space.optional) == (["x", "kind"], {})
    assert space.genes["x"] == half
    assert space.default()["kind"] == "whole"
    assert list(bound.space.genes) == ["x"]


def test_what_is_wrong_with_settling_names_file_and_line(settling: Evaluator) -> None:
    with pytest.raises(PluginError, match=r"settling\.py:\d+: ValueError: no such thing"):
        settling.bind({"other": 0}).for_run(rungs=True)


def test_without_a_say_in_it_nothing_is_settled(mine: Evaluator) -> None:
    assert mine.bind({}).for_run(rungs=True).options == mine.bind({}).options


def test_an_export_settles_what_is_given_anew(
    settling: Evaluator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Search(str(settling.path), store=tmp_path, name="run", trials=1, final_seeds=0) as search:
        candidate = search.ask()
        assert candidate is not None
        search.tell(candidate, Outcome("ok", {"loss": 0.5}))
    words = ["export", "run", "--store", str(tmp_path), str(tmp_path / "out"), "-o", "kind=auto"]
    result = CliRunner().invoke(cli, [*words, "--trust"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "kind").read_text() == "whole"
