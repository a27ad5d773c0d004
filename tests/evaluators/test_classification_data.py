"""What the classification evaluators make of data: trainings that learn, and refusals before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import evo_tune
from evo_tune import Context
from evo_tune.errors import EvoTuneError, OptionError
from evo_tune.plugins.evaluator import Evaluator
from evo_tune.plugins.find import find_evaluator
from evo_tune.training import FTTransformer
from tests.training.recipe.data.refusals import without


@pytest.fixture(scope="module")
def images() -> Evaluator:
    return find_evaluator("bundled:image_classification")


@pytest.fixture(scope="module")
def tables() -> Evaluator:
    return find_evaluator("bundled:tabular")


@pytest.fixture(scope="module")
def texts() -> Evaluator:
    return find_evaluator("bundled:text_classification")


def train(evaluator: Evaluator, **given: Any) -> dict[str, float]:
    """Train the default genome as a run would, all checks included."""
    options = evaluator.bind(given)
    metrics: dict[str, float] = options.evaluate(options.space.default(), Context())
    return metrics


def refused(evaluator: Evaluator, words: str, **given: Any) -> None:
    """Check that options or data are refused in one line, before anything is trained, by space and fingerprint."""
    for called in (lambda bound: bound.space, lambda bound: bound.fingerprint()):
        with pytest.raises(EvoTuneError, match=words) as caught:
            called(evaluator.bind(given))
        assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- images


@pytest.fixture
def pixels(tmp_path: Path) -> str:
    """A file of dark and of bright images."""
    bright = np.arange(24) % 2
    np.savez(tmp_path / "pixels.npz", images=np.full((24, 8, 6), 200) * bright[:, None, None], labels=bright)
    return str(tmp_path / "pixels.npz")


def test_images_are_learnt(images: Evaluator, pixels: str) -> None:
    assert train(images, data=pixels, epochs=15.0)["accuracy"] == 1.0
    assert images.bind({"data": pixels}).space.genes["patch"].values == (1, 2)  # type: ignore[attr-defined]
    given: list[dict[str, Any]] = [{}, {"data": pixels}, {"validation": 0.5}, {"test": 0.3}]
    assert len({images.bind(one).fingerprint() for one in given}) == 4


def test_what_is_trained_on_is_augmented_and_what_is_judged_is_not(images: Evaluator, pixels: str) -> None:
    """The images are one row and its mirror image: that they are mirrored in training takes all that tells them."""
    with np.load(pixels) as file:
        bright = file["labels"]
    half = np.zeros((24, 8, 6, 3), np.uint8)
    half[bright == 0, :, :3], half[bright == 1, :, 3:] = 200, 200
    np.savez(pixels, images=half, labels=bright)
    assert train(images, data=pixels, epochs=15.0, flip="no")["accuracy"] == 1.0
    assert train(images, data=pixels, epochs=15.0)["val_loss"] > 0.6


def test_randaugment_without_torchvision_is_refused(
    images: Evaluator, pixels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with np.load(pixels) as file:
        np.savez(pixels, images=file["images"].astype(np.uint8), labels=file["labels"])
    monkeypatch.setattr("evo_tune.training.recipe.data.images.find_spec", lambda name: None)
    with pytest.raises(OptionError, match=r"pip install 'evo-tune\[images\]'"):
        _ = images.bind({"data": pixels, "randaugment": 9}).space


def test_images_that_cannot_be_cut_are_refused(images: Evaluator, tmp_path: Path) -> None:
    np.savez(tmp_path / "prime.npz", images=np.zeros((6, 31, 9)), labels=[0, 1] * 3)
    with pytest.raises(OptionError, match="31 by 9 pixels"):
        _ = images.bind({"data": str(tmp_path / "prime.npz")}).space
    refused(images, "image_size=1:", image_size=1)


# ---------------------------------------------------------------- tables


@pytest.fixture
def table(tmp_path: Path) -> str:
    """A file whose rows' class is told by a number and a text together."""
    rng = np.random.default_rng(3)
    number, colour = rng.normal(5.0, 3.0, 120), rng.choice(["red", "blue", "green"], 120)
    bought = np.where((number > 5) ^ (colour == "red"), "yes", "no")
    pd.DataFrame({"number": number, "colour": colour, "bought": bought}).to_csv(tmp_path / "t.csv", index=False)
    return str(tmp_path / "t.csv")


