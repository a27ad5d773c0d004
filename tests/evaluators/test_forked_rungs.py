"""Rungs of the language model that are judged after a decay of their own, and `schedule=auto`, which brings them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from evo_tune import Context, Search
from evo_tune.cli import cli
from evo_tune.errors import SpaceError
from evo_tune.genome.genes import Choice
from evo_tune.plugins.evaluator import Evaluator
from evo_tune.plugins.find import find_evaluator
from evo_tune.store.manifest import read_manifest
from evo_tune.training.recipe.optim.schedule import ForkedSchedule

pytestmark = pytest.mark.extended

TINY = {
    "size": "2x64x64x512",
    "tokens": 8192,
    "eval_tokens": 512,
    "schedule": "wsd",
    "fork": True,
    "decay_fraction": 0.2,
    "min_lr_ratio": 0.1,
}
"""Sixteen steps."""

Train = Callable[..., tuple[dict[str, float], Context]]


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    return find_evaluator("bundled:language_model")


@pytest.fixture
def train(evaluator: Evaluator, tmp_path: Path) -> Train:
    """Train one genome up to a budget, in a folder of its own; keywords are options."""

    def run(budget: float, after: Context | None = None, **options: Any) -> tuple[dict[str, float], Context]:
        bound = evaluator.bind({**TINY, **options})
        genome = {**bound.space.default(), "depth": 1, "width": 32, "dropout": 0.1, "lr": 1e-2}
        folder = tmp_path / f"{budget:.2f}{'' if after is None else ' after'}"
        context = Context(seed=1, budget=budget, folder=folder, resume_folder=after and after.folder)
        return bound.evaluate(genome, context), context

    return run


def without_clock(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name not in ("tokens_per_second", "resumed_step")}


KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "muon, long decay": {"optimizer": "muon", "decay_fraction": 0.7},
    "average": {"ema": 0.5},
    "gap": {"weight_decay_end": 0.3, "gap_patience": 1, "evaluations": 8},
    "patience": {"patience": 2, "evaluations": 8, "min_delta": 0.1},
    "stopped early": {"patience": 1, "evaluations": 8, "min_delta": 9.0},
    "growing batch": {"ramp_from": 128, "ramp_share": 0.5},
    "long text": {"context": 64, "extend_from": 32, "extend_share": 0.4, "ema": 0.5},
}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.proof if kind == "plain" else ()) for kind in KINDS]
)
def test_what_goes_on_from_a_forked_rung_is_the_training_without_it(train: Train, kind: str) -> None:
    whole, told = train(1.0, **KINDS[kind])
    _, first = train(0.25, **KINDS[kind])
    _, second = train(0.7, first, **KINDS[kind])  # its decay goes over into the long text
    rest, third = train(1.0, second, **KINDS[kind])
    assert rest["resumed_step"] > 1
    assert without_clock(rest) == without_clock(whole)
    points = first.curve + second.curve + third.curve
    assert [point for point in points if point in told.curve] == told.curve


def test_a_rung_is_judged_after_a_decay_and_left_before_it(train: Train) -> None:
    cut, _ = train(0.5, fork=False)
    cut_at_fork, _ = train(6 / 16, fork=False)
    rung, context = train(0.5)
    assert (cut["steps"], cut_at_fork["steps"], rung["steps"]) == (8.0, 6.0, 8.0)
    assert {name: rung[name] for name in ("tokens", "flops")} == {name: cut[name] for name in ("tokens", "flops")}
    assert (cut["final_lr_fraction"], rung["final_lr_fraction"]) == (1.0, pytest.approx(0.4))
    assert rung["val_loss"] != cut["val_loss"]
    saved = torch.load(context.folder / "checkpoint.pt", weights_only=True)
    assert saved["trainer"]["step"] == 6
    assert [(round(16 * at), point["decayed"]) for at, point in context.curve] == [(4, 0.0), (6, 0.0), (8, 1.0)]
    assert context.curve[-1][1]["val_loss"] == pytest.approx(rung["val_loss"], abs=0.3)


def test_only_a_rung_under_wsd_forks(train: Train) -> None:
    cut = {fork: train(0.5, schedule="multi_step", fork=fork)[0] for fork in (True, False)}
    assert without_clock(cut[True]) == without_clock(cut[False])
    _, whole = train(1.0)
    assert [point["decayed"] for _, point in whole.curve] == [0.0, 0.0, 0.0, 1.0]
    assert not whole.folder.joinpath("checkpoint.pt").exists()


def test_a_training_that_has_stopped_early_does_not_decay(train: Train) -> None:
    metrics, context = train(0.7, patience=1, evaluations=8, min_delta=9.0)
    assert metrics["steps"] == 4
    assert [point["decayed"] for _, point in context.curve] == [0.0, 0.0]


def test_the_best_weights_of_a_rung_may_be_those_after_its_decay(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, _ = train(0.5)
    kept, _ = train(0.5, patience=8)
    assert kept["val_loss"] == plain["val_loss"], "the decay brought the best"
    monkeypatch.setattr(ForkedSchedule, "__call__", lambda self, step: 50.0 if step >= self.first else 1.0)
    spoilt, _ = train(0.5, patience=8)
    assert spoilt["val_loss"] < 0.9 * train(0.5)[0]["val_loss"], "the best came before"


# ---------------------------------------------------------------- schedule=auto


@pytest.mark.parametrize(
    ("given", "fidelity", "expected"),
    [
        ({}, "1", ("wsd", False)),
        ({}, "1/9,1", ("wsd", True)),
        ({"schedule": "linear"}, "1/9,1", ("linear", True)),
        ({"schedule": "wsd"}, "1", ("wsd", False)),
        ({"fork": False}, "1/9,1", ("wsd", False)),
    ],
)
def test_auto_is_settled_when_a_run_begins_and_stands_in_its_manifest(
    tmp_path: Path, given: dict[str, Any], fidelity: str, expected: tuple[str, bool]
) -> None:
    options = {"size": "2x64x64x512", "tokens": 8192, **given}
    Search("language_model", options=options, fidelity=fidelity, store=tmp_path, name="run", trials=1).close()
    manifest = read_manifest(tmp_path / "run")
    assert (manifest.options["schedule"], manifest.options["fork"]) == expected
    search = Search.resume("run", store=tmp_path)
    search.close()
    assert search.saved.manifest.options == manifest.options


def test_as_a_gene_the_schedule_is_never_auto(tmp_path: Path, evaluator: Evaluator) -> None:
    settings: dict[str, Any] = {
        "options": {"size": "2x64x64x512", "tokens": 8192},
        "fidelity": "1/9,1",
        "store": tmp_path,
        "trials": 1,
    }
    Search("language_model", genes={"schedule": None}, name="run", **settings).close()
    gene = read_manifest(tmp_path / "run").genes()["schedule"]
    assert isinstance(gene, Choice)
    assert "auto" not in gene.values
    assert gene.default == "wsd", "what the run would have without it"
    with pytest.raises(SpaceError, match="--gene schedule: auto cannot be a value of a gene"):
        Search("language_model", genes={"schedule": Choice(("auto", "wsd"))}, **settings)
    assert "auto" not in evaluator.bind({}).space.optional["schedule"].values  # type: ignore[attr-defined]


def test_what_was_never_settled_is_cut_off_as_it_was(train: Train) -> None:
    for budget in (0.5, 1.0):
        assert without_clock(train(budget, schedule="auto", fork=None)[0]) == without_clock(
            train(budget, schedule="cosine", fork=False)[0]
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("budget", "last", "told"), [("0.5", 0.55, [0.0, 0.0, 1.0]), ("1", 0.55, [0.0, 0.0, 0.0, 1.0])]
)
def test_evaluate_settles_it_by_its_budget(budget: str, last: float, told: list[float]) -> None:
    words = [
        "evaluate",
        "language_model",
        "-o",
        "tokens=4096",
        "-o",
        "decay_fraction=0.2",
        "-o",
        "min_lr_ratio=0.1",
        "-o",
        "eval_tokens=512",
        "--format",
        "json",
    ]
    result = CliRunner().invoke(cli, [*words, "-o", "size=2x64x64x512", "--budget", budget], catch_exceptions=False)
    outcome = json.loads(result.stdout)
    assert outcome["metrics"]["final_lr_fraction"] == pytest.approx(last, abs=0.001)
    assert [point["decayed"] for _, point in outcome["curve"]] == told
