"""No training sees held-out data: other content there, and the weights stay the same to the last bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evo_tune import Context
from evo_tune.plugins.evaluator import BoundEvaluator
from evo_tune.plugins.find import find_evaluator
from tests.training.prediction.cases import CASES
from tests.training.prediction.conftest import Export

pytestmark = pytest.mark.xdist_group("exported")


def held_out_rows(parts: tuple[np.ndarray, ...]) -> np.ndarray:
    return np.concatenate(parts[1:])


def change_table(bound: BoundEvaluator, data: Path) -> None:
    frame, table = pd.read_csv(data, dtype=str), bound.values.table
    rows = held_out_rows((table.training, table.held_out, table.test))
    frame.loc[rows, "town"] += ", elsewhere"  # equal rows stay equal, since the split depends on that
    frame.loc[rows, "code"] = (70.0 + frame["code"].iloc[rows].astype(float)).astype(str).replace("nan", "")
    for name in ("width", "price"):
        frame.loc[rows, name] = (1e5 * frame[name].iloc[rows].astype(float) + 7.0).astype(str)
    frame.to_csv(data, index=False)


def change_texts(bound: BoundEvaluator, data: Path) -> None:
    lines = data.read_text(encoding="utf-8").splitlines()
    for row in held_out_rows(bound.values.texts.parts(0.2, 0.2)):
        lines[row] = json.dumps({**json.loads(lines[row]), "text": f"zebras {row} " * 9})
    data.write_text("\n".join(lines), encoding="utf-8")


def change_arrays(bound: BoundEvaluator, data: Path) -> None:
    with np.load(data) as arrays:
        images, labels = arrays["images"].copy(), arrays["labels"]
    images[held_out_rows(bound.values.images.parts(0.2, 0.2))] *= -0.5
    np.savez(data, images=images, labels=labels)


def change_photos(bound: BoundEvaluator, data: Path) -> None:
    from PIL import Image, ImageOps

    files = sorted(data.rglob("*.png"))
    for row in held_out_rows(bound.values.images.parts(0.2, 0.2)):
        with Image.open(files[row]) as image:
            changed = ImageOps.invert(image)
        changed.save(files[row])


def change_prose(bound: BoundEvaluator, data: Path) -> None:
    text = data.read_bytes()
    kept = len(text) * 9 // 10 + 1
    data.write_bytes(text[:kept] + (b"quick zebras jump; " * len(text))[: len(text) - kept])


CHANGES: dict[str, Callable[[BoundEvaluator, Path], None]] = {
    "classes": change_table,
    "numbers": change_table,
    "boosted classes": change_table,
    "boosted numbers": change_table,
    "linear classes": change_table,
    "linear numbers": change_table,
    "texts": change_texts,
    "linear texts": change_texts,
    "arrays": change_arrays,
    "convolved arrays": change_arrays,
    "photos": change_photos,
    "prose": change_prose,
    "byte pairs": change_prose,
    "merged": change_prose,
    "adapter": change_prose,
}


def weights_of(folder: Path) -> dict[str, bytes]:
    """Return the content of each file of weights and tokens."""
    files = [*folder.rglob("*.safetensors"), *folder.rglob("tokenizer.json")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("name", CASES)
def test_other_held_out_data_gives_the_same_weights(name: str, export: Export, tmp_path: Path) -> None:
    exported, case = export(name), CASES[name]
    folders = tmp_path / "same", tmp_path / "other"
    for folder in folders:
        folder.mkdir()
    same, other = map(case.data, folders)
    plugin, options = find_evaluator(f"bundled:{case.evaluator}"), exported.bound.options
    CHANGES[name](plugin.bind({**options, "data": str(same)}), other)
    bound = plugin.bind({**options, "data": str(other)})
    metrics = bound.export(bound.space.default(), Context(seed=5, folder=tmp_path / "trial"), tmp_path / "model")
    assert weights_of(tmp_path / "model") == weights_of(exported.folder) != {}
    assert metrics["val_loss"] != exported.metrics["val_loss"]


@pytest.mark.parametrize("covariates", [{}, {"known": "price", "past": "visits"}])
def test_other_later_values_of_series_give_the_same_weights(tmp_path: Path, covariates: dict[str, str]) -> None:
    rng, days = np.random.default_rng(0), pd.date_range("2024-01-01", periods=120, freq="D")
    first = pd.DataFrame({"day": days, "a": rng.normal(size=120).cumsum(), "b": rng.normal(size=120).cumsum()})
    first.loc[100:, "b"] = np.nan  # ends before the other
    first["price"], first["visits"] = rng.normal(size=120), rng.normal(size=120)
    first.loc[:2, "price"] = np.nan  # before its first value
    second = first.copy()
    plugin = find_evaluator("bundled:forecasting")
    results = []
    for number, frame in enumerate((first, second)):
        path = tmp_path / f"{number}.csv"
        frame.to_csv(path, index=False)
        options = {"horizon": 5, "season": 1, "epochs": 1.0, "evaluations": 2, **covariates}
        bound = plugin.bind({"data": str(path), "target": "a,b", **options})
        folder = tmp_path / str(number)
        context = Context(seed=5, folder=folder / "trial")
        metrics = bound.export(bound.space.default(), context, folder / "model")
        results.append((weights_of(folder / "model"), metrics["val_loss"]))
        begin = bound.values.split_series.cuts[0]
        changed = ["a", "b", "price", "visits"]
        second.loc[begin:, changed] = 1e3 + 2.0 * first.loc[begin:, changed]
    assert results[0][0] == results[1][0] != {}
    assert results[0][1] != results[1][1]
