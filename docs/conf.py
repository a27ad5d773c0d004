"""How Sphinx makes the site: `make docs`, without a network.

The pages are the files of docs/ as they are, and those at the root of the repository that docs/project/ names. A page
that docs/index.md does not list yet stands under 'More', so that none is lost.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path[:0] = [str(ROOT), str(DOCS)]

from generated import filled, pages  # noqa: E402
from sphinx.util.nodes import make_refnode  # noqa: E402

import evo_tune  # noqa: E402

project = "evo-tune"
author = "the authors of evo-tune"
version = release = evo_tune.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["examples", "_build"]
html_theme = "furo"
html_title = f"evo-tune {release}"
html_static_path: list[str] = []
html_copy_source = False

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autodoc_typehints = "signature"
maximum_signature_line_length = 100
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
default_role = "code"  # docstrings mark code with single backticks

nitpicky = True
nitpick_ignore_regex = [
    # Types of Python and of libraries: their pages are not here, and nothing is fetched.
    ("py:.*", r"(numpy|np|pd|pandas|collections|pathlib|typing|types|contextlib|dataclasses|optional|Path|torch)\b.*"),
    # Names of ours that are no public ones, as they stand in signatures.
    ("py:.*", r"evo_tune\.(genome|loop|options|plugins|report|store|training)\..*"),
]

SHOWN = {
    "project/changelog": "CHANGELOG.md",
    "project/architecture": "ARCHITECTURE.md",
    "project/contributing": "CONTRIBUTING.md",
    "project/releasing": "RELEASING.md",
    "project/security": "SECURITY.md",
    "project/benchmarks": "benchmarks/README.md",
    "project/benchmark-log": "benchmarks/LOG.md",
}
"""Pages that are files elsewhere in the repository."""

MENTIONED = re.compile(r"(?<![\w/])(?:docs/[\w-]+|benchmarks/(?:README|LOG)|[A-Z]{6,})\.md\b")
"""A page's path in a sentence."""


def _pages() -> dict[str, str]:
    """Return the page of each file that is one, both as paths from the root."""
    own = {f"docs/{path.name}": path.stem for path in DOCS.glob("*.md")}
    return {**own, **{file: page for page, file in SHOWN.items()}}


def _with_links(text: str, page: str, folder: Path) -> str:
    """Return a page's text in which every mention of another page leads there.

    Args:
        text: As it is written, with paths from the root of the repository, or relative to its folder in links.
        page: Its name.
        folder: Where its file lies.
    """
    up = "../" * page.count("/")
    pages = _pages()

    def linked(match: re.Match[str]) -> str:
        if not match[2] or match[2].startswith("http"):  # within the page, or elsewhere
            return match[0]
        file = (folder / match[2]).resolve()
        known = pages.get(file.relative_to(ROOT).as_posix()) if file.is_relative_to(ROOT) else None
        if known is not None:
            return f"[{match[1]}]({up}{known}.md{match[3] or ''})"
        elsewhere = file.is_dir() or page in SHOWN  # it is in the repository, and not on the site
        return match[1] if elsewhere else match[0]

    def mentioned(match: re.Match[str]) -> str:
        known = pages.get(match[0])
        return match[0] if known in (None, page) else f"[{match[0]}]({up}{known}.md)"

    parts = re.split(r"(^ {0,3}```.*?^ {0,3}```$|`[^`\n]+`)", text, flags=re.MULTILINE | re.DOTALL)
    for place in range(0, len(parts), 2):  # code stays as it is
        links = re.split(r"(\[[^\]\n]*\]\([^)\s]*\))", parts[place])
        for number, part in enumerate(links):
            if number % 2:
                links[number] = re.sub(r"\[([^\]\n]*)\]\(([^)#\s]*)(#[^)\s]*)?\)", linked, part)
            else:
                links[number] = MENTIONED.sub(mentioned, part)
        parts[place] = "".join(links)
    return "".join(parts)


def _source(app: Any, page: str, source: list[str]) -> None:
    if page in SHOWN:
        file = ROOT / SHOWN[page]
        source[0] = _with_links(file.read_text(encoding="utf-8"), page, file.parent)
    elif page == "index":
        listed = set(re.findall(r"^([\w-]+)$", source[0], re.MULTILINE))
        more = sorted(path.stem for path in DOCS.glob("*.md") if path.stem not in {*listed, "index"})
        if more:
            source[0] += "\n```{toctree}\n:caption: More\n\n" + "\n".join(more) + "\n```\n"
    else:
        source[0] = _with_links(filled(source[0]), page, DOCS)


def _property(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Keep napoleon from taking what stands before the first colon of a text for a type."""
    if what in ("property", "attribute") and lines:
        head, colon, rest = lines[0].partition(": ")
        lines[:1] = [head + ":", rest] if colon else lines[:1]


def _public(app: Any, env: Any, node: Any, content: Any) -> Any:
    """Resolve a name of ours that stands by itself, or as its home has it, to the place where it is described."""
    known = [
        name for name in env.domains["py"].objects if name.rpartition(".")[2] == node["reftarget"].rpartition(".")[2]
    ]
    if node.get("refdomain") != "py" or len(known) != 1:
        return None
    found = env.domains["py"].objects[known[0]]
    return make_refnode(app.builder, node["refdoc"], found.docname, found.node_id, content, known[0])


def setup(app: Any) -> None:
    """Have Sphinx call us."""
    app.connect("source-read", _source)
    app.connect("env-get-outdated", lambda *_: [*SHOWN, *(page.removesuffix(".md") for page in pages())])
    app.connect("autodoc-process-docstring", _property, priority=100)
    app.connect("missing-reference", _public)
