"""benchmarks/search.py: what it scores is checked by hand on a table of its own; the real ones may be absent."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from tests.conftest import benchmark

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "search.py"
PEERS = SCRIPT.with_name("peers.py")


@pytest.fixture(scope="module")
def search() -> ModuleType:
    return benchmark("search")


@pytest.fixture(scope="module")
def problems(search: ModuleType) -> ModuleType:
    return sys.modules["problems"]


def source_of(folder: Path, **fields: object) -> object:
    """Return a table of 4 x 2 cells whose losses are 0 to 6, one cell missing."""
    cells = [(width, kind) for width in (16, 32, 64, 128) for kind in ("a", "b")][:7]
    frame = pd.DataFrame(cells, columns=["width", "kind"]).assign(score=-np.arange(7.0), lucky=[9.0, *range(6)])
    frame.assign(size=np.arange(7.0)).to_parquet(folder / "table.parquet")
    given = {"losses": ("score",), "maximised": ("score", "lucky"), **fields}
    tables = sys.modules["search_tables"]
    source = tables.Source("table.parquet", ("width",), unordered=("kind",), **given)
    return tables.table("table", folder / "table.parquet", source)


@pytest.fixture
def table(search: ModuleType, tmp_path: Path) -> object:
    return source_of(tmp_path)


def test_regret_is_zero_at_the_best_and_one_at_the_median(search: ModuleType, table: object) -> None:
    results = [None if loss is None else (loss,) for loss in (None, 6.0, 3.0, None, 0.0)]
    regrets = table.instance(0).regrets([(loss, loss) for loss in results])  # type: ignore[attr-defined]
    assert regrets.tolist() == [np.inf, 2.0, 1.0, 1.0, 0.0]
    assert search.Played(regrets, 0.0).needed == 5


def test_missing_cells_fail(table: object) -> None:
    evaluate = table.instance(0).evaluate  # type: ignore[attr-defined]
    assert evaluate({"width": 16, "kind": "b"}) == ((1.0,), (1.0,))
    assert evaluate({"width": 128, "kind": "b"}) == (None, None)


def test_the_largest_cells_are_out_of_memory(problems: ModuleType, tmp_path: Path) -> None:
    problem = source_of(tmp_path, size="size")
    assert problem.group == "conditions"  # type: ignore[attr-defined]
    evaluate = problem.instance(0).evaluate  # type: ignore[attr-defined]
    failed = [evaluate({"width": width, "kind": kind})[0] is None for width in (16, 32, 64, 128) for kind in ("a", "b")]
    assert failed == [False] * 4 + [True] * 4  # the three largest of seven cells, and the one that is missing


def test_what_looks_best_in_noise_is_scored_by_what_it_is(problems: ModuleType, tmp_path: Path) -> None:
    noisy = source_of(tmp_path, told="lucky")
    instance = noisy.instance(0)  # type: ignore[attr-defined]
    cells = [{"width": 128, "kind": "a"}, {"width": 16, "kind": "a"}, {"width": 16, "kind": "b"}]
    assert noisy.group == "noisy"  # type: ignore[attr-defined]
    assert instance.regrets([instance.evaluate(cell) for cell in cells]).tolist() == [2.0, 0.0, 0.0]
    assert instance.floor == 0.0


def test_a_cell_is_trained_with_one_seed_after_the_other(problems: ModuleType, tmp_path: Path) -> None:
    noisy = source_of(tmp_path, seeds=("score", "lucky"))
    cell, other = {"width": 16, "kind": "a"}, {"width": 16, "kind": "b"}
    for seed, told in ((0, [0.0, -9.0, 0.0]), (1, [-9.0, 0.0, -9.0])):
        instance = noisy.instance(seed)  # type: ignore[attr-defined]
        assert [-instance.evaluate(cell)[0][0] for _ in range(3)] == [-loss for loss in told]
        assert instance.evaluate(other)[0] == ((1.0,) if seed == 0 else (0.0,))
    assert noisy.group == "seeds"  # type: ignore[attr-defined]
    assert instance.regret(cell) == 0.0
    assert instance.regret(other) == pytest.approx(1 / 3)
    assert instance.evaluate({"width": 128, "kind": "b"}) == (None, None)


def test_what_a_method_recommends_is_scored_and_not_what_it_saw(
    search: ModuleType, problems: ModuleType, tmp_path: Path
) -> None:
    noisy = source_of(tmp_path, seeds=("score", "lucky"))

    class Stubborn:
        """Trains one cell again and again, and recommends another one."""

        def ask(self) -> tuple[int, dict[str, object]]:
            return 0, {"width": 16, "kind": "a"}

        def tell(self, handle: int, losses: object) -> None:
            pass

        def recommended(self) -> dict[str, object]:
            return {"width": 32, "kind": "b"}

    played = search.play(lambda *_: Stubborn(), noisy, 0, 20, 3, None)
    assert played.regrets.tolist() == [np.inf] * 4 + [1.0] * 16


def test_ours_recommends_as_a_run_does(search: ModuleType, problems: ModuleType, tmp_path: Path) -> None:
    """By the mean over its seeds, or by what is expected, and never by its luckiest one."""
    players = sys.modules["players"]
    instance = source_of(tmp_path, seeds=("score",)).instance(0)  # type: ignore[attr-defined]
    player = players.Ours(instance, 0, "random", rules=players.RunSettings(seeds_per_trial=2))
    assert player.recommended() is None
    lucky, genome = player.ask()
    player.tell(lucky, (0.0,))
    again, same = player.ask()
    assert same == genome
    player.tell(again, (10.0,))
    other, better = player.ask()
    player.tell(other, (2.0,))
    assert player.recommended() == better
    by_worth = players.Ours(instance, 0, "random", rules=players.WORTH)
    for loss in (3.0, 1.0, 2.0):
        handle, genome = by_worth.ask()
        by_worth.tell(handle, (loss,))
    assert by_worth.recommended() is not None


def test_a_whole_front_has_no_regret(problems: ModuleType, tmp_path: Path) -> None:
    fronts = source_of(tmp_path, losses=("score", "size"), maximised=("size",))
    instance = fronts.instance(0)  # type: ignore[attr-defined]
    assert instance.objectives == 2
    found = instance.regrets([instance.evaluate({"width": w, "kind": k}) for w in (16, 32, 64, 128) for k in "ab"])
    assert found[-1] == pytest.approx(0.0)
    assert np.all(np.diff(found) <= 1e-12)


@pytest.mark.parametrize(
    ("points", "area"), [([], 0.0), ([(0.5, 0.5)], 0.25), ([(0.2, 0.8), (0.5, 0.5), (0.6, 0.9), (2.0, 0.0)], 0.31)]
)
def test_hypervolume_by_hand(problems: ModuleType, points: list[tuple[float, float]], area: float) -> None:
    assert problems.hypervolume(np.array(points).reshape(-1, 2)) == pytest.approx(area)


@pytest.mark.slow
def test_functions_are_zero_at_their_optimum_and_nowhere_lower(problems: ModuleType) -> None:
    for one in problems.FUNCTIONS:
        for seed in range(3):
            rng = np.random.default_rng([20, seed])
            space = one.instance(seed).space
            optimum = space.sample(rng)  # as the instance draws it
            instance, other = one.instance(seed), [space.sample(rng) for _ in range(50)]
            _, best = instance.evaluate(optimum)
            assert best == pytest.approx((0.0,), abs=1e-12)
            assert all(true is None or true[0] > 0.0 for _, true in map(instance.evaluate, other))


def test_conditions_have_no_lower_loss_than_their_best(problems: ModuleType) -> None:
    for one in problems.CONDITIONS:
        instance, rng = one.instance(1), np.random.default_rng(2)
        results = [instance.evaluate(instance.space.sample(rng)) for _ in range(300)]
        assert instance.regrets(results)[-1] >= 0.0
        assert {len(told) for told, _ in results if told} == {1 + instance.constraints}
    failed = [told is None for told, _ in _results(problems, "out of memory")]
    broken = [told[1] > 0.0 or told[2] > 0.0 for told, _ in _results(problems, "active constraint")]
    assert np.mean(failed) == pytest.approx(0.4, abs=0.1)
    assert 0.5 < np.mean(broken) < 0.95


def _results(problems: ModuleType, name: str) -> list[tuple[tuple[float, ...], tuple[float, ...]]]:
    instance = next(one for one in problems.CONDITIONS if one.name == name).instance(1)
    rng = np.random.default_rng(3)
    return [instance.evaluate(instance.space.sample(rng)) for _ in range(300)]


def test_a_genome_that_breaks_a_constraint_is_no_best(problems: ModuleType) -> None:
    results = [((1.0, 0.1), (1.0,)), ((3.0, -0.1), (3.0,)), ((2.0, 0.0), (2.0,)), (None, None)]
    assert problems.regrets(results, 0.0, 4.0).tolist() == [np.inf, 0.75, 0.5, 0.5]


def test_failures_and_broken_constraints_are_counted(search: ModuleType, problems: ModuleType) -> None:
    one = next(one for one in problems.CONDITIONS if one.name == "active constraint")
    played = search.play(search.METHODS["random"], one, 0, 40, 1, None)
    assert 0.4 < played.failed < 1.0


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("method", ["saea", "ga", "random", "hill"])
def test_a_small_table_is_known_in_the_end(search: ModuleType, table: object, method: str, slots: int) -> None:
    played = search.play(search.METHODS[method], table, 0, 20, slots, None)
    assert len(played.regrets) == 20
    assert played.regrets[-1] == 0.0
    assert played.needed <= 8


def test_with_several_slots_a_result_is_told_when_its_training_ends(search: ModuleType, table: object) -> None:
    told: list[dict[str, object]] = []
    asked: list[dict[str, object]] = []

    class Player(sys.modules["players"].Ours):  # type: ignore[name-defined, misc]
        def ask(self) -> tuple[object, dict[str, object]]:
            assert len(asked) - len(told) < 3
            handle, genome = super().ask()
            asked.append(genome)
            return handle, genome

        def tell(self, handle: int, losses: object) -> None:
            told.append(asked[handle])
            super().tell(handle, losses)

    played = search.play(lambda instance, seed, evaluations, line: Player(instance, 0, "random"), table, 0, 7, 3, None)
    assert len(told) == 4  # the last ones of the run are not waited for before a birth
    first = min(asked[:3], key=search.duration)
    assert told[0] == first
    assert all(1.0 <= search.duration(genome) <= search.SLOWEST for genome in asked)
    assert len(played.regrets) == 7
    assert played.regrets[-1] == 0.0


def test_a_run_that_was_played_is_not_played_again(search: ModuleType, table: object, tmp_path: Path) -> None:
    record = search.Record(tmp_path / "runs.csv")
    played = search.play(search.METHODS["random"], table, 0, 8, 1, None)
    record.add("random", "table", 0, played)
    again = search.Record(tmp_path / "runs.csv")
    assert again.runs.keys() == {("random", "table", 0)}
    assert again.of("random", "table", range(5))[0].regrets == pytest.approx(played.regrets, rel=1e-5)


def test_peers_answer_in_lines() -> None:
    pytest.importorskip("optuna")
    messages = [
        {
            "play": "optuna random",
            "genes": [["real", 0, []], ["ordered", 4, []], ["unordered", 3, []]],
            "seed": 1,
            "objectives": 1,
        },
        {"ask": 1},
        {"tell": 1, "losses": [0.5]},
        {"ask": 2},
        {"tell": 2, "losses": None},
    ]
    lines = "".join(json.dumps(message) + "\n" for message in messages)
    done = subprocess.run([sys.executable, PEERS], input=lines, capture_output=True, text=True, timeout=120)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answers[0], answers[2], answers[4]] == [None] * 3, done.stderr
    for real, ordered, unordered in (answers[1], answers[3]):
        assert 0.0 <= real <= 1.0
        assert ordered in range(4)
        assert unordered in range(3)


def test_absent_tables_are_no_error(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--tables", str(tmp_path), "--problems", "tables"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "nothing to measure" in done.stdout
