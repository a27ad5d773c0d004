"""The code of a plug-in: its file and the local modules that it imports, found by parsing; nothing is executed."""

import ast
import hashlib
from pathlib import Path

PACKAGE = Path(__file__).parents[1]

# Folders of installed packages, which never count as local.
INSTALLED = ("site-packages", "dist-packages")


def package_of(path: Path) -> tuple[str, Path]:
    """Return the package of a file ('' for none), for its relative imports, and the folder above the package."""
    names: list[str] = []
    folder = path.parent
    while (folder / "__init__.py").is_file() and folder.name.isidentifier():
        names.insert(0, folder.name)
        folder = folder.parent
    return ".".join(names), folder


def source_hash(*paths: Path) -> str:
    """Return the SHA-256 over files of code and the local modules that they import.

    Names and contents count, folders do not: a project keeps its hash when it is moved.
    """
    digest = hashlib.sha256()
    sources = {source for path in paths for source in local_sources(path)}
    for name, content in sorted((source.name, source.read_bytes()) for source in sources):
        digest.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
    return digest.hexdigest()


def local_sources(path: Path) -> list[Path]:
    """Return a file and the local modules that it imports, directly or indirectly, sorted.

    Local modules are those in the file's folder, its package and the working directory. A file that cannot be parsed is
    not followed.
    """
    path = path.resolve()
    package = PACKAGE.resolve()
    folders = [folder for folder in (path.parent, Path.cwd().resolve()) if folder.name not in INSTALLED]
    sources: set[Path] = set()
    waiting = [path]
    while waiting:
        source = waiting.pop()
        if source not in sources and (source == path or package not in source.parents):
            sources.add(source)
            for base in _import_candidates(source, folders):
                files = (base.with_name(f"{base.name}.py"), base / "__init__.py")
                waiting += [file for file in files if file.is_file()]
    return sorted(sources)


def _import_candidates(path: Path, folders: list[Path]) -> set[Path]:
    """Return the possible paths, without suffix, of the modules that a file imports, and of their packages."""
    package, root = package_of(path)
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return set()
    bases: set[Path] = set()
    for node in ast.walk(tree):
        starts: list[Path] = []  # base of a relative import
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = [node.module] if node.module else []
            names = [".".join([*module, alias.name]) for alias in node.names]
            starts = list(path.parents[node.level - 1 : node.level]) if node.level else []
        for parts in (name.split(".") for name in names):
            inside = [root] if parts[0] == package.partition(".")[0] else []
            places = starts or folders + inside
            bases |= {start.joinpath(*parts[:depth]) for start in places for depth in range(1, len(parts) + 1)}
    return bases
