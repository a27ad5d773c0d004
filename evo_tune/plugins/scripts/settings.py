"""Read the settings of a training script from its syntax, and guess which may vary and within what range.

It reads flags of argparse, fields of dataclasses, constants in capitals, and the constants of nanoGPT's configurator.
Nothing is executed. The text may be anybody's, so sizes are bounded. Guesses go by names, and users should check them.
"""

from __future__ import annotations

import ast
import math
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evo_tune.errors import SpaceError, UsageError
from evo_tune.genome.genes import Choice, Float, Gene, Int
from evo_tune.plugins.scripts.script import GIVEN
from evo_tune.text import one_line

LARGEST = 1 << 20
"""Maximum bytes of a script."""

MOST = 200
"""Maximum number of settings."""

LONGEST = 200
"""Maximum characters of a default."""

WHOLE = 2**53
"""Largest whole number of a default."""

UNKNOWN: Any = object()
"""Value of an expression that is no plain value."""

PRINTS = (["print"], ["info"], ["write"], ["log"])
"""Names of functions that print."""

PARSERS = {"HfArgumentParser": "={}", "simple_parsing": "={}", "tyro": "={}"}
"""Parsers that make flags of dataclass fields, if the script mentions them."""


OTHER = re.compile(
    r"wandb|log|debug|compile|resume|eval|save|cuda|gpu|dry|verbose|export|test|sample|download|force|overwrite|print|"
    r"profil|fp16|bf16|amp\b|accel|cpu|push|quiet|plot|show|data|device|backend|dtype|dir|path|file|worker|port|host|rank|"
    r"world|seed|version|check|token_?izer|project|entity|pin_|cache|predict|generate|infer|deterministic|distributed|ddp",
    re.IGNORECASE,
)
"""Names of settings that do not concern the training."""

LOG = re.compile(
    r"(^|_)lrs?(_|$)|learning_?rate|decay|(^|_)wd(_|$)|clip|max_?norm|l2|step_?size|temperature|init_?(std|scale)", re.I
)
SHARES = re.compile(r"drop|smooth|mixup|cutmix|warmup|augment", re.I)
NEAR_ONE = re.compile(r"momentum|beta|ema|gamma", re.I)
SIZES = re.compile(
    r"batch|width|hidden|hid($|den)|dim|embd|emsize|embed|d_?model|d_?ff|channels|features|units|filters", re.I
)
COUNTS = re.compile(r"layer|depth|blocks?$|warmup", re.I)

FOLDER = re.compile(r"(out|output|save|work|ckpt|checkpoints?|results?|log|logging|model)_?(dir|path|folder)")
WEIGHTS = re.compile(r"[\w-][\w.-]*\.(pt|pth|bin|ckpt|npz?)")

METRICS = (
    ("val_loss", "min", r"val(id(ation)?)?[ _]loss"),
    ("eval_loss", "min", r"eval[ _]loss"),
    ("test_loss", "min", r"test[ _]loss"),
    ("val_acc", "max", r"val(id(ation)?)?[ _]acc(uracy)?"),
    ("accuracy", "max", r"accuracy"),
    ("loss", "min", r"\bloss"),
)
"""Metrics that a script may print: name, direction and pattern. The first match counts."""


@dataclass(frozen=True)
class Setting:
    """Setting of a script.

    Args:
        name: Name in the script.
        default: Default (bool, number or text); None if there is none or it cannot be read.
        choices: Allowed values, if they are listed.
        word: Word of the command line that sets it, with {name} in place of the value.
        needed: Whether the script requires it.
    """

    name: str
    default: bool | int | float | str | None
    choices: tuple[Any, ...]
    word: str
    needed: bool = False


@dataclass(frozen=True)
class Found:
    """Content of a script.

    Args:
        settings: Settings in order, each name once.
        texts: Short texts in the script, printed ones first.
        json: Whether it writes JSON.
    """

    settings: tuple[Setting, ...]
    texts: tuple[str, ...]
    json: bool


