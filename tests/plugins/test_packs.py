"""What an evaluator's file says of packs: trainings of one shape that are done as one."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evo_tune.errors import PluginError
from evo_tune.plugins.context import Context
from evo_tune.plugins.evaluator import Evaluator
from evo_tune.plugins.find import load_evaluator
from tests.pages import FENCE, PAGES

HEAD = """
import dataclasses
from evo_tune import Float, Int, Minimize, SearchSpace

SPACE = SearchSpace(lr=Float(0.0, 1.0), width=Int(1, 9))
OBJECTIVES = [Minimize("loss")]
SUPPORTS = ["pack"]

def estimate(genome, **options):
    return {"params": genome["width"]}

def evaluate(genome, context, *, steps: int = 5):
    return {"loss": genome["lr"]}
"""
PACK = """
def pack_key(genome, options):
    return None if genome["width"] == 1 else f"{genome['width']} {options['steps']}"

def evaluate_pack(genomes, contexts, options):
    one = [{"loss": g["lr"] + c.seed + o["steps"]} for g, c, o in zip(genomes, contexts, options)]
    return [ValueError("no luck"), *one[1:]]
"""
GENOMES = [{"lr": 0.5, "width": 2}, {"lr": 0.25, "width": 2}]


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Evaluator]:
    def make(*parts: str) -> Evaluator:
        path = tmp_path / "task.py"
        path.write_text("".join(textwrap.dedent(part) for part in parts).lstrip())
        return load_evaluator(path, str(path), "file")

    return make


def test_members_come_back_one_by_one_with_what_is_known_before(load: Callable[..., Evaluator]) -> None:
    evaluator = load(HEAD, PACK)
    assert [evaluator.pack_key({"lr": 0.5, "width": n}, {"steps": 5}) for n in (1, 2, 2)] == [None, "2 5", "2 5"]
    contexts = [Context(seed=1), Context(seed=2)]
    failed, well = evaluator.evaluate_pack(GENOMES, contexts, {"steps": 5})
    assert isinstance(failed, ValueError)
    assert well == {"params": 2, "loss": 7.25}


def test_each_member_has_its_own_options_where_one_is_a_gene(load: Callable[..., Evaluator]) -> None:
    options = """
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Given:
        rate: float = 0.5
        steps: int = 5

    SPACE = SearchSpace(width=Int(1, 9))

    def evaluate(genome, context, options: Given):
        return {"loss": options.rate}

    def estimate(genome, options):
        return {}

    def pack_key(genome, options):
        return str(options.steps)

    def evaluate_pack(genomes, contexts, options):
        return [{"loss": one.rate} for one in options]
    """
    evaluator = load(HEAD, options)
    genomes = [{"width": 2, "rate": 0.125}, {"width": 2, "rate": 0.25}]
    found = evaluator.evaluate_pack(genomes, [Context(), Context()], {"rate": 0.5, "steps": 5})
    assert found == [{"loss": 0.125}, {"loss": 0.25}]
    assert evaluator.pack_key({"width": 2, "steps": 7}, {"rate": 0.5, "steps": 5}) == "7"


@pytest.mark.parametrize(
    ("part", "told"),
    [
        (
            "",
            r"task.py:6: SUPPORTS names 'pack': expected a function evaluate_pack\(genomes, contexts, options\), found",
        ),
        (
            "def evaluate_pack(genomes, contexts, options):\n    return []\n",
            r"expected a function pack_key\(genome, opt",
        ),
        (
            PACK + "pack_key = 3\n",
            r"SUPPORTS names 'pack': expected a function pack_key\(genome, options\), found none",
        ),
        (
            PACK.replace("(genomes, contexts, options)", "(genomes, contexts)"),
            r"task.py:\d+: evaluate_pack takes 2 positional arguments: expected evaluate_pack\(genomes, contexts, opt",
        ),
        (
            PACK + "def pack_pays(genome):\n    return 4\n",
            r"pack_pays takes 1 positional .* pack_pays\(genome, options, d",
        ),
        (PACK + "pack_pays = 4\n", r"SUPPORTS names 'pack': expected a function pack_pays\(genome, options, device\)"),
    ],
)
def test_what_is_lacking_is_said_when_the_file_is_loaded(load: Callable[..., Evaluator], part: str, told: str) -> None:
    with pytest.raises(PluginError, match=told):
        load(HEAD, part)


def test_a_file_that_does_not_say_it_supports_packs_has_none(load: Callable[..., Evaluator]) -> None:
    evaluator = load(HEAD.replace('SUPPORTS = ["pack"]', ""), PACK)
    assert evaluator.pack_key(GENOMES[0], {"steps": 5}) is None
    assert evaluator.pack_pays(GENOMES[0], {"steps": 5}, "cpu") == 1


def test_how_many_pay_is_the_files_to_say(load: Callable[..., Evaluator]) -> None:
    assert load(HEAD, PACK).pack_pays(GENOMES[0], {"steps": 5}, "cpu") == 1
    pays = "def pack_pays(genome, options, device):\n    return 8 if device == 'cuda:0' else options['steps']\n"
    evaluator = load(HEAD, PACK, pays)
    assert evaluator.pack_pays(GENOMES[0], {"steps": 5}, "cpu") == 5
    assert evaluator.pack_pays(GENOMES[0], {"steps": 5}, "cuda:0") == 8
    assert evaluator.pack_pays({"lr": 0.5, "width": 1}, {"steps": 5}, "cuda:0") == 1, "it is trained alone"


@pytest.mark.parametrize("given", ["[{}]", "{'loss': 1.0}", "None", "[{}, {}, {}]"])
def test_anything_but_one_item_each_is_refused(load: Callable[..., Evaluator], given: str) -> None:
    evaluator = load(HEAD, PACK, f"def evaluate_pack(genomes, contexts, options):\n    return {given}\n")
    with pytest.raises(PluginError, match=r"task.py:\d+: evaluate_pack returned .*: expected a list of 2"):
        evaluator.evaluate_pack(GENOMES, [Context(), Context()], {"steps": 5})


@pytest.mark.parametrize(
    ("part", "call", "told"),
    [
        ("def pack_key(genome, options):\n    return 4\n", "pack_key", r"pack_key gives 4: expected a text, or None"),
        ("def pack_key(genome, options):\n    return genome['no']\n", "pack_key", r"task.py:\d+: KeyError: 'no'"),
        (
            "def pack_pays(genome, options, device):\n    return 0\n",
            "pack_pays",
            r"gives 0: expected a whole number of",
        ),
        ("def pack_pays(genome, options, device):\n    return 1 / 0\n", "pack_pays", r"task.py:\d+: ZeroDivisionError"),
    ],
)
def test_what_is_wrong_with_keys_names_file_and_line(
    load: Callable[..., Evaluator], part: str, call: str, told: str
) -> None:
    more: list[Any] = ["cpu"] if call == "pack_pays" else []
    with pytest.raises(PluginError, match=told):
        getattr(load(HEAD, PACK, part), call)(GENOMES[0], {"steps": 5}, *more)


def test_the_example_of_the_docs_trains_each_as_it_would_alone(tmp_path: Path) -> None:
    page = PAGES["evaluators.md"].read_text(encoding="utf-8")
    source = next(body for _, body in FENCE.findall(page) if body.startswith("# evaluators/together.py"))
    (tmp_path / "together.py").write_text(source)
    evaluator = load_evaluator(tmp_path / "together.py", "together", "file")
    genomes = [{"lr": rate} for rate in (0.05, 0.1, 0.9)]
    contexts = [Context(seed=seed) for seed in (1, 2, 2)]
    found = evaluator.evaluate_pack(genomes, contexts, {"steps": 20})
    alone = [evaluator.evaluate(*pair, {"steps": 20}) for pair in zip(genomes, contexts, strict=True)]
    assert [one["loss"] for one in found] == pytest.approx([one["loss"] for one in alone], rel=1e-12)
    assert len({one["loss"] for one in found}) == 3
    assert evaluator.pack_key(genomes[0], {"steps": 20}) != evaluator.pack_key(genomes[0], {"steps": 30})
