"""The linear model of texts: its terms, weights and optimum are those of scikit-learn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evo_tune.errors import RecipeError
from evo_tune.training import LinearTextClassifier
from evo_tune.training.models.model_files import FitRows
from evo_tune.training.recipe import LinearTextConfig, encode_pieces, families

WORDS = ["the", "a", "Éclair,", "runs;", "日本語", "of-and", "cats", "x", "naïve", "12.5"]


def random_texts(count: int, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """Return texts of words whose shares differ between three classes."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(3, size=count)
    shares = rng.dirichlet(np.ones(len(WORDS)), size=3)
    texts = [" ".join(rng.choice(WORDS, size=rng.integers(1, 12), p=shares[label])) for label in classes]
    return texts, classes


def fit_model(texts: list[str], classes: np.ndarray, **shape: int) -> LinearTextClassifier:
    config = LinearTextConfig(outputs=int(classes.max()) + 1, **{"word_ngrams": 2, "character_ngrams": 4, **shape})
    model = LinearTextClassifier(config, labels=[str(label) for label in range(config.outputs)])
    pieces = encode_pieces(texts, config.length)
    for _ in model.fit(FitRows(pieces, classes, np.ones(len(classes)), pieces), {"C": 3.0}, 50, 0):
        pass
    model.finish(model.state())
    return model


def probabilities(model: LinearTextClassifier, texts: list[str]) -> np.ndarray:
    outputs = model(torch.from_numpy(encode_pieces(texts, model.config.length)))
    return outputs.softmax(1).numpy()  # type: ignore[no-any-return]


@pytest.mark.parametrize(("word_ngrams", "character_ngrams"), [(1, 0), (2, 4), (3, 6)])
@pytest.mark.parametrize("outputs", [2, 3])
def test_probabilities_are_those_of_scikit_learn(word_ngrams: int, character_ngrams: int, outputs: int) -> None:
    text = pytest.importorskip("sklearn.feature_extraction.text")
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union

    texts, classes = random_texts(120)
    classes = np.minimum(classes, outputs - 1)
    words = text.TfidfVectorizer(
        sublinear_tf=True, token_pattern=r"\w+|[^\w\s]", ngram_range=(1, word_ngrams), max_features=None
    )
    characters = text.TfidfVectorizer(sublinear_tf=True, analyzer="char_wb", ngram_range=(2, character_ngrams))
    features = make_union(words, characters) if character_ngrams else words
    reference = make_pipeline(features, LogisticRegression(C=3.0, tol=1e-6, max_iter=1000)).fit(texts, classes)
    model = fit_model(texts, classes, word_ngrams=word_ngrams, character_ngrams=character_ngrams)
    assert model.config.terms == len(features.get_feature_names_out())
    others = [*random_texts(40, seed=1)[0], "words never seen", "the the the the"]
    assert probabilities(model, others) == pytest.approx(reference.predict_proba(others), abs=2e-3)


def test_a_text_without_known_terms_has_the_probabilities_of_the_bias(tmp_path: Path) -> None:
    model = fit_model(*random_texts(60))
    model.save(tmp_path)
    loaded = LinearTextClassifier.load(tmp_path)
    expected = model.bias.softmax(0).numpy()
    for text in ("", "   ", "\u3042", "\ud800"):
        assert probabilities(loaded, [text])[0] == pytest.approx(expected, abs=1e-6)
    together = probabilities(loaded, ["", "the cats runs; the cats", "\u3042"])
    assert together[1] == pytest.approx(probabilities(model, ["the cats runs; the cats"])[0], abs=1e-6)
    assert not np.allclose(together[1], expected, atol=0.02)
    assert probabilities(loaded, []).shape == (0, 3)


def test_the_terms_in_most_texts_are_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    texts, classes = ["common x", "common y", "common x", "common z"], np.array([0, 1, 0, 1])
    monkeypatch.setattr(families, "MOST_TERMS", 2)
    model = fit_model(texts, classes, word_ngrams=1, character_ngrams=0)
    assert model.config.terms == 2
    assert sorted(model.idf.tolist()) == pytest.approx([1.0, 1.0 + np.log(5 / 3)])
    assert probabilities(model, ["common x"])[0, 0] > 0.5 > probabilities(model, ["common"])[0, 0]


def test_a_sample_of_the_texts_does_not_depend_on_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    texts, classes = random_texts(90)
    whole = fit_model(texts, classes)
    monkeypatch.setattr("evo_tune.training.models.linear_texts.MOST_COUNTED", 9000)
    models = []
    for padding in (0, 400):
        pieces = np.pad(encode_pieces(texts, 100), ((0, 0), (0, padding)))
        model = LinearTextClassifier(replace(whole.config, terms=0), labels=whole.labels)
        next(model.fit(FitRows(pieces, classes, np.ones(90), pieces[:1]), {"C": 1.0}, 1, 0))
        models.append(model)
    assert torch.equal(models[0].terms, models[1].terms)
    assert 0 < len(models[0].terms) < len(whole.terms)


def test_only_the_beginning_of_a_text_is_read() -> None:
    model = fit_model(*random_texts(60), length=10)
    first, second = probabilities(model, ["the cats a", "the cats a Éclair, runs;"])
    assert (first == second).all()


@pytest.mark.parametrize(
    ("field", "wrong"), [("word_ngrams", 0), ("character_ngrams", -1), ("length", 0), ("terms", 0.5)]
)
def test_a_shape_out_of_range_is_refused(field: str, wrong: Any) -> None:
    with pytest.raises(RecipeError, match=field):
        LinearTextConfig(**{"outputs": 2, "word_ngrams": 1, "character_ngrams": 0, field: wrong})
