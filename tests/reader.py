"""A reader of pages, in one process: types commands and Python one after the other, each in a folder.

Given a list of folders and what is typed there as JSON, on standard input, it prints one line of JSON for each: its
exit code, and what it has printed. Trainings are done by this process too, so that torch is imported once and not by
each command's workers.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import traceback
from typing import Any

import evo_tune.dispatch
import evo_tune.loop.slots
from evo_tune.cli import main
from evo_tune.dispatch.slot import Slot, Task
from tests.here import Here


def slots_here(task: Task, *_: Any) -> list[Slot]:
    return [Here(task)]


def typed(what: list[str] | str) -> tuple[int, str]:
    """Type a command's words, or Python; return its exit code, and what it has printed."""
    printed, code = io.StringIO(), 0
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            if isinstance(what, str):
                exec(compile(what, "README.md", "exec"), {"__name__": "__main__"})
            else:
                sys.argv = what
                main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except Exception:
            traceback.print_exc()
            code = 1
    return code, printed.getvalue()


if __name__ == "__main__":
    evo_tune.dispatch.open_slots = evo_tune.loop.slots.open_slots = slots_here  # type: ignore[assignment]
    for folder, line in json.load(sys.stdin):
        os.chdir(folder)
        print(json.dumps(typed(line)), flush=True)
