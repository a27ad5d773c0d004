"""The extras of other people's tools: imported where they are used, and asked for in one sentence."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from evo_tune.errors import UsageError

__all__ = ["needing"]


@contextlib.contextmanager
def needing(what: str, extra: str) -> Iterator[None]:
    """Turn a missing package into an error that says what to type.

    Args:
        what: What needs it, as the user wrote it: '--to optuna'.
        extra: The extra that brings it.

    Raises:
        UsageError: An import inside fails.
    """
    try:
        yield
    except ImportError as error:
        raise UsageError(f"{what} needs more than is installed ({error}): pip install 'evo-tune[{extra}]'") from None
