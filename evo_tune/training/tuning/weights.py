"""New weights for a pre-trained model: LoRA, DoRA and adapters, and their files."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load, save_file
from torch import Tensor, nn

from evo_tune.errors import RecipeError
from evo_tune.options.declare import check_integer, check_number
from evo_tune.training.models.dropout import Dropout
from evo_tune.training.models.model_files import ERRORS, read_json, read_verified
from evo_tune.training.recipe.models.base import check_targets, matching_layers


def matching_linears(model: nn.Module, targets: Sequence[str]) -> dict[str, nn.Linear]:
    """Return the linear layers that match patterns, by name (see `matching_layers`).

    Raises:
        RecipeError: A pattern matches no layer; the error lists the layers.
    """
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    return {name: linears[name] for name in matching_layers(linears, targets)}


@dataclass(frozen=True, kw_only=True)
class LoRA:
    """Options of LoRA.

    Args:
        rank: Rank r, 1 up to the smaller side of each layer.
        alpha: α, above 0; the learned map is multiplied by α/r. None: 2r.
        dropout: Share of a layer's inputs that its learned map does not see, below 1.
        targets: Patterns of linear layers (see `matching_layers`).
        dora: Whether to learn the norms of the weights too (DoRA): d_out more weights a layer.

    Raises:
        RecipeError: A field is out of its range.
    """

    rank: int = 8
    alpha: float | None = None
    dropout: float = 0.05
    targets: tuple[str, ...] = ("*",)
    dora: bool = False

    def __post_init__(self) -> None:
        check_integer("rank", self.rank, 1)
        if self.alpha is not None:
            check_number("alpha", self.alpha, "(0, inf)")
        check_number("lora_dropout", self.dropout, "[0, 1)")
        check_targets(self.targets)
        if not isinstance(self.dora, bool):
            raise RecipeError("dora", self.dora, "true or false")

    @property
    def scale(self) -> float:
        """Factor α/r."""
        return 2.0 if self.alpha is None else self.alpha / self.rank


class LowRank(nn.Module):
    """The matrices A and B, and DoRA's norms."""

    # Weights with weight decay that Muon orthogonalises.
    matrices = ("a", "b")

    def __init__(self, layer: nn.Linear, options: LoRA, generator: torch.Generator) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(layer.in_features)
        a = torch.empty(options.rank, layer.in_features).uniform_(-bound, bound, generator=generator)
        self.a = nn.Parameter(a.to(layer.weight))
        self.b = nn.Parameter(layer.weight.new_zeros(layer.out_features, options.rank))
        self.dropout = Dropout(options.dropout)
        self.scale = options.scale
        self.lengths = nn.Parameter(_lengths(layer.weight.detach())) if options.dora else None

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(self.dropout(x), self.a), self.b) * self.scale

    def direction(self, weight: Tensor) -> Tensor:
        """Return W + (α/r) · BA."""
        return weight + self.scale * (self.b @ self.a)

    def stretch(self, weight: Tensor) -> Tensor | None:
        """Return m / ‖V‖, (d_out,), with the norm as a constant (section 4.3 of the paper); None without DoRA."""
        if self.lengths is None:
            return None
        # In float32 for any storage of the frozen weights: the ratio of nearly equal numbers needs precision.
        with torch.no_grad(), torch.autocast(weight.device.type, enabled=False):
            norm = _lengths(self.direction(weight.to(self.lengths.dtype)))
        return self.lengths / norm


def _lengths(weight: Tensor) -> Tensor:
    """Return the norm of each output's weights, (d_out,), above zero."""
    lengths: Tensor = torch.linalg.vector_norm(weight, dim=1)
    return lengths.clamp_min(torch.finfo(weight.dtype).tiny)


class LoRALinear(nn.Linear):
    """A linear layer with an added low-rank map; weight and bias are those of `layer`, frozen."""

    def __init__(self, layer: nn.Linear, options: LoRA, generator: torch.Generator) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias
        self.lora = LowRank(layer, options, generator)
        self.train(layer.training)

    def forward(self, input: Tensor) -> Tensor:
        y = F.linear(input, self.weight, self.bias)
        learned: Tensor = self.lora(input)
        stretch = self.lora.stretch(self.weight)
        if stretch is None:
            return y + learned
        # Added to y, not multiplied: while m / ‖V‖ is 1, y stays bit-identical.
        unbiased = y if self.bias is None else y - self.bias
        return y + (stretch - 1.0) * unbiased + stretch * learned

    @torch.no_grad()
    def merge(self) -> nn.Linear:
        """Return a plain layer whose weight includes the learned map; do not use this one afterwards."""
        stretch, direction = self.lora.stretch(self.weight), self.lora.direction(self.weight)
        self.weight.copy_(direction if stretch is None else stretch[:, None] * direction)
        plain = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        plain.weight, plain.bias = self.weight, self.bias
        return plain.train(self.training)


