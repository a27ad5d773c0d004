"""Ensembles: which models are chosen, what their mean predicts, and folders of strangers."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import evo_tune
from evo_tune import Context
from evo_tune.errors import EvoTuneError, UsageError
from evo_tune.plugins.find import find_evaluator
from evo_tune.training.fitting import score_metrics
from evo_tune.training.prediction.ensemble import (
    MOST_MEMBERS,
    Ensemble,
    Member,
    choose_members,
    member_name,
    sha256_of,
    write_config,
)
from evo_tune.training.samples import PartPredictions
from tests.training.prediction.cases import CASES
from tests.training.prediction.conftest import Export

pytestmark = pytest.mark.xdist_group("exported")

TABLES = ("boosted classes", "classes", "linear classes")
NUMBERS = ("linear numbers", "numbers")


def part_of(values: Any, truth: Any, deviation: float | None = None) -> PartPredictions:
    return PartPredictions(np.array(values, np.float64), np.array(truth), deviation)


def member(weight: int) -> Member:
    return Member(weight, 0, "", 0, 0.5, 0.1, 1.0, 1e-3, 1000)


@pytest.fixture
def ensemble(export: Export, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that makes an ensemble of the models of cases; their weights are 1, 2, 3."""

    def make(*cases: str) -> Path:
        folder = tmp_path / "ensemble"
        for number, case in enumerate(cases):
            shutil.copytree(export(case).folder, folder / member_name(number))
        hashes = {member_name(number): sha256_of(folder / member_name(number)) for number in range(len(cases))}
        members = [member(number + 1) for number in range(len(cases))]
        write_config(folder, Ensemble(members, 0.1, 0.01, 60, hashes), {"val_loss": 0.4})
        return folder

    return make


# ---------------------------------------------------------------- the choice


def test_two_models_with_opposite_errors_are_chosen_and_a_bad_one_is_not() -> None:
    truth = np.zeros(4)
    high, low, far = ([[error]] * 4 for error in (1.0, -1.0, 9.0))
    weights = choose_members([part_of(values, truth, 1.0) for values in (far, high, low)])
    assert weights == [0, 1, 1]


def test_weights_follow_the_errors() -> None:
    """The mean is exact with two thirds of the first model: its errors are half as large."""
    weights = choose_members([part_of([[error]] * 3, np.zeros(3), 1.0) for error in (1.0, -2.0)])
    assert weights == [2, 1]


def test_one_model_is_chosen_where_no_mean_is_better() -> None:
    right, wrong = part_of([[0.9, 0.1]], [0]), part_of([[0.2, 0.8]], [0])
    assert choose_members([wrong, right]) == [0, 1]
    assert choose_members([right, right]) == [1, 0], "the smallest of equals"


def test_a_model_that_adds_nothing_to_the_others_is_no_member() -> None:
    """The first choice is the best alone, and the mean of the other two is exact."""
    truth = np.zeros(4)
    errors = ([0.9, 0.9, -0.9, -0.9], [2.0, -1.0, 1.0, 1.0], [-2.0, 1.0, -1.0, -1.0])
    parts = [part_of(np.array(error)[:, None], truth, 1.0) for error in errors]
    first, second, third = choose_members(parts)
    assert (first, second) == (0, third)


def test_a_model_without_finite_predictions_is_not_chosen() -> None:
    lost = part_of([[np.nan, np.nan]], [0])
    assert choose_members([lost, part_of([[0.5, 0.5]], [0])]) == [0, 1]
    assert choose_members([lost, lost]) == [1, 0], "there is a model all the same"


def test_the_mean_of_the_chosen_ones_is_never_worse_than_the_best_on_the_validation_part() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        truth = rng.integers(0, 3, 30)
        parts = [part_of(rng.dirichlet(np.ones(3) + 3 * rng.random(), 30), truth) for _ in range(4)]
        weights = choose_members(parts)
        mean = part_of(np.average([part.values for part in parts], axis=0, weights=weights), truth)
        assert mean.loss <= min(part.loss for part in parts)
        assert sum(weights) <= 30


def test_losses_and_scores_of_predictions() -> None:
    classes = part_of([[0.5, 0.5], [0.0, 1.0]], [0, 0])
    assert classes.losses == pytest.approx([np.log(2), 708.4], abs=0.1), "finite where a probability is 0"
    metrics = score_metrics("classes", classes.scores, classes.scores)
    assert metrics["val_loss"] == metrics["test_loss"] == pytest.approx(classes.loss)
    assert metrics["accuracy"] == 0.5
    numbers = part_of([[3.0], [1.0]], [1.0, 1.0], 2.0)
    assert numbers.losses == pytest.approx([1.0, 0.0])
    assert score_metrics("regression", numbers.scores, None)["rmse"] == pytest.approx(np.sqrt(2.0))


