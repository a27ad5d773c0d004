"""What the classification evaluators read, and what they say of data that they cannot use."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from evo_tune import Context
from evo_tune.errors import EvoTuneError, OptionError
from evo_tune.plugins.evaluator import Evaluator
from evo_tune.plugins.find import find_evaluator


@pytest.fixture(scope="module")
def images() -> ModuleType:
    return find_evaluator("bundled:image_classification").module


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    return find_evaluator("bundled:tabular_classification").module


@pytest.fixture(scope="module")
def texts() -> ModuleType:
    return find_evaluator("bundled:text_classification").module


def train(module: ModuleType, **given: Any) -> dict[str, float]:
    """Train the default genome as a run would, all checks included."""
    evaluator: Evaluator = find_evaluator(f"bundled:{Path(str(module.__file__)).stem}")
    options = evaluator.bind(given)
    metrics: dict[str, float] = evaluator.evaluate(evaluator.space(options).default(), Context(), options)
    return metrics


def refused(module: ModuleType, words: str, **given: Any) -> None:
    """Check that the data is refused in one line, before anything is trained, by space and fingerprint alike."""
    for function in (module.SPACE, module.fingerprint):
        with pytest.raises(EvoTuneError, match=words) as caught:
            function(**given)
        assert "\n" not in str(caught.value)


def without(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Make a package look as if it were not installed."""
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)


