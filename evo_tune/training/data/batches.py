"""Batches of samples and of a tokenized text, epoch by epoch, and the fixed windows of an evaluation.

The order of a training is a pure function of (seed, epoch), a batch with its augmentation and mixup of (seed, step). So
there is no position to save. This module is independent of models.
"""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from evo_tune.errors import RecipeError
from evo_tune.options.declare import check_integer, check_number
from evo_tune.training.hardware.device import IGNORE, MicroBatch, onto, seed_for
from evo_tune.training.recipe.data.corpus import Corpus
from evo_tune.training.recipe.data.images import Augmentation
from evo_tune.training.recipe.optim.schedule import BatchRamp, divide_into_steps, optimizer_steps
from evo_tune.training.recipe.plan import Phase


def augment_images(images: Tensor, augment: Augmentation, seed: int) -> Tensor:
    """Return augmented images.

    Args:
        images: (n, channels, height, width), pixel values; 8-bit integers for RandAugment.
        augment: Augmentation to apply.
        seed: Seed of the augmentation.
    """
    rng = np.random.default_rng(seed)
    count = len(images)
    shifts = torch.from_numpy(rng.integers(-augment.crop, augment.crop + 1, (2, count)))
    mirrored = torch.from_numpy(rng.random(count) < 0.5)
    seeds = rng.integers(0, 2**31, count)
    if augment.magnitude:
        from torchvision.transforms.v2 import RandAugment

        change, changed = RandAugment(num_ops=2, magnitude=augment.magnitude), []
        with torch.random.fork_rng(devices=[]):  # RandAugment draws from the global generator, which others may use
            for image, image_seed in zip(images, seeds.tolist(), strict=True):
                torch.manual_seed(image_seed)
                changed.append(change(image))
        images = torch.stack(changed)
    if augment.crop or augment.flip:
        images = _move(images, shifts, mirrored if augment.flip else torch.zeros_like(mirrored))
    return images


