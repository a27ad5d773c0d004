"""Other people's trainers and tools. Each is imported on first use, and a missing package names its extra."""

import contextlib
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def silence_loggers() -> Iterator[None]:
    """Silence warnings and logs below errors: tools comment on what is written for them on purpose."""
    disabled_level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled_level)