def read_settings(path: Path) -> Found:
    """Read a script.

    Raises:
        UsageError: The file cannot be read, is too large, or is not Python.
    """
    shown = one_line(str(path), 200)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or not status.st_size:  # reading /proc/kmsg, of size 0, waits forever
            kind = "empty" if stat.S_ISREG(status.st_mode) else "no regular file"
            raise UsageError(f"--from {shown}: it is {kind}; expected a Python script")
        with open(path, "rb") as file:
            data = file.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        what = getattr(error, "strerror", None) or error
        raise UsageError(f"--from {shown}: {what}; expected a Python script") from None
    if len(data) > LARGEST:
        raise UsageError(f"--from {shown}: it has more than {LARGEST} bytes; expected a script that people wrote")
    try:
        tree = ast.parse(data)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        what = error.msg if isinstance(error, SyntaxError) else (str(error) or "it is nested too deeply")
        raise UsageError(f"--from {shown}{line}: {one_line(what, 100)}; expected a Python script") from None
    nodes = list(ast.walk(tree))
    names = {name for node in nodes for name in _names(node)}
    found: dict[str, Setting] = {}
    for setting in _settings(tree, nodes, names):
        if setting.name.isidentifier() and len(found) < MOST:
            found.setdefault(setting.name, setting)
    printed = [node for node in nodes if isinstance(node, ast.Call) and _names(node.func)[-1:] in PRINTS]
    texts = [text for node in [*printed, tree] for text in _texts(node)]
    return Found(tuple(found.values()), tuple(dict.fromkeys(texts)), "dumps" in names)


def _texts(node: ast.AST) -> Iterator[str]:
    for one in ast.walk(node):
        if isinstance(one, ast.Constant) and isinstance(one.value, str) and len(one.value) <= LONGEST:
            yield one.value


def _names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute):
        return [node.attr]
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [str(getattr(node, "module", "")), *(alias.name for alias in node.names)]
    return []


def _settings(tree: ast.Module, nodes: list[ast.AST], names: set[str]) -> Iterator[Setting]:
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    for call in sorted(calls, key=lambda call: call.lineno):
        if isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument":
            yield from _flag(call)
    configured = any(isinstance(node, ast.Expr) and _is_configurator(node) for node in tree.body)
    parser = next((one for one in PARSERS if any(name.partition(".")[0] == one for name in names)), "")
    for node in tree.body:
        if configured and isinstance(node, ast.Expr) and _is_configurator(node):
            break  # later values are computed by the script
        if isinstance(node, ast.ClassDef) and any("dataclass" in _names_of(one) for one in node.decorator_list):
            yield from _fields(node, parser)
        for name, value in _assigned(node):
            default = value_of(value)
            if (
                default is not UNKNOWN
                and not name.startswith("_")
                and (configured or re.fullmatch(r"[A-Z][A-Z0-9_]*", name))
            ):
                yield Setting(name, default, (), f"--{name}={{{name}}}" if configured else f"{name}={{{name}}}")


def _is_configurator(node: ast.Expr) -> bool:
    texts = (one.value for one in ast.walk(node) if isinstance(one, ast.Constant))
    return any(isinstance(text, str) and text.endswith("configurator.py") for text in texts)


def _names_of(node: ast.expr) -> set[str]:
    return {name for one in ast.walk(node) for name in _names(one)}


def _assigned(node: ast.stmt) -> Iterator[tuple[str, ast.expr]]:
    if isinstance(node, ast.Assign):
        yield from ((target.id, node.value) for target in node.targets if isinstance(target, ast.Name))
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
        yield node.target.id, node.value


