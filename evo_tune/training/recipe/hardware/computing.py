"""What a training asks of a device: precision, passes, processes, the work of a step, and sizes that suit the device.

`plugins.cost` fits the cost of each kind of work to measured steps.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

from evo_tune.errors import OptionError
from evo_tune.options.declare import AUTO, Options, fixed_option
from evo_tune.plugins.cost import JUDGED, Cost, Work
from evo_tune.training.recipe.hardware.memory import NewWeights
from evo_tune.training.recipe.models.base import BaseModel
from evo_tune.training.recipe.models.encoder_config import EncoderConfig
from evo_tune.training.recipe.models.gpt_config import GPTConfig

C = TypeVar("C", bound="ComputeOptions")


@dataclass(frozen=True, kw_only=True)
class ComputeOptions(Options):
    """Precision and kernels."""

    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = fixed_option(
        "auto", help="Precision of products; auto: bf16 if faster, fp16 on GPUs without; tf32: fp32 by TF32"
    )
    compile: bool = fixed_option(
        False, help="Compile each kind of block, a minute per kind; on a GPU, windows and documents use flex_attention"
    )
    deterministic: bool | Literal["auto"] = fixed_option(
        AUTO, help="Use only deterministic algorithms; false: allow faster ones; auto: a run on a GPU times both"
    )

    def settled(self: C, rungs: bool) -> C:
        options = super().settled(rungs)
        return replace(options, deterministic=True) if self.deterministic == AUTO else options


@dataclass(frozen=True, kw_only=True)
class PassOptions(Options):
    """Memory."""

    micro_batch: int | Literal["auto"] | None = fixed_option(
        "auto", bounds="[2, inf)", unit="tokens", help="Maximum tokens per pass; auto: as many as fit"
    )
    recompute: int | None = fixed_option(
        None, bounds="[1, inf)", help="Recompute every n-th block in the backward pass; none: no block"
    )


@dataclass(frozen=True, kw_only=True)
class RankOptions(Options):
    """Processes on this machine."""

    ranks: int = fixed_option(
        1, bounds="[1, 64]", help="Data-parallel processes, each with the slot's threads or its own GPU"
    )


def has_gpu(device: str | None = None) -> bool:
    """Return whether a training has, or would have, an NVIDIA GPU.

    Args:
        device: Device of the training. None: not known yet; the driver's files and CUDA_VISIBLE_DEVICES are checked,
            without loading torch.
    """
    if device is not None:
        return device.startswith("cuda")
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1")
    return not hidden and (Path("/proc/driver/nvidia/gpus").is_dir() or Path("/dev/nvidia0").exists())


# Share of the best speed at which a size counts as equally fast.
AS_FAST = 0.9

# Share of the best speed below which a chip idles.
IDLE = 0.5

# Speed-up required of a lower precision; the same as in `fastest_precision`.
GAIN = 1.3

MULTIPLES = (1, 2, 4, 8, 16, 32, 64, 128)


@dataclass(frozen=True)
class Timings:
    """Measured speeds of a device; all except `products` in its fastest precision.

    Args:
        device: Name of the device.
        products: Speed of products of square matrices, by precision and by side. Unit: FLOP/s.
        widths: Speed of a layer, by its width. Unit: FLOP/s.
        vocabularies: Speed of an output head, by its outputs. Unit: FLOP/s.
        head_sizes: Speed of attention, by channels of a head. Unit: FLOP/s.
        batches: Speed of a layer, by tokens in a step. Unit: FLOP/s.
        bandwidth: Speed of a copy, reads and writes together. Unit: bytes/s.
        launch: Duration of the smallest operation. Unit: s.
    """

    device: str
    products: Mapping[str, Mapping[int, float]]
    widths: Mapping[int, float]
    vocabularies: Mapping[int, float]
    head_sizes: Mapping[int, float]
    batches: Mapping[int, float]
    bandwidth: float
    launch: float


@dataclass(frozen=True)
class DeviceSizes:
    """Sizes and precision that suit a device.

    Args:
        precision: Precision of the fastest products if they gain 30 % or more; otherwise fp32.
        width: Number that should divide a width.
        vocabulary: Number that should divide a vocabulary's size.
        head_sizes: Channels of a head that are as fast as the best.
        batch: Size of a step below which the chip is idle half of the time or more. Unit: tokens.
    """

    precision: str
    width: int
    vocabulary: int
    head_sizes: tuple[int, ...]
    batch: int


def sizes_for_device(timings: Timings) -> DeviceSizes:
    """Return the sizes and precision that suit a device."""
    best = {name: max(speeds.values()) for name, speeds in timings.products.items()}
    fastest = max(best, key=lambda name: best[name])
    idle_speed = IDLE * max(timings.batches.values())
    return DeviceSizes(
        precision=fastest if best[fastest] >= GAIN * best["fp32"] else "fp32",
        width=_fast_multiple(timings.widths),
        vocabulary=_fast_multiple(timings.vocabularies),
        head_sizes=_fast_sizes(timings.head_sizes),
        batch=min(tokens for tokens, speed in timings.batches.items() if speed >= idle_speed),
    )


def _fast_sizes(speeds: Mapping[int, float]) -> tuple[int, ...]:
    return tuple(sorted(size for size, speed in speeds.items() if speed >= AS_FAST * max(speeds.values())))


def _fast_multiple(speeds: Mapping[int, float]) -> int:
    """Return the smallest power of two whose timed multiples are all as fast as the best."""
    fast_sizes = set(_fast_sizes(speeds))
    for multiple in MULTIPLES:
        multiples = {size for size in speeds if size % multiple == 0}
        if multiples and multiples <= fast_sizes:
            return multiple
    return max(multiple for multiple in MULTIPLES if any(size % multiple == 0 for size in fast_sizes))


# Tokens in a pass of an evaluation.
AT_ONCE = 4096

# Seconds of a unit of each kind of work on one core of a CPU. Only their ratios are used.
UNIT_COSTS = {
    "step": 1.5e-3,
    "blocks": 1e-3,
    "products": 6e-12,
    "attention": 2e-11,
    "scores": 5e-9,
    "heads": 3e-6,
    "elements": 1.2e-9,
    "logits": 6e-9,
    "added": 1.2e-9,
    "dropped": 5e-9,
    "layers": 2e-4,
    "weights": 5e-9,
    "muon": 1e-3,
    "orthogonalising": 6e-12,
}


@dataclass(frozen=True, kw_only=True)
class TimeBudget(Options):
    """Budget in time."""

    seconds: float | None = fixed_option(
        None,
        bounds="(0, 1e9]",
        unit="s",
        help="Budget in time, with evaluations, by a step's measured cost (processor time with one CPU thread)",
    )
    cost: str = fixed_option("", help="Measured cost of a step; a run fills it in")

    def check(self) -> None:
        if self.cost:
            Cost.parse(self.cost)

    def steps_in_time(self, work: Work) -> float:
        """Return the steps that fit into the budget in time.

        Raises:
            OptionError: The cost of a step was not measured.
        """
        if self.seconds is None or not self.cost:
            raise OptionError(
                f"-o seconds={self.seconds}: the cost of a step is not known: `evo-tune run` and `evo-tune evaluate` "
                "measure it; elsewhere give -o cost=… from a run's manifest"
            )
        return Cost.parse(self.cost).steps(self.seconds, work)

    def seconds_estimate(self, work: Work, steps: float) -> dict[str, float]:
        """Return `seconds`, the predicted duration of a training; nothing if the cost was not measured."""
        if not self.cost:
            return {}
        cost = Cost.parse(self.cost)
        return {"seconds": cost.overhead(work) + steps * cost.step(work)}


def gpt_work(config: GPTConfig, windows: int, optimizer: str, judged: float = 0.0) -> dict[str, float]:
    """Return the work of a step of a GPT.

    Args:
        config: Shape of the model.
        windows: Windows of `config.context` tokens in the step.
        optimizer: 'adamw', 'muon' or 'sgd'.
        judged: Tokens that all evaluations of a training score.
    """
    keys = config.depth * config.keys(config.context)
    channels = 8 * config.width + 2 * config.ffn_width
    channels += 2 * config.width * ((config.position == "rope") + config.qk_norm)
    added = 3 * config.width * (config.ngrams - 1)  # look-ups, sums, and the gradient's
    passing = {
        "products": 6.0 * config.matmul_parameters,
        "attention": 12.0 * config.width * keys,
        "scores": float(config.heads * keys),
        "heads": config.depth * config.heads / config.context,
        "elements": float(config.depth * channels + added),
        "logits": float(config.vocab_size),
    }
    work = _work(passing, config.depth, windows * config.context, judged)
    work["weights"] = float(config.parameters)
    if optimizer == "muon":  # five Newton-Schulz iterations, each of 4m²n + 2m³ FLOPs for m ≤ n
        d, f = config.width, config.ffn_width
        shared = d * config.key_value_heads // config.heads
        shapes = [(d, d), (d, d), (shared, d), (shared, d), (d, f), (f, d)]
        flops = sum(4.0 * min(shape) ** 2 * max(shape) + 2.0 * min(shape) ** 3 for shape in shapes)
        work |= {"muon": 1.0, "orthogonalising": 5.0 * config.depth * flops}
    return work


def _work(passing: Work, depth: int, tokens: float, judged: float) -> dict[str, float]:
    """Return the work of a step's forward and backward passes, and of evaluations, which are a third of it.

    Args:
        passing: Work of a token.
        depth: Number of blocks: kernel launches, like those outside of the blocks, are counted for each pass.
        tokens: Tokens in a step, in one pass.
        judged: Tokens that all evaluations of a training score.
    """
    launches = {"step": 1.0, "blocks": float(depth)}
    evaluated = {name: amount * judged / AT_ONCE / 3 for name, amount in launches.items()}
    evaluated |= {name: amount * judged / 3 for name, amount in passing.items()}
    return {
        **launches,
        **{name: amount * tokens for name, amount in passing.items()},
        **{JUDGED + name: amount for name, amount in evaluated.items()},
    }


def encoder_work(
    config: EncoderConfig, flops_per_sample: float, batch: int, optimizer: str, judged: float = 0.0
) -> dict[str, float]:
    """Return the work of a step of a classifier.

    Args:
        config: Shape of the model.
        flops_per_sample: Training FLOPs of a sample.
        batch: Samples in the step.
        optimizer: 'adamw', 'muon' or 'sgd'.
        judged: Samples that all evaluations of a training score.
    """
    length = config.tokens
    passing = config.passing_work(flops_per_sample)
    work = _work(passing, config.depth, batch * length, judged * length)
    work["weights"] = float(config.parameters)
    if optimizer == "muon":
        work |= {"muon": 1.0, "orthogonalising": 10.0 * config.width * config.parameters}
    return work


def tuning_work(base: BaseModel, new: NewWeights, window: int, windows: int, judged: float) -> dict[str, float]:
    """Return the work of a step that tunes a pre-trained model.

    Args:
        base: The pre-trained model.
        new: Weights that are added and trained.
        window: Tokens per window.
        windows: Windows in the step.
        judged: Tokens that all evaluations of a training score.
    """
    trainable, sizes = new.count(base), [base.linears[name] for name in new.layers]
    passing = {
        "products": base.flops_per_token(window, trainable),
        "elements": float(base.depth * base.width),
        "logits": float(base.vocab_size),
        "added": float(sum(inputs + outputs for inputs, outputs in sizes)),
    }
    work = _work(passing, base.depth, window * windows, judged)
    dropped = sum(inputs for inputs, _ in sizes) * window * windows if new.dropout else 0
    # Each layer with added weights launches some more kernels.
    return {**work, "layers": float(len(sizes)), "dropped": float(dropped), "weights": float(trainable)}
