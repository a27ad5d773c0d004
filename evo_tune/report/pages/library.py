"""The chart library's script: in a page that stands alone, or once beside the runs of a store."""

from __future__ import annotations

from pathlib import Path

from evo_tune.report.pages.page import Library
from evo_tune.store.journal import write_atomically
from evo_tune.trust import inside

__all__ = ["inline", "script", "shared"]

OPENS, CLOSES = b": this, () => {", b"\n}));"
"""What stands around all that the script does, once: a function, and the end of the call that is given it."""

LARGEST = 1 << 25
"""Bytes of the script at most."""


def script() -> bytes:
    """Return the script, as it comes with the library but for a pair of brackets.

    A function in brackets is compiled at once; without, a browser first looks through all of its 4.8 MB to skip them,
    and then begins again.
    """
    from importlib.metadata import distribution  # plotly itself takes a while to load

    where = distribution("plotly").locate_file("plotly/package_data/plotly.min.js")
    text = Path(str(where)).read_bytes()
    if text.count(OPENS) != 1 or not text.rstrip().endswith(CLOSES):
        return text
    return text.rstrip().removesuffix(CLOSES).replace(OPENS, OPENS.replace(b"()", b"(()")) + b"\n})));\n"


def _name() -> str:
    """Return the file's name in a store: each version has its own, and old reports go on finding theirs."""
    from importlib.metadata import version

    return f"_plotly-{version('plotly')}.min.js"


def inline() -> Library:
    """Return the script for a page that stands alone."""
    return Library(text=script().decode("utf-8").replace("</script", "<\\/script"))


def shared(store: Path) -> Library:
    """Return where the script lies for pages in the folders of a store; it is written there if it is not.

    What has its name and is something else is replaced.

    Raises:
        StoreError: The store cannot be written.
    """
    name, text = _name(), script()
    try:
        there = inside.read(store, name, limit=LARGEST)
    except OSError:
        there = b""
    if there != text:
        write_atomically(store / name, text)
    return Library(path=f"../{name}")