def _flag(call: ast.Call) -> Iterator[Setting]:
    """Yield the setting that a call of add_argument declares."""
    flags = [one.value for one in call.args if isinstance(one, ast.Constant) and isinstance(one.value, str)]
    given = {one.arg: one.value for one in call.keywords if one.arg}
    long = max((flag for flag in flags if flag.startswith("-")), key=len, default="")
    if not flags or re.search(r"[\s{}?]", flags[0] + long) or value_of(given.get("action")) in ("help", "version"):
        return
    dest = value_of(given.get("dest"))
    name = dest if isinstance(dest, str) else (long or flags[0]).lstrip("-").replace("-", "_")
    default = value_of(given.get("default"))
    action = value_of(given.get("action"))
    if action in ("store_true", "store_false"):
        text = f"{{{name}?{long}}}" if action == "store_true" else f"{{{name}?:{long}}}"
        yield Setting(name, action == "store_false", (), text)
        return
    if "BooleanOptionalAction" in _names_of(given["action"]) if "action" in given else False:
        yield Setting(name, default if isinstance(default, bool) else False, (), f"{{{name}?{long}:--no-{long[2:]}}}")
        return
    kind = given.get("type")
    if isinstance(kind, ast.Name) and kind.id == "float" and type(default) is int:
        default = float(default)
    plain = default is not UNKNOWN and "nargs" not in given and action is UNKNOWN
    listed = _list_of(given.get("choices"))
    needed = (not long and "nargs" not in given) or value_of(given.get("required")) is True
    yield Setting(
        name, default if plain else None, listed, f"{long}={{{name}}}" if long.startswith("--") else "", needed
    )


def _fields(node: ast.ClassDef, parser: str) -> Iterator[Setting]:
    """Yield the fields of a dataclass that have a default."""
    for one in node.body:
        if not isinstance(one, ast.AnnAssign) or not isinstance(one.target, ast.Name) or one.value is None:
            continue
        name, value = one.target.id, one.value
        if isinstance(value, ast.Call):  # field(default=…)
            value = next((keyword.value for keyword in value.keywords if keyword.arg == "default"), value)
        default = value_of(value)
        if default is UNKNOWN:
            continue
        if "float" in _names_of(one.annotation) and type(default) is int:
            default = float(default)
        literal = isinstance(one.annotation, ast.Subscript) and "Literal" in _names_of(one.annotation.value)
        listed = _list_of(one.annotation.slice) if literal and isinstance(one.annotation, ast.Subscript) else ()
        word = f"--{name}={{{name}}}" if parser else f"{node.name}.{name}={{{name}}}"
        if parser == "tyro" and isinstance(default, bool):
            word = f"{{{name}?--{name}:--no-{name}}}"
        yield Setting(name, default, listed, word)


def _list_of(node: ast.expr | None) -> tuple[Any, ...]:
    """Return the plain values of a list; () if it has others."""
    values = [value_of(one) for one in node.elts[:50]] if isinstance(node, ast.List | ast.Tuple) else []
    return () if UNKNOWN in values or len(set(map(repr, values))) != len(values) else tuple(values)


def value_of(node: ast.expr | None, depth: int = 0) -> Any:
    """Return the value of a plain expression: a bool, a text, or numbers with +, -, * and /; else UNKNOWN."""
    if isinstance(node, ast.Constant):
        return node.value if _is_plain(node.value) else UNKNOWN
    if depth > 8 or not isinstance(node, ast.UnaryOp | ast.BinOp):
        return UNKNOWN
    parts = [node.operand] if isinstance(node, ast.UnaryOp) else [node.left, node.right]
    values = [value_of(part, depth + 1) for part in parts]
    if not all(type(value) in (int, float) for value in values):
        return UNKNOWN
    found: Any = UNKNOWN
    if isinstance(node.op, ast.USub):
        found = -values[0]
    elif isinstance(node.op, ast.Add | ast.Sub):
        found = values[0] + values[1] if isinstance(node.op, ast.Add) else values[0] - values[1]
    elif isinstance(node.op, ast.Mult):
        found = values[0] * values[1]
    elif isinstance(node.op, ast.Div) and values[1]:
        found = values[0] / values[1]
    return found if _is_plain(found) else UNKNOWN


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= LONGEST
    if type(value) is float:
        return math.isfinite(value)
    return type(value) is bool or (type(value) is int and abs(value) <= WHOLE)


