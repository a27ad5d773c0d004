"""Strategies as search algorithms of Ray Tune."""

from __future__ import annotations

import json
import math
import runpy
from pathlib import Path
from typing import Any

import pytest

from evo_tune import Choice, Float, Gene, Int, SearchSpace
from evo_tune.errors import SpaceError, StoreError, UsageError
from tests import extras

extras.need("ray")

from ray import tune  # noqa: E402
from ray.tune.search import ConcurrencyLimiter, Searcher  # noqa: E402

from evo_tune.integrations.ray import StrategySearcher  # noqa: E402

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "integrations" / "ray_tune.py"

SPACE = {
    "lr": tune.loguniform(1e-5, 1e-1),
    "model": {"depth": tune.randint(1, 13), "width": 64, "dropout": tune.quniform(0.0, 0.5, 0.1)},
    "optimizer": tune.choice([{"name": "adam"}, {"name": "sgd", "momentum": tune.uniform(0.0, 0.99)}]),
}


def searcher(space: Any = SPACE, strategy: str = "saea", **arguments: Any) -> StrategySearcher:
    defaults = {"seed": 1, "metric": "loss", "mode": "min"}
    return StrategySearcher(strategy, space=space, **{**defaults, **arguments})


def loss(config: dict[str, Any]) -> float:
    sgd = config["optimizer"]
    return abs(math.log10(config["lr"]) + 3) + abs(config["model"]["depth"] - 7) / 10 + sgd.get("momentum", 2.0)


def drive(
    search: Searcher, count: int, metric: str = "loss", sign: float = 1.0, first: int = 0
) -> list[dict[str, Any]]:
    """Suggest and complete trials as Tune does for a function that reports once."""
    configs = []
    for number in range(first, first + count):
        config = search.suggest(f"trial {number}")
        assert isinstance(config, dict)
        result = {metric: sign * loss(config), "training_iteration": 1}
        search.on_trial_result(f"trial {number}", result)
        search.on_trial_complete(f"trial {number}", {**result, "done": True})
        configs.append(config)
    return configs


def test_a_configuration_has_the_form_of_the_space() -> None:
    configs = drive(searcher(strategy="random"), 40)
    assert all(1e-5 <= config["lr"] <= 1e-1 for config in configs)
    assert all(config["model"]["width"] == 64 for config in configs)
    assert {type(config["model"]["depth"]) for config in configs} == {int}
    assert {config["model"]["depth"] for config in configs} <= set(range(1, 13))
    assert {round(config["model"]["dropout"], 9) for config in configs} == {0.0, 0.1, 0.2, 0.3, 0.4, 0.5}
    forms = {tuple(config["optimizer"]) for config in configs}
    assert forms == {("name",), ("name", "momentum")}


def test_a_parameter_of_a_branch_is_not_varied_outside_of_it() -> None:
    space = {"k": tune.choice([{"kind": "a"}, {"kind": "b", "y": tune.randint(1, 9)}])}
    search = searcher(space, "random")
    seen = {json.dumps(search.suggest(str(number))) for number in range(9)}
    assert len(seen) == 9
    assert search.suggest("waits") is None
    for number in range(9):
        search.on_trial_complete(str(number), {"loss": 1.0, "training_iteration": 1, "done": True})
    assert search.suggest("ended") == Searcher.FINISHED


@pytest.mark.parametrize(
    ("domain", "gene"),
    [
        (tune.uniform(0.0, 2.0), Float(0.0, 2.0)),
        (tune.quniform(0.0, 2.0, 0.5), Int(0, 4)),
        (tune.loguniform(1e-3, 1.0), Float(1e-3, 1.0, log=True)),
        (tune.qloguniform(1e-2, 1.0, 1e-2), Float(1e-2, 1.0, log=True)),
        (tune.randint(2, 5), Int(2, 4)),
        (tune.qrandint(2, 8, 2), Int(1, 4)),
        (tune.lograndint(1, 9), Int(1, 8, log=True)),
        (tune.choice(["x", "y", "z"]), Choice((0, 1, 2))),
    ],
)
def test_each_range_of_ray_is_a_gene_with_the_same_ends(domain: Any, gene: Gene) -> None:
    search = searcher({"p": domain})
    assert search._space is not None
    assert search._space.genes == {"p": gene}
    values = [search.suggest(str(number))["p"] for number in range(3)]
    assert all(domain.is_valid(value) for value in values)
    assert {type(value) for value in values} <= {int, float, str}  # none of numpy's


