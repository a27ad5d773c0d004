"""The coordinate check: whether a parametrisation keeps activations and their updates at one size.

It trains a few steps at a deliberately large learning rate, on one batch, at several widths and depths. It measures
the mean |x| of the residual stream after each block and of the logits, and of their changes since initialisation. If a
recipe transfers, neither grows nor vanishes with the size (Yang et al., arXiv:2203.03466, appendix D.1; for depth Dey
et al., arXiv:2505.01618). The slopes are those of log |x| over log width and log depth, by least squares.

Logits have wider bounds than the stream. Their rule is between two limits: weights of one update may all agree with the
final norm's outputs, or be independent of them, and the sums differ by the root of the width (see `models.rules`).

The rules hold in the limit of large widths. A width with fewer channels than distinct tokens is far from it: updates
for one token disturb another. Muon, which moves every direction alike, shows it most. With initial outputs of zero and
64 tokens, its last block grows by a slope of .13 between widths 32 and 64, and by .02 between 64 and 128. With 8 tokens
it does not grow. This is no reason to change Muon's rule; arXiv:2512.05620 finds likewise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from evo_tune.errors import RecipeError
from evo_tune.options.bounds import check_integer, check_name, check_number
from evo_tune.training.models.gpt import GPT
from evo_tune.training.optim.optimizer import SGD, AdamW, Muon
from evo_tune.training.recipe.models.gpt_config import GPTConfig
from evo_tune.training.recipe.models.rules import Parametrisation

WIDTH = (-0.6, 0.15)
"""Allowed slopes over width: activations that shrink a little learn a little slowly, growing ones diverge.

The rate of a tied embedding falls with the root of the width, so its part of the stream's changes falls as well.
"""

LOGITS = (-0.8, 0.8)
"""Allowed slopes of logits over width."""

DEPTH = (-0.1, 0.1)
"""Allowed slopes over depth."""

LARGE_LEARNING_RATES = {"adamw": 1e-2, "muon": 1e-2, "sgd": 0.3}
"""A deliberately large learning rate of each optimizer."""

HEAD_WIDTH, VOCABULARY, CONTEXT, BATCH_SIZE = 16, 64, 32, 8
"""Channels of a head, distinct tokens, tokens of a window, and windows of the batch."""


@dataclass(frozen=True)
class Slopes:
    """Slopes of a model's activations over one of its sizes.

    Args:
        quantity: 'stream' (the residual stream) or 'logits'.
        against: 'width' or 'depth'.
        sizes: Trained sizes.
        activations: Slopes of the mean |x|, (steps, places): after each block, or of logits; for depth, after the last
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
        """Highest of all slopes; NaN if a training diverged."""
        slopes = np.concatenate([self.activations.ravel(), self.updates.ravel()])
        return float(slopes.max())

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
    tied: bool = True,
) -> list[Slopes]:
    """Return the slopes of the stream and of logits over width, and of the stream over depth.

    Slopes over depth have bounds for completep, and for standard, which should fail; mup makes no claim about depth.

    Args:
        param: 'standard', 'mup' or 'completep'; the base model has the smallest width and depth.
        optimizer: 'adamw', 'muon' or 'sgd'.
        init: Initialisation of the weights (see `GPTConfig`). With 'fan_in', outputs begin at zero, and updates at the
            second and third step grow with the number of blocks.
        widths: Multiples of 16, two or more; trained at the smallest depth.
        depths: Two or more, trained at twice the smallest width; empty: skip the slopes over depth.
        steps: Number of training steps (int ≥ 1).
        lr: Peak learning rate of the base model; None: a large one.
        seed: Seed of weights and tokens.
        vocabulary: Number of tokens (int ≥ 2).
        tied: Whether the output head shares the embedding's weights.

    Raises:
        RecipeError: An argument is out of its range.
    """
    check_name("param", param, ("standard", "mup", "completep"))
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

    def train_size(width: int, depth: int) -> NDArray[np.float64]:
        config = GPTConfig(
            vocab_size=vocabulary,
            context=CONTEXT,
            depth=depth,
            width=width,
            heads=width // HEAD_WIDTH,
            init=init,
            tied=tied,
            scaling=scaling,
        )
        return _train_and_measure(GPT(config, seed=seed), optimizer, lr, steps, seed)

    with _one_thread():
        means_by_width = [train_size(width, smallest_depth) for width in widths]
        measured = [
            _slopes("stream", "width", widths, [means[:, :, :-1] for means in means_by_width], WIDTH),
            _slopes("logits", "width", widths, [means[:, :, -1:] for means in means_by_width], LOGITS),
        ]
        if depths:
            last = [train_size(2 * smallest_width, depth)[:, :, -2:-1] for depth in depths]
            measured.append(_slopes("stream", "depth", depths, last, None if param == "mup" else DEPTH))
    return measured


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute with one thread, which is faster for products this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _check_sizes(name: str, sizes: Sequence[int], multiple: int) -> None:
    if len(set(sizes)) < 2 or any(size < 1 or size % multiple for size in sizes):
        raise RecipeError(name, ",".join(map(str, sizes)), f"two or more, each a multiple of {multiple}")


