"""Windows of a tokenized text: shuffled for training, fixed for evaluation.

The training order is a pure function of (seed, epoch), and a batch of (seed, step), so there is no
position to save. This module is independent of models.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from evo_tune.errors import RecipeError
from evo_tune.options.bounds import check_integer
from evo_tune.training.hardware.device import IGNORE, MicroBatch, onto, seed_for
from evo_tune.training.recipe.data.corpus import Corpus
from evo_tune.training.recipe.optim.schedule import BatchRamp, divide_into_steps
from evo_tune.training.recipe.plan import Phase


def rows_at(tokens: Tensor, starts: Tensor, columns: Tensor) -> Tensor:
    """Return the tokens at each start plus each column, (starts, columns), int64.

    Tokens of type int16 have the bits of uint16, for which torch lacks some kinds of indexing.
    """
    rows = tokens[starts[:, None] + columns].long()
    return rows & 0xFFFF if tokens.dtype == torch.int16 else rows


class TrainingWindows:
    """The batches of a training: each epoch visits the whole text once, in a different order.

    An epoch cuts the text into windows of `context` tokens (each with the token that follows) from a
    random offset, and shuffles them.

    Args:
        tokens: Tokens of the text, (n,), of any integer type, on the CPU; int16 has the bits of uint16.
        context: Tokens in a window.
        batch: Windows in a step.
        total: Windows in the full training; the last step takes the rest.
        seed: Seed of the order.
        micro_batch: Windows in a micro-batch; None: the whole step.
        first_step: Number of the first step, after those of earlier phases (see `extend_trainer`).
        ramp: Growth of the batch to its size; None: full size from the start.

    Raises:
        RecipeError: A number is out of its range, or the text is shorter than one window.
    """

    def __init__(
        self,
        tokens: Tensor,
        *,
        context: int,
        batch: int,
        total: int,
        seed: int,
        micro_batch: int | None = None,
        first_step: int = 0,
        ramp: BatchRamp | None = None,
    ) -> None:
        check_integer("context", context, 1)
        check_integer("batch", batch, 1)
        check_integer("total", total, 1)
        if micro_batch is not None:
            check_integer("micro_batch", micro_batch, 1)
        check_integer("first_step", first_step, 0)
        if len(tokens) < context + 1:
            raise RecipeError("context", context, f"less than the {len(tokens)} tokens of the text")
        self.tokens = tokens
        self.context = context
        self.batch = batch
        self.total = total
        self.seed = seed
        self.first_step = first_step
        self.micro_batch = micro_batch or batch
        self._bounds = divide_into_steps(total, batch, ramp)
        self.epoch_windows = (len(tokens) - 1) // context
        if self.epoch_windows > 1:
            self.epoch_windows -= 1  # room for the offset
        self._columns = torch.arange(context + 1)
        self._epoch: tuple[int, Tensor] = (-1, self._columns)

    @property
    def steps(self) -> int:
        """Number of steps in these windows."""
        return len(self._bounds)

    def window(self, step: int) -> list[MicroBatch]:
        """Return the micro-batches of a step (from first_step on): inputs and targets, both (windows, context), int64.

        Raises:
            RecipeError: The step is outside the full training.
        """
        check_integer("step", step, self.first_step, self.first_step + self.steps - 1)
        first, last = self._bounds[step - self.first_step]
        starts = self._starts(first, last)
        starts = onto(starts, self.tokens.device)
        rows = rows_at(self.tokens, starts, self._columns)
        return [(rows[:, :-1], rows[:, 1:]) for rows in torch.split(rows, self.micro_batch)]

    def target_count(self, step: int) -> int:
        """Return the number of targets of a step, which all count."""
        first, last = self._bounds[step - self.first_step]
        return (last - first) * self.context

    @property
    def nbytes(self) -> int:
        """Bytes of the text."""
        return self.tokens.nbytes

    def move_to(self, device: torch.device) -> None:
        """Move the text to a device, where batches are then cut."""
        self.tokens, self._columns = self.tokens.to(device), self._columns.to(device)

    def _starts(self, first: int, last: int) -> Tensor:
        """Return the start positions in the text of the training's windows `first` to `last` − 1."""
        pieces = []
        while first < last:
            epoch, place = divmod(first, self.epoch_windows)
            count = min(last - first, self.epoch_windows - place)
            pieces.append(self._order(epoch)[place : place + count])
            first += count
        return torch.cat(pieces)

    def _order(self, epoch: int) -> Tensor:
        if self._epoch[0] != epoch:  # only a cache: drawn again, it would be the same
            rng = np.random.default_rng(seed_for(self.seed, "order", epoch))
            spare = len(self.tokens) - 1 - self.epoch_windows * self.context
            offset = int(rng.integers(0, min(spare, self.context - 1) + 1))
            starts = rng.permutation(self.epoch_windows) * self.context + offset
            self._epoch = (epoch, torch.from_numpy(starts))
        return self._epoch[1]


