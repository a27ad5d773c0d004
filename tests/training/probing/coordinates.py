"""The coordinate check: whether a parametrisation keeps activations and their updates at one size.

It trains a few steps at a deliberately large learning rate, on one batch, at several widths and depths. It measures
the mean |x| of the residual stream after each block and of the logits, and of their changes since initialisation. If a
recipe transfers, neither grows nor vanishes with the size (Yang et al., arXiv:2203.03466, appendix D.1; for depth Dey
et al., arXiv:2505.01618). The slopes are those of log |x| over log width and log depth, by least squares.

Logits have wider bounds than the stream. A logit sums one product per channel. If an update's weights agree with the
final norm's outputs, its change grows with the width; if they are independent, with the root of the width. The rule for
the learning rate is between these two cases (see `models.rules`).

The rules hold in the limit of large widths. A width with fewer channels than distinct tokens is far from it: updates
for one token disturb another. Muon, which moves every direction alike, shows it most. With initial outputs of zero and
64 tokens, its last block grows by a slope of .13 between widths 32 and 64, and by .02 between 64 and 128. With 8 tokens
it does not grow. This is no reason to change Muon's rule; arXiv:2512.05620 finds likewise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from evo_tune.errors import RecipeError
from evo_tune.options.declare import check_integer, check_name, check_number
from evo_tune.training.hardware.device import reproducible
from evo_tune.training.models.gpt import GPT
from evo_tune.training.optim.optimizer import SGD, AdamW, Muon
from evo_tune.training.recipe.models.gpt_config import GPTConfig
from evo_tune.training.recipe.models.rules import Parametrisation

# Allowed slopes over width: activations that shrink a little learn a little slowly, growing ones diverge. The learning
# rate of a tied embedding falls with the root of the width. Its part of the stream's changes falls likewise.
WIDTH_SLOPE_BOUNDS = (-0.6, 0.15)

# Allowed slopes of logits over width.
LOGIT_SLOPE_BOUNDS = (-0.8, 0.8)

# Allowed slopes over depth.
DEPTH_SLOPE_BOUNDS = (-0.1, 0.1)

# A deliberately large learning rate of each optimizer.
LARGE_LEARNING_RATES = {"adamw": 1e-2, "muon": 1e-2, "sgd": 0.3}

HEAD_WIDTH, VOCABULARY, CONTEXT, BATCH_SIZE = 16, 64, 32, 8

# Lower bound of a mean, so that its logarithm is finite.
TINY = 1e-30


@dataclass(frozen=True)
class Slopes:
    """Slopes of a model's activations over one of its sizes.

    Args:
        quantity: 'stream' (the residual stream) or 'logits'.
        against: 'width' or 'depth'.
        sizes: Trained sizes.
        activations: Slopes of the mean |x|, (steps, outputs): after each block, or of logits; for depth, after the last
            block.
        updates: Slopes of the mean change of x since initialisation, of the same shape.
        bounds: Allowed slopes; None: no requirement for this parametrisation.
    """

    quantity: str
    against: str
    sizes: tuple[int, ...]
    activations: NDArray[np.float64]
    updates: NDArray[np.float64]
    bounds: tuple[float, float] | None

    @property
    def least(self) -> float:
        """Lowest of all slopes."""
        return float(min(self.activations.min(), self.updates.min()))

    @property
    def most(self) -> float:
        """Highest of all slopes; NaN if a training diverged: its activations are infinite."""
        return float(np.maximum(self.activations.max(), self.updates.max()))

    @property
    def passed(self) -> bool:
        """Whether all slopes are within the bounds."""
        return self.bounds is None or (self.least >= self.bounds[0] and self.most <= self.bounds[1])


def check_coordinates(
    param: str,
    *,
    optimizer: str = "adamw",
    init: str = "normal",
    widths: Sequence[int] = (32, 64, 128, 256, 512),
    depths: Sequence[int] = (2, 4, 8, 16),
    steps: int = 10,
    lr: float | None = None,
    seed: int = 0,
    vocabulary: int = VOCABULARY,
) -> list[Slopes]:
    """Return the slopes of the stream and of logits over width, and of the stream over depth.

    Slopes over depth have bounds for completep, and for standard, which should fail.

    Args:
        param: 'standard' or 'completep'; the base model has the smallest width and depth.
        optimizer: 'adamw', 'muon' or 'sgd'.
        init: Initialisation of the weights (see `GPTConfig`). With 'fan_in', outputs begin at zero, and updates at the
            second and third step grow with the number of blocks.
        widths: Multiples of 16, two or more; trained at the smallest depth.
        depths: Two or more, trained at twice the smallest width; empty: skip the slopes over depth.
        steps: Number of training steps (int ≥ 1).
        lr: Peak learning rate of the base model; None: a large one.
        seed: Seed of weights and tokens.
        vocabulary: Number of tokens (int ≥ 2).

    Raises:
        RecipeError: An argument is out of its range.
    """
    check_name("param", param, ("standard", "completep"))
    check_integer("vocabulary", vocabulary, 2)
    check_name("optimizer", optimizer, tuple(LARGE_LEARNING_RATES))
    check_integer("steps", steps, 1)
    lr = LARGE_LEARNING_RATES[optimizer] if lr is None else lr
    check_number("lr", lr, "(0, 10]")
    _check_sizes("widths", widths, HEAD_WIDTH)
    if depths:
        _check_sizes("depths", depths, 1)
    smallest_width, smallest_depth = min(widths), min(depths, default=2)
    scaling = None
    if param != "standard":
        scaling = Parametrisation(name=param, width=smallest_width, depth=smallest_depth, head=HEAD_WIDTH)
    common: dict[str, Any] = {"vocab_size": vocabulary, "context": CONTEXT, "init": init}

    def train_size(width: int, depth: int) -> NDArray[np.float64]:
        config = GPTConfig(**common, depth=depth, width=width, heads=width // HEAD_WIDTH, scaling=scaling)
        return _train_and_measure(GPT(config, seed=seed), optimizer, lr, steps, seed)

    # Means have the shape (2, steps, blocks + 1), the logits last.
    with reproducible(1, strict=False):  # one thread is faster for products this small
        means_by_width = [train_size(width, smallest_depth) for width in widths]
        all_slopes = [
            _slopes("stream", "width", widths, [means[:, :, :-1] for means in means_by_width], WIDTH_SLOPE_BOUNDS),
            _slopes("logits", "width", widths, [means[:, :, -1:] for means in means_by_width], LOGIT_SLOPE_BOUNDS),
        ]
        if depths:
            last_block_means = [train_size(2 * smallest_width, depth)[:, :, -2:-1] for depth in depths]
            all_slopes.append(_slopes("stream", "depth", depths, last_block_means, DEPTH_SLOPE_BOUNDS))
    return all_slopes


def _check_sizes(name: str, sizes: Sequence[int], multiple: int) -> None:
    if len(set(sizes)) < 2 or any(size < 1 or size % multiple for size in sizes):
        raise RecipeError(name, ",".join(map(str, sizes)), f"two or more, each a multiple of {multiple}")


def _slopes(
    quantity: str,
    size_name: str,
    sizes: Sequence[int],
    measurements: Sequence[NDArray[np.float64]],
    bounds: tuple[float, float] | None,
) -> Slopes:
    """Return the slopes of mean |x| and mean change, each (steps, outputs), over the sizes of the trainings."""
    log_size = np.log(sizes)
    log_size = log_size - log_size.mean()
    # Least squares over the first axis, that of the sizes.
    slopes = np.tensordot(log_size, np.log(np.array(measurements)), axes=(0, 0)) / (log_size**2).sum()
    return Slopes(quantity, size_name, tuple(sizes), slopes[0], slopes[1], bounds)


def _train_and_measure(model: GPT, optimizer: str, lr: float, steps: int, seed: int) -> NDArray[np.float64]:
    """Return mean |x| and mean change of the stream after each block, and of logits: (2, steps, blocks + 1)."""
    optimizer_classes: dict[str, Any] = {"adamw": AdamW, "muon": Muon, "sgd": SGD}
    torch_optimizer = optimizer_classes[optimizer](lr=lr).build(model)
    for group in torch_optimizer.param_groups:  # the peak learning rate at once: no warm-up
        group["lr"] = group["initial_lr"]
    # Each token determines the next one, so that there is something to learn.
    vocabulary, generator = model.config.vocab_size, torch.Generator().manual_seed(seed)
    next_token = torch.randperm(vocabulary, generator=generator)
    tokens = [torch.randint(0, vocabulary, (BATCH_SIZE,), generator=generator)]
    for _ in range(CONTEXT):
        tokens.append(next_token[tokens[-1]])
    windows = torch.stack(tokens, 1)
    means: list[list[list[float]]] = [[], []]
    initial_outputs: list[Tensor] = []
    outputs: list[Tensor] = []  # of each block, then logits; those of the present step
    for block in model.blocks:
        block.register_forward_hook(lambda _, __, output: outputs.append(output.detach()))
    for step in range(steps + 1):  # step 0 gives the initial outputs, to which later ones are compared
        outputs.clear()
        logits = model(windows[:, :-1])
        outputs.append(logits.detach())
        loss = F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
        if step:
            changes = [now - then for now, then in zip(outputs, initial_outputs, strict=True)]
            for series, tensors in zip(means, (outputs, changes), strict=True):
                series.append([max(float(tensor.abs().mean()), TINY) for tensor in tensors])
        else:
            initial_outputs = list(outputs)
        loss.backward()  # type: ignore[no-untyped-call]
        torch_optimizer.step()
        torch_optimizer.zero_grad()
    values = np.array(means)
    return np.where(np.isfinite(values), values, math.inf)