# ---------------------------------------------------------------- images


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of pictures of different kinds and sizes: reds, and blues."""
    from PIL import Image

    for number in range(6):
        for name, colour in (("red", (200, 9, 9)), ("blue", (9, 9, 200))):
            path = tmp_path / "photos" / name / f"{number}.{'png' if number % 2 else 'jpg'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB" if number else "RGBA", (20 + number, 30), colour).save(
                path.with_suffix(".png" if not number else path.suffix)
            )
    (tmp_path / "photos" / ".thumbs").mkdir()
    (tmp_path / "photos" / "red" / ".hidden").write_text("no picture")
    return tmp_path / "photos"


def test_a_folder_of_images_is_learnt(images: ModuleType, photos: Path) -> None:
    read = images._read(str(photos), 16)
    assert read.labels == ("blue", "red")
    assert read.pixels.shape == (12, 3, 16, 16)
    assert read.classes.tolist() == [0] * 6 + [1] * 6
    assert read.pixels[0, :, 3, 3].tolist() == pytest.approx([9, 9, 200], abs=4)
    assert train(images, data=str(photos), image_size=16, epochs=10.0)["accuracy"] == 1.0


def test_arrays_of_images(images: ModuleType, tmp_path: Path) -> None:
    grey = np.random.default_rng(0).random((8, 6, 4))
    np.savez(tmp_path / "grey.npz", images=grey, labels=np.array(list("abababab")))
    np.savez(tmp_path / "colour.npz", images=np.stack([grey] * 3, 3), labels=np.arange(8) % 2)
    one, two = images._read(str(tmp_path / "grey.npz"), 32), images._read(str(tmp_path / "colour.npz"), 32)
    assert one.labels == ("a", "b")
    assert one.pixels.shape == (8, 1, 6, 4)
    assert two.pixels.shape == (8, 3, 6, 4)
    assert np.array_equal(two.pixels[:, 2:], one.pixels)
    assert images.SPACE(data=str(tmp_path / "grey.npz")).genes["patch"].values == (1, 2)
    prints = {images.fingerprint(data=str(tmp_path / name)) for name in ("grey.npz", "colour.npz")}
    assert len(prints | {images.fingerprint(), images.fingerprint(held_out=0.5)}) == 4


def test_images_that_cannot_be_used(images: ModuleType, photos: Path, tmp_path: Path) -> None:
    pixels, labels = np.zeros((4, 8, 8)), [0, 1, 0, 1]
    files = {
        "one": ({"images": pixels, "labels": [0] * 4}, "only the class '0'"),
        "rare": ({"images": pixels, "labels": [0, 0, 0, 1]}, "one image only of class '1'"),
        "names": ({"x": pixels, "labels": labels}, "has the arrays x, labels: expected images and labels"),
        "shape": ({"images": pixels[0], "labels": labels}, r"of shape \(8, 8\)"),
        "nan": ({"images": pixels * np.nan, "labels": labels}, "finite"),
        "count": ({"images": pixels, "labels": [0, 1]}, "one for each of 4 images"),
        "prime": ({"images": np.zeros((4, 31, 9)), "labels": labels}, "31 by 9 pixels"),
    }
    for name, (arrays, words) in files.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)
        if name == "prime":
            with pytest.raises(OptionError, match=words):
                images.SPACE(data=str(tmp_path / "prime.npz"))
        else:
            refused(images, words, data=str(tmp_path / f"{name}.npz"))
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 no archive")
    refused(images, "cannot read it", data=str(tmp_path / "broken.npz"))
    (tmp_path / "empty").mkdir()
    refused(images, "holds no images", data=str(tmp_path / "empty"))
    (photos / "red" / "note.txt").write_text("no picture")
    refused(images, r"cannot read .*note\.txt as an image", data=str(photos))
    refused(images, "image_size=1:", image_size=1)


def test_missing_extras_name_what_to_install(
    images: ModuleType, tables: ModuleType, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for cached in (images._read, tables._prepare, tables._boosted):
        cached.cache_clear()
    without(monkeypatch, "sklearn")
    without(monkeypatch, "PIL")
    refused(images, r"pip install 'evo-tune\[sklearn\]'", data="")
    refused(images, r"pip install 'evo-tune\[images\]'", data=str(photos))
    refused(tables, r"pip install 'evo-tune\[sklearn\]'", data="")
    with pytest.raises(OptionError, match="baseline=false"):
        tables._baseline(tables.options_from({}))


# ---------------------------------------------------------------- tables


@pytest.fixture
def frame() -> pd.DataFrame:
    """Rows whose class is told by a number and a text together, with gaps."""
    rng = np.random.default_rng(3)
    number, colour = rng.normal(5.0, 3.0, 120), rng.choice(["red", "blue", "green"], 120)
    bought = np.where((number > 5) ^ (colour == "red"), "yes", "no")
    frame = pd.DataFrame(
        {"id": range(120), "number": number, "colour": colour, "shop": rng.integers(1, 4, 120), "bought": bought}
    )
    frame.loc[5:12, "number"] = np.nan
    frame.loc[20:24, "colour"] = None
    return frame


def test_a_table_is_learnt_from_csv_and_parquet_alike(tables: ModuleType, frame: pd.DataFrame, tmp_path: Path) -> None:
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_parquet(tmp_path / "t.parquet")
    given = {"target": "bought", "categorical": "shop", "ignore": "id"}
    one, two = (
        tables._table(tables.options_from({"data": str(tmp_path / f), **given})) for f in ("t.csv", "t.parquet")
    )
    assert one.columns.numeric == ("number",)
    assert one.columns.categorical == {"colour": ("blue", "green", "red"), "shop": ("1", "2", "3")}
    assert one.labels == ("no", "yes")
    assert np.allclose(one.inputs, two.inputs, equal_nan=True)
    assert np.isnan(one.inputs[5:13, 0]).all()
    assert (one.inputs[20:25, 1] == 0).all()
    metrics = train(tables, data=str(tmp_path / "t.csv"), epochs=25.0, **given)
    assert metrics["auc"] > 0.8
    assert 0.5 < metrics["baseline_auc"] <= 1.0
    assert "baseline_auc" not in train(tables, data=str(tmp_path / "t.csv"), epochs=0.1, baseline=False, **given)


def test_the_baseline_is_scikit_learns_on_the_same_rows(tables: ModuleType) -> None:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import log_loss, roc_auc_score
    from threadpoolctl import threadpool_limits

    table = tables._table(tables.options_from({}))
    with threadpool_limits(1):
        model = HistGradientBoostingClassifier(random_state=0).fit(
            table.inputs[table.training], table.classes[table.training]
        )
    found, truth = model.predict_proba(table.inputs[table.held_out]), table.classes[table.held_out]
    baseline = tables._baseline(tables.options_from({}))
    assert baseline["baseline_auc"] == pytest.approx(roc_auc_score(truth, found[:, 1]))
    assert baseline["baseline_loss"] == pytest.approx(log_loss(truth, found))
    assert baseline["baseline_accuracy"] == model.score(table.inputs[table.held_out], truth)


def test_nothing_is_learnt_from_held_out_rows(tables: ModuleType, frame: pd.DataFrame, tmp_path: Path) -> None:
    frame.to_csv(tmp_path / "t.csv", index=False)
    given = {"data": str(tmp_path / "t.csv"), "target": "bought"}
    held = tables._table(tables.options_from(given)).held_out
    frame.loc[held, "colour"] = "violet"
    frame.to_csv(tmp_path / "u.csv", index=False)
    table = tables._table(tables.options_from({**given, "data": str(tmp_path / "u.csv")}))
    assert np.array_equal(table.held_out, held)
    assert table.columns.categorical["colour"] == ("blue", "green", "red")
    assert (table.inputs[held, -1] == 0).all()


def test_tables_that_cannot_be_used(tables: ModuleType, frame: pd.DataFrame, tmp_path: Path) -> None:
    dates = frame.assign(day=pd.Timestamp("2020-01-01"))
    cases: list[tuple[pd.DataFrame, dict[str, str], str]] = [
        (frame, {"target": "sold"}, "target=sold: no such column; .* has the columns id, number, colour, shop, bought"),
        (frame, {"target": ""}, "needs -o target=COLUMN"),
        (frame, {"ignore": "name"}, "ignore=name: no such column"),
        (frame, {"categorical": "name"}, "categorical=name: no such column"),
        (frame, {"target": "colour"}, "target=colour: 5 of 120 rows have none"),
        (frame, {"target": "id"}, "120 different values: expected 2 to 100"),
        (frame.assign(bought="yes"), {}, "1 different values"),
        (frame.assign(bought=["once"] + ["no"] * 119), {}, "one row only of class once"),
        (frame[["bought"]], {}, "expected one at least beside target"),
        (frame.assign(number=np.inf), {}, "'number' holds infinite numbers"),
        (dates, {}, "'day' is of type datetime"),
    ]
    for number, (table, given, words) in enumerate(cases):
        table.to_parquet(tmp_path / f"{number}.parquet")
        refused(tables, words, **{"data": str(tmp_path / f"{number}.parquet"), "target": "bought", **given})
    (tmp_path / "no.parquet").write_text("a,b\n1,2\n")
    refused(tables, "cannot read it as a table", data=str(tmp_path / "no.parquet"), target="a")
    refused(tables, "held_out", held_out=1.0)
    refused(tables, "give one with -o data=FILE", target="diagnosis")


# ---------------------------------------------------------------- texts


def test_texts_are_learnt_from_csv_and_jsonl_alike(texts: ModuleType, tmp_path: Path) -> None:
    rows = [
        (f"the {'sun shines, warm' if n % 3 else 'rain falls, “cold”'} on day {n}", "dry" if n % 3 else "wet")
        for n in range(90)
    ]
    pd.DataFrame(rows, columns=["words", "what"]).to_csv(tmp_path / "t.csv", index=False)
    lines = [json.dumps({"words": words, "what": what}) for words, what in rows]
    (tmp_path / "t.jsonl").write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    given = {"text": "words", "label": "what"}
    one, two = (texts._read(str(tmp_path / file), "words", "what") for file in ("t.csv", "t.jsonl"))
    assert one.texts == two.texts == tuple(words for words, _ in rows)
    assert one.labels == ("dry", "wet")
    for unit in ("words", "bytes"):
        metrics = train(texts, data=str(tmp_path / "t.csv"), epochs=15.0, unit=unit, **given)
        assert metrics["accuracy"] == 1.0
    assert "length" not in texts.SPACE(data=str(tmp_path / "t.csv"), length=9, **given).genes


def test_flops_are_those_of_the_texts_there_are(texts: ModuleType, tmp_path: Path) -> None:
    lines = [json.dumps({"text": "a b c d", "label": n % 2}) for n in range(8)]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    given = {"data": str(tmp_path / "t.jsonl"), "epochs": 1.0}
    genome = texts.SPACE(**given).default()
    spent = {length: texts.estimate({**genome, "length": length}, **given)["flops"] for length in (2, 4, 8, 64)}
    assert spent[2] < spent[4] == spent[8] == spent[64]


def test_the_docstrings_are_many_of_each_package_and_do_not_name_it(texts: ModuleType) -> None:
    read = texts._read("", "text", "label")
    assert read.labels == tuple(texts.SOURCES)
    assert np.bincount(read.classes).min() > 300
    assert len(set(read.texts)) > 0.98 * len(read.texts)
    assert not any(name in text.lower() for text in read.texts for name in texts.SOURCES)


def test_texts_that_cannot_be_used(texts: ModuleType, tmp_path: Path) -> None:
    cases = {
        "a.csv": ("text,label\na,1\nb,1\n", {}, "1 different values"),
        "b.csv": ("text,label\na,1\nb,1\nc,2\n", {}, "one text only of class 2"),
        "c.csv": ("text,label\na,1\nb,\n", {}, "row 2 has no 'label'"),
        "d.csv": ("text,label\na,1\nb\n", {}, "row 2 has no 'label'"),
        "e.csv": ("words,what\na,1\n", {}, "text=text: no such column; .* has words, what"),
        "f.csv": ("text,label\na,1\n", {"label": "class"}, "label=class: no such column"),
        "g.csv": ("", {}, "cannot read it"),
        "l.csv": ("text,label\n", {}, "row 1 has no 'text'"),
        "k.csv": ('text,label\na,1\n"b,2\n', {}, "cannot read it"),
        "h.jsonl": ('{"text": "a"\n', {}, "cannot read it"),
        "i.jsonl": ('["a"]\n', {}, "line 1 is no object"),
        "j.jsonl": ('{"text": null, "label": 1}\n', {}, "row 1 has no 'text'"),
    }
    for name, (content, given, words) in cases.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
        refused(texts, words, data=str(tmp_path / name), **given)
    (tmp_path / "latin.csv").write_bytes("text,label\nZwölf,1\n".encode("latin-1"))
    refused(texts, "UTF-8", data=str(tmp_path / "latin.csv"))
    refused(texts, "length=1:", length=1)
    refused(texts, "give one with -o data=FILE", label="class")
