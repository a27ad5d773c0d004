"""The time of a step: amounts of work by arithmetic, and their costs by measurement.

An evaluator tells how much work a step of a genome is (`gpt_work`, `encoder_work`). A run times steps of some genomes
in its own slots and fits the cost of each kind of work (`Cost.fit`). The costs are saved among the options, so
`-o seconds=N` means the same number of steps on every machine and after every resume.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evo_tune.errors import OptionError
from evo_tune.options.declare import Options, option
from evo_tune.recipe.hardware.memory import NewWeights
from evo_tune.recipe.models.base import Base
from evo_tune.recipe.models.encoder_config import EncoderConfig
from evo_tune.recipe.models.gpt_config import GPTConfig

Array = NDArray[np.float64]

Work = Mapping[str, float]
"""Amount of each kind of work in a step, by name; with `JUDGED` before the name, in all evaluations of a training."""

JUDGED = "judged "

AT_ONCE = 4096
"""Tokens in a pass of an evaluation."""

ON_CPU = {
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

OVERHEAD = (0.03, 1.2)
"""Usual `start` and `judging` (see `Cost`)."""

NOISE = 0.1
"""Relative error of a measured step."""

KNOWN, UNKNOWN = 0.5, 2.0
"""Standard deviation of the prior of a cost's logarithm: with `ON_CPU`, and without."""

ITERATIONS = 100
"""Maximum number of Gauss-Newton iterations; some ten are enough."""

LEAST_COST = 1e-30
"""Smallest cost of a unit of work in seconds, so that the number of steps stays finite."""

LEAST_SHARE = 0.1
"""Smallest share of a budget that is left for steps, where evaluations would take more."""


@dataclass(frozen=True)
class Measured:
    """A timed genome.

    Args:
        work: Work of a step.
        step: Seconds of a step.
        judging: Seconds of building the training and of all evaluations.
    """

    work: Work
    step: float
    judging: float


@dataclass(frozen=True)
class Cost:
    """Costs of work on a device.

    Args:
        each: Seconds of a unit of each kind of work.
        start: Seconds to build a training.
        judging: Seconds of the evaluations, as a multiple of what the same work costs in a step.
    """

    each: Mapping[str, float]
    start: float = 0.0
    judging: float = 0.0

    @classmethod
    def fit(cls, points: Sequence[Measured], device: str) -> Cost:
        """Return the costs that explain some timed genomes with the smallest relative errors.

        The logarithm of each cost has a normal prior, so a few genomes are enough. On a CPU its mean is `ON_CPU` times
        the speed that the genomes show. On another device, and for an evaluator's own kinds of work, it is that each
        kind takes an equal share of the time, which says little.

        Args:
            points: At least one. Work that none of them contains costs nothing.
            device: Name of the device on which they were timed.
        """
        on_cpu = device.endswith("cpu")
        found = {name for point in points for name, amount in point.work.items() if amount > 0}
        names = sorted(name for name in found if not name.startswith(JUDGED))
        work = np.array([[point.work.get(name, 0.0) for name in names] for point in points])
        seconds = np.array([point.step for point in points])
        known = [on_cpu and name in ON_CPU for name in names]
        shares = (work / seconds[:, None]).T  # units in a second, if this kind of work took all of it
        equal = [1.0 / (len(names) * share[share > 0].mean()) for share in shares]
        usual = [ON_CPU[name] if one else each for name, one, each in zip(names, known, equal, strict=True)]
        each = _fitted(work, seconds, np.array(usual), np.where(known, KNOWN, UNKNOWN))
        cost = cls({name: float(f"{one:.6g}") for name, one in zip(names, each, strict=True)}, judging=1.0)
        overhead = np.array([[1.0, cost.overhead(point.work)] for point in points])
        judging = np.array([point.judging for point in points])
        start, factor = _fitted(overhead, judging, np.array(OVERHEAD), np.array([UNKNOWN, KNOWN]))
        return cls(cost.each, float(f"{start:.6g}"), float(f"{factor:.6g}"))

    def step(self, work: Work) -> float:
        """Return the seconds of a step."""
        return sum(self.each.get(name, 0.0) * amount for name, amount in work.items())

    def overhead(self, work: Work) -> float:
        """Return the seconds to build a training and to evaluate it."""
        amounts = {name.removeprefix(JUDGED): one for name, one in work.items() if name.startswith(JUDGED)}
        return self.start + self.judging * self.step(amounts)

    def steps(self, seconds: float, work: Work) -> float:
        """Return the number of steps that fit into a time beside the evaluations, above 0."""
        return max(seconds - self.overhead(work), LEAST_SHARE * seconds) / self.step(work)

    def text(self) -> str:
        """Return the costs as the value of an option."""
        return json.dumps({"each": dict(self.each), "start": self.start, "judging": self.judging})

    @staticmethod
    def parse(text: str) -> Cost:
        """Return the costs from the value of an option.

        Raises:
            OptionError: The text was not made by `text`.
        """
        return _parsed(text)


