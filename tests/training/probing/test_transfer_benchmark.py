"""benchmarks/transfer.py in short: what it finds is checked on valleys that are known, and its pieces go on."""

from __future__ import annotations

import argparse
import importlib
import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests import conftest


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return conftest.benchmark("transfer")


@pytest.fixture(scope="module")
def pieces(benchmark: ModuleType) -> ModuleType:
    return importlib.import_module("transfer_trainings")


def bowl(best: float, noise: float = 0.0, asked: list[float] | None = None) -> Any:
    def loss(lr: float, seed: int) -> float:
        if asked is not None:
            asked.append(lr)
        shift = noise * (seed - 1)
        return 2.0 + 0.1 * (math.log(lr / best) - shift) ** 2 + 0.01 * seed

    return loss


@pytest.mark.parametrize(("best", "start"), [(0.003, 0.004), (0.05, 0.002), (0.0004, 0.02)])
@pytest.mark.parametrize("descend", [True, False])
def test_a_parabola_finds_the_bottom_from_wherever_it_begins(
    pieces: ModuleType, best: float, start: float, descend: bool
) -> None:
    found = pieces.valley(bowl(best), start, 3, descend=descend)
    assert math.exp(found.optimum[0]) == pytest.approx(best, rel=0.01)
    assert len(found.losses) == 3
    assert abs(math.log(pieces.rate(found.best) / best)) <= math.log(2) / 4 + 1e-9


def test_a_flat_valley_is_fitted_by_two_rates_on_each_side(pieces: ModuleType) -> None:
    found = pieces.valley(bowl(0.0045), 0.03, 2, descend=False, reach=2)
    assert sorted(found.losses) == [found.best + step for step in (-2, -1, 0, 1, 2)]
    assert math.exp(found.optimum[0]) == pytest.approx(0.0045, rel=0.01)


def test_the_error_is_that_of_the_seeds(pieces: ModuleType) -> None:
    at, error = pieces.valley(bowl(0.004, noise=0.1), 0.004, 3).optimum
    assert at == pytest.approx(math.log(0.004))
    assert error == pytest.approx(0.1 / math.sqrt(3))
    assert math.isnan(pieces.valley(bowl(0.004), 0.004, 1).optimum[1])


def test_where_there_is_no_bottom_the_lowest_point_counts(pieces: ModuleType) -> None:
    x = np.array([0.0, 1.0, 2.0])
    assert pieces.lowest(x, np.array([3.0, 2.0, 1.0])) == 2.0
    assert pieces.lowest(x, np.array([1.0, 3.0, 2.0])) == 0.0


def test_carried_against_best_is_paired_by_seed(pieces: ModuleType) -> None:
    mean, error = pieces.excess([2.02, 3.03, 4.04], [2.0, 3.0, 4.0])
    assert mean == pytest.approx(0.01)
    assert error == pytest.approx(0.0, abs=1e-9)


GIVEN = {
    "seeds": 3,
    "tokens": 1000,
    "per_weight": None,
    "base": (2, 32),
    "size": [(2, 64), (2, 256)],
    "optimizer": "adamw",
    "text": None,
    "vocab": None,
    "ngrams": None,
    "defaults": False,
    "flat": False,
}


class Fake:
    """Stands for trainings: the best rate is the same under completep, and falls with the width under standard."""

    def __init__(self, rows: Any) -> None:
        self.rows, self.made = rows, 0

    def parameters(self, genome: dict[str, Any], **own: Any) -> float:
        return 12.0 * genome["depth"] * genome["width"] ** 2

    def metrics(self, genome: dict[str, Any], tokens: int, seed: int, **own: Any) -> dict[str, float]:
        def compute() -> dict[str, float]:
            self.made += 1
            n, wide = 12.0 * genome["depth"] * genome["width"] ** 2, genome["width"] / 32
            best = 0.0055 if "param" in own else 0.0055 / wide
            loss = 1.0 + 3 * n**-0.3 + 20 * tokens**-0.3 + 0.1 * math.log(genome["lr"] / best) ** 2
            return {"loss": loss * (1 + 0.002 * (seed % 3)), "params": n, "tokens": tokens, "flops": 6 * n * tokens}

        told: dict[str, float] = self.rows.get({"genome": genome, "tokens": tokens, "seed": seed, **own}, compute)
        return told


