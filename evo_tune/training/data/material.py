"""A text as tensors: what a GPT is trained on, and what judges it."""

from __future__ import annotations

import torch
from torch import Tensor

from evo_tune.recipe.data.corpus import Corpus
from evo_tune.recipe.plan import Phase
from evo_tune.training.data.windows import TrainingWindows, fixed_windows, held_out_blocks
from evo_tune.training.hardware.device import MicroBatch


class TextMaterial:
    """What a GPT is trained on and judged by: the material of a `Reading`.

    Args:
        corpus: The text.
        count: Held-out bytes that are scored, about.
        seed: Of the order in which the text is read.
    """

    def __init__(self, corpus: Corpus, *, count: int, seed: int) -> None:
        self.corpus, self.count, self.seed = corpus, count, seed
        tokens = corpus.tokens
        # TrainingWindows indexes it: torch has no indexing of uint16.
        self.training = torch.from_numpy(tokens.copy() if corpus.vocab == 256 else tokens.astype("int32"))
        self.tokenizer = corpus.tokenizer
        _, self.held_out_text, self.test_text = corpus.split()

    def source(self, phase: Phase, micro_batch: int) -> TrainingWindows:
        """Return the batches of a phase, with so many windows in one pass."""
        return TrainingWindows(
            self.training,
            context=phase.config.context,
            batch=phase.per_step,
            total=phase.windows,
            seed=self.seed,
            micro_batch=micro_batch,
            first_step=phase.first_step,
            ramp=phase.ramp,
            first_window=phase.first_window,
        )

    def held_out(self, context: int, testing: bool = False) -> list[MicroBatch]:
        """Return blocks of the validation text, or of the test text, in windows of `context`.

        The text is the same whatever the context.
        """

        def encode(text: bytes) -> Tensor:
            return torch.from_numpy(self.tokenizer.encode(text).astype("int32"))

        text = self.test_text if testing else self.held_out_text
        return held_out_blocks(text, encode, context=context, count=self.count, block=self.corpus.block)

    def seen(self, context: int) -> MicroBatch:
        """Return fixed windows of the text that is trained on."""
        count = max(1, self.count // 4)
        return fixed_windows(self.training, context=context, count=count, block=self.corpus.block)

    def held_out_bytes(self, testing: bool = False) -> int:
        """Return the bytes in the held-out blocks: as many blocks for any context, each as long."""
        block = min(self.corpus.block, len(self.test_text if testing else self.held_out_text) - 1)
        return block * len(self.held_out(block, testing))
