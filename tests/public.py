"""The public names, as docs/stability.md defines them: found in the code here, recorded in tests/public.txt.

`python -m tests.public` (or `make public`) records them anew. Each line of the file is an owner, a colon, and the names
that it has; `tests/test_public.py` compares both. Parameters with a default are written `name=`.
"""

from __future__ import annotations

import importlib.util
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import click

ROOT = Path(__file__).parents[1]
RECORD = Path(__file__).with_name("public.txt")

OUTSIDE = {
    "evo_tune.errors": (
        *("ClusterLost", "OptionError", "PluginError", "RecipeError", "RunError", "SpaceError", "StoreError"),
        "UsageError",
    ),
    "evo_tune.strategies": ("fold_seed", "fresh", "spread", "unseen"),
    "evo_tune.sklearn": ("EvoSearchCV",),
    "evo_tune.integrations.lightning": ("fit", "trainer"),
    "evo_tune.integrations.optuna": ("StrategySampler",),
    "evo_tune.integrations.ranks": ("on_ranks",),
    "evo_tune.integrations.ray": ("StrategySearcher",),
    "evo_tune.integrations.transformers": ("train", "training_arguments"),
    "evo_tune.plugins.context": ("Pruned",),
    "evo_tune.plugins.scripts.processes": ("Ended",),
    "evo_tune.training.prediction.language": ("LanguageModel",),
    "evo_tune.training.prediction.model": ("ClassifierModel", "RegressionModel"),
    "evo_tune.training.prediction.series": ("ForecastModel",),
    "evo_tune.report.page": ("Results",),
}
"""Public names in other modules than `evo_tune` itself, as docs/api.md and docs/integrations.md have them."""

ENGINE = ("evo_tune.training.recipe.public", "evo_tune.training.public")
"""Modules whose names are provisional: they are recorded without their parameters."""


def parameters(thing: Any) -> Iterator[str]:
    """Yield the parameters of a function or class as they may be given, without self."""
    try:
        taken = inspect.signature(thing).parameters.values()
    except ValueError:  # an exception that takes what its base takes
        return
    for one in taken:
        if one.name not in ("self", "cls"):
            star = {one.VAR_POSITIONAL: "*", one.VAR_KEYWORD: "**"}.get(one.kind, "")
            default = "=" if one.default is not one.empty else ""
            only = "" if star or one.kind is not one.KEYWORD_ONLY else "*."
            yield f"{star or only}{one.name}{default}"


def members(kind: type) -> Iterator[tuple[str, list[str]]]:
    """Yield the public methods of a class with their parameters, its own and those of our classes that it extends."""
    ours = [base for base in kind.__mro__ if base.__module__.startswith("evo_tune")]
    for name in sorted({name for base in ours for name in vars(base) if not name.startswith("_")}):
        found = inspect.getattr_static(kind, name)
        function = getattr(found, "__func__", found)
        if inspect.isfunction(function):
            yield f"{kind.__name__}.{name}()", list(parameters(function))


def values(kind: type) -> list[str]:
    """Return the public attributes of a class that are no methods: properties, fields and constants."""
    ours = [base for base in kind.__mro__ if base.__module__.startswith("evo_tune")]
    names = {name for base in ours for name in (*vars(base), *getattr(base, "__annotations__", ()))}
    shown = {name for name in names if not name.startswith("_")}
    return sorted(name for name in shown if not inspect.isroutine(inspect.getattr_static(kind, name, None)))


