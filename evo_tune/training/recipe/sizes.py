"""Sizes of language models: the default shape, batch and budget of a size, and the size that suits a budget."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Any

from evo_tune.errors import OptionError
from evo_tune.options.sizes import check_depth_first
from evo_tune.training.recipe.language import MOST_EPOCHS, LanguageOptions
from evo_tune.training.recipe.models.gpt_config import GPTConfig, flops_per_token
from evo_tune.training.recipe.proxies import default_context_and_batch, default_head_dim


@dataclass(frozen=True, kw_only=True)
class GPTSize:
    """A default genome's shape and batch, from which the ranges of a search space follow.

    Args:
        depth: Number of blocks.
        width: Width of the model.
        context: Tokens in a window.
        batch: Tokens in a step.
    """

    depth: int
    width: int
    context: int
    batch: int

    @classmethod
    def parse(cls, text: str) -> GPTSize:
        """Return a size by its name, or by its notation: '4x128' or '4x128x64x1024' (depth, width, context, batch).

        Raises:
            OptionError: The text is neither, or the depth exceeds the width.
        """
        if text in GPT_SIZES:
            return GPT_SIZES[text]
        numbers = [int(part) for part in text.split("x")] if SHAPED.fullmatch(text) else []
        if len(numbers) > 1:
            check_depth_first(f"-o size={text}", *numbers[:2])
        if len(numbers) not in (2, 4) or not all(1 <= number <= 1 << 20 for number in numbers) or numbers[1] % 8:
            names = ", ".join(GPT_SIZES)
            expected = f"auto, {names}, or DEPTHxWIDTH with a width that is a multiple of 8, such as 4x128"
            raise OptionError(f"-o size={text[:60]}: expected {expected}")
        size = cls(depth=numbers[0], width=numbers[1], context=0, batch=0)
        context, batch = numbers[2:] or default_context_and_batch(size.tokens)
        return replace(size, context=context, batch=max(batch, context))

    def __str__(self) -> str:
        return f"{self.depth}x{self.width}x{self.context}x{self.batch}"

    @property
    def head_dim(self) -> int:
        """Channels of a head: up to 64, fewer in narrow models so that there are three heads or more."""
        return default_head_dim(self.width)

    @property
    def heads(self) -> int:
        """Number of attention heads."""
        return self.width // self.head_dim

    @property
    def most_heads(self) -> int:
        """Largest number of heads: those of 16 channels in the widest model, up to 32."""
        return min(32, max(4, self.widths[1] // 16))

    @property
    def weights(self) -> int:
        """Number of weights in the blocks, 12 d² each."""
        return 12 * self.depth * self.width**2

    @property
    def tokens(self) -> float:
        """Tokens of a training that suits this size (see `LEAST_PER_WEIGHT`)."""
        share = math.log(max(1.0, self.weights / 1e6)) / math.log(100)
        rising = LEAST_PER_WEIGHT * float((MOST_PER_WEIGHT / LEAST_PER_WEIGHT) ** share)
        return self.weights * min(rising, MOST_PER_WEIGHT)

    @property
    def flops(self) -> float:
        """Default budget: the FLOPs of such a training."""
        config = GPTConfig(depth=self.depth, width=self.width, heads=self.heads, context=self.context)
        return float(f"{self.tokens * flops_per_token(config):.2g}")

    @property
    def default_training(self) -> dict[str, Any]:
        """Shape, batch and budget of the default training."""
        shape = {"depth": self.depth, "width": self.width, "heads": self.heads, "context": self.context}
        return {**shape, "batch": self.batch, "flops": self.flops}

    @property
    def lr(self) -> float:
        """Default learning rate, of Muon and of AdamW: `BASE_LR` at width 128, inversely to the root of the width."""
        return float(f"{BASE_LR * (128 / self.width) ** 0.5:.2g}")

    @property
    def step(self) -> int:
        """Step of the widths."""
        return next(one for one in (64, 32, 16, 8) if self.width >= 6 * one or one == 8)

    @property
    def widths(self) -> tuple[int, int]:
        """Smallest and largest width."""
        return max(16, self.width // 2 // self.step * self.step), 2 * self.width // self.step * self.step

    @property
    def contexts(self) -> tuple[int, ...]:
        """Values of the gene context."""
        return tuple(sorted({max(8, self.context // 2), *(self.context * 2**power for power in range(3))}))

    @property
    def batches(self) -> tuple[int, ...]:
        """Values of the gene batch."""
        return tuple(batch for batch in (self.batch * 2**power // 4 for power in range(5)) if batch >= 16)


LEAST_PER_WEIGHT, MOST_PER_WEIGHT = 7.0, 20.0
"""Tokens per weight of a good training: 7 up to 1 M weights, measured on nanoGPT's example (benchmarks/LOG.md); from
there it rises by a power of the weights to Chinchilla's 20 (arXiv:2203.15556) at 100 M."""

NEAR = 0.7
"""Share of the suitable tokens for which a size still fits a budget."""

BASE_LR = 0.01
"""Best learning rate at width 128 (benchmarks/LOG.md); updates of Muon have the size of AdamW's."""

SHAPED = re.compile(r"[0-9]{1,7}(x[0-9]{1,7}){1,3}")

LADDER = (
    *("1x32", "2x32", "2x48", "2x64", "3x64", "3x96", "3x128", "4x128", "4x192"),
    *("6x256", "6x384", "8x512", "12x768", "16x1024", "24x1024"),
)
"""Sizes among which a budget chooses."""


GPT_SIZES = {
    "tiny": GPTSize(depth=2, width=32, context=32, batch=512),
    "small": GPTSize(depth=3, width=96, context=128, batch=2048),
    "medium": GPTSize(depth=6, width=256, context=256, batch=8192),
    "large": GPTSize(depth=12, width=768, context=1024, batch=131072),
}


def fitting_size(options: LanguageOptions, gpu: bool) -> GPTSize:
    """Return the largest size of the ladder that reads as many tokens as suit it, within the budget.

    Without a budget: tiny on a CPU; on a GPU, the largest that reads the text `MOST_EPOCHS` times or less.

    Args:
        options: Options of the training.
        gpu: Whether it runs on a GPU.
    """
    ladder = [GPTSize.parse(text) for text in LADDER]
    if options.has_budget:
        fits = [size for size in ladder if options.training_tokens(**size.default_training) >= NEAR * size.tokens]
    elif gpu:
        fits = [size for size in ladder if size.tokens <= MOST_EPOCHS * options.bytes_to_train_on]
    else:
        fits = [GPT_SIZES["tiny"]]
    return fits[-1] if fits else ladder[0]
