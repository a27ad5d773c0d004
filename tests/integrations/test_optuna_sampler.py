"""Strategies as samplers of Optuna: its contract tests, and what a study tells a strategy."""

from __future__ import annotations

import math
import runpy
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from evo_tune import Choice, Float, Int, Minimize, Outcome, SearchSpace
from evo_tune.errors import OptionError, PluginError, SpaceError, UsageError
from evo_tune.genome.trial import Candidate
from evo_tune.plugins.find import make_strategy
from tests import extras
from tests.strategies.simulate import Simulation

extras.need("optuna")

import optuna  # noqa: E402
from optuna.distributions import IntDistribution  # noqa: E402
from optuna.samplers import BaseSampler  # noqa: E402
from optuna.testing.pytest_samplers import (  # noqa: E402
    BasicSamplerTestCase,
    MultiObjectiveSamplerTestCase,
    RelativeSamplerTestCase,
)
from optuna.trial import Trial, TrialState  # noqa: E402

from evo_tune.integrations.optuna import StrategySampler  # noqa: E402

optuna.logging.set_verbosity(optuna.logging.ERROR)

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples" / "integrations"


class TestContract(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    """Optuna's own tests of a sampler."""

    @pytest.fixture(params=["saea", pytest.param("nsga2", marks=pytest.mark.extended)])
    def sampler(self, request: pytest.FixtureRequest) -> Callable[[], BaseSampler]:
        return lambda: StrategySampler(request.param, seed=1)


def study_of(strategy: str = "saea", *, directions: tuple[str, ...] = ("minimize",), **arguments: Any) -> optuna.Study:
    return optuna.create_study(directions=directions, sampler=StrategySampler(strategy, **{"seed": 1, **arguments}))


def params(study: optuna.Study) -> list[dict[str, Any]]:
    return [trial.params for trial in study.trials]


SPACE = SearchSpace(
    depth=Int(1, 12), kind=Choice((0, 1, 2)), lr=Float(1e-5, 1e-1, log=True), step=Int(0, 10), wd=Float(0.0, 1.0)
)


def loss_of(depth: int, kind: int, lr: float, step: int, wd: float) -> float:
    return abs(math.log10(lr) + 3) + 0.1 * abs(depth - 7) + (kind != 1) + 0.01 * step + wd**2


def objective(trial: Trial) -> float:
    return loss_of(
        depth=trial.suggest_int("depth", 1, 12),
        kind="abc".index(trial.suggest_categorical("kind", ["a", "b", "c"])),
        lr=trial.suggest_float("lr", 1e-5, 1e-1, log=True),
        step=round(trial.suggest_float("step", 0.0, 5.0, step=0.5) * 2),
        wd=trial.suggest_float("wd", 0.0, 1.0),
    )


@pytest.mark.parametrize("strategy", ["saea", "ga", "random", "hill", "tpe"])
def test_a_study_proposes_what_a_run_of_the_same_seed_proposes(strategy: str) -> None:
    def evaluate(candidate: Candidate) -> Outcome:
        return Outcome("ok", {"loss": loss_of(**candidate.genome)})

    own = Simulation(make_strategy(strategy, {}), SPACE, [Minimize("loss")], evaluate, births=16, seed=1, slots=1).run()
    study = study_of(strategy)
    study.optimize(objective, n_trials=16)
    genomes = [
        {**trial, "kind": "abc".index(trial["kind"]), "step": round(trial["step"] * 2)} for trial in params(study)
    ]
    assert genomes == [trial.genome for trial in own.history.trials]


def test_a_new_sampler_continues_a_study_as_the_first_would_have() -> None:
    whole, continued = study_of(), study_of()
    whole.optimize(objective, n_trials=14)
    continued.optimize(objective, n_trials=9)
    continued.sampler = StrategySampler(seed=1)
    continued.optimize(objective, n_trials=5)
    assert params(continued) == params(whole)
    other = study_of(seed=2)
    other.optimize(objective, n_trials=14)
    assert params(other) != params(whole)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"strategy": "nowhere"}, PluginError, "nowhere"),
        ({"strategy": "staged"}, UsageError, "decides on budgets itself"),
        ({"seed": -1}, UsageError, "seed=-1"),
        ({"seed": 0.5}, UsageError, "seed=0.5"),
        ({"options": {"nonsense": 1}}, OptionError, "nonsense"),
    ],
)
def test_a_wrong_argument_is_refused_in_one_line(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as raised:
        StrategySampler(**arguments)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("prior", [1e-3, (1e-3,), ("x", 2.0), (1e-3, "wide"), (1e-3, 0.5)])
def test_a_wrong_prior_is_refused_with_the_name_of_its_parameter(prior: Any) -> None:
    study = study_of(priors={"lr": prior})
    with pytest.raises(SpaceError, match=r"^priors\['lr'\]: "):
        study.optimize(lambda trial: trial.suggest_float("lr", 1e-5, 1e-1, log=True), n_trials=2)


@pytest.mark.parametrize(
    ("prior", "warning"),
    [
        ({"lr": (7.0, 2.0)}, r"priors\['lr'\]: 7.0 is not in FloatDistribution\(.*high=0.1"),
        ({"lrr": (1e-3, 2.0)}, "priors: no trial has suggested lrr so far"),
    ],
)
def test_a_prior_outside_of_its_range_or_of_no_parameter_is_a_warning(prior: Any, warning: str) -> None:
    study = study_of(priors=prior)
    with pytest.warns(UserWarning, match=warning):
        study.optimize(lambda trial: trial.suggest_float("lr", 1e-5, 1e-1, log=True), n_trials=2)
    assert len(study.trials) == 2
    assert study.trials[0].params["lr"] == pytest.approx(0.1 if "lr" in prior else 1e-3)


def test_priors_lead_the_first_trials() -> None:
    plain, believed = study_of("saea"), study_of("saea", priors={"lr": (1e-4, 1.5), "kind": ("c", 0.1)})
    for study in (plain, believed):
        study.optimize(lambda trial: objective(trial) * 0.0, n_trials=8)
    assert believed.trials[0].params["lr"] == 1e-4
    assert believed.trials[0].params["kind"] == "c"

    def distance(study: optuna.Study) -> float:
        return float(np.mean([abs(math.log10(trial["lr"]) + 4) for trial in params(study)[1:]]))

    assert distance(believed) < distance(plain) / 2


def test_the_prior_of_a_stepped_float_is_in_its_own_unit() -> None:
    study = study_of("saea", priors={"x": (2.0, 1.0)})
    study.optimize(lambda trial: trial.suggest_float("x", 0.0, 50.0, step=0.5) * 0.0, n_trials=4)
    assert study.trials[0].params == {"x": 2.0}
    assert all(trial["x"] < 8.0 for trial in params(study))


def test_the_first_trial_is_the_enqueued_one_and_the_default() -> None:
    study, enqueued = study_of("hill"), {"depth": 3, "kind": "c", "lr": 1e-2, "step": 4.5, "wd": 0.25}
    study.enqueue_trial(enqueued)
    study.optimize(objective, n_trials=2)
    first, second = params(study)
    assert first == enqueued
    assert sum(first[name] != second[name] for name in first) == 1  # hill climbing changes one gene of the start


def test_a_later_enqueued_trial_is_trained_and_its_result_used() -> None:
    study = study_of("ga")
    study.optimize(objective, n_trials=14)
    best = {"depth": 7, "kind": "b", "lr": 1e-3, "step": 0.0, "wd": 0.0}
    study.enqueue_trial(best)
    study.optimize(objective, n_trials=8)
    assert study.trials[14].params == best
    parents = [trial.system_attrs["evo_tune"]["parents"] for trial in study.trials[15:]]
    assert any(14 in numbers for numbers in parents)


def test_a_parameter_of_a_branch_is_not_varied_outside_of_it() -> None:
    def branched(trial: Trial) -> float:
        if trial.suggest_categorical("k", ["a", "b"]) == "a":
            return 0.0
        return float(trial.suggest_int("y", 1, 8))

    study = study_of("random")
    study.optimize(branched, n_trials=11)
    # Nine configurations in all; the branch may be tried twice before its parameter is known.
    assert len({tuple(trial.items()) for trial in params(study)}) == 9


def test_the_length_of_a_list_decides_which_of_its_parameters_exist() -> None:
    def layers(trial: Trial) -> float:
        count = trial.suggest_int("n", 0, 3)
        return float(sum(trial.suggest_int(f"width{number}", 1, 2) for number in range(count)))

    study = study_of("random")
    study.optimize(layers, n_trials=20)
    assert len({tuple(trial.items()) for trial in params(study)}) >= 14  # of 15


def test_a_value_beyond_a_range_that_depends_on_the_trial_becomes_its_nearest_value() -> None:
    study = study_of("random")

    def dependent(trial: Trial) -> float:
        high = trial.suggest_int("a_high", 1, 9)
        return float(trial.suggest_int("low", 0, high))

    study.optimize(dependent, n_trials=25)
    clipped = 0
    for trial in study.trials[2:]:
        proposed = trial.system_attrs["evo_tune"]["params"]["low"]
        clipped += proposed > trial.params["a_high"]
        assert trial.params["low"] == min(proposed, trial.params["a_high"])
    assert clipped


@pytest.mark.parametrize("is_named", [False, pytest.param(True, marks=pytest.mark.skipif(
    not hasattr(Trial, "set_constraint"), reason="Optuna 5 has named constraints"
))])  # fmt: skip
def test_constraints_keep_the_search_inside(is_named: bool) -> None:
    def trained(trial: Trial) -> float:
        x, y = trial.suggest_float("x", 0.0, 1.0), trial.suggest_float("y", 0.0, 1.0)
        trial.set_user_attr("excess", 0.5 - x)
        if is_named:
            trial.set_constraint("above", 0.5 - x)
        return x + y

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna calls such a function experimental or deprecated
        bound = study_of(constraints_func=None if is_named else lambda trial: (trial.user_attrs["excess"],))
    bound.optimize(trained, n_trials=25)
    assert np.mean([trial["x"] >= 0.5 for trial in params(bound)[10:]]) > 0.6
    assert bound.best_trial.params["x"] >= 0.5


def test_several_objectives_have_their_directions() -> None:
    def two(trial: Trial) -> tuple[float, float]:
        x, y = trial.suggest_float("x", 0.0, 1.0), trial.suggest_float("y", 0.0, 1.0)
        return x + 4 * y, x - 4 * y

    study = study_of("nsga2", directions=("minimize", "maximize"))
    study.optimize(two, n_trials=60)
    assert np.median([trial["y"] for trial in params(study)[40:]]) < 0.15


def test_a_strategy_sees_how_each_trial_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(trial: Trial) -> float:
        trial.suggest_float("x", 0.0, 1.0)
        trial.report(0.5, step=3)
        trial.report(math.nan, step=4)
        if trial.number == 1:
            raise optuna.TrialPruned
        return math.nan if trial.number == 2 else 1.0

    calls: list[Any] = []
    monkeypatch.setattr("evo_tune.integrations.optuna.propose_external", lambda *arguments: calls.append(arguments))
    study = study_of(directions=("maximize",))
    study.optimize(ended, n_trials=3)
    study.ask().suggest_float("x", 0.0, 1.0)
    study.ask().suggest_float("x", 0.0, 1.0)
    _, _, directions, trials, _ = calls[-1]
    assert directions == ["max"]
    assert [trial.status for trial in trials] == ["ok", "pruned", "failed", None]
    assert [list(trial.values) for trial in trials] == [[1.0], [], [], []]


def test_running_trials_are_pending() -> None:
    study, cells = study_of("random"), {"a": IntDistribution(0, 2), "b": IntDistribution(0, 1)}
    study.ask(cells)
    trials = [study.ask(cells) for _ in range(5)]
    assert len({tuple(trial.params.items()) for trial in study.trials}) == 6
    assert len(study.ask(cells).params) == 2  # nothing is new, so the values are random ones
    assert all(trial.number for trial in trials)


def test_the_whole_proposal_of_a_running_trial_is_pending_before_its_parameters_are_suggested() -> None:
    study, cells = study_of("random"), {"a": IntDistribution(0, 1), "b": IntDistribution(0, 1)}
    study.tell(study.ask(cells), 1.0)
    running = [study.ask() for _ in range(3)]
    seen = [(trial.suggest_int("a", 0, 1), trial) for trial in running]
    assert len({(a, trial.suggest_int("b", 0, 1)) for a, trial in seen}) == 3


def test_threads_share_a_study() -> None:
    study = study_of()
    study.optimize(objective, n_trials=24, n_jobs=4)
    assert len({tuple(sorted(trial.items())) for trial in params(study)}) == 24
    assert all(trial.state == TrialState.COMPLETE for trial in study.trials)


PROCESS = """
import sys
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from evo_tune.integrations.optuna import StrategySampler

optuna.logging.set_verbosity(optuna.logging.ERROR)
storage = JournalStorage(JournalFileBackend(sys.argv[1]))
study = optuna.create_study(study_name="shared", storage=storage, load_if_exists=True, sampler=StrategySampler(seed=1))
study.optimize(lambda trial: trial.suggest_int("a", 0, 9) + trial.suggest_int("b", 0, 9), n_trials=12)
"""


@pytest.mark.slow
def test_processes_share_a_storage(tmp_path: Path) -> None:
    from tests.integrations.conftest import studies

    path = tmp_path / "study.log"
    optuna.create_study(study_name="shared", storage=studies(path))
    processes = [subprocess.Popen([sys.executable, "-c", PROCESS, str(path)]) for _ in range(2)]
    assert [process.wait(200) for process in processes] == [0, 0]
    study = optuna.load_study(study_name="shared", storage=studies(path))
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 24
    # Two that are proposed at the same moment do not know of each other.
    assert len({tuple(trial.items()) for trial in params(study)}) >= 22
    assert study.best_value <= 1


def test_any_text_may_be_the_name_of_a_parameter() -> None:
    names = ["repair", "optional", "\ud800", "self", "a\nb", "µ", "", "x y", "\x1b[31m"]
    study = study_of()
    study.optimize(lambda trial: sum(trial.suggest_float(name, 0.0, 1.0) for name in names), n_trials=10)
    assert all(set(trial) == set(names) for trial in params(study))
    assert all("operator" in trial.system_attrs["evo_tune"] for trial in study.trials[1:])


def test_ranges_that_no_gene_has_are_drawn_at_random() -> None:
    def odd(trial: Trial) -> float:
        trial.suggest_int("huge", -(2**62), 2**62)
        trial.suggest_float("narrow", 1.0, 1.0 + 4e-16)
        trial.suggest_float("wide", -1e305, 1e305)
        trial.suggest_categorical("alone", [None])
        return trial.suggest_float("x", 0.0, 1.0)

    study = study_of()
    study.optimize(odd, n_trials=12)
    assert len({trial["huge"] for trial in params(study)}) == 12
    assert study.best_value < 0.1


def test_categories_of_any_type_keep_their_type() -> None:
    choices = [None, True, 1.5, "1.5", ""]
    study = study_of("random")
    study.optimize(lambda trial: float(choices.index(trial.suggest_categorical("k", choices))), n_trials=5)
    assert sorted(trial.values[0] for trial in study.trials) == [0.0, 1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize(
    "stored",
    [
        "text",
        {"operator": 1, "parents": ["x"], "params": []},
        {"operator": "step", "parents": [], "params": {"lr": "?"}},
        {"operator": "step", "parents": [99, -1], "params": {"lr": 1e300, "unknown": 1}},
        {"operator": "step", "parents": [True], "params": {"depth": float("nan"), "kind": 99, "step": 1e300}},
    ],
)
def test_what_another_program_wrote_into_a_trial_does_no_harm(stored: Any) -> None:
    study = study_of("hill")
    study.optimize(objective, n_trials=3)
    for state in (TrialState.COMPLETE, TrialState.RUNNING):
        trial = study.trials[0]
        value = 1.0 if state == TrialState.COMPLETE else None
        study.add_trial(
            optuna.create_trial(
                state=state, value=value, params=trial.params, distributions=trial.distributions,
                system_attrs={"evo_tune": stored, "constraints": ["a", None], "constraints:a": [1]},
            )
        )  # fmt: skip
    study.optimize(objective, n_trials=4)
    assert len(study.get_trials(states=[TrialState.COMPLETE])) == 8


def test_trials_of_another_sampler_count() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    study.optimize(objective, n_trials=20)
    study.sampler = StrategySampler(seed=1)
    study.optimize(objective, n_trials=1)
    assert study.trials[-1].system_attrs["evo_tune"]["operator"] not in ("spread", "random")


def test_without_optuna_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "evo_tune.integrations.optuna")
    monkeypatch.setitem(sys.modules, "optuna.distributions", None)
    with pytest.raises(UsageError, match=r"evo_tune.integrations.optuna needs .*evo-tune\[optuna\]"):
        import evo_tune.integrations.optuna  # noqa: F401


@pytest.mark.slow
def test_the_example_runs_and_continues(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    extras.need("sklearn")
    main = runpy.run_path(str(EXAMPLES / "optuna_study.py"))["main"]
    for _ in range(2):
        main(trials=6, storage=f"sqlite:///{tmp_path}/study.db")
    study = optuna.load_study(study_name="digits", storage=f"sqlite:///{tmp_path}/study.db")
    assert len(study.trials) == 12
    assert study.trials[0].params == {"learning_rate": "optimal", "alpha": 1e-4}
    assert f"{study.best_value:.4f}" in capsys.readouterr().out


def test_the_folder_for_optunahub_has_the_sampler(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = EXAMPLES.parent / "optunahub" / "package" / "samplers" / "evo_tune"
    assert (folder / "LICENSE").read_text() == (EXAMPLES.parents[2] / "LICENSE").read_text()
    module = SimpleNamespace(**runpy.run_path(str(folder / "__init__.py")))
    assert module.StrategySampler is StrategySampler
    monkeypatch.setitem(sys.modules, "optunahub", SimpleNamespace(load_module=lambda package, **_: module))  # type: ignore[arg-type]
    study_of("ga").optimize(runpy.run_path(str(folder / "example.py"))["objective"], n_trials=5)
    code = (folder / "README.md").read_text().split("```py\n")[1].split("```")[0].replace("n_trials=40", "n_trials=4")
    exec(compile(code, "README.md", "exec"), {})
