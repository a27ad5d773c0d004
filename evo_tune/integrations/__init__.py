"""Other people's trainers and tools. Each is imported on first use, and a missing package names its extra."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

from evo_tune.errors import UsageError

# Loggers of tools that comment on what is written for them on purpose.
LOGGERS = ("optuna", "wandb", "mlflow", "mlflow.store.db.utils", "alembic")


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
def quiet() -> Iterator[None]:
    """Silence warnings, and the loggers of tools that runs are written for."""
    logs = [logging.getLogger(name) for name in LOGGERS]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)
