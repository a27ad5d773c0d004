"""Shell completion of the names of runs, evaluators, strategies and schedules.

It runs at every press of the key, so nothing heavy is imported, and names are those of files. A store may be a
stranger's: only names are offered that a shell takes for a plain word. Tests compare the names with those that the
commands find.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

__all__ = ["answer", "evaluators", "files", "folders", "runs", "runs_or_files", "schedules", "strategies"]

WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""Names that a run may have and that no shell expands."""

MANIFEST = "_run.json"
"""The value of `store.manifest.MANIFEST`, which takes a quarter of a second to import."""

PACKAGE = Path(__file__).parents[1]


def _offered(names: Iterable[str], incomplete: str) -> list[CompletionItem[str]]:
    fit = {name for name in names if WORD.fullmatch(name) and name.startswith(incomplete)}
    return [CompletionItem(name) for name in sorted(fit)]


def _or_files(found: list[CompletionItem[str]], incomplete: str) -> list[CompletionItem[str]]:
    """Return the names, or let the shell complete files if no name fits."""
    return found or [CompletionItem(incomplete, type="file")]


def _held(folder: Path, pattern: str) -> list[Path]:
    try:
        return list(folder.glob(pattern))
    except OSError:
        return []


def runs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Complete the name of a run in the given store, or in the default one."""
    store = Path(ctx.params.get("store") or "populations")
    return _offered((path.parent.name for path in _held(store, f"[!.]*/{MANIFEST}")), incomplete)


def files(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Let the shell complete a file."""
    return [CompletionItem(incomplete, type="file")]


def folders(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Let the shell complete a folder."""
    return [CompletionItem(incomplete, type="dir")]


def runs_or_files(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Complete the name of a run, or a file."""
    return _or_files(runs(ctx, param, incomplete), incomplete)


def evaluators(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Complete the name of an evaluator, or a file."""
    bundled = PACKAGE / "evaluators"
    folders = [Path("evaluators"), bundled if bundled.is_dir() else PACKAGE.parent / "evaluators"]
    return _or_files(_offered(_plugins("evaluators", folders), incomplete), incomplete)


def strategies(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Complete the name of a strategy, or a file."""
    return _or_files(_offered(_plugins("strategies", [PACKAGE / "strategies"]), incomplete), incomplete)


def _plugins(kind: str, folders: list[Path]) -> list[str]:
    from importlib.metadata import entry_points

    files = [path.stem for folder in folders for path in _held(folder, "[!_]*.py")]
    return files + [point.name for point in entry_points(group=f"evo_tune.{kind}")]


def schedules(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Complete the name of a schedule."""
    from evo_tune.recipe.optim.schedule import SCHEDULES

    return _offered(SCHEDULES, incomplete)


def answer(cli: click.Command, prog: str, variable: str) -> int:
    """Print completions for a shell and return the exit code; errors are not shown."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 2)
    try:
        result: Any = cli.main(prog_name=prog, complete_var=variable, standalone_mode=False)
    except SystemExit as end:
        result = end.code
    except Exception:
        result = 1
    return result if isinstance(result, int) else 0
