"""constraints.txt has the versions that CI tests, within the bounds of pyproject.toml."""

from __future__ import annotations

import os
import re
import sys
from importlib import metadata
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytestmark = pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the versions are those for Python 3.11")

ROOT = Path(__file__).parents[1]
LINES = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
PINS = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in LINES) if version}


@pytest.fixture
def needed() -> list[Requirement]:
    """The packages that pyproject.toml names, extras included."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = map(Requirement, chain(project["dependencies"], *project["optional-dependencies"].values()))
    return [one for one in named if one.name != "evo-tune" and (one.marker is None or one.marker.evaluate())]


def test_the_file_has_names_and_versions_and_no_addresses() -> None:
    assert [line for line in LINES if not re.fullmatch(r"# .*|[\w.-]+==[\w.!]+", line)] == []


def test_what_the_project_needs_is_pinned_within_its_bounds(needed: list[Requirement]) -> None:
    assert [str(one) for one in needed if not one.specifier.contains(PINS.get(canonicalize_name(one.name), "0"))] == []


@pytest.mark.skipif("PIP_CONSTRAINT" not in os.environ, reason="only CI installs exactly these versions")
def test_ci_tests_these_versions(needed: list[Requirement]) -> None:
    found = {one.name: metadata.version(one.name).partition("+")[0] for one in needed}
    assert found == {name: PINS[canonicalize_name(name)] for name in found}
