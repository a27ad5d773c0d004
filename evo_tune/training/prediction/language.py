"""A language model that was exported: it continues prompts, and scores texts as its training did."""

import codecs
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evo_tune.errors import UsageError
from evo_tune.training import TuningText, evaluation_blocks
from evo_tune.training import encode as encode_by_folder
from evo_tune.training.evaluation import AT_ONCE, evaluate_windows
from evo_tune.training.models.gpt import stream_tokens
from evo_tune.training.prediction.about import ScoredText, TrainingFacts
from evo_tune.training.prediction.memory import tokens_bytes
from evo_tune.training.prediction.model import Model, Part
from evo_tune.training.prediction.readers import list_files, read_text_file
from evo_tune.training.reading import evaluate_halves
from evo_tune.training.recipe import Tokenizer
from evo_tune.training.recipe.models.base import BaseModel
from evo_tune.training.recipe.models.gpt_config import GPTConfig
from evo_tune.training.tuning.pretrained import tokenizer_of

# Tokens to add to a prompt by default, and the temperature.
LENGTH, TEMPERATURE = 200, 0.8

# Number of scored bytes where the folder does not say how the training was judged.
WHOLE = 1 << 40


class OwnTokens:
    """Tokens of evo-tune's own models: bytes, or byte pairs."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def encode(self, text: bytes) -> Tensor:
        """Return the tokens of a text, (n,)."""
        return torch.from_numpy(self._tokenizer.encode(text).astype("int32"))

    def pieces(self, tokens: Iterator[int]) -> Iterator[str]:
        """Yield the text of tokens as they come."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for token in tokens:
            yield decoder.decode(self._tokenizer.decode([token]))
        yield decoder.decode(b"", final=True)


class ForeignTokens:
    """Tokens of a Hugging Face folder; see `OwnTokens`."""

    def __init__(self, base: BaseModel) -> None:
        self._base = base

    def encode(self, text: bytes) -> Tensor:
        return encode_by_folder(self._base, text)

    def pieces(self, tokens: Iterator[int]) -> Iterator[str]:
        tokenizer, tokens_so_far, before = tokenizer_of(self._base), list[int](), ""
        for token in tokens:
            tokens_so_far.append(token)
            text: str = tokenizer.decode(tokens_so_far)
            if not text.endswith("\ufffd"):  # the rest of a character is in the next token
                yield text[len(before) :]
                before = text


class TextFiles:
    """Text files, one sample each."""

    def __init__(self) -> None:
        self.remarks: dict[str, str] = {}

    def parts(self, path: Path, keep: Sequence[str]) -> Iterator[Part]:
        """Yield the texts of a file or a folder; see `Reader.parts`."""
        if keep:
            raise UsageError(f"--keep {keep[0]}: texts have no columns: leave it out")
        for file in list_files(path):
            yield Part(read_text_file(file), 1, {"file": [str(file)]}, [None])


