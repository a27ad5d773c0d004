"""The evaluator that `evo-tune new NAME --from train.py` writes: a space guessed around a script's own settings.

It calls the script as a process (`Script`). Nothing of the script is executed to write it.
"""

from __future__ import annotations

import keyword
import os
import re
from collections.abc import Sequence
from pathlib import Path

from evo_tune.errors import UsageError
from evo_tune.genome.genes import Choice, Float, Gene
from evo_tune.plugins.scripts.script import GIVEN
from evo_tune.plugins.scripts.settings import OTHER, Setting, given_word, guess, metric_of, range_of, read_settings
from evo_tune.text import one_line

__all__ = ["Guessed", "guessed"]

IMPORTS = ("Choice", "Context", "Float", "Int", "Script", "SearchSpace")

STEPS, NO_STEPS = (
    re.compile(r"(epochs?|steps|iters|iterations)$", re.I),
    re.compile(r"eval|log|decay|warm|accum|val_", re.I),
)
"""Names of settings by which a training is shorter, and of those that only look like it."""

LAUNCH = ["-m", "evo_tune.plugins.scripts.launch"]

TEMPLATE = '''\
"""{name}: {script_name}, called with a genome's values."""

# A first guess, made from the names and defaults in the script's text: look at every line. A line of SPACE that is a
# comment becomes a gene when its # is taken away; WORDS says how the script is told.
# Try it: evo-tune evaluate {name}

import hashlib
import sys
from pathlib import Path

from evo_tune import {imports}

SCRIPT = Path(__file__).resolve().parent / {relative!r}

SPACE = SearchSpace(
{space}
)
OBJECTIVES = [{objective}]

# Where its output has a metric: NAME=REGULAR EXPRESSION, or NAME for the number behind that word. []: lines of JSON.
METRICS_IN_OUTPUT = {patterns!r}

# How far a printed line is: "20" (points of a full training), "step/2000" (a metric), "fraction". For --prune.
PROGRESS = ""
SUPPORTS = ["curve"] if PROGRESS else []

# Words of every call.{needed}
ALWAYS = {always}
{rungs}
WORDS = {{
{words}
}}


def evaluate(genome: dict, context: Context) -> dict[str, float]:
    """Run the script once, and return the last value of each metric that it prints."""
    words = [sys.executable, {launch}"{{script}}", *ALWAYS, *(WORDS[name] for name in genome)]
    return Script(words, METRICS_IN_OUTPUT, PROGRESS).run({{**genome, "script": str(SCRIPT)}}, context)


def fingerprint() -> str:
    """Tell when the script changes."""
    return hashlib.sha256(SCRIPT.read_bytes()).hexdigest()
'''


class Guessed:
    """What was made of a script.

    Args:
        text: Of the evaluator's file.
        genes: Names of what varies.
        others: Names of what stands in it as comments.
        needed: What the script does not run without, and nobody has given it.
    """

    def __init__(self, text: str, genes: list[str], others: list[str], needed: list[str]) -> None:
        self.text = text
        self.genes = genes
        self.others = others
        self.needed = needed


def guessed(name: str, script: Path, folder: Path) -> Guessed:
    """Return an evaluator of a script.

    Args:
        name: Of the evaluator.
        script: The script's file.
        folder: Where the evaluator's file will lie.

    Raises:
        UsageError: The script cannot be read, or nothing in it can vary.
    """
    found = read_settings(script)
    settings = [one for one in found.settings if not keyword.iskeyword(one.name)]
    always = {one.name: word for one in settings if (word := given_word(one)) is not None}
    free = [one for one in settings if one.name not in {*always, *GIVEN, "script"}]
    genes = {one.name: gene for one in free if (gene := guess(one)) is not None}
    if not genes:
        genes = {
            one.name: gene
            for one in free
            if one.word and not OTHER.search(one.name) and (gene := range_of(one)) is not None and gene.size > 1
        }
    if not genes:
        raise UsageError(
            f"--from {one_line(str(script), 200)}: nothing in it can vary: expected flags of argparse, fields of a "
            f"dataclass or constants in capitals with numbers as defaults ({len(settings)} settings were found); "
            f"`evo-tune new {name}` writes a template"
        )
    words = {one.name: one.word for one in free if one.word}
    constants = any(_is_constant(word) for word in [*words.values(), *always.values()])
    needed = [one.name for one in free if one.needed and one.name not in genes]
    metric, direction, pattern = metric_of(found.texts, found.json)
    text = TEMPLATE.format(
        name=name,
        script_name=_commented(script.name),
        imports=", ".join(
            sorted({"Choice", "Context", "Float", "Int", "Script", "SearchSpace", direction.title() + "imize"})
        ),
        relative=os.path.relpath(script.resolve(), folder.resolve()),
        space="\n".join(_space(free, genes)),
        objective=f"{direction.title()}imize({metric!r})",
        patterns=[]
        if found.json
        else [metric if pattern == metric else f"{metric}={re.escape(pattern)}".replace("\\ ", " ")],
        needed=f" The script needs more: {_commented(', '.join(needed))}." if needed else "",
        always=_list(list(always.values())),
        rungs=_rungs(free),
        words="\n".join(f"    {name!r}: {word!r}," for name, word in words.items()),
        launch="".join(f'"{word}", ' for word in LAUNCH) if constants else "",
    )
    return Guessed(text, list(genes), [one.name for one in free if one.name not in genes], needed)


def _space(settings: Sequence[Setting], genes: dict[str, Gene]) -> list[str]:
    """Return the lines of the space: genes first, then what else the script lets its user set, as comments."""
    lines = [f"    {name}={_text(gene)}," for name, gene in genes.items()]
    for one in settings:
        if one.name in genes:
            continue
        gene = range_of(one) if one.word else None
        told = _commented(repr(one.default)) if one.default is not None else "no default that can be read"
        lines.append(f"    # {one.name}={_text(gene)}," if gene is not None else f"    # {one.name}: {told}")
    return lines


def _text(gene: Gene) -> str:
    default = f", default={gene.default!r}" if gene.default is not None else ""
    if isinstance(gene, Choice):
        return f"Choice({[*gene.values]!r}{', ordered=True' if gene.ordered else ''}{default})"
    log = ", log=True" if isinstance(gene, Float) and gene.log else ""
    return f"{type(gene).__name__}({gene.low!r}, {gene.high!r}{log}{default})"  # type: ignore[attr-defined]


def _rungs(settings: Sequence[Setting]) -> str:
    """Return a comment that shows how a script is trained in part, if it has a number of steps."""
    for one in settings:
        counted = STEPS.search(one.name) and not NO_STEPS.search(one.name)
        if counted and type(one.default) is int and one.default > 1 and f"{{{one.name}}}" in one.word:
            word = one.word.replace(f"{{{one.name}}}", f"{{budget*{one.default}}}")
            return f'# For --fidelity: put {word!r} into ALWAYS, and "budget" into SUPPORTS.\n'
    return ""


def _is_constant(word: str) -> bool:
    return not word.startswith(("-", "{"))


def _list(words: list[str]) -> str:
    return "[" + ", ".join(map(repr, words)) + "]"


def _commented(text: str) -> str:
    """Return text that can stand in a comment, or a docstring."""
    return one_line(text, 100).replace("\\", "/").replace('"', "'")