def add_lora(model: nn.Module, options: LoRA, seed: int = 0) -> list[str]:
    """Freeze a model and give its target layers low-rank maps, in place: r · (d_in + d_out) weights each.

    Args:
        model: Model to change; its outputs stay the same.
        options: Rank, scale, dropout and targets.
        seed: Seed of A.

    Returns:
        Names of the layers.

    Raises:
        RecipeError: A target matches no linear layer, a rank is larger than a layer's smaller side, a layer
            already has a map, or its weight is shared with another module, such as a head tied to the embedding.
            Merging would change both. The model is unchanged.
    """
    layers = matching_linears(model, options.targets)
    owners = [(name, module) for name, module in model.named_modules() if hasattr(module, "weight")]
    for name, layer in layers.items():
        if isinstance(layer, LoRALinear):
            raise RecipeError("targets", name, "a layer without LoRA; fold_lora makes it plain again")
        for owner_name, module in owners:
            if module is not layer and module.weight is layer.weight:
                raise RecipeError("targets", name, f"layers of their own; this one shares its weight with {owner_name}")
        check_integer(f"rank (for {name})", options.rank, 1, min(layer.in_features, layer.out_features))
    generator = torch.Generator().manual_seed(seed)
    model.requires_grad_(False)
    for name, layer in layers.items():
        model.set_submodule(name, LoRALinear(layer, options, generator))
    return list(layers)


def fold_lora(model: nn.Module) -> None:
    """Merge all maps into their weights, in place: plain linear layers under their original names."""
    for name, module in list(model.named_modules()):
        if isinstance(module, LoRALinear):
            model.set_submodule(name, module.merge())


@dataclass(frozen=True, kw_only=True)
class Adapters:
    """Options of adapters.

    Args:
        bottleneck: Width m (int ≥ 1).
        targets: Patterns of the linear layers that get an adapter on their outputs (see `matching_layers`).

    Raises:
        RecipeError: A field is out of its range.
    """

    bottleneck: int = 16
    targets: tuple[str, ...] = ("attention.out", "ffn.out")

    def __post_init__(self) -> None:
        check_integer("bottleneck", self.bottleneck, 1)
        check_targets(self.targets)


class Adapter(nn.Module):
    """A bottleneck with residual connection: 2md + d + m weights at width d."""

    def __init__(self, width: int, bottleneck: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):  # filled by add_adapters
            self.down = nn.Linear(width, bottleneck)
            self.up = nn.Linear(bottleneck, width)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Initialise as the identity."""
        self.down.weight.normal_(0.0, self.down.in_features**-0.5, generator=generator)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            zero.zero_()

    def forward(self, y: Tensor) -> Tensor:
        adapted: Tensor = y + self.up(F.gelu(self.down(y)))
        return adapted


def add_adapters(model: nn.Module, options: Adapters, seed: int = 0) -> list[str]:
    """Freeze a model and add an adapter after each target layer, in place.

    Args:
        model: Model to change; its outputs stay the same.
        options: Width and targets.
        seed: Seed of the downward maps.

    Returns:
        Names of the layers.

    Raises:
        RecipeError: A target matches no linear layer, or one with an adapter. The model is unchanged.
    """
    layers = matching_linears(model, options.targets)
    for name, layer in layers.items():
        if hasattr(layer, "adapter"):
            raise RecipeError("targets", name, "a layer without an adapter")
    generator = torch.Generator().manual_seed(seed)
    model.requires_grad_(False)
    for layer in layers.values():
        adapter = Adapter(layer.out_features, options.bottleneck)
        adapter.initialise(generator)
        layer.adapter = adapter.to(layer.weight).train(layer.training)
        # A hook keeps the names of the layer's weights; a function of the module lets copies of
        # the model use their own adapter.
        layer.register_forward_hook(lambda module, _, output: module.adapter(output))
    return list(layers)


def add_adapter(model: nn.Module, options: LoRA | Adapters, seed: int = 0) -> list[str]:
    """Freeze a model and add LoRA or adapters, in place; see `add_lora` and `add_adapters`."""
    return add_lora(model, options, seed) if isinstance(options, LoRA) else add_adapters(model, options, seed)


def trainable_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the trained (not frozen) weights, by name, on the CPU."""
    return {name: p.detach().cpu().contiguous() for name, p in model.named_parameters() if p.requires_grad}


