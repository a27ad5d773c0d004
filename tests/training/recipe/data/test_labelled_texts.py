"""Texts with labels: what is read of files and docstrings, and what is said of those that cannot be used."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evo_tune.training.recipe import TextConfig, encode_texts, read_labelled_texts
from evo_tune.training.recipe.data.labelled_texts import SOURCES
from tests.training.recipe.data.refusals import refused


def test_csv_and_jsonl_are_read_alike(tmp_path: Path) -> None:
    rows = [(f"the sun, “warm”, on day {n}\n", "dry" if n % 3 else "wet") for n in range(9)]
    pd.DataFrame(rows, columns=["words", "what"]).to_csv(tmp_path / "t.csv", index=False)
    lines = [json.dumps({"words": words, "what": what}) for words, what in rows]
    (tmp_path / "t.jsonl").write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    one, two = (read_labelled_texts(str(tmp_path / file), "words", "what") for file in ("t.csv", "t.jsonl"))
    assert one.texts == two.texts == tuple(words for words, _ in rows)
    assert one.labels == ("dry", "wet")
    assert one.classes.tolist() == two.classes.tolist() == [1, 0, 0] * 3


def test_the_docstrings_are_many_of_each_package_and_do_not_name_it() -> None:
    read = read_labelled_texts("", "text", "label")
    assert read.labels == tuple(SOURCES)
    assert np.bincount(read.classes).min() > 300
    assert len(set(read.texts)) > 0.98 * len(read.texts)
    assert not any(name in text.lower() for text in read.texts for name in SOURCES)


def test_texts_that_cannot_be_used(tmp_path: Path) -> None:
    cases = {
        "a.csv": ("text,label\na,1\nb,1\n", "label", "1 different values"),
        "b.csv": ("text,label\na,1\nb,1\nc,2\n", "label", "1 of class 2: expected at least 3 texts of each"),
        "c.csv": ("text,label\na,1\nb,\n", "label", "row 2 has no 'label'"),
        "d.csv": ("text,label\na,1\nb\n", "label", "row 2 has no 'label'"),
        "e.csv": ("words,what\na,1\n", "label", "text=text: no such column; .* has words, what"),
        "f.csv": ("text,label\na,1\n", "class", "label=class: no such column"),
        "g.csv": ("", "label", "cannot read it"),
        "l.csv": ("text,label\n", "label", "row 1 has no 'text'"),
        "k.csv": ('text,label\na,1\n"b,2\n', "label", "cannot read it"),
        "h.jsonl": ('{"text": "a"\n', "label", "cannot read it"),
        "i.jsonl": ('["a"]\n', "label", "line 1 is no JSON object"),
        "j.jsonl": ('{"text": null, "label": 1}\n', "label", "row 1 has no 'text'"),
    }
    for name, (content, label, words) in cases.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
        refused(read_labelled_texts, words, str(tmp_path / name), "text", label)
    (tmp_path / "latin.csv").write_bytes("text,label\nZwölf,1\n".encode("latin-1"))
    refused(read_labelled_texts, "UTF-8", str(tmp_path / "latin.csv"), "text", "label")


def test_a_packed_file_that_unpacks_to_a_thousand_times_its_size_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("evo_tune.training.recipe.data.reading.ALWAYS", 1 << 20)  # by itself, it would take seconds
    (tmp_path / "bomb.csv.gz").write_bytes(gzip.compress(b"text,label\n" + b"a,1\n" * 10**6))
    refused(read_labelled_texts, "unpacks to more than", str(tmp_path / "bomb.csv.gz"), "text", "label")


def test_more_rows_than_memory_can_hold_are_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("evo_tune.training.recipe.data.labelled_texts.MOST_ROWS", 8)
    (tmp_path / "many.csv").write_text("text,label\n" + "a,1\nb,2\nc,1\n" * 3)
    refused(read_labelled_texts, "more than 8 rows", str(tmp_path / "many.csv"), "text", "label")


@pytest.mark.parametrize("buckets", [1, 2, 7])
def test_no_word_has_the_number_of_padding(buckets: int) -> None:
    texts = [f"{number} {number + 1}" for number in range(50)]
    tokens = encode_texts(texts, TextConfig(outputs=2, width=8, heads=2, depth=1, length=3, buckets=buckets))
    assert set(tokens[:, :2].flatten().tolist()) == set(range(1, buckets + 1))
    assert not tokens[:, 2].any()
