"""Make the picture of a report in docs/pictures anew: `make picture`, which needs chromium.

The report is the sample run's, drawn by a browser; the picture puts some of its parts side by side, in 128 colours so
that it stays small.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from evo_tune.report.page import write_report
from evo_tune.store.run import Run

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "pictures" / "report.png"

COLUMNS = ([("verdict", 178), ("history", 488), ("curves", 520)], [("importances", 700), ("slices", 440)])
"""Parts of each column, from the top down: the section's id, and the pixels of it that are shown at most."""

WIDTH, MARGIN = 900, 32
MOST = 200_000
"""Bytes of the picture."""


def shot(page: Any, id: str, most: int) -> Image.Image:
    """Return the top of a section."""
    taken = Image.open(io.BytesIO(page.locator(f"#{id}").screenshot())).convert("RGB")
    return taken.crop((0, 0, taken.width, min(most, taken.height)))


def side_by_side(columns: list[list[Image.Image]]) -> Image.Image:
    """Return pictures in columns, on white."""
    height = MARGIN + max(sum(part.height for part in parts) for parts in columns)
    whole = Image.new("RGB", (WIDTH * len(columns), height), "white")
    for number, parts in enumerate(columns):
        top = MARGIN
        for part in parts:
            whole.paste(part, (WIDTH * number + (WIDTH - part.width) // 2, top))
            top += part.height
    return whole


def main() -> None:
    """Write the report, open it, and take its parts."""
    chromium = next((path for name in ("chromium", "google-chrome") if (path := shutil.which(name))), None)
    if chromium is None:
        sys.exit("there is no chromium here: apt-get install chromium")
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as play:
        file = write_report([Run.open(ROOT / "populations" / "sample")], Path(scratch) / "report.html")
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 900}, color_scheme="light")
        page.goto(file.as_uri())
        page.wait_for_selector("html[data-drawn]", state="attached", timeout=60_000)
        whole = side_by_side([[shot(page, id, most) for id, most in parts] for parts in COLUMNS])
        browser.close()
    PICTURE.parent.mkdir(exist_ok=True)
    whole.quantize(128, dither=Image.Dither.NONE).save(PICTURE, optimize=True)
    size = PICTURE.stat().st_size
    print(f"{PICTURE.relative_to(ROOT)}: {size / 1000:.0f} kB")
    if size > MOST:
        sys.exit(f"expected at most {MOST / 1000:.0f} kB")


if __name__ == "__main__":
    main()
