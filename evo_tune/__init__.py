"""evo-tune: find the hyperparameters and the architecture with which a model trains best.

This module has the public names. Importing it loads neither torch nor DEAP nor pandas.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from evo_tune.errors import EvoTuneError

if TYPE_CHECKING:
    from evo_tune.genome.genes import Choice, Float, Gene, Int
    from evo_tune.genome.history import History
    from evo_tune.genome.space import SearchSpace
    from evo_tune.genome.trial import Candidate, Maximize, Minimize, Outcome, Proposal, Trial
    from evo_tune.loop.search import Search
    from evo_tune.options.declare import Options, option
    from evo_tune.plugins.context import Context
    from evo_tune.plugins.scripts.script import Script
    from evo_tune.plugins.strategy import Strategy
    from evo_tune.report.page import load
    from evo_tune.training.prediction.loading import load_model

__version__ = "1.0.0"

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

__all__ = [
    "Candidate",
    "Choice",
    "Context",
    "EvoTuneError",
    "Float",
    "Gene",
    "History",
    "Int",
    "Maximize",
    "Minimize",
    "Options",
    "Outcome",
    "Proposal",
    "Script",
    "Search",
    "SearchSpace",
    "Strategy",
    "Trial",
    "load",
    "load_model",
    "option",
]


def __getattr__(name: str) -> Any:
    # Each public name is imported on first use, so that `evo-tune --help` waits for none of them.
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"evo_tune.{module}"), name)
    raise AttributeError(f"module 'evo_tune' has no attribute {name!r}")
