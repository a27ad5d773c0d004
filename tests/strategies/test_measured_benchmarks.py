"""The benchmarks of fronts, COCO, TaskSet and rungs in short: what they count is checked by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evo_tune import Choice, SearchSpace
from evo_tune.genome.trial import Candidate
from tests.conftest import benchmark

GENES = ("learning_rate", "beta1", "beta2", "epsilon", "l1", "l2", "linear_decay", "exponential_decay")


@pytest.mark.parametrize(("name", "best"), [("ZDT1", 0.0), ("ZDT3", 0.0), ("DTLZ2", 0.5)])
def test_a_front_lacks_nothing_and_one_point_of_it_much(name: str, best: float) -> None:
    instance = benchmark("fronts").problem_of(name).instance(0)
    places = [0.3, *np.linspace(0.0, 1.0, 500).tolist()]
    results = [instance.evaluate({f"x{n}": best if n else place for n in range(6)}) for place in places]
    lacking = instance.regrets(results)
    assert lacking[0] > 0.01
    assert abs(lacking[-1]) < 0.003
    assert (np.diff(lacking) <= 0.0).all()


def test_the_benchmark_of_fronts_prints_a_row_for_each_method(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["fronts.py", "--seeds", "2", "--evaluations", "8", "--methods", "random", "nsga2"])
    benchmark("fronts").main()
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["lacking", "random", "nsga2"]


def test_targets_of_coco_are_reached_by_distance() -> None:
    coco = benchmark("coco")
    assert coco.share(200.0) == 0.0
    assert coco.share(100.0) == pytest.approx(1 / 51)
    assert coco.share(1e-8) == 1.0
    assert coco.distances([((5.0,), None), ((3.0,), None), ((4.0,), None)], 2.0).tolist() == [3.0, 1.0, 1.0]


def test_the_run_that_came_closer_wins_a_pair_of_coco() -> None:
    coco, search = benchmark("coco"), benchmark("search")
    runs = [search.Played(np.array(regrets), 0.0, 0.0) for regrets in ([3.0, 1.0], [3.0, 2.0], [2.0, 2.0])]
    assert coco.won([runs[0], runs[1]], [runs[2], runs[2]], 2) == [1.0, 0.5]
    assert coco.won([runs[0]], [runs[2]], 1) == [0.0]


def test_real_jobs_are_judged_where_the_validation_loss_is_lowest() -> None:
    jobs = benchmark("job_search")
    results = [((2.0,), (5.0,)), (None, None), ((1.0,), (6.0,)), ((3.0,), (4.0,))]
    assert jobs.losses_after(results).tolist() == [2.0, 2.0, 1.0, 1.0, 5.0, 5.0, 6.0, 6.0]
    assert jobs.losses_of(np.nan, 1.0) == (None, None)
    assert sorted(np.concatenate(jobs.split(10, 0)).tolist()) == list(range(10))


def test_a_genome_becomes_the_nearest_setting_of_taskset(tmp_path: Path) -> None:
    (tmp_path / "taskset_rnn").mkdir()
    rows = [{"task": "one", "config": n, **{f"gene.{gene}": 10.0 ** -(n + 1) for gene in GENES}} for n in range(4)]
    frame = pd.DataFrame(rows).assign(valid_final=[0.5, np.nan, 0.3, 0.9])
    frame.to_parquet(tmp_path / "taskset_rnn" / "configs.parquet")
    points = [{"task": "one", "config": n, "step": step, "valid": 1.0 - step} for n in range(4) for step in range(3)]
    pd.DataFrame(points).to_parquet(tmp_path / "taskset_rnn" / "curves_long.parquet")
    (task,) = benchmark("taskset").tasks(tmp_path)
    genome = task.space.sample(np.random.default_rng(0))
    assert task.space.check(genome) == genome
    assert task.row(genome) in range(4)
    assert task.curves.shape == (4, 3)
    assert task.losses[task.row(task.space.check({**genome, "learning_rate": 1e-3, "l1": 1e-3, "l2": 1e-3}))] >= 0.3


def test_a_curve_that_becomes_missing_has_diverged() -> None:
    fidelity = benchmark("fidelity")
    space = SearchSpace(x=Choice((1, 2, 3)))
    curves = {(1,): np.array([1.0, 0.5]), (2,): np.array([1.0, np.nan]), (3,): np.array([1.0, 0.9])}
    table = fidelity.Table("table", space, curves)
    assert (table.best, table.median) == (0.5, 0.7)
    for start, budget, status, end in [(0.0, 0.5, "ok", 0.5), (0.5, 1.0, "diverged", 1.0)]:
        candidate = Candidate(0, 0, 0, 0, {"x": 2}, "given", budget=budget)
        outcome, ended = table.train(candidate, start)
        assert (outcome.status, ended) == (status, end)
