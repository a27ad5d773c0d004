"""Load a pre-trained model and the text to tune it to."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evo_tune.errors import OptionError, RecipeError
from evo_tune.training.data.batches import evaluation_windows
from evo_tune.training.hardware.device import MicroBatch
from evo_tune.training.models.gpt import GPT, TOKENIZER
from evo_tune.training.recipe.data.tokens import BPE, Bytes, Tokenizer
from evo_tune.training.recipe.models.base import BaseModel, read_base
from evo_tune.training.recipe.models.gpt_config import LARGE_VOCABULARY
from evo_tune.training.recipe.tuning import read_tuning_text
from evo_tune.training.tuning.weights import fold_lora

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def halve_frozen(model: nn.Module, precision: str) -> None:
    """Store the frozen matrices of a model in a precision, in place; 'fp32' changes nothing.

    All later passes, including evaluations, must use that precision's autocast.
    """
    if precision not in _DTYPES:
        return
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding) and not module.weight.requires_grad:
            module.weight.data = module.weight.data.to(_DTYPES[precision])
            if isinstance(module, nn.Embedding):
                module.register_forward_hook(lambda _, __, output: output.float())


# Most numbers of a model's buffers, such as tables of positions, which are not among its weights.
_LARGEST_BUFFERS = 1 << 28

_LOCAL = {"local_files_only": True, "trust_remote_code": False}


class CausalLM(nn.Module):
    """A Hugging Face language model that maps tokens to logits, as a `GPT` does.

    GPT-2's layers of transposed weights become linear layers over the same memory. The model's own dropout is disabled:
    its noise would depend on how a step is cut into passes.
    """

    # Beginning of the names of all weights, which those in the folder do not have.
    prefix = "model."

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.transposed = [(name, layer) for name, layer in model.named_modules() if type(layer).__name__ == "Conv1D"]
        for name, layer in self.transposed:
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
        """Return whether the logits are the head's product with the last layer, without later changes."""
        head = self.model.get_output_embeddings()
        if not self._has_plain_head() or len(head.weight) < LARGE_VOCABULARY:
            return False
        was_training, tokens = self.training, torch.arange(2, device=head.weight.device)[None]
        self.eval()
        logits = F.linear(self._last_layer(tokens), head.weight)
        same = torch.allclose(self(tokens), logits, rtol=1e-4, atol=1e-5)
        self.train(was_training)
        return same

    def _last_layer(self, tokens: Tensor) -> Tensor:
        return cast(Tensor, self.model.base_model(input_ids=tokens, use_cache=False)[0])

    @property
    def in_pieces(self) -> bool:
        """Whether the logits are so large that a training should not hold them all (see `GPT`)."""
        return self._head_is_all and self._has_plain_head()

    def _has_plain_head(self) -> bool:
        head = self.model.get_output_embeddings()
        return type(head) is nn.Linear and not isinstance(head.bias, Tensor)

    def forward(self, tokens: Tensor, read: Callable[[Tensor, Tensor], Any] | None = None) -> Any:
        """Return logits for the token after each, or the result of `read` (see `GPT`)."""
        if read is not None:
            return read(self._last_layer(tokens), self.model.get_output_embeddings().weight)
        return self.model(input_ids=tokens, use_cache=False).logits

    def recompute_blocks(self) -> None:
        """Recompute every block in the backward pass.

        Raises:
            OptionError: The model does not support it.
        """
        old_name = "gradient_checkpointing_enable"  # before transformers 5
        enable = getattr(self.model, "activation_checkpointing_enable", None) or getattr(self.model, old_name)
        try:
            enable({"use_reentrant": False})
        except ValueError as error:
            raise OptionError(f"-o recompute=1: {error}: leave it out") from error

    def original(self) -> Any:
        """Return the model with its original layers; do not use this one afterwards."""
        for name, layer in self.transposed:
            self.model.set_submodule(name, layer)
        return self.model


def load_pretrained(base: BaseModel, device: torch.device | str = "cpu") -> GPT | CausalLM:
    """Return the model of a folder, in float32 and in eval mode.

    Raises:
        RecipeError: The weights do not fit the model in config.json, or transformers is not
            installed or does not support it.
    """
    if base.gpt is not None:
        return GPT.load(base.folder, device)
    _check_size(base)
    options = {"use_safetensors": True, "output_loading_info": True, "attn_implementation": "sdpa"}
    model, info = _load("AutoModelForCausalLM", base.folder, "a causal language model", **options)
    missing = sorted(info["missing_keys"])
    if missing:  # they would be random
        raise RecipeError("base", str(base.folder), f"all of its weights; {', '.join(missing)} are not there")
    return CausalLM(model.float().to(device)).eval()


def _check_size(base: BaseModel) -> None:
    """Refuse a config whose model is larger than its weights, before memory is taken for it.

    Raises:
        RecipeError: It is, or transformers cannot build the model.
    """
    needed = "a causal language model"
    config = _load("AutoConfig", base.folder, needed)
    with torch.device("meta"):
        model = _call(
            lambda auto: auto.from_config(config, trust_remote_code=False, attn_implementation="sdpa"),
            "AutoModelForCausalLM",
            base.folder,
            needed,
        )
    numbers = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    if numbers > base.parameters + _LARGEST_BUFFERS:
        expected = f"a config.json whose model has the {base.parameters} numbers of its weights, not {numbers}"
        raise RecipeError("base", str(base.folder), expected)


