"""benchmarks/README.md and LOG.md: commands that exist, every figure of the README, and short dated entries."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = {name: (ROOT / "benchmarks" / name).read_text(encoding="utf-8") for name in ("README.md", "LOG.md")}
FIGURE = re.compile(r"(?<![\w.])\d*\.\d{3,}")
ENTRY = re.compile(r"^## (\d{4}-\d\d-\d\d): [^\n]+\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_names_a_script_and_flags_that_it_has(page: str) -> None:
    commands = re.findall(r"python benchmarks/(\w+\.py)([^`|\n]*)", PAGES[page])
    assert len(commands) > 8
    for script, words in commands:
        code = (ROOT / "benchmarks" / script).read_text(encoding="utf-8")
        flags = re.findall(r"(?<=\s)--[\w-]+", re.sub(r"'[^']*'", "", words))
        assert not [flag for flag in flags if f'"{flag}"' not in code], f"{script}{words}"


def test_scripts_are_few_and_short() -> None:
    scripts = sorted((ROOT / "benchmarks").glob("*.py"))
    lines = {path.name: path.read_text(encoding="utf-8").splitlines() for path in scripts}
    assert len(lines) <= 20
    assert max(map(len, lines.values())) <= 400
    assert sum(map(len, lines.values())) <= 6000


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_benchmark_page_leads_to_a_file(page: str) -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", PAGES[page]):
        assert (ROOT / "benchmarks" / link).exists(), link


def test_every_figure_of_the_readme_is_on_the_benchmark_page() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    readme = re.sub(r"^```(?:sh|python)\n.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    rows = [set(FIGURE.findall(line)) for line in PAGES["README.md"].splitlines()]
    for line in readme.splitlines():
        assert any(set(FIGURE.findall(line)) <= row for row in rows), f"on no line of benchmarks/README.md: {line}"


def test_entries_of_the_log_are_dated_short_and_newest_first() -> None:
    entries = ENTRY.findall(PAGES["LOG.md"])
    assert len(entries) == PAGES["LOG.md"].count("\n## ")
    assert all(later >= earlier for (later, _), (earlier, _) in pairwise(entries))
    for _, body in entries:
        lines = [line for line in body.splitlines() if line.strip() and not line.startswith(("```", "python "))]
        assert len(lines) <= 10, lines[0]
