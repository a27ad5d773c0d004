"""Laws of learning rate and batch: anchors from the papers, and what lies outside."""

from __future__ import annotations

import pytest

from evo_tune.training.recipe.transferring import TrainingSize
from evo_tune.training.scale.laws import LAWS, compute_optimal_tokens


def size(**fields: float) -> TrainingSize:
    rest = {"heads": 1, "parameters": 1, "batch": 2**19, "steps": 1, "lr": 1.0, "lr_hidden": 1.0}
    return TrainingSize(**{**rest, **fields})  # type: ignore[arg-type]


BILLION = size(width=2048, depth=16, context=2048, without_embeddings=1e9, tokens=1e11, flops=6e20)

BY_NAME = {law.name: law for law in LAWS}


def said(name: str, scale: TrainingSize) -> tuple[float, float | None]:
    law = BY_NAME[name]
    return law.lr_or_factor(scale), law.batch and law.batch(scale)


def test_step_law_says_what_its_paper_says() -> None:
    lr, batch = said("Step Law", BILLION)
    assert lr == pytest.approx(1.63e-3, rel=0.01)
    assert batch == pytest.approx(1.11e6, rel=0.01)


@pytest.mark.parametrize(("depth", "width", "lr", "sequences"), [(30, 4096, 4.25e-4, 2252), (95, 8192, 3.12e-4, 5043)])
def test_deepseek_says_what_its_models_were_trained_with(depth: int, width: int, lr: float, sequences: int) -> None:
    scale = size(width=width, depth=depth, context=4096, without_embeddings=7e9, tokens=2e12, flops=8e22)
    found, batch = said("DeepSeek LLM", scale)
    assert found == pytest.approx(lr, rel=0.01)
    assert batch is not None
    assert batch / 4096 == pytest.approx(sequences, rel=0.01)


def test_what_lies_outside_of_a_fit_is_told() -> None:
    small = size(width=64, depth=2, context=128, without_embeddings=1e5, tokens=4e5, flops=1.5e11)
    assert "without_embeddings 1e+05 is below" in BY_NAME["Step Law"].describe_out_of_range(small)
    assert "flops 1.5e+11 is below" in BY_NAME["DeepSeek LLM"].describe_out_of_range(small)
    assert BY_NAME["Step Law"].describe_out_of_range(BILLION) == ""


def test_every_law_names_its_source_and_its_range() -> None:
    assert all(law.source and law.ranges for law in LAWS)
    assert compute_optimal_tokens(1e9) == 2e10
