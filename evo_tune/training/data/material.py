"""A text as tensors: what a GPT is trained on, and what judges it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from evo_tune.recipe.data.corpus import Corpus
from evo_tune.recipe.plan import Phase
from evo_tune.training.data.windows import TrainingWindows, fixed_windows, held_out_blocks
from evo_tune.training.hardware.device import MicroBatch

__all__ = ["TextMaterial"]


class TextMaterial:
    """What a GPT is trained on and judged by: a `Course`'s material.

    Args:
        corpus: The text.
        count: Held-out bytes that are scored, about.
        seed: Of the order in which the text is read.
        micro_batch: Windows in one pass of a phase.
    """

    def __init__(self, corpus: Corpus, *, count: int, seed: int, micro_batch: Callable[[Phase], int]) -> None:
        self.corpus, self.count, self.seed, self.micro_batch = corpus, count, seed, micro_batch
        tokens = corpus.tokens
        # TrainingWindows indexes it: torch has no indexing of uint16.
        self.training = torch.from_numpy(tokens.copy() if corpus.vocab == 256 else tokens.astype("int32"))
        self.tokenizer = corpus.tokenizer
        _, self.held_out_text, self.test_text = corpus.split()

    def source(self, phase: Phase) -> TrainingWindows:
        """Return the batches of a phase."""
        return TrainingWindows(
            self.training,
            context=phase.config.context,
            batch=phase.per_step,
            total=phase.windows,
            seed=self.seed,
            micro_batch=self.micro_batch(phase),
            first_step=phase.first_step,
            ramp=phase.ramp,
            first_window=phase.first_window,
        )

    def held_out(self, context: int) -> list[MicroBatch]:
        """Return blocks of the validation text in windows of `context`; the same text whatever the context."""

        def encode(text: bytes) -> Tensor:
            return torch.from_numpy(self.tokenizer.encode(text).astype("int32"))

        return held_out_blocks(self.held_out_text, encode, context=context, count=self.count, block=self.corpus.block)

    def tested(self) -> TextMaterial:
        """Return the same, with the test text in the place of the validation text."""
        made = copy.copy(self)
        made.held_out_text = self.test_text
        return made

    def seen(self, context: int) -> MicroBatch:
        """Return fixed windows of the text that is trained on."""
        count = max(1, self.count // 4)
        return fixed_windows(self.training, context=context, count=count, block=self.corpus.block)

    @property
    def held_out_bytes(self) -> int:
        """Bytes in the held-out blocks: as many blocks for any context, each as long."""
        block = min(self.corpus.block, len(self.held_out_text) - 1)
        return block * len(self.held_out(block))
