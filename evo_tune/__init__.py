"""evo-tune: evolve the architecture and hyperparameters with which a Transformer trains best.

The public names. Importing this loads no torch, no DEAP and no pandas.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evo_tune.errors import EvoTuneError

if TYPE_CHECKING:
    from evo_tune.evaluator import Context
    from evo_tune.history import History
    from evo_tune.search import Search
    from evo_tune.space import Choice, Float, Gene, Int, SearchSpace
    from evo_tune.strategy import Strategy
    from evo_tune.trial import Candidate, Maximize, Minimize, Outcome, Proposal, Trial

__version__ = "0.1.0"

_HOMES = {
    "Candidate": "trial",
    "Choice": "space",
    "Context": "evaluator",
    "Float": "space",
    "Gene": "space",
    "History": "history",
    "Int": "space",
    "Maximize": "trial",
    "Minimize": "trial",
    "Outcome": "trial",
    "Proposal": "trial",
    "Search": "search",
    "SearchSpace": "space",
    "Strategy": "strategy",
    "Trial": "trial",
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
    "Outcome",
    "Proposal",
    "Search",
    "SearchSpace",
    "Strategy",
    "Trial",
]


def __getattr__(name: str) -> Any:
    # Each public name is imported from its home on first use: `evo-tune --help` waits for none of them.
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"evo_tune.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'evo_tune' has no attribute {name!r}")
