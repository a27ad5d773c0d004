"""Numbers by rank: as scikit-learn has them, of training rows only, and carried by the model that is saved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import norm

pytest.importorskip("sklearn")
from sklearn.preprocessing import QuantileTransformer

from evo_tune.errors import RecipeError
from evo_tune.training import FTTransformer
from evo_tune.training.models.encoder import Quantiles
from evo_tune.training.recipe import FTConfig
from tests.training.models.test_encoder import shaken

SHAPE = {"outputs": 2, "depth": 1, "width": 8, "heads": 2}


def columns(rows: int = 200) -> np.ndarray:
    """Return a skewed column, one of few values, and one far from zero and narrow."""
    rng = np.random.default_rng(0)
    skewed, narrow = rng.lognormal(size=rows), rng.normal(5.0, 1e-2, rows)
    return np.stack([skewed, rng.integers(0, 5, rows), narrow], 1).astype(np.float32)


def learnt(rows: np.ndarray, count: int) -> Quantiles:
    made = Quantiles(rows.shape[1], count)
    made.learn(torch.from_numpy(rows))
    return made


@pytest.mark.parametrize("count", [2, 7, 50])
def test_places_are_scikit_learns_but_at_the_ends(count: int) -> None:
    rows = columns()
    theirs = QuantileTransformer(n_quantiles=count, subsample=10**6).fit(rows)
    new = np.concatenate([rows, rows * 1.01 - 0.03])
    inside = ((new > rows.min(0)) & (new < rows.max(0))).all(1)
    assert inside.sum() > 100
    found = learnt(rows, count)(torch.from_numpy(new)).numpy()
    places = (norm.cdf(found) * 2 - 1) / (1 - 1 / count) / 2 + 0.5
    assert np.abs(places - theirs.transform(new))[inside].max() < 2e-4


def test_a_number_out_of_anything_seen_is_no_further_than_the_last_one_seen() -> None:
    made = learnt(columns(), 100)
    beyond = torch.tensor([[1e30, 1e30, 1e30], [-1e30, -1e30, -1e30]])
    found = made(beyond)
    assert torch.allclose(found[0], torch.tensor(norm.ppf(1 - 0.5 / 100)).float().expand(3), atol=1e-4)
    assert torch.allclose(found[1], -found[0], atol=1e-4)


def test_a_column_of_one_value_says_nothing_and_one_of_none_is_left_alone() -> None:
    rows = np.stack([np.full(9, 3.0), np.full(9, np.nan)], 1).astype(np.float32)
    found = learnt(rows, 5)(torch.tensor([[3.0, 0.5]]))
    assert torch.allclose(found, torch.zeros(1, 2), atol=1e-6)


def test_the_scale_and_any_growing_change_of_a_column_leave_the_models_answer_alone() -> None:
    rows = torch.from_numpy(columns()[:, :1])
    answers = []
    for change in (lambda x: x, lambda x: 1000.0 * x + 5.0, torch.log):
        model = shaken(FTTransformer(FTConfig(numeric=1, quantiles=200, **SHAPE), seed=1)).eval()
        model.standardise(change(rows))
        answers.append(model(change(rows)))
    assert answers[0].std() > 0.01
    assert all(torch.allclose(one, answers[0], atol=1e-3) for one in answers[1:])


def test_a_saved_model_takes_numbers_as_they_come(tmp_path: Path) -> None:
    rows = torch.from_numpy(columns())
    rows[3, 1] = float("nan")
    model = shaken(FTTransformer(FTConfig(numeric=3, quantiles=50, **SHAPE), seed=1)).eval()
    model.standardise(rows[:100])
    assert not torch.equal(model.quantiles.values, Quantiles(3, 50).values)  # type: ignore[union-attr]
    model.save(tmp_path)
    again = FTTransformer.load(tmp_path)
    assert torch.equal(again(rows), model(rows))
    assert model(rows).isfinite().all()


def test_a_single_quantile_is_refused() -> None:
    with pytest.raises(RecipeError, match="quantiles=1"):
        FTConfig(quantiles=1, **SHAPE)