@pytest.mark.parametrize("space", [
    {"x": tune.randn(0.0, 1.0)}, {"x": tune.sample_from(lambda spec: 1)}, {"x": tune.grid_search([1, 2])}, {"x": 1}, {},
])  # fmt: skip
def test_a_space_without_ranges_is_refused_in_one_line(space: Any) -> None:
    with pytest.raises(SpaceError, match="expected") as raised:
        searcher(space)
    assert "\n" not in str(raised.value)


def test_a_wrong_argument_is_refused() -> None:
    with pytest.raises(UsageError, match="staged decides on budgets"):
        searcher(strategy="staged")
    with pytest.raises(UsageError, match="seed=-1"):
        searcher(seed=-1)
    with pytest.raises(UsageError, match="no space"):
        StrategySearcher(metric="loss", mode="min").suggest("a")
    with pytest.raises(UsageError, match="no metric"):
        StrategySearcher(space=SPACE).suggest("a")


def test_the_properties_of_the_tuner_count() -> None:
    search = StrategySearcher(seed=1)
    assert search.set_search_properties("loss", "min", SPACE)
    assert not search.set_search_properties("loss", "min", SPACE)
    assert drive(search, 8) == drive(searcher(), 8)


@pytest.mark.parametrize(("mode", "sign"), [("min", 1.0), ("max", -1.0)])
def test_it_finds_a_good_configuration(mode: str, sign: float) -> None:
    configs = drive(searcher(mode=mode), 35, sign=sign)
    assert min(map(loss, configs)) < 0.6


def test_several_metrics_are_several_objectives() -> None:
    space = {"x": tune.uniform(0.0, 1.0), "y": tune.uniform(0.0, 1.0)}
    search = searcher(space, "nsga2", metric=["a", "b"], mode=["min", "max"])
    ys = []
    for number in range(60):
        config = search.suggest(str(number))
        ys.append(config["y"])
        result = {"a": config["x"] + 4 * config["y"], "b": config["x"] - 4 * config["y"]}
        search.on_trial_complete(str(number), {**result, "training_iteration": 1, "done": True})
    assert sorted(ys[40:])[10] < 0.2


def test_points_come_first_and_the_others_follow() -> None:
    points = [
        {"lr": 1e-2, "model": {"depth": 3, "dropout": 0.3}, "optimizer": {"name": "sgd", "momentum": 0.5}},
        {"lr": 1e-3},
    ]
    first, second, third = drive(searcher(points_to_evaluate=points), 3)
    assert first == {**points[0], "model": {"depth": 3, "width": 64, "dropout": pytest.approx(0.3)}}
    assert second == {
        "lr": 1e-3, "model": {"depth": 7, "width": 64, "dropout": pytest.approx(0.3)}, "optimizer": {"name": "adam"}
    }  # fmt: skip
    assert third not in (first, second)
    for wrong in ({"lr": 7.0}, {"lr": "much"}, {"lrr": 1e-3}, {"optimizer": {"name": "lion"}}):
        with pytest.raises(SpaceError, match=r"points_to_evaluate\[0\]"):
            searcher(points_to_evaluate=[wrong]).suggest("a")


def test_a_space_of_evo_tune_has_its_conditions_and_priors() -> None:
    space = SearchSpace(
        lr=Float(1e-5, 1e-1, log=True, prior=1e-3, spread=2.0),
        kind=Choice(["a", "b"]),
        alpha=Float(0.0, 1.0, when={"kind": "b"}),
    )
    search = searcher(space, points_to_evaluate=[{"kind": "b", "alpha": 0.25}])
    assert search.suggest("0") == {"lr": 1e-3, "kind": "b", "alpha": 0.25}
    configs = [search.suggest(str(number)) for number in range(1, 5)]
    assert all(config["alpha"] == 0.5 for config in configs if config["kind"] == "a")