def test_a_table_is_learnt(tables: Evaluator, table: str) -> None:
    assert train(tables, data=table, target="bought", epochs=25.0)["auc"] > 0.8


def test_the_baseline_is_scikit_learns_on_the_same_rows(tables: Evaluator) -> None:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import log_loss, roc_auc_score
    from threadpoolctl import threadpool_limits

    bound = tables.bind({})
    table = bound.values.table
    values = table.target.values
    with threadpool_limits(1):
        model = HistGradientBoostingClassifier(random_state=0).fit(table.inputs[table.training], values[table.training])
    baseline = bound.baseline()
    for part, prefix in ((table.held_out, ""), (table.test, "test_")):
        found, truth = model.predict_proba(table.inputs[part]), values[part]
        assert baseline[f"{prefix}auc"] == pytest.approx(roc_auc_score(truth, found[:, 1]))
        assert baseline[f"{prefix or 'val_'}loss"] == pytest.approx(log_loss(truth, found))
        assert baseline[f"{prefix}accuracy"] == model.score(table.inputs[part], truth)


def test_the_baseline_of_numbers_is_judged_in_their_unit(tables: Evaluator, prices: Path) -> None:
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.metrics import r2_score, root_mean_squared_error

    bound = tables.bind({"data": str(prices), "target": "price"})
    table = bound.values.table
    model = HistGradientBoostingRegressor(random_state=0, categorical_features=[False, True])
    values = table.target.values
    model.fit(table.inputs[table.training], values[table.training])
    found, baseline = model.predict(table.inputs[table.test]), bound.baseline()
    assert baseline["test_rmse"] == pytest.approx(root_mean_squared_error(values[table.test], found), rel=1e-3)
    assert baseline["test_r2"] == pytest.approx(r2_score(values[table.test], found), rel=1e-3)


@pytest.fixture
def prices(tmp_path: Path) -> Path:
    """A file whose number follows from a number and a text together."""
    rng = np.random.default_rng(3)
    size, town = rng.normal(50.0, 9.0, 150), rng.choice(["A", "B"], 150)
    price = 1e4 * (size + np.where(town == "A", 30.0, 0.0)) + rng.normal(0.0, 1e4, 150)
    pd.DataFrame({"size": size, "town": town, "price": price}).to_csv(tmp_path / "prices.csv", index=False)
    return tmp_path / "prices.csv"


def test_numbers_are_predicted_in_their_own_unit_as_reported(tables: Evaluator, prices: Path, tmp_path: Path) -> None:
    from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

    options = tables.bind({"data": str(prices), "target": "price", "epochs": 50.0})
    metrics = options.export(options.space.default(), Context(seed=1, folder=tmp_path / "t"), tmp_path / "model")
    assert metrics["r2"] > 0.8
    assert metrics["val_loss"] < 0.2  # of the training rows' variance
    assert "label_smoothing" not in options.space.genes
    model, test = evo_tune.load_model(tmp_path / "model"), options.values.table.test
    frame = pd.read_csv(prices)
    found, truth = model.predict(frame)[test], frame["price"][test]
    assert metrics["test_rmse"] == pytest.approx(root_mean_squared_error(truth, found), rel=1e-6)
    assert metrics["test_mae"] == pytest.approx(mean_absolute_error(truth, found), rel=1e-6)
    assert metrics["test_r2"] == pytest.approx(r2_score(truth, found), rel=1e-6)


def test_a_training_on_numbers_goes_on_and_shares_its_steps(tables: Evaluator, prices: Path, tmp_path: Path) -> None:
    def fit(folder: str, ranks: int = 1, **context: Any) -> dict[str, float]:
        bound = tables.bind({"data": str(prices), "target": "price", "epochs": 4.0, "ranks": ranks})
        found: dict[str, float] = bound.evaluate(
            bound.space.default(), Context(seed=1, folder=tmp_path / folder, **context)
        )
        return {name: value for name, value in found.items() if name != "samples_per_second"}

    whole = fit("whole")
    fit("part", budget=0.5)
    rest = fit("rest", resume_folder=tmp_path / "part")
    assert rest.pop("resumed_step") > 0
    assert rest == whole
    both = fit("both", ranks=2)
    assert [both[name] for name in ("rmse", "mae", "r2")] == pytest.approx(
        [whole[name] for name in ("rmse", "mae", "r2")], rel=1e-3
    )


