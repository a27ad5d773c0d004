"""benchmarks/parts.py in short: each variant changes something, and the table subtracts the value of time."""

import math
from pathlib import Path
from types import ModuleType

import pytest

from tests import conftest


@pytest.fixture(scope="module")
def parts() -> ModuleType:
    return conftest.benchmark("parts")


def test_each_variant_differs_from_the_base(parts: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "DEPTH", 1)
    text = tmp_path / "text.txt"
    text.write_bytes(bytes(range(256)) * 40)
    job = parts.Job(text, width=32, batch=256)
    found = {}
    for variant in parts.VARIANTS:
        trainer = parts.trainer_of(job, variant, 4, 0)
        found[variant] = (trainer.recipe.identity, str(trainer.model.config))
    base = found.pop("base")
    assert found.pop(parts.SHORTER) == base
    assert base not in found.values()
    assert len(set(found.values())) == len(found)


def test_a_tiny_training_is_scored_and_timed(parts: ModuleType, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_bytes(b"abcd" * 1000)
    job = parts.Job(text, width=32, batch=256)
    assert 0.0 < parts.loss_of(job, "all rates", 3, 0) < math.log(256)
    assert parts.time_ratio(job, "softcap 30", 1) > 0.0
    assert parts.time_ratio(job, parts.SHORTER, 1) == 1.0


def test_the_table_pairs_seeds_and_subtracts_the_value_of_time(parts: ModuleType) -> None:
    losses = {"base": [1.0, 2.0], parts.SHORTER: [1.1, 2.1], "qk_norm": [1.2, 2.4]}
    *_, last = parts.table(losses, {"base": 1.0, parts.SHORTER: 1.0, "qk_norm": 1.0 / 0.9}).splitlines()
    assert last == "| qk_norm | 1.111 | 1.8000 | +0.3000 ± 0.1000 | +0.2000 |"
