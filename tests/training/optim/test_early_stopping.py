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


def test_the_best_weights_come_back_also_after_a_resume() -> None:
    model, stopping = nn.Linear(2, 2), EarlyStopping(patience=3)
    best = {}
    for value in (3.0, 1.0, 2.0):
        nn.init.normal_(model.weight)
        stopping.update(value, model)
        if value == 1.0:
            best = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    resumed = EarlyStopping(patience=3)
    resumed.restore(stopping.state())
    assert not resumed.update(1.5, model)
    assert resumed.update(1.5, model)
    resumed.restore_best(model)
    assert all(torch.equal(tensor, best[name]) for name, tensor in model.state_dict().items())