def test_a_later_fit_gives_the_predictions_for_its_rows_before_it(tmp_path: Path) -> None:
    """Otherwise members would be chosen by rows that they have learned."""
    case, noted = CASES["boosted numbers"], []
    data = case.data(tmp_path)
    for refit in ("none", "validation", "all"):
        options = {**case.options, "data": str(data), "refit": refit}
        bound = find_evaluator("bundled:tabular").bind(options)
        context = Context(seed=5, folder=tmp_path / "trial")
        context.predictions = {}
        bound.export(bound.space.default(), context, tmp_path / f"model-{refit}")
        noted.append(context.predictions)
    once, twice, of_all = noted
    assert np.array_equal(once["held_out"].values, twice["held_out"].values)
    assert np.array_equal(twice["held_out"].values, of_all["held_out"].values)
    assert np.array_equal(twice["test"].values, of_all["test"].values)
    assert not np.array_equal(once["test"].values, twice["test"].values)
    assert len(once["test"].truth) == 60
    assert once["test"].seconds > 0


@pytest.mark.parametrize("name", ["classes", "numbers", "linear classes", "arrays", "linear texts"])
def test_noted_predictions_have_the_metrics_of_the_training(name: str, export: Export, tmp_path: Path) -> None:
    """They are those of the model, not of the moving average of its weights."""
    case, exported = CASES[name], export(name)
    (tmp_path / "data").mkdir()
    data = case.data(tmp_path / "data")
    bound = exported.bound.plugin.bind({**exported.bound.options, "data": str(data), "ema": 0.9})
    context = Context(seed=5, folder=tmp_path / "trial")
    context.predictions = {}
    metrics = bound.export(bound.space.default(), context, tmp_path / "model")
    assert metrics["val_loss"] == exported.metrics["val_loss"], "noting them changes nothing"
    assert context.predictions["held_out"].loss == pytest.approx(metrics["val_loss"], rel=1e-6)
    assert context.predictions["test"].loss == pytest.approx(metrics["test_loss"], rel=1e-6)


# ---------------------------------------------------------------- the model


def test_probabilities_are_the_weighted_mean_of_those_of_the_members(
    ensemble: Callable[..., Path], export: Export
) -> None:
    model: Any = evo_tune.load_model(ensemble(*TABLES))
    rows = pd.read_csv(export("classes").test)
    shares = [evo_tune.load_model(export(case).folder).predict_proba(rows) for case in TABLES]  # type: ignore[attr-defined]
    assert model.predict_proba(rows) == pytest.approx(sum((n + 1) / 6 * one for n, one in enumerate(shares)))
    assert model.predict_proba(rows).sum(1) == pytest.approx(np.ones(len(rows)))
    assert (model.predict(rows) == model.classes_[model.predict_proba(rows).argmax(1)]).all()
    assert model.task == "tabular-classification"
    assert model.evaluate(rows)["loss"] == pytest.approx(
        part_of(model.predict_proba(rows), np.searchsorted(model.classes_, rows["kind"])).loss
    )


def test_numbers_are_the_weighted_mean_of_those_of_the_members(ensemble: Callable[..., Path], export: Export) -> None:
    model: Any = evo_tune.load_model(ensemble(*NUMBERS))
    rows = pd.read_csv(export("numbers").test)
    first, second = (evo_tune.load_model(export(case).folder).predict(rows) for case in NUMBERS)
    assert model.predict(rows) == pytest.approx(first / 3 + 2 * second / 3)
    assert model.evaluate(rows)["rmse"] == pytest.approx(np.sqrt(np.mean((model.predict(rows) - rows["price"]) ** 2)))


@pytest.mark.parametrize("cases", [("texts", "linear texts"), ("arrays", "convolved arrays"), ("photos", "photos")])
def test_texts_and_images_are_predicted_from_files(
    cases: tuple[str, ...], ensemble: Callable[..., Path], export: Export
) -> None:
    model: Any = evo_tune.load_model(ensemble(*cases))
    predictions = model.predictions(export(cases[0]).test)
    frame = pd.concat(list(predictions))
    parts = [evo_tune.load_model(export(case).folder).predictions(export(case).test) for case in cases]
    tables = [pd.concat(list(part)) for part in parts]
    names = [name for name in frame.columns if name.startswith("p(")]
    mean = tables[0][names] / 3 + 2 * tables[1][names] / 3
    assert frame[names].to_numpy() == pytest.approx(mean.to_numpy(), abs=1e-9)
    assert set(predictions.metrics) >= {"loss", "accuracy"}


