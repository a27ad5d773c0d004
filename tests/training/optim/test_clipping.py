import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evo_tune.training import clip
from evo_tune.training.optim.gradient import gradient_norm


def parameters(scale: float) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    made = [torch.zeros(shape, requires_grad=True) for shape in ((3, 4), (5,), (2, 2, 2), (1,))]
    for parameter in made[:-1]:  # the last has no gradient
        parameter.grad = scale * torch.randn(parameter.shape, generator=rng)
    return made


@given(given_scale=st.floats(1e-3, 1e3), limit=st.floats(1e-2, 1e2))
def test_the_norm_becomes_the_smaller_of_itself_and_the_limit(given_scale: float, limit: float) -> None:
    mine, torchs = parameters(given_scale), parameters(given_scale)
    norm = float(gradient_norm(mine))
    assert norm == pytest.approx(float(torch.nn.utils.clip_grad_norm_(torchs, limit)), rel=1e-5)
    scale = clip(mine, norm, limit)
    assert float(gradient_norm(mine)) == pytest.approx(min(norm, limit), rel=1e-4)
    assert scale == min(1.0, limit / (norm + 1e-6))
    unseen = parameters(given_scale)
    assert scale == clip(unseen, gradient_norm(unseen).double(), limit)
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(mine[:-1], unseen[:-1], strict=True))  # type: ignore[arg-type]
    for given_, expected in zip(mine[:-1], torchs[:-1], strict=True):
        assert given_.grad is not None
        assert expected.grad is not None
        assert torch.allclose(given_.grad, expected.grad, rtol=1e-5)


@pytest.mark.parametrize("limit", [None, math.inf])
def test_no_limit_leaves_the_bits(limit: float | None) -> None:
    mine, before = parameters(5.0), parameters(5.0)
    assert clip(mine, float(gradient_norm(mine)), limit) == 1.0
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(mine[:-1], before[:-1], strict=True))  # type: ignore[arg-type]


def test_nothing_to_clip_has_norm_zero() -> None:
    assert float(gradient_norm([torch.zeros(2, requires_grad=True)])) == 0.0
