"""Description of a pre-trained model, read from its folder without torch and without running its code.

The folder is written by `GPT.save`, or is a Hugging Face causal language model with config.json and safetensors
weights. Names and shapes are read from the headers, so that sizes and errors are known before a model is built.
"""

import hashlib
import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from evo_tune.errors import OptionError, RecipeError
from evo_tune.text import one_line
from evo_tune.training.recipe.models.gpt_config import GPTConfig


def check_targets(targets: object) -> None:
    """Require at least one pattern.

    Raises:
        RecipeError: `targets` is anything else.
    """
    if not isinstance(targets, tuple) or not targets or not all(isinstance(t, str) and t for t in targets):
        raise RecipeError("targets", targets, "a tuple of patterns such as ('attention.qkv', 'ffn.*')")


def matching_layers(names: Collection[str], targets: Sequence[str]) -> list[str]:
    """Return the names that match a pattern, in their order.

    Args:
        names: Names of linear layers.
        targets: Patterns: a full name, its last parts, or either with * and ?: 'blocks.0.attention.qkv',
            'attention.qkv', 'qkv', 'blocks.*.ffn.*', '*' for all.

    Raises:
        RecipeError: A pattern matches no name; the error lists the names.
    """
    matches: set[str] = set()
    for target in targets:
        hits = {name for name in names if fnmatchcase(name, target) or fnmatchcase(name, f"*.{target}")}
        if not hits:
            raise RecipeError("targets", target, f"a pattern of one of {', '.join(names) or 'no linear layers'}")
        matches |= hits
    return [name for name in names if name in matches]


# Common choices of layers, as regular expressions of their names. The choices are queries and values (with keys if one
# layer computes all three), the whole attention, all layers of a block, and the layers that an adapter follows.
TARGET_PRESETS = {
    "qv": r"(.*\.)?(q|v|q_proj|v_proj|query|value|qkv|qkv_proj|c_attn|query_key_value|Wqkv)",
    "attention": r".*(attn|attention).*",
    "all-linear": r".*",
    "branch-outputs": r".*\.(out|o_proj|out_proj|c_proj|dense|down_proj|fc2|fc_out|dense_4h_to_h)",
}

_NOT_HIDDEN = re.compile(r".*(embed|wte|wpe|positions)|(.*\.)?(head|lm_head|score)\.")
_TRANSPOSED = ("gpt2", "openai-gpt", "imagegpt")  # their linear weights have shape (inputs, outputs)
_LARGEST_JSON = 1 << 26  # bytes; tokenizers of large models have 20 MB
_MOST_VALUES = 1 << 21  # in JSON; each takes up to 150 bytes of memory
_IMPLEMENTATIONS = (None, "eager", "sdpa")  # of attention and experts, by transformers itself
_NUMBER_OF_LAYERS = re.compile(r"(n|num)_(hidden_)?layers?")
_FILES = (".safetensors", ".json", ".txt", ".model")


