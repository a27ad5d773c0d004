"""The contract of an evaluator's file: its shape, checked when it is loaded, and the errors of its code in one line."""

from __future__ import annotations

import ast
import inspect
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from evo_tune.errors import EvoTuneError, PluginError
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Objective

SUPPORTS = ("budget", "curve", "timing")
"""Features that an evaluator may support. 'budget': it trains `context.budget` of a full training, and resumes from
`context.resume_folder`. 'curve': it reports its first objective by `context.report`. 'timing': it times
`context.timing` steps and returns the seconds of a full training."""

AS_COMMAND = "; a script is run by its command, such as 'python train.py --lr {lr}'"
"""Hint for a file that is no evaluator."""

WITHOUT_OBJECTIVES = ("command", "function")
"""Origins of evaluators whose genes and objectives come from the caller."""


def check_shape(module: ModuleType, path: Path, origin: str) -> None:
    """Refuse a file that is no evaluator.

    Args:
        module: The loaded file.
        path: Path of the file.
        origin: See `Evaluator`.

    Raises:
        PluginError: A part is missing or wrong; the text names file, line and what was expected.
    """

    def refuse(name: str, text: str) -> PluginError:
        return PluginError(f"{definition_location(path, name)}: {text}")

    for name, example in (("SPACE", "SPACE = SearchSpace(…)"), ("OBJECTIVES", "OBJECTIVES = [Minimize(…)]")):
        if not hasattr(module, name):
            raise PluginError(f"{path}: expected {example}, found no {name}; `evo-tune new` shows one{AS_COMMAND}")
    if not callable(getattr(module, "evaluate", None)):
        raise PluginError(f"{path}: expected a function evaluate(genome, context), found none")
    count = len(positional_parameters(module.evaluate))
    if count not in (2, 3):
        raise refuse(
            "evaluate",
            f"evaluate takes {count} positional arguments: expected evaluate(genome, context, *, options) or "
            "evaluate(genome, context, options: Options)",
        )
    objectives = module.OBJECTIVES
    well_formed = isinstance(objectives, Sequence) and (objectives or origin in WITHOUT_OBJECTIVES)
    if not well_formed or not all(isinstance(objective, Objective) for objective in objectives):
        raise refuse("OBJECTIVES", f"OBJECTIVES is {objectives!r}: expected a list of Minimize(…), Maximize(…)")
    if not isinstance(module.SPACE, SearchSpace) and not callable(module.SPACE):
        raise refuse("SPACE", f"SPACE is {module.SPACE!r}: expected a SearchSpace(…)")
    metrics = getattr(module, "METRICS", {})
    if not _is_text_dict(metrics):
        raise refuse("METRICS", f"METRICS is {metrics!r}: expected a dict of metric name to unit ('' for none)")
    tests = getattr(module, "TEST", {})
    if not _is_text_dict(tests) or not all(name for pair in tests.items() for name in pair):
        raise refuse(
            "TEST",
            f"TEST is {tests!r}: expected a dict of metric names to those of the same on the test set, such as "
            "{'val_loss': 'test_loss'}",
        )
    for name in [*tests, *(objective.metric for objective in objectives)]:
        if is_test_metric(name, tests):
            raise refuse(
                "TEST",
                f"{name} is of the test set, which no search may see: expected an objective of the validation set, and "
                "in TEST what it is called on the test set",
            )
    lost = [name for name in tests if metrics and name not in metrics]
    if lost:
        raise refuse("TEST", f"TEST names {', '.join(lost)}, of which METRICS says nothing")
    supports = getattr(module, "SUPPORTS", [])
    if isinstance(supports, str) or not isinstance(supports, Sequence) or not set(supports) <= set(SUPPORTS):
        raise refuse("SUPPORTS", f"SUPPORTS is {supports!r}: expected a list of {', '.join(map(repr, SUPPORTS))}")
    costs = getattr(module, "CPU_COSTS", {})
    if not isinstance(costs, Mapping) or not all(is_number(cost) and float(cost) > 0.0 for cost in costs.values()):
        raise refuse("CPU_COSTS", f"CPU_COSTS is {costs!r}: expected a dict of kinds of work to seconds above 0")

    name, function = getattr(module, "BASELINE", ""), getattr(module, "baseline", None)
    if not isinstance(name, str) or bool(name) != callable(function):
        raise refuse(
            "BASELINE",
            f"BASELINE is {name!r} and baseline is {function!r}: expected a name, such as BASELINE = 'linear model', "
            "and a function baseline(options) that returns its metrics",
        )


def _is_text_dict(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(text, str) for pair in value.items() for text in pair)


def is_test_metric(name: str, tests: Mapping[str, str]) -> bool:
    """Return whether a metric is of the test set: named in TEST, or 'test_…' if there is a TEST."""
    return name in tests.values() or (bool(tests) and name.startswith("test_"))


def is_number(value: Any) -> bool:
    """Return whether a value converts to a float."""
    try:
        float(value)
    except Exception:  # a user's own __float__ may raise anything
        return False
    return True


@lru_cache(maxsize=256)  # estimates of proposals ask each time
def positional_parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Return the parameters of a function that can be given by position."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [parameter for parameter in inspect.signature(function).parameters.values() if parameter.kind in kinds]


def definition_location(path: Path, name: str) -> str:
    """Return FILE:LINE of the statement that defines a module-level name; FILE if there is none."""
    line = 0
    for node in ast.parse(path.read_bytes()).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", node)]
        names = {getattr(target, "id", getattr(target, "name", None)) for target in targets}
        line = node.lineno if name in names else line
    return f"{path}:{line}" if line else str(path)


def error_location(error: BaseException, path: Path) -> str:
    """Return FILE:LINE of the last frame of an error in a plug-in's file; FILE if there is none."""
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename).is_file():
        return f"{error.filename}:{error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"{path}:{lines[-1]}" if lines else str(path)


def error_text(error: BaseException) -> str:
    """Return the message of an error in one line, with its class unless it is an error of evo-tune."""
    if isinstance(error, EvoTuneError):
        return str(error)
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return " ".join(f"{type(error).__name__}: {text}".split())
