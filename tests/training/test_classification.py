"""Scores against scikit-learn's, and the split."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

pytest.importorskip("sklearn")
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, log_loss, roc_auc_score

from evo_tune.errors import RecipeError
from evo_tune.training import Scores, auc, score_classifier
from evo_tune.training.recipe import split_stratified


@given(data=st.data(), classes=st.integers(2, 4), coarse=st.booleans())
def test_auc_is_scikit_learns_ties_included(data: st.DataObject, classes: int, coarse: bool) -> None:
    n = data.draw(st.integers(classes * 2, 40))
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    truth = np.concatenate([np.arange(classes), rng.integers(0, classes, n - classes)])
    odds = rng.integers(1, 4, (n, classes)).astype(float) if coarse else rng.random((n, classes))
    found = odds / odds.sum(1, keepdims=True)
    if classes == 2:
        expected = roc_auc_score(truth, found[:, 1])
    else:
        expected = roc_auc_score(truth, found, multi_class="ovr", average="macro")
    assert auc(found, truth) == pytest.approx(expected, abs=1e-12)


def test_auc_of_one_class_is_no_number() -> None:
    assert math.isnan(auc([[0.5, 0.5], [0.1, 0.9]], [1, 1]))


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true", "ignore:A single label was found")
@given(data=st.data(), classes=st.integers(2, 5), most=st.integers(1, 4))
def test_f1_and_balanced_accuracy_are_scikit_learns_with_classes_missing(
    data: st.DataObject, classes: int, most: int
) -> None:
    n = data.draw(st.integers(1, 30))
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    truth, found = rng.integers(0, min(most, classes), n), rng.random((n, classes))
    scores = Scores.of(found, truth, loss=0.5)
    predicted = found.argmax(1)
    assert scores.loss == 0.5
    assert scores.accuracy == pytest.approx(accuracy_score(truth, predicted))
    assert scores.balanced_accuracy == pytest.approx(balanced_accuracy_score(truth, predicted))
    assert scores.macro_f1 == pytest.approx(f1_score(truth, predicted, average="macro", zero_division=0.0))


def test_rare_classes_count_as_much_as_frequent_ones() -> None:
    always_first = np.tile([0.9, 0.1], (10, 1))
    scores = Scores.of(always_first, [0] * 9 + [1], loss=0.0)
    assert (scores.accuracy, scores.balanced_accuracy) == (0.9, 0.5)
    assert scores.macro_f1 == pytest.approx(9 / 19)  # F1 of 18/19 and 0


def test_scores_are_scikit_learns_and_leave_no_trace() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5)).train()
    inputs, truth = torch.randn(50, 3), torch.arange(50) % 4
    state = torch.get_rng_state()
    scores = [score_classifier(model, (inputs, truth), batch=batch) for batch in (7, 50)]
    assert torch.equal(state, torch.get_rng_state())
    assert model.training
    found = model.eval()(inputs).double().softmax(-1).detach().numpy()
    for each in scores:
        assert each.loss == pytest.approx(log_loss(truth, found), rel=1e-5)
        assert each.accuracy == accuracy_score(truth, found.argmax(1))
        assert each.balanced_accuracy == pytest.approx(balanced_accuracy_score(truth, found.argmax(1)))
        assert each.macro_f1 == pytest.approx(f1_score(truth, found.argmax(1), average="macro"))
        assert each.auc == pytest.approx(roc_auc_score(truth, found, multi_class="ovr"), rel=1e-6)


@given(counts=st.lists(st.integers(2, 30), min_size=2, max_size=5), share=st.floats(0.01, 0.99))
def test_a_split_takes_the_same_share_of_every_class(counts: list[int], share: float) -> None:
    classes = np.random.default_rng(1).permutation(np.repeat(np.arange(len(counts)), counts))
    training, held = split_stratified(classes, share)
    assert sorted([*training, *held]) == list(range(len(classes)))
    for number, count in enumerate(counts):
        taken = int((classes[held] == number).sum())
        assert 1 <= taken <= count - 1
        assert abs(taken - share * count) <= 1.0
    assert np.array_equal(held, split_stratified(classes, share)[1])


@given(
    counts=st.lists(st.integers(3, 30), min_size=2, max_size=5), one=st.floats(0.01, 0.49), two=st.floats(0.01, 0.49)
)
def test_a_split_in_three_takes_the_same_shares_of_every_class(counts: list[int], one: float, two: float) -> None:
    classes = np.random.default_rng(1).permutation(np.repeat(np.arange(len(counts)), counts))
    parts = split_stratified(classes, one, two)
    assert sorted(row for part in parts for row in part) == list(range(len(classes)))
    for number, count in enumerate(counts):
        taken = [int((classes[part] == number).sum()) for part in parts]
        assert min(taken) >= 1
        assert all(abs(got - share * count) <= 1.0 for got, share in zip(taken[1:], (one, two), strict=True))
    again = split_stratified(classes, one, two)
    assert all(np.array_equal(mine, other) for mine, other in zip(parts, again, strict=True))


@pytest.mark.parametrize(
    ("classes", "shares"),
    [
        ([0, 0], [0.5]),
        ([0, 0, 1], [0.5]),
        ([0, 0, 1, 1], [0.0]),
        ([0, 1] * 3, [1.0]),
        ([0, 0, 1, 1, 1], [0.2, 0.2]),
        ([0, 1] * 9, [0.5, 0.5]),
        ([0, 1] * 9, [0.5, 0.0]),
    ],
)
def test_what_cannot_be_split_is_refused(classes: list[int], shares: list[float]) -> None:
    with pytest.raises(RecipeError):
        split_stratified(np.array(classes), *shares)