def test_a_part_that_was_killed_goes_on(
    benchmark: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, given = tmp_path / "rows.jsonl", argparse.Namespace(**GIVEN)
    first = Fake(benchmark.Rows(file))
    benchmark.learning_rates(first, given)
    whole = capsys.readouterr().out
    lines = file.read_text().splitlines(keepends=True)
    assert len(lines) == first.made
    file.write_text("".join(lines[:-3]) + lines[-3][:20])  # killed within a line
    again = Fake(benchmark.Rows(file))
    benchmark.learning_rates(again, given)
    assert again.made == 3
    assert capsys.readouterr().out == whole
    kept = [line for line in file.read_text().splitlines() if line.endswith("}")]
    assert sorted(map(json.dumps, map(json.loads, kept))) == sorted(map(json.dumps, map(json.loads, lines)))


def test_the_table_compares_with_standard_at_its_own_best(
    benchmark: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = Fake(benchmark.Rows(None))
    benchmark.learning_rates(fake, argparse.Namespace(**GIVEN))
    small, large = (line.split() for line in capsys.readouterr().out.replace("\r", "").splitlines()[1:])
    assert small[:3] == ["2x32", "to", "2x64"]
    assert small[3] == large[3] == "0.0057"
    assert float(large[7]) == pytest.approx(0.0055, rel=0.02)
    assert float(large[13]) == pytest.approx(0.0055 / 8, rel=0.02)
    assert all(abs(float(row[16].rstrip("%"))) < 0.2 for row in (small, large))


def test_a_flat_valley_gives_the_rates_at_the_bottoms_of_parabolas(
    benchmark: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = Fake(benchmark.Rows(None))
    benchmark.learning_rates(fake, argparse.Namespace(**{**GIVEN, "size": [(2, 64)], "flat": True}))
    row = capsys.readouterr().out.replace("\r", "").splitlines()[1].split()
    assert float(row[3]) == pytest.approx(0.0055, rel=0.01)
    assert abs(float(row[16].rstrip("%"))) < 0.01


def test_tokens_for_each_weight_and_the_other_options_reach_each_training(benchmark: ModuleType) -> None:
    fake, own = (
        Fake(benchmark.Rows(None)),
        {"optimizer": "muon", "data": "text", "vocab": 512, "ngrams": 5},
    )
    changed = {"per_weight": 20.0, "optimizer": "muon", "text": Path("text"), "vocab": 512, "ngrams": 5}
    benchmark.learning_rates(fake, argparse.Namespace(**{**GIVEN, **changed, "size": [(2, 64)]}))
    for row in map(json.loads, fake.rows.known):
        assert {name: row[name] for name in own} == own
        assert row["position"] == "learned"
        assert row["tokens"] == 20 * 98304


def test_the_defaults_of_the_evaluator_stay_when_asked(benchmark: ModuleType) -> None:
    given = argparse.Namespace(**{**GIVEN, "defaults": True})
    assert benchmark.trained_with(given) == {"optimizer": "adamw"}


@pytest.mark.slow
def test_losses_ahead_are_scored(benchmark: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark.losses_ahead(Fake(benchmark.Rows(None)), argparse.Namespace(tokens=50_000, seeds=2))
    lines = capsys.readouterr().out.replace("\r", "").splitlines()
    tries, told = [line for line in lines if "tokens seen" in line], lines[-1]
    assert len(tries) == 2 * (4 + 4 + 3)  # at 100,000 tokens no text is left for 8 times as much
    assert all(abs(float(line.split("text, ")[1].split()[0]) - 8) < 2 for line in tries)
    inside = int(told.split("all: inside in ")[1].split()[0])
    assert inside == sum("outside" not in line for line in tries)
    assert inside >= 16


def test_pairs_take_turns(benchmark: ModuleType) -> None:
    clock, turns = [0.0], []

    def taking(name: str, seconds: float) -> Any:
        def step() -> None:
            clock[0] += seconds
            turns.append(name)

        return step

    ratios = benchmark.paired(taking("a", 1.0), taking("b", 1.5), 6, lambda: clock[0])
    assert ratios == pytest.approx([1.5] * 6)
    assert "".join(turns[4::4])[:6] == "aabbaa"
