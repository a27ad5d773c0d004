"""Small data sets of each kind of model, with the rows that a training holds out written as a user would have them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from evo_tune.plugins.evaluator import BoundEvaluator

Writer = Callable[[BoundEvaluator, np.ndarray, Path, Path], Path]
"""Writes some rows of a data file as a user would have them, and returns the new file."""


@dataclass(frozen=True)
class Case:
    """A kind of model.

    Args:
        evaluator: Name of the evaluator.
        data: Writes the data set into a folder, and returns its path.
        rows: Writes the validation rows (False) or the test rows (True) to a folder, and returns their path.
        options: Options of a training of a fraction of a second.
    """

    evaluator: str
    data: Callable[[Path], Path]
    rows: Callable[[BoundEvaluator, Path, bool, Path], Path]
    options: dict[str, Any] = field(default_factory=dict)


def table(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    count = 300
    frame = pd.DataFrame(
        {
            "width": rng.normal(size=count) * 1e3,
            "town": rng.choice(["Ulm", "=cmd()", "Bonn, old"], count),
            "code": rng.choice([1, 2, 30], count),
            "open": rng.choice([True, False], count),
        }
    )
    frame["price"] = 1e4 + 50.0 * frame["width"] / 1e3 + rng.normal(size=count)
    frame["kind"] = np.where(frame["width"] + 500 * (frame["code"] == 2) > 0, "big", "<b>small</b>")
    frame.loc[::7, "width"] = np.nan
    frame.loc[::11, "town"] = None
    frame.loc[::13, "code"] = np.nan  # pandas reads the others as 1.0
    path = folder / "table.csv"
    frame.to_csv(path, index=False)
    return path


def table_rows(bound: BoundEvaluator, data: Path, test: bool, folder: Path) -> Path:
    found = bound.values.table
    path = folder / f"rows{test}.csv"
    pd.read_csv(data, dtype=str).iloc[found.test if test else found.held_out].to_csv(path, index=False)
    return path


def texts(folder: Path) -> Path:
    path = folder / "texts.jsonl"
    rows = [{"text": f"number {n} is {'odd' if n % 2 else 'even'}" * (1 + n % 5), "label": n % 2} for n in range(600)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def parts_of(bound: BoundEvaluator, samples: Any, test: bool) -> np.ndarray:
    return samples.parts(bound.values.validation, bound.values.test)[2 if test else 1]  # type: ignore[no-any-return]


def text_rows(bound: BoundEvaluator, data: Path, test: bool, folder: Path) -> Path:
    lines = data.read_text(encoding="utf-8").splitlines()
    path = folder / f"rows{test}.jsonl"
    chosen = parts_of(bound, bound.values.texts, test)
    path.write_text("\n".join(lines[row] for row in chosen), encoding="utf-8")
    return path


def arrays(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 3
    images = rng.normal(size=(400, 8, 8, 2)) + labels[:, None, None, None]
    np.savez(folder / "images.npz", images=images, labels=labels)
    return folder / "images.npz"


def array_rows(bound: BoundEvaluator, data: Path, test: bool, folder: Path) -> Path:
    chosen = parts_of(bound, bound.values.images, test)
    with np.load(data) as found:
        np.savez(folder / f"rows{test}.npz", images=found["images"][chosen], labels=found["labels"][chosen])
    return folder / f"rows{test}.npz"


def photos(folder: Path) -> Path:
    from PIL import Image

    rng = np.random.default_rng(0)
    for number in range(60):
        place = folder / "photos" / ("cat", "dog")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 120, (9 + number % 3, 12, 3)) + 100 * (number % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(place / f"{number:02}.png")
    return folder / "photos"


def photo_rows(bound: BoundEvaluator, data: Path, test: bool, folder: Path) -> Path:
    files = sorted(data.rglob("*.png"))
    for row in parts_of(bound, bound.values.images, test):
        place = folder / f"rows{test}" / files[row].parent.name / files[row].name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(files[row].read_bytes())
    return folder / f"rows{test}"


def prose(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    words = ["the", "zoë", "wrote", "letters", "to", "a", "friend,", "and", "slept.\n"]
    path = folder / "prose.txt"
    path.write_text(" ".join(rng.choice(words, 8000)), encoding="utf-8")
    return path


def prose_rows(bound: BoundEvaluator, data: Path, test: bool, folder: Path) -> Path:
    from evo_tune.training.recipe import Corpus

    found = Corpus.of(bound.values, bound.values.longest).prepared
    (folder / f"rows{test}.txt").write_bytes(bytes(found.test if test else found.validation))
    return folder / f"rows{test}.txt"


def tuned_rows(bound: BoundEvaluator, data: Path, test: bool, folder: Path) -> Path:
    from evo_tune.training.recipe.tuning import read_tuning_text

    parts = read_tuning_text(str(data), bound.values.window)
    (folder / f"rows{test}.txt").write_bytes(parts[2 if test else 1])
    return folder / f"rows{test}.txt"


def _tuning(**options: Any) -> Case:
    more = {"tokens": 512, "eval_tokens": 2048, "context": 64, **options}
    return Case("fine_tuning", prose, tuned_rows, more)


SHORT = {"epochs": 1.0, "evaluations": 2}
LANGUAGE = {"size": "2x64x64x512", "evaluations": 2, "tokens": 3072}

TABLE = {**SHORT, "categorical": "code"}

# One evaluation and no patience: the best step is the last one, whatever the validation rows are.
LAST = {**TABLE, "evaluations": 1, "patience": None, "refit": "none"}
BOOSTED, LINEAR = ({**LAST, "families": family, "folds": 1} for family in ("boosting", "linear"))

CONVOLVED = {**SHORT, "families": "convolution"}
LINEAR_TEXTS = {name: value for name, value in LINEAR.items() if name != "categorical"}

CASES = {
    "classes": Case("tabular", table, table_rows, {**TABLE, "target": "kind", "ignore": "price"}),
    "numbers": Case("tabular", table, table_rows, {**TABLE, "target": "price"}),
    "boosted classes": Case("tabular", table, table_rows, {**BOOSTED, "target": "kind", "ignore": "price"}),
    "boosted numbers": Case("tabular", table, table_rows, {**BOOSTED, "target": "price"}),
    "linear classes": Case("tabular", table, table_rows, {**LINEAR, "target": "kind", "ignore": "price"}),
    "linear numbers": Case("tabular", table, table_rows, {**LINEAR, "target": "price"}),
    "texts": Case("text_classification", texts, text_rows, SHORT),
    "linear texts": Case("text_classification", texts, text_rows, LINEAR_TEXTS),
    "arrays": Case("image_classification", arrays, array_rows, SHORT),
    "convolved arrays": Case("image_classification", arrays, array_rows, CONVOLVED),
    "photos": Case("image_classification", photos, photo_rows, {**SHORT, "image_size": 8}),
    "prose": Case("language_model", prose, prose_rows, {**LANGUAGE, "eval_tokens": 1500}),
    "byte pairs": Case("language_model", prose, prose_rows, {**LANGUAGE, "vocab": 300, "eval_tokens": 100000}),
    "merged": _tuning(precision="bf16"),
    "adapter": _tuning(method="adapter"),
}
