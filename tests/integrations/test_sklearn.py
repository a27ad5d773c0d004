"""EvoSearchCV keeps scikit-learn's contract, and what it holds stays its own."""

from __future__ import annotations

import os
import pickle
import re
import runpy
import signal
import stat
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")
from scipy import stats
from sklearn.base import clone
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils.estimator_checks import check_estimator
from threadpoolctl import threadpool_limits

from evo_tune import Float, Int, Search, load
from evo_tune.errors import RunError, UsageError
from evo_tune.sklearn import EvoSearchCV

pytestmark = [pytest.mark.xdist_group("sklearn"), pytest.mark.extended]

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "integrations" / "search_cv.py"


@pytest.fixture(autouse=True)
def private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fast_disk: None) -> Iterator[Path]:
    """Return where temporary folders are made; at the end none is left. All on one thread: the data is small."""
    folder = tmp_path / "private"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with threadpool_limits(1):
        yield folder
    assert not [path for path in folder.iterdir() if path.name.startswith("evo-tune-")]
    assert not [name for name in os.environ if name.startswith("EVO_TUNE_HELD_")]


@pytest.fixture
def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(90, 4))
    return x, (x[:, 0] + 0.5 * x[:, 1] * x[:, 2] + 0.3 * rng.normal(size=90) > 0).astype(int)


def searching(estimator: Any = None, space: Any = None, **more: Any) -> EvoSearchCV:
    given = {"n_iter": 6, "cv": 3, "random_state": 0, **more}
    space = {"C": Float(1e-3, 1e2, log=True)} if space is None else space
    return EvoSearchCV(LogisticRegression() if estimator is None else estimator, space, **given)


@pytest.mark.slow
def test_it_passes_the_checks_of_scikit_learn() -> None:
    given = {"n_iter": 1, "cv": 2, "error_score": "raise", "random_state": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        checks = check_estimator(EvoSearchCV(Ridge(), {"alpha": stats.expon(0.1)}, **given), on_fail=None, on_skip=None)
    assert len(checks) > 40
    failed = {check["check_name"] for check in checks if check["status"] == "failed"}
    assert failed <= {"check_supervised_y_2d"}  # y of shape (n, 1) gives no warning; GridSearchCV fails it, too


def test_results_are_those_of_cross_validation(data: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = data
    search = searching(return_train_score=True).fit(x, y)
    results = search.cv_results_
    assert len(results["params"]) == 6
    for row, params in enumerate(results["params"]):
        scores = cross_val_score(LogisticRegression(**params), x, y, cv=3)
        assert [results[f"split{split}_test_score"][row] for split in range(3)] == list(scores)
        assert results["mean_test_score"][row] == pytest.approx(scores.mean())
    grid = GridSearchCV(LogisticRegression(), {"C": [1.0]}, cv=3, return_train_score=True).fit(x, y)
    assert set(grid.cv_results_) <= set(results)
    assert search.best_score_ == max(results["mean_test_score"])
    assert search.best_params_ == results["params"][search.best_index_]
    assert results["rank_test_score"][search.best_index_] == 1
    assert search.best_estimator_.get_params()["C"] == search.best_params_["C"]
    expected = LogisticRegression(**search.best_params_).fit(x, y)
    assert (search.predict(x) == expected.predict(x)).all()
    assert search.score(x, y) == expected.score(x, y)
    assert list(search.classes_) == [0, 1]
    assert search.n_splits_ == 3


def test_the_first_genome_is_the_estimators_own(data: tuple[np.ndarray, np.ndarray]) -> None:
    space = {"logisticregression__C": Float(1e-3, 1e2, log=True), "standardscaler__with_mean": [True, False]}
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=7.0))
    first = searching(pipeline, space, n_iter=2).fit(*data).cv_results_["params"][0]
    assert first == {"logisticregression__C": 7.0, "standardscaler__with_mean": True}


def test_distributions_of_scipy_are_searched_as_random_search_draws_them(data: tuple[np.ndarray, np.ndarray]) -> None:
    space = {
        "learning_rate": stats.loguniform(1e-2, 1.0), "subsample": stats.uniform(0.5, 0.5),
        "max_depth": stats.randint(1, 5), "n_estimators": stats.poisson(8), "ccp_alpha": stats.expon(scale=0.01),
    }  # fmt: skip
    model = GradientBoostingClassifier(n_estimators=9, ccp_alpha=0.005, random_state=0)
    search = searching(model, space, n_iter=60, strategy="random").fit(*data)
    params = search.cv_results_["params"]
    assert {name: params[0][name] for name in ("n_estimators", "max_depth", "learning_rate")} == {
        "n_estimators": 9, "max_depth": 3, "learning_rate": 0.1
    }  # fmt: skip
    assert params[0]["ccp_alpha"] == pytest.approx(0.005)
    for name, distribution in space.items():
        values = [one[name] for one in params[1:]]
        assert {type(value) for value in values} == {int if hasattr(distribution, "pmf") else float}
        if not hasattr(distribution, "pmf"):
            assert stats.kstest(values, distribution.cdf).pvalue > 1e-3
    assert {one["max_depth"] for one in params} == {1, 2, 3, 4}
    assert abs(np.mean([one["n_estimators"] for one in params[1:]]) - 8) < 2
    assert search.best_estimator_.get_params()["n_estimators"] == search.best_params_["n_estimators"]


