"""Methods that an evaluator's best model is compared with: scikit-learn's without any tuning, and an n-gram model.

They see the same samples as the models: the training part to learn from, the held-out and the test part to be judged
by.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from evo_tune.errors import OptionError
from evo_tune.training.data.batches import TextMaterial
from evo_tune.training.evaluation import Errors, Scores
from evo_tune.training.fitting import score_metrics
from evo_tune.training.hardware.device import IGNORE
from evo_tune.training.recipe.data.tables import Table

# Row numbers of the training, the held-out and the test part.
Parts = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]

# Pairs of row numbers to learn from and to judge by.
Folds = Sequence[tuple[NDArray[Any], NDArray[Any]]]

# Categories of a column that gradient boosting takes as such; it takes more as numbers.
MOST_CATEGORIES = 254


@contextmanager
def _scikit_learn(method: str) -> Iterator[None]:
    """Run scikit-learn with one thread: small data gains nothing from more, and busy cores lose much.

    Raises:
        OptionError: It is not installed.
    """
    try:
        import sklearn  # noqa: F401
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped] # comes with it
    except ImportError:
        raise OptionError(
            f"{method} is scikit-learn's, which is not installed: pip install 'evo-tune[sklearn]', then resume; or "
            "--no-baseline"
        ) from None
    with threadpool_limits(1):
        yield


def _predict(
    model: Any, method: str, rows: Callable[[Any], Any], targets: NDArray[Any], folds: Folds, test: NDArray[np.int64]
) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Return predictions and true targets of the rows to judge by, and of the test part.

    The model is fitted anew for each fold; that of the first one predicts the test part.

    Args:
        model: A model of scikit-learn.
        method: Name of its method that predicts.
        rows: Function that returns the inputs of rows.
        targets: (n,), classes or numbers; a classifier learns all classes in each fold.
        folds: See `Folds`.
        test: Row numbers of the test part.
    """
    outputs = []
    for learned, judged in reversed(folds):
        model.fit(rows(learned), targets[learned])
        outputs.append(getattr(model, method)(rows(judged)))
    truth = np.concatenate([targets[judged] for _, judged in reversed(folds)])
    return [(np.concatenate(outputs), truth), (getattr(model, method)(rows(test)), targets[test])]


def _scores(
    model: Any, rows: Callable[[Any], Any], classes: NDArray[Any], folds: Folds, test: NDArray[np.int64]
) -> dict[str, float]:
    """Return the metrics of a classifier; see `_predict`."""

    def score(shares: NDArray[Any], truth: NDArray[Any]) -> Scores:
        probabilities = np.maximum(shares[np.arange(len(truth)), truth], 1e-15)
        return Scores.of(shares, truth, loss=float(-np.log(probabilities).mean()))

    parts = _predict(model, "predict_proba", rows, classes, folds, test)
    return score_metrics("classes", *(score(*part) for part in parts))


def table_baseline(table: Table, folds: int = 1) -> dict[str, float]:
    """Return the metrics of gradient boosting on a table: scikit-learn's HistGradientBoosting.

    Args:
        table: The table.
        folds: Number of fits, each judged by other rows, as in the trials that it is compared with (`Table.folds`).

    Raises:
        OptionError: scikit-learn is not installed.
    """
    with _scikit_learn("gradient boosting"):
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

        kind = HistGradientBoostingRegressor if table.regression else HistGradientBoostingClassifier
        is_categorical = [len(categories) <= MOST_CATEGORIES for categories in table.columns.categorical.values()]
        model = kind(random_state=0, categorical_features=[False] * table.columns.sizes[0] + is_categorical)
        pairs: Folds = table.folds(folds) if folds > 1 else [(table.training, table.held_out)]
        rows, values = table.inputs.__getitem__, table.target.values
        if not table.regression:
            return _scores(model, rows, values, pairs, table.test)
        mean, deviation = table.scale
        parts = _predict(model, "predict", rows, (values - mean) / deviation, pairs, table.test)
        errors = (Errors.of(mean + deviation * part, mean + deviation * truth, deviation) for part, truth in parts)
        return score_metrics("regression", *errors)


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
        return _scores(model, lambda part: [texts[row] or "\n" for row in part], classes, [parts[:2]], parts[2])


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
        return _scores(model, flat.__getitem__, classes, [parts[:2]], parts[2])


