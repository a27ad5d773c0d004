"""`make docs`: the site is made without a warning or a network, has every page, and asks nobody for anything."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import evo_tune
from tests.pages import DOCS, PAGES, ROOT

pytestmark = [pytest.mark.xdist_group("site"), pytest.mark.extended]  # it is made once

LEAVES = "import socket, sys\ndef refuse(*_): raise OSError('the site is to be made without a network')\n"
LEAVES += "socket.socket.connect = refuse\nfrom sphinx.cmd.build import main\nsys.exit(main(sys.argv[1:]))"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the site, made as `make docs` makes it; a warning is an error."""
    pytest.importorskip("sphinx")
    folder = tmp_path_factory.mktemp("site")
    words = ["-q", "-W", "--keep-going", "-b", "html", "-d", str(folder / "trees"), str(DOCS), str(folder / "html")]
    done = subprocess.run([sys.executable, "-c", LEAVES, *words], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return folder / "html"


@pytest.mark.slow
def test_every_page_is_there_and_in_the_index(site: Path) -> None:
    index = (site / "index.html").read_text(encoding="utf-8")
    for page in [*(name.removesuffix(".md") for name in PAGES if name != "README.md"), "project/changelog"]:
        assert (site / f"{page}.html").is_file()
        assert page == "index" or f'href="{page}.html"' in index, f"{page} is in no list of docs/index.md"


@pytest.mark.slow
def test_pages_ask_nobody_for_anything(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|img|iframe|link)[^>]*(?:src|href)="(?:https?:)?//[^"]*"', text), page


@pytest.mark.slow
def test_every_public_name_is_described(site: Path) -> None:
    described = (site / "api.html").read_text(encoding="utf-8")
    for name in evo_tune.__all__:
        assert f'id="evo_tune.{name}"' in described, name


@pytest.mark.slow
def test_what_mentions_a_page_leads_there(site: Path) -> None:
    json = (site / "json.html").read_text(encoding="utf-8")
    assert '<a class="reference internal" href="#comparison">Comparison</a>' in json, "within a page, too"
    assert 'href="devices.html"' in (site / "evaluators.html").read_text(encoding="utf-8")
    assert 'href="../training.html"' in (site / "project" / "architecture.html").read_text(encoding="utf-8")
