"""Text that is at hand wherever this runs: first paragraphs of docstrings, and which package each comes from.

Nothing is imported to read it; it differs a little between versions of the packages.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from pathlib import Path

from evo_tune.errors import OptionError

__all__ = ["SOURCES", "docstrings"]

SOURCES = {
    "networkx": ("algorithms", "generators", "classes"),
    "numpy": ("lib", "linalg", "polynomial", "ma", "_core", "core"),
    "pandas": ("core", "io", "plotting", "tseries"),
    "sympy": ("core", "functions", "geometry", "matrices", "physics", "solvers", "stats"),
    "torch": ("nn", "optim", "distributions", "utils", "fx", "ao"),
}
"""Packages whose docstrings are the default data, and the folders of each that are read, where they exist."""

PER_SOURCE, SHORTEST = 800, 40
"""Most docstrings of a package, and characters of the shortest."""

DOCSTRING = re.compile(
    r'^[ \t]*(?:def|class)\s[^\n]*(?:\n[^\n]*){0,20}?:\n\s*[rR]?"""(.+?)(?:"""|\n\s*\n)', re.M | re.S
)
"""First paragraph of a function's or a class's docstring. To parse the files would take many times as long."""


def docstrings() -> list[tuple[str, str]]:
    """Return the first paragraphs of docstrings, and the package of each, whose names are blotted out.

    Raises:
        OptionError: One of the packages is not installed.
    """
    names = re.compile("|".join(SOURCES) + r"|\bnp\b|\bnx\b|\bpd\b", re.I)
    rows = []
    for package, folders in SOURCES.items():
        spec = importlib.util.find_spec(package)  # imports nothing
        if spec is None or spec.origin is None:
            raise OptionError(
                f"the default data is made of docstrings, and {package} is not installed: give -o data=FILE"
            )
        root, found = Path(spec.origin).parent, set()
        files = sorted(
            file for folder in folders for file in (root / folder).rglob("*.py") if "tests" not in file.parts
        )
        for file in files:
            for paragraph in DOCSTRING.findall(file.read_text(encoding="utf-8", errors="replace")):
                found.add(" ".join(names.sub("_", paragraph).split()))
        usable = [paragraph for paragraph in sorted(found) if len(paragraph) >= SHORTEST]
        # By their hash: neither the first of the alphabet nor another sample in each process.
        usable.sort(key=lambda paragraph: hashlib.sha256(paragraph.encode("utf-8", "replace")).digest())
        rows += [(paragraph, package) for paragraph in usable[:PER_SOURCE]]
    return rows
