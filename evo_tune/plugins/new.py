"""Write the file of a new evaluator from the template, for `evo-tune new`."""

from __future__ import annotations

import keyword
from pathlib import Path

from evo_tune.errors import UsageError

TEMPLATE = Path(__file__).with_name("templates") / "evaluator.py.txt"


def render(name: str) -> str:
    """Return the text of a new evaluator.

    Args:
        name: Name of the evaluator, as `write` accepts it.
    """
    return TEMPLATE.read_text(encoding="utf-8").replace("NAME", name)


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


def write(name: str, folder: Path) -> Path:
    """Write a new evaluator and return its file, FOLDER/NAME.py; the folder is made if it does not exist.

    Args:
        name: Python identifier that does not begin with an underscore.
        folder: Folder that is searched for evaluators: ./evaluators.

    Raises:
        UsageError: The name is invalid, the file exists, or it cannot be written.
    """
    check_name(name)
    path = folder / f"{name}.py"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(path, "x", encoding="utf-8") as file:
            file.write(render(name))
    except FileExistsError as error:
        if error.filename == str(folder):
            raise UsageError(f"{folder} is not a folder: move it out of the way to write {path}") from None
        raise UsageError(f"{path} exists already: choose another name, or edit that file") from None
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}; choose a folder that can be written") from None
    return path
