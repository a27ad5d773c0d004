"""Everything that evo-tune raises on purpose, in one tree.

    EvoTuneError                something the user can mend; its text is the whole message
    ├── UsageError              what was typed or passed is wrong (exit code 2)
    │   ├── SpaceError          a gene, a genome or a search space
    │   ├── OptionError         an option of an evaluator or a strategy
    │   ├── PluginError         an evaluator or strategy that is missing or broken
    │   └── RecipeError         a value of a declared option or of the training recipe
    ├── StoreError              a saved run that cannot be read, written or gone on with (exit code 1)
    └── RunError                a run that could not go on (exit code 1)
        └── ClusterLost         its cluster is gone; it is saved, as one that was interrupted (exit code 130)

Every text says what was given, what was expected and what to do next, in one line. A trial that
fails is none of these: it is an Outcome (see `evo_tune.genome.trial`). By which words others say that memory ran out
stands here too. This module imports nothing.
"""

from __future__ import annotations

__all__ = [
    "ClusterLost",
    "EvoTuneError",
    "OptionError",
    "PluginError",
    "RecipeError",
    "RunError",
    "SpaceError",
    "StoreError",
    "UsageError",
    "tells_of_memory",
]


class EvoTuneError(Exception):
    """Root of the tree."""

    exit_code = 1


class UsageError(EvoTuneError):
    """What was typed or passed is wrong."""

    exit_code = 2


class SpaceError(UsageError):
    """A gene, a genome or a search space is wrong."""


class OptionError(UsageError):
    """An option of an evaluator or a strategy is unknown, of the wrong type or out of range."""


class PluginError(UsageError):
    """An evaluator or a strategy cannot be found or loaded, or breaks its contract."""


class RecipeError(UsageError):
    """The value of a declared option, or of a field of the training recipe, is not allowed.

    Args:
        field: Name of the field, as the user writes it.
        value: What was given.
        allowed: What would have been accepted, in words.
    """

    def __init__(self, field: str, value: object, allowed: str) -> None:
        super().__init__(f"{field}={value!r} is not allowed: expected {allowed}")
        self.field = field
        self.value = value
        self.allowed = allowed

    def __reduce__(self) -> tuple[type[RecipeError], tuple[str, object, str]]:
        return type(self), (self.field, self.value, self.allowed)


class StoreError(EvoTuneError):
    """A saved run cannot be read, written or continued."""


class RunError(EvoTuneError):
    """A run could not go on."""


class ClusterLost(RunError):
    """The cluster of a run does not answer any more: nothing is wrong with the run, which can be resumed."""

    exit_code = 130


_OUT_OF_MEMORY = (
    "out of memory",
    "outofmemoryerror",
    "memoryerror",
    "not enough memory",
    "t allocate memory",
    "alloc_failed",
)


def tells_of_memory(text: str) -> bool:
    """Return whether a text of somebody's (torch, CUDA, Python, the system) says that memory ran out."""
    lower = text.lower()
    return any(sign in lower for sign in _OUT_OF_MEMORY)
