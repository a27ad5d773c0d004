"""Enlarge a model: the larger one computes the same function at first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from evo_tune.errors import RecipeError
from evo_tune.options.bounds import check_integer
from evo_tune.training.models.gpt import GPT
from evo_tune.training.recipe.models.gpt_config import GPTConfig
from evo_tune.training.recipe.models.starting import channel_copies, grown_block_indices, keeps_values


def grow(model: GPT, *, depth: int | None = None, ffn_mult: float | None = None, seed: int = 0) -> GPT:
    """Return a larger model with the same outputs: bit-identical if only deeper, else up to rounding.

    Args:
        model: Model to enlarge; unchanged.
        depth: Number of blocks, at least the model's; new blocks are spread evenly among the old.
        ffn_mult: Width of the feed-forward layers as a multiple of the model's width, at least the model's.
        seed: Seed of the new weights that are not initially zero.

    Raises:
        RecipeError: A size would shrink, or blocks with and without a window or value embeddings would change places.
    """
    old = model.config
    depth, ffn_mult = depth or old.depth, ffn_mult or old.ffn_mult
    check_integer("depth", depth, old.depth)
    config = replace(old, depth=depth, ffn_mult=ffn_mult)
    if config.ffn_width < old.ffn_width:
        raise RecipeError("ffn_mult", ffn_mult, f"{old.ffn_mult} or more")
    if depth > old.depth and len({*old.windows, *config.windows}) > 1:
        raise RecipeError("depth", depth, f"{old.depth} with window_pattern={old.window_pattern!r}")
    if not keeps_values(old, config):
        raise RecipeError("depth", depth, f"{old.depth} or {2 * old.depth} with value_embeddings")
    grown = GPT(config, seed, recompute=model.recompute)
    ours, theirs = dict(grown.named_parameters()), dict(model.named_parameters())
    with torch.no_grad():
        for name, source in sources(model, grown).items():
            if source is not None:
                _copy(ours[name], theirs[source], gated=_is_gated(name, config), clear=name.endswith("ffn.out.weight"))
                ours[name].mul_(made_up(name, model.config, config))
            elif name.endswith((".out.weight", ".out.bias")):
                ours[name].zero_()
    return grown.to(model.embedding.weight).train(model.training)


def made_up(name: str, old: GPTConfig, new: GPTConfig) -> float:
    """Return the factor of a parameter that preserves the function although a deeper model has smaller branches.

    Args:
        name: Name of a parameter.
        old: Shape of the model.
        new: Shape of the larger model.
    """
    return old.branch / new.branch if name.endswith((".out.weight", ".out.bias")) else 1.0


def sources(model: GPT, grown: GPT) -> dict[str, str | None]:
    """Return, for each parameter of the grown model, the name of the old one that it continues; None if it is new."""
    blocks = {place: block for block, place in grown_block_indices(model.config.depth, grown.config.depth).items()}
    known = {name for name, _ in model.named_parameters()}
    found: dict[str, str | None] = {}
    for name, _ in grown.named_parameters():
        parts = name.split(".")
        if parts[0] == "blocks":
            source = ".".join(("blocks", str(blocks.get(int(parts[1]))), *parts[2:]))
            found[name] = source if source in known else None
        else:
            found[name] = name
    return found


def _is_gated(name: str, config: GPTConfig) -> bool:
    """Return whether the first dimension of a parameter has a SwiGLU's gates, then as many values."""
    return config.ffn == "swiglu" and ".ffn.up." in name


def _copy(target: Tensor, source: Tensor, *, gated: bool, clear: bool) -> None:
    """Copy a tensor into the corner of a larger one; a SwiGLU's gates and values are copied separately.

    Args:
        target: Tensor to fill, with as many dimensions as the source.
        source: Tensor to copy.
        gated: Whether the first dimension has the gates, then the values.
        clear: Whether to set the rest to zero; otherwise it is unchanged.
    """
    if clear:
        target.zero_()
    halves = 2 if gated else 1
    for into, part in zip(target.chunk(halves), source.chunk(halves), strict=True):
        into[tuple(map(slice, part.shape))] = part


def enlarge(model: GPT, config: GPTConfig, seed: int = 0, *, recompute: int | None = None) -> GPT:
    """Return a larger model with the same outputs: bit-identical if only deeper, else up to rounding.

    Args:
        model: Model to enlarge; unchanged. Its shape is `smaller_shape` the new one's.
        config: Shape of the larger model.
        seed: Seed of the new weights that are not initially zero, and of the noise between copies.
        recompute: See `GPT`.
    """
    grown = GPT(config, seed, recompute=recompute).to(model.embedding.weight)
    maps, theirs = _Maps(model.config, config), dict(model.named_parameters())
    with torch.no_grad():
        for name, source in sources(model, grown).items():
            parameter = grown.get_parameter(name)
            if source is not None:
                parameter.copy_(maps.weight(name, theirs[source].detach(), parameter.detach()))
                parameter.mul_(made_up(name, model.config, config))
            elif name.endswith((".out.weight", ".out.bias")):
                parameter.zero_()
    grown.tokenizer = model.tokenizer
    return grown.train(model.training)