@pytest.mark.slow
def test_what_is_learnt_by_heart_is_stopped_by_default_and_the_best_is_taken(tables: Evaluator, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)  # of noise nothing can be learnt but by heart
    frame = pd.DataFrame(rng.normal(size=(60, 3)), columns=["a", "b", "c"]).assign(y=rng.integers(0, 2, 60))
    frame.to_csv(tmp_path / "noise.csv", index=False)
    options = tables.bind({"data": str(tmp_path / "noise.csv"), "target": "y", "epochs": 90.0})
    genome, context = {**options.space.default(), "lr": 0.02}, Context(seed=1)
    metrics = options.evaluate(genome, context)
    losses = [point["val_loss"] for _, point in context.curve]
    best = losses.index(min(losses))
    assert (options.options["patience"], options.options["evaluations"]) == (16, 32)
    assert len(losses) == best + 1 + 16 < 32
    assert metrics["val_loss"] == pytest.approx(losses[best])
    assert metrics["val_loss"] < losses[-1]


def test_numbers_are_ranked_among_the_training_rows_and_what_is_exported_carries_that(
    tables: Evaluator, tmp_path: Path
) -> None:
    def exported(name: str, frame: pd.DataFrame, **given: Any) -> Any:
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
        given |= {"data": str(tmp_path / f"{name}.csv"), "target": "y", "epochs": 1.0}
        options = tables.bind(given)
        options.export(options.space.default(), Context(seed=1, folder=tmp_path / "t"), tmp_path / name)
        return FTTransformer.load(tmp_path / name), options.values.table

    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"a": rng.lognormal(size=90), "y": rng.integers(0, 2, 90)})
    model, table = exported("plain", frame)
    numbers = np.sort(table.inputs[table.training, 0])
    count = len(numbers) // 3
    ranks = np.quantile(numbers, np.linspace(0.0, 1.0, count))
    assert np.allclose(model.quantiles.values[0], ranks, rtol=1e-5)
    outside = np.r_[table.held_out, table.test]
    frame.loc[outside, "a"] *= 1000.0
    assert np.array_equal(exported("other", frame)[0].quantiles.values, model.quantiles.values)
    assert exported("five", frame, quantiles=5)[0].quantiles.values.shape == (1, 5)
    assert exported("none", frame, quantiles=None)[0].quantiles is None


def test_columns_are_those_of_a_file_and_need_a_target(tables: Evaluator, table: str) -> None:
    refused(tables, "needs -o target=COLUMN", data=table)
    refused(tables, "give one with -o data=FILE", target="diagnosis")
    refused(tables, "target=sold: no such column", data=table, target="sold")
    refused(tables, "validation", validation=1.0)


def test_without_scikit_learn_the_baseline_names_what_to_install(
    tables: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound = tables.bind({})
    _ = bound.values.table  # the default data is scikit-learn's too
    without(monkeypatch, "sklearn")
    with pytest.raises(OptionError, match=r"pip install 'evo-tune\[sklearn\]', then resume; or --no-baseline"):
        bound.baseline()


# ---------------------------------------------------------------- texts


def test_texts_are_learnt_in_words_and_bytes(texts: Evaluator, tmp_path: Path) -> None:
    rows = [
        (f"the {'sun shines, warm' if n % 3 else 'rain falls, “cold”'} on day {n}", "dry" if n % 3 else "wet")
        for n in range(90)
    ]
    pd.DataFrame(rows, columns=["words", "what"]).to_csv(tmp_path / "t.csv", index=False)
    given = {"data": str(tmp_path / "t.csv"), "text": "words", "label": "what"}
    for unit in ("words", "bytes"):
        assert train(texts, epochs=15.0, unit=unit, **given)["accuracy"] == 1.0
    assert "length" not in texts.bind({**given, "length": 9}).space.genes


def test_flops_are_those_of_the_texts_there_are(texts: Evaluator, tmp_path: Path) -> None:
    lines = [json.dumps({"text": "a b c d", "label": n % 2}) for n in range(8)]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    options = texts.bind({"data": str(tmp_path / "t.jsonl"), "epochs": 1.0})
    genome = options.space.default()
    spent = {length: options.estimate({**genome, "length": length})["flops"] for length in (2, 4, 8, 64)}
    assert spent[2] < spent[4] == spent[8] == spent[64]


def test_columns_are_those_of_a_file_and_lengths_have_bounds(texts: Evaluator) -> None:
    refused(texts, "length=1:", length=1)
    refused(texts, "give one with -o data=FILE", label="class")
