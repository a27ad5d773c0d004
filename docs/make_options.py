"""Generate the tables of docs/settings.md from the declarations of evaluators and strategies: see generated.py."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from evo_tune.cli.commands.evaluators import groups_of, option_rows
from evo_tune.options.binding import options_of
from evo_tune.options.declare import Option
from evo_tune.plugins.find import PACKAGE, bundled_folder, find_evaluator, find_strategy

EVALUATORS = sorted(path.stem for path in bundled_folder().glob("*.py") if not path.stem.startswith("_"))

STRATEGIES = sorted(path.stem for path in (PACKAGE / "strategies").glob("*.py") if not path.stem.startswith("_"))


def table(options: Iterable[Option]) -> Iterator[str]:
    """Yield the lines of a table of options."""
    rows = option_rows(options)
    for cells in (list(rows[0]), ["---"] * len(rows[0])):
        yield f"| {' | '.join(cells)} |"
    for row in rows:
        escaped = [cell.replace("|", "\\|") for cell in {**row, "option": f"`{row['option']}`"}.values()]
        yield f"| {' | '.join(escaped)} |"


def generated() -> str:
    """Return the tables."""
    lines: list[str] = []
    for name in EVALUATORS:
        plugin = find_evaluator(f"bundled:{name}")
        lines += [f"## {name}", "", plugin.summary, ""]
        for title, options in groups_of(plugin.options.values()).items():
            lines += [f"### {title or 'Options'}", "", *table(options), ""]
    lines += ["## Strategies", ""]
    for name in STRATEGIES:
        strategy = find_strategy(name)
        summary = (strategy.__doc__ or "").strip().partition("\n")[0]
        lines += [f"### {name}", "", summary, "", *table(options_of(strategy).values()), ""]
    return "\n".join(lines)