def test_remarks_of_all_members_are_given_once(ensemble: Callable[..., Path], export: Export) -> None:
    model: Any = evo_tune.load_model(ensemble(*TABLES))
    model.predict(pd.read_csv(export("classes").test).assign(more=1))
    assert model.remarks == ["columns that the model does not know are ignored: more"]


def test_the_memory_of_all_members_is_predicted(ensemble: Callable[..., Path]) -> None:
    folder = ensemble(*TABLES)
    sizes = [sum(file.stat().st_size for file in part.glob("*.safetensors")) for part in folder.glob("member-*")]
    of_two = 2.0 * (sum(sizes) - min(sizes)) / 2**30
    with pytest.raises(UsageError, match="GiB of memory"):
        evo_tune.load_model(folder, memory=1.001 * of_two)
    evo_tune.load_model(folder, memory=2.001 * sum(sizes) / 2**30)


# ---------------------------------------------------------------- folders of strangers


def edit(folder: Path, **entries: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **entries}))


def rehash(folder: Path) -> None:
    edit(folder, files={path.name: sha256_of(path) for path in folder.glob("member-*")})


def edit_member(folder: Path, **entries: Any) -> None:
    edit(folder / "member-1", **entries)
    rehash(folder)


def swap(folder: Path, target: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to(target)


def many(folder: Path, count: int) -> None:
    config = json.loads((folder / "config.json").read_text())
    edit(folder, members=config["members"][:1] * count)


def reweigh(folder: Path, weight: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["members"][0]["weight"] = weight
    (folder / "config.json").write_text(json.dumps(config))


def nest(folder: Path) -> None:
    shutil.copytree(folder, folder.parent / "inner")
    shutil.rmtree(folder / "member-1")
    shutil.move(folder.parent / "inner", folder / "member-1")
    rehash(folder)


def link(file: Path) -> None:
    file.unlink()
    file.symlink_to("/dev/zero")


def replace_by_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.touch()


ATTACKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a linked member": (lambda at: swap(at / "member-1", at / "member-0"), "'member-1' is a link"),
    "a link in a member": (lambda at: (at / "member-1" / "more").symlink_to("/"), "'more' is a link"),
    "linked weights": (lambda at: link(at / "member-1" / "model.safetensors"), "is a link"),
    "no member": (lambda at: shutil.rmtree(at / "member-1"), "No such file"),
    "a file for a member": (lambda at: replace_by_file(at / "member-1"), "Not a directory"),
    "an altered member": (lambda at: edit(at / "member-1", seed=9), "member-1/config.json was altered"),
    "altered weights": (lambda at: os.truncate(at / "member-1" / "model.safetensors", 99), "was altered"),
    "a member of another place": (lambda at: edit(at, files={"../member-0": "0", "member-1": "1"}), "was altered"),
    "hashes of no kind": (lambda at: edit(at, files=[1]), "object"),
    "one member": (lambda at: many(at, 1), "length >= 2"),
    "many members": (lambda at: many(at, MOST_MEMBERS + 1), "length <= 16"),
    "members of no kind": (lambda at: edit(at, members="all"), "members"),
    "a negative weight": (lambda at: reweigh(at, -1), ">= 1"),
    "a huge weight": (lambda at: reweigh(at, 10**30), "."),
    "a weight of text": (lambda at: reweigh(at, "all"), "int"),
    "an ensemble as a member": (nest, "the class 'Ensemble' cannot be averaged"),
    "a language model as a member": (lambda at: edit_member(at, **{"class": "GPT"}), "'GPT' cannot be averaged"),
    "a forecaster as a member": (lambda at: edit_member(at, **{"class": "Forecaster"}), "cannot be averaged"),
    "a class of no kind": (lambda at: edit_member(at, **{"class": ["\x1b[2J"]}), "cannot be averaged"),
    "other labels": (lambda at: edit_member(at, labels=["one", "two"]), "predicts other targets"),
    "weights full of holes": (lambda at: os.truncate(at / "member-1/model.safetensors", 1 << 36), "GiB of memory"),
    "notes of no kind": (lambda at: edit(at, metrics=[1]), "export wrote"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_damaged_folder_is_refused_in_one_line(name: str, ensemble: Callable[..., Path]) -> None:
    attack, told = ATTACKS[name]
    folder = ensemble("linear classes", "boosted classes")
    evo_tune.load_model(folder)
    attack(folder)
    with pytest.raises(EvoTuneError, match=told) as caught:
        evo_tune.load_model(folder)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_members_of_other_targets_or_kinds_are_refused(ensemble: Callable[..., Path]) -> None:
    with pytest.raises(UsageError, match="predicts other targets"):
        evo_tune.load_model(ensemble("linear classes", "linear numbers"))
