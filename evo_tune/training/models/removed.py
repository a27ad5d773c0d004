"""Parts of models of 1.1 that no training builds since, so that these models predict what they predicted.

Each was an option that cost loss or gained nothing at equal time (benchmarks/LOG.md, "Parts of a GPT").
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evo_tune.training.models.block import RMSNorm, document_mask
from evo_tune.training.recipe.models.rules import GATED, ModelConfig

ACTIVATIONS: Any = {"gelu": F.gelu, "swiglu": F.silu, "reglu": F.relu, "relu2": lambda x: x.relu().square()}


class FeedForward(nn.Module):
    """Two linear layers with a squared ReLU or a gate in between (arXiv:2002.05202, arXiv:2109.08668)."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        kind = config.removed["ffn"]
        self.gated, self.activation = kind in GATED, ACTIVATIONS[kind]
        self.up = nn.Linear(config.width, config.ffn_width * (2 if self.gated else 1), bias=config.bias)
        self.out = nn.Linear(config.ffn_width, config.width, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(x).chunk(2, -1) if self.gated else (self.up(x), 1.0)
        y: Tensor = self.out(self.activation(gate) * value)
        return y


class FixedPositions(nn.Module):
    """Sines and cosines of the positions (arXiv:1706.03762), with a root mean square of 0.02, (context, width)."""

    weight: Tensor

    def __init__(self, config: Any) -> None:
        super().__init__()
        half = -(-config.width // 2)
        frequencies = 10000.0 ** -(torch.arange(half, dtype=torch.float64) / half)
        angles = torch.arange(config.context, dtype=torch.float64)[:, None] / config.stretch * frequencies
        table = torch.cat((angles.sin(), angles.cos()), 1)[:, : config.width]
        self.register_buffer("weight", (0.02 * math.sqrt(2.0) * table).float(), persistent=False)


def restore_parts(model: Any, config: ModelConfig) -> None:
    """Give a model the parts that `config.removed` names; their weights are to be loaded."""
    removed = config.removed
    for block in model.blocks if "ffn" in removed else ():
        block.ffn = FeedForward(config)
    if "norm" in removed:
        for module in model.blocks:
            module.attention_norm, module.ffn_norm = (RMSNorm(config.width, eps=model.norm.eps) for _ in range(2))
        model.norm = RMSNorm(config.width, eps=model.norm.eps)
    for module in model.modules() if removed.get("bias") else ():
        if isinstance(module, nn.Linear | nn.LayerNorm):
            module.bias = nn.Parameter(torch.zeros(len(module.weight)))
    if removed.get("pooling") == "cls":
        model.cls = nn.Embedding(1, config.width)
        model.positions = nn.Embedding(model.config.tokens + 1, config.width)
        model.patches.register_forward_hook(lambda _, __, x: torch.cat((model.cls.weight.expand(len(x), 1, -1), x), 1))
        model.norm.register_forward_hook(lambda _, __, x: x[:, :1])  # the mean over it is the token itself
    if removed.get("position") == "sinusoidal":
        model.positions, model.rotation = FixedPositions(config), None
    if "window_pattern" in removed or "residual_scaling" in removed:
        _change_inputs_of_blocks(model, removed.get("window_pattern", "S"), "residual_scaling" in removed)
    if "tied" in removed:
        model.head = nn.Linear(config.width, model.config.vocab_size, bias=False)
        read: Any = lambda module, args, _: (args, {"read": lambda x, _: module.head(x)})  # noqa: E731
        model.register_forward_pre_hook(read, with_kwargs=True)
    if "softcap" in removed:  # c · tanh(logits / c), in at least float32 (arXiv:2408.00118)
        cap = removed["softcap"]
        wide: Any = lambda x: x.to(torch.promote_types(x.dtype, torch.float32))  # noqa: E731
        model.register_forward_hook(lambda _, __, logits: torch.tanh(wide(logits) / cap) * cap)


def _change_inputs_of_blocks(model: Any, pattern: str, scaling: bool) -> None:
    """Let blocks with an L in the pattern attend to all tokens, and scale the residual stream x to λ · x + μ · x₀."""
    first: list[Tensor] = []
    context, boundary = model.config.context, model.config.boundary
    for number, block in enumerate(model.blocks):
        if scaling:
            block.scales = nn.Parameter(torch.tensor([1.0, 0.0]))

        def change(block: Any, args: Any, number: int = number) -> Any:
            x, rotation, mask, tokens = args
            if number == 0:
                first[:] = [x]
            if scaling:
                x = block.scales[0] * x + block.scales[1] * first[0]
            if pattern[number % len(pattern)] == "L":
                mask = None if boundary is None else document_mask(tokens, boundary, context)
            return x, rotation, mask, tokens

        block.register_forward_pre_hook(change)
