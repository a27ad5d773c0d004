"""Flags of `run` and `resume`: made from the declarations of settings, or read from the file of `--config`.

The genomes of `--warm-start` are read here too. They are new trials (law 10).

Commands import it when they are used: the declarations would slow `evo-tune --help`.
"""

import csv
import io
import math
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evo_tune.cli import shared
from evo_tune.errors import OptionError, SpaceError, StoreError, UsageError, explain_error
from evo_tune.options.declare import AUTO, Options, dataclass_options, union_members
from evo_tune.settings import RunSettings, SessionSettings
from evo_tune.text import from_csv_cell, one_line

if TYPE_CHECKING:
    from evo_tune.genome.genes import Gene

# Defaults of `evo-tune run` that differ from those of `Search`: the command ends with a final comparison, and with a
# limit in training time the leading genomes get extra seeds (`loop.plan`).
RUN_DEFAULTS = {"final_seeds": 3, "finalists": 2, "seeds_per_trial": None}

# Maximum sizes of a file of flags and of a file of genomes or results, in bytes, and maximum lines of the latter.
LARGEST_CONFIG, LARGEST_GENOME_FILE, MOST_LINES = 1 << 18, 1 << 26, 10**6

# Maximum bytes of a file that is one JSON text: objects take a hundred times the memory of their text.
LARGEST_JSON = 1 << 23


def run_flags() -> list[click.Option]:
    """Return `--config`, and a flag for each setting of a run and of a session, as `evo-tune run` takes them."""
    config = click.Option(
        ["--config"],
        metavar="FILE.toml",
        type=click.Path(),
        callback=read_config,
        is_eager=True,
        expose_value=False,
        help="File of flags; flags on the command line take precedence.",
    )
    return [config, *_flags(RunSettings, RUN_DEFAULTS), *_flags(SessionSettings, RUN_DEFAULTS)]


def session_flags() -> list[click.Option]:
    """Return a flag for each setting of a session. The help tells no defaults: a session has those of the last one."""
    return _flags(SessionSettings, None)


def _flags(group: type[Options], defaults: Mapping[str, Any] | None) -> list[click.Option]:
    """Return a flag for each setting of a group. A flag that is not given has the value None.

    Args:
        group: Group of settings.
        defaults: Defaults that the help tells instead of the declared ones; None tells no defaults.
    """
    flags: list[click.Option] = []
    for setting in dataclass_options(group).values():
        types, attributes = union_members(setting.type), dict[str, Any]()
        low, high = setting.interval.ends
        if bool in types:
            attributes["is_flag"] = True
        elif setting.choices:
            attributes["type"] = click.Choice([str(value) for value in setting.choices])
        elif int in types:
            integer = shared.CountOrAuto if AUTO in setting.kind else click.IntRange
            attributes["type"] = integer(min=int(low), max=None if math.isinf(high) else int(high))
        elif float in types:
            attributes["type"] = click.FloatRange(min=low, min_open=setting.bounds.startswith("("))
        if isinstance(attributes.get("type"), shared.CountOrAuto):
            attributes["metavar"] = "N|auto"
        elif str in types and setting.unit:
            attributes["metavar"] = setting.unit
        default = None if defaults is None else defaults.get(setting.name, setting.default)
        default_text = "" if default is None or default is False or default == "" else f"  [default: {default}]"
        name = setting.name.replace("_", "-")
        flag = f"--{name}/--no-{name}" if setting.default is True else f"--{name}"
        flags.append(click.Option([flag], default=None, help=setting.help + default_text, **attributes))
    return flags


def read_config(ctx: click.Context, parameter: click.Parameter, path: str | None) -> None:
    """Make the flags of a TOML file the defaults of a command; flags on the command line take precedence.

    click converts a default like a typed text, so it would take `seed = true` for 1. Types are checked here.

    Raises:
        OptionError: The file cannot be read, or a key or its value is wrong. The message names the file and the key.
    """
    if path is None or ctx.resilient_parsing:  # a shell completes
        return
    from evo_tune.plugins.scripts.template import load_toml

    with explain_error(OptionError, f"--config {path}", "expected a TOML file", caught=ValueError):
        values = load_toml(_read_text("--config", Path(path), LARGEST_CONFIG))
    flags = {opt.lstrip("-").replace("-", "_"): flag for flag in ctx.command.params for opt in flag.opts}
    defaults: dict[str, Any] = {}
    for key, value in values.items():
        flag = flags.get(key.replace("-", "_"))
        if flag is None or flag.name is None or flag is parameter:
            raise OptionError(f"--config {path}: {key!r} is not a flag of run; `evo-tune run --help` lists them")
        if flag.name in defaults:
            raise OptionError(f"--config {path}: {key} is given twice, by two names: give it once")
        try:
            defaults[flag.name] = _flag_value(flag, value, ctx)
        except click.BadParameter as error:
            raise OptionError(f"--config {path}, {key}: {error.message.rstrip('.')}") from None
        except ValueError as error:
            raise OptionError(f"--config {path}, {key}: {value!r}: {error}") from None
    ctx.default_map = {**(ctx.default_map or {}), **defaults}