def test_a_list_may_hold_anything(data: tuple[np.ndarray, np.ndarray]) -> None:
    steps = [StandardScaler(), "passthrough", None]
    space = {"standardscaler": steps, "decisiontreeclassifier__max_depth": [None, 2, 4]}
    pipeline = make_pipeline(StandardScaler(), DecisionTreeClassifier(random_state=0))
    search = searching(pipeline, space, n_iter=9).fit(*data)
    depths = {params["decisiontreeclassifier__max_depth"] for params in search.cv_results_["params"]}
    assert depths <= {None, 2, 4}
    assert None in depths
    assert all(params["standardscaler"] in steps for params in search.cv_results_["params"])


def test_no_value_outside_the_users_space_is_tried(data: tuple[np.ndarray, np.ndarray]) -> None:
    """As in scikit-learn; a run would widen the range, since the best values are at its end."""
    scoring = {"scoring": lambda model, x, y: model.alpha}
    search = searching(Ridge(), {"alpha": Float(0.01, 2.0, log=True)}, n_iter=40, strategy="ga", **scoring)
    values = [params["alpha"] for params in search.fit(*data).cv_results_["params"]]
    assert sum(value > 1.6 for value in values) >= 3
    assert max(values) <= 2.0


def test_the_same_seed_is_the_same_search_and_clone_is_another_object(data: tuple[np.ndarray, np.ndarray]) -> None:
    search = searching()
    copy = clone(search)
    assert copy.get_params(deep=False).keys() == search.get_params(deep=False).keys()
    assert copy.get_params()["estimator__C"] == 1.0
    one, other = search.fit(*data), copy.set_params(n_iter=4).fit(*data)
    assert other.cv_results_["params"] == one.cv_results_["params"][:4]
    restored = pickle.loads(pickle.dumps(one))
    assert (restored.predict(data[0]) == one.predict(data[0])).all()


def test_several_scores_and_refit(data: tuple[np.ndarray, np.ndarray]) -> None:
    search = searching(scoring=["accuracy", "neg_log_loss"], refit="neg_log_loss").fit(*data)
    assert search.multimetric_
    assert search.best_score_ == max(search.cv_results_["mean_test_neg_log_loss"])
    assert set(search.scorer_) == {"accuracy", "neg_log_loss"}
    both = searching(scoring=["accuracy", "neg_log_loss"], refit=False).fit(*data)
    assert not hasattr(both, "best_params_")
    assert len(both.cv_results_["mean_test_accuracy"]) == 6
    chosen = searching(refit=lambda results: 2).fit(*data)
    assert chosen.best_index_ == 2


def test_groups_and_weights_arrive(data: tuple[np.ndarray, np.ndarray]) -> None:
    groups = np.arange(90) % 3
    weights = np.linspace(0.1, 2, 90)
    search = searching(Ridge(), {"alpha": Float(0.1, 10.0)}, cv=GroupKFold(3), n_iter=2)
    search.fit(*data, groups=groups, sample_weight=weights)
    expected = Ridge(**search.best_params_).fit(*data, sample_weight=weights)
    assert search.best_estimator_.coef_ == pytest.approx(expected.coef_)


class Moody(LogisticRegression):
    """Fails on every fit whose C is above 1."""

    def fit(self, *given: Any, **more: Any) -> Any:
        if self.C > 1:
            raise ValueError(f"no C of {self.C}")
        return super().fit(*given, **more)


def test_a_fit_that_fails_counts_as_error_score(data: tuple[np.ndarray, np.ndarray]) -> None:
    with pytest.warns(Warning, match="non-finite|fits failed"):
        search = searching(Moody(), n_iter=8).fit(*data)
    results = search.cv_results_
    bad = np.array([params["C"] > 1 for params in results["params"]])
    assert bad.any()
    assert not bad.all()
    assert np.isnan(results["mean_test_score"][bad]).all()
    assert search.best_params_["C"] <= 1
    with pytest.raises(ValueError, match="no C of"):
        searching(Moody(), n_iter=8, error_score="raise").fit(*data)
    with pytest.warns(Warning, match="fits failed"), pytest.raises(ValueError, match="fits failed"):
        searching(Moody(), {"C": Float(2.0, 9.0)}).fit(*data)


