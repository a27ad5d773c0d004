"""The linear model of texts as numbers: its genes, its shape, and the work of a step.

This module knows no texts: it gets their number of characters.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from evo_tune.genome.genes import Choice, Float, Gene
from evo_tune.options.declare import option
from evo_tune.training.recipe.families import LBFGS_ITERATIONS, LINEAR, FittedConfig

# Most characters of a text that are read, terms of a model, and weights.
MOST_CHARACTERS, MOST_TERMS, MOST_WEIGHTS = 4000, 1 << 18, 1 << 24

TEXT_RIVALS: dict[str, dict[str, Gene]] = {
    LINEAR: {
        "C": Float(0.1, 1000.0, log=True, default=30.0),
        "word_ngrams": Choice((1, 2, 3), ordered=True, default=2),
        "character_ngrams": Choice((0, 3, 4, 5, 6), ordered=True, default=5),
    }
}


@dataclass(frozen=True, kw_only=True)
class LinearTextConfig(FittedConfig):
    """Shape of a linear model of texts.

    Args:
        word_ngrams: Most words of a term.
        character_ngrams: Most characters of a term inside a word; 0: terms are of words only.
        length: Most characters of a text that are read.
        terms: Number of terms.
    """

    family = LINEAR
    word_ngrams: int = option(bounds="[1, 10]")
    character_ngrams: int = option(bounds="[0, 10]")
    length: int = option(MOST_CHARACTERS, bounds="[1, 1000000]")
    terms: int = option(0, bounds="[0, inf)")

    @property
    def most_terms(self) -> int:
        """Most terms of a model."""
        return min(MOST_TERMS, MOST_WEIGHTS // self.scores)

    @property
    def orders(self) -> int:
        """Number of lengths of terms."""
        return self.word_ngrams + max(0, self.character_ngrams - 1)

    @property
    def parameters(self) -> int:
        return self.terms * (2 + self.scores) + self.scores

    @property
    def row_bytes(self) -> int:
        # Hashes, masks and places of a text's words and characters, and the terms of all lengths.
        return 2 * (self.length + 1) * (64 + 32 * self.orders)

    def step_work(self, genome: Mapping[str, Any], rows: int, judged: int) -> dict[str, float]:
        """Return the work of a step, some L-BFGS iterations.

        Args:
            genome: Gene values.
            rows: Number of characters of the training texts.
            judged: Not used.
        """
        entries = rows * (max(0, self.character_ngrams - 1) + self.word_ngrams / 5)  # a word has some 5 characters
        return {"iterations": 1.0, "entries": float(LBFGS_ITERATIONS * entries * self.scores)}

    def largest_shape(self, genome: Mapping[str, Any], steps: int) -> "LinearTextConfig":
        return replace(self, terms=self.most_terms)