def carry_state(old: torch.optim.Optimizer, model: GPT, new: torch.optim.Optimizer, grown: GPT) -> None:
    """Transfer an optimizer's moments to the optimizer of the grown model; new weights have none, as in a new training.

    Args:
        old: Optimizer of `model`.
        model: Model before growth.
        new: Fresh optimizer of `grown`, of the same kind.
        grown: Model that `enlarge` or `grow` returned.
    """
    states = {p: state for part in getattr(old, "optimizers", [old]) for p, state in part.state.items()}
    theirs, maps = dict(model.named_parameters()), _Maps(model.config, grown.config)
    homes = {p: part for part in getattr(new, "optimizers", [new]) for g in part.param_groups for p in g["params"]}
    for name, source in sources(model, grown).items():
        state = states.get(theirs[source]) if source is not None else None
        if source is None or state is None:
            continue
        target, carried = grown.get_parameter(name), {}
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == theirs[source].shape and value.ndim:
                power = 2 if key.endswith("_sq") else 1
                carried[key] = maps.moment(name, value, power) / made_up(name, model.config, grown.config) ** power
            else:
                carried[key] = value.clone() if isinstance(value, Tensor) else value
        homes[target].state[target] = carried


class _Maps:
    """Maps each parameter of a smaller GPT to the larger one's."""

    def __init__(self, old: GPTConfig, new: GPTConfig) -> None:
        self.old, self.new = old, new
        self.copies = channel_copies(old.width, new.width)
        self.shrunk = math.sqrt(self.copies * old.width / new.width)  # η: new over old standard deviation
        self.stream = [i % old.width if i < self.copies * old.width else -1 for i in range(new.width)]

    def weight(self, name: str, old: Tensor, fresh: Tensor) -> Tensor:
        """Return the larger model's value of a parameter.

        Args:
            name: Name of the parameter in a GPT.
            old: Value in the smaller model.
            fresh: Initial value in the larger model, used for new rows and for noise.
        """
        kind = name.split(".")[-1]
        if self._is_norm(name):
            return self._norm(name, old)
        rows, columns = self._axes(name)
        if rows == "stream":
            old = self._spread(old, 0)
        if columns == "made":
            return self._spread(old, 1)
        if columns == "inner":  # new columns are zero
            return _taken(old, self._inner(name), 1)
        if columns == "values":
            return _taken(old, self._values(), 1)
        if columns == "read":
            old = self._shared(old, fresh, self._rows(rows, name))
        if rows == "inner":
            index = self._rows(rows, name)
            kept = torch.tensor([i >= 0 for i in index], device=old.device)
            taken = old if columns == "read" else _taken(old, index, 0)
            shape = (-1,) if kind == "bias" else (-1, 1)
            return torch.where(kept.view(shape), taken, fresh)
        return old

    def moment(self, name: str, value: Tensor, power: int) -> Tensor:
        """Return the larger model's value of an optimizer moment.

        Copies share the gradient equally, since its sum over all copies equals the old one.

        Args:
            name: Name of the parameter in a GPT.
            value: Moment in the smaller model.
            power: 1 for a mean of gradients, 2 for a mean of their squares.
        """
        if self._is_norm(name):
            scale = self._norm_scale(name)
            return _taken(value, self.stream, 0) * (1.0 / (scale * self.copies)) ** power
        rows, columns = self._axes(name)
        if rows == "stream":
            value = _taken(value, self.stream, 0) * (1.0 / self.copies) ** power
        elif rows == "inner":
            value = _taken(value, self._rows(rows, name), 0)
        if columns == "made":
            value = _taken(value, self.stream, 1) * (1.0 / self.copies) ** power
        elif columns == "read":
            value = _taken(value, self.stream, 1)
        elif columns == "inner":
            value = _taken(value, self._inner(name), 1)
        elif columns == "values":
            value = _taken(value, self._values(), 1)
        return value

    def _is_norm(self, name: str) -> bool:
        return name.split(".")[-2] in ("attention_norm", "ffn_norm", "norm")

    def _norm_scale(self, name: str) -> float:
        """Return the factor of each copy of a norm's gain or bias."""
        scale = self.shrunk if name.endswith("weight") else 1.0
        # A tied head reads the embedding's own columns in every copy. They cannot be divided, so its input is.
        return scale / self.copies if name.startswith("norm.") and self.new.tied else scale

    def _norm(self, name: str, old: Tensor) -> Tensor:
        # Gains of the remaining channels of an RMSNorm are not zero, or these channels would never learn.
        spread = self._spread(old, 0, mean=True) * self._norm_scale(name)
        if name.endswith("bias"):  # the channels of the mean stay zero
            spread[self.copies * self.old.width :] = 0.0
        return spread

    def _axes(self, name: str) -> tuple[str, str]:
        """Return the meaning of the rows and the columns of a parameter; '' for an axis that does not change."""
        parts = name.split(".")
        if parts[0] in ("embedding", "positions"):
            return "", "made"
        if parts[0] == "head":
            return "", "read"
        if parts[-2] == "values":
            return "", "values"
        if parts[-2] in ("qkv", "up"):
            return "inner", "read" if parts[-1] == "weight" else ""
        if parts[-2] == "out":
            return "stream", "inner" if parts[-1] == "weight" else ""
        return "", ""  # gains of query and key norms, factors of the residual stream

    def _rows(self, rows: str, name: str) -> list[int]:
        """Return the old row of each new row; -1 for a new one."""
        if rows != "inner":
            return list(range(self.new.vocab_size))
        if ".qkv." in name:
            return self._heads(queries=True, keys=True)
        units = self._units()
        return [*units, *(self.old.ffn_width + i if i >= 0 else -1 for i in units)] if self._gated else units

    def _inner(self, name: str) -> list[int]:
        return self._heads(queries=True) if ".attention." in name else self._units()

    @property
    def _gated(self) -> bool:
        return self.new.ffn == "swiglu"

    def _units(self) -> list[int]:
        return [i if i < self.old.ffn_width else -1 for i in range(self.new.ffn_width)]

    def _heads(self, *, queries: bool, keys: bool = False) -> list[int]:
        """Return the old channel of each new channel of the queries, and of keys and values if asked; -1 for a new one.

        Heads that shared keys still share them: old heads come first in each group, and old groups come first.
        """
        old, new = self.old, self.new
        size = new.width // new.heads
        mine, theirs = new.heads // new.key_value_heads, old.heads // old.key_value_heads
        places = []
        for head in range(new.heads):
            group, member = divmod(head, mine)
            known = group < old.key_value_heads and member < theirs
            places.append(group * theirs + member if known else -1)
        if keys:
            for first in (old.heads, old.heads + old.key_value_heads):
                groups = range(new.key_value_heads)
                places += [first + group if group < old.key_value_heads else -1 for group in groups]
        return [place * size + i if place >= 0 else -1 for place in places for i in range(size)]

    def _values(self) -> list[int]:
        """Return the old channel of each new channel of value embeddings; -1 for a new one."""
        size, known = self.new.width // self.new.heads, self.old.key_value_heads
        return [i if i < known * size else -1 for i in range(self.new.key_value_heads * size)]

    def _spread(self, old: Tensor, axis: int, *, mean: bool = False) -> Tensor:
        """Return values to write to the stream: copies, then the same value in each remaining channel.

        The value is the mean, which preserves mean and variance up to a factor. For an RMSNorm it is zero, which
        preserves the mean square up to the same factor. `mean` takes the mean for both.
        """
        left = self.new.width - self.copies * self.old.width
        rest = old.mean(axis, keepdim=True)
        if self.new.norm == "rmsnorm" and not mean:
            rest = torch.zeros_like(rest)
        return torch.cat([old] * self.copies + [rest] * left, axis)

    def _shared(self, old: Tensor, fresh: Tensor, rows: Sequence[int]) -> Tensor:
        """Return weights that read the stream, divided among the copies; those of the mean's channels are arbitrary."""
        width, count = self.old.width, self.copies
        taken = _taken(old, rows, 0)
        noise = fresh[:, : count * width].reshape(-1, count, width)
        noise = noise - noise.mean(1, keepdim=True)
        return torch.cat([(taken[:, None] / count + noise).flatten(1), fresh[:, count * width :]], 1)


def _taken(old: Tensor, index: Sequence[int], axis: int) -> Tensor:
    """Return slices of a tensor along an axis, by their numbers; zeros for -1."""
    numbers = torch.tensor(index, device=old.device)
    shape = [-1 if dimension == axis else 1 for dimension in range(old.ndim)]
    return old.index_select(axis, numbers.clamp(min=0)) * (numbers >= 0).view(shape).to(old.dtype)
