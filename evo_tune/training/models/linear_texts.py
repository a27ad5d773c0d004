"""A linear classifier of texts by their terms: n-grams of words, and of characters inside words.

The weight of a term in a text is (1 + ln n) idf, where n is how often the text has it. Of N training texts, d have the
term; then idf = 1 + ln((1 + N) / (1 + d)). The weights of a text's word terms have the norm 1, and those of
its character terms too (Salton & Buckley 1988). A term is known by a hash of 63 bits, so the model has no texts.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from evo_tune.training.models.linear import descend, fit_loss
from evo_tune.training.models.model_files import FitRows, FittedModel, Floats
from evo_tune.training.recipe.data.labelled_texts import SPACE
from evo_tune.training.recipe.families import LinearTextConfig

# Odd factor of the hash of a term (Knuth's, of 64 bits).
FACTOR = 6364136223846793005

# Texts whose terms are looked up at once, and n-grams that are counted to choose the terms; of more texts, a sample is.
PASS, MOST_COUNTED = 256, 1 << 27

# Share of the loss by which a step must lower it: on docstrings, half of all steps lower it by less.
TOLERANCE = 1e-3


class Terms(NamedTuple):
    """The terms of some texts, by text and by term.

    Args:
        text: (entries,), place of the text.
        term: (entries,), place of the term.
        weight: (entries,), weight of the term in the text.
    """

    text: Tensor
    term: Tensor
    weight: Tensor


class LinearTextClassifier(FittedModel):
    """A linear classifier of texts; see `FittedModel` for the arguments."""

    config_class = LinearTextConfig
    fitted = ("weight", "bias")
    config: LinearTextConfig
    terms: Tensor
    idf: Tensor
    weight: Tensor
    bias: Tensor

    def build(self, config: LinearTextConfig) -> None:
        # Hashes of the terms, ascending; the last bit says whether it is a term of characters.
        self.register_buffer("terms", torch.zeros(config.terms, dtype=torch.int64))
        self.register_buffer("idf", torch.zeros(config.terms))
        self.register_buffer("weight", torch.zeros(config.terms, config.scores))
        self.register_buffer("bias", torch.zeros(config.scores))

    def forward(self, pieces: Tensor) -> Tensor:
        """Return logits, (batch, classes), of texts as `encode_pieces` gives them, (batch, pieces)."""
        terms = self._weigh(pieces)
        starts = torch.searchsorted(terms.text, torch.arange(len(pieces), device=pieces.device))
        sums = F.embedding_bag(terms.term, self.weight, starts, mode="sum", per_sample_weights=terms.weight)
        return self.outputs(sums + self.bias)

    def fit(self, rows: FitRows, genome: Mapping[str, Any], steps: int, seed: int) -> Iterator[Floats]:
        inputs, held_out = torch.from_numpy(rows.inputs), torch.from_numpy(rows.held_out)
        self._choose_terms(inputs)
        features, held_out_features = self._matrix(inputs), self._matrix(held_out)
        targets, weights = torch.from_numpy(rows.targets), torch.from_numpy(rows.weights).float()
        # The sum of the losses has the factor C in scikit-learn's objective, so their mean has C n.
        l2 = 1.0 / (genome["C"] * len(inputs))

        multiply: Any = _Product.apply  # untyped

        def loss() -> Tensor:
            outputs = self.outputs(multiply(self.weight, features) + self.bias)
            total: Tensor = fit_loss(outputs, targets, weights) + l2 / 2 * (self.weight**2).sum()
            return total

        for _ in descend([self.weight, self.bias], loss, steps, history=10, tolerance=TOLERANCE):
            scores = torch.from_numpy(held_out_features @ self.weight.detach().numpy()) + self.bias.detach()
            yield self.outputs(scores).double().numpy()

    def _ngrams(self, pieces: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the hashes of the n-grams of texts for each n, (batch, places), and which of them are terms."""
        pieces = pieces[:, : max(1, int((pieces != 0).sum(1).max()))].long()
        words, characters = pieces < 0, pieces > 0
        hashes, inside = torch.zeros_like(pieces), torch.ones_like(words)
        for n in range(1, 1 + max(self.config.word_ngrams, self.config.character_ngrams)):
            count = pieces.shape[1] - n + 1
            if count < 1:
                return
            last = pieces[:, n - 1 :]
            hashes = (hashes[:, :count] + last) * FACTOR
            words, characters = words[:, :count] & (last < 0), characters[:, :count] & (last > 0)
            inside = inside[:, :count]
            if n > 2:  # a space is only at the ends
                inside = inside & (pieces[:, n - 2 : -1] != SPACE)
            is_term = words if n <= self.config.word_ngrams else torch.zeros_like(words)
            if 2 <= n <= self.config.character_ngrams:
                is_term = is_term | (characters & inside)
            yield (hashes & ~1) | characters, is_term

    def _choose_terms(self, pieces: Tensor) -> None:
        """Make the buffers for the terms that most training texts have."""
        count = int((pieces != 0).sum()) * self.config.orders  # without padding, whose width is that of all parts
        sample, hashes_of_texts = pieces[:: -(-count // MOST_COUNTED)], []
        for part in torch.split(sample, PASS):
            for hashes, is_term in self._ngrams(part):
                distinct, numbers = torch.unique(hashes[is_term], return_inverse=True)
                entries = is_term.nonzero()[:, 0] * len(distinct) + numbers
                hashes_of_texts.append(distinct[torch.unique(entries) % max(1, len(distinct))])
        terms, counts = torch.unique(torch.cat(hashes_of_texts), return_counts=True)
        if len(terms) > self.config.most_terms:
            chosen = counts.sort(descending=True, stable=True).indices[: self.config.most_terms].sort().values
            terms, counts = terms[chosen], counts[chosen]
        self.config = replace(self.config, terms=len(terms))
        self.build(self.config)
        self.terms.copy_(terms)
        self.idf.copy_(1.0 + torch.log((1.0 + len(sample)) / (1.0 + counts)))

    def _weigh(self, pieces: Tensor) -> Terms:
        """Return the terms of texts."""
        count, entries_of_lengths = max(1, len(self.terms)), []
        for hashes, is_term in self._ngrams(pieces) if len(pieces) and len(self.terms) else ():
            places = torch.searchsorted(self.terms, hashes).clamp(max=count - 1)
            text, place = (is_term & (self.terms[places] == hashes)).nonzero(as_tuple=True)
            entries_of_lengths.append(text * count + places[text, place])
        entries = torch.cat([pieces.new_zeros(0, dtype=torch.int64), *entries_of_lengths])
        entries, numbers = torch.unique(entries, return_counts=True)
        text, term = entries // count, entries % count
        weight = (1.0 + numbers.float().log()) * self.idf[term]
        block = 2 * text + self.terms[term] % 2
        squares = torch.zeros(2 * len(pieces), device=pieces.device).index_add_(0, block, weight**2)
        return Terms(text, term, weight / squares[block].sqrt())

    def _matrix(self, pieces: Tensor) -> Any:
        """Return the weights of the terms of texts, a sparse matrix of scipy's, (texts, terms)."""
        from scipy.sparse import csr_matrix, vstack

        matrices = []
        for part in torch.split(pieces, PASS):
            terms = self._weigh(part)
            entries = terms.weight.numpy(), (terms.text.numpy(), terms.term.numpy())
            matrices.append(csr_matrix(entries, shape=(len(part), self.config.terms), dtype=np.float32))
        return vstack(matrices, format="csr")


class _Product(torch.autograd.Function):
    """Product of a sparse matrix of scipy's with weights: torch's takes five times as long."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, matrix: Any) -> Tensor:
        ctx.matrix = matrix
        return torch.from_numpy(matrix @ weight.detach().numpy())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return torch.from_numpy(ctx.matrix.T @ gradient.numpy()), None
