"""benchmarks/real.py: what counts, and that a stop costs nothing; the job itself takes too long for a test."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from evo_tune.loop.search import Search
from evo_tune.report.recommendation import fresh_seed
from evo_tune.store.comparison import read_comparison
from evo_tune.store.run import Run
from tests.conftest import benchmark


@pytest.fixture(scope="module")
def real() -> ModuleType:
    return benchmark("real")


def test_only_what_was_finished_in_time_counts(real: ModuleType) -> None:
    results = [(1.0, 3.0, {"lr": 1}), (2.0, None, {"lr": 2}), (60.0, 2.0, {"lr": 3}), (60.1, 1.0, {"lr": 4})]
    trained = [(2.0, {"lr": 3}), (3.0, {"lr": 1})]
    assert real.best_of(results, 60.0) == real.Found({"lr": 3}, 2.0, 2.0, seeds=1, full=2, stopped=1, trained=trained)
    with pytest.raises(real.NothingFoundError, match="not one of 1 trainings was finished well in 2 s"):
        real.best_of(results[1:], 2.0)


def test_what_stands_in_the_csv_is_not_done_again(
    real: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = real.Row("", 0, 0.1, "{}", 10, 2, 1.5, 1.55, 1, 1.6, 0.01, '{"kind": "a, b"}', "[]")
    played: list[tuple[str, int]] = []

    def play(method: str, job: object, seed: int) -> object:
        played.append((method, seed))
        if len(played) in (3, 4, 5, 6, 7, 8):
            raise KeyboardInterrupt
        return replace(row, method=method, seed=seed, retrained_loss=1.6 + seed)

    monkeypatch.setattr(real, "play", play)
    job, path = real.Job(0.1, {}, 3, 0), tmp_path / "a.csv"
    methods = ["evo-tune, rungs", "Optuna TPE + Hyperband", "random search", "default genome"]
    with ThreadPoolExecutor(1) as pool, pytest.raises(KeyboardInterrupt):
        real.search(pool, job, methods, range(2), path)
    assert [(row.method, row.seed) for row in real.read(path)] == played[:2]
    del played[8:], played[2:]
    played.extend([("", 0)] * 6)
    with ThreadPoolExecutor(1) as pool:
        rows = real.search(pool, job, methods, range(2), path)
    assert len(rows) == 8
    assert len(set(played[8:])) == len(played[8:]) == 6
    assert set(played[:2]).isdisjoint(played[8:])
    with ThreadPoolExecutor(1) as pool:
        assert len(real.search(pool, job, ["random search"], range(3), path)) == 9
    assert played[-1] == ("random search", 2)
    assert "is lower than random search by 0.0000 ± 0.0000, paired by seed" in capsys.readouterr().out


def test_what_came_late_is_taken_out_of_a_run(real: ModuleType, begin: Callable[..., Search]) -> None:
    search = begin(name="late", trials=5, slots=1).run()
    lines = [json.loads(line) for line in (search.saved.folder / "_journal.jsonl").read_bytes().splitlines()]
    deadline = [line["time"] for line in lines if line["event"] == "recorded"][2]
    run = real.in_time(search.saved.folder, search.saved.folder.parent / "copy" / "run", deadline)
    assert sorted(run.outcomes) == [0, 1, 2]
    assert real.recommended(run).id in run.outcomes


NOISY = '''"""A parabola with noise."""
from evo_tune import Float, Minimize, SearchSpace
SPACE = SearchSpace(x=Float(0.0, 1.0, default=0.9))
OBJECTIVES = [Minimize("loss")]
def evaluate(genome, context):
    return {"loss": (genome["x"] - 0.3) ** 2 + context.seed % 1000 / 1e4}
'''


def test_a_closing_race_says_the_loss_by_seeds_of_its_own_as_far_as_it_was_in_time(
    real: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "noisy.py").write_text(NOISY)
    monkeypatch.setattr(real, "EVALUATOR", str(tmp_path / "noisy.py"))
    (tmp_path / "runs").mkdir()
    job = real.Job(1.0, {}, 3, 0)
    found = real.ours("random", job, 0, tmp_path / "runs", trials=9, final_seeds=2, finalists=2)
    run = Run.open(tmp_path / "runs" / "in-time" / "run")
    race = read_comparison(run)
    telling = {fresh_seed(0, number, "report") for number in range(1, 5)}
    mine = [trial for trial in race if trial.genome == found.genome and trial.candidate.seed in telling]
    fresh = [trial.losses[0] for trial in mine if trial.losses]
    assert found.said == pytest.approx(np.mean(fresh))
    assert len(fresh) > 1
    assert found.said != found.loss
    seeds: list[int] = []
    monkeypatch.setattr(real, "_train", lambda job, genome, seed, rungs: seeds.append(seed) or 1.0)
    real.retrained(job, found.genome, 0, False)
    assert {trial.candidate.seed for trial in race}.isdisjoint(seeds)
    told = [json.loads(line) for line in (run.folder / "_journal.jsonl").read_bytes().splitlines()]
    ended = max(event["time"] for event in told if event["event"] == "told")
    deadline = ended + sum(trial.outcome.seconds for trial in race[:3]) + race[3].outcome.seconds / 2
    cut = real.in_time(run.folder, tmp_path / "cut" / "run", deadline)
    assert len(read_comparison(cut)) == 3
    assert len(cut.outcomes) == 9


@pytest.mark.parametrize("rules", [{}, {"fidelity": "1/3,1"}], ids=["plain", "rungs"])
def test_a_search_says_what_it_trained_in_full_and_whether_it_had_rungs(
    real: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rules: dict[str, str]
) -> None:
    source = '''"""A parabola."""
from evo_tune import Float, Minimize, SearchSpace
SPACE = SearchSpace(x=Float(0.0, 1.0))
OBJECTIVES = [Minimize("loss")]
SUPPORTS = ["budget"]
def evaluate(genome, context):
    (context.folder / "kept").touch()
    return {"loss": (genome["x"] - 0.3) ** 2 + 1.0 - context.budget}
'''
    (tmp_path / "parabola.py").write_text(source)
    monkeypatch.setattr(real, "EVALUATOR", str(tmp_path / "parabola.py"))
    (tmp_path / "runs").mkdir()
    found = real.ours("random", real.Job(1.0, {}, 3, 0), 0, tmp_path / "runs", trials=9, final_seeds=0, **rules)
    assert (found.rungs, found.seeds) == (bool(rules), 1)
    assert found.full + found.stopped >= 9
    assert (found.full == 9) == (found.stopped == 0) == (not rules)


def test_the_best_of_the_best_is_told_by_seeds_that_did_not_choose_it(
    real: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []

    def train(job: object, genome: dict[str, int], seed: int, rungs: bool) -> float:
        assert rungs, "as in the search"
        asked.append((genome["lr"], seed))
        return float(genome["lr"])

    monkeypatch.setattr(real, "_train", train)
    trained = json.dumps([(1.0, {"lr": 5}), (1.1, {"lr": 4}), (1.2, {"lr": 3})])
    row = real.Row("evo-tune, rungs", 7, 6.0, "{}", 3, 0, 1.0, 1.0, 1, 5.0, 0.0, "{}", trained, 1)
    assert real.best_by_fresh_seeds(real.Job(6.0, {}, 3, 0), row, 2) == [4.0] * 3
    chosen, told = {seed for _, seed in asked[:6]}, {seed for _, seed in asked[6:]}
    assert len(chosen) == len(told) == 3
    assert chosen.isdisjoint(told)


@pytest.mark.parametrize("rungs", [False, True])
def test_all_methods_search_and_are_trained_again_as_a_run_is(
    real: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rungs: bool
) -> None:
    """A schedule for rungs is another one, and what was found for one is not the best for the other."""
    job, seen = real.Job(6.0, {}, 3, 0), []
    rules = {"fidelity": "1/3,1"} if rungs else {}
    search = Search(real.EVALUATOR, options=job.options, store=tmp_path, trials=1, **rules)
    search.close()
    assert real._default_parameters(job).keys() == search.saved.genes.keys()
    found = real.Found({}, 1.0, 1.0, 1, 1, 0, [], rungs)
    monkeypatch.setitem(real.METHODS, "mine", lambda job, seed, folder: found)
    monkeypatch.setattr(real, "_train", lambda job, genome, seed, rungs: seen.append(real._bound(job, rungs)) or 1.0)
    assert real.play("mine", job, 0).rungs == rungs
    assert len(seen) == 3
    assert all(search.saved.manifest.options.items() <= each.options.items() for each in seen)
    assert (search.saved.manifest.options["schedule"] == "wsd") == rungs
