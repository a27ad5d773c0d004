"""Scaling rules that keep a recipe constant over width and depth: CompleteP, as arithmetic without torch.

At the base size a model is bit-identical to the standard one. m_N is width / base width; m_L is depth / base depth.

| | completep, α = 1 (Dey et al., arXiv:2505.01618, table 1) |
|---|---|
| initial variance of hidden matrices | / m_N |
| ... of outputs of residual branches, in addition | / base depth |
| Adam's learning rate of hidden matrices and of the head | / m_N |
| ... of embeddings, as the head shares the tokens' | / √m_N |
| attention scale (1/√d₀ at the base's head size d₀) | √d₀ / d |
| residual branches | / m_L |
| Adam's ε in blocks | / m_L |

Its part for width is µP (Yang et al., arXiv:2203.03466), which says nothing of depth and is therefore no option.

Both divide logits by m_N. Here logits are the plain products of the head's weights, and these begin equally
large at every width. Dividing assumes that all weights of an update agree with the final norm's outputs. They agree
only partly (Everett et al., arXiv:2407.05872), so models of a few base widths learn too slowly: the loss was 4 % higher
than under the standard parametrisation at its own best rate (benchmarks/LOG.md). An untied head learns as a hidden
matrix, and embeddings keep their rate. A tied head has the geometric mean of both rates. Its ratio to Adam's hidden
rate, √m_N, is also the one for large vocabularies (Hayou & Liu, arXiv:2506.15025).

Adam's ε scales with its gradients, because otherwise it would dominate them (Everett et al., arXiv:2407.05872). The
values in and out of blocks follow EleutherAI's nanoGPT-mup, branch completep. The branch used one value for both until
arXiv:2512.22382 found the error.

Muon's updates here have AdamW's size, a root mean square of 0.2. Their spectral norm in an n × n matrix is 0.2 √n. This
norm should stay constant (Yang et al., arXiv:2310.17813), so Muon's rate scales with 1 / √m_N. Small widths deviate
slightly from this limit (see `coordinates`). With Muon, 1 / √m_N also takes the place of 1 / m_N in the head's rate.

A GPT's gradients keep their size, and in blocks scale with 1 / m_L. The head of an encoder begins at zero and its
weights learn with 1 / m_N. So an encoder's gradients, except the head's, scale with 1 / m_N in addition, and Adam's ε
with them. Adam and Muon normalise gradients. SGD's rates are Adam's divided by the gradient's factor.

Weight decay is torch's λ, with a step of ηλ. To keep that step constant, λ scales inversely to η: times m_N for hidden
matrices and the head with Adam (Wang & Aitchison, arXiv:2405.13698; arXiv:2510.19093).
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar, get_type_hints

from evo_tune.errors import RecipeError
from evo_tune.options.declare import Option, Options, check_integer, check_name, fixed_option, option

C = TypeVar("C", bound="ShapeConfig")
P = TypeVar("P", bound="ParametrisationOptions")

# Kinds of parameters. 'hidden': matrices in blocks; 'block': other parameters in blocks; 'embedding': embeddings of
# tokens and positions, and a head that shares their weights; 'ngram': embeddings of n-grams; 'head': the output head;
# 'other': the rest, such as the final norm.
KINDS = ("hidden", "block", "embedding", "ngram", "head", "other")


class Factors(NamedTuple):
    """Factors on the rates of a parameter group.

    Args:
        lr: Factor on the learning rate.
        eps: Factor on Adam's ε.
    """

    lr: float = 1.0
    eps: float = 1.0

    @property
    def decay(self) -> float:
        """Factor on λ that keeps the decay per step constant."""
        return 1.0 / self.lr


@dataclass(frozen=True, kw_only=True)
class Parametrisation:
    """Parametrisation of a model by its size.

    Args:
        name: 'completep', for width and depth.
        width: Width of the base model, where all parametrisations agree.
        depth: Depth of the base model.
        head: Channels per head of the base model.

    Raises:
        RecipeError: A field is out of its range.
    """

    name: str
    width: int
    depth: int
    head: int

    def __post_init__(self) -> None:
        check_name("param", self.name, ("completep",))
        for field in ("width", "depth", "head"):
            check_integer(f"base_{field}", getattr(self, field), 1)

    def wider(self, width: int) -> float:
        """Return m_N = width / base width."""
        return width / self.width

    def deeper(self, depth: int) -> float:
        """Return m_L = depth / base depth."""
        return depth / self.depth

    def attention_scale(self, head: int) -> float | None:
        """Return the factor on query-key products; None: the standard 1/√head."""
        return None if head == self.head else math.sqrt(self.head) / head

    def factors(self, optimizer: str, kind: str, shape: "ModelConfig") -> Factors:
        """Return the factors for one kind of parameters.

        Args:
            optimizer: 'adamw', 'muon' or 'sgd'. With 'muon', AdamW updates what Muon does not.
            kind: One of `KINDS`.
            shape: Shape of the model.
        """
        m = self.wider(shape.width)
        hidden = 1.0 / math.sqrt(m) if optimizer == "muon" else 1.0 / m
        # The weights of a tied head are both: the mean of the two factors on a log scale.
        embedding = math.sqrt(hidden) if shape.tied else 1.0
        # By measurement, the same holds for embeddings of n-grams, which no head shares (benchmarks/LOG.md).
        factors = {"hidden": hidden, "head": hidden, "embedding": embedding, "ngram": embedding}
        lr = factors.get(kind, 1.0)
        gradient = 1.0 if kind == "head" else shape.gradient
        if kind in ("hidden", "block"):
            gradient /= self.deeper(shape.depth)
        return Factors(lr=lr / gradient) if optimizer == "sgd" else Factors(lr=lr, eps=gradient)


@cache  # read at each construction of a shape
def _declared_fields(config: type[Any]) -> list[Option]:
    """Return the fields of a dataclass that are declared with `option`."""
    types = get_type_hints(config)
    declared = [field for field in fields(config) if field.metadata]
    facts = ("bounds", "choices")
    return [
        Option(field.name, types[field.name], field.default, **{fact: field.metadata[fact] for fact in facts})
        for field in declared
    ]


# Feed-forward layers with a gate, of models of earlier versions.
GATED = ("swiglu", "reglu")


def _removed_values(values: dict[str, Any], removed: Mapping[str, Any]) -> dict[str, Any]:
    """Replace values of fields that this version lacks by those that give the nearest shape; return the former."""
    before = dict(values)
    if values.get("position") == "sinusoidal":
        values["position"] = "rope"  # as here, its positions are no weights
    if removed.get("ffn") in GATED:  # three matrices instead of two, of about two thirds of the width
        width, multiple = values["width"], removed.get("ffn_multiple", 8)
        values["ffn_mult"] = multiple * max(1, round(values["ffn_mult"] * width * 2 / 3 / multiple)) / width
    scaling = values.get("scaling")
    if scaling is not None and scaling["name"] == "mup":  # completep is the same over width
        values["scaling"] = {**scaling, "name": "completep", "depth": values["depth"]}
    return {name: value for name, value in before.items() if value != values[name]}


class ShapeConfig:
    """Shape of a model, as a dataclass of plain fields.

    Fields that a subclass declares with `option` are checked by their type, bounds and choices.
    """

    # Whether the head shares the weights of the embedding.
    tied: ClassVar[bool] = False

    # Fields of earlier versions with their defaults, which model files contain.
    dropped: ClassVar[Mapping[str, Any]] = {}
    # Fields of a model of an earlier version that has other values than this version trains (see `models.removed`).
    removed: Mapping[str, Any] = MappingProxyType({})

    def __post_init__(self) -> None:
        for field in _declared_fields(type(self)):  # type: ignore[arg-type]  # classes can be hashed
            field.check(getattr(self, field.name))

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain data, with those of earlier versions, so that these read the model too."""
        return {**self.dropped, **asdict(self), **self.removed}  # type: ignore[call-overload] # of the dataclasses below

    @classmethod
    def from_json(cls: type[C], data: Mapping[str, Any]) -> C:
        """Return the config from the data of `to_json`.

        Raises:
            RecipeError: A field is unknown or out of its range.
        """
        field_names = [field.name for field in fields(cls)]  # type: ignore[arg-type]
        values = {name: value for name, value in data.items() if name not in cls.dropped}
        for name, value in values.items():
            if name not in field_names:
                raise RecipeError(name, value, f"only the fields {', '.join(field_names)}")
        removed = {name: data[name] for name in cls.dropped if data.get(name, cls.dropped[name]) != cls.dropped[name]}
        try:
            removed |= _removed_values(values, removed)
        except (TypeError, ValueError, LookupError, ArithmeticError):
            raise RecipeError("model", removed, "the shape of a model that a model's save wrote") from None
        config = cls(**values)
        object.__setattr__(config, "removed", removed)
        return config

    @property
    def parameters(self) -> int:
        """Number of values in the model's file."""
        raise NotImplementedError

    @property
    def tables(self) -> int:
        """Number of values that a model computes from its shape alone, which are not saved."""
        return 0