def test_a_restored_searcher_continues_as_the_first_would_have(tmp_path: Path) -> None:
    whole = drive(searcher(), 16)
    first = searcher()
    begun = drive(first, 9)
    first.save(str(tmp_path / "state"))
    second = searcher(seed=99)
    ConcurrencyLimiter(second, 2).restore(str(tmp_path / "state"))
    assert begun + drive(second, 7, first=9) == whole


@pytest.mark.parametrize("text", [
    "", "[" * 100_000, '{"seed": -1, "records": []}', '{"seed": 1, "records": [], "more": 1}',
    '{"seed": 1, "records": [{"id": "a", "genome": {"lr": 7.0}, "operator": "x", "parents": []}]}',
    '{"seed": 1, "records": [{"id": "a", "genome": {}, "operator": "x", "parents": [], "status": "fine"}]}',
])  # fmt: skip
def test_a_file_of_another_origin_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "state").write_text(text)
    search = searcher()
    with pytest.raises(StoreError, match="cannot restore") as raised:
        search.restore(str(tmp_path / "state"))
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 600
    with pytest.raises(StoreError):
        search.restore(str(tmp_path / "missing"))
    assert drive(search, 2) == drive(searcher(), 2)


def test_results_that_are_no_numbers_are_failures() -> None:
    search = searcher()
    for number, loss in enumerate([10**400, "x", None, [1.0]]):
        search.suggest(str(number))
        search.on_trial_result(str(number), {"loss": loss, "training_iteration": "x"})
        search.on_trial_complete(str(number), {"loss": loss, "training_iteration": "x"})
    assert {record.status for record in search._state.records} == {"diverged"}
    assert search.suggest("more")


def test_how_a_trial_ended_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr("evo_tune.integrations.ray.propose_external", lambda *arguments: calls.append(arguments))
    search = searcher({"x": tune.uniform(0.0, 1.0)}, points_to_evaluate=[{"x": n / 10} for n in range(7)])
    for number in range(7):
        search.suggest(str(number))
    results = [{"loss": 9.0 - step, "training_iteration": step} for step in range(1, 5)]
    for result in results[:4]:
        search.on_trial_result("0", result)
    search.on_trial_complete("0", {**results[3], "done": True})  # its function returned
    search.on_trial_complete("1", {**results[3], "done": True})  # stopped at the last step
    search.on_trial_result("2", results[0])
    search.on_trial_complete("2", {**results[1], "done": True})  # stopped by a scheduler
    for result in results[:2]:
        search.on_trial_result("3", result)
    search.on_trial_complete("3", {**results[1], "done": True})  # a short training whose function returned
    search.on_trial_complete("4", None, error=True)
    search.on_trial_complete("5", {"loss": math.nan, "training_iteration": 4, "done": True})
    search.on_trial_complete("unknown", results[0])
    search.suggest("7")
    trials = calls[0][3]
    assert [trial.status for trial in trials] == ["ok", "ok", "pruned", "ok", "failed", "diverged", None]
    assert [list(trial.values) for trial in trials] == [[5.0], [5.0], [], [7.0], [], [], []]


@pytest.mark.cluster
@pytest.mark.timeout(600)  # each trial starts a process
@pytest.mark.xdist_group("ray")
def test_a_tuner_with_asha_and_its_restored_continuation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.dispatch.slot_helpers import start_ray

    start_ray()
    main = runpy.run_path(str(EXAMPLE))["main"]
    results = main(trials=6, storage=str(tmp_path))
    assert len(results) == 6
    assert not results.errors
    steps = [result.metrics["training_iteration"] for result in results]
    assert max(steps) == 9
    assert min(steps) < 9  # ASHA has stopped some
    restored = searcher(None)
    restored.restore_from_dir(str(tmp_path / "evo-tune"))
    assert [record.status for record in restored._state.records] == ["ok"] * 6
    assert "best" in capsys.readouterr().out
