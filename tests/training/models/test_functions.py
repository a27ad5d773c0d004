"""RMSNorm against torch's function and its closed form, with gradients."""

import pytest
import torch
import torch.nn.functional as F

from evo_tune.training.models.block import RMSNorm


def norm_of(width: int, eps: float | None, dtype: torch.dtype) -> RMSNorm:
    norm = RMSNorm(width, eps=eps).to(dtype)
    with torch.no_grad():
        norm.weight.normal_(1.0, 0.5, generator=torch.Generator().manual_seed(1))
    return norm


@pytest.mark.parametrize("eps", [None, 1e-5, 0.1])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-13), (torch.bfloat16, 0.0)])
@pytest.mark.parametrize("shape", [(8,), (3, 8), (2, 3, 5, 8)])
def test_an_rms_norm_equals_torch_s(shape: tuple[int, ...], dtype: torch.dtype, tolerance: float, eps: float) -> None:
    norm = norm_of(8, eps, dtype)
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=rng).to(dtype).requires_grad_()
    slope = torch.randn(shape, generator=rng).to(dtype)
    found = norm(x)
    expected = F.rms_norm(x, (8,), norm.weight, eps)
    assert torch.allclose(found, expected, rtol=0, atol=tolerance)
    mine, theirs = (torch.autograd.grad(y, (x, norm.weight), slope) for y in (found, expected))
    assert all(torch.allclose(a, b, rtol=0, atol=tolerance) for a, b in zip(mine, theirs, strict=True))


def test_an_rms_norm_accepts_views_and_has_the_right_gradient() -> None:
    norm = norm_of(6, 1e-3, torch.float64)
    whole = torch.randn(2, 4, 3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    view = whole[:, :, 1:].transpose(1, 2).requires_grad_()
    assert torch.autograd.gradcheck(norm, (view,))
