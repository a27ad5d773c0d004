"""The strategy of a run as its manifest describes it: where its file is, and with the run's rules around it."""

from __future__ import annotations

import inspect
import os
from pathlib import Path

from evo_tune.errors import OptionError, PluginError
from evo_tune.plugins.evaluator import Evaluator
from evo_tune.plugins.find import find_strategy, make_strategy, source_hash
from evo_tune.rules.ruled import Ruled, Rules
from evo_tune.store.manifest import Manifest

__all__ = ["hash_of", "place_of", "ruled"]

OWN = "evo_tune.strategies."
"""Package of evo-tune's own strategies: their version is evo-tune's."""


def hash_of(strategy: str) -> str:
    """Return the hash of a strategy's file and its local modules; '' for one of evo-tune's own.

    Raises:
        PluginError: There is no such strategy, or it is broken.
    """
    found = find_strategy(strategy)
    return "" if found.__module__.startswith(OWN) else source_hash(Path(inspect.getfile(found)))


def place_of(manifest: Manifest, moved_to: str | None) -> str:
    """Return the name or path of a saved run's strategy, which is there.

    Args:
        manifest: The run's.
        moved_to: Where the user says that its file is now, if it has moved.

    Raises:
        OptionError: It is no file, so it cannot have moved.
        PluginError: It is gone, or broken.
    """
    name = manifest.strategy
    is_file = name.endswith(".py") or os.sep in name
    if moved_to is not None and not is_file:
        raise OptionError(f"--strategy {moved_to}: the run's strategy {name} is no file that can move; leave it out")
    try:
        find_strategy(moved_to or name)
    except PluginError as error:
        if moved_to is None and is_file and not Path(name).is_file():
            raise PluginError(f"{error}, or say where it is now: --strategy PATH") from None
        raise
    return moved_to or name


def ruled(manifest: Manifest, evaluator: Evaluator, moved_to: str | None = None) -> Ruled:
    """Return a run's strategy with its rules.

    Args:
        manifest: The run's.
        evaluator: The run's.
        moved_to: Where the strategy's file is now, if it has moved.

    Raises:
        PluginError: There is no such strategy, or it is broken.
        OptionError: An option of it is wrong.
    """
    constraints, options = manifest.constraints(), manifest.options
    rules = Rules(tuple(manifest.fidelity), manifest.prune, manifest.replicates, constraints, manifest.inherit)
    inner = make_strategy(place_of(manifest, moved_to), manifest.strategy_options)
    return Ruled.of(
        inner,
        rules,
        lambda genome: evaluator.estimate(genome, options),
        lambda genome, other: evaluator.inherits(genome, other, options),
    )
