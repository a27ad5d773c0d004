"""A pre-trained model as a folder holds it, read without torch and without running anything in it.

A folder is one of `GPT.save`, or a Hugging Face one of a causal language model: config.json beside weights
in safetensors. Names and shapes come from the headers, so that bad folders and targets are found, and sizes
known, before a model is built.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from evo_tune.errors import OptionError, RecipeError
from evo_tune.recipe.models.gpt_config import GPTConfig


def check_targets(targets: object) -> None:
    """Require patterns, at least one.

    Raises:
        RecipeError: It is something else.
    """
    if not isinstance(targets, tuple) or not targets or not all(isinstance(t, str) and t for t in targets):
        raise RecipeError("targets", targets, "a tuple of patterns such as ('attention.qkv', 'ffn.*')")


def matching_names(names: Collection[str], targets: Sequence[str]) -> list[str]:
    """Return those names that a pattern fits, in their order.

    Args:
        names: Of linear layers.
        targets: Each a whole name, its last parts, or either with * and ? in it: 'blocks.0.attention.qkv',
            'attention.qkv', 'qkv', 'blocks.*.ffn.*', '*' for all.

    Raises:
        RecipeError: A pattern fits none; the error lists what there is.
    """
    found: set[str] = set()
    for target in targets:
        hits = {name for name in names if fnmatchcase(name, target) or fnmatchcase(name, f"*.{target}")}
        if not hits:
            raise RecipeError("targets", target, f"a pattern of one of {', '.join(names) or 'no linear layers'}")
        found |= hits
    return [name for name in names if name in found]


TARGETS = {
    "qv": r"(.*\.)?(q|v|q_proj|v_proj|query|value|qkv|qkv_proj|c_attn|query_key_value|Wqkv)",
    "attention": r".*(attn|attention).*",
    "all-linear": r".*",
    "branch-outputs": r".*\.(out|o_proj|out_proj|c_proj|dense|down_proj|fc2|fc_out|dense_4h_to_h)",
}
"""Usual choices of layers, as expressions for their names: queries and values (with the keys, where one layer
makes all three), the whole attention, all of a block, and what an adapter stands after."""

_NOT_HIDDEN = re.compile(r".*(embed|wte|wpe|positions)|(.*\.)?(head|lm_head|score)\.")
_TRANSPOSED = ("gpt2", "openai-gpt", "imagegpt")  # their linear layers hold (inputs, outputs)
_LARGEST_HEADER = 100_000_000  # bytes, as in the format's own reader


@dataclass(frozen=True)
class Base:
    """A checkpoint to begin from.

    Args:
        folder: Where it is.
        config: Its config.json.
        shapes: Shape of each tensor, by its name in the file. A GPT's follow from its config.
    """

    folder: Path
    config: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]

    @cached_property
    def gpt(self) -> GPTConfig | None:
        """The shape of one that `GPT.save` wrote; None for a Hugging Face folder."""
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
        """Heads of attention."""
        return self.gpt.heads if self.gpt else int(self._field("num_attention_heads", "n_head", "num_heads"))

    @property
    def vocab_size(self) -> int:
        """Number V of tokens."""
        return self.gpt.vocab_size if self.gpt else int(self._field("vocab_size"))

    @property
    def context(self) -> int | None:
        """Longest sequence in tokens; None if nothing says."""
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
        """Inputs and outputs of each linear layer of the blocks, by name: heads and embeddings are none."""
        if self.gpt is not None:
            return _linears_of(self.gpt)
        swap = self.config.get("model_type") in _TRANSPOSED
        return {
            name.removesuffix(".weight"): (shape[0], shape[1]) if swap else (shape[1], shape[0])
            for name, shape in self.shapes.items()
            if len(shape) == 2 and name.endswith(".weight") and not _NOT_HIDDEN.match(name)
        }

    def targets(self, names: str) -> tuple[str, ...]:
        """Return the layers that a key of `TARGETS` means, or patterns with commas between them.

        Raises:
            RecipeError: There are none; the error lists what there is.
        """
        if names not in TARGETS:
            patterns = tuple(part.strip() for part in names.split(",") if part.strip())
            return tuple(matching_names(self.linears, patterns or ("",)))
        if not self.has(names):
            raise RecipeError("targets", names, f"patterns of some of {', '.join(self.linears) or 'no linear layers'}")
        return tuple(name for name in self.linears if re.fullmatch(TARGETS[names], name))

    def has(self, choice: str) -> bool:
        """Return whether a key of `TARGETS` means any of its layers."""
        return any(re.fullmatch(TARGETS[choice], name) for name in self.linears)

    def window(self, context: int | None) -> int:
        """Return the tokens in a window: as many as asked for, or as the base takes, up to 512.

        Raises:
            OptionError: More are asked for than the base takes.
        """
        longest = self.context or 1 << 20
        length = min(longest, 512) if context is None else context
        if not 2 <= length <= longest:
            raise OptionError(f"-o context={length}: expected 2 to {longest} tokens, what the base takes")
        return length

    def new_weights(self, layers: Iterable[str], *, rank: int = 0, dora: bool = False, bottleneck: int = 0) -> int:
        """Return the number of weights that are trained beside some layers.

        r · (d_in + d_out) a layer, d_out more for DoRA; 2md + d + m an adapter.

        Args:
            layers: Their names.
            rank: r of LoRA.
            dora: Whether lengths are learnt too.
            bottleneck: m of an adapter.
        """
        sizes = [self.linears[name] for name in layers]
        if bottleneck:
            return sum(2 * bottleneck * outputs + outputs + bottleneck for _, outputs in sizes)
        return sum(rank * (inputs + outputs) + (outputs if dora else 0) for inputs, outputs in sizes)

    def flops_per_token(self, length: int, trainable: int) -> float:
        """Return the FLOPs of training a part of the weights, or some beside them, on one token.

        4 a weight that multiplies and is frozen, since it needs no gradient of its own, 6 a trained one,
        12 · d · T a layer for attention (see `flops.flops_per_token`).

        Args:
            length: Tokens T in a sequence.
            trainable: Number of trained weights.
        """
        blocks = {found.group() for name in self.linears if (found := re.search(r".*?\.\d+(?=\.)", name))}
        multiply = sum(inputs * outputs for inputs, outputs in self.linears.values()) + self.width * self.vocab_size
        gpt = self.gpt
        keys = sum(gpt.keys(window, length) for window in gpt.windows) if gpt else len(blocks) * length
        return 4.0 * multiply + 6.0 * trainable + 12.0 * self.width * keys

    def sha256(self) -> str:
        """Return the hash of all that makes the model and its tokens what they are."""
        digest = hashlib.sha256()
        for path in sorted(self.folder.iterdir()):
            if path.suffix in (".safetensors", ".json", ".txt", ".model") and path.is_file():
                stat = path.stat()
                digest.update(f"{path.name}:{_file_sha256(path, stat.st_size, stat.st_mtime_ns)}\n".encode())
        return digest.hexdigest()

    def _field(self, *names: str) -> Any:
        for name in names:
            if isinstance(self.config.get(name), int):
                return self.config[name]
        raise RecipeError("base", str(self.folder), f"a config.json with {' or '.join(names)}")


def _linears_of(config: GPTConfig) -> dict[str, tuple[int, int]]:
    d, f = config.width, config.ffn_width
    of_block = {
        "attention.qkv": (d, d + 2 * d * config.key_value_heads // config.heads),
        "attention.out": (d, d),
        "ffn.up": (d, f * (2 if config.ffn == "swiglu" else 1)),
        "ffn.out": (f, d),
    }
    return {f"blocks.{block}.{name}": sizes for block in range(config.depth) for name, sizes in of_block.items()}


@lru_cache(maxsize=64)  # by size and time: a worker asks before every training
def _file_sha256(path: Path, size: int, changed: int) -> str:
    del size, changed
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_base(folder: Path | str) -> Base:
    """Read what a checkpoint's folder says of itself.

    Raises:
        RecipeError: It is missing or no checkpoint, it holds only weights that can run code when they are
            opened (pickles), or shapes and config.json do not belong together.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise RecipeError("base", str(folder), f"a folder with config.json and model.safetensors (from {Path.cwd()})")
    config = _read_json(folder, folder / "config.json")
    shapes: dict[str, tuple[int, ...]] = {}
    for file in _weight_files(folder):
        shapes.update(_shapes(folder, file))
    base = Base(folder.resolve(), config, shapes)
    _check(base)
    return base