@dataclass(frozen=True, kw_only=True)
class ModelConfig(ShapeConfig):
    """Shape of a network; see `GPTConfig` and `EncoderConfig`."""

    depth: int = option(2, bounds="[1, inf)")
    width: int = option(64, bounds="[1, inf)")
    heads: int = option(4, bounds="[1, inf)")
    ffn_mult: float = option(4.0, bounds="(0, 64]")
    dropout: float = option(0.0, bounds="[0, 1)")
    scaling: Parametrisation | None = None

    def __post_init__(self) -> None:
        scaling: Any = self.scaling
        if isinstance(scaling, Mapping):  # from JSON
            object.__setattr__(self, "scaling", Parametrisation(**scaling))
        super().__post_init__()
        if self.width % self.heads:
            raise RecipeError("heads", self.heads, f"a divisor of width={self.width}")

    @property
    def branch(self) -> float:
        """Factor on residual branches."""
        return 1.0 if self.scaling is None else 1.0 / self.scaling.deeper(self.depth)

    @property
    def gradient(self) -> float:
        """Size of the gradients outside of blocks and the head, relative to the base (see above)."""
        return 1.0

    @property
    def attention_scale(self) -> float | None:
        """Factor on query-key products; None: 1/√head_dim."""
        return None if self.scaling is None else self.scaling.attention_scale(self.width // self.heads)


@dataclass(frozen=True, kw_only=True)
class ParametrisationOptions(Options):
    """Parametrisation by model size."""

    param: Literal["standard", "completep"] = fixed_option(
        "standard", help="Scaling of weights, rates and branches with size; completep: width and depth"
    )
    base_width: int | None = fixed_option(
        None, bounds="[1, inf)", help="completep: width of the base model; none: the size's default"
    )
    base_depth: int | None = fixed_option(
        None, bounds="[1, inf)", help="completep: blocks of the base model; none: the size's default"
    )
    base_head: int | None = fixed_option(
        None, bounds="[1, inf)", help="completep: channels per head of the base model; none: the size's default"
    )

    @property
    def default_training(self) -> Mapping[str, Any]:
        """Default width, depth and heads of the size: the base if none is given."""
        raise NotImplementedError

    @property
    def scaling(self) -> Parametrisation | None:
        """Parametrisation of the model; None: standard.

        Raises:
            RecipeError: A number is out of its range.
        """
        if self.param == "standard":
            return None
        usual = self.default_training
        return Parametrisation(
            name=self.param,
            width=self.base_width or usual["width"],
            depth=self.base_depth or usual["depth"],
            head=self.base_head or max(1, usual["width"] // usual["heads"]),
        )

    def settled(self: P, rungs: bool) -> P:
        """Return the options with the base's size filled in, so that later changes of the spaces have no effect."""
        options, scaling = super().settled(rungs), self.scaling
        if scaling is None:
            return options
        return replace(options, base_width=scaling.width, base_depth=scaling.depth, base_head=scaling.head)
