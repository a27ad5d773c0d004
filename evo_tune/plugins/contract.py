"""The shape of an evaluator's file, checked as it is loaded: what is wrong is said before anything is trained."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from evo_tune.errors import PluginError
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Objective

__all__ = ["SUPPORTS", "check_shape", "is_test", "positional", "where_given"]

SUPPORTS = ("budget", "curve", "timing")
"""What an evaluator may say that it supports: trains `context.budget` of a full training and goes on from
`context.resume_folder`; reports its first objective by `context.report`; times `context.timing` steps and returns what
a full training will take."""

CALLED = ("command", "function")
"""Origins of evaluators that have no file in which everything stands: who calls says what varies and what counts."""


def check_shape(module: ModuleType, path: Path, origin: str) -> None:
    """Refuse a file that is no evaluator.

    Args:
        module: It, loaded.
        path: The file.
        origin: See `Evaluator`.

    Raises:
        PluginError: It is none; the text names file, line and what was expected.
    """
    for attribute, what in (
        ("SPACE", "SPACE = SearchSpace(…)"),
        ("OBJECTIVES", "OBJECTIVES = [Minimize(…)]"),
    ):
        if not hasattr(module, attribute):
            raise PluginError(f"{path}: expected {what}, found no {attribute}; `evo-tune new` shows one")
    if not callable(getattr(module, "evaluate", None)):
        raise PluginError(f"{path}: expected a function evaluate(genome, context), found none")
    count = len(positional(module.evaluate))
    if count not in (2, 3):
        raise PluginError(
            f"{where_given(path, 'evaluate')}: evaluate takes {count} positional arguments: expected "
            "evaluate(genome, context, *, options) or evaluate(genome, context, options: Options)"
        )
    objectives = module.OBJECTIVES
    well_formed = isinstance(objectives, Sequence) and (objectives or origin in CALLED)
    if not well_formed or not all(isinstance(objective, Objective) for objective in objectives):
        where = where_given(path, "OBJECTIVES")
        raise PluginError(f"{where}: OBJECTIVES is {objectives!r}: expected a list of Minimize(…), Maximize(…)")
    if not isinstance(module.SPACE, SearchSpace) and not callable(module.SPACE):
        raise PluginError(f"{where_given(path, 'SPACE')}: SPACE is {module.SPACE!r}: expected a SearchSpace(…)")
    metrics = getattr(module, "METRICS", {})
    if not isinstance(metrics, Mapping) or not all(isinstance(x, str) for pair in metrics.items() for x in pair):
        where = where_given(path, "METRICS")
        raise PluginError(f"{where}: METRICS is {metrics!r}: expected a dict of metric name to unit ('' for none)")
    _check_test(module, path, metrics)
    supports = getattr(module, "SUPPORTS", [])
    if isinstance(supports, str) or not isinstance(supports, Sequence) or not set(supports) <= set(SUPPORTS):
        where = where_given(path, "SUPPORTS")
        raise PluginError(f"{where}: SUPPORTS is {supports!r}: expected a list of {', '.join(map(repr, SUPPORTS))}")


def _check_test(module: ModuleType, path: Path, metrics: Mapping[str, str]) -> None:
    tests = getattr(module, "TEST", {})
    if not isinstance(tests, Mapping) or not all(isinstance(x, str) and x for pair in tests.items() for x in pair):
        raise PluginError(
            f"{where_given(path, 'TEST')}: TEST is {tests!r}: expected a dict of metric names to those of the same on "
            "the test set, such as {'val_loss': 'test_loss'}"
        )
    for name in [*tests, *(objective.metric for objective in module.OBJECTIVES)]:
        if is_test(name, tests):
            raise PluginError(
                f"{where_given(path, 'TEST')}: {name} is of the test set, which no search may see: expected an "
                "objective of the validation set, and in TEST what it is called on the test set"
            )
    lost = [name for name in tests if metrics and name not in metrics]
    if lost:
        raise PluginError(f"{where_given(path, 'TEST')}: TEST names {', '.join(lost)}, of which METRICS says nothing")


def is_test(name: str, tests: Mapping[str, str]) -> bool:
    """Say whether a metric is of the test set: named in TEST, or, where there is a TEST, beginning with test_."""
    return name in tests.values() or (bool(tests) and name.startswith("test_"))


def where_given(path: Path, name: str) -> str:
    """Return FILE:LINE of the statement that gives a module-level name its value; FILE if there is none."""
    line = 0
    for node in ast.parse(path.read_bytes()).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", node)]
        names = {getattr(target, "id", getattr(target, "name", None)) for target in targets}
        line = node.lineno if name in names else line
    return f"{path}:{line}" if line else str(path)


def positional(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Return the parameters of a function that can be given by position."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [one for one in inspect.signature(function).parameters.values() if one.kind in kinds]
