"""Choose the versions in constraints.txt: one set for every supported Python; `make constraints` calls it.

uv resolves pyproject.toml with all extras for Linux and Python 3.10 and newer, and starts from the versions that are
pinned already, so that only what must change does. With --upgrade, it takes the newest versions.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"

HEADER = """\
# The versions that are tested, for every supported Python: pip install -c constraints.txt 'evo-tune[ray]'
# Made by `make constraints`.
"""

OTHER_SYSTEMS = re.compile(r"sys_platform == '(win32|emscripten)'")

PYTHON_MARKER = re.compile(r"python_full_version (?:[<>]=?|==) '[\d.*]+'")


def resolve(pinned: list[str], *options: str) -> list[str]:
    """Return one requirement per line for all Pythons, near the versions in `pinned`."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", "--extra", "dev", "--extra", "bench"]
    command += ["--universal", "--python-version", "3.10", "--no-header", "--no-annotate", "--quiet", *options]
    output = CONSTRAINTS.with_suffix(".new")
    output.write_text("\n".join(pinned))  # uv prefers the versions that its output file has already
    try:
        subprocess.run([*command, "--output-file", output.name], cwd=CONSTRAINTS.parent, check=True)
        return output.read_text().splitlines()
    finally:
        output.unlink()


def keep_python_markers(line: str) -> str:
    """Drop the markers on the system and the processor: a version holds on all of them, or is not needed there."""
    requirement, _, marker = line.partition(" ; ")
    markers = PYTHON_MARKER.findall(marker)
    if "python_full_version" in marker and (" or " in marker or not markers):
        raise ValueError(f"{line}: expected markers on Python joined by `and`; teach keep_python_markers this form")
    return f"{requirement}; {' and '.join(markers)}" if markers else requirement


def main() -> None:
    """Write constraints.txt anew; the command's options go to uv."""
    pinned = [line for line in CONSTRAINTS.read_text().splitlines() if not line.startswith("#")]
    lines = resolve(pinned, *sys.argv[1:])
    kept = [keep_python_markers(line) for line in lines if not OTHER_SYSTEMS.search(line)]
    CONSTRAINTS.write_text(HEADER + "\n".join(kept) + "\n")


if __name__ == "__main__":
    main()
