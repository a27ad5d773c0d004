"""The linear family of texts: conditional genes, equal metrics, export, its score, and its budget in time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evo_tune import Context, load_model
from evo_tune.errors import OptionError
from evo_tune.loop.plan import Request, plan_run
from evo_tune.plugins.cost import Cost, TimedGenome
from evo_tune.plugins.evaluator import BoundEvaluator
from evo_tune.plugins.find import find_evaluator
from evo_tune.settings import parse_settings

OWN_GENES = {"C", "word_ngrams", "character_ngrams"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts whose class is told by the endings of words that are hardly ever seen twice."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    rows = []
    for _ in range(300):
        label = int(rng.integers(2))
        stems = ["".join(rng.choice(list("abcdefghij"), 6)) for _ in range(6)]
        rows.append({"text": " ".join(stem + ("ung", "ious")[label] for stem in stems), "label": ["de", "en"][label]})
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def bind(data: Path, families: str, **options: Any) -> BoundEvaluator:
    options = {"data": str(data), "families": families, **options}
    return find_evaluator("bundled:text_classification").bind(options)


def test_the_genes_of_the_linear_family_are_active_in_its_genomes_only(data: Path) -> None:
    alone = find_evaluator("bundled:text_classification").bind({"data": str(data)})
    assert alone.options["families"] == "transformer"
    assert {"family", *OWN_GENES} & set(alone.space.genes) == set()
    space = bind(data, "auto").space
    assert space.genes["family"].values == ("linear", "transformer")  # type: ignore[union-attr]
    linear = space.check({"family": "linear", "C": 2.0, "length": 8}, fill_defaults=True)
    assert linear["C"] == 2.0
    assert linear["length"] == space.default()["length"] != 8
    other = space.check({"family": "transformer", "C": 2.0, "length": 8}, fill_defaults=True)
    assert other["C"] == space.default()["C"] != 2.0
    assert other["length"] == 8
    assert set(bind(data, "linear").space.genes) == OWN_GENES
    with pytest.raises(OptionError, match="families=boosting: expected linear, transformer with commas"):
        bind(data, "boosting")


def test_both_families_report_the_same_metrics_and_the_linear_one_exports_its_scores(
    data: Path, tmp_path: Path
) -> None:
    names = {}
    for family in ("linear", "transformer"):
        bound = bind(data, "auto", epochs=1.0)
        genome = bound.space.check({"family": family}, fill_defaults=True)
        metrics = bound.evaluate(genome, Context(seed=3, folder=tmp_path / family, test=True))
        names[family] = {*metrics} & {*bound.plugin.tests, *bound.plugin.tests.values()}
        if family == "linear":
            assert metrics["accuracy"] > 0.95
            assert metrics["steps"] <= bound.estimate(genome)["steps"]
            assert metrics["params"] <= bound.estimate(genome)["params"]
            again = bound.evaluate(genome, Context(seed=4, folder=tmp_path / "again", test=True))
            assert {**again, "seconds": 0} == {**metrics, "seconds": 0}
            for refit in ("none", "validation"):
                chosen = bind(data, "auto", epochs=1.0, refit=refit)
                exported = chosen.export(genome, Context(seed=3, folder=tmp_path / "again"), tmp_path / refit)
                assert exported["val_loss"] == metrics["val_loss"]
                assert (exported["test_loss"] == metrics["test_loss"]) == (refit == "none")
                files = sorted(path.name for path in (tmp_path / refit).iterdir())
                assert files == ["config.json", "model.safetensors"]
                rows = [json.loads(line) for line in data.read_text().splitlines()]
                test = bound.values.texts.parts(0.2, 0.2)[2]
                model = load_model(tmp_path / refit)
                predicted = model.predict([rows[row]["text"] for row in test])
                accuracy = np.mean([label == rows[row]["label"] for label, row in zip(predicted, test, strict=True)])
                assert accuracy == pytest.approx(exported["test_accuracy"])
    assert names["linear"] == names["transformer"]
    assert len(names["linear"]) >= 8


def test_characters_tell_what_words_do_not(data: Path, tmp_path: Path) -> None:
    losses = []
    for characters in (0, 5):
        bound = bind(data, "linear")
        genome = bound.space.check({"character_ngrams": characters}, fill_defaults=True)
        losses.append(bound.evaluate(genome, Context(seed=0, folder=tmp_path))["val_loss"])
    assert losses[1] < 0.2 < 0.6 < losses[0]


def test_a_run_trains_both_families_first_in_equal_time(data: Path, tmp_path: Path) -> None:
    bound = bind(data, "auto")
    request = Request(options=bound.options | {"epochs": 1.0})
    plan = plan_run(bound.plugin, request, *parse_settings({"trials": 5}), tmp_path)
    assert [genome["family"] for genome in plan.manifest.warm_start] == ["transformer"]
    genome = bound.space.default()
    work = bound.work(genome)
    assert set(work) <= set(bound.plugin.cpu_costs)
    timing = bind(data, "linear").evaluate(
        bind(data, "linear").space.default(), Context(seed=0, folder=tmp_path, timing=3)
    )
    assert 0.0 < timing["step"] < timing["seconds"]
    cost = Cost.fit([TimedGenome(work, 0.05, 0.0)], "cpu", bound.plugin.cpu_costs)
    timed = bound.with_options(cost=cost.text(), seconds=0.5)
    for family in ("linear", "transformer"):
        assert timed.estimate(bound.space.check({"family": family}, fill_defaults=True))["steps"] >= 1
    assert timed.estimate(genome)["steps"] == 10
    assert timed.with_options(patience=None).evaluate(genome, Context(seed=0, folder=tmp_path))["steps"] <= 10
