"""Data of which little can be learnt but by heart, for trainings of a fraction of a second."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.training.conftest import _one_thread as _one_thread
from tests.training.forked import forked_ranks as forked_ranks


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Files and folders of random data, by the names that stand in TINY and EFFECTS."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(1)
    from evo_tune.training import GPT
    from evo_tune.training.recipe import GPTConfig

    for name in ("text", "other"):
        letters = rng.choice(list(b"abcdefgh \n"), 30000).astype(np.uint8)
        (folder / f"{name}.txt").write_bytes(letters.tobytes())
    documents = [bytes(rng.choice(list(b"abcdefgh \n"), 40).astype(np.uint8)) for _ in range(700)]
    (folder / "documents.txt").write_bytes(b"<|endoftext|>".join(documents))
    for seed, name in enumerate(("base", "other base")):
        GPT(GPTConfig(context=64, depth=1, width=16, heads=2), seed=seed).save(folder / name)
    for name in ("texts", "other_texts"):
        words = [" ".join(rng.choice(["a", "b", "c", "d", "e", "f"], 12)) for _ in range(240)]
        rows = [
            {
                "text": one,
                "other_text": two,
                "label": int((one[0] in "abc") ^ (rng.random() < 0.2)),
                "other_label": int(rng.integers(3)),
                "b": number % 12,
            }
            for number, (one, two) in enumerate(zip(words[::2], words[1::2], strict=True))
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    for name in ("table", "other_table"):
        columns = {"a": rng.normal(size=120), "b": rng.integers(0, 4, 120), "c": rng.normal(size=120)}
        columns |= {"y1": ((columns["a"] > 0) ^ (rng.random(120) < 0.2)).astype(int), "y2": rng.integers(0, 3, 120)}
        columns["gaps"] = ["" if n % 10 == 0 else n % 3 for n in range(120)]
        lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
        (folder / f"{name}.csv").write_text("\n".join(lines), encoding="utf-8")
    _write_images(folder, rng)
    _write_series(folder, rng)
    found = {path.name.partition(".")[0]: str(path) for path in folder.iterdir()}
    return found


def _write_series(folder: Path, rng: np.random.Generator) -> None:
    days = np.datetime64("2024-01-01") + np.arange(120)
    for name in ("series", "other_series"):
        columns = {"day": days, "step": np.arange(120), "shop": np.arange(120) // 60}
        columns |= {letters: rng.normal(size=120).cumsum() for letters in ("a", "y1", "y2")}
        lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
        (folder / f"{name}.csv").write_text("\n".join(lines), encoding="utf-8")


def _write_images(folder: Path, rng: np.random.Generator) -> None:
    from PIL import Image

    for name in ("images", "other_images"):
        for label in ("one", "two"):
            (folder / name / label).mkdir(parents=True)
            for n in range(40 if label == "one" else 32):  # unlike, so that class weights matter
                pixels = (rng.integers(0, 200, (8, 8, 3)) + 50 * ((label == "two") ^ (rng.random() < 0.25))).astype(
                    np.uint8
                )
                Image.fromarray(pixels).save(folder / name / label / f"{n}.png")
