"""Memory of a prediction, predicted before anything is read: a small folder may have the shape of a huge model."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from evo_tune.errors import UsageError
from evo_tune.training.hardware.device import free_memory
from evo_tune.training.recipe import LinearTextConfig, TextConfig
from evo_tune.training.recipe.families import FittedConfig
from evo_tune.training.recipe.models.base import BaseModel
from evo_tune.training.recipe.models.encoder_config import EncoderConfig
from evo_tune.training.recipe.models.gpt_config import GPTConfig, uses_plain_products

# Share of the free memory that a model may take.
SHARE = 0.8

# Bytes per number of a table that is computed from the shape: float32, and in float64 on the way.
TABLE_BYTES = 24.0


@dataclass(frozen=True)
class MemoryLimit:
    """Memory that a model may take.

    Args:
        device: Device of the model.
        gib: Maximum in GiB; None: 80 % of the free memory.
    """

    device: str = "cpu"
    gib: float | None = None

    def require(self, needed: float, subject: str, remedy: str = "") -> None:
        """Refuse what would take more memory.

        Args:
            needed: Predicted bytes.
            subject: Name of what takes them.
            remedy: What to do, instead of a higher limit.

        Raises:
            UsageError: It would take more.
        """
        if needed > self._bytes:
            limit = "80 % of what is free" if self.gib is None else "the limit"
            remedy = remedy or f"--memory {1 + needed // 2**30:.0f} (memory=) allows it"
            shown = f"{needed / 2**30:.3g} GiB of memory, and {limit} is {self._bytes / 2**30:.3g} GiB"
            raise UsageError(f"{subject} needs about {shown}: {remedy}")

    def require_pass(self, predict_bytes: Callable[[int], float], batch: int) -> None:
        """Refuse a pass that would take more memory, and name the largest batch that would not.

        Args:
            predict_bytes: Function from samples per pass to predicted bytes; fewer are read at once in smaller passes.
            batch: Samples per pass.

        Raises:
            UsageError: It would take more.
        """
        smaller = batch
        while smaller > 1 and predict_bytes(smaller) > self._bytes:
            smaller //= 2
        fits = smaller < batch and predict_bytes(smaller) <= self._bytes
        advice = f"give --batch {smaller} (in Python batch= and fewer samples); the last digits may change"
        self.require(predict_bytes(batch), f"predicting {batch} samples at once", advice if fits else "")

    @property
    def _bytes(self) -> float:
        return SHARE * free_memory(self.device) if self.gib is None else self.gib * 2**30


class InputSize(NamedTuple):
    """Size of an input.

    Args:
        samples: Number of samples.
        values: Most values of a sample: pixels, tokens, columns.
    """

    samples: int
    values: int


def pass_bytes(config: EncoderConfig | FittedConfig, size: InputSize, batch: int) -> float:
    """Return an upper bound of the bytes that predicting samples takes, without the weights.

    A pass of a network takes less than one block keeps for the backward pass. Values are read as they are, and then
    copied as float32 three times. Outputs become float64 in two copies, and columns with names.

    Args:
        config: Shape of the model.
        size: Size of the input.
        batch: Samples per pass.
    """
    batch = min(batch, size.samples)
    if isinstance(config, LinearTextConfig):
        config = replace(config, length=size.values)
    if isinstance(config, FittedConfig):
        per_sample = float(config.row_bytes)
    else:
        if isinstance(config, TextConfig):
            config = replace(config, length=size.values)
        block = replace(config, depth=1, dropout=0.0, drop_path=0.0)
        per_sample = block.activation_bytes(4, 4)
    outputs = config.outputs * (24.0 * size.samples + 1000.0)
    return batch * (per_sample + 12.0 * size.values) + 8.0 * size.values * size.samples + outputs


def tokens_bytes(shape: GPTConfig | BaseModel, windows: int, length: int) -> float:
    """Return an upper bound of the bytes that a language model takes for windows of tokens, without the weights.

    These are inputs and outputs of attention and feed-forward layers, 16 d + 4 f numbers for each token, and logits
    with two copies. Masks of documents are made of numbers of 8 bytes.

    Args:
        shape: Shape of the model.
        windows: Windows in a pass.
        length: Tokens per window.
    """
    if isinstance(shape, GPTConfig):
        hidden = shape.ffn_width
    else:
        hidden = max((max(sizes) for sizes in shape.linears.values()), default=0)
    per_key = 1.0
    if isinstance(shape, GPTConfig):
        per_key = 8.0 * shape.heads if uses_plain_products("fp32", length) else 0.0
        per_key += 24.0 if shape.boundary is not None else 0.0
    numbers = 16.0 * shape.width + 4.0 * hidden + 3.0 * shape.vocab_size
    return windows * length * (4.0 * numbers + per_key * length)
