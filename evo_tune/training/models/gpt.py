"""A GPT, and text generation with it."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evo_tune.errors import RecipeError
from evo_tune.options.declare import check_integer, check_number
from evo_tune.training.hardware.device import run_block
from evo_tune.training.models import block as blocks
from evo_tune.training.models.dropout import Dropout
from evo_tune.training.models.model_files import read_model, read_verified, write_model
from evo_tune.training.models.removed import restore_parts
from evo_tune.training.recipe.data.tokens import BPE, Bytes, Tokenizer
from evo_tune.training.recipe.models.gpt_config import LARGE_VOCABULARY, GPTConfig


def stream_tokens(
    model: nn.Module,
    prompt: Sequence[int],
    length: int,
    *,
    context: int | None,
    vocab_size: int,
    temperature: float = 0.8,
    top_k: int | None = None,
    seed: int = 0,
) -> Iterator[int]:
    """Yield `length` sampled tokens that continue a prompt; the model must be in eval mode.

    Args:
        model: Module that maps (1, n) tokens to logits (1, n, vocab_size).
        prompt: Tokens to continue, at least one.
        length: Number of tokens to add (int ≥ 0).
        context: Number of last tokens that are used; None: all.
        vocab_size: Number of tokens that the model knows.
        temperature: Divisor of the logits; 1 samples from the model's distribution, 0 takes the most likely token.
        top_k: Number of most likely tokens to sample from; None: all.
        seed: Seed of the sampling's own generator; the same seed gives the same tokens.

    Raises:
        RecipeError: An argument is out of its range, or the model gives no probabilities.
    """
    check_integer("length", length, 0)
    check_number("temperature", temperature, "[0, inf)")
    if top_k is not None:
        check_integer("top_k", top_k, 1, vocab_size)
    check_integer("seed", seed, 0, 2**63 - 1)
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    tokens = list(prompt)
    for _ in range(length):
        with torch.inference_mode():
            visible = torch.tensor([tokens if context is None else tokens[-context:]], device=device)
            logits = model(visible)[0, -1].float().cpu()
            if temperature == 0.0:
                tokens.append(int(logits.argmax()))
            else:
                if top_k is not None:
                    logits = logits.masked_fill(logits < logits.topk(top_k).values[-1], -torch.inf)
                shares = (logits / temperature).softmax(0)
                if not shares.isfinite().all():
                    expected = "a larger one, or a model whose logits are finite numbers"
                    raise RecipeError("temperature", temperature, expected)
                tokens.append(int(torch.multinomial(shares, 1, generator=generator)))
        yield tokens[-1]


TOKENIZER = "tokenizer.json"

# A multiplier of a polynomial hash, prime and near 2³² / φ, and its modulus, the Mersenne prime 2³¹ − 1: products fit
# into 64 bits.
_MULTIPLIER, _MODULUS = 2_654_435_761, 2**31 - 1


def ngram_hashes(tokens: Tensor, config: GPTConfig) -> Iterator[Tensor]:
    """Yield the row of the n-gram that ends at each token, for each length from 2 to `config.ngrams`.

    Before the first token, and before the first of a document where `config.boundary` is set, n-grams are shorter.

    Args:
        tokens: (batch, length), integers.
        config: Shape of the model.

    Yields:
        (batch, length), integers below `config.ngram_rows`.
    """
    if config.ngrams == 1:
        return
    earlier = hashes = tokens.long() + 1  # 0 stands for no token
    for _ in range(config.ngrams - 1):
        if config.boundary is not None:
            earlier = earlier.masked_fill(tokens == config.boundary, 0)
        earlier = F.pad(earlier[:, :-1], (1, 0))
        hashes = (hashes * _MULTIPLIER + earlier) % _MODULUS
        yield hashes % config.ngram_rows


class GPT(nn.Module):
    """A decoder-only Transformer for language.

    Args:
        config: Shape of the model.
        seed: Seed of the initial weights, drawn on the CPU from a separate generator, so that they are
            the same on every device and no other random numbers are affected.
        recompute: Recompute every n-th block in the backward pass instead of storing its activations: 1 for
            all blocks; None: none. It changes memory and time, not the result.

    Raises:
        RecipeError: recompute is not an integer of at least 1.
    """

    # Whether blocks are compiled, and whether their masks are those of flex_attention; set by `stepping.compiling`.
    compiled = flex = False
    rotation: Tensor | None
    mask: Tensor | None

    def __init__(self, config: GPTConfig, seed: int = 0, *, recompute: int | None = None) -> None:
        super().__init__()
        if recompute is not None:
            check_integer("recompute", recompute, 1)
        self.config = config
        self.recompute = recompute
        self.tokenizer: Tokenizer | None = Bytes() if config.vocab_size == 256 else None
        with torch.random.fork_rng(devices=[]):  # the modules' own initialisation is overwritten
            self.embedding = nn.Embedding(config.vocab_size, config.width)
            self.positions = nn.Embedding(config.context, config.width) if config.position == "learned" else None
            self.ngrams = nn.ModuleList(nn.Embedding(config.ngram_rows, config.width) for _ in range(config.ngrams - 1))
            self.dropout = Dropout(config.dropout)
            windowed = config.reach < config.context
            self.blocks = nn.ModuleList(
                blocks.Block(config, windowed=windowed, vocabulary=config.vocab_size if embeds else None)
                for embeds in config.embeds_values
            )
            self.norm = blocks.norm_of(config)
        self._initialise(torch.Generator().manual_seed(seed))
        # Tables that depend on the shape alone are not saved with the weights.
        rotation, mask, stretch = None, None, config.stretch
        if config.position == "rope":
            head_dim, trained = config.width // config.heads, config.extended_from or config.context
            base = config.removed.get("rope_base", 10000.0)
            how: Any = {"context": trained, "stretch": stretch, "method": config.extension}
            frequencies = blocks.rotary_frequencies(head_dim, base, **how)
            gain = 0.1 * math.log(stretch) + 1.0 if config.extension == "yarn" else 1.0
            rotation = blocks.rotary_table(config.context, frequencies, gain).float()
        if windowed:
            mask = blocks.chunk_mask(config.chunk, config.reach)
        for name, table in (("rotation", rotation), ("mask", mask)):
            self.register_buffer(name, table, persistent=False)
        if config.removed:
            restore_parts(self, config)

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator) -> None:
        """Draw the weights according to `GPTConfig.init`; norms begin as identities."""
        config, scaling = self.config, self.config.scaling
        for name, parameter in self.named_parameters():
            if "norm" in name:
                parameter.fill_(1.0)
            elif name.endswith(".values.weight") or name.startswith("ngrams."):
                parameter.zero_()
            else:
                hidden, residual = name.startswith("blocks."), name.endswith(".out.weight")
                if config.init == "fan_in" and hidden:
                    std = 0.0 if residual else 1.0 / math.sqrt(parameter.shape[1])
                else:
                    narrower = math.sqrt(scaling.wider(config.width)) if scaling is not None and hidden else 1.0
                    # Branches multiplied by 1 / m_L already account for depth.
                    depth = config.depth * config.branch
                    std = 0.02 / math.sqrt(2 * depth) / narrower if residual else 0.02 / narrower
                parameter.normal_(0.0, std, generator=generator)

    @property
    def in_pieces(self) -> bool:
        """Whether the logits are so large that a training should not hold them all."""
        return self.config.vocab_size >= LARGE_VOCABULARY and not self.config.removed

    def forward(self, tokens: Tensor, read: Callable[[Tensor, Tensor], Any] | None = None) -> Any:
        """Return logits for the token after each position.

        Args:
            tokens: (batch, length), integers below vocab_size; length up to the context.
            read: Function called instead of computing logits, with the head's inputs, (batch, length, width), and its
                weight, (vocab_size, width); for models with `in_pieces`.

        Returns:
            (batch, length, vocab_size); or the result of `read`.

        Raises:
            RecipeError: The sequence is longer than the context.
        """
        length = tokens.shape[1]
        if length > self.config.context:
            raise RecipeError("length", length, f"up to the context of {self.config.context}; see extend_context")
        if self.compiled:
            tokens = tokens.clone()  # a slice of a larger tensor would be compiled separately
        x = self.embedding(tokens)
        for embedding, rows in zip(self.ngrams, ngram_hashes(tokens, self.config), strict=True):
            x = x + embedding(rows)
        x = self.dropout(x if self.positions is None else x + self.positions.weight[:length])
        rotation = None if self.rotation is None else self.rotation[:, :length]
        mask = self._mask(tokens)
        for number, block in enumerate(self.blocks):
            x = run_block(block, number, self.recompute, x, rotation, mask, tokens)
        x = self.norm(x)
        if read is not None:
            return read(x, self.embedding.weight)
        return F.linear(x, self.embedding.weight)

    def _mask(self, tokens: Tensor) -> Any:
        """Return the mask of all blocks, see `Attention.forward`."""
        length, boundary, window = tokens.shape[1], self.config.boundary, self.config.reach
        if boundary is not None:
            mask_of = blocks.flex_document_mask if self.flex else blocks.document_mask
            return mask_of(tokens, boundary, window)
        if window >= length:
            return None
        return blocks.flex_window_mask(length, window, tokens.device) if self.flex else self.mask

    def save(self, folder: Path | str, **notes: Any) -> None:
        """Write the model to a folder for `load`; the files cannot run code.

        model.safetensors has the weights, config.json the shape, tokenizer.json the tokens if they are not bytes.

        Args:
            folder: Folder to write; created if missing.
            notes: Plain data to add to config.json.
        """
        tokens = {TOKENIZER: self.tokenizer.to_json()} if isinstance(self.tokenizer, BPE) else {}
        write_model(folder, self, {"model": self.config.to_json(), **notes}, tokens)

    @classmethod
    def load(cls, folder: Path | str, device: torch.device | str = "cpu") -> "GPT":
        """Read a model that `save` wrote, in eval mode.

        Raises:
            RecipeError: The folder has no such model, or its weights do not fit its config.json.
        """

        def build(config: dict[str, Any]) -> GPT:
            model = cls(GPTConfig.from_json(config["model"]))
            if TOKENIZER in config["files"]:
                model.tokenizer = BPE(read_verified(folder, config, TOKENIZER).decode(), model.config.vocab_size)
            return model

        return read_model(folder, GPTConfig.from_json, build).to(device).eval()
