"""A text in the tokens of a base, as it is tuned to: what is trained on, and the windows that judge."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from torch import Tensor

from evo_tune.recipe.models.base import Base, read_base
from evo_tune.recipe.tuning import read_tuning_text
from evo_tune.training.batch import MicroBatch
from evo_tune.training.data.windows import fixed_windows
from evo_tune.training.tuning.pretrained import encode

__all__ = ["TuningText", "tuning_text"]


@dataclass(frozen=True)
class TuningText:
    """A text in a base's tokens.

    Args:
        training: (n,), to train on.
        held_out: (m,), to judge by.
        test: (k,), to test with.
        tokens_per_byte: Of the held-out part.
        test_tokens_per_byte: Of the part to test with.
        context: Tokens in a window.
        scored: Held-out tokens that are scored at the end.
    """

    training: Tensor
    held_out: Tensor
    test: Tensor
    tokens_per_byte: float
    test_tokens_per_byte: float
    context: int
    scored: int

    def to_judge(self) -> MicroBatch:
        """Return the windows that judge every training."""
        return fixed_windows(self.held_out, context=self.context, count=self.scored, block=self.context)

    def tested(self) -> TuningText:
        """Return the same text, with the part to test with as the held-out one."""
        return replace(self, held_out=self.test, tokens_per_byte=self.test_tokens_per_byte)

    def seen(self) -> MicroBatch:
        """Return fixed windows of the text that is trained on."""
        count = max(1, self.scored // 4)
        return fixed_windows(self.training, context=self.context, count=count, block=self.context)


def tuning_text(base: Base, data: str, context: int, scored: int) -> TuningText:
    """Return a text as it is tuned to.

    Args:
        base: Gives the tokens.
        data: File, folder or glob; empty: a part of Python's own documentation.
        context: Tokens in a window.
        scored: Held-out tokens that are scored at the end.

    Raises:
        OptionError: It is too short.
        RecipeError: It is missing or unreadable.
    """
    return TuningText(*_tokens(base.folder, base.sha256(), data, context), context, scored)


@lru_cache(maxsize=1)  # a worker trains on the same text again and again
def _tokens(folder: Path, sha256: str, data: str, context: int) -> tuple[Tensor, Tensor, Tensor, float, float]:
    """Return the tokens of all three parts, and the tokens in a byte of the second and the third."""
    del sha256  # of the base, so that another one at the same place is not taken for it
    training, held_out, test = read_tuning_text(data, context)
    base = read_base(folder)
    tokens = [encode(base, part) for part in (training, held_out, test)]
    return tokens[0], tokens[1], tokens[2], len(tokens[1]) / len(held_out), len(tokens[2]) / len(test)
