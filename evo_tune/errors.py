"""The errors that evo-tune raises on purpose.

    EvoTuneError                an error that the user can fix; its text is the whole message
    ├── UsageError              an argument is wrong (exit code 2)
    │   ├── SpaceError          a gene, a genome or a search space
    │   ├── OptionError         an option of an evaluator or a strategy
    │   ├── PluginError         an evaluator or strategy that is missing or broken
    │   │   └── UnguardedError  a script whose search every worker would begin; it ends the script (exit code 1)
    │   └── RecipeError         a field of the training recipe
    ├── StoreError              a saved run cannot be read, written or resumed (exit code 1)
    └── RunError                a run cannot continue (exit code 1)
        └── ClusterLost         the cluster is gone; the run is saved as if interrupted (exit code 130)

Every text states in one line the given value, the expected one, and what to do next. A failed trial is no error, but an
Outcome (see `evo_tune.genome.trial`). This module imports nothing of evo-tune.
"""

import contextlib
import errno
from collections.abc import Iterator


class EvoTuneError(Exception):
    """Root of the tree."""

    exit_code = 1


class UsageError(EvoTuneError):
    """An argument of a command or a function is wrong."""

    exit_code = 2


class SpaceError(UsageError):
    """A gene, a genome or a search space is wrong."""


class OptionError(UsageError):
    """An option of an evaluator or a strategy is unknown, of the wrong type or out of range."""


class PluginError(UsageError):
    """An evaluator or a strategy cannot be found or loaded, or breaks its contract."""


class UnguardedError(PluginError, SystemExit):
    """A script begins a search outside `if __name__ == "__main__":`.

    It is a SystemExit too: where nothing catches it, Python prints its line without a traceback and ends.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.code = f"Error: {text}"


class RecipeError(UsageError):
    """The value of a declared option, or of a field of the training recipe, is not allowed.

    Args:
        field: Name of the field, as the user writes it.
        value: Given value.
        allowed: Allowed values, in words.
    """

    def __init__(self, field: str, value: object, allowed: str) -> None:
        super().__init__(f"{field}={value!r} is not allowed: expected {allowed}")
        self.field = field
        self.value = value
        self.allowed = allowed

    def __reduce__(self) -> "tuple[type[RecipeError], tuple[str, object, str]]":
        return type(self), (self.field, self.value, self.allowed)


class StoreError(EvoTuneError):
    """A saved run cannot be read, written or resumed."""


class RunError(EvoTuneError):
    """A run cannot continue."""


class ClusterLost(RunError):
    """The cluster of a run no longer answers. The run itself is fine and can be resumed."""

    exit_code = 130


@contextlib.contextmanager
def require_extra(feature: str, extra: str) -> Iterator[None]:
    """Turn a missing package into an error that names the extra to install.

    Args:
        feature: Feature that needs the package, as the user wrote it: '--to optuna'.
        extra: Extra of evo-tune that brings the package.

    Raises:
        UsageError: An import inside fails.
    """
    try:
        yield
    except ImportError as error:
        raise UsageError(f"{feature} needs more than is installed ({error}): pip install 'evo-tune[{extra}]'") from None


@contextlib.contextmanager
def explain_error(
    kind: type[EvoTuneError], problem: str, remedy: str = "", caught: type[Exception] = OSError
) -> Iterator[None]:
    """Turn an error of the system or a library into one line: the problem, its words, and what to do next.

    Args:
        kind: Class of the new error.
        problem: What failed: 'cannot write FILE'.
        remedy: What to do next; '' for nothing.
        caught: Class of the error.

    Raises:
        EvoTuneError: Something inside raises such an error.
    """
    try:
        yield
    except caught as error:
        cause = getattr(error, "strerror", None) or error  # without the number and the path
        raise kind(f"{problem}: {cause}{remedy and '; '}{remedy}") from None


_OUT_OF_MEMORY = ("out of memory", "memoryerror", "not enough memory", "t allocate memory", "alloc_failed")


def tells_of_memory(text: str) -> bool:
    """Return whether an error message (of torch, CUDA, Python or the system) says that memory ran out."""
    lower = text.lower()
    return any(sign in lower for sign in _OUT_OF_MEMORY)


def is_out_of_memory(error: BaseException, text: str = "") -> bool:
    """Return whether an error means that memory ran out; on a CPU torch raises a plain RuntimeError.

    Args:
        error: The error.
        text: Its text, if it was read already.
    """
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    of_torch = any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)
    told = isinstance(error, RuntimeError) and tells_of_memory(text or str(error))
    return of_torch or told or isinstance(error, MemoryError)
