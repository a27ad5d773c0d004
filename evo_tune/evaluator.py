"""What an evaluator file holds, and the Context that its `evaluate` is given.

An evaluator is one Python file with SPACE, OBJECTIVES and `evaluate(genome, context, *, options)`,
optionally `estimate`, `fingerprint` and `export`. This module checks that shape before anything is
trained. It does not find files (see `plugins`) and knows nothing of strategies or stores.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from evo_tune.errors import PluginError
from evo_tune.options import Option, bind, call_with, options_of
from evo_tune.space import Genome, SearchSpace
from evo_tune.trial import Objective

__all__ = ["Context", "Evaluator", "Pruned"]


class Pruned(BaseException):
    """Raised by `Context.report` when a bound fixed at birth is passed; not for evaluators to catch."""


class Context:
    """What one evaluation is given beside its genome.

    Args:
        device: Where to train: 'cpu', 'cuda:0', 'mps'.
        threads: Number of CPU threads; already set for torch when evaluate is called.
        seed: Seed for everything random.
        budget: Fraction of the full training to do, 0 < budget ≤ 1. Schedules are laid over the full
            training whatever the budget.
        folder: Where `folder` will be; it is made on first use.
        resume_folder: Folder of the trial that this one goes on from, or None.
        stop_if: (fraction, metric, loss bound): stops as pruned once the metric, as a loss, is above.
        objectives: Give the signs of the metrics in `stop_if`.
    """

    def __init__(
        self,
        device: str = "cpu",
        threads: int = 1,
        seed: int = 0,
        budget: float = 1.0,
        folder: Path | str = "trial",
        resume_folder: Path | str | None = None,
        stop_if: Sequence[tuple[float, str, float]] = (),
        objectives: Sequence[Objective] = (),
    ) -> None:
        self.device = device
        self.threads = threads
        self.seed = seed
        self.budget = budget
        self.resume_folder = None if resume_folder is None else Path(resume_folder)
        self._folder = Path(folder)
        self._stop_if = tuple(stop_if)
        self._signs = {objective.metric: objective.sign for objective in objectives}
        self.curve: list[tuple[float, dict[str, float]]] = []

    @property
    def folder(self) -> Path:
        """This trial's own folder, for logs and checkpoints; made on first use."""
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder

    def report(self, fraction: float, **metrics: float) -> None:
        """Add a point to the learning curve.

        Args:
            fraction: Share of the full training done, 0 < fraction ≤ 1.
            metrics: Values at this point.

        Raises:
            ValueError: The fraction is out of range, or a metric is not a number.
            Pruned: A bound fixed at birth is passed.
        """
        if not 0.0 < fraction <= 1.0:
            raise ValueError(f"report(fraction={fraction!r}): expected more than 0 and at most 1")
        point = {name: float(value) for name, value in metrics.items()}
        self.curve.append((float(fraction), point))
        for at, metric, bound in self._stop_if:
            loss = self._signs.get(metric, 1.0) * point.get(metric, -math.inf)
            if fraction >= at and metric in point and not loss <= bound:
                raise Pruned(f"{metric}={point[metric]:.6g} at {fraction:.0%} is beyond its bound")


@dataclass(frozen=True)
class Evaluator:
    """An evaluator's file, loaded and checked.

    Args:
        module: The loaded module.
        name: Short name, for people.
        reference: How the manifest names it: 'bundled:NAME', 'entry:NAME' or a path as the user gave it.
        path: The file, absolute: what a worker imports.
        origin: Where it was found, for lists: 'bundled', 'file' or 'entry point'.
    """

    module: ModuleType
    name: str
    reference: str
    path: Path
    origin: str

    def __post_init__(self) -> None:
        for attribute, what in (
            ("SPACE", "SPACE = SearchSpace(…)"),
            ("OBJECTIVES", "OBJECTIVES = [Minimize(…)]"),
        ):
            if not hasattr(self.module, attribute):
                raise PluginError(f"{self.path}: expected {what}, found no {attribute}; `evo-tune new` shows one")
        if not callable(getattr(self.module, "evaluate", None)):
            raise PluginError(f"{self.path}: expected a function evaluate(genome, context), found none")
        self._check_signature()
        objectives = self.module.OBJECTIVES
        well_formed = isinstance(objectives, Sequence) and objectives
        if not well_formed or not all(isinstance(objective, Objective) for objective in objectives):
            raise PluginError(f"{self.path}: OBJECTIVES is {objectives!r}: expected a list of Minimize, Maximize")

    def _check_signature(self) -> None:
        parameters = inspect.signature(self.module.evaluate).parameters.values()
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        if len(positional) != 2:
            line = inspect.getsourcelines(self.module.evaluate)[1]
            raise PluginError(
                f"{self.path}:{line}: evaluate takes {len(positional)} positional arguments: expected "
                "evaluate(genome, context, *, options)"
            )

    @property
    def summary(self) -> str:
        """First line of the file's docstring."""
        return (self.module.__doc__ or "").strip().partition("\n")[0]

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """What the file says it optimises."""
        return tuple(self.module.OBJECTIVES)

    @cached_property
    def options(self) -> dict[str, Option]:
        """Its declared options: the keyword-only parameters of `evaluate`."""
        return options_of(self.module.evaluate)

    def bind(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return every option's value; see `options.bind`."""
        return bind(given, self.options, self.name, "-o")

    def space(self, options: Mapping[str, Any]) -> SearchSpace:
        """Return the search space under these options.

        Raises:
            PluginError: SPACE is neither a SearchSpace nor a function that returns one.
        """
        space = self.module.SPACE
        if not isinstance(space, SearchSpace) and callable(space):
            space = call_with(space, options)
        if not isinstance(space, SearchSpace):
            raise PluginError(f"{self.path}: SPACE gives {space!r}: expected a SearchSpace")
        return space

    def fingerprint(self, options: Mapping[str, Any]) -> str:
        """Return the identity of the data under these options; '' if the file declares none."""
        function = getattr(self.module, "fingerprint", None)
        return "" if function is None else str(call_with(function, options))

    def estimate(self, genome: Genome, options: Mapping[str, Any]) -> dict[str, float]:
        """Return the metrics known before training, such as params; empty if the file declares none."""
        function = getattr(self.module, "estimate", None)
        return {} if function is None else dict(call_with(function, options, dict(genome)))

    def evaluate(self, genome: Genome, context: Context, options: Mapping[str, Any]) -> Any:
        """Train once and return what the file's `evaluate` returned, unjudged."""
        return self.module.evaluate(dict(genome), context, **options)
