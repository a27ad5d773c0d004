"""`EvoSearchCV`: a search with scikit-learn's interface, whose every evaluation is a cross-validation.

Estimator and data stay with the object, in this process or, for several slots, in a private folder outside of the run
that is removed at the end. The run knows them by a random name only, so nobody can make it load anything else, and it
continues from the same object only. Importing this module imports scikit-learn.
"""

import contextlib
import dataclasses
import json
import math
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np

from evo_tune.errors import OptionError, RunError, SpaceError, UsageError, require_extra
from evo_tune.genome.genes import Choice, Float, Gene, Int
from evo_tune.genome.trial import Trial
from evo_tune.genome.values import Value
from evo_tune.integrations._cross_validation import SEARCH_DATA, VARIABLE, SearchData
from evo_tune.loop.search import Search

# scikit-learn has no public base class of searches, and GridSearchCV fixes its candidates in advance. The public
# alternative to BaseSearchCV, a MetaEstimatorMixin, fails because scoring, metadata routing, `cv_results_` and the
# delegation of `predict` have no public functions: they would have to be copied, and follow each release.
with require_extra("evo_tune.sklearn", "sklearn"):
    import cloudpickle  # type: ignore[import-untyped]
    from sklearn.base import clone, is_classifier
    from sklearn.model_selection import check_cv
    from sklearn.model_selection._search import BaseSearchCV
    from sklearn.utils import check_random_state, indexable

EVALUATOR = Path(__file__).with_name("_cross_validation.py")


