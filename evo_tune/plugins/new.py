"""Write a new evaluator: from the template, or around the settings of a training script (`evo-tune new --from`).

The second calls the script as a process (`Script`), and its space is guessed from the script's text, which is not
executed. The texts are in `templates/`.
"""

from __future__ import annotations

import keyword
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evo_tune.errors import UsageError
from evo_tune.genome.genes import Choice, Float, Gene
from evo_tune.plugins.scripts.script import GIVEN
from evo_tune.plugins.scripts.settings import OTHER, Setting, given_word, guess, metric_of, range_of, read_settings
from evo_tune.text import one_line

TEMPLATES = Path(__file__).with_name("templates")

STEPS, NO_STEPS = (
    re.compile(r"(epochs?|steps|iters|iterations)$", re.I),
    re.compile(r"eval|log|decay|warm|accum|val_", re.I),
)
"""Names of settings that say how long a training is, and of similar ones that do not."""

LAUNCH = '"-m", "evo_tune.plugins.scripts.launch", '
"""Words of the generated evaluator for a script whose constants are its settings."""


def render(name: str) -> str:
    """Return the text of a new evaluator.

    Args:
        name: Name of the evaluator, as `write` accepts it.
    """
    return (TEMPLATES / "evaluator.py.txt").read_text(encoding="utf-8").replace("NAME", name)


def check_name(name: str) -> None:
    """Refuse an invalid name of an evaluator.

    Raises:
        UsageError: The name is no Python identifier, or begins with an underscore.
    """
    if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
        raise UsageError(
            f"an evaluator cannot be named {name!r}: expected letters, digits and '_', beginning with a letter, "
            "such as my_task"
        )


def write(name: str, folder: Path, text: str | None = None) -> Path:
    """Write a new evaluator and return its file, FOLDER/NAME.py; the folder is made if it does not exist.

    Args:
        name: Python identifier that does not begin with an underscore.
        folder: Folder that is searched for evaluators: ./evaluators.
        text: Text of the file; None: that of the template.

    Raises:
        UsageError: The name is invalid, the file exists, or it cannot be written.
    """
    check_name(name)
    path = folder / f"{name}.py"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(path, "x", encoding="utf-8") as file:
            file.write(render(name) if text is None else text)
    except FileExistsError as error:
        if error.filename == str(folder):
            raise UsageError(f"{folder} is not a folder: move it out of the way to write {path}") from None
        raise UsageError(f"{path} exists already: choose another name, or edit that file") from None
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}; choose a folder that can be written") from None
    return path


@dataclass(frozen=True)
class Guessed:
    """Evaluator that was made from a script.

    Args:
        text: Text of the evaluator's file.
        genes: Names of the guessed genes.
        others: Names of the other settings, which are comments in the text.
        needed: Names of required settings that have no value.
    """

    text: str
    genes: list[str]
    others: list[str]
    needed: list[str]


def guessed(name: str, script: Path, folder: Path) -> Guessed:
    """Return an evaluator that calls a script.

    Args:
        name: Name of the evaluator.
        script: File of the script.
        folder: Folder of the evaluator's file.

    Raises:
        UsageError: The script cannot be read, or has no setting that can vary.
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
    constants = any(not word.startswith(("-", "{")) for word in [*words.values(), *always.values()])
    needed = [one.name for one in free if one.needed and one.name not in genes]
    metric, direction, pattern = metric_of(found.texts, found.json)
    pattern_text = metric if pattern == metric else f"{metric}={re.escape(pattern)}".replace("\\ ", " ")
    names = {"Choice", "Context", "Float", "Int", "Script", "SearchSpace", direction.title() + "imize"}
    text = (
        (TEMPLATES / "from_script.py.txt")
        .read_text(encoding="utf-8")
        .format(
            name=name,
            script_name=_commented(script.name),
            imports=", ".join(sorted(names)),
            relative=os.path.relpath(script.resolve(), folder.resolve()),
            space="\n".join(_space(free, genes)),
            objective=f"{direction.title()}imize({metric!r})",
            patterns=[] if found.json else [pattern_text],
            needed=f" The script needs more: {_commented(', '.join(needed))}." if needed else "",
            always=repr(list(always.values())),
            rungs=_rungs(free),
            words="\n".join(f"    {name!r}: {word!r}," for name, word in words.items()),
            launch=LAUNCH if constants else "",
        )
    )
    return Guessed(text, list(genes), [one.name for one in free if one.name not in genes], needed)


def _space(settings: Sequence[Setting], genes: dict[str, Gene]) -> list[str]:
    """Return the lines of the space: genes first, then the other settings as comments."""
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
    """Return a comment on partial trainings for a script with a number of steps; '' for others."""
    for one in settings:
        counted = STEPS.search(one.name) and not NO_STEPS.search(one.name)
        if counted and type(one.default) is int and one.default > 1 and f"{{{one.name}}}" in one.word:
            word = one.word.replace(f"{{{one.name}}}", f"{{budget*{one.default}}}")
            return f'# For --fidelity: put {word!r} into ALWAYS, and "budget" into SUPPORTS.\n'
    return ""


def _commented(text: str) -> str:
    """Return text that is safe in a comment or a docstring."""
    return one_line(text, 100).replace("\\", "/").replace('"', "'")