@dataclass(frozen=True)
class BaseModel:
    """Pre-trained checkpoint.

    Args:
        folder: Folder of the checkpoint.
        config: Contents of config.json.
        shapes: Tensor name in the file to shape; may be empty for a GPT, whose config determines them.
    """

    folder: Path
    config: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]

    @cached_property
    def gpt(self) -> GPTConfig | None:
        """Shape of a model written by `GPT.save`; None for a Hugging Face folder."""
        shape = self.config.get("model")
        return GPTConfig.from_json(shape) if isinstance(shape, dict) else None

    @property
    def width(self) -> int:
        """Width d of the residual stream."""
        return self.gpt.width if self.gpt else int(self._field("hidden_size", "n_embd", "d_model"))

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return self.gpt.depth if self.gpt else int(self._field("num_hidden_layers", "n_layer", "num_layers"))

    @property
    def heads(self) -> int:
        """Number of attention heads."""
        return self.gpt.heads if self.gpt else int(self._field("num_attention_heads", "n_head", "num_heads"))

    @property
    def vocab_size(self) -> int:
        """Number V of tokens."""
        return self.gpt.vocab_size if self.gpt else int(self._field("vocab_size"))

    @property
    def context(self) -> int | None:
        """Longest sequence in tokens; None if config.json does not say."""
        if self.gpt:
            return self.gpt.context
        fields = ("max_position_embeddings", "n_positions", "n_ctx")
        return next((int(self.config[name]) for name in fields if self.config.get(name)), None)

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return self.gpt.parameters if self.gpt else sum(math.prod(shape) for shape in self.shapes.values())

    @cached_property
    def linears(self) -> dict[str, tuple[int, int]]:
        """Name to (inputs, outputs) of each linear layer of the blocks, without output head and embeddings."""
        if self.gpt is not None:
            d, f = self.gpt.width, self.gpt.ffn_width
            of_block = {
                "attention.qkv": (d, d + 2 * d * self.gpt.key_value_heads // self.gpt.heads),
                "attention.out": (d, d),
                "ffn.up": (d, f),
                "ffn.out": (f, d),
            }
            return {f"blocks.{block}.{name}": sizes for block in range(self.depth) for name, sizes in of_block.items()}
        swap = self.config.get("model_type") in _TRANSPOSED
        return {
            name.removesuffix(".weight"): (shape[0], shape[1]) if swap else (shape[1], shape[0])
            for name, shape in self.shapes.items()
            if len(shape) == 2 and name.endswith(".weight") and not _NOT_HIDDEN.match(name)
        }

    def targets(self, names: str) -> tuple[str, ...]:
        """Return the layers for a key of `TARGET_PRESETS` or for comma-separated patterns.

        Raises:
            RecipeError: No layer matches; the error lists the layers.
        """
        if names not in TARGET_PRESETS:
            patterns = tuple(part.strip() for part in names.split(",") if part.strip())
            return tuple(matching_layers(self.linears, patterns or ("",)))
        if not self.has(names):
            raise RecipeError("targets", names, f"patterns of some of {', '.join(self.linears) or 'no linear layers'}")
        return tuple(name for name in self.linears if re.fullmatch(TARGET_PRESETS[names], name))

    def has(self, choice: str) -> bool:
        """Return whether any layer matches a key of `TARGET_PRESETS`."""
        return any(re.fullmatch(TARGET_PRESETS[choice], name) for name in self.linears)

    def window(self, context: int | None) -> int:
        """Return the tokens per window: `context`, or else the limit of the base, at most 512.

        Raises:
            OptionError: `context` is above the limit of the base.
        """
        longest = self.context or 1 << 20
        length = min(longest, 512) if context is None else context
        if not 2 <= length <= longest:
            raise OptionError(f"-o context={length}: expected 2 to {longest} tokens, what the base takes")
        return length

    def flops_per_token(self, length: int, trainable: int) -> float:
        """Return the FLOPs per token of training some of the weights, or added ones.

        A frozen multiplying weight counts 4, since it needs no gradient of its own, and a trained one 6. Attention
        adds 12 · d · (T + 1) / 2 per layer, or less with a window (see `gpt_config.flops_per_token`).

        Args:
            length: Tokens T per sequence.
            trainable: Number of trained weights.
        """
        blocks = {match.group() for name in self.linears if (match := re.search(r".*?\.\d+(?=\.)", name))}
        multiply = sum(inputs * outputs for inputs, outputs in self.linears.values()) + self.width * self.vocab_size
        gpt = self.gpt
        keys = gpt.depth * gpt.keys(length) if gpt else len(blocks) * (length + 1) / 2
        return 4.0 * multiply + 6.0 * trainable + 12.0 * self.width * keys

    def sha256(self) -> str:
        """Return the SHA-256 of the files that determine the model and its tokenizer."""
        digest = hashlib.sha256()
        for path in _files(self.folder):
            stat = path.stat()
            digest.update(f"{path.name}:{_file_sha256(path, stat.st_size, stat.st_mtime_ns)}\n".encode())
        return digest.hexdigest()

    def _field(self, *names: str) -> Any:
        for name in names:
            value = self.config.get(name)
            if isinstance(value, int) and value > 0:
                return value
        raise _refusal(self.folder, f"a config.json with {' or '.join(names)}, at least 1")


@lru_cache(maxsize=64)  # keyed by size and time, since a worker calls it before every training
def _file_sha256(path: Path, size: int, changed: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _refusal(folder: Path, needed: str) -> RecipeError:
    return RecipeError("base", str(folder), needed)


def read_base(folder: Path | str) -> BaseModel:
    """Read the description of a checkpoint from its folder.

    Raises:
        RecipeError: The folder is missing or not a checkpoint, it has only pickled weights, which can run code when
            opened, or its shapes contradict config.json.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise _refusal(folder, f"a folder with config.json and model.safetensors (from {Path.cwd()})")
    _files(folder)
    config = _read_json(folder, "config.json")
    shapes: dict[str, tuple[int, ...]] = {}
    for name in _weight_files(folder):
        try:
            with safe_open(folder / name, framework="numpy") as tensors:
                shapes |= {tensor: tuple(tensors.get_slice(tensor).get_shape()) for tensor in tensors.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise _refusal(folder, f"a {name} that can be read ({error})") from error
    _check_config(folder, config, len(shapes))
    base = BaseModel(folder.resolve(), config, shapes)
    if base.gpt is not None:
        stored = sum(math.prod(shape) for shape in shapes.values())
        if stored != base.gpt.parameters and not base.gpt.removed:
            raise _refusal(base.folder, f"{base.gpt.parameters} weights, as its config.json says, and not {stored}")
    elif "model_type" not in config:
        raise _refusal(base.folder, "a config.json with model (GPT.save) or model_type (Hugging Face)")
    elif (shape := (base.vocab_size, base.width)) not in shapes.values():
        raise _refusal(base.folder, f"a tensor of shape {shape}, as its config.json says, for the tokens")
    return base


def _check_config(folder: Path, config: dict[str, Any], tensors: int) -> None:
    """Refuse a config that names code of attention or experts, or more layers than there are tensors.

    Its names override what the caller asks for, also in the configs of parts: transformers would download and execute
    the code.

    Raises:
        RecipeError: The config does so.
    """
    parts: list[Any] = [config]
    while parts:
        part = parts.pop()
        parts += part if isinstance(part, list) else []
        for name, value in part.items() if isinstance(part, dict) else ():
            if "implementation" in name and value not in _IMPLEMENTATIONS:
                shown = one_line(repr(value))
                raise _refusal(
                    folder, f"a config.json in which {one_line(name)} is eager or sdpa, not {shown}: remove it"
                )
            if _NUMBER_OF_LAYERS.fullmatch(name) and isinstance(value, int) and not 0 < value <= max(1, tensors):
                raise _refusal(
                    folder, f"a config.json with 1 to {tensors} in {name}, its number of tensors, not {value}"
                )
            parts.append(value)


def _files(folder: Path) -> list[Path]:
    """Return the files that determine a model and its tokenizer, sorted.

    All that reads the folder later relies on this check: opening a FIFO waits for ever, and a device has no end.

    Raises:
        RecipeError: One of them is no regular file, or too large a JSON file, or the folder cannot be read.
    """
    try:
        paths = [path for path in folder.iterdir() if path.suffix in _FILES]
    except OSError as error:
        raise _refusal(folder, f"a folder that can be read ({error.strerror})") from error
    files = sorted(path for path in paths if path.exists() and not path.is_dir())
    for path in files:
        if not path.is_file():
            raise _refusal(folder, f"a {path.name} that is a regular file")
        if path.suffix == ".json" and path.stat().st_size > _LARGEST_JSON:
            raise _refusal(folder, f"a {path.name} of at most {_LARGEST_JSON} bytes")
    return files


def parse_json(text: bytes) -> Any:
    """Return the data in JSON that may be a stranger's.

    Raises:
        ValueError: It is no JSON, or has more than 2 million values, which would fill the memory.
        RecursionError: It is too deep.
    """
    values = text.count(b",") + text.count(b"[") + text.count(b"{")
    if values > _MOST_VALUES:
        raise ValueError(f"it has about {values} values: expected at most {_MOST_VALUES}")
    return json.loads(text)


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    try:
        data = parse_json((folder / name).read_bytes())
    except FileNotFoundError:
        raise _refusal(folder, f"a checkpoint's folder, with {name} in it") from None
    except (OSError, ValueError, RecursionError) as error:
        raise _refusal(folder, f"a {name} that can be read ({error})") from error
    if not isinstance(data, dict):
        raise _refusal(folder, f"a {name} that holds an object")
    return data


def _weight_files(folder: Path) -> list[str]:
    """Return the names of the safetensors files of a checkpoint."""
    single, index = "model.safetensors", "model.safetensors.index.json"
    if (folder / single).is_file():
        return [single]
    if (folder / index).is_file():
        weight_map = _read_json(folder, index).get("weight_map")
        names = sorted({str(name) for name in weight_map.values()}) if isinstance(weight_map, dict) else []
        if names and all(Path(name).name == name and name.endswith(".safetensors") for name in names):
            return names
        raise _refusal(folder, f"names of .safetensors files in {index}")
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl"))
    if pickled:
        reason = "pickles can run code when they are opened; save with safe_serialization=True"
        raise _refusal(folder, f"{single}, not only {', '.join(pickled)}: {reason}")
    raise _refusal(folder, f"a checkpoint's folder, with {single} in it")
