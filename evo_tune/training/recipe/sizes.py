"""Sizes of language models: usual steps, the size that suits a budget, and small proxies of a large training.

A recipe for a large model is searched with proxies. A proxy is within a factor of 8 in width and 4 in depth of its
target, because the optimum moves less over a short way (benchmarks/LOG.md). It has the target's context and, as
far as the budget allows, its tokens per weight.
"""

import math
import re
from dataclasses import dataclass, replace
from typing import Any

from evo_tune.errors import OptionError
from evo_tune.options.target_size import check_depth_first
from evo_tune.training.recipe.data.corpus import bytes_to_train_on
from evo_tune.training.recipe.language import MOST_EPOCHS, LanguageOptions
from evo_tune.training.recipe.models.gpt_config import GPTConfig, flops_per_token

# Largest factor between the target and a proxy, in width and in depth.
MAX_WIDTH_FACTOR, MAX_DEPTH_FACTOR = 8, 4

# Ratio of the two widths of a search: large enough that the size matters, and not much more expensive.
WIDER = 1.5

# Usual context of a training of fewer tokens than the first number.
CONTEXTS = ((3e5, 32), (1.5e6, 64), (3e7, 128), (3e8, 256), (3e9, 512), (math.inf, 1024))


def default_batch(tokens: float) -> float:
    """Return the batch of a training in tokens by Step Law, 0.58 · D^0.571 (arXiv:2503.04715); 64 at least."""
    return max(64.0, 0.58 * math.pow(tokens, 0.571))


def default_context_and_batch(tokens: float) -> tuple[int, int]:
    """Return the usual context and batch of a training, both in tokens; the batch is a power of two."""
    batch = int(2 ** round(math.log2(default_batch(tokens))))
    return min(batch, next(context for most, context in CONTEXTS if tokens < most)), batch


def default_head_dim(width: int) -> int:
    """Return the channels of a head: up to 64, fewer in narrow models so that there are three heads or more."""
    return next((head for head in (64, 32, 16) if width % head == 0 and width >= 3 * head), 8)


