"""The n-gram model beside language models: probabilities by its formula, that add up to one."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evo_tune.training.baselines import NGrams

TEXT = st.lists(st.integers(0, 4), min_size=5, max_size=60)


def by_the_formula(seen: list[int], vocab: int, context: tuple[int, ...], token: int) -> float:
    shorter = by_the_formula(seen, vocab, context[1:], token) if context else 1.0 / vocab
    size = len(context)
    after = Counter(seen[at + size] for at in range(len(seen) - size) if tuple(seen[at : at + size]) == context)
    if not after:
        return shorter
    return (after[token] + len(after) * shorter) / (sum(after.values()) + len(after))


@settings(max_examples=30, deadline=None)
@given(seen=TEXT, text=TEXT, vocab=st.sampled_from([256, 300]), order=st.integers(0, 3))
def test_probabilities_are_those_of_the_formula(seen: list[int], text: list[int], vocab: int, order: int) -> None:
    found = NGrams(np.array(seen), vocab, order).probabilities(np.array(text))
    expected = [
        by_the_formula(seen, vocab, tuple(text[max(0, at - order) : at]), text[at]) for at in range(1, len(text))
    ]
    assert found == pytest.approx(expected)


def test_they_add_up_to_one_and_a_repeated_text_is_nearly_certain() -> None:
    model = NGrams(np.tile(np.arange(7), 50), 256, 3)
    total = sum(model.probabilities(np.array([3, 4, 5, token]))[-1] for token in range(256))
    assert total == pytest.approx(1.0)
    assert model.probabilities(np.arange(7))[-1] > 0.95