def _slopes(
    quantity: str,
    against: str,
    sizes: Sequence[int],
    means_by_size: Sequence[NDArray[np.float64]],
    bounds: tuple[float, float] | None,
) -> Slopes:
    """Return the slopes of mean |x| and mean change, each (steps, places), over the sizes of the trainings."""
    log_sizes = np.log(sizes)
    log_sizes = log_sizes - log_sizes.mean()
    # Least squares: the sum of x · y over the sum of x².
    slopes = np.tensordot(log_sizes, np.log(np.array(means_by_size)), axes=(0, 0)) / (log_sizes**2).sum()
    return Slopes(quantity, against, tuple(sizes), slopes[0], slopes[1], bounds)


def _train_and_measure(model: GPT, optimizer: str, lr: float, steps: int, seed: int) -> NDArray[np.float64]:
    """Return mean |x| and mean change of the stream after each block, and of logits: (2, steps, blocks + 1)."""
    optimizer_classes: dict[str, Any] = {"adamw": AdamW, "muon": Muon, "sgd": SGD}
    torch_optimizer = optimizer_classes[optimizer](lr=lr).build(model)
    for group in torch_optimizer.param_groups:
        group["lr"] = group["initial_lr"]  # no warm-up
    inputs, targets = _batch(seed, model.config.vocab_size)
    means: list[list[list[float]]] = [[], []]
    first: list[Tensor] = []
    with _collect_block_outputs(model) as outputs:
        for step in range(steps + 1):
            outputs.clear()
            logits = model(inputs)
            outputs.append(logits.detach())  # one tensor per block, then the logits
            loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
            if step:
                changes = [now - then for now, then in zip(outputs, first, strict=True)]
                for series, tensors in zip(means, (outputs, changes), strict=True):
                    series.append([max(float(tensor.abs().mean()), 1e-30) for tensor in tensors])
            else:
                first = list(outputs)
            loss.backward()  # type: ignore[no-untyped-call]
            torch_optimizer.step()
            torch_optimizer.zero_grad()
    values = np.array(means)
    return np.where(np.isfinite(values), values, math.inf)


def _batch(seed: int, vocabulary: int) -> tuple[Tensor, Tensor]:
    """Return tokens that each determine the next one, so that there is something to learn."""
    generator = torch.Generator().manual_seed(seed)
    next_one = torch.randperm(vocabulary, generator=generator)
    tokens = [torch.randint(0, vocabulary, (BATCH_SIZE,), generator=generator)]
    for _ in range(CONTEXT):
        tokens.append(next_one[tokens[-1]])
    windows = torch.stack(tokens, 1)
    return windows[:, :-1], windows[:, 1:]


@contextmanager
def _collect_block_outputs(model: GPT) -> Iterator[list[Tensor]]:
    """Collect the outputs of a model's blocks, in order, as they are computed."""
    outputs: list[Tensor] = []
    hooks = [
        block.register_forward_hook(lambda _, __, output: outputs.append(output.detach())) for block in model.blocks
    ]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()
