"""Train one genome in several processes, one per GPU, and report from all of them.

`on_ranks` starts the processes. Trainers of other packages then act as under torchrun:

    def evaluate(genome, context, *, ranks: int = 1, steps: int = 1000):
        return on_ranks(in_rank, genome, context, ranks=ranks, steps=steps)

    def in_rank(genome, context, *, steps):      # called in every rank, like an evaluate without ranks
        …

The option must be called `ranks`: a run then gives each slot as many GPUs. `report` is called in every rank at the same
steps; rank 0 reports to the context, and a pruned training ends in all ranks at the same step.
"""

import contextlib
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

from evo_tune.genome.values import Value
from evo_tune.plugins.context import Context, Pruned
from evo_tune.plugins.ranks import Group, function_reference, launch, load_function


def on_ranks(
    function: Callable[..., Any],
    genome: Mapping[str, Value],
    context: Context,
    *,
    ranks: int,
    timeout: float = 600.0,
    **options: Any,
) -> Any:
    """Call `function(genome, context, **options)` in several ranks and return the result of rank 0.

    Args:
        function: Function at the top level of a file.
        genome: Genome to train.
        context: Context of the evaluation. Each rank gets a context of its own, with its own device.
        ranks: Number of processes; 1 calls the function in this process.
        timeout: Seconds that a rank waits for the others.
        options: Options of the function, as plain data.

    Raises:
        PluginError: The function is not at the top level of a file.
        RecipeError: There are fewer GPUs than ranks.
        RankFailed: A rank raised an error or died.
        Pruned: The learning curve passed a bound.
    """
    if ranks == 1:
        return function(genome, context, **options)
    fields = {name: getattr(context, name) for name in ("threads", "seed", "budget", "test")}
    folders = {"folder": context.folder, "resume_folder": context.resume_folder}
    fields |= {name: None if path is None else str(path) for name, path in folders.items()}
    return launch(
        in_rank,
        {"reference": function_reference(function), "genome": dict(genome), "fields": fields, "options": options},
        ranks=ranks,
        device=context.device.partition(":")[0],
        threads=context.threads,
        timeout=timeout,
        on_message=lambda point: context.report(point["fraction"], decayed=point["decayed"], **point["metrics"]),
    )


class _RankContext(Context):
    """Context of a rank: rank 0 sends its reports to the process that started it, which decides on pruning."""

    def __init__(self, send: Callable[[dict[str, Any]], None] | None, **fields: Any) -> None:
        super().__init__(**fields)
        self._send = send

    def report(self, fraction: float, *, decayed: bool | None = None, **metrics: float) -> None:
        super().report(fraction, decayed=decayed, **metrics)
        if self._send is not None:
            point = {name: float(value) for name, value in metrics.items()}
            self._send({"fraction": float(fraction), "decayed": decayed, "metrics": point})


def in_rank(
    ranks: Group,
    send: Callable[[dict[str, Any]], None],
    *,
    reference: dict[str, str],
    genome: dict[str, Value],
    fields: dict[str, Any],
    options: dict[str, Any],
) -> Any:
    """Call the function of `on_ranks` in one rank; `launch` calls this.

    Args:
        ranks: The group of ranks.
        send: Sends a message to the process that started this one.
        reference: File and name of the function.
        genome: Genome to train.
        fields: Arguments of the context.
        options: Options of the function.
    """
    context = _RankContext(send if ranks.rank == 0 else None, device=str(ranks.device), **fields)
    return load_function(**reference)(genome, context, **options)


def report(context: Context, fraction: float, metrics: Mapping[str, Any]) -> None:
    """Report a point of the learning curve; call it in every rank at the same step.

    Args:
        context: Context of the evaluation.
        fraction: Share of the full training done; nothing is reported at 0.
        metrics: Metrics; values that are no numbers are left out.

    Raises:
        Pruned: The curve of rank 0 passed a bound. It is raised in every rank.
    """
    point = numbers(metrics)
    if not 0 < fraction <= 1 or not point:
        return
    rank, size = place()
    pruned = ""
    if rank == 0:
        try:
            context.report(fraction, decayed=None, **point)
        except Pruned as error:
            if size == 1:
                raise
            pruned = str(error)
    if size > 1:
        import torch.distributed as dist

        message = [pruned]
        dist.broadcast_object_list(message, src=0)
        if message[0]:
            raise Pruned(message[0])


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics that are numbers and that `Context.report` can take."""
    values: dict[str, float] = {}
    for name, value in metrics.items():
        if isinstance(value, str | bytes | bool) or name in ("fraction", "decayed"):
            continue
        with contextlib.suppress(TypeError, ValueError, RuntimeError):
            values[str(name)] = float(value)
    return values


def last_step(context: Context, steps: int) -> int:
    """Return the step at which the context's budget ends, for a full training of `steps` steps."""
    return min(steps, max(1, math.ceil(round(context.budget * steps, 6))))


def place() -> tuple[int, int]:
    """Return this process's rank and the number of ranks."""
    torch = sys.modules.get("torch")
    dist = getattr(torch, "distributed", None)
    if dist is None or not dist.is_available() or not dist.is_initialized():
        return 0, 1
    return dist.get_rank(), dist.get_world_size()
