"""An n-gram model of tokens, which language models are compared with: interpolated counts, by Witten and Bell."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from evo_tune.training.data.batches import TextMaterial
from evo_tune.training.hardware.device import IGNORE

MOST_TOKENS = 4_000_000
"""Last tokens of a text that are counted, which takes some seconds."""


class NGrams:
    """Probabilities of tokens after up to `order` others.

    p(c | h) = (n(hc) + T(h) p(c | h')) / (n(h) + T(h)), where n counts, T(h) is the number of different tokens after h,
    and h' is h without its first token (Witten & Bell 1991). Before any token p is uniform.

    Args:
        tokens: (n,), at least order + 1 tokens.
        vocab: Number of different tokens: 256, or up to 65536.
        order: Longest context (int ≥ 0).
    """

    def __init__(self, tokens: NDArray[np.integer], vocab: int, order: int) -> None:
        self.vocab, self.bits = vocab, np.uint64(8 if vocab <= 256 else 16)
        self.tables = []
        for length in range(order + 1):
            keys, counts = np.unique(self._packed(tokens, length), return_counts=True)
            heads, first = np.unique(keys >> self.bits, return_index=True)
            kinds = np.diff(np.append(first, len(keys)))
            self.tables.append((keys, counts, heads, np.add.reduceat(counts, first), kinds))

    def _packed(self, tokens: NDArray[np.integer], length: int) -> NDArray[np.uint64]:
        """Return each token with the `length` tokens before it as one number."""
        wide, count = tokens.astype(np.uint64), len(tokens) - length
        found = np.zeros(max(0, count), np.uint64)
        for place in range(length + 1):
            found = (found << self.bits) | wide[place : place + count]
        return found

    def probabilities(self, tokens: NDArray[np.integer]) -> NDArray[np.float64]:
        """Return the probability of each token but the first, given those before it, (n − 1,)."""
        found = np.full(len(tokens) - 1, 1.0 / self.vocab)
        for length, (keys, counts, heads, totals, kinds) in enumerate(self.tables):
            asked = self._packed(tokens, length)[1 if length == 0 else 0 :]
            mine = found[max(0, length - 1) :]
            seen = _looked_up(keys, counts, asked)
            total, kind = (_looked_up(heads, values, asked >> self.bits) for values in (totals, kinds))
            mine[:] = np.where(total > 0, (seen + kind * mine) / np.maximum(total + kind, 1), mine)
        return found


def _looked_up(keys: NDArray[np.uint64], values: NDArray[np.integer], asked: NDArray[np.uint64]) -> NDArray[np.integer]:
    """Return the value of each asked key among sorted ones; 0 for an unknown one."""
    places = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
    known: NDArray[np.integer] = np.where(keys[places] == asked, values[places], 0)
    return known


def ngram_baseline(material: TextMaterial, longest: int) -> dict[str, float]:
    """Return the metrics of an n-gram model on the text that language models are judged by.

    Bytes have contexts of up to 5, byte pairs of up to 2 tokens.

    Args:
        material: The text.
        longest: Longest window of the models, in tokens.
    """
    vocab = material.corpus.vocab
    tokens = material.training.numpy()[-MOST_TOKENS:]
    model = NGrams(tokens if vocab == 256 else tokens.view(np.uint16), vocab, 5 if vocab == 256 else 2)
    found = {}
    for part, testing in (("val", False), ("test", True)):
        nats, count = 0.0, 0
        for inputs, targets in material.held_out(longest, testing):
            aims = targets.flatten().numpy()
            text = np.concatenate([inputs.flatten().numpy()[:1], aims[aims != IGNORE]])
            nats -= float(np.log(model.probabilities(text)).sum())
            count += len(text) - 1
        found[f"{part}_loss"] = nats / count
        found[f"{part}_bpb"] = nats / math.log(2.0) / material.held_out_bytes(testing)
    return found