def python_names(module: ModuleType, names: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield what the public names of a module take and have."""
    for name in sorted(names):
        thing = getattr(module, name)
        yield f"{module.__name__}.{name}()", list(parameters(thing))
        if isinstance(thing, type):
            if held := values(thing):
                yield f"{module.__name__}.{name} attributes", held
            for owner, taken in members(thing):
                yield f"{module.__name__}.{owner}", taken


def command_names() -> Iterator[tuple[str, list[str]]]:
    """Yield the arguments and flags of each command."""
    from evo_tune.cli import cli, command_module, command_names

    with click.Context(cli) as context:
        yield "evo-tune", sorted(command_names())
        for name in sorted(command_names()):
            command = command_module(name).command
            shown = [one for one in command.get_params(click.Context(command, parent=context)) if not _hidden(one)]
            flags = ["/".join([*one.opts, *one.secondary_opts]) for one in shown if isinstance(one, click.Option)]
            arguments = [one.name.upper() for one in shown if isinstance(one, click.Argument)]
            yield f"evo-tune {name}", [*arguments, *sorted(flags)]


def _hidden(parameter: click.Parameter) -> bool:
    if not isinstance(parameter, click.Option):
        return False
    return parameter.hidden or "--help" in parameter.opts  # click lists it only after a command has run


def json_names() -> Iterator[tuple[str, list[str]]]:
    """Yield the keys of each object that a command prints, and of each event."""
    make = script("docs/make_json.py")
    for kind in make.reached([*make.OUTPUT_TYPES.values(), *get_args(make.EVENTS)]):
        yield f"JSON {kind.__name__}", sorted(key for key, *_ in make.fields(kind))


def file_names() -> Iterator[tuple[str, list[str]]]:
    """Yield the keys of the files of a run."""
    from evo_tune.genome.genes import Float
    from evo_tune.store import events, manifest, table

    yield "format", [str(manifest.FORMAT)]
    yield "_run.json", sorted(manifest.Manifest.__struct_fields__)
    for kind in get_args(events.Event):
        yield f"_journal.jsonl {kind.__struct_config__.tag}", sorted(kind.__struct_fields__)
    for part in (events.CandidateRecord, events.Result, events.Range):
        yield f"_journal.jsonl {part.__name__}", sorted(part.__struct_fields__)
    yield "trials-*.parquet", sorted(table.trial_schema({"NAME": Float(0.0, 1.0)}, ["NAME"], {}).names)


def sweeper_names() -> Iterator[tuple[str, list[str]]]:
    """Yield the settings of Hydra's sweeper; read as text, because Hydra may not be installed."""
    text = (ROOT / "hydra_plugins/evo_tune_sweeper/__init__.py").read_text()
    yield "hydra.sweeper", sorted(re.findall(r"^    ([a-z]\w+): ", text, re.M))


def plugin_names() -> Iterator[tuple[str, list[str]]]:
    """Yield what a file of an evaluator may define, and the options and genes of each bundled plug-in."""
    from evo_tune.options.binding import options_of
    from evo_tune.plugins.find import find_evaluator, find_strategy

    text = (ROOT / "evo_tune" / "plugins" / "evaluator.py").read_text()
    asked = re.findall(r'module, "(\w+)"|module\.([A-Za-z]\w+)|_(?:amounts|lines)\("(\w+)"', text)
    yield "evaluator file", sorted({"".join(one) for one in asked} - {"__doc__", "SEEDED"})  # SEEDED: commands only
    for path in sorted((ROOT / "evaluators").glob("[!_]*.py")):
        plugin = find_evaluator(f"bundled:{path.stem}")
        yield f"evaluator {path.stem} -o", sorted(plugin.options)
        yield f"evaluator {path.stem} --gene", sorted(plugin.bind({}).space.genes)
    for path in sorted((ROOT / "evo_tune" / "strategies").glob("[!_]*.py")):
        yield f"strategy {path.stem} -s", sorted(options_of(find_strategy(path.stem)))


def script(path: str) -> ModuleType:
    """Return the module of a script of the repository that belongs to no package."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def public() -> dict[str, list[str]]:
    """Return the public names by owner, as the code has them."""
    import evo_tune
    from evo_tune.report import charts

    found = dict(python_names(evo_tune, evo_tune.__all__))
    for place, names in OUTSIDE.items():
        found.update(python_names(importlib.import_module(place), names))
    found["evo_tune.report.page.Results.plot"] = charts.names()
    for place in ENGINE:
        module = importlib.import_module(place)
        shown = {name: one for name, one in vars(module).items() if not name.startswith("_") and name != "annotations"}
        # Which submodules are there depends on what was imported before.
        names = [name for name, one in shown.items() if not isinstance(one, ModuleType)]
        found[f"{place.removesuffix('.public')} (provisional)"] = sorted(names)
    for part in (command_names(), json_names(), file_names(), sweeper_names(), plugin_names()):
        found.update(part)
    return found


def recorded() -> dict[str, list[str]]:
    """Return the public names by owner, as tests/public.txt has them."""
    found: dict[str, list[str]] = {}
    for line in RECORD.read_text(encoding="utf-8").splitlines():
        if line.startswith("    "):
            owner = next(reversed(found))
            found[owner] += [name for name in line.strip().split(", ") if name]
        elif line and not line.startswith("#"):
            found[line.removesuffix(":")] = []
    return found


HEAD = """# The public names of evo-tune. docs/stability.md says what may change them; `make public` records them anew.
"""


def record() -> None:
    """Write tests/public.txt."""
    lines = [HEAD]
    for owner, names in public().items():
        text = textwrap.fill(", ".join(names), 110, break_long_words=False, break_on_hyphens=False)
        lines.append(f"{owner}:\n" + textwrap.indent(text.replace(",\n", "\n") + "\n" * bool(text), "    "))
    RECORD.write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    record()
