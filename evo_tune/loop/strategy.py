"""The strategy of a run as its manifest describes it: the one that was chosen, with the run's rules around it."""

from __future__ import annotations

from evo_tune.plugins.evaluator import Evaluator
from evo_tune.plugins.find import make_strategy
from evo_tune.rules.ruled import Ruled, Rules
from evo_tune.store.manifest import Manifest

__all__ = ["ruled"]


def ruled(manifest: Manifest, evaluator: Evaluator) -> Ruled:
    """Return a run's strategy with its rules.

    Raises:
        PluginError: There is no such strategy, or it is broken.
        OptionError: An option of it is wrong.
    """
    constraints, options = manifest.constraints(), manifest.options
    rules = Rules(tuple(manifest.fidelity), manifest.prune, manifest.replicates, constraints, manifest.inherit)
    inner = make_strategy(manifest.strategy, manifest.strategy_options)
    return Ruled.of(
        inner,
        rules,
        lambda genome: evaluator.estimate(genome, options),
        lambda genome, other: evaluator.inherits(genome, other, options),
    )
