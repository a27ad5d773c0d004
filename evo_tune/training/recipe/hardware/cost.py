"""The work of a training step by arithmetic, and a budget in time.

`plugins.cost` fits the cost of each kind of work to measured steps.
"""

from __future__ import annotations

from dataclasses import dataclass

from evo_tune.errors import OptionError
from evo_tune.options.declare import Options, option
from evo_tune.plugins.cost import JUDGED, Cost, Work
from evo_tune.training.recipe.hardware.memory import NewWeights
from evo_tune.training.recipe.models.base import BaseModel
from evo_tune.training.recipe.models.encoder_config import EncoderConfig
from evo_tune.training.recipe.models.gpt_config import GPTConfig

AT_ONCE = 4096
"""Tokens in a pass of an evaluation."""

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
"""Seconds of a unit of each kind of work on one core of a CPU. Only their ratios are used."""


@dataclass(frozen=True, kw_only=True)
class TimeBudget(Options):
    """Budget in time."""

    seconds: float | None = option(
        None,
        bounds="(0, 1e9]",
        unit="s",
        gene=None,
        help="Budget in time, evaluations included: as many steps as the measured cost of a step allows",
    )
    cost: str = option("", gene=None, help="Measured cost of a step; a run fills it in")

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
    keys = sum(config.keys(window, config.context) for window in config.windows)
    gates = 2 if config.ffn == "swiglu" else 1
    channels = 8 * config.width + (1 + gates) * config.ffn_width
    channels += 2 * config.width * ((config.position == "rope") + config.qk_norm)
    passing = {
        "products": 6.0 * config.matmul_parameters,
        "attention": 12.0 * config.width * keys,
        "scores": float(config.heads * keys),
        "heads": config.depth * config.heads / config.context,
        "elements": float(config.depth * channels),
        "logits": float(config.vocab_size),
    }
    work = _work(passing, config.depth, windows * config.context, judged)
    work["weights"] = float(config.parameters)
    if optimizer == "muon":  # five Newton-Schulz iterations, each of 4m²n + 2m³ FLOPs for m ≤ n
        d, f = config.width, config.ffn_width
        shared = d * config.key_value_heads // config.heads
        shapes = [(d, d), (d, d), (shared, d), (shared, d), (f, d), (d, f)] + [(f, d)] * (config.ffn == "swiglu")
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
    attention = 12.0 * config.width * length * config.depth
    passing = {
        "products": max(0.0, flops_per_sample / length - attention),
        "attention": attention,
        "scores": float(config.heads * length * config.depth),
        "heads": config.depth * config.heads / length,
        "elements": float(config.depth * (8 * config.width + 2 * config.ffn_width)),
    }
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