def _fitted(work: Array, seconds: Array, usual: Array, spread: Array) -> Array:
    """Return costs of work, above 0, by Gauss-Newton in their logarithms.

    Args:
        work: Amount of each kind of work in each measurement, (measurements, kinds).
        seconds: Measured seconds, (measurements,).
        usual: Mean of the costs' prior up to a factor, (kinds,).
        spread: Standard deviation of the prior of each cost's logarithm, (kinds,).

    Returns:
        Seconds of a unit of each kind, (kinds,).
    """
    seconds = np.maximum(seconds, 1e-9)
    prior = np.log(usual) + np.median(np.log(seconds / (work @ usual)))
    logs, weight = prior.copy(), (NOISE / spread) ** 2
    for _ in range(ITERATIONS):
        parts = work * np.exp(logs)
        total = parts.sum(axis=1)
        slopes = parts / total[:, None]
        left = np.log(seconds / total)
        curvature = slopes.T @ slopes + np.diag(weight)
        change = np.linalg.solve(curvature, slopes.T @ left + weight * (prior - logs))
        logs += np.clip(change, -1.0, 1.0)
        if np.abs(change).max() < 1e-9:
            break
    costs: Array = np.exp(logs)
    return costs


@lru_cache(maxsize=16)  # read at each estimate of a genome
def _parsed(text: str) -> Cost:
    wrong = OptionError(f"-o cost={text[:60]}: expected the costs that a run measured, as its manifest has them")
    try:
        data = json.loads(text)
        cost = Cost({str(name): float(one) for name, one in data["each"].items()}, data["start"], data["judging"])
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        raise wrong from None
    numbers = [*cost.each.values(), cost.start, cost.judging]
    known = all(isinstance(one, int | float) and (one == 0 or LEAST_COST <= one < 1e9) for one in numbers)
    if not known or not any(cost.each.values()):
        raise wrong
    return cost


@dataclass(frozen=True, kw_only=True)
class Timed(Options):
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

    def predicted(self, work: Work, steps: float) -> dict[str, float]:
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
    keys = sum(config.keys(one, config.context) for one in config.windows)
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
    found = _work(passing, config.depth, windows * config.context, judged)
    found["weights"] = float(config.parameters)
    return {**found, **_orthogonalising(config)} if optimizer == "muon" else found


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


def _orthogonalising(config: GPTConfig) -> dict[str, float]:
    """Return the work of Muon: FLOPs of five Newton-Schulz iterations, each 4m²n + 2m³ for m ≤ n."""
    d, f = config.width, config.ffn_width
    shared = d * config.key_value_heads // config.heads
    shapes = [(d, d), (d, d), (shared, d), (shared, d), (f, d), (d, f)] + [(f, d)] * (config.ffn == "swiglu")
    flops = sum(4.0 * min(shape) ** 2 * max(shape) + 2.0 * min(shape) ** 3 for shape in shapes)
    return {"muon": 1.0, "orthogonalising": 5.0 * config.depth * flops}


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
    found = _work(passing, config.depth, batch * length, judged * length)
    found["weights"] = float(config.parameters)
    if optimizer == "muon":
        found |= {"muon": 1.0, "orthogonalising": 10.0 * config.width * config.parameters}
    return found


def tuning_work(base: Base, new: NewWeights, window: int, windows: int, judged: float) -> dict[str, float]:
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
    found = _work(passing, base.depth, window * windows, judged)
    dropped = sum(inputs for inputs, _ in sizes) * window * windows if new.dropout else 0
    # Each layer with added weights launches some more kernels.
    return {**found, "layers": float(len(sizes)), "dropped": float(dropped), "weights": float(trainable)}


BUDGETS = ("flops", "tokens", "epochs", "seconds")
"""Options that set the length of a training."""


def budgets_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the budgets among some options that are set, by name."""
    return {name: options[name] for name in BUDGETS if options.get(name) is not None}