class EvoSearchCV(BaseSearchCV):  # type: ignore[misc] # mypy does not read scikit-learn
    """Search the parameters of an estimator by evolution; each genome is evaluated by cross-validation.

    It is used as `GridSearchCV` and `RandomizedSearchCV`: `fit`, then `best_params_`, `best_score_`,
    `best_estimator_`, `cv_results_`, `predict`, …. The first genome is the estimator's own parameters, where the space
    contains them.

    Args:
        estimator: Unfitted estimator with `set_params`.
        param_space: For each parameter ('C', or 'svc__C' in a pipeline) `Float(…)`, `Int(…)`, `Choice([…])`, a list of
            any values, or a frozen distribution of scipy as in RandomizedSearchCV. `uniform`, `loguniform` and
            `randint` become ranges; of any other, the search proposes quantiles from 0.001 to 0.999.
        n_iter: Maximum number of genomes.
        strategy: Strategy of evo-tune; None: `saea`.
        scoring: As in GridSearchCV. With several metrics, the one that `refit` names is the objective, or all of them.
        n_jobs: Number of cross-validations at once. None or 1: in this process.
        refit: As in GridSearchCV.
        cv: As in GridSearchCV.
        verbose: Above 0, print a line per evaluation.
        error_score: As in GridSearchCV.
        return_train_score: As in GridSearchCV.
        random_state: Seed of the search, or a RandomState; None: a new seed each time.
        store: Folder of saved runs; None: the run is removed at the end.
        name: Name of the saved run.
        warm_start: Continue the run of this object's last `fit`, which needs `store`; `n_iter` is the total.

    Raises:
        UsageError: `fit` was called with arguments that do not make a search.
    """

    def __init__(
        self,
        estimator: Any,
        param_space: Mapping[str, Any],
        *,
        n_iter: int = 50,
        strategy: str | None = None,
        scoring: Any = None,
        n_jobs: int | None = None,
        refit: Any = True,
        cv: Any = None,
        verbose: int = 0,
        error_score: Any = np.nan,
        return_train_score: bool = False,
        random_state: Any = None,
        store: str | Path | None = None,
        name: str | None = None,
        warm_start: bool = False,
    ) -> None:
        super().__init__(
            estimator, scoring=scoring, n_jobs=n_jobs, refit=refit, cv=cv, verbose=verbose, error_score=error_score,
            return_train_score=return_train_score,
        )  # fmt: skip
        self.param_space = param_space
        self.n_iter = n_iter
        self.strategy = strategy
        self.random_state = random_state
        self.store = store
        self.name = name
        self.warm_start = warm_start

    def fit(self, X: Any, y: Any = None, **params: Any) -> "EvoSearchCV":  # noqa: N803  (scikit-learn's name)
        """Search; with `refit`, fit the best genome on all data.

        Args:
            X: Samples.
            y: Targets.
            params: Further arguments of the estimator's `fit`; `groups` for the splitter.

        Raises:
            KeyboardInterrupt: Ctrl-C; `best_params_`, `best_score_` and `cv_results_` have the evaluations so far.
            RunError: An evaluation failed and error_score is 'raise'; with one slot, the original error is raised.
            ValueError: Every fit of every genome failed.
        """
        scorers, refit_metric = self._get_scorers()
        x, y = indexable(X, y)
        routed = self._get_routed_params_for_fit(params)
        cv = check_cv(self.cv, y, classifier=is_classifier(self.estimator))
        splits = list(cv.split(x, y, **routed.splitter.split))
        self.n_splits_ = len(splits)
        genes, values, distributions = _space(self.param_space, self.estimator)
        scoring = getattr(scorers, "_scorers", scorers)
        fit_params = {name: value for name, value in params.items() if name != "groups" and value is not None}
        data = SearchData(
            clone(self.estimator), x, y, fit_params, splits, scoring, self.error_score, self.return_train_score, values,
            distributions,
        )  # fmt: skip
        names = [refit_metric] if isinstance(refit_metric, str) else list(scoring)
        trials, interrupted = self._search(data, genes, [f"mean_test_{name}:max" for name in names])
        if interrupted:
            available = ""
            self.__dict__.pop("best_estimator_", None)  # of an earlier fit
            with contextlib.suppress(ValueError):  # no fit has ended, or all failed
                self._set_results(data, trials, refit_metric)
                available = ": best_params_ and cv_results_ have these, and no model is fitted"
            remedy = "; fit with warm_start=True continues" if self.store else ""
            done = f"interrupted after {len(trials)} of {self.n_iter} evaluations"
            print(f"{done}{available}{remedy}", file=sys.stderr, flush=True)
            raise KeyboardInterrupt
        self._set_results(data, trials, refit_metric)
        self.scorer_ = scoring
        if self.refit:
            best = clone(data.estimator).set_params(**clone(self.best_params_, safe=False))
            self.best_estimator_ = best.fit(x, **({} if y is None else {"y": y}), **routed.estimator.fit)
            if hasattr(best, "feature_names_in_"):
                self.feature_names_in_ = best.feature_names_in_
        return self

    def _search(self, data: SearchData, genes: Mapping[str, Gene], objectives: list[str]) -> tuple[list[Trial], bool]:
        """Search, and return every trial and whether Ctrl-C ended the search."""
        slots = joblib.effective_n_jobs(self.n_jobs) if self.n_jobs is not None else 1
        private = Path(tempfile.mkdtemp(prefix="evo-tune-"))  # readable by its user only
        before: tuple[str, str, str] | None = getattr(self, "_run", None) if self.warm_start and self.store else None
        if before is not None and before[2] != data.identity:
            shutil.rmtree(private, ignore_errors=True)
            raise UsageError(
                "warm_start: data, splits, fit parameters or estimator differ from those of the run: give the same, or "
                "warm_start=False and another name"
            )
        token = secrets.token_hex(16) if before is None else before[0]
        space = json.dumps({name: gene.describe() for name, gene in genes.items()})
        SEARCH_DATA[token] = data
        try:
            if before is not None and self.store is not None:
                search = Search.resume(
                    before[1], store=self.store, evaluator=str(EVALUATOR), trials=self.n_iter, slots=slots
                )
            else:
                search = Search(
                    str(EVALUATOR),
                    options={"held": token, "space": space},
                    strategy=self.strategy,
                    objectives=objectives,
                    seed=int(check_random_state(self.random_state).randint(2**31 - 1)),
                    store=self.store or private / "runs",
                    name=self.name,
                    trials=self.n_iter,
                    slots=slots,
                    devices="cpu",
                    widen=False,  # as in scikit-learn, the user's space has all values that are tried
                )
            with search:
                self._run = token, search.name, data.identity
                try:
                    if slots > 1:
                        self._evaluate_in_slots(search, data, private, token)
                    else:
                        while (candidate := search.ask()) is not None:
                            search.tell(candidate, data.scores(candidate.genome))
                            self._print_progress(search)
                except KeyboardInterrupt:  # a traceback would only show a place inside of a fit
                    return list(search.trials), True
                return list(search.trials), False
        finally:
            del SEARCH_DATA[token]
            os.environ.pop(VARIABLE + token, None)
            shutil.rmtree(private, ignore_errors=True)

    def _evaluate_in_slots(self, search: Search, data: SearchData, private: Path, token: str) -> None:
        """Evaluate in slots, whose workers load estimator and data from a private folder."""
        other_fields = {field.name: getattr(data, field.name) for field in dataclasses.fields(data)}
        large_fields = {name: other_fields.pop(name) for name in ("x", "y", "splits")}
        joblib.dump(large_fields, private / "data.joblib")
        (private / "rest.pickle").write_bytes(cloudpickle.dumps(other_fields))  # also pickles classes of a notebook
        os.environ[VARIABLE + token] = str(private)

        def look_at(trial: Trial) -> None:
            self._print_progress(search)
            if self.error_score == "raise" and _failure([trial]):
                search.stop()

        search.run(progress=False, callbacks=[look_at])
        failure = _failure(search.trials)
        if self.error_score == "raise" and failure:
            raise RunError(failure)
        if search.stopping and len(search.trials) < self.n_iter:
            raise KeyboardInterrupt

    def _print_progress(self, search: Search) -> None:
        if self.verbose > 0:
            best, metric = search.best, search.saved.objectives[0].metric
            progress = "no value yet" if best is None else f"best {metric} {best.outcome.metrics[metric]:.5g}"
            print(f"{len(search.saved.outcomes)} of {self.n_iter} evaluated, {progress}")

    def _set_results(self, data: SearchData, trials: Sequence[Trial], refit_metric: Any) -> None:
        """Set the attributes that scikit-learn's searches have."""
        self.multimetric_ = isinstance(data.scoring, dict)
        out = [fit for trial in trials for fit in _fits(trial, data, self.n_splits_)]
        if not out:
            raise ValueError("No fits were performed: n_iter is the number of genomes, expected 1 or more")
        test_scores = [fit["test_scores"] if self.multimetric_ else {"score": fit["test_scores"]} for fit in out]
        if all(np.isnan(score) for scores in test_scores for score in scores.values()):
            why = _failure(trials) or "error_score='raise' shows the first"
            raise ValueError(f"All the {len(out)} fits failed: {why}")
        params = [data.to_params(trial.genome) for trial in trials]
        columns = {"trial": [trial.id for trial in trials], "operator": [trial.candidate.operator for trial in trials]}
        results = self._format_results(params, self.n_splits_, out, columns)
        if self.refit or not self.multimetric_:
            self.best_index_ = self._select_best_index(self.refit, refit_metric, results)
            if not callable(self.refit):
                self.best_score_ = results[f"mean_test_{refit_metric}"][self.best_index_]
            self.best_params_ = results["params"][self.best_index_]
        self.cv_results_ = results

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "cv_results_")


