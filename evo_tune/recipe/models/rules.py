"""What has to move with a model's width and depth so that its recipe need not: µP and CompleteP, as arithmetic.

At the base size a model is the standard one, to the bit. With m_N = width / base width and m_L = depth / base depth:

| | mup (Yang et al., arXiv:2203.03466) | completep, α = 1 (Dey et al., arXiv:2505.01618, table 1) |
|---|---|---|
| initial variance of hidden matrices | / m_N | / m_N |
| ... of outputs of residual branches, beside | / depth, as in GPT-2 | / base depth |
| Adam's learning rate of hidden matrices | / m_N | / m_N |
| logits | / m_N | / m_N |
| attention, by 1/√d at the base's d₀ | √d₀ / d | √d₀ / d |
| residual branches | | / m_L |
| Adam's ε | / m_N | / m_N, in blocks / (m_N m_L) |

Adam's ε goes as its gradients do, or it would come to outweigh them (Everett et al., arXiv:2407.05872); in and out of
blocks as in EleutherAI's nanoGPT-mup, branch completep, which had one for both until arXiv:2512.22382 saw it.

Muon's updates, which here have AdamW's size, 0.2 in root mean square, have a spectral norm of 0.2 √n in a square
matrix; it is to stay as it is (Yang et al., arXiv:2310.17813), so its rate goes with 1 / √m_N; at small widths that is
not quite the limit yet (see `coordinates`). A gradient goes with
1 / m_N, and in blocks with 1 / (m_N m_L); Adam and Muon divide by its size, and SGD's rates make up for it: times m_L
in hidden matrices, times m_N m_L in vectors of blocks, times m_N in all else.

Weight decay stays torch's λ, a step of ηλ; so that the step stays where η moves, λ moves the other way: that of hidden
matrices times m_N with Adam (Wang & Aitchison, arXiv:2405.13698; arXiv:2510.19093). Plain arithmetic, without torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypeVar

from evo_tune.options.bounds import check_integer, check_name
from evo_tune.options.declare import Options, option

P = TypeVar("P", bound="Parametrising")


class Factors(NamedTuple):
    """By what a group of parameters has its rates multiplied.

    Args:
        lr: The learning rate.
        eps: Adam's ε.
    """

    lr: float = 1.0
    eps: float = 1.0

    @property
    def decay(self) -> float:
        """By what λ is multiplied, so that a step of decay stays what it was."""
        return 1.0 / self.lr


@dataclass(frozen=True, kw_only=True)
class Parametrisation:
    """How a model depends on its size.

    Args:
        name: 'mup', for width, or 'completep', for width and depth.
        width: Of the base model, at which it is the standard one.
        depth: Of the base model.
        head: Channels of a head of the base model.

    Raises:
        RecipeError: A field is out of its range.
    """

    name: str
    width: int
    depth: int
    head: int

    def __post_init__(self) -> None:
        check_name("param", self.name, ("mup", "completep"))
        for field in ("width", "depth", "head"):
            check_integer(f"base_{field}", getattr(self, field), 1)

    def wider(self, width: int) -> float:
        """Return m_N."""
        return width / self.width

    def deeper(self, depth: int) -> float:
        """Return m_L; 1 where depth does not count."""
        return depth / self.depth if self.name == "completep" else 1.0

    def attention_scale(self, head: int) -> float | None:
        """Return by what queries times keys are multiplied; None: by 1/√head, as ever."""
        return None if head == self.head else math.sqrt(self.head) / head

    def factors(self, optimizer: str, kind: str, width: int, depth: int) -> Factors:
        """Return the factors of parameters of a kind.

        Args:
            optimizer: 'adamw', 'muon' (of matrices that it does not take itself: 'adamw') or 'sgd'.
            kind: 'hidden' (matrices in blocks), 'block' (what else is in blocks) or 'other'.
            width: Of the model.
            depth: Of the model.
        """
        m, d = self.wider(width), self.deeper(depth)
        if optimizer == "sgd":
            return Factors(lr={"hidden": d, "block": m * d, "other": m}[kind])
        lr = {"adamw": 1.0 / m, "muon": 1.0 / math.sqrt(m)}[optimizer] if kind == "hidden" else 1.0
        return Factors(lr=lr, eps=1.0 / m if kind == "other" else 1.0 / (m * d))


@dataclass(frozen=True, kw_only=True)
class Parametrising(Options):
    """How a model depends on its size."""

    param: Literal["standard", "mup", "completep"] = option(
        "standard",
        gene=None,
        help="How weights, rates and branches move with the size; mup: its width, completep: depth too",
    )
    base_width: int | None = option(
        None, bounds="[1, inf)", gene=None, help="mup, completep: where the model is the standard one; none: the size's"
    )
    base_depth: int | None = option(None, bounds="[1, inf)", gene=None, help="completep: likewise, in blocks")
    base_head: int | None = option(
        None, bounds="[1, inf)", gene=None, help="mup, completep: likewise, in channels of a head"
    )

    @property
    def usual(self) -> Mapping[str, Any]:
        """The size's usual width, depth and heads: the base where none is given."""
        raise NotImplementedError

    @property
    def scaling(self) -> Parametrisation | None:
        """How the model depends on its size; None: as ever.

        Raises:
            RecipeError: A number is out of its range.
        """
        if self.param == "standard":
            return None
        usual = self.usual
        return Parametrisation(
            name=self.param,
            width=self.base_width or usual["width"],
            depth=self.base_depth or usual["depth"],
            head=self.base_head or max(1, usual["width"] // usual["heads"]),
        )

    def settled(self: P, rungs: bool) -> P:
        """Return the options with the base's size in them: whatever a later version's spaces are."""
        made, scaling = super().settled(rungs), self.scaling
        if scaling is None:
            return made
        return replace(made, base_width=scaling.width, base_depth=scaling.depth, base_head=scaling.head)
