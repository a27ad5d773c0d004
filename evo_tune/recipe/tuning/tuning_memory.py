"""How much memory a tuning will take, by formula, from what the base's files say of its layers. No torch here.

Counted is what autograd keeps: of frozen layers only what the gradients of others pass through, of new weights their
inputs too; nothing of what comes before the first of them. That agrees with what autograd keeps of a `GPT` without
windows to 1%; of Hugging Face models, whose own code makes more or less in between, to 30%.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from evo_tune.recipe.hardware.memory import Memory, logit_bytes, state_bytes
from evo_tune.recipe.models.gpt_config import GPTConfig, by_products
from evo_tune.recipe.tuning.base import TARGETS, Base

__all__ = ["NewWeights", "tuning_memory"]

_CONTEXT = 0.75 * 2**30
"""What CUDA's own libraries take, bytes."""


@dataclass(frozen=True, kw_only=True)
class NewWeights:
    """What is trained beside a base, as numbers.

    Args:
        layers: Names of the layers that have some.
        rank: r of LoRA; 0: there is none.
        dora: Whether lengths are learnt too.
        dropout: Share of a layer's inputs that its low-rank map does not see.
        bottleneck: m of an adapter; 0: there is none.
    """

    layers: Collection[str]
    rank: int = 0
    dora: bool = False
    dropout: float = 0.0
    bottleneck: int = 0

    def count(self, base: Base) -> int:
        """Return how many there are beside this base."""
        return base.new_weights(self.layers, rank=self.rank, dora=self.dora, bottleneck=self.bottleneck)

    def kept(self, inputs: int, outputs: int, e: int, mask: int, *, bias: bool) -> float:
        """Return the bytes a token that those of a layer keep for the backward pass.

        Args:
            inputs: Of the layer.
            outputs: Of the layer.
            e: Bytes of a number in products.
            mask: Bytes of a number that says whether an input is dropped; 0: nothing of that is kept.
            bias: Whether the layer has one.
        """
        if self.bottleneck:
            return float(e * (outputs + 2 * self.bottleneck))
        stretched = (e + (4 if bias else e)) * outputs if self.dora else 0
        return float(e * (inputs + self.rank) + (mask * inputs if self.dropout else 0) + stretched)


def tuning_memory(
    base: Base,
    new: NewWeights,
    window: int,
    batch: int,
    *,
    precision: str = "fp32",
    recompute: int | None = None,
    device: str = "cpu",
    optimizer: str = "adamw",
    ema: bool = False,
    z_loss: bool = False,
    ranks: int = 1,
) -> Memory:
    """Return what a tuning will take.

    Args:
        base: What is tuned; its matrices are stored in the precision.
        new: What is trained beside it.
        window: Tokens in a window.
        batch: Windows in a pass.
        precision: 'fp32', 'bf16' or 'fp16'.
        recompute: Every so-manieth block is computed again; None: none is.
        device: 'cpu' or 'cuda'.
        optimizer: 'adamw', 'muon' or 'sgd'.
        ema: Whether an average of the trained weights is kept.
        z_loss: Whether there is one.
        ranks: Processes that train together.

    Raises:
        RecipeError: See `state_bytes`.
    """
    e, trained = 4 if precision == "fp32" else 2, new.count(base)
    frozen = e * base.parameters + (e * trained if e == 2 else 0)  # and copies of the new ones, for products
    states = state_bytes(trained, optimizer=optimizer, ema=ema, ranks=ranks) + frozen
    kept = batch * window * _kept_of_token(base, new, window, e, device)
    if recompute is not None:
        again = -(-base.depth // recompute)
        kept *= (base.depth - again + 1) / base.depth
        kept += 4.0 * batch * window * base.width * again
    head = GPTConfig(vocab_size=base.vocab_size, width=base.width, heads=1)
    logits = logit_bytes(head, batch * window, precision=precision, device=device, z_loss=z_loss, frozen=True)
    return Memory(states, kept, logits, _CONTEXT if device == "cuda" else 0.0)


def _kept_of_token(base: Base, new: NewWeights, window: int, e: int, device: str) -> float:
    """Return the bytes that a pass keeps of one token for the backward pass, logits not counted."""
    gpt, d = base.gpt, base.width
    begun, kept = gpt is None, 0.0  # the layers of other files come in no order
    for name, (inputs, outputs) in base.linears.items():
        ours, ends_branch = name in new.layers, re.fullmatch(TARGETS["branch-outputs"], name) is not None
        attention = re.fullmatch(TARGETS["attention"], name) is not None
        first, begun = ours and not begun, begun or ours
        if not begun:
            continue
        wide = 4 if new.dora else e  # what DoRA's lengths have been multiplied into is float32
        if ours:
            given = 4 if not ends_branch else e if attention else wide  # norms give float32
            bias = gpt.bias if gpt is not None else f"{name}.bias" in base.shapes
            kept += new.kept(inputs, outputs, e, 0 if first else 1 if device == "cuda" else given, bias=bias)
        if not ends_branch:
            kept += (wide if ours and not attention else e) * outputs
            continue
        kept += 4 * d + 8  # the next norm's inputs and statistics
        kept += (1 if device == "cuda" else wide if ours else e) * d if gpt is not None and gpt.dropout else 0
        if attention:
            kept += 0 if first else _attended(base, new, window, e, device, inputs, ours=ours)
        elif not (first and new.bottleneck):
            kept += _activated(base) * wide * inputs
    return kept


def _attended(base: Base, new: NewWeights, window: int, e: int, device: str, inputs: int, *, ours: bool) -> float:
    """Return the bytes a token of what attention gives, if it is not the inputs that a low-rank map keeps anyway."""
    gpt, heads = base.gpt, base.heads
    if gpt is not None and device == "cpu" and by_products("bf16" if e == 2 else "fp32", window) and not new.dora:
        return float(e * heads * window)  # three plain products, of which the weights between tokens are kept
    kept = 4.0 * heads + (0 if ours and new.rank and not new.dropout else e * inputs)
    if gpt is not None and gpt.position == "rope" and not (new.dora and e == 2):
        kept += e * (inputs + gpt.width * gpt.key_value_heads // heads)  # turned, while values hold what was not
    return kept


def _activated(base: Base) -> int:
    """Return how often what a feed-forward layer's activation makes is kept, beside what it is made of."""
    if base.gpt is not None:
        return 1 if base.gpt.ffn == "swiglu" else 0
    if base.config.get("activation_function") == "gelu_new":  # computed term by term
        return 3
    return 1 if any("gate" in name for name in base.linears) else 0