@pytest.mark.slow
def test_slots_find_the_data_in_a_private_folder_only(
    data: tuple[np.ndarray, np.ndarray], tmp_path: Path, private: Path
) -> None:
    class Local(LogisticRegression):  # of no module that a worker could import
        pass

    seen: list[int] = []
    store = tmp_path / "store"

    def look(results: dict[str, Any]) -> int:
        return int(np.argmax(results["mean_test_score"]))

    real = Search.run

    def run(self: Search, **arguments: Any) -> Search:
        [folder] = [path for path in private.iterdir() if path.name.startswith("evo-tune-")]
        seen.append(stat.S_IMODE(folder.stat().st_mode))
        return real(self, **arguments)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Search, "run", run)
        search = searching(Local(), n_jobs=2, n_iter=5, store=store, name="mine", refit=look).fit(*data)
    assert seen == [0o700]
    for row, params in enumerate(search.cv_results_["params"]):
        scores = cross_val_score(LogisticRegression(**params), *data, cv=3)
        assert search.cv_results_["mean_test_score"][row] == pytest.approx(scores.mean())
    assert len(load("mine", store=store).trials) == 5
    saved = b"".join(path.read_bytes() for path in (store / "mine").rglob("*") if path.is_file())
    assert str(private).encode() not in saved


def test_a_run_goes_on_from_the_same_object_only(
    data: tuple[np.ndarray, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search = searching(store=tmp_path, name="mine", n_iter=3, warm_start=True, verbose=1).fit(*data)
    assert re.search(r"^3 of 3 evaluated, best mean_test_score 0\.\d+$", capsys.readouterr().out, re.MULTILINE)
    first = search.cv_results_["params"]
    search.set_params(n_iter=7).fit(*data)
    assert search.cv_results_["params"][:3] == first
    assert len(search.cv_results_["params"]) == 7
    assert search.cv_results_["params"] == searching(n_iter=7).fit(*data).cv_results_["params"]
    with pytest.raises(UsageError, match="warm_start: data, splits, fit parameters or estimator differ"):
        search.set_params(n_iter=9).fit(data[0] + 1, data[1])
    with pytest.raises(RunError, match=r"resume it from the same object by fit\(X, y\) with warm_start=True"):
        Search.resume("mine", store=tmp_path, trials=9)


@pytest.mark.parametrize("slots", [None, pytest.param(2, marks=pytest.mark.slow)])
def test_ctrl_c_keeps_the_results_so_far(
    slots: int | None, data: tuple[np.ndarray, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parent, calls, sent = os.getpid(), tmp_path / "calls", tmp_path / "sent"

    def score(estimator: Any, x: Any, y: Any) -> float:
        with calls.open("a") as file:
            file.write("x")
        if calls.stat().st_size > 4 and not sent.exists():
            sent.touch()
            os.kill(parent, signal.SIGINT)
        return float(estimator.score(x, y))

    search = searching(scoring=score, n_jobs=slots)
    with pytest.raises(KeyboardInterrupt):
        search.fit(*data)
    done = len(search.cv_results_["params"])
    assert 1 <= done < 6
    assert search.best_params_ in search.cv_results_["params"]
    assert not hasattr(search, "best_estimator_")
    said = capsys.readouterr().err
    assert f"interrupted after {done} of 6 evaluations: best_params_ and cv_results_ have these" in said
    assert ("press Ctrl-C again to stop at once" in said) == (slots is not None)


@pytest.mark.parametrize("space", [{}, [], {"C": 3}, {"C": "log"}, None])
def test_what_is_no_space_is_refused(space: Any, data: tuple[np.ndarray, np.ndarray]) -> None:
    with pytest.raises(UsageError, match="param_space"):
        EvoSearchCV(LogisticRegression(), space, n_iter=2).fit(*data)
    with pytest.raises(ValueError, match="Invalid parameter 'D'"):
        EvoSearchCV(LogisticRegression(), {"D": Int(1, 3)}, n_iter=2).fit(*data)


def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLE))["main"](trials=3)
    assert "on the test set 0.9" in capsys.readouterr().out
    assert len(EXAMPLE.read_text().splitlines()) < 40


def test_the_documented_lines_run(capsys: pytest.CaptureFixture[str]) -> None:
    page = (EXAMPLE.parents[2] / "integrations.md").read_text()
    [text] = re.findall(r"^```python\nfrom sklearn.datasets(.*?)^```", page, re.MULTILINE | re.DOTALL)
    exec(compile("from sklearn.datasets" + text.replace("n_iter=20", "n_iter=3"), "page", "exec"), {})
    assert "class_weight" in capsys.readouterr().out