def _move(images: Tensor, shifts: Tensor, mirrored: Tensor) -> Tensor:
    """Move images by (rows, columns), repeat their edges, and mirror some."""
    count, channels, height, width = images.shape
    rows = (torch.arange(height) + shifts[0][:, None]).clamp(0, height - 1)
    columns = (torch.arange(width) + shifts[1][:, None]).clamp(0, width - 1)
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    rows, columns = onto(rows, images.device), onto(columns, images.device)
    image = torch.arange(count, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[:, None, None]
    return images[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


@dataclass(eq=False)
class Epochs:
    """The batches of a training: each epoch visits every sample once, in a different order.

    The last batch of an epoch takes the remaining samples, and is a step with its own n. No sample is dropped, and no
    batch spans two epochs.

    Args:
        inputs: (n, …), on the CPU.
        targets: (n,), class numbers; or (n, …), real numbers, NaN where one is missing.
        classes: Number of classes; None: targets are real numbers, which have no label smoothing.
        batch: Samples in a step.
        total: Samples in the full training; the last step takes the rest.
        seed: Seed of the order and of mixup.
        label_smoothing: Share of the probability that is spread over all classes, in [0, 1).
        mixup: α of mixup, 0 or more; 0: none. Inputs must then be numbers that can be averaged.
        augment: Augmentation of a step's inputs, before mixup; None: none.
        micro_batch: Samples in a micro-batch; None: the whole step.
        target_counts: (n,), on the CPU, counted targets of each sample; None: all count.

    Raises:
        RecipeError: A number is out of its range, or there is no sample.
    """

    inputs: Tensor
    targets: Tensor
    _: KW_ONLY
    classes: int | None
    batch: int
    total: int
    seed: int
    label_smoothing: float = 0.0
    mixup: float = 0.0
    augment: Augmentation | None = None
    micro_batch: int | None = None
    target_counts: Tensor | None = None

    def __post_init__(self) -> None:
        check_integer("batch", self.batch, 1)
        check_integer("total", self.total, 1)
        if self.classes is not None:
            check_integer("classes", self.classes, 2)
        check_number("label_smoothing", self.label_smoothing, "[0, 1)" if self.classes is not None else "[0, 0]")
        check_number("mixup", self.mixup, "[0, 100]")
        if self.micro_batch is not None:
            check_integer("micro_batch", self.micro_batch, 1)
        if not len(self.inputs) == len(self.targets) > 0:
            raise RecipeError("targets", len(self.targets), f"as many as inputs ({len(self.inputs)}), at least 1")
        self.epoch_steps = optimizer_steps(len(self.inputs), self.batch)
        self._order = lru_cache(maxsize=1)(self._draw_order)

    @property
    def steps(self) -> int:
        """Number of steps of the full training."""
        return steps_of(self.total, len(self.inputs), self.batch)

    def window(self, step: int) -> list[MicroBatch]:
        """Return the micro-batches of a step (from 0).

        Returns:
            Inputs, and targets unchanged; with smoothing or mixup, classes as probabilities, (samples, classes).

        Raises:
            RecipeError: The step is outside the full training.
        """
        check_integer("step", step, 0, self.steps - 1)
        rows = onto(self._rows(step), self.inputs.device)
        inputs, targets = self.inputs[rows], self.targets[rows]
        if self.augment is not None:
            inputs = augment_images(inputs, self.augment, seed_for(self.seed, "augmenting", step))
        if self.classes is not None and (self.label_smoothing or self.mixup):
            targets = soft_targets(targets, self.classes, self.label_smoothing)
        if self.mixup:
            inputs, targets = mix(inputs, targets, self.mixup, seed_for(self.seed, "mixing", step))
        parts = (torch.split(part, self.micro_batch or self.batch) for part in (inputs, targets))
        return list(zip(*parts, strict=True))

    def target_count(self, step: int) -> int:
        """Return the number of counted targets of a step."""
        rows = self._rows(step)
        if self.target_counts is None:
            return self.targets[:1].numel() * len(rows)
        return int(self.target_counts[rows].sum())

    def samples_before(self, step: int) -> int:
        """Return the number of samples of all earlier steps."""
        epoch, place = divmod(step, self.epoch_steps)
        return min(epoch * len(self.inputs) + place * self.batch, self.total)

    def _rows(self, step: int) -> Tensor:
        """Return the samples of a step, on the CPU."""
        epoch, place = divmod(step, self.epoch_steps)
        last = min((place + 1) * self.batch, self.total - epoch * len(self.inputs))
        return self._order(epoch)[place * self.batch : last]

    @property
    def nbytes(self) -> int | None:
        """Bytes of the samples; None if their augmentation must run on the CPU."""
        movable = self.augment is None or not self.augment.magnitude  # RandAugment works image by image on the CPU
        return self.inputs.nbytes + self.targets.nbytes if movable else None

    def move_to(self, device: torch.device) -> None:
        """Move the samples to a device, where batches are then made."""
        self.inputs, self.targets = self.inputs.to(device), self.targets.to(device)

    def _draw_order(self, epoch: int) -> Tensor:
        rng = np.random.default_rng(seed_for(self.seed, "order", epoch))
        return torch.from_numpy(rng.permutation(len(self.inputs)))


def steps_of(total: int, rows: int, batch: int) -> int:
    """Return the number of steps of a training on `total` samples in epochs of `rows`; no step spans two epochs."""
    epochs, remainder = divmod(total, rows)
    return epochs * optimizer_steps(rows, batch) + optimizer_steps(remainder, batch)


def soft_targets(targets: Tensor, classes: int, smoothing: float = 0.0) -> Tensor:
    """Return class numbers as probabilities: 1 − ε on the class itself and ε spread evenly over all.

    Szegedy et al., arXiv:1512.00567, section 7.

    Args:
        targets: (n,), class numbers.
        classes: Number of classes.
        smoothing: ε, below 1.

    Returns:
        (n, classes), float32.
    """
    # Not F.one_hot, which reads the class numbers first and so waits for the device.
    hot = targets.long()[:, None] == torch.arange(classes, device=targets.device)
    return hot.float() * (1.0 - smoothing) + smoothing / classes


def mix(inputs: Tensor, targets: Tensor, alpha: float, seed: int) -> MicroBatch:
    """Average each sample with another of its batch: λ and 1 − λ, with one λ ~ Beta(α, α) for the batch.

    Mixup (Zhang et al., arXiv:1710.09412).

    Args:
        inputs: (n, …), numbers.
        targets: (n, classes), probabilities.
        alpha: α, above 0.
        seed: Seed of λ and of the pairs.

    Returns:
        Mixed inputs (float32) and targets.
    """
    rng = np.random.default_rng(seed)
    share = float(rng.beta(alpha, alpha))
    partner = onto(torch.from_numpy(rng.permutation(len(inputs))), inputs.device)
    inputs = inputs.float()
    return inputs.lerp(inputs[partner], 1.0 - share), targets.lerp(targets[partner], 1.0 - share)


# ---------------------------------------------------------------- texts


def rows_at(tokens: Tensor, starts: Tensor, columns: Tensor) -> Tensor:
    """Return the tokens at each start plus each column, (starts, columns), int64.

    Tokens of type int16 have the bits of uint16, for which torch lacks some kinds of indexing.
    """
    rows = tokens[starts[:, None] + columns].long()
    return rows & 0xFFFF if tokens.dtype == torch.int16 else rows


@dataclass(eq=False)
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

    tokens: Tensor
    _: KW_ONLY
    context: int
    batch: int
    total: int
    seed: int
    micro_batch: int | None = None
    first_step: int = 0
    ramp: BatchRamp | None = None

    def __post_init__(self) -> None:
        for name in ("context", "batch", "total"):
            check_integer(name, getattr(self, name), 1)
        if self.micro_batch is not None:
            check_integer("micro_batch", self.micro_batch, 1)
        check_integer("first_step", self.first_step, 0)
        if len(self.tokens) < self.context + 1:
            raise RecipeError("context", self.context, f"less than the {len(self.tokens)} tokens of the text")
        self._bounds = divide_into_steps(self.total, self.batch, self.ramp)
        whole_windows = (len(self.tokens) - 1) // self.context
        self.epoch_windows = max(1, whole_windows - 1)  # one less leaves room for the offset
        self._columns = torch.arange(self.context + 1)
        self._order = lru_cache(maxsize=1)(self._draw_order)

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
        pieces = []  # start positions in the text of the windows `first` to `last` − 1
        while first < last:
            epoch, place = divmod(first, self.epoch_windows)
            count = min(last - first, self.epoch_windows - place)
            pieces.append(self._order(epoch)[place : place + count])
            first += count
        rows = rows_at(self.tokens, onto(torch.cat(pieces), self.tokens.device), self._columns)
        return [(part[:, :-1], part[:, 1:]) for part in torch.split(rows, self.micro_batch or self.batch)]

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

    def _draw_order(self, epoch: int) -> Tensor:
        rng = np.random.default_rng(seed_for(self.seed, "order", epoch))
        spare = len(self.tokens) - 1 - self.epoch_windows * self.context
        offset = int(rng.integers(0, min(spare, self.context - 1) + 1))
        return torch.from_numpy(rng.permutation(self.epoch_windows) * self.context + offset)


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
    return _cut_into_windows(rows, min(context, block))


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
        blocks.append(_cut_into_windows(tokens[None], context))
    return blocks


def _cut_into_windows(rows: Tensor, context: int) -> MicroBatch:
    """Return inputs and targets of rows of tokens, (rows, n + 1), as windows, (windows, context), padded at the end."""
    missing = -(rows.shape[1] - 1) % context
    inputs = torch.nn.functional.pad(rows[:, :-1], (0, missing))
    targets = torch.nn.functional.pad(rows[:, 1:], (0, missing), value=IGNORE)
    return inputs.reshape(-1, context), targets.reshape(-1, context)


def _block_starts(length: int, count: int, block: int) -> list[int]:
    """Return the start positions of evenly spaced blocks in a text of `length`."""
    block = min(block, length - 1)
    blocks = max(1, min(round(count / block), (length - 1) // block))
    return list(torch.linspace(0, length - 1 - block, blocks, dtype=torch.float64).long().tolist())


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
