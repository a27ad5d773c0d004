"""What `predict` does with data that differs from that of the training, and with wrong input: one line each."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import evo_tune
from evo_tune.errors import EvoTuneError, UsageError
from evo_tune.training.prediction import model as samples
from evo_tune.training.prediction.model import Writer
from tests.cli.conftest import Typed
from tests.training.prediction.conftest import Export

pytestmark = pytest.mark.xdist_group("exported")


def test_an_input_that_does_not_fit_into_memory_is_predicted_in_parts(
    export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = export("classes")
    model, frame = evo_tune.load_model(made.folder), pd.read_csv(made.held_out)
    whole = model.predict(frame)
    monkeypatch.setattr("evo_tune.training.prediction.model.PASSES", 1)
    model = evo_tune.load_model(made.folder, batch=7)
    found = model.predictions(made.held_out)
    parts = list(found)
    assert len(parts) == -(-len(frame) // 7)
    assert pd.concat(parts)["prediction"].tolist() == whole.tolist()
    assert found.metrics["accuracy"] == made.metrics["accuracy"]


def test_tables_are_taken_in_every_form(export: Export) -> None:
    made = export("numbers")
    model, frame = evo_tune.load_model(made.folder), pd.read_csv(made.held_out)
    plain = model.predict(frame)
    assert plain.shape == (len(frame),)
    assert abs(plain.mean() - 1e4) < 5e3, "in the unit of the target"
    assert model.evaluate(frame)["rmse"] == made.metrics["rmse"]
    assert model.evaluate(frame.drop(columns="price"), frame["price"]) == model.evaluate(frame)
    names = [*model.reader.columns.numeric, *model.reader.columns.categorical]
    for other in (frame[names], frame.to_dict("list"), frame[names].to_numpy(), frame.iloc[:, ::-1]):
        assert np.array_equal(model.predict(other), plain)
    assert model.predict(frame[:0]).shape == (0,)


def test_files_in_every_format_and_standard_input_have_the_same_predictions(
    export: Export, typed: Typed, folder: Path
) -> None:
    made = export("numbers")
    frame = pd.read_csv(made.held_out)
    frame.to_csv(folder / "semicolons.csv", index=False, sep=";", decimal=",")
    frame.to_csv(folder / "tabs.tsv", index=False, sep="\t")
    frame.to_json(folder / "lines.jsonl", orient="records", lines=True)
    frame.to_csv(folder / "commas.csv", index=False)
    plain = typed("predict", str(made.folder), "commas.csv")
    assert plain.code == 0, plain
    for name in ("semicolons.csv", "tabs.tsv", "lines.jsonl"):
        done = typed("predict", str(made.folder), name)
        assert done.out == plain.out, name
        assert done.err == plain.err, name  # the metrics
    for name in ("commas.csv", "lines.jsonl"):
        command = [sys.executable, "-m", "evo_tune", "predict", str(made.folder), "-"]
        with open(name, "rb") as file:
            piped = subprocess.run(command, stdin=file, capture_output=True, text=True, check=True)
        assert piped.stdout == plain.out
    empty = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert empty.returncode == 2
    assert empty.stderr == "Error: INPUT -: standard input is empty: expected CSV with a header, or JSON lines\n"


def test_a_model_of_a_table_without_names_predicts_one_without_names(
    export: Export, typed: Typed, folder: Path
) -> None:
    frame = pd.read_csv(export("numbers").held_out)
    pd.concat([frame] * 3).to_csv(folder / "rows.csv", index=False, header=False)
    target = f"column{1 + list(frame.columns).index('price')}"
    options = ["-o", "data=rows.csv", "-o", f"target={target}", "-o", "header=none"]
    run = ["run", "tabular", "--trials", "1", "--final-seeds", "0", "--quiet", "-o", "epochs=1", "--name", "bare"]
    assert typed(*run, *options).code == 0
    assert typed("export", "bare", "model").code == 0
    done = typed("predict", "model", "rows.csv")
    assert done.code == 0, done
    assert len(done.out.splitlines()) == 1 + 3 * len(frame)
    assert "rmse" in done.err


def test_categories_keep_their_names_however_the_column_is_typed(export: Export) -> None:
    model = evo_tune.load_model(export("classes").folder)
    row = {"width": 3.0, "town": "Ulm", "code": 1, "open": True}
    for name, alike in (("code", [2, 2.0, "2", "2.0"]), ("code", [1, 1.0, "1"]), ("open", [True, 1, 1.0])):
        rows = pd.DataFrame([{**row, name: value} for value in alike], dtype=object)
        assert np.ptp(model.predict_proba(rows), axis=0).max() < 1e-6  # rows of a batch may differ by rounding
    assert model.remarks == []


def test_what_differs_from_the_training_table_is_said(export: Export, typed: Typed, folder: Path) -> None:
    made = export("classes")
    frame = pd.read_csv(made.held_out)
    frame.loc[:4, "town"] = "Atlantis\n\x1b[31m"
    frame.loc[3, "kind"] = "huge"
    frame.assign(**{"colour\x1b[1m": 1}).to_csv(folder / "rows.csv", index=False)
    done = typed("predict", str(made.folder), "rows.csv", "--keep", "town", "--output", "out.csv")
    assert done.code == 0, done
    assert "ignored: colour" in done.err
    assert "no training row has" in done.err
    assert "Atlantis" in done.err
    assert "1 of 60 samples" in done.err
    assert "\x1b" not in done.err
    found = pd.read_csv(folder / "out.csv")
    assert list(found) == ["town", "prediction", "p(<b>small</b>)", "p(big)"]
    assert "'=cmd()" in found["town"].tolist(), "a spreadsheet must not compute it"


def test_all_formats_have_the_same_predictions(export: Export, typed: Typed, folder: Path) -> None:
    made = export("classes")
    pd.read_csv(made.held_out).to_parquet(folder / "rows.parquet")
    words = ("predict", str(made.folder), "rows.parquet")
    printed = typed(*words)
    (folder / "out.csv").write_text(printed.out)
    for name in ("out.parquet", "out.jsonl"):
        assert typed(*words, "--output", name).code == 0
    told = json.loads(typed(*words, "--format", "json").out)
    frames = [
        pd.read_csv(folder / "out.csv"),
        pd.read_parquet(folder / "out.parquet"),
        pd.read_json(folder / "out.jsonl", lines=True),
        pd.DataFrame(told["predictions"]),
    ]
    for frame in frames[1:]:
        pd.testing.assert_frame_equal(frame, frames[0], check_dtype=False, rtol=1e-12)
    assert told["metrics"]["accuracy"] == made.metrics["accuracy"]


def test_a_language_model_writes_as_it_samples(export: Export, typed: Typed, tmp_path: Path) -> None:
    model = str(export("prose").folder)
    words = ("predict", model, "--prompt", "zoë\x1b", "--length", "30", "--seed", "4")
    once, again = typed(*words), typed(*words)
    assert once.out == again.out
    assert once.out.startswith("zoë\\x1b"), "a terminal obeys nothing"
    likeliest = [typed(*words, "--temperature", "0").out, typed(*words, "--top-k", "1").out]
    assert likeliest[0] == likeliest[1] != once.out
    text = json.loads(typed(*words, "--format", "json").out)["text"]
    assert len(text.encode()) >= 10
    stream = evo_tune.load_model(model).stream("a", 50)  # type: ignore[attr-defined]
    assert isinstance(next(stream), str)
    stream.close()


def test_a_folder_of_photos_needs_no_classes(export: Export) -> None:
    made = export("photos")
    model = evo_tune.load_model(made.folder)
    files = sorted(made.held_out.rglob("*.png"))
    assert model.predict(files).tolist() == model.predict([str(file) for file in files]).tolist()
    flat = next(iter(model.predictions(files[0].parent)))
    assert flat["prediction"].tolist() == model.predict([f for f in files if f.parent == files[0].parent]).tolist()


HEAD = "width,town,code,open\n"

INPUTS: dict[str, tuple[str, str, str | bytes, str]] = {
    "an empty file": ("classes", "a.csv", "", "cannot read it as a table"),
    "no table": ("classes", "a.parquet", "PAR1nonsense", "cannot read it as a table"),
    "another encoding": ("classes", "a.csv", (HEAD + "1,Köln,1,True").encode("latin-1"), "is not UTF-8"),
    "a missing column": ("classes", "a.csv", "width,town\n1,Ulm\n", "has no column open, code"),
    "text in a number column": ("classes", "a.csv", HEAD + "wide,Ulm,1,True\n", "'width'.*wide"),
    "an infinite number": ("classes", "a.csv", HEAD + "inf,Ulm,1,True\n", "infinite numbers"),
    "a number that float32 lacks": ("classes", "a.csv", HEAD + "1e300,Ulm,1,True\n", "infinite numbers"),
    "a row with more cells": ("classes", "a.csv", HEAD + "1,Ulm,1,True\n1,2,3,4,5,6\n", "cannot read it as a table"),
    "a table without texts": ("texts", "a.csv", "body\nhello\n", "no column 'text'"),
    "lines that are no objects": ("texts", "a.jsonl", '{"text": "a"}\n[1]\n', "line 2"),
    "half a surrogate pair": (
        "texts",
        "a.jsonl",
        '{"text": "a"}\n{"text": "\\ud800"}\n',
        "line 2 is no JSON object in UTF-8",
    ),
    "deep JSON": ("texts", "a.jsonl", "[" * 200_000, "line 1"),
    "a text in another encoding": ("texts", "a.txt", "Köln".encode("latin-1"), "not UTF-8"),
    "no arrays": ("arrays", "a.npz", "PK nonsense", "cannot read it"),
    "image files for arrays": ("arrays", "a.png", "", "trained on arrays"),
    "no image": ("photos", "a.png", "nonsense", "cannot read .* as an image"),
    "a text of one byte": ("prose", "a.txt", "a", "two bytes or more"),
    "a table for images": ("photos", "a.csv", HEAD, "cannot read .* as an image"),
}


def test_labels_beyond_the_images_take_no_memory(export: Export, folder: Path) -> None:
    exported = export("arrays")
    with np.load(exported.held_out) as arrays:
        images = arrays["images"][:3]
    labels = np.arange(2_000_000)  # 16 MB; as a list 80 MB
    np.savez(folder / "many.npz", images=images, labels=labels)
    reader = evo_tune.load_model(exported.folder).reader  # type: ignore[attr-defined]
    tracemalloc.start()
    try:
        truth = [label for part in reader.parts(folder / "many.npz", ()) for label in part.truth]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert truth[:3] == [0, 1, 2]
    assert peak < 60e6


@pytest.mark.parametrize("what", INPUTS)
def test_a_wrong_input_is_refused_in_one_line(what: str, export: Export, typed: Typed, folder: Path) -> None:
    case, name, content, told = INPUTS[what]
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    done = typed("predict", str(export(case).folder), name, "--output", "out.csv")
    assert done.code == 2, done
    assert done.err.count("\n") == 1
    assert re.search(told, done.err), done.err
    assert not (folder / "out.csv").exists()


@pytest.mark.parametrize("case", ["classes", "texts", "arrays", "photos", "prose"])
def test_an_input_that_is_not_there_is_refused(case: str, export: Export, typed: Typed, folder: Path) -> None:
    for name in ("no/such.csv", "no/such"):
        done = typed("predict", str(export(case).folder), name)
        assert (done.code, done.err.count("\n")) == (2, 1), done
    assert typed("predict", "no/such", "rows.csv").code == 2


@pytest.mark.parametrize(
    ("name", "shape"), [("arrays", (2, 9, 8, 2)), ("arrays", (2, 8, 8)), ("arrays", (8, 8)), ("photos", (1, 3, 8))]
)
def test_images_of_another_shape_are_refused(name: str, shape: tuple[int, ...], export: Export) -> None:
    with pytest.raises(UsageError, match="expected numbers, "):
        evo_tune.load_model(export(name).folder).predict(np.zeros(shape))


def test_an_empty_folder_has_nothing_to_predict(export: Export, tmp_path: Path) -> None:
    for name in ("photos", "texts", "prose"):
        with pytest.raises(EvoTuneError, match="is empty"):
            list(evo_tune.load_model(export(name).folder).predictions(tmp_path))


def test_a_bad_row_keeps_the_predictions_before_it(
    export: Export, typed: Typed, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evo_tune.training.prediction.model.PASSES", 1)
    frame = pd.read_csv(export("classes").held_out)
    frame = pd.concat([frame] * 10)[: 2 * samples.PASS].astype({"width": object})
    frame.iloc[-1, 0] = "wide"
    frame.to_csv(folder / "rows.csv", index=False)
    done = typed("predict", str(export("classes").folder), "rows.csv", "--output", "out.csv")
    assert done.code == 1
    (part,) = folder.glob("out.*.part.csv")
    assert f"{part.name} has the first {samples.PASS} predictions" in done.err
    assert len(pd.read_csv(part)) == samples.PASS
    assert not (folder / "out.csv").exists()
    (folder / "out.csv").write_text("mine")
    again = typed("predict", str(export("classes").folder), "rows.csv", "--output", "out.csv")
    assert "exists: choose another name" in again.err
    assert (folder / "out.csv").read_text() == "mine"


def test_lines_with_keys_of_their_own_need_no_table_of_all(export: Export, folder: Path) -> None:
    """4,000 lines with as many keys were a table of 128 MB, 14 MiB of lines one of 14.9 GiB."""
    lines = [json.dumps({"text": f"word {number}", f"key {number}": 1}) for number in range(4_000)]
    (folder / "keys.jsonl").write_text("\n".join(lines))
    model = evo_tune.load_model(export("texts").folder)
    tracemalloc.start()
    rows = sum(len(frame) for frame in model.predictions(folder / "keys.jsonl"))
    assert rows == 4_000
    assert tracemalloc.get_traced_memory()[1] < 40e6
    tracemalloc.stop()


@pytest.mark.parametrize("name", ["out.csv", "out.parquet", "out.jsonl"])
def test_predictions_have_their_name_when_they_are_complete(
    export: Export, typed: Typed, folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A process that is killed before leaves no file of that name."""
    seen, write = [], Writer.write

    def record(writer: Writer, frame: pd.DataFrame) -> None:
        write(writer, frame)
        seen.append((folder / name).exists())

    monkeypatch.setattr(Writer, "write", record)
    done = typed("predict", str(export("classes").folder), str(export("classes").held_out), "--output", name)
    assert done.code == 0, done.err
    assert seen
    assert not any(seen)
    assert [path.name for path in folder.glob("out.*")] == [name]


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    def write() -> None:
        with Writer(tmp_path / "out.csv").keep_complete() as writer:
            writer.write(pd.DataFrame({"a": [1]}))
            (tmp_path / "out.csv").write_text("mine")

    with pytest.raises(UsageError, match="exists now"):
        write()
    assert (tmp_path / "out.csv").read_text() == "mine"
    (part,) = tmp_path.glob("out.*.part.csv")
    assert part.read_text() == "a\n1\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "expected INPUT or --prompt"),
        (["rows.csv", "--prompt", "a"], "expected INPUT or --prompt"),
        (["rows.csv", "--top-k", "3"], "--top-k belongs to --prompt"),
        (["--prompt", "a"], "is a model of tabular-classification"),
        (["rows.csv", "--output", "out.xlsx"], "ends with .csv"),
        (["rows.csv", "--keep", "id"], "--keep id: no such column"),
        (["rows.csv", "--device", "cuda:99"], "--device cuda:99"),
        (["rows.csv", "--base", "b"], "is no adapter"),
    ],
)
def test_flags_that_do_not_fit_are_refused(
    words: list[str], told: str, export: Export, typed: Typed, folder: Path
) -> None:
    (folder / "rows.csv").write_bytes(export("classes").held_out.read_bytes())
    done = typed("predict", str(export("classes").folder), *words)
    assert (done.code, told in done.err) == (2, True), done


def test_rows_of_the_training_are_said_to_be_known(export: Export, tmp_path: Path) -> None:
    made = export("classes")
    model, seen, new = evo_tune.load_model(made.folder), tmp_path / "seen.csv", tmp_path / "new.csv"
    for path in (seen, new):
        path.write_bytes(made.held_out.read_bytes())
    model.about.options["data"] = str(seen)
    for path, remark in ((seen, True), (new, False)):
        predictions = model.predictions(path)
        list(predictions)
        assert any("the model has seen these rows" in line for line in predictions.remarks) is remark