@dataclass(frozen=True, kw_only=True)
class LargeTraining:
    """The training for which a recipe is searched.

    Args:
        width: Width of the model; a multiple of the head width.
        depth: Number of blocks.
        tokens: Training tokens.
        context: Tokens in a window.
        head: Channels of a head.
    """

    width: int
    depth: int
    tokens: int
    context: int
    head: int

    @property
    def flops(self) -> float:
        """FLOPs of the training."""
        return self.tokens * _flops_per_token(self.width, self.depth, self)


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """The small training of a search for a larger one.

    Args:
        width: Width of the default model.
        wider: The second width of the search.
        depth: Number of blocks.
        tokens: Training tokens.
        context: Tokens in a window.
        batch: Usual tokens of a step for so many training tokens.
        share: Tokens per weight as a share of the target's.
    """

    width: int
    wider: int
    depth: int
    tokens: int
    context: int
    batch: int
    share: float

    @property
    def size(self) -> str:
        """The value of `-o size`."""
        return f"{self.depth}x{self.width}x{self.context}x{self.batch}"

    @property
    def batches(self) -> tuple[int, ...]:
        """Values of the gene batch: from half the usual one, because smaller steps use a device badly."""
        return tuple(batch for batch in (self.batch * 2**power // 2 for power in range(4)) if batch >= self.context)


def proxy_for(target: LargeTraining, flops: float, tokens: int | None = None) -> Proxy | None:
    """Return the nearest proxy whose training is within a budget; None if the target is too small for any proxy.

    If none is within the budget, the smallest one is trained on as many tokens as the budget allows.

    Args:
        target: The training for which a recipe is searched.
        flops: Budget of a training, as a mean over both widths. Unit: FLOPs.
        tokens: Training tokens of the proxy; None: the target's tokens per weight.
    """
    depths = range(-(-target.depth // MAX_DEPTH_FACTOR), target.depth + 1)
    proxies = [
        _proxy(target, width, depth, tokens)
        for width in range(target.head, target.width, target.head)
        if MAX_WIDTH_FACTOR * width >= target.width and second_width(width, target.head) <= target.width
        for depth in depths
    ]
    if not proxies:
        return None
    costs = {}
    for proxy in proxies:
        token_flops = sum(_flops_per_token(width, proxy.depth, target) for width in (proxy.width, proxy.wider))
        costs[proxy] = proxy.tokens * token_flops / 2

    def distance(proxy: Proxy) -> float:  # in log width and log depth, each in units of its largest factor
        narrower = math.log(target.width / proxy.width) / math.log(MAX_WIDTH_FACTOR)
        shallower = math.log(target.depth / proxy.depth) / math.log(MAX_DEPTH_FACTOR)
        return math.hypot(narrower, shallower)

    if affordable := [proxy for proxy in proxies if costs[proxy] <= flops]:
        return min(affordable, key=distance)
    cheapest = min(proxies, key=costs.__getitem__)
    shorter = max(target.context, int(cheapest.tokens * flops / costs[cheapest]))
    return cheapest if tokens else _proxy(target, cheapest.width, cheapest.depth, shorter)


def second_width(width: int, head: int) -> int:
    """Return the second width of a search: `WIDER` times the first, up to whole heads."""
    return -(-int(WIDER * width) // head) * head


def _proxy(target: LargeTraining, width: int, depth: int, tokens: int | None) -> Proxy:
    wider = second_width(width, target.head)
    weight_ratio = depth * (width**2 + wider**2) / 2 / (target.depth * target.width**2)
    proxy_tokens = tokens or max(target.context, int(float(f"{target.tokens * weight_ratio:.3g}")))
    return Proxy(
        width=width,
        wider=wider,
        depth=depth,
        tokens=proxy_tokens,
        context=target.context,
        batch=max(target.context, default_context_and_batch(proxy_tokens)[1]),
        share=proxy_tokens / (target.tokens * weight_ratio),
    )


def _flops_per_token(width: int, depth: int, target: LargeTraining) -> float:
    heads = max(1, width // target.head)
    return flops_per_token(GPTConfig(width=width, depth=depth, heads=heads, context=target.context))


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
    def parse(cls, text: str) -> "GPTSize":
        """Return a size by its name, or by its notation: '4x128' or '4x128x64x1024' (depth, width, context, batch).

        Raises:
            OptionError: The text is neither, or the depth exceeds the width.
        """
        if text in GPT_SIZES:
            return GPT_SIZES[text]
        numbers = [int(part) for part in text.split("x")] if SHAPE_NOTATION.fullmatch(text) else []
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
    def heads(self) -> int:
        """Number of attention heads."""
        return self.width // default_head_dim(self.width)

    @property
    def most_heads(self) -> int:
        """Largest number of heads: those of 16 channels in the widest model, up to 32."""
        return min(32, max(4, self.widths[1] // 16))

    @property
    def tokens(self) -> float:
        """Tokens of a training that suits this size (see `LEAST_PER_WEIGHT`)."""
        weights = 12 * self.depth * self.width**2  # in the blocks
        exponent = math.log(max(1.0, weights / 1e6)) / math.log(100)
        tokens_per_weight = LEAST_PER_WEIGHT * float((MOST_PER_WEIGHT / LEAST_PER_WEIGHT) ** exponent)
        return weights * min(tokens_per_weight, MOST_PER_WEIGHT)

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
        return next((step for step in (64, 32, 16) if self.width >= 6 * step), 8)

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


# Tokens per weight of a good training: 7 up to 1 M weights, measured on nanoGPT's example (benchmarks/LOG.md); from
# there it rises by a power of the weights to Chinchilla's 20 (arXiv:2203.15556) at 100 M.
LEAST_PER_WEIGHT, MOST_PER_WEIGHT = 7.0, 20.0

# Share of the suitable tokens for which a size still fits a budget.
MIN_TOKEN_SHARE = 0.7

# Best learning rate at width 128 (benchmarks/LOG.md); updates of Muon have the size of AdamW's.
BASE_LR = 0.01

SHAPE_NOTATION = re.compile(r"[0-9]{1,7}(x[0-9]{1,7}){1,3}")

# Sizes among which a budget chooses.
SIZE_LADDER = (
    *("1x32", "2x32", "2x48", "2x64", "3x64", "3x96", "3x128", "4x128", "4x192"),
    *("6x256", "6x384", "8x512", "12x768", "16x1024", "24x1024"),
)


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
    ladder = [GPTSize.parse(text) for text in SIZE_LADDER]
    has_budget = options.flops is not None or options.tokens is not None
    if has_budget or (options.seconds is not None and options.cost):
        fits = [
            size for size in ladder if options.training_tokens(**size.default_training) >= MIN_TOKEN_SHARE * size.tokens
        ]
    elif gpu:
        fits = [size for size in ladder if size.tokens <= MOST_EPOCHS * bytes_to_train_on(options.data)]
    else:
        fits = [GPT_SIZES["tiny"]]
    return fits[-1] if fits else ladder[0]
