"""Methods that an evaluator's best model is compared with: scikit-learn's, trained once without any tuning.

They see the same samples as the models: the training part to learn from, the held-out and the test part to be judged
by. This module does not know torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from evo_tune.errors import OptionError
from evo_tune.training.evaluation import Errors, Scores
from evo_tune.training.recipe.data.tables import Table
from evo_tune.training.recipe.metrics import METRICS

Parts = Sequence[NDArray[np.int64]]
"""Row numbers of the training, the held-out and the test part."""

MOST_CATEGORIES = 254
"""Categories of a column that gradient boosting takes as such; it takes more as numbers."""


def baseline_metrics(group: str, held_out: Any, test: Any) -> dict[str, float]:
    """Return what a group's rows of `METRICS` read of scores, under the names of the held-out and of the test part.

    Args:
        group: 'classes' or 'regression'.
        held_out: Scores or errors on the held-out part.
        test: The same on the test part.
    """
    found = {}
    for row in METRICS:
        if group in row.groups and row.test and row.read is not None:
            found[row.name] = float(row.read(SimpleNamespace(scores=held_out)) or 0.0)
            found[row.test_name] = float(row.read(SimpleNamespace(scores=test)) or 0.0)
    return found


@contextmanager
def _scikit_learn(what: str) -> Iterator[None]:
    """Run scikit-learn with one thread: small data gains nothing from more, and busy cores lose much.

    Raises:
        OptionError: It is not installed.
    """
    try:
        import sklearn  # noqa: F401
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped] # comes with it
    except ImportError:
        raise OptionError(
            f"{what} is scikit-learn's, which is not installed: pip install 'evo-tune[sklearn]', then resume; or "
            "--no-baseline"
        ) from None
    with threadpool_limits(1):
        yield


def _scores(model: Any, rows: Callable[[Any], Any], classes: NDArray[Any], parts: Parts) -> dict[str, float]:
    """Fit a classifier to the training rows and return its metrics.

    Args:
        model: A classifier of scikit-learn.
        rows: Function that returns the inputs of rows.
        classes: (n,), class numbers; the training part has all of them.
        parts: See `Parts`.
    """
    training, *others = parts
    model.fit(rows(training), classes[training])

    def judged(part: NDArray[np.int64]) -> Scores:
        found, truth = model.predict_proba(rows(part)), classes[part]
        own = np.maximum(found[np.arange(len(truth)), truth], 1e-15)
        return Scores.of(found, truth, loss=float(-np.log(own).mean()))

    return baseline_metrics("classes", *map(judged, others))


def table_baseline(table: Table) -> dict[str, float]:
    """Return the metrics of gradient boosting on a table: scikit-learn's HistGradientBoosting.

    Raises:
        OptionError: scikit-learn is not installed.
    """
    with _scikit_learn("gradient boosting"):
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

        kind = HistGradientBoostingRegressor if table.regression else HistGradientBoostingClassifier
        few = [len(categories) <= MOST_CATEGORIES for categories in table.columns.categorical.values()]
        model = kind(random_state=0, categorical_features=[False] * table.columns.sizes[0] + few)
        parts, values = (table.training, table.held_out, table.test), table.target.values
        if not table.regression:
            return _scores(model, table.inputs.__getitem__, values, parts)
        mean, deviation = table.scale
        model.fit(table.inputs[table.training], (values[table.training] - mean) / deviation)

        def judged(part: NDArray[np.int64]) -> Errors:
            return Errors.of(mean + deviation * model.predict(table.inputs[part]), values[part], deviation)

        return baseline_metrics("regression", judged(table.held_out), judged(table.test))


def text_baseline(
    texts: Sequence[str], classes: NDArray[Any], parts: Parts, unit: Literal["words", "bytes"] = "words"
) -> dict[str, float]:
    """Return the metrics of a logistic regression on TF-IDF of texts: of words and pairs, or of 2 to 4 characters.

    Raises:
        OptionError: scikit-learn is not installed.
    """
    with _scikit_learn("the linear model on TF-IDF"):
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        how: dict[str, Any] = {"token_pattern": r"\w+|[^\w\s]", "ngram_range": (1, 2)}
        if unit == "bytes":
            how = {"analyzer": "char", "ngram_range": (2, 4)}
        model = make_pipeline(TfidfVectorizer(sublinear_tf=True, **how), LogisticRegression(C=10.0, max_iter=1000))
        return _scores(model, lambda part: [texts[row] or "\n" for row in part], classes, parts)


def image_baseline(pixels: NDArray[Any], classes: NDArray[Any], parts: Parts) -> dict[str, float]:
    """Return the metrics of a logistic regression on the standardised pixels of images, (n, …).

    Raises:
        OptionError: scikit-learn is not installed.
    """
    with _scikit_learn("the linear model on pixels"):
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        flat = pixels.reshape(len(pixels), -1).astype(np.float32)
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
        return _scores(model, flat.__getitem__, classes, parts)
