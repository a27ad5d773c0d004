"""An evaluation in several processes, one per GPU: what a trainer of somebody else's takes for a launch by torchrun.

    def evaluate(genome, context, *, ranks: int = 1, steps: int = 1000):
        return on_ranks(in_rank, genome, context, ranks=ranks, steps=steps)

    def in_rank(genome, context, *, steps):      # in every rank, as an evaluate without ranks would be
        …

The option must be called `ranks`: a run then gives each slot as many GPUs. Curves are told by rank 0; a training that
is pruned is ended in all ranks at once.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from evo_tune.errors import PluginError
from evo_tune.genome.values import Value
from evo_tune.plugins.context import Context

__all__ = ["on_ranks"]


def on_ranks(
    function: Callable[..., Any],
    genome: Mapping[str, Value],
    context: Context,
    *,
    ranks: int,
    timeout: float = 600.0,
    **options: Any,
) -> Any:
    """Return what `function(genome, context, **options)` returns in rank 0; it is called in each of the ranks.

    Args:
        function: Stands at the top level of a file.
        genome: The genome.
        context: The evaluation's; each rank gets one of its own, with its own device, that tells this one.
        ranks: Processes; 1 calls the function right here.
        timeout: Seconds that a rank waits for the others.
        options: Plain data.

    Raises:
        PluginError: The function does not stand at the top level of a file.
        RecipeError: More ranks than GPUs.
        RankFailed: A rank raised something, or died.
        Pruned: A bound fixed at birth is passed.
    """
    if ranks == 1:
        return function(genome, context, **options)
    code = getattr(function, "__code__", None)
    if code is None or function.__qualname__ != function.__name__:
        name = getattr(function, "__qualname__", repr(function))
        raise PluginError(f"on_ranks({name}): expected a function at the top level of a file, to be found there again")
    from evo_tune.training.hardware.launcher import launch

    fields = {
        "threads": context.threads,
        "seed": context.seed,
        "budget": context.budget,
        "folder": str(context.folder),
        "resume_folder": None if context.resume_folder is None else str(context.resume_folder),
        "inherit_folder": None if context.inherit_folder is None else str(context.inherit_folder),
        "keep": context.keep,
        "test": context.test,
    }
    order = {"file": os.path.abspath(code.co_filename), "name": function.__name__}
    return launch(
        in_rank,
        {"order": order, "genome": dict(genome), "fields": fields, "options": options},
        ranks=ranks,
        device=context.device.partition(":")[0],
        threads=context.threads,
        timeout=timeout,
        on_message=lambda told: context.report(told["at"], decayed=told["decayed"], **told["metrics"]),
    )


class _Telling(Context):
    """The context of a rank: what rank 0 reports goes to the process that started it, which decides."""

    def __init__(self, tell: Callable[[dict[str, Any]], None] | None, **fields: Any) -> None:
        super().__init__(**fields)
        self._tell = tell

    def report(self, fraction: float, *, decayed: bool | None = None, **metrics: float) -> None:
        super().report(fraction, decayed=decayed, **metrics)
        if self._tell is not None:
            point = {name: float(value) for name, value in metrics.items()}
            self._tell({"at": float(fraction), "decayed": decayed, "metrics": point})


def in_rank(
    ranks: Any,
    tell: Callable[[dict[str, Any]], None],
    *,
    order: dict[str, str],
    genome: dict[str, Value],
    fields: dict[str, Any],
    options: dict[str, Any],
) -> Any:
    """Do an order in one of the ranks: what `launch` calls there.

    Args:
        ranks: The launcher's view of the group.
        tell: Sends a message to the process that started it.
        order: The function's file and name.
        genome: The genome.
        fields: The context's.
        options: The function's.
    """
    path = Path(order["file"])
    spec = importlib.util.spec_from_file_location(f"evo_tune_in_rank_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    context = _Telling(tell if ranks.rank == 0 else None, device=str(ranks.device), **fields)
    return getattr(module, order["name"])(genome, context, **options)
