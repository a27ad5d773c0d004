"""Documents in one sequence are kept apart: each is read as if it were alone."""

from __future__ import annotations

import pytest
import torch

from evo_tune.errors import RecipeError
from evo_tune.training import GPT
from evo_tune.training.models.block import document_mask
from evo_tune.training.recipe import GPTConfig

FIRST, SECOND = torch.randint(1, 256, (2, 7)), torch.randint(1, 256, (2, 24))


def model(boundary: int | None, **shape: object) -> GPT:
    plain = {"context": 64, "width": 32, "heads": 4, "depth": 3, "position": "rope"}
    return GPT(GPTConfig(**{**plain, **shape, "boundary": boundary}), seed=1).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("shape", [{}, {"window": 5}])
def test_a_document_is_read_as_if_it_were_alone(
    shape: dict[str, object], kv_heads: int, precision: torch.dtype
) -> None:
    joined = torch.cat((FIRST, torch.zeros(2, 1, dtype=torch.long), SECOND), 1)
    tolerance = 1e-5 if precision is torch.float32 else 3e-2
    with torch.no_grad(), torch.autocast("cpu", precision, enabled=precision is not torch.float32):
        apart, together = (model(boundary, kv_heads=kv_heads, **shape) for boundary in (0, None))
        alone = apart(SECOND)
        assert torch.allclose(apart(joined)[:, 8:], alone, atol=tolerance)
        assert torch.allclose(apart(joined)[:, :7], apart(FIRST), atol=tolerance)
        assert not torch.allclose(together(joined)[:, 8:], alone, atol=tolerance)
        assert torch.allclose(together(SECOND), alone, atol=tolerance), "one document is read as without boundaries"


def test_a_boundary_belongs_to_the_document_that_it_ends() -> None:
    mask = document_mask(torch.tensor([[5, 0, 7, 8, 0]]), 0, 2)[0, 0]
    assert mask.int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 0, 1, 1],
    ]


def test_a_boundary_is_a_token() -> None:
    with pytest.raises(RecipeError, match="boundary=256"):
        model(256)
