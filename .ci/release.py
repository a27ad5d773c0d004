"""Build and check what is released: `make release` calls it; RELEASING.md says what comes before and after.

    python .ci/release.py          sdist, wheel and the tag's notes in dist/
    python .ci/release.py sizes    sizes of the packages that are installed beside the Python that runs this

The second form needs the standard library only, because it runs in the empty environment of `make try-wheel`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]

BESIDE = {"CHANGELOG.md", "CITATION.cff", "LICENSE", "MANIFEST.in", "README.md", "cli.py", "pyproject.toml"}
"""Files of the sdist beside the folders evo_tune/ and evaluators/."""

MADE = {"PKG-INFO", "setup.cfg"}
"""Files that setuptools adds to an sdist, and its folder evo_tune.egg-info/."""

BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, 'build_' + sys.argv[1])(sys.argv[2])"


class Wrong(Exception):
    """Something that must not be released; the text says what to do."""


def tracked() -> list[str]:
    """Return the files that git knows, as paths from the root."""
    listed = _git("ls-files", "-z")
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def build(folder: Path) -> tuple[Path, Path]:
    """Build the sdist from the tracked files, and the wheel from the sdist alone; return their paths in `folder`."""
    with tempfile.TemporaryDirectory() as place:
        sources = Path(place) / "sources"
        for name in tracked():
            (sources / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, sources / name)
        _call("sdist", folder, sources)
        (sdist,) = folder.glob("*.tar.gz")
        with tarfile.open(sdist) as content:
            content.extractall(place, filter="data")
        _call("wheel", folder, Path(place) / sdist.name.removesuffix(".tar.gz"))
    (wheel,) = folder.glob("*.whl")
    return sdist, wheel


def _call(kind: str, folder: Path, sources: Path) -> None:
    """Build as pip does, without an environment of its own, so that no network is needed."""
    done = subprocess.run(
        [sys.executable, "-c", BUILD, kind, str(folder.resolve())], cwd=sources, capture_output=True, text=True
    )
    if done.returncode:
        raise Wrong(f"the {kind} cannot be built:\n{done.stdout}{done.stderr}")


def check_contents(sdist: Path, wheel: Path) -> None:
    """Compare the files of both with those that git knows.

    Raises:
        Wrong: A file is missing, or one is there that is not meant.
    """
    package = {name for name in tracked() if name.startswith(("evo_tune/", "evaluators/", "hydra_plugins/"))}
    with tarfile.open(sdist) as content:
        found = {one.name.partition("/")[2] for one in content.getmembers() if one.isfile()}
    _same(sdist, {name for name in found - MADE if not name.startswith("evo_tune.egg-info/")}, package | BESIDE)
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    _same(wheel, found, {re.sub("^evaluators/", "evo_tune/evaluators/", name) for name in package})


def _same(archive: Path, found: set[str], meant: set[str]) -> None:
    if found != meant:
        more, less = sorted(found - meant)[:5], sorted(meant - found)[:5]
        raise Wrong(f"{archive.name}: not meant {more}, missing {less}: see pyproject.toml and MANIFEST.in")


def version_of(wheel: Path) -> str:
    """Return the version in the wheel's metadata, once all metadata are valid and all versions agree.

    Raises:
        Wrong: The metadata are not valid, or two places name different versions.
    """
    from packaging.metadata import ExceptionGroup, Metadata  # Python 3.10 has no such group of its own

    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        try:
            found = Metadata.from_email(archive.read(name))
        except ExceptionGroup as error:
            raise Wrong(f"metadata of {wheel.name}: {'; '.join(map(str, error.exceptions))}") from None
    if not (found.summary and found.license_expression and found.requires_python and found.description):
        raise Wrong(f"metadata of {wheel.name}: summary, license, requires-python or readme is missing")
    places = {"pyproject.toml": str(found.version)}
    for place, pattern in (("evo_tune/__init__.py", r'^__version__ = "(.+)"$'), ("CITATION.cff", r"^version: (.+)$")):
        match = re.search(pattern, (ROOT / place).read_text(encoding="utf-8"), re.MULTILINE)
        places[place] = match[1] if match else "none"
    if len({*places.values()}) > 1:
        raise Wrong(f"the versions differ: {places}: write the same one everywhere")
    return str(found.version)


def notes(changelog: str, version: str, tagged: bool) -> str:
    """Return the part of the changelog about a version, as the text of a release.

    Args:
        changelog: Text of CHANGELOG.md.
        version: Version to be released.
        tagged: Whether a tag is released, rather than tried.

    Raises:
        Wrong: A tag is released, and the changelog has no part about it.
    """
    parts = dict(re.findall(r"^## \[?([^]\s]+)\]?[^\n]*\n(.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL))
    if version not in parts and tagged:
        raise Wrong(f"CHANGELOG.md has no part '## [{version}] - DATE': rename '[Unreleased]', and begin a new one")
    text = parts.get(version, parts.get("Unreleased", "")).strip()
    return re.sub(r"^#(##+) ", r"\1 ", text, flags=re.MULTILINE) + "\n"


def release(folder: Path, tag: str) -> None:
    """Fill a folder with sdist, wheel and notes, and print their sizes.

    Args:
        folder: Folder for the files; what it has is removed.
        tag: Tag that is released; '' to try only.

    Raises:
        Wrong: Something must not be released.
    """
    version = built(folder)
    if tag and tag != f"v{version}":
        raise Wrong(f"the tag is {tag}, and the version {version}: expected v{version}")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    (folder / "notes.md").write_text(notes(changelog, version, bool(tag)), encoding="utf-8")
    for path in sorted(folder.iterdir()):
        print(f"{path.stat().st_size / 1e3:8.0f} kB  {path.name}")


def built(folder: Path) -> str:
    """Fill a folder with sdist and wheel, check them, and return their version.

    Raises:
        Wrong: They do not have what they must, or there are uncommitted changes.
    """
    if _git("status", "--porcelain"):
        raise Wrong("there are uncommitted changes: commit or stash them, so that the release is what git knows")
    os.environ.setdefault("SOURCE_DATE_EPOCH", _git("log", "-1", "--format=%ct").strip())  # makes equal wheels
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    sdist, wheel = build(folder)
    check_contents(sdist, wheel)
    return version_of(wheel)


def sizes() -> None:
    """Print the size of each installed package, the largest first, and the sum."""
    found: dict[str, int] = {}
    for one in metadata.distributions():
        paths = [Path(str(one.locate_file(file))) for file in one.files or ()]
        found[one.metadata["Name"]] = sum(path.stat().st_size for path in paths if path.is_file())
    for name, size in sorted(found.items(), key=lambda pair: -pair[1])[:12]:
        print(f"{size / 1e6:8.1f} MB  {name}")
    print(f"{sum(found.values()) / 1e6:8.1f} MB  in all, {len(found)} packages")


if __name__ == "__main__":
    try:
        if sys.argv[1:] == ["sizes"]:
            sizes()
        else:
            release(ROOT / "dist", os.environ.get("TAG", ""))
    except Wrong as error:
        sys.exit(f"Error: {error}")
