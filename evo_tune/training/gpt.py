"""GPT: a decoder-only Transformer (Radford et al. 2019), built for small and large alike.

Pre-norm blocks, causal attention through torch's scaled_dot_product_attention, learned positions, head
tied to the embedding if asked. Knows nothing of training.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evo_tune.errors import RecipeError
from evo_tune.training.generation import continue_bytes
from evo_tune.training.gpt_config import GPTConfig

__all__ = ["GPT"]


class Attention(nn.Module):
    """Causal multi-head self-attention."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.dropout = config.attention_dropout
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=config.bias)
        self.out = nn.Linear(config.width, config.width, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (batch, heads, length, head_dim)
        # The functional form does not look at eval(): it drops whatever it is told to.
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        attended: Tensor = self.out(y.transpose(1, 2).reshape(batch, length, width))
        return attended


class FeedForward(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.width, config.ffn_width, bias=config.bias)
        self.out = nn.Linear(config.ffn_width, config.width, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out(F.gelu(self.up(x)))
        return y


class Block(nn.Module):
    """Attention and feed-forward, each normed on the way in and added on the way out."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width, bias=config.bias)
        self.attention = Attention(config)
        self.ffn_norm = nn.LayerNorm(config.width, bias=config.bias)
        self.ffn = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x)))
        y: Tensor = x + self.dropout(self.ffn(self.ffn_norm(x)))
        return y


class GPT(nn.Module):
    """The model.

    Args:
        config: Its shape.
        seed: Seed of the initial weights, which are drawn on the CPU from a generator of their own: the
            same on every device, and no other randomness is used up or depended on.
    """

    def __init__(self, config: GPTConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        # Built without memory, then filled once: the modules' own initialisation would be thrown away.
        with torch.device("meta"):
            self.embedding = nn.Embedding(config.vocab_size, config.width)
            self.positions = nn.Embedding(config.context, config.width)
            self.dropout = nn.Dropout(config.dropout)
            self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
            self.norm = nn.LayerNorm(config.width, bias=config.bias)
            self.head = None if config.tied else nn.Linear(config.width, config.vocab_size, bias=False)
        self.to_empty(device="cpu")
        self._initialise(torch.Generator().manual_seed(seed))

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator) -> None:
        """Draw the weights as `GPTConfig.init` says; norms begin as identities."""
        for name, parameter in self.named_parameters():
            if "norm" in name:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
            elif name.endswith("bias"):
                parameter.zero_()
            else:
                parameter.normal_(0.0, self._std(name, parameter), generator=generator)

    def _std(self, name: str, weight: Tensor) -> float:
        hidden, residual = name.startswith("blocks."), name.endswith(".out.weight")
        if self.config.init == "fan_in" and hidden:
            return 0.0 if residual else 1.0 / math.sqrt(weight.shape[1])
        return 0.02 / math.sqrt(2 * self.config.depth) if residual else 0.02

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits for the token after each.

        Args:
            tokens: (batch, length), whole numbers below vocab_size; length up to the context.

        Returns:
            (batch, length, vocab_size).
        """
        x = self.dropout(self.embedding(tokens) + self.positions.weight[: tokens.shape[1]])
        for block in self.blocks:
            x = block(x)
        head = self.embedding if self.head is None else self.head
        return F.linear(self.norm(x), head.weight)

    def generate(
        self,
        prompt: str | bytes,
        length: int = 200,
        *,
        temperature: float = 0.8,
        top_k: int | None = None,
        seed: int = 0,
    ) -> str:
        """Continue a text, byte by byte.

        Args:
            prompt: What to go on from; empty stands for a new line.
            length: Number of bytes to add.
            temperature: 1 samples as trained, less is safer, 0 takes the likeliest.
            top_k: Sample only among this many likeliest bytes; None: among all.
            seed: Same seed, same text.

        Returns:
            The prompt and its continuation; bytes that are no valid UTF-8 become U+FFFD.

        Raises:
            RecipeError: The model's tokens are not bytes, or an argument is out of its range.
        """
        start = prompt.encode() if isinstance(prompt, str) else prompt
        text = continue_bytes(self, start, length, self.config, temperature=temperature, top_k=top_k, seed=seed)
        return text.decode("utf-8", errors="replace")

    def save(self, folder: Path | str, **notes: Any) -> None:
        """Write model.safetensors and config.json, which `load` reads; nothing in them can run code.

        Args:
            folder: Where; made if it is not there.
            notes: Plain data to keep in config.json beside the shape.
        """
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        save_file(weights, folder / "model.safetensors")
        config = {"model": self.config.to_json(), **notes}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path | str, device: torch.device | str = "cpu") -> GPT:
        """Read a model that `save` wrote, ready for use (in eval mode).

        Raises:
            RecipeError: The folder holds no such model.
        """
        from safetensors.torch import load_file

        folder = Path(folder)
        for name in ("config.json", "model.safetensors"):
            if not (folder / name).is_file():
                raise RecipeError("folder", str(folder), f"a folder with {name}, as GPT.save writes")
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        model = cls(GPTConfig.from_json(config["model"]))
        model.load_state_dict(load_file(folder / "model.safetensors"))
        return model.to(device).eval()
