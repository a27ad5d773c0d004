"""What an evaluator file holds, and the Context that its `evaluate` is given.

An evaluator is one Python file with SPACE, OBJECTIVES and `evaluate(genome, context, *, options)`,
optionally METRICS, SUPPORTS, `estimate`, `fingerprint`, `inherits` and `export`. This module checks that shape before
anything is trained. It does not find files (see `plugins`) and knows nothing of strategies or stores.
"""

from __future__ import annotations

import ast
import inspect
import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from evo_tune.errors import EvoTuneError, OptionError, PluginError
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Objective
from evo_tune.genome.values import Genome
from evo_tune.plugins.options import Option, bind, call_with, options_of
from evo_tune.text import one_line

__all__ = ["Context", "Evaluator", "Pruned", "what_of", "where_of"]


SUPPORTS = ("budget", "curve", "inherit")
"""What an evaluator may say that it supports: trains `context.budget` of a full training and goes on from
`context.resume_folder`; reports its first objective by `context.report`; begins with the weights that another trial
left in `context.inherit_folder`, and leaves its own where `context.keep` says so."""


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
        inherit_folder: Folder of the trial, of another genome, with whose weights this one begins, or None.
            The training is then whole in itself: `budget` of the full one's length, with its own schedule.
        keep: Whether later trials may begin with this one's weights: leave them in `folder`.
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
        inherit_folder: Path | str | None = None,
        keep: bool = False,
    ) -> None:
        self.device = device
        self.threads = threads
        self.seed = seed
        self.budget = budget
        self.resume_folder = None if resume_folder is None else Path(resume_folder)
        self.inherit_folder = None if inherit_folder is None else Path(inherit_folder)
        self.keep = keep
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
        try:
            point = {name: float(value) for name, value in metrics.items()}
        except (TypeError, RuntimeError) as error:  # a tensor of several numbers raises RuntimeError
            raise ValueError(f"report({fraction}, {metrics}): expected numbers") from error
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
            where = self._where("OBJECTIVES")
            raise PluginError(f"{where}: OBJECTIVES is {objectives!r}: expected a list of Minimize(…), Maximize(…)")
        if not isinstance(self.module.SPACE, SearchSpace) and not callable(self.module.SPACE):
            raise PluginError(f"{self._where('SPACE')}: SPACE is {self.module.SPACE!r}: expected a SearchSpace(…)")

        metrics = getattr(self.module, "METRICS", {})
        if not isinstance(metrics, Mapping) or not all(isinstance(x, str) for pair in metrics.items() for x in pair):
            where = self._where("METRICS")
            raise PluginError(f"{where}: METRICS is {metrics!r}: expected a dict of metric name to unit ('' for none)")

        supports = getattr(self.module, "SUPPORTS", [])
        if isinstance(supports, str) or not isinstance(supports, Sequence) or not set(supports) <= set(SUPPORTS):
            where = self._where("SUPPORTS")
            raise PluginError(f"{where}: SUPPORTS is {supports!r}: expected a list of {', '.join(map(repr, SUPPORTS))}")

        try:
            self.options  # noqa: B018
        except OptionError as error:
            raise PluginError(f"{self._where('evaluate')}: {error}") from None

    def _check_signature(self) -> None:
        parameters = inspect.signature(self.module.evaluate).parameters.values()
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        if len(positional) != 2:
            raise PluginError(
                f"{self._where('evaluate')}: evaluate takes {len(positional)} positional arguments: expected "
                "evaluate(genome, context, *, options)"
            )

    def _where(self, name: str) -> str:
        """Return FILE:LINE of the statement that gives a module-level name its value; FILE if there is none."""
        line = 0
        for node in ast.parse(self.path.read_bytes()).body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", node)]
            names = {getattr(target, "id", getattr(target, "name", None)) for target in targets}
            line = node.lineno if name in names else line
        return f"{self.path}:{line}" if line else str(self.path)

    def _call(self, function: Callable[..., Any], options: Mapping[str, Any], *args: Any) -> Any:
        """Call one of the file's own functions, its errors made messages that name file and line."""
        try:
            return call_with(function, options, *args)
        except EvoTuneError:
            raise
        except Exception as error:
            raise PluginError(f"{where_of(error, self.path)}: {what_of(error)}") from error

    @property
    def summary(self) -> str:
        """First line of the file's docstring."""
        return (self.module.__doc__ or "").strip().partition("\n")[0]

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """What the file says it optimises."""
        return tuple(self.module.OBJECTIVES)

    @property
    def metrics(self) -> dict[str, str]:
        """Names and units of what `evaluate` returns, if the file declares them (METRICS)."""
        return dict(getattr(self.module, "METRICS", {}))

    @property
    def supports(self) -> tuple[str, ...]:
        """What of SUPPORTS the file says that it supports."""
        return tuple(getattr(self.module, "SUPPORTS", ()))

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
            space = self._call(space, options)
        if not isinstance(space, SearchSpace):
            raise PluginError(f"{self._where('SPACE')}: SPACE gives {space!r}: expected a SearchSpace")
        return space

    def fingerprint(self, options: Mapping[str, Any]) -> str:
        """Return the identity of the data under these options; '' if the file declares none."""
        function = getattr(self.module, "fingerprint", None)
        return "" if function is None else str(self._call(function, options))

    def estimate(self, genome: Genome, options: Mapping[str, Any]) -> dict[str, float]:
        """Return the metrics known before training, such as params; empty if the file declares none.

        Raises:
            PluginError: It raises, or returns something else than numbers by name; the text names file and line.
        """
        function = getattr(self.module, "estimate", None)
        if function is None:
            return {}
        known = self._call(function, options, dict(genome))
        if isinstance(known, Mapping) and all(_is_number(value) for value in known.values()):
            return dict(known)
        what = one_line(f"estimate gives {known!r}")
        raise PluginError(f"{self._where('estimate')}: {what}: expected a dict of metric names to numbers")

    def inherits(self, genome: Genome, other: Genome, options: Mapping[str, Any]) -> bool:
        """Say whether a model of a genome can begin with the weights of another one's; yes if the file does not say.

        Raises:
            PluginError: The file's `inherits` raises; the text names file and line.
        """
        function = getattr(self.module, "inherits", None)
        return function is None or bool(self._call(function, options, dict(genome), dict(other)))

    def evaluate(self, genome: Genome, context: Context, options: Mapping[str, Any]) -> Any:
        """Train once and return what the file's `evaluate` returned, and its estimates, unjudged."""
        returned = self.module.evaluate(dict(genome), context, **options)
        return {**self.estimate(genome, options), **returned} if isinstance(returned, Mapping) else returned

    def export(self, genome: Genome, context: Context, folder: Path, options: Mapping[str, Any]) -> dict[str, Any]:
        """Have the file's `export` train once more and write something usable; return its metrics.

        Raises:
            PluginError: It raises; the text names file and line.
        """
        metrics = self._call(self.module.export, options, dict(genome), context, folder)
        return dict(metrics) if isinstance(metrics, Mapping) else {}


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except Exception:  # anything may come out of a user's own __float__
        return False
    return True


def where_of(error: BaseException, path: Path) -> str:
    """Return FILE:LINE of the last frame of an error in a plug-in's own file; FILE if it has none there."""
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename).is_file():
        return f"{error.filename}:{error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"{path}:{lines[-1]}" if lines else str(path)


def what_of(error: BaseException) -> str:
    """Return what an error says, in one line; those of evo-tune need no name of their class."""
    if isinstance(error, EvoTuneError):
        return str(error)
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return " ".join(f"{type(error).__name__}: {text}".split())