def _flag_value(flag: click.Parameter, value: object, ctx: click.Context) -> object:
    """Return a TOML value as the value of a flag.

    Raises:
        ValueError: Its type is wrong; the message has the expected one.
        click.BadParameter: It is out of range, or none of the choices.
    """
    if getattr(flag, "multiple", False):
        return flag_texts(value, is_pairs=str(flag.metavar).startswith("NAME="))
    if value == "auto" and isinstance(flag.type, shared.CountOrAuto):
        return value
    types: tuple[type, ...] = (str,)
    expected = "text, in quotes"
    if getattr(flag, "is_flag", False):
        types, expected = (bool,), "true or false"
    elif isinstance(flag.type, click.types.IntParamType):
        types, expected = (int,), "a whole number"
    elif isinstance(flag.type, click.types.FloatParamType):
        types, expected = (int, float), "a number"
    if type(value) not in types:  # a bool is an int, but no number
        raise ValueError(f"expected {expected}")
    return flag.type.convert(value, flag, ctx)


def flag_texts(value: object, is_pairs: bool) -> list[str]:
    """Return the values of a repeatable flag: a text, a list of texts, or a table of NAME=VALUE pairs.

    Raises:
        ValueError: The value is none of these.
    """
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    if is_pairs and isinstance(value, dict):  # [option] tokens = 100000
        for name, item in value.items():
            if not isinstance(item, str | int | float):  # a bool is an int
                raise ValueError(f"expected one value for {name}: text, a number, true or false")
        return [f"{name}={shared.option_text(item)}" for name, item in value.items()]
    raise ValueError("expected text, a list of texts" + (", or a table of names and values" if is_pairs else ""))


def read_genomes(source: str, store: Path) -> list[dict[str, Any]]:
    """Return the genomes of a source, not yet checked against a space.

    Args:
        source: A CSV with columns NAME or gene.NAME, a JSON file, or the name or path of a saved run. The JSON is a
            list of genomes, or the output of `evo-tune best --format json`. Of a run, the best trials are taken, one
            population of them. Of a run with several objectives, the whole front is taken.
        store: Folder of the saved runs.

    Raises:
        UsageError: It is none of these, cannot be read, or has no genome.
    """
    from evo_tune.report.summary import pareto_front
    from evo_tune.store.run import Run
    from evo_tune.store.run_folders import find_run

    genomes = read_genome_file("--warm-start", Path(source))
    if genomes is None:
        try:
            run = Run.open(find_run(store, source))
        except StoreError as error:
            raise UsageError(f"--warm-start {source}: expected a .csv or .json file, or a run; {error}") from None
        best = pareto_front(run) if len(run.objectives) > 1 else run.ranked()[: run.manifest.population]
        genomes = [trial.genome for trial in best]
    if not genomes:
        raise UsageError(f"--warm-start {source}: expected at least one genome, found none")
    return genomes


def read_genome_file(flag: str, path: Path) -> list[dict[str, Any]] | None:
    """Return the genomes of a CSV or JSON file (see `read_genomes`); None if the path is none.

    Args:
        flag: Flag or argument that names the file, for messages.
        path: Path of the file.

    Raises:
        UsageError: The file cannot be read, or has another content.
    """
    read = {".csv": _genomes_of_csv, ".json": _genomes_of_json}.get(path.suffix)
    return read(flag, path) if read is not None and path.is_file() else None


