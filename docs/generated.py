"""Fill in the generated parts of pages; `make docs` does it. `<!-- generated: NAME -->` marks the place of each part.

`python docs/generated.py settings.md` prints a page with its parts.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))

import make_files  # noqa: E402
import make_json  # noqa: E402
import make_options  # noqa: E402
import make_settings  # noqa: E402

MARK = re.compile(r"<!-- generated: (\w+) -->")


def rows(letter: str) -> str:
    """Return the table of parts.txt whose rows begin with a letter: P for parts of the recipe, E for mistakes."""
    lines = ["| | file | test |", "| --- | --- | --- |"]
    for line in (DOCS / "parts.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith(letter):
            name, *cells = line.split(" | ")
            marked = [", ".join(f"`{one}`" for one in cell.split()) for cell in cells]
            lines.append(f"| {' | '.join([name, *marked])} |")
    return "\n".join(lines)


PARTS = {
    "options": make_options.generated,
    "settings": make_settings.generated,
    "json": make_json.generated,
    "parts": lambda: rows("P"),
    "mistakes": lambda: rows("E"),
    **make_files.PARTS,
}


def filled(text: str) -> str:
    """Return a page's text with its generated parts."""
    return MARK.sub(lambda match: PARTS[match[1]]().strip("\n"), text)


def pages() -> list[str]:
    """Return the names of the pages that have generated parts."""
    return sorted(path.name for path in DOCS.glob("*.md") if MARK.search(path.read_text(encoding="utf-8")))


if __name__ == "__main__":
    print(filled((DOCS / sys.argv[1]).read_text(encoding="utf-8")))