ADAPTER, WEIGHTS = "adapter.json", "adapter.safetensors"
# Files of a LoRA in the format of peft, which transformers and vLLM read too. Version 1.0.0 wrote WEIGHTS instead.
PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

# Names that peft gives to the weights of a `LowRank`.
PEFT_PARTS = {"a": "lora_A.weight", "b": "lora_B.weight", "lengths": "lora_magnitude_vector"}


def peft_name(name: str, prefix: str) -> str:
    """Return peft's name of a weight of a `LowRank`, given its name in a model.

    Args:
        name: Name of the weight, such as 'blocks.0.attention.qkv.lora.a'.
        prefix: Beginning of the names of all layers that peft does not know (see `CausalLM.prefix`).
    """
    layer, part = name.removeprefix(prefix).split(".lora.")
    return f"base_model.model.{layer}.{PEFT_PARTS[part]}"


def save_adapter(model: nn.Module, options: LoRA | Adapters, folder: Path | str, **notes: Any) -> None:
    """Write the trained weights and the adapter's options for `load_adapter`; LoRA in the format of peft.

    Args:
        model: Model with the adapter.
        options: Options that the adapter was added with.
        folder: Folder to write; created if missing.
        notes: Plain data to keep in adapter.json.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights, file = trainable_weights(model), WEIGHTS
    if isinstance(options, LoRA):
        prefix, file = getattr(model, "prefix", ""), PEFT_WEIGHTS
        weights = {peft_name(name, prefix): weight for name, weight in weights.items()}
        layers = (name for name, module in model.named_modules() if isinstance(module, LoRALinear))
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM" if prefix else None,  # peft wraps any other module as it is
            "base_model_name_or_path": str(notes.get("base", "")),
            "r": options.rank,
            "lora_alpha": options.scale * options.rank,
            "lora_dropout": options.dropout,
            "use_dora": options.dora,
            "target_modules": [name.removeprefix(prefix) for name in layers],
            "fan_in_fan_out": bool(getattr(model, "transposed", ())),
            "bias": "none",
            "inference_mode": True,
        }
        (folder / PEFT_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(weights, folder / file, {"format": "pt"})
    files = {file: hashlib.sha256((folder / file).read_bytes()).hexdigest()}
    about = {"method": type(options).__name__, "options": asdict(options), **notes, "files": files}
    (folder / ADAPTER).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def load_adapter(model: nn.Module, folder: Path | str) -> LoRA | Adapters:
    """Add a saved adapter to the model it was trained for, in place, and return its options.

    Raises:
        RecipeError: The folder has no adapter, or the adapter fits another model's shape.
    """
    about = read_json(folder, ADAPTER)
    try:
        in_peft_format = PEFT_WEIGHTS in about["files"]
        weights = load(read_verified(folder, about, PEFT_WEIGHTS if in_peft_format else WEIGHTS))
        widest = max((side for weight in weights.values() for side in weight.shape), default=0)
        if max(about["options"].get("rank", 0), about["options"].get("bottleneck", 0)) > widest:
            raise ValueError("its weights are smaller than its options")
        kind = {"LoRA": LoRA, "Adapters": Adapters}[about["method"]]
        options: LoRA | Adapters = kind(**{**about["options"], "targets": tuple(about["options"]["targets"])})
    except ERRORS as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        expected = f"a folder with adapter.json and the weights that it names, as save_adapter writes ({reason})"
        raise RecipeError("adapter", str(folder), expected) from None
    add_adapter(model, options)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if in_peft_format:
        names = {peft_name(name, getattr(model, "prefix", "")): name for name in parameters}
        weights = {names.get(name, name): weight for name, weight in weights.items()}
    shapes = ({(name, p.shape) for name, p in tensors.items()} for tensors in (parameters, weights))
    wrong = sorted({name for name, _ in set.symmetric_difference(*shapes)})
    if wrong:
        raise RecipeError("adapter", str(folder), f"an adapter of this model; these weights differ: {', '.join(wrong)}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    return options
