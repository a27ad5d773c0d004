"""The time of a training step: the work that an evaluator declares, and its cost as a run measures it.

An evaluator tells how much work of each kind a step of a genome is (`work`). A run times steps of some genomes in its
own slots and fits the cost of each kind of work (`Cost.fit`). The costs are saved among the options, so `-o seconds=N`
means the same number of steps on every machine and after every resume.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import geometric_mean
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from evo_tune.errors import OptionError

Array = NDArray[np.float64]

# Amount of each kind of work in a step, by name; with `JUDGED` before the name, in all evaluations of a training.
Work = Mapping[str, float]

JUDGED = "judged "

# Usual `start` and `judging` (see `Cost`).
OVERHEAD = (0.03, 1.2)

# Relative error of a measured step.
NOISE = 0.1

# Standard deviation of the prior of a cost's logarithm: with a usual cost, and without.
KNOWN, UNKNOWN = 0.5, 2.0

# Smallest cost of a unit of work in seconds, so that the number of steps stays finite.
LEAST_COST = 1e-30

# Smallest share of a budget that is left for steps, where evaluations would take more.
LEAST_SHARE = 0.1

# Options that set the length of a training, if an evaluator has them.
BUDGETS = ("flops", "tokens", "epochs", "seconds")


def budgets_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the budgets among some options that are set, by name."""
    return {name: options[name] for name in BUDGETS if options.get(name) is not None}


@dataclass(frozen=True)
class TimedGenome:
    """A timed genome.

    Args:
        work: Work of a step.
        step: Seconds of a step.
        judging: Seconds of building the training and of all evaluations.
    """

    work: Work
    step: float
    judging: float


class Cost(msgspec.Struct, frozen=True, rename={"unit_costs": "each"}):
    """Costs of work on a device.

    Args:
        unit_costs: Seconds of a unit of each kind of work.
        start: Seconds to build a training.
        judging: Seconds of the evaluations, as a multiple of what the same work costs in a step.
    """

    unit_costs: Mapping[str, float]
    start: float = 0.0
    judging: float = 0.0

    @classmethod
    def fit(cls, points: Sequence[TimedGenome], device: str, cpu_costs: Mapping[str, float]) -> "Cost":
        """Return the costs that explain some timed genomes with the smallest relative errors.

        The logarithm of each cost has a normal prior, so a few genomes are enough. On a CPU its mean is `cpu_costs`
        times the speed that the genomes show. On another device, and for kinds of work that are not in it, it is that
        each kind takes an equal share of the time, which says little.

        Args:
            points: At least one. Work that none of them contains has the cost of `cpu_costs` times the same speed;
                without an entry there it costs nothing.
            device: Name of the device on which they were timed.
            cpu_costs: Usual seconds of a unit of each kind of work on a core of a CPU. Only their ratios are used.
        """
        on_cpu = device.endswith("cpu")
        kinds = {name for point in points for name, amount in point.work.items() if amount > 0}
        names = sorted(name for name in kinds if not name.startswith(JUDGED))
        work = np.array([[point.work.get(name, 0.0) for name in names] for point in points])
        seconds = np.array([point.step for point in points])
        has_usual_cost = [on_cpu and name in cpu_costs for name in names]
        shares = (work / seconds[:, None]).T  # units in a second, if this kind of work took all of it
        equal = [1.0 / (len(names) * share[share > 0].mean()) for share in shares]
        usual = [
            cpu_costs[name] if is_usual else costs
            for name, is_usual, costs in zip(names, has_usual_cost, equal, strict=True)
        ]
        costs = fit_costs(work, seconds, np.array(usual), np.where(has_usual_cost, KNOWN, UNKNOWN))
        fitted = dict(zip(names, costs.tolist(), strict=True))
        ratios = [fitted[name] / cpu_costs[name] for name in names if name in cpu_costs]
        untimed = {name: cost * geometric_mean(ratios) for name, cost in cpu_costs.items() if ratios and on_cpu}
        cost = cls({name: float(f"{cost:.6g}") for name, cost in {**untimed, **fitted}.items()}, judging=1.0)
        overhead = np.array([[1.0, cost.overhead(point.work)] for point in points])
        judging = np.array([point.judging for point in points])
        start, factor = fit_costs(overhead, judging, np.array(OVERHEAD), np.array([UNKNOWN, KNOWN]))
        return cls(cost.unit_costs, float(f"{start:.6g}"), float(f"{factor:.6g}"))

    def step(self, work: Work) -> float:
        """Return the seconds of a step."""
        return sum(self.unit_costs.get(name, 0.0) * amount for name, amount in work.items())

    def overhead(self, work: Work) -> float:
        """Return the seconds to build a training and to evaluate it."""
        amounts = {name.removeprefix(JUDGED): amount for name, amount in work.items() if name.startswith(JUDGED)}
        return self.start + self.judging * self.step(amounts)

    def steps(self, seconds: float, work: Work) -> float:
        """Return the number of steps that fit into a time beside the evaluations, above 0."""
        return max(seconds - self.overhead(work), LEAST_SHARE * seconds) / self.step(work)

    def text(self) -> str:
        """Return the costs as the value of an option."""
        return json.dumps({"each": dict(self.unit_costs), "start": self.start, "judging": self.judging})

    @staticmethod
    @lru_cache(maxsize=16)  # read at each estimate of a genome
    def parse(text: str) -> "Cost":
        """Return the costs from the value of an option.

        Raises:
            OptionError: The text was not made by `text`.
        """
        wrong = OptionError(f"-o cost={text[:60]}: expected the costs that a run measured, as its manifest has them")
        try:
            cost = msgspec.json.decode(text, type=Cost)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            raise wrong from None
        units = cost.unit_costs.values()
        numbers = [*units, cost.start, cost.judging]
        if not any(units) or not all(seconds == 0 or LEAST_COST <= seconds < 1e9 for seconds in numbers):
            raise wrong
        return cost


def fit_costs(work: Array, seconds: Array, usual: Array, spread: Array) -> Array:
    """Return costs of work, above 0, by least squares in their logarithms.

    Args:
        work: Amount of each kind of work in each measurement, (measurements, kinds).
        seconds: Measured seconds, (measurements,).
        usual: Mean of the costs' prior up to a factor, (kinds,).
        spread: Standard deviation of the prior of each cost's logarithm, (kinds,).

    Returns:
        Seconds of a unit of each kind, (kinds,).
    """
    from scipy.optimize import least_squares  # takes a tenth of a second, needed only where costs are measured

    seconds = np.maximum(seconds, 1e-9)
    prior = np.log(usual) + np.median(np.log(seconds / (work @ usual)))

    def errors(logs: Array) -> Array:
        return np.append(np.log(work @ np.exp(logs) / seconds), NOISE / spread * (logs - prior))

    costs: Array = np.exp(least_squares(errors, prior).x)
    return costs
