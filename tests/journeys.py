"""Counts the functions of evo_tune and evaluators that each part of a run enters; loaded into its processes as a hook.

A run has five parts, its journeys: `command` until the first worker process, `load` of a worker, `work` until the first
step of a training, `reply` from its last step on, and `end` from the last reply to Parquet and report.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import sys
import threading
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).parents[1]

CODE = tuple(f"{ROOT / folder}{os.sep}" for folder in ("evo_tune", "evaluators"))

SEND, RECEIVE, WORK, STEP = "local.py:send", "local.py:receive", "worker.py:work", "trainer.py:advance"

UNTIL = {SEND: "command", WORK: "load", STEP: "work"}
"""Functions whose first call ends a journey."""

IS_FUNCTION, IS_GENERATOR = 0x1, 0x20
"""Flags of code: the body of a class is no function, and a generator is entered again for each value."""


class Counting:
    """Counts calls in this process by file, and writes them into a folder, a file for each journey.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls = folder, Counter[str]()
        is_worker = "EVO_TUNE_WORKER" in os.environ
        for name in ("torch",) if is_worker else ("deap.tools", "joblib", "pandas", "plotly.graph_objects", "pyarrow"):
            importlib.import_module(name)  # before it would be traced, which takes seconds
        if not is_worker:
            atexit.register(self.write, "end")
            threading.settrace(self.enter)  # for drivers; a thread of a worker watches, at a time of its own
        sys.settrace(self.enter)

    def enter(self, frame: FrameType, event: str, argument: object) -> Any:
        """Count a call; see `sys.settrace`."""
        code = frame.f_code
        # Comprehensions are functions before Python 3.12.
        if not code.co_filename.startswith(CODE) or not code.co_flags & IS_FUNCTION or code.co_name[0] == "<":
            return None
        place = f"{os.path.basename(code.co_filename)}:{code.co_name}"
        if place in UNTIL:
            self.write(UNTIL[place])
        if not code.co_flags & IS_GENERATOR:
            self.calls[os.path.relpath(code.co_filename, ROOT)] += 1
        return self.leave if place in (RECEIVE, WORK, STEP) else None

    def leave(self, frame: FrameType, event: str, argument: object) -> Any:
        """Begin to count again after a step and after a reply."""
        if event == "return":
            if frame.f_code.co_name == "work":
                self.write("reply")
            self.calls.clear()
        return self.leave

    def write(self, journey: str) -> None:
        """Write the counts of a journey, unless it was made before; count anew."""
        path = self.folder / f"{journey}.json"
        if not path.exists():
            path.write_text(json.dumps(self.calls.copy()))
        self.calls.clear()
