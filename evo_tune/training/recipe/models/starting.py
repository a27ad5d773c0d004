"""Options and shape of a smaller model that is trained first and then grown, without torch.

The smaller shape follows from the final one. Channels per head are equal, so that the attention scale and the rotary
angles stay the same. The norms of the final model reproduce the small model's mean and variance, or mean square (see
`training.models.growth`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TypeVar

from evo_tune.errors import OptionError, RecipeError
from evo_tune.options.declare import Options, option
from evo_tune.options.sizes import check_depth_first
from evo_tune.training.recipe.models.gpt_config import GPTConfig, largest_head_divisor

G = TypeVar("G", bound="GrowthOptions")
Bounds3 = tuple[int, int, int]
Bounds4 = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class GrowthOptions(Options):
    """Growth from a smaller model."""

    grow_from: str | None = option(
        None, gene=None, help="Smaller model that is trained first and then grown, as DEPTHxWIDTH, for example 2x64"
    )
    grow_share: float = option(0.5, bounds="(0, 1)", help="Share of the budget for the smaller model")

    def check(self) -> None:
        self.small  # noqa: B018

    @property
    def small(self) -> tuple[int, int] | None:
        """Depth and width of the smaller model; None: no growth.

        Raises:
            OptionError: grow_from is not DEPTHxWIDTH, or its depth exceeds its width.
        """
        if self.grow_from is None:
            return None
        match = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", self.grow_from)
        if match is None:
            raise OptionError(f"-o grow_from={self.grow_from}: expected DEPTHxWIDTH, such as 2x64")
        depth, width = int(match[1]), int(match[2])
        check_depth_first(f"-o grow_from={self.grow_from}", depth, width)
        return depth, width

    def settled(self: G, rungs: bool) -> G:
        if rungs and self.grow_from is not None:  # a partial training would train another model
            raise OptionError(
                "-o grow_from and partial trainings (--fidelity, --budget) are both given: give one of them"
            )
        return super().settled(rungs)

    def grown(self, config: GPTConfig) -> GPTConfig:
        """Return the shape with norm_eps of a grown model; unchanged if nothing is grown."""
        small = self.small
        if small is None or small[1] >= config.width:
            return config
        return replace(config, norm_eps=eps_after_growth(small[1], config.width))

    def shares(self, config: GPTConfig) -> list[tuple[float, GPTConfig]]:
        """Return the budget share and shape of each phase; one phase if the model has the smaller size.

        Raises:
            RecipeError: See `smaller_shape`.
        """
        if self.small is None or self.small == (config.depth, config.width):
            return [(1.0, config)]
        return [(self.grow_share, smaller_shape(config, *self.small)), (1.0 - self.grow_share, config)]

    def larger(self, depth: Bounds3, width: Bounds4) -> tuple[Bounds3, Bounds4]:
        """Return the bounds of a space, without models below the smaller model.

        Args:
            depth: Minimum, maximum, default.
            width: Minimum, maximum, step, default.

        Raises:
            OptionError: The smaller model is above the space, or its width is not a multiple of the space's step, so
                that models could not have equal channels per head.
        """
        if self.small is None:
            return depth, width
        (fewest, most, usual), (least, widest, step, middle) = depth, width
        blocks, channels = self.small
        if blocks > most or channels > widest:
            raise OptionError(
                f"-o grow_from={self.grow_from}: expected up to {most}x{widest}, the largest of the space"
            )
        if channels % step:
            raise OptionError(
                f"-o grow_from={self.grow_from}: expected a width that is a multiple of the space's {step}"
            )
        least += step * max(0, -(-(channels - least) // step))
        return (max(fewest, blocks), most, max(usual, blocks)), (least, widest, step, max(middle, least))

    def fits(self, head_dim: int) -> bool:
        """Return whether the smaller model, if any, can have heads of `head_dim` channels."""
        return self.small is None or self.small[1] % head_dim == 0


def channel_copies(small: int, width: int) -> int:
    """Return the number of copies of each channel of the smaller model; remaining channels get the mean."""
    return width // small


def eps_after_growth(small: int, width: int) -> float:
    """Return ε of the norms of a grown model, whose variance is smaller: LEMON's η² · ε."""
    return 1e-5 * (channel_copies(small, width) * small / width)


def grown_block_indices(old: int, new: int) -> dict[int, int]:
    """Return the number of each old block in a deeper model, where they are evenly spread.

    Args:
        old: Depth of the model.
        new: Depth of the deeper model.
    """
    return {block: (block + 1) * new // old - 1 for block in range(old)}


def keeps_values(old: GPTConfig, new: GPTConfig) -> bool:
    """Return whether all blocks with value embeddings have them in a deeper model too."""
    pairs = grown_block_indices(old.depth, new.depth).items()
    return all(new.embeds_values[place] for block, place in pairs if old.embeds_values[block])


def smaller_shape(config: GPTConfig, depth: int, width: int) -> GPTConfig:
    """Return the shape of the smaller model that grows into `config`.

    Args:
        config: Final shape.
        depth: Number of blocks at the start, at most the final depth.
        width: Width at the start, at most the final width, and a multiple of the channels per head.

    Raises:
        RecipeError: The shape is not smaller, or it cannot be grown without changing the function.
    """
    head_dim, requested = config.width // config.heads, f"{depth}x{width}"
    shape = f"depth {config.depth}, width {config.width}"
    if depth > config.depth or width > config.width or (depth, width) == (config.depth, config.width):
        raise RecipeError("grow_from", requested, f"less than the model's {shape}")
    if width % head_dim:
        raise RecipeError("grow_from", requested, f"a width that is a multiple of {head_dim}, as a head has at {shape}")
    if width < config.width and config.position == "sinusoidal":
        raise RecipeError("grow_from", requested, "the model's own width with position=sinusoidal, whose table has it")
    if depth < config.depth and len(set(config.windows)) > 1:
        raise RecipeError(
            "grow_from", requested, f"the model's own depth with window_pattern={config.window_pattern!r}"
        )
    heads = width // head_dim
    kv_heads = largest_head_divisor(heads, config.kv_heads)
    if heads // (kv_heads or heads) > config.heads // config.key_value_heads:
        raise RecipeError(
            "grow_from", requested, f"a width whose {heads} heads share keys as the model's {config.heads} do"
        )
    small = replace(config, depth=depth, width=width, heads=heads, kv_heads=kv_heads, norm_eps=1e-5)
    if not keeps_values(small, config):
        raise RecipeError(
            "grow_from", requested, f"half the model's depth {config.depth} with value_embeddings, or all"
        )
    return small
