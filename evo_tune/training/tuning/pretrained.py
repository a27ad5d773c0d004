"""Builds the model of a checkpoint's folder (see `base`), feeds it text, and writes it back in its own format.

Hugging Face folders go through transformers: local files only, weights in safetensors only, none of the
folder's own code. Knows nothing of how a model is trained on.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evo_tune.errors import OptionError, RecipeError
from evo_tune.recipe.data.corpus import BPE, Bytes, Tokenizer
from evo_tune.recipe.models.base import Base
from evo_tune.recipe.models.gpt_config import LARGE_VOCABULARY
from evo_tune.training.models.gpt import GPT, TOKENIZER
from evo_tune.training.tuning.lora import fold_lora

__all__ = ["CausalLM", "encode", "load_pretrained", "save_merged"]

_LOCAL = {"local_files_only": True, "trust_remote_code": False}


class CausalLM(nn.Module):
    """A Hugging Face model of language that maps tokens to logits, as a `GPT` does.

    GPT-2's layers of transposed weights become linear ones, over the same memory. Its own dropout is switched off: its
    noise would be another one for each way in which a step is cut into passes.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self._transposed = [(name, layer) for name, layer in model.named_modules() if type(layer).__name__ == "Conv1D"]
        for name, layer in self._transposed:
            plain = nn.Linear(layer.nx, layer.nf, device="meta")
            plain.weight, plain.bias = nn.Parameter(layer.weight.detach().t()), layer.bias
            model.set_submodule(name, plain)
        for module in model.modules():
            for name, value in list(vars(module).items()):
                if isinstance(value, float) and (isinstance(module, nn.Dropout) or "drop" in name):
                    setattr(module, name, 0.0)
        self._head_is_all = self._check_head()

    @torch.no_grad()
    def _check_head(self) -> bool:
        """Whether logits are what the head makes of the last layer, and nothing is done to them after."""
        head = self.model.get_output_embeddings()
        if not self._has_plain_head() or len(head.weight) < LARGE_VOCABULARY:
            return False
        was_training, tokens = self.training, torch.arange(2, device=head.weight.device)[None]
        self.eval()
        made = F.linear(self._last_layer(tokens), head.weight)
        alike = torch.allclose(self(tokens), made, rtol=1e-4, atol=1e-5)
        self.train(was_training)
        return alike

    def _last_layer(self, tokens: Tensor) -> Tensor:
        hidden: Tensor = self.model.base_model(input_ids=tokens, use_cache=False)[0]
        return hidden

    @property
    def in_pieces(self) -> bool:
        """Whether logits are so many that a training is not to have them whole (see `GPT`)."""
        return self._head_is_all and self._has_plain_head()

    def _has_plain_head(self) -> bool:
        head = self.model.get_output_embeddings()
        return type(head) is nn.Linear and not isinstance(head.bias, Tensor)

    def forward(self, tokens: Tensor, read: Callable[[Tensor, Tensor], Any] | None = None) -> Any:
        """Return logits for the token after each, or what `read` makes of the last layer and the head (see `GPT`)."""
        if read is not None:
            return read(self._last_layer(tokens), self.model.get_output_embeddings().weight)
        return self.model(input_ids=tokens, use_cache=False).logits

    def recompute_blocks(self) -> None:
        """Have every block computed again for the gradient.

        Raises:
            OptionError: The model has no way to.
        """
        new, old = (
            "activation_checkpointing_enable",
            "gradient_checkpointing_enable",
        )  # since transformers 5, and before
        try:
            getattr(self.model, new if hasattr(self.model, new) else old)({"use_reentrant": False})
        except ValueError as error:
            raise OptionError(f"-o recompute=1: {error}: leave it out") from error

    def original(self) -> Any:
        """Return the model with its own layers back in their places; this one is of no use after."""
        for name, layer in self._transposed:
            self.model.set_submodule(name, layer)
        return self.model


def load_pretrained(base: Base, device: torch.device | str = "cpu") -> GPT | CausalLM:
    """Return the model of a folder, in float32 and in eval mode.

    Raises:
        RecipeError: The weights are not those of the model that config.json names, or transformers is not
            there or does not know it.
    """
    if base.gpt is not None:
        return GPT.load(base.folder, device)
    loader = _transformers().AutoModelForCausalLM
    try:
        model, found = loader.from_pretrained(
            base.folder, use_safetensors=True, output_loading_info=True, attn_implementation="sdpa", **_LOCAL
        )
    except (OSError, ValueError, RuntimeError, ImportError, KeyError) as error:
        raise RecipeError("base", str(base.folder), f"a causal language model ({_first_line(error)})") from error
    missing = sorted(found["missing_keys"])
    if missing:  # they would begin as noise
        raise RecipeError("base", str(base.folder), f"all of its weights; {', '.join(missing)} are not there")
    return CausalLM(model.float().to(device)).eval()


def encode(base: Base, text: bytes) -> Tensor:
    """Return a text's tokens, (n,), of an integer type: its bytes, or those of the folder's tokenizer.

    Raises:
        RecipeError: There is no tokenizer, or it gives tokens that the model does not know.
    """
    if base.gpt is not None:
        return torch.from_numpy(_tokenizer_of_gpt(base).encode(text).astype("int32"))
    words = text.decode("utf-8", errors="replace")
    tokens = torch.tensor(_tokenizer(base)(words, add_special_tokens=False, verbose=False)["input_ids"])
    if len(tokens) and int(tokens.max()) >= base.vocab_size:
        allowed = f"a tokenizer of {base.vocab_size} tokens, not one that gives {int(tokens.max())}"
        raise RecipeError("base", str(base.folder), allowed)
    return tokens


def save_merged(model: nn.Module, base: Base, folder: Path, **notes: Any) -> None:
    """Write a model in the format of its base, low-rank maps merged; it is of no use after.

    Args:
        model: From `load_pretrained`, with or without LoRA.
        base: What it came from.
        folder: Where; made if it is not there.
        notes: Plain data to keep in config.json of a `GPT`.
    """
    fold_lora(model)
    if isinstance(model, GPT):
        model.save(folder, **notes)
        return
    assert isinstance(model, CausalLM)
    model.original().save_pretrained(folder)
    _tokenizer(base).save_pretrained(folder)


def _tokenizer_of_gpt(base: Base) -> Tokenizer:
    if (base.folder / TOKENIZER).is_file():
        return BPE((base.folder / TOKENIZER).read_text(encoding="utf-8"), base.vocab_size)
    if base.vocab_size != 256:
        raise RecipeError(
            "base", str(base.folder), f"a {TOKENIZER} for its {base.vocab_size} tokens, or a model of bytes"
        )
    return Bytes()


def _tokenizer(base: Base) -> Any:
    try:
        return _transformers().AutoTokenizer.from_pretrained(base.folder, **_LOCAL)
    except (OSError, ValueError, RuntimeError, ImportError, KeyError) as error:
        raise RecipeError("base", str(base.folder), f"a folder with a tokenizer ({_first_line(error)})") from error


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        what = "an installed transformers, for a Hugging Face folder: pip install 'evo-tune[hf]'"
        raise RecipeError("transformers", None, what) from error
    transformers.utils.logging.disable_progress_bar()
    return transformers


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