# ---------------------------------------------------------------------------------------------------------
# Guesses


def guess(setting: Setting) -> Gene | None:
    """Return a likely gene for a setting; None if it should keep its value."""
    if setting.name in GIVEN or setting.default is None or OTHER.search(setting.name) or not setting.word:
        return None
    return range_of(setting) if _varies(setting) else None


def _varies(setting: Setting) -> bool:
    if setting.choices or isinstance(setting.default, bool):
        return True
    kinds = {float: (LOG, SHARES, NEAR_ONE), int: (LOG, SIZES, COUNTS)}.get(type(setting.default), ())
    return any(kind.search(setting.name) for kind in kinds)


def range_of(setting: Setting) -> Gene | None:
    """Return a gene around a setting's default, whether or not it should vary; None if there is none."""
    try:
        return _range(setting)
    except SpaceError:
        return None


def _range(setting: Setting) -> Gene | None:
    default, name = setting.default, setting.name
    if default is None:
        return None
    if setting.choices:
        return Choice(setting.choices, default=default if default in setting.choices else None)
    if isinstance(default, bool):
        return Choice((False, True), default=default)
    if isinstance(default, int):
        return _whole(name, default)
    if not isinstance(default, float):
        return None
    if SHARES.search(name) and 0.0 <= default <= 0.5:
        return Float(0.0, 0.5 if "drop" in name.lower() else 0.3 if default <= 0.3 else 0.5, default=default)
    if NEAR_ONE.search(name) and 0.0 < default < 1.0:
        return Float(_round(max(0.0, 1 - 5 * (1 - default))), _round(1 - (1 - default) / 5), default=default)
    if default > 0.0:
        factor = 10.0 if LOG.search(name) else 2.0
        return Float(_round(default / factor), _round(default * factor), log=True, default=default)
    return Float(0.0, 0.1, default=0.0) if default == 0.0 else None


def _whole(name: str, default: int) -> Gene | None:
    if default <= 0:
        return None
    if SIZES.search(name) and default >= 2:
        factors = (0.25, 0.5, 1, 2, 4) if "batch" in name.lower() else (0.5, 1, 2)
        sizes = [int(default * factor) for factor in factors if default * factor == int(default * factor)]
        return Choice(tuple(sizes), ordered=True, default=default)
    return Int(max(1, default // 2), 2 * default, default=default)


def _round(value: float) -> float:
    return float(f"{value:.3g}") if math.isfinite(value) else value


def given_word(setting: Setting) -> str | None:
    """Return the word that sets a seed, device, threads or folder to that of the trial; None for other settings."""
    name, word, default = setting.name.lower(), setting.word, setting.default
    what = ""
    if name in ("seed", "random_seed", "manual_seed", "rng_seed"):
        what = "{seed}"
    elif name == "device":
        what = "{device}"
    elif name in ("threads", "num_threads", "n_threads"):
        what = "{threads}"
    elif FOLDER.fullmatch(name):
        what = "{folder}"
    elif re.match(r"save|out", name) and isinstance(default, str) and WEIGHTS.fullmatch(default):
        what = f"{{folder}}/{default}"
    placed = f"{{{setting.name}}}"
    return word.replace(placed, what) if what and placed in word else None


def metric_of(texts: Sequence[str], json: bool) -> tuple[str, str, str]:
    """Return name, direction and pattern ('' for JSON) of the metric that a script prints; by default val_loss."""
    for name, direction, written in METRICS:
        for text in texts:
            found = re.search(written, text, re.IGNORECASE)
            if found:
                exact = found[0] if json and text == found[0] else name
                return exact, direction, "" if json else found[0]
    return "val_loss", "min", "" if json else "val_loss"
