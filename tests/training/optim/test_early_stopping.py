import math

import pytest
import torch
from torch import nn

from evo_tune.training import EarlyStopping


def stops_at(stopping: EarlyStopping, values: list[float]) -> int | None:
    model = nn.Linear(1, 1)
    return next((i for i, value in enumerate(values) if stopping.update(value, model)), None)


@pytest.mark.parametrize(
    ("values", "stop"),
    [
        ([5, 4, 3, 2, 1, 0], None),
        ([5, 4, 4, 4], 3),  # a tie is no improvement
        ([5, 6, 4, 5, 5], 4),
        ([5, math.nan, math.nan], 2),
        ([math.nan, math.nan], 1),
        ([5, 6, 4, 5, 3, 9, 9], 6),
    ],
)
def test_it_stops_after_patience_evaluations_without_improvement(values: list[float], stop: int | None) -> None:
    assert stops_at(EarlyStopping(patience=2), values) == stop


def test_an_improvement_must_exceed_min_delta() -> None:
    assert stops_at(EarlyStopping(patience=2, min_delta=1.0), [5, 4.0, 4.0]) == 2
    assert stops_at(EarlyStopping(patience=2, min_delta=1.0), [5, 3.9, 3.0, 2.8]) is None


def test_patience_counts_on_the_moving_average_of_the_loss() -> None:
    noisy = [5.0, 4.6, 3.8, 4.2, 3.9]  # one lucky evaluation hides that the loss still falls
    assert stops_at(EarlyStopping(patience=2), noisy) == 4
    assert stops_at(EarlyStopping(patience=2, smoothing=0.8), noisy) is None
    rising = [1.0, 1.2, 0.9, 1.6, 2.0]  # or one resets the count, although the loss rises
    assert stops_at(EarlyStopping(patience=3), rising) is None
    assert stops_at(EarlyStopping(patience=3, smoothing=0.8), rising) == 3


@pytest.mark.parametrize("smoothing", [0.3, 0.9])
def test_the_moving_average_is_corrected_for_its_start(smoothing: float) -> None:
    values = [5.0, 3.0, math.nan, 4.0, 2.0, math.inf]
    stopping, model = EarlyStopping(patience=99, smoothing=smoothing), nn.Linear(1, 1)
    for count, value in enumerate(values, 1):
        stopping.update(value, model)
        seen = [one for one in values[:count] if math.isfinite(one)]
        shares = [smoothing ** (len(seen) - i) for i in range(1, len(seen) + 1)]
        mean = sum(share * one for share, one in zip(shares, seen, strict=True)) / sum(shares)
        assert stopping.average / stopping.weight == pytest.approx(mean)
        if count == 1:
            assert stopping.best == pytest.approx(mean)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_best_weights_come_back_also_after_a_resume(smoothing: float) -> None:
    model, stopping = nn.Linear(2, 2), EarlyStopping(patience=3, smoothing=smoothing)
    best = {}
    for value in (3.0, 1.0, 2.0):
        nn.init.normal_(model.weight)
        stopping.update(value, model)
        if value == 1.0:
            best = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    resumed = EarlyStopping(patience=3, smoothing=smoothing)
    resumed.restore(stopping.state())
    assert not resumed.update(1.5, model)
    assert resumed.update(1.5, model)
    resumed.restore_best(model)
    assert all(torch.equal(tensor, best[name]) for name, tensor in model.state_dict().items())


def test_a_resumed_average_is_that_of_one_training() -> None:
    values, model = [5.0, 4.0, 4.5, 3.0, 3.5], nn.Linear(1, 1)
    whole, first, second = (EarlyStopping(patience=9, smoothing=0.9) for _ in range(3))
    for value in values:
        whole.update(value, model)
    for value in values[:2]:
        first.update(value, model)
    second.restore(first.state())
    for value in values[2:]:
        second.update(value, model)
    assert (second.best, second.average, second.weight) == (whole.best, whole.average, whole.weight)
