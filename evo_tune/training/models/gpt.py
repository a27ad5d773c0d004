"""A GPT, and how it continues a text."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evo_tune.errors import RecipeError
from evo_tune.options.bounds import check_integer, check_number
from evo_tune.recipe.data.corpus import BPE, Bytes, Tokenizer
from evo_tune.recipe.models.gpt_config import LARGE_VOCABULARY, GPTConfig
from evo_tune.training.hardware.device import run_block
from evo_tune.training.models.block import Block, chunk_mask, rotary_frequencies, rotary_table, sinusoids
from evo_tune.training.models.dropout import Dropout
from evo_tune.training.models.model_files import read_model, unfilled, write_model


def continue_tokens(
    model: nn.Module,
    prompt: Sequence[int],
    length: int,
    config: GPTConfig,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
) -> list[int]:
    """Return the prompt and `length` sampled tokens; the training mode of the model is left as it was.

    Args:
        model: Maps (1, n) tokens to logits (1, n, vocab_size).
        prompt: What to go on from, at least one token.
        length: Number of tokens to add, 0 or more.
        config: The model's shape; only its last `context` tokens are looked at.
        temperature: Divides the logits; 0 takes the likeliest token.
        top_k: Sample only among this many likeliest tokens.
        seed: Seed of the sampling's own generator.

    Raises:
        RecipeError: An argument is out of its range.
    """
    check_integer("length", length, 0)
    check_number("temperature", temperature, "[0, inf)")
    if top_k is not None:
        check_integer("top_k", top_k, 1, config.vocab_size)
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    tokens = list(prompt)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for _ in range(length):
                seen = torch.tensor([tokens[-config.context :]], device=device)
                tokens.append(_sample(model(seen)[0, -1].float().cpu(), temperature, top_k, generator))
    finally:
        model.train(was_training)
    return tokens


def _sample(logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator) -> int:
    if temperature == 0.0:
        return int(logits.argmax())
    if top_k is not None:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[-1], -torch.inf)
    return int(torch.multinomial((logits / temperature).softmax(0), 1, generator=generator))


TOKENIZER = "tokenizer.json"


class GPT(nn.Module):
    """The model.

    Args:
        config: Its shape.
        seed: Seed of the initial weights, which are drawn on the CPU from a generator of their own: the
            same on every device, and no other randomness is used up or depended on.
        recompute: Forget what every so-manieth block computed and compute it again for the gradient: 1 for
            all of them; None: none. It changes memory and time, and no result.

    Raises:
        RecipeError: recompute is no whole number from 1.
    """

    fixed: Tensor | None
    rotation: Tensor | None
    mask: Tensor | None

    def __init__(self, config: GPTConfig, seed: int = 0, *, recompute: int | None = None) -> None:
        super().__init__()
        if recompute is not None:
            check_integer("recompute", recompute, 1)
        self.config = config
        self.recompute = recompute
        self.tokenizer: Tokenizer | None = Bytes() if config.vocab_size == 256 else None
        with unfilled():  # the modules' own initialisation would be thrown away
            self.embedding = nn.Embedding(config.vocab_size, config.width)
            self.positions = nn.Embedding(config.context, config.width) if config.position == "learned" else None
            self.dropout = Dropout(config.dropout)
            self.blocks = nn.ModuleList(Block(config, windowed=window < config.context) for window in config.windows)
            self.norm = nn.LayerNorm(config.width, eps=config.norm_eps, bias=config.bias)
            self.head = None if config.tied else nn.Linear(config.width, config.vocab_size, bias=False)
        self._initialise(torch.Generator().manual_seed(seed))
        self._register_tables()

    def _register_tables(self) -> None:
        """Compute what follows from the shape alone, and is not saved with the weights."""
        config, stretch = self.config, self.config.stretch
        fixed = rotation = mask = None
        if config.position == "sinusoidal":
            # As large as the embeddings begin: 0.02 in root mean square.
            fixed = (0.02 * math.sqrt(2.0) * sinusoids(config.context, config.width, stretch)).float()
        if config.position == "rope":
            trained = config.extended_from or config.context
            frequencies = rotary_frequencies(
                config.width // config.heads,
                config.rope_base,
                context=trained,
                stretch=stretch,
                method=config.extension,
            )
            gain = 0.1 * math.log(stretch) + 1.0 if config.extension == "yarn" else 1.0
            rotation = rotary_table(config.context, frequencies, gain).float()
        if min(config.windows) < config.context:
            mask = chunk_mask(config.chunk, min(config.windows))
        for name, table in (("fixed", fixed), ("rotation", rotation), ("mask", mask)):
            self.register_buffer(name, table, persistent=False)

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
        scaling = self.config.scaling
        narrower = math.sqrt(scaling.wider(self.config.width)) if scaling is not None and hidden else 1.0
        # With branches that are multiplied by 1 / m_L depth is accounted for.
        depth = self.config.depth * self.config.branch
        return 0.02 / math.sqrt(2 * depth) / narrower if residual else 0.02 / narrower

    @property
    def in_pieces(self) -> bool:
        """Whether logits are so many that a training is not to have them whole."""
        plain = self.head is None or type(self.head) is nn.Linear
        return plain and self.config.vocab_size >= LARGE_VOCABULARY

    def forward(self, tokens: Tensor, read: Callable[[Tensor, Tensor], Any] | None = None) -> Any:
        """Return logits for the token after each.

        Args:
            tokens: (batch, length), whole numbers below vocab_size; length up to the context.
            read: What is to be done in place of making logits, with what they are made of, (batch, length, width), and
                the head's weight, (vocab_size, width), where `in_pieces` says that this is all that a head is.

        Returns:
            (batch, length, vocab_size); or what `read` returns.

        Raises:
            RecipeError: The sequence is longer than the context.
        """
        length = tokens.shape[1]
        if length > self.config.context:
            raise RecipeError("length", length, f"up to the context of {self.config.context}; see extend_context")
        x = self.embedding(tokens)
        table = self.fixed if self.positions is None else self.positions.weight
        x = self.dropout(x if table is None else x + table[:length])
        rotation = None if self.rotation is None else self.rotation[:, :length]
        for number, (block, window) in enumerate(zip(self.blocks, self.config.windows, strict=True)):
            mask = self.mask if window < length else None
            x = run_block(block, number, self.recompute, x, rotation, mask)
        x = self.norm(x)
        if self.config.readout != 1.0:
            x = x * self.config.readout
        if read is not None:
            return read(x, self.embedding.weight if self.head is None else self.head.weight)
        logits: Tensor = F.linear(x, self.embedding.weight) if self.head is None else self.head(x)
        return logits

    def generate(
        self,
        prompt: str | bytes,
        length: int = 200,
        *,
        temperature: float = 0.8,
        top_k: int | None = None,
        seed: int = 0,
    ) -> str:
        """Continue a text, token by token.

        Args:
            prompt: What to go on from; empty stands for a new line.
            length: Number of tokens to add.
            temperature: 1 samples as trained, less is safer, 0 takes the likeliest.
            top_k: Sample only among this many likeliest tokens; None: among all.
            seed: Same seed, same text.

        Returns:
            The prompt and its continuation; bytes that are no valid UTF-8 become U+FFFD.

        Raises:
            RecipeError: It is not known what the model's tokens stand for, or an argument is out of its range.
        """
        if self.tokenizer is None:
            raise RecipeError("vocab_size", self.config.vocab_size, "256, or a `tokenizer` given to the model")
        start = self.tokenizer.encode((prompt.encode() if isinstance(prompt, str) else prompt) or b"\n").tolist()
        tokens = continue_tokens(self, start, length, self.config, temperature=temperature, top_k=top_k, seed=seed)
        return self.tokenizer.decode(tokens).decode("utf-8", errors="replace")

    def save(self, folder: Path | str, **notes: Any) -> None:
        """Write what `load` reads; nothing in it can run code.

        model.safetensors has the weights, config.json the shape, tokenizer.json the tokens if they are not bytes.

        Args:
            folder: Where; made if it is not there.
            notes: Plain data to keep in config.json beside the shape.
        """
        write_model(folder, self, {"model": self.config.to_json(), **notes})
        if isinstance(self.tokenizer, BPE):
            (Path(folder) / TOKENIZER).write_text(self.tokenizer.to_json(), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path | str, device: torch.device | str = "cpu") -> GPT:
        """Read a model that `save` wrote, ready for use (in eval mode).

        Raises:
            RecipeError: The folder holds no such model, or weights of another shape than its config.json says.
        """
        model = read_model(folder, lambda config: cls(GPTConfig.from_json(config["model"])))
        tokenizer = Path(folder) / TOKENIZER
        if tokenizer.is_file():
            model.tokenizer = BPE(tokenizer.read_text(encoding="utf-8"), model.config.vocab_size)
        return model.to(device).eval()