def evaluation_windows(tokens: Tensor, *, context: int, count: int, block: int = 1024) -> MicroBatch:
    """Cut evenly spaced blocks out of a text, to be scored in windows of `context` tokens.

    The scored tokens depend only on the text, `count` and `block`, not on `context`, so models with
    different contexts are evaluated on the same tokens.

    Args:
        tokens: Tokens of a held-out text, (n,), of any integer type, on the CPU.
        context: Tokens in a window.
        count: Approximate number of tokens to score: whole blocks, at least one, at most the text.
        block: Tokens in a block.

    Returns:
        Inputs and targets, both (windows, min(context, block)), int64; windows at the end of a block
        are padded with zeros as inputs and IGNORE as targets.

    Raises:
        RecipeError: A number is out of its range, or the text has fewer than two tokens.
    """
    for name, value in (("context", context), ("count", count), ("block", block)):
        check_integer(name, value, 1)
    if len(tokens) < 2:
        raise RecipeError("tokens", len(tokens), "a text of two tokens or more")
    starts = torch.tensor(_block_starts(len(tokens), count, block))
    block = min(block, len(tokens) - 1)
    rows = rows_at(tokens, starts, torch.arange(block + 1))
    context = min(context, block)
    missing = -block % context
    inputs = torch.nn.functional.pad(rows[:, :-1], (0, missing))
    targets = torch.nn.functional.pad(rows[:, 1:], (0, missing), value=IGNORE)
    return inputs.reshape(-1, context), targets.reshape(-1, context)


def evaluation_blocks(
    text: bytes | memoryview, encode: Callable[[bytes], Tensor], *, context: int, count: int, block: int
) -> list[MicroBatch]:
    """Cut evenly spaced blocks of bytes out of a text, to be scored in windows of `context` tokens.

    The scored bytes depend only on the text, `count` and `block`, so models with different contexts or tokens are
    evaluated on the same bytes. With bytes as tokens the result is that of `evaluation_windows`.

    Args:
        text: A held-out text.
        encode: Function that returns the tokens of a text, (n,), of any integer type.
        context: Tokens in a window.
        count: Approximate number of bytes to score: whole blocks, at least one, at most the text.
        block: Bytes in a block.

    Returns:
        Inputs and targets of each block, both (windows, context), int64; the last window is padded with zeros as
        inputs and IGNORE as targets. The byte before a block is its first input.

    Raises:
        RecipeError: A number is out of its range, or the text has fewer than two bytes.
    """
    for name, value in (("context", context), ("count", count), ("block", block)):
        check_integer(name, value, 1)
    if len(text) < 2:
        raise RecipeError("length of text", len(text), "two bytes or more")
    blocks = []
    for start in _block_starts(len(text), count, block):
        piece = bytes(text[start : start + block + 1])
        tokens = torch.cat([encode(piece[:1]), encode(piece[1:])]).long()
        missing = -(len(tokens) - 1) % context
        inputs = torch.nn.functional.pad(tokens[:-1], (0, missing))
        targets = torch.nn.functional.pad(tokens[1:], (0, missing), value=IGNORE)
        blocks.append((inputs.reshape(-1, context), targets.reshape(-1, context)))
    return blocks


def _block_starts(length: int, count: int, block: int) -> list[int]:
    """Return the start positions of evenly spaced blocks in a text of `length`."""
    block = min(block, length - 1)
    blocks = max(1, min(round(count / block), (length - 1) // block))
    starts: list[int] = torch.linspace(0, length - 1 - block, blocks, dtype=torch.float64).long().tolist()
    return starts


class TextMaterial:
    """Training and evaluation data of a GPT, the material of a `LanguageTraining`.

    Args:
        corpus: The text.
        count: Approximate number of held-out bytes to score.
        seed: Seed of the training order.
    """

    def __init__(self, corpus: Corpus, *, count: int, seed: int) -> None:
        self.corpus, self.count, self.seed = corpus, count, seed
        text = corpus.prepared
        tokens = text.training if corpus.vocab == 256 else text.training.view(np.int16)
        self.training = torch.from_numpy(tokens)  # not a copy: all workers map the same file
        self.tokenizer, self.held_out_text, self.test_text = text.tokenizer, text.validation, text.test

    def source(self, phase: Phase, micro_batch: int) -> TrainingWindows:
        """Return the batches of a phase, with `micro_batch` windows in one pass."""
        return TrainingWindows(
            self.training,
            context=phase.config.context,
            batch=phase.per_step,
            total=phase.windows,
            seed=self.seed,
            micro_batch=micro_batch,
            first_step=phase.first_step,
            ramp=phase.ramp,
        )

    def held_out(self, context: int, testing: bool = False) -> list[MicroBatch]:
        """Return blocks of the validation text, or of the test text, in windows of `context`.

        The text is the same for any context.
        """

        def encode(text: bytes) -> Tensor:
            return torch.from_numpy(self.tokenizer.encode(text).astype("int32"))

        text = self.test_text if testing else self.held_out_text
        return evaluation_blocks(text, encode, context=context, count=self.count, block=self.corpus.block)

    def training_windows(self, context: int) -> MicroBatch:
        """Return fixed windows of the training text."""
        count = max(1, self.count // 4)
        return evaluation_windows(self.training, context=context, count=count, block=self.corpus.block)

    def held_out_bytes(self, testing: bool = False) -> int:
        """Return the number of bytes in the held-out blocks, which is the same for any context."""
        block = min(self.corpus.block, len(self.test_text if testing else self.held_out_text) - 1)
        return block * len(self.held_out(block, testing))
