"""constraints.txt has the versions that are tested on every supported Python, within the bounds of pyproject.toml."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
LINES = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
PINNED = [Requirement(line) for line in LINES if not line.startswith("#")]
PYTHONS = ["3.10", "3.11", "3.12", "3.13", "3.14"]


def pins(environment: dict[str, str]) -> dict[str, str]:
    """Return the version of each package on one Python."""
    held = [pin for pin in PINNED if pin.marker is None or pin.marker.evaluate(environment)]
    names = [canonicalize_name(pin.name) for pin in held]
    assert len(set(names)) == len(names)
    return dict(zip(names, (str(pin.specifier).removeprefix("==") for pin in held), strict=True))


def requirements(environment: dict[str, str]) -> list[Requirement]:
    """Return what pyproject.toml names for one Python, extras included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = map(Requirement, chain(project["dependencies"], *project["optional-dependencies"].values()))
    return [
        need for need in named if need.name != "evo-tune" and (not need.marker or need.marker.evaluate(environment))
    ]


def test_the_file_has_names_and_versions_and_no_addresses() -> None:
    pattern = (
        r"# .*|[\w.-]+==[\w.!]+(; python_full_version ([<>]=?|==) '[\d.*]+'( and python_full_version < '[\d.]+')?)?"
    )
    assert [line for line in LINES if not re.fullmatch(pattern, line)] == []


@pytest.mark.parametrize("python", PYTHONS)
def test_what_the_project_needs_is_pinned_within_its_bounds(python: str) -> None:
    environment = {"python_version": python, "python_full_version": f"{python}.9"}
    pinned = pins(environment)
    needs = requirements(environment)
    assert [
        str(need) for need in needs if not need.specifier.contains(pinned.get(canonicalize_name(need.name), "0"))
    ] == []


@pytest.mark.parametrize("target", ["setup", "bench", "try-wheel"])
def test_make_installs_these_versions(target: str) -> None:
    command = ["make", "--dry-run", "--what-if", "pyproject.toml", target]
    commands = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    installs = [line for line in commands.splitlines() if "pip install" in line]
    assert installs
    assert all(" --constraint constraints.txt " in line for line in installs)


@pytest.mark.skipif(Path(sys.prefix) != ROOT / ".venv", reason="only make installs exactly these versions")
def test_the_tests_run_with_these_versions() -> None:
    (stamp, *_) = (ROOT / ".venv").glob("stamp*")
    if stamp.read_text().strip() != "constraints.txt":
        pytest.skip("make was asked for other versions")
    pinned = pins({})
    installed = {canonicalize_name(need.name) for need in requirements({})} & {
        canonicalize_name(package.name) for package in metadata.distributions()
    }
    assert {name: metadata.version(name).partition("+")[0] for name in installed} == {
        name: pinned[name] for name in installed
    }