# Last tokens of a text that are counted, which takes some seconds.
MOST_TOKENS = 4_000_000


class NGrams:
    """Probabilities of tokens after up to `order` others.

    p(c | h) = (n(hc) + T(h) p(c | h')) / (n(h) + T(h)), where n counts, T(h) is the number of different tokens after h,
    and h' is h without its first token (Witten & Bell 1991). Before any token p is uniform.

    Args:
        tokens: (n,), at least order + 1 tokens.
        vocab: Number of different tokens: 256, or up to 65536.
        order: Longest context (int ≥ 0).
    """

    def __init__(self, tokens: NDArray[np.integer], vocab: int, order: int) -> None:
        self.vocab, self.bits = vocab, np.uint64(8 if vocab <= 256 else 16)
        self.tables = []
        for length in range(order + 1):
            keys, counts = np.unique(self._pack_keys(tokens, length), return_counts=True)
            heads, first = np.unique(keys >> self.bits, return_index=True)
            kinds = np.diff(np.append(first, len(keys)))
            self.tables.append((keys, counts, heads, np.add.reduceat(counts, first), kinds))

    def _pack_keys(self, tokens: NDArray[np.integer], length: int) -> NDArray[np.uint64]:
        """Return each token with the `length` tokens before it as one number."""
        wide, count = tokens.astype(np.uint64), len(tokens) - length
        keys = np.zeros(max(0, count), np.uint64)
        for place in range(length + 1):
            keys = (keys << self.bits) | wide[place : place + count]
        return keys

    def probabilities(self, tokens: NDArray[np.integer]) -> NDArray[np.float64]:
        """Return the probability of each token but the first, given those before it, (n − 1,)."""
        shares = np.full(len(tokens) - 1, 1.0 / self.vocab)
        for length, (keys, counts, heads, totals, kinds) in enumerate(self.tables):
            wanted_keys = self._pack_keys(tokens, length)[1 if length == 0 else 0 :]
            mine = shares[max(0, length - 1) :]
            key_counts = _look_up(keys, counts, wanted_keys)
            total, kind = (_look_up(heads, values, wanted_keys >> self.bits) for values in (totals, kinds))
            mine[:] = np.where(total > 0, (key_counts + kind * mine) / np.maximum(total + kind, 1), mine)
        return shares


def _look_up(
    keys: NDArray[np.uint64], values: NDArray[np.integer], wanted_keys: NDArray[np.uint64]
) -> NDArray[np.integer]:
    """Return the value of each asked key among sorted ones; 0 for an unknown one."""
    places = np.minimum(np.searchsorted(keys, wanted_keys), len(keys) - 1)
    return np.asarray(np.where(keys[places] == wanted_keys, values[places], 0))


def ngram_baseline(material: TextMaterial, longest: int) -> dict[str, float]:
    """Return the metrics of an n-gram model on the text that language models are judged by.

    Bytes have contexts of up to 5, byte pairs of up to 2 tokens.

    Args:
        material: The text.
        longest: Longest window of the models, in tokens.
    """
    vocab = material.corpus.vocab
    tokens = material.training.numpy()[-MOST_TOKENS:]
    model = NGrams(tokens if vocab == 256 else tokens.view(np.uint16), vocab, 5 if vocab == 256 else 2)
    metrics = {}
    for part, testing in (("val", False), ("test", True)):
        nats, count = 0.0, 0
        for inputs, targets in material.held_out(longest, testing):
            aims = targets.flatten().numpy()
            text = np.concatenate([inputs.flatten().numpy()[:1], aims[aims != IGNORE]])
            nats -= float(np.log(model.probabilities(text)).sum())
            count += len(text) - 1
        metrics[f"{part}_loss"] = nats / count
        metrics[f"{part}_bpb"] = nats / math.log(2.0) / material.held_out_bytes(testing)
    return metrics
