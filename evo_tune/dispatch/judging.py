"""How an evaluation ended: whatever it raised becomes a status and one line, and what nobody expected an error.txt.

Knows of torch only what its errors are called, and nothing of processes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import traceback
from typing import NamedTuple, cast

from evo_tune.dispatch.slot import names_inside
from evo_tune.errors import EvoTuneError, tells_of_memory
from evo_tune.genome.trial import STATUSES, Status
from evo_tune.plugins.context import Pruned
from evo_tune.text import one_line
from evo_tune.trust import inside

__all__ = ["Verdict", "judge", "text_of"]

POISONED = ("cuda error", "cudnn error", "hip error")


class Verdict(NamedTuple):
    """How an evaluation ended."""

    status: Status
    metrics: dict[str, float]
    error: str | None
    poisoned: bool = False


def judge(error: BaseException, path: str, folder: str) -> Verdict:
    """Turn what an evaluation raised into a verdict; what is not to be expected leaves an error.txt."""
    text = text_of(error)
    if isinstance(error, Pruned):
        return Verdict("pruned", {}, text)
    poisoned = isinstance(error, RuntimeError) and (
        type(error).__name__ == "AcceleratorError" or any(sign in text.lower() for sign in POISONED)
    )
    own = getattr(error, "status", None)
    if _is_out_of_memory(error, text):
        status: Status = "out_of_memory"
    elif isinstance(own, str) and own in STATUSES and own != "ok":
        status = cast(Status, own)
    else:
        status = "crashed" if poisoned else "failed"
    if status in ("failed", "crashed", "out_of_memory"):
        _write_traceback(error, folder)
    expected = isinstance(error, EvoTuneError) or status == own
    line = text if expected and text else f"{type(error).__name__}: {text}" if text else type(error).__name__
    where = "" if isinstance(error, EvoTuneError) else _where(error, path)
    return Verdict(status, {}, line + where, poisoned)


def text_of(error: BaseException) -> str:
    """Return what an error says, in one line."""
    try:
        return one_line(str(error))  # the whole text is in error.txt
    except Exception as broken:  # an exception whose __str__ raises
        return f"(its text cannot be read: {type(broken).__name__})"


def _is_out_of_memory(error: BaseException, text: str) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and tells_of_memory(text)


def _where(error: BaseException, path: str) -> str:
    """Return ' (FILE:LINE)' of the last frame in the evaluator's file, else of the last frame at all."""
    frames = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    mine = [frame for frame in frames if frame[0] == path] or frames
    return f" ({os.path.basename(mine[-1][0])}:{mine[-1][1]})" if mine else ""


def _write_traceback(error: BaseException, folder: str) -> None:
    with contextlib.suppress(Exception):
        run, *names = names_inside(folder)
        os.makedirs(run, exist_ok=True)
        text = "".join(traceback.format_exception(error))
        with inside.folder(run, *names, make=True) as at:
            inside.replace(at, "error.txt", text.encode("utf-8", "backslashreplace"), part=".error.part", sync=False)