# Lowest quantile that is proposed of a distribution; the highest one is as far from 1.
EDGE = 1e-3


def _space(
    param_space: Mapping[str, Any], estimator: Any
) -> tuple[dict[str, Gene], dict[str, dict[Value, Any]], dict[str, Any]]:
    """Return the genes, with the estimator's own parameters as defaults where possible, and how they are decoded.

    Returns:
        The genes; the values of labels; and the distributions of the genes that are quantiles.

    Raises:
        UsageError: The values of a parameter are neither a gene, a list nor a distribution.
    """
    if not isinstance(param_space, Mapping) or not param_space:
        raise UsageError(
            f"param_space is {param_space!r}: expected a dict of parameter names to Float, Int, Choice, a list or a "
            "distribution of scipy"
        )
    params = estimator.get_params() if hasattr(estimator, "get_params") else {}
    genes: dict[str, Gene] = {}
    values: dict[str, dict[Value, Any]] = {}
    distributions: dict[str, Any] = {}
    for name, declared in param_space.items():
        gene, default = declared, params.get(name)
        if hasattr(declared, "ppf") and hasattr(declared, "support"):
            gene, is_range = _gene_of_distribution(declared)
            if not is_range:
                distributions[name], value, default = declared, default, None
                with contextlib.suppress(TypeError):  # such as a text, which has no quantile
                    # The middle of a step, which may be rounded away.
                    middle = 0.5 * declared.pmf(value) if hasattr(declared, "pmf") else 0.0
                    default = float(declared.cdf(value) - middle)
        elif not isinstance(declared, Gene):
            if isinstance(declared, str | bytes | Mapping) or not hasattr(declared, "__iter__"):
                raise UsageError(
                    f"param_space[{name!r}] is {declared!r}: expected Float, Int, Choice, a list of values or a "
                    "frozen distribution of scipy.stats"
                )
            plain_values = [value.item() if isinstance(value, np.generic) else value for value in declared]
            try:
                gene = Choice(tuple(plain_values))
            except SpaceError:  # the values are not plain data
                labels: dict[Value, Any] = {f"{i}: {str(value)[:60]}": value for i, value in enumerate(plain_values)}
                gene, values[name] = Choice(tuple(labels)), labels
                default = next((label for label, value in labels.items() if value is default), default)
        if gene.default is None:
            with contextlib.suppress(SpaceError, OptionError, TypeError):  # a value outside of the gene is no default
                gene = dataclasses.replace(gene, default=default)
        genes[name] = gene
    return genes, values, distributions