class LanguageModel(Model):
    """A language model.

    Args:
        folder: See `Model`.
        network: Module that maps tokens to logits.
        vocabulary: Its tokens.
        shape: Its shape, with the longest sequence and the number of tokens.
        about: See `Model`.
        tuned: Whether it was judged as a tuned model, by windows of tokens.
        more: device, threads and limit, see `Model`.
    """

    task = "text-generation"

    def __init__(
        self,
        folder: Path,
        network: nn.Module,
        vocabulary: OwnTokens | ForeignTokens,
        shape: GPTConfig | BaseModel,
        about: TrainingFacts,
        tuned: bool,
        **settings: Any,
    ) -> None:
        super().__init__(folder, network, about, **settings)
        self.vocabulary, self.shape, self.tuned = vocabulary, shape, tuned
        self.context, self.vocab_size = shape.context, shape.vocab_size
        self.reader = TextFiles()

    def stream(
        self,
        prompt: str,
        length: int = LENGTH,
        *,
        temperature: float = TEMPERATURE,
        top_k: int | None = None,
        seed: int = 0,
    ) -> Iterator[str]:
        """Yield the continuation of a prompt, piece by piece.

        Args:
            prompt: Text to continue; if empty, a new line.
            length: Number of tokens to add.
            temperature: Divisor of the logits; 1 samples from the model's distribution, 0 takes the most likely token.
            top_k: Number of most likely tokens to sample from; None: all.
            seed: Seed of the sampling; the same seed gives the same text.

        Raises:
            RecipeError: An argument is out of its range.
        """
        start = self.vocabulary.encode(prompt.encode("utf-8", "replace") or b"\n").tolist()
        self._require_memory(1, min(self.context or 1 << 62, len(start) + length))
        limits: dict[str, Any] = {"context": self.context, "vocab_size": self.vocab_size}
        tokens = stream_tokens(self.network, start, length, **limits, temperature=temperature, top_k=top_k, seed=seed)
        with self.computing():
            yield from self.vocabulary.pieces(tokens)

    def generate(self, prompt: str, length: int = LENGTH, **sampling: Any) -> str:
        """Return a prompt with its continuation; see `stream`."""
        return prompt + "".join(self.stream(prompt, length, **sampling))

    def predict(self, data: Sequence[str], length: int = LENGTH, **sampling: Any) -> list[str]:
        """Return the continuation of each prompt; see `stream`.

        Raises:
            UsageError: The prompts are one text.
            RecipeError: See `stream`.
        """
        if isinstance(data, str):
            raise UsageError("predict: one text: expected a list of prompts, or generate(prompt)")
        return ["".join(self.stream(prompt, length, **sampling)) for prompt in data]

    def evaluate(self, data: str | bytes) -> dict[str, float]:
        """Return loss (nats per token) and bpb (bits per byte) of a text, from as much of it as judged the training.

        Raises:
            RecipeError: The text has fewer than two bytes or tokens.
        """
        return self.metrics(self.outputs(data), np.zeros(1))

    def outputs(self, data: str | bytes) -> NDArray[np.float64]:
        """Return summed loss, scored tokens and scored bytes of a text, (1, 3)."""
        text = data.encode("utf-8", "replace") if isinstance(data, str) else data
        encode, judged = self.vocabulary.encode, self.about.judged
        judged = judged or ScoredText(block=self.context or 1024, count=WHOLE)
        context = judged.block if self.tuned else self.context or judged.block
        block = min(judged.block, len(text))
        windows_in_all = -(-block // context) * max(1, min(judged.count, len(text)) // max(1, block))
        self._require_memory(max(1, AT_ONCE // context), context, windows_in_all)
        with self.computing() as how:
            if self.tuned:
                tokens = encode(text)
                share = len(tokens) / max(1, len(text))
                tuning = TuningText(tokens, tokens, tokens, share, share, judged.block, judged.count)
                total = evaluate_windows(self.network, tuning.held_out_windows(), **how)
                size = total.count / share
            else:
                blocks = evaluation_blocks(text, encode, context=context, count=judged.count, block=judged.block)
                first_halves, second_halves = evaluate_halves(self.network, blocks, **how)
                total = first_halves + second_halves
                size = len(blocks) * min(judged.block, len(text) - 1)
        if size < 0.99 * len(text) - 1:
            self.reader.remarks["scored"] = "only a part of the text was scored, as in training"
        return np.array([[total.nll, total.count, size]], np.float64)

    def _require_memory(self, at_once: int, length: int, windows: int = 0) -> None:
        """Refuse windows of so many tokens, `at_once` in a pass, that would fill the memory; see `MemoryLimit`."""
        needed = tokens_bytes(self.shape, at_once, length) + 32.0 * windows * length  # inputs and targets, twice
        self.limit.require(needed, f"reading {length} tokens at once")

    def columns(self, outputs: NDArray[np.float64]) -> dict[str, Any]:
        """Return the columns of the scores, by name."""
        nll, tokens, size = outputs.T
        return {"bytes": size.round().astype(int), "loss": nll / tokens, "bits_per_byte": nll / math.log(2.0) / size}

    def targets(self, truth: Sequence[Any]) -> NDArray[np.float64]:
        """Return a number for each text: a text is its own target."""
        return np.zeros(len(truth))

    def metrics(self, outputs: NDArray[np.float64], targets: NDArray[np.float64]) -> dict[str, float]:
        """Return loss and bits per byte of all texts."""
        nll, tokens, size = outputs.sum(0)
        return {"loss": float(nll / tokens), "bpb": float(nll / math.log(2.0) / size)}
