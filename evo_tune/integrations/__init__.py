"""Other people's trainers and tools. Each is imported on first use, and a missing package names its extra."""

import contextlib
import logging
import warnings
from collections.abc import Iterator

# Loggers of tools that comment on what is written for them on purpose.
LOGGERS = ("optuna", "wandb", "mlflow", "mlflow.store.db.utils", "alembic")


@contextlib.contextmanager
def silence_loggers() -> Iterator[None]:
    """Silence warnings, and the loggers of tools that runs are written for."""
    levels = {log: log.level for log in map(logging.getLogger, LOGGERS)}
    for log in levels:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in levels.items():
            log.setLevel(level)