def _gene_of_distribution(distribution: Any) -> tuple[Gene, bool]:
    """Return the gene of a frozen distribution, and whether it is the range of the values, not of their quantiles."""
    kind = getattr(getattr(distribution, "dist", None), "name", "")
    low, high = (float(end) for end in distribution.support())
    if kind == "uniform":
        return Float(low, high), True
    if kind in ("loguniform", "reciprocal") and math.isclose(distribution.ppf(0.5), math.sqrt(max(0.0, low * high))):
        return Float(low, high, log=True), True  # not if it is moved by loc
    if kind == "randint" and high > low:
        return Int(int(low), int(high)), True
    return Float(EDGE, 1.0 - EDGE), False


def _fits(trial: Trial, data: SearchData, count: int) -> list[dict[str, Any]]:
    """Return the record of each fit of a trial that scikit-learn's `_format_results` takes."""
    metrics = trial.outcome.metrics
    several = isinstance(data.scoring, dict)
    names = list(data.scoring) if several else ["score"]
    fits = []
    for split in range(count):
        fit: dict[str, Any] = {
            "fit_time": metrics.get(f"split{split}_fit_time", trial.outcome.seconds / count),
            "score_time": metrics.get(f"split{split}_score_time", 0.0),
        }
        for part in ("test", "train") if data.return_train_score else ("test",):
            scores = {name: metrics.get(f"split{split}_{part}_{name}", np.nan) for name in names}
            fit[f"{part}_scores"] = scores if several else scores["score"]
        fits.append(fit)
    return fits


def _failure(trials: Sequence[Trial]) -> str | None:
    """Return the error of the first failed trial."""
    return next((trial.outcome.error for trial in trials if trial.outcome.error and not trial.ok), None)