def parse_genome(text: str, genes: "Mapping[str, Gene]") -> dict[str, Any]:
    """Return the genome of a typed text, not yet checked: 'lr=3e-3 depth=4', or a JSON object.

    Raises:
        UsageError: The text has another form.
    """
    from evo_tune.genome.values import read_value
    from evo_tune.options.binding import split_assignments
    from evo_tune.store.manifest import read_json

    shown = one_line(repr(text), 60)
    try:
        if text.lstrip().startswith("{"):
            genome = read_json(text.encode())
            return dict(genome)
        texts = split_assignments(shlex.split(text), "gene")
    except (ValueError, OptionError) as error:  # a quotation mark without its second one
        is_word = isinstance(error, OptionError) and "=" not in text
        cause = "no such file, and no value of a gene" if is_word else one_line(str(error))
        expected = "expected 'NAME=VALUE NAME=VALUE', a JSON object, or a .csv or .json file"
        raise UsageError(f"genome {shown}: {cause}: {expected}") from None
    values: dict[str, Any] = {}
    for name, value in texts.items():
        try:
            values[name] = genes[name].parse(value)
        except (KeyError, SpaceError):  # unknown, or outside of its range
            values[name] = read_value(value)
    return values


def _read_text(flag: str, path: Path, limit: int) -> str:
    """Return the text of a file that a flag names.

    Raises:
        OptionError: It is no text file, larger than the limit, or cannot be read.
    """
    from evo_tune.trust import safe_files

    try:
        data = safe_files.read(path.resolve().parent, path.resolve().name, limit=limit)  # the user's own link
        if (lines := max(data.count(b"\n"), data.count(b"\r"))) > MOST_LINES:
            raise OptionError(f"{flag} {path}: it has {lines} lines: expected at most {MOST_LINES}")
        return data.decode("utf-8-sig")  # Excel begins a file with a byte order mark
    except UnicodeDecodeError as error:
        raise OptionError(f"{flag} {path}: byte {error.start} is not UTF-8: save it as UTF-8") from None
    except OSError as error:
        raise OptionError(f"{flag} {path}: {error.strerror}; check the file") from None


def read_csv_rows(flag: str, path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the place of each row of a CSV file ('line 2'), and its cells by column.

    Args:
        flag: Flag or argument that names the file, for messages.
        path: Path of the file.

    Raises:
        UsageError: The file cannot be read, or is no CSV.
    """
    reader = csv.reader(io.StringIO(_read_text(flag, path, LARGEST_GENOME_FILE), newline=""), strict=True)
    try:
        header = [from_csv_cell(name) for name in next(reader, [])]
        for cells in filter(None, reader):  # an empty line has no cells
            if len(cells) != len(header):
                raise UsageError(
                    f"{flag} {path}, line {reader.line_num}: {len(cells)} columns: expected {len(header)}, as in line 1"
                )
            yield f"line {reader.line_num}", dict(zip(header, map(from_csv_cell, cells), strict=True))
    except csv.Error as error:
        raise UsageError(f"{flag} {path}, line {reader.line_num}: {error}; expected CSV") from None


def read_json_rows(flag: str, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the place of each line of JSON lines, and its object; see `read_csv_rows`."""
    from evo_tune.store.manifest import read_json

    for number, line in enumerate(_read_text(flag, path, LARGEST_GENOME_FILE).splitlines(), 1):
        with explain_error(UsageError, f"{flag} {path}, line {number}", "expected JSON lines", caught=ValueError):
            row = read_json(line.encode()) if line.strip() else {}
        if not isinstance(row, dict):
            raise UsageError(f"{flag} {path}, line {number}: {one_line(line, 60)}: expected a JSON object")
        if row:
            yield f"line {number}", row


def _genomes_of_csv(flag: str, path: Path) -> list[dict[str, Any]]:
    from evo_tune.genome.values import read_value
    from evo_tune.store.table import GENE_PREFIX

    rows = [row for _, row in read_csv_rows(flag, path)]
    prefix = GENE_PREFIX if any(name.startswith(GENE_PREFIX) for row in rows[:1] for name in row) else ""
    return [
        {name.removeprefix(prefix): read_value(cell) for name, cell in row.items() if name and name.startswith(prefix)}
        for row in rows
    ]


def _genomes_of_json(flag: str, path: Path) -> list[dict[str, Any]]:
    from evo_tune.store.manifest import read_json

    with explain_error(UsageError, f"{flag} {path}", "expected JSON", caught=ValueError):
        data = read_json(_read_text(flag, path, LARGEST_JSON).encode())
    genomes = []
    for number, row in enumerate(data if isinstance(data, list) else [data], 1):
        genome = row.get("genome", row) if isinstance(row, dict) else row
        if not isinstance(genome, dict):
            shown, expected = one_line(repr(genome), 60), "expected an object of gene names to values"
            raise UsageError(f"{flag} {path}, row {number}: {shown} is no genome: {expected}")
        genomes.append(genome)
    return genomes
