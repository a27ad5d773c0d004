"""The small base: made once, whoever comes first, made anew where it is damaged, of a text that is its own."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from evo_tune.errors import StoreError
from evo_tune.training import tuned as base_training
from evo_tune.training.recipe import tuning as small_base
from evo_tune.training.recipe.models.base import read_base


@pytest.fixture(autouse=True)
def _smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    model = {"context": 32, "depth": 2, "width": 32, "heads": 2, "init": "fan_in"}
    monkeypatch.setattr(small_base, "SMALL", {**small_base.SMALL, "model": model, "windows": 80})


def test_whoever_comes_first_makes_the_small_base_and_the_others_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made, make, found = [], base_training._train, []
    monkeypatch.setattr(base_training, "_train", lambda folder: (made.append(folder), make(folder)))
    threads = [threading.Thread(target=lambda: found.append(base_training.small_base_folder())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert len(set(found)) == 1
    assert len(found) == 3
    hashed = read_base(found[0]).sha256()
    assert sorted(path.name for path in tmp_path.glob("evo-tune/*")) == [found[0].name, f"{found[0].name}.lock"]

    def damage(number: int) -> None:
        weights = found[0] / "model.safetensors"
        if number == 0:
            weights.write_bytes(weights.read_bytes()[:-1])
        elif number == 1:
            content = bytearray(weights.read_bytes())
            content[-2] ^= 1
            weights.write_bytes(content)
        elif number == 2:
            shutil.rmtree(found[0])
            (found[0].with_name(f"{found[0].name}.partial")).mkdir()  # whoever made it was killed
        else:
            (found[0] / "sha256").unlink()

    for number in range(4):
        damage(number)
        assert base_training.small_base_folder() == found[0]
        assert len(made) == number + 2
        assert read_base(found[0]).sha256() == hashed  # to the bit


def test_a_cache_that_cannot_be_written_is_told_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(StoreError, match=r"-o base=FOLDER, or set XDG_CACHE_HOME"):
        base_training.small_base_folder()


def test_the_small_base_never_saw_the_text_that_it_is_tuned_to() -> None:
    tuning, other = small_base.built_in_text(tuning=True), small_base.built_in_text(tuning=False)
    assert min(len(tuning), len(other)) > 100_000
    training, held_out, test = small_base.read_tuning_text("", 128)
    assert training + held_out + test == tuning
    places = range(0, len(held_out) - 100, 100)
    assert not any(held_out[at : at + 100] in seen for at in places for seen in (training, other))