def _read_json(folder: Path, path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError("base", str(folder), f"a checkpoint's folder, with {path.name} in it") from None
    except (OSError, ValueError, RecursionError) as error:
        raise RecipeError("base", str(folder), f"a {path.name} that can be read ({error})") from error
    if not isinstance(data, dict):
        raise RecipeError("base", str(folder), f"a {path.name} that holds an object")
    return data


def _weight_files(folder: Path) -> list[Path]:
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        named = _read_json(folder, index).get("weight_map")
        names = sorted({str(name) for name in named.values()}) if isinstance(named, dict) else []
        if names and all(Path(name).name == name and name.endswith(".safetensors") for name in names):
            return [folder / name for name in names]
        raise RecipeError("base", str(folder), f"names of .safetensors files in {index.name}")
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl"))
    if pickled:
        what = "pickles can run code when they are opened; save with safe_serialization=True"
        raise RecipeError("base", str(folder), f"model.safetensors, not only {', '.join(pickled)}: {what}")
    raise RecipeError("base", str(folder), "a checkpoint's folder, with model.safetensors in it")


def _shapes(folder: Path, file: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes in a safetensors header: eight bytes of its length, then JSON."""
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if not 2 <= length <= min(_LARGEST_HEADER, file.stat().st_size - 8):
                raise ValueError("it is cut short")
            header = json.loads(opened.read(length))
        return {
            name: tuple(int(size) for size in tensor["shape"])
            for name, tensor in header.items()
            if name != "__metadata__"
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RecipeError("base", str(folder), f"a {file.name} that can be read ({error})") from error


def _check(base: Base) -> None:
    if base.gpt is not None:
        stored = sum(math.prod(shape) for shape in base.shapes.values())
        if stored != base.gpt.parameters:
            allowed = f"{base.gpt.parameters} weights, as its config.json says, and not {stored}"
            raise RecipeError("base", str(base.folder), allowed)
    elif "model_type" not in base.config:
        raise RecipeError("base", str(base.folder), "a config.json with model (GPT.save) or model_type (Hugging Face)")
    elif (base.vocab_size, base.width) not in base.shapes.values():
        allowed = f"a tensor of shape {(base.vocab_size, base.width)}, as its config.json says, for the tokens"
        raise RecipeError("base", str(base.folder), allowed)
