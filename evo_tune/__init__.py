"""evo-tune: find the hyperparameters and the architecture with which a model trains best.

This module has the public names. Importing it loads neither torch nor DEAP nor pandas.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from evo_tune.errors import EvoTuneError as EvoTuneError

if TYPE_CHECKING:
    from evo_tune.genome.genes import Choice as Choice
    from evo_tune.genome.genes import Float as Float
    from evo_tune.genome.genes import Gene as Gene
    from evo_tune.genome.genes import Int as Int
    from evo_tune.genome.history import History as History
    from evo_tune.genome.space import SearchSpace as SearchSpace
    from evo_tune.genome.trial import Candidate as Candidate
    from evo_tune.genome.trial import Maximize as Maximize
    from evo_tune.genome.trial import Minimize as Minimize
    from evo_tune.genome.trial import Outcome as Outcome
    from evo_tune.genome.trial import Proposal as Proposal
    from evo_tune.genome.trial import Trial as Trial
    from evo_tune.loop.search import Search as Search
    from evo_tune.options.declare import Options as Options
    from evo_tune.options.declare import option as option
    from evo_tune.plugins.context import Context as Context
    from evo_tune.plugins.scripts.script import Script as Script
    from evo_tune.plugins.strategy import Strategy as Strategy
    from evo_tune.report.page import load as load
    from evo_tune.training.prediction.loading import load_model as load_model

__version__ = "1.1.0"

# Public names by the module that has them.
_HOMES = {
    "genome.genes": ("Choice", "Float", "Gene", "Int"),
    "genome.history": ("History",),
    "genome.space": ("SearchSpace",),
    "genome.trial": ("Candidate", "Maximize", "Minimize", "Outcome", "Proposal", "Trial"),
    "loop.search": ("Search",),
    "options.declare": ("Options", "option"),
    "plugins.context": ("Context",),
    "plugins.scripts.script": ("Script",),
    "plugins.strategy": ("Strategy",),
    "report.page": ("load",),
    "training.prediction.loading": ("load_model",),
}

__all__ = sorted(["EvoTuneError", *(name for names in _HOMES.values() for name in names)])


def __getattr__(name: str) -> Any:
    # Each public name is imported on first use, so that `evo-tune --help` waits for none of them.
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"evo_tune.{module}"), name)
    raise AttributeError(f"module 'evo_tune' has no attribute {name!r}")