def encode(base: BaseModel, text: bytes) -> Tensor:
    """Return a text's tokens, (n,), of an integer type: its bytes, or those of the folder's tokenizer.

    Raises:
        RecipeError: There is no tokenizer, or it gives tokens that the model does not know.
    """
    if base.gpt is not None:
        tokenizer: Tokenizer = Bytes()
        if (base.folder / TOKENIZER).is_file():
            tokenizer = BPE((base.folder / TOKENIZER).read_text(encoding="utf-8"), base.vocab_size)
        elif base.vocab_size != 256:
            expected = f"a {TOKENIZER} for its {base.vocab_size} tokens, or a model of bytes"
            raise RecipeError("base", str(base.folder), expected)
        return torch.from_numpy(tokenizer.encode(text).astype("int32"))
    words = text.decode("utf-8", errors="replace")
    tokens = torch.tensor(tokenizer_of(base)(words, add_special_tokens=False, verbose=False)["input_ids"])
    if len(tokens) and int(tokens.max()) >= base.vocab_size:
        allowed = f"a tokenizer of {base.vocab_size} tokens, not one that gives {int(tokens.max())}"
        raise RecipeError("base", str(base.folder), allowed)
    return tokens


def save_merged(model: nn.Module, base: BaseModel, folder: Path, **notes: Any) -> None:
    """Write a model in the format of its base, with merged low-rank maps; do not use the model afterwards.

    Args:
        model: Model from `load_pretrained`, with or without LoRA.
        base: Base of the model.
        folder: Folder to write; created if missing.
        notes: Plain data to keep in config.json of a `GPT`.
    """
    fold_lora(model)
    if isinstance(model, GPT):
        model.save(folder, **notes)
        return
    assert isinstance(model, CausalLM)
    model.original().save_pretrained(folder)
    tokenizer_of(base).save_pretrained(folder)


def tokenizer_of(base: BaseModel) -> Any:
    """Return the tokenizer of a Hugging Face folder.

    Raises:
        RecipeError: There is none.
    """
    return _load("AutoTokenizer", base.folder, "a folder with a tokenizer")


def _load(kind: str, folder: Path, needed: str, **options: Any) -> Any:
    """Return what a class of transformers loads from a folder; see `_call`."""
    return _call(lambda auto_class: auto_class.from_pretrained(folder, **options, **_LOCAL), kind, folder, needed)


def _call(function: Callable[[Any], Any], kind: str, folder: Path, needed: str) -> Any:
    """Return `function` of a class of transformers, without its log, which prints the folder's strings raw.

    Raises:
        RecipeError: It fails, for whatever reason: the folder may be a stranger's.
    """
    transformers = _transformers()
    logging = transformers.utils.logging
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        return function(getattr(transformers, kind))
    except Exception as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RecipeError("base", str(folder), f"{needed} ({first_line})") from error
    finally:
        logging.set_verbosity(verbosity)


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        needed = "an installed transformers, for a Hugging Face folder: pip install 'evo-tune[hf]'"
        raise RecipeError("transformers", None, needed) from error
    transformers.utils.logging.disable_progress_bar()
    return transformers


@dataclass(frozen=True)
class TuningText:
    """A text in a base's tokens.

    Args:
        training: Training tokens, (n,).
        held_out: Validation tokens, (m,).
        test: Test tokens, (k,).
        tokens_per_byte: Tokens per byte of the validation part.
        test_tokens_per_byte: Tokens per byte of the test part.
        context: Tokens in a window.
        scored: Number of held-out tokens in the final evaluation.
    """

    training: Tensor
    held_out: Tensor
    test: Tensor
    tokens_per_byte: float
    test_tokens_per_byte: float
    context: int
    scored: int

    def held_out_windows(self) -> MicroBatch:
        """Return the windows that evaluate every training."""
        return evaluation_windows(self.held_out, context=self.context, count=self.scored, block=self.context)

    def on_test_set(self) -> "TuningText":
        """Return the same text with the test part as the held-out part."""
        return replace(self, held_out=self.test, tokens_per_byte=self.test_tokens_per_byte)

    def training_windows(self) -> MicroBatch:
        """Return fixed windows of the training text."""
        count = max(1, self.scored // 4)
        return evaluation_windows(self.training, context=self.context, count=count, block=self.context)


def load_tuning_text(base: BaseModel, data: str, context: int, scored: int) -> TuningText:
    """Return the text of a tuning.

    Args:
        base: Base that defines the tokens.
        data: File, folder or glob; empty: a part of Python's own documentation.
        context: Tokens in a window.
        scored: Number of held-out tokens in the final evaluation.

    Raises:
        OptionError: The text is too short.
        RecipeError: The text is missing or unreadable.
    """
    return TuningText(*_tokens(base.folder, base.sha256(), data, context), context, scored)


@lru_cache(maxsize=1)  # a worker trains on the same text many times
def _tokens(folder: Path, sha256: str, data: str, context: int) -> tuple[Tensor, Tensor, Tensor, float, float]:
    """Return the tokens of all three parts, and the tokens per byte of the second and the third."""
    del sha256  # the base's hash: a different base in the same folder must miss the cache
    training, held_out, test = read_tuning_text(data, context)
    base = read_base(folder)
    tokens = [encode(base, part) for part in (training, held_out, test)]
    return tokens[0], tokens[1], tokens[2], len(tokens[1]) / len(held_out), len(tokens[2]) / len(test)
