"""The convolutional family of images: conditional genes, its score, resuming, export, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evo_tune import Context, load_model
from evo_tune.errors import OptionError, UsageError
from evo_tune.plugins.cost import Cost, TimedGenome
from evo_tune.plugins.evaluator import BoundEvaluator
from evo_tune.plugins.find import find_evaluator

OWN_GENES = {"stages", "channels"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images with a bright bar in any place, that lies or stands, which is the class."""
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(400, 9, 12)), np.arange(400) % 2
    for image, label in zip(images, labels, strict=True):
        row, column = rng.integers(0, 6, 2)
        image[(slice(row, row + 1), slice(column, column + 4)) if label else (slice(row, row + 4), column)] += 4.0
    path = tmp_path_factory.mktemp("images") / "images.npz"
    np.savez(path, images=images, labels=labels)
    return path


def bind(data: Path, families: str, **options: Any) -> BoundEvaluator:
    options = {"data": str(data), "families": families, "epochs": 4.0, **options}
    return find_evaluator("bundled:image_classification").bind(options)


def test_the_genes_of_the_convolution_are_active_in_its_genomes_only(data: Path) -> None:
    alone = find_evaluator("bundled:image_classification").bind({"data": str(data)})
    assert list(alone.space.genes)[:4] == ["lr", "batch", "patch", "depth"]
    assert {"family", *OWN_GENES} & set(alone.space.genes) == set()
    space = bind(data, "auto").space
    assert space.genes["family"].values == ("convolution", "transformer")  # type: ignore[union-attr]
    genome = space.check({"family": "convolution", "lr": 0.01, "channels": 24, "depth": 4}, fill_defaults=True)
    assert (genome["lr"], genome["channels"]) == (0.01, 24)
    assert genome["depth"] == space.default()["depth"] != 4
    other = space.check({"family": "transformer", "lr": 0.01, "channels": 24, "depth": 4}, fill_defaults=True)
    assert (other["lr"], other["depth"]) == (0.01, 4)
    assert other["channels"] == space.default()["channels"] != 24
    only = set(bind(data, "convolution").space.genes)
    assert only == {*OWN_GENES, "lr", "batch", "weight_decay", "label_smoothing", "mixup", "warmup"}


def test_it_is_better_than_the_transformer_in_less_time_and_exports_its_scores(data: Path, tmp_path: Path) -> None:
    losses = {}
    for family in ("convolution", "transformer"):
        bound = bind(data, "auto")
        genome = bound.space.check({"family": family, "mixup": 0.0}, fill_defaults=True)
        metrics = bound.evaluate(genome, Context(seed=3, folder=tmp_path / family, test=True))
        losses[family] = metrics["val_loss"]
        estimate = bound.estimate(genome)
        assert metrics["params"] == estimate["params"]
        assert metrics["samples"] == estimate["samples"]
    assert losses["convolution"] < 0.3 < losses["transformer"]
    chosen = bound.space.check({"family": "convolution", "mixup": 0.0}, fill_defaults=True)
    exported = bound.export(chosen, Context(seed=3, folder=tmp_path / "again"), tmp_path / "model")
    assert exported["val_loss"] == losses["convolution"]
    with np.load(data) as arrays:
        rows = bound.values.images.parts(0.2, 0.2)[2]
        predicted = load_model(tmp_path / "model").predict(arrays["images"][rows])
        assert np.mean(predicted == arrays["labels"][rows].astype(str)) == pytest.approx(exported["test_accuracy"])


def test_a_resumed_training_is_the_uninterrupted_one(data: Path, tmp_path: Path) -> None:
    bound = bind(data, "convolution")
    genome = bound.space.default()
    whole = bound.evaluate(genome, Context(seed=1, folder=tmp_path / "whole", test=True))
    bound.evaluate(genome, Context(seed=1, folder=tmp_path / "halves", test=True, budget=0.5))
    folders = {"folder": tmp_path / "rest", "resume_folder": tmp_path / "halves"}
    resumed = bound.evaluate(genome, Context(seed=1, test=True, **folders))
    assert resumed["resumed_step"] > 0
    for name in ("val_loss", "test_loss", "train_loss"):
        assert resumed[name] == whole[name]


def test_stages_are_at_most_what_the_sides_can_be_halved(data: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.npz"
    with np.load(data) as arrays:
        np.savez(small, images=arrays["images"][:, :3, :5], labels=arrays["labels"])
        long = np.pad(arrays["images"], ((0, 0), (0, 8), (0, 7)))
        np.savez(tmp_path / "long.npz", images=long, labels=arrays["labels"])
    space = bind(small, "convolution").space
    assert space.check({"stages": 4}, fill_defaults=True)["stages"] == 2
    assert bind(data, "convolution").space.check({"stages": 4}, fill_defaults=True)["stages"] == 4
    with pytest.raises(OptionError, match=r"17 by 19 .* cannot be cut into .* or give -o families=convolution"):
        _ = bind(tmp_path / "long.npz", "auto").space
    assert "stages" in bind(tmp_path / "long.npz", "convolution").space.genes


def test_the_families_take_equal_time(data: Path) -> None:
    bound = bind(data, "auto", epochs=None)
    work = bound.work(bound.space.default())
    assert set(work) - {"weights"} <= {*bound.plugin.cpu_costs, *(f"judged {name}" for name in bound.plugin.cpu_costs)}
    cost = Cost.fit([TimedGenome(work, 0.01, 0.1)], "cpu", bound.plugin.cpu_costs)
    timed = bound.with_options(cost=cost.text(), seconds=2.0)
    for family in ("convolution", "transformer"):
        genome = bound.space.check({"family": family}, fill_defaults=True)
        assert timed.estimate(genome)["seconds"] == pytest.approx(2.0, rel=0.1)


def test_what_does_not_fit_a_batch_norm_is_refused(data: Path, tmp_path: Path) -> None:
    bound = bind(data, "convolution", micro_batch=8)
    with pytest.raises((OptionError, UsageError), match=r"family convolution.* sees one pass"):
        bound.estimate(bound.space.default())
    with pytest.raises(OptionError, match="param=completep: a convolution has the standard parametrisation only"):
        _ = bind(data, "convolution", param="completep").space
