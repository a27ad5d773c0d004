"""A space snapped to what the machine is good at, as an option: timed once, as a run begins, and then in its manifest.

Only what is free is snapped: a width stays within its bounds and its default, and a genome that has no head of a good
size keeps what it has. Loads no torch: a process of its own times the device (see `timing`).
"""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from evo_tune.errors import OptionError
from evo_tune.options.declare import Options, option
from evo_tune.recipe.hardware.computing import has_gpu

__all__ = ["Profiling"]

FEWEST = 4
"""Widths that a space must keep."""

SNAPPED = re.compile(r"width (\d+), heads (\d+(?: \d+)*)")

P = TypeVar("P", bound="Profiling")


@dataclass(frozen=True, kw_only=True)
class Profiling(Options):
    """The machine that a space is for."""

    profile: str = option(
        "false",
        gene=None,
        help="true: time this machine as a run begins, and snap widths and heads to what is fast on it",
    )

    def settled(self: P, rungs: bool) -> P:
        made = super().settled(rungs)
        return replace(made, profile=_timed()) if self.profile == "true" else made

    def check(self) -> None:
        if self.profile not in ("true", "false") and not SNAPPED.fullmatch(self.profile):
            settled = "or what it was settled to: 'width 16, heads 32 64'"
            raise OptionError(f"-o profile={self.profile}: expected true, false, {settled}")

    def snapped(self, width: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
        """Return the widths of a space in steps that the machine wants, where that is free.

        Args:
            width: Least, largest, step and default.
        """
        found = SNAPPED.fullmatch(self.profile)
        low, high, step, default = width
        wanted = math.lcm(step, int(found[1])) if found else step
        first = -(-low // wanted) * wanted
        free = default % wanted == 0 and (high - first) // wanted + 1 >= FEWEST
        return (first, high // wanted * wanted, wanted, default) if free else width

    def fast_heads(self, width: int, counts: Sequence[int]) -> Sequence[int]:
        """Return those numbers of heads whose channels are as good as the best; all of them where none is."""
        found = SNAPPED.fullmatch(self.profile)
        good = {int(size) for size in found[2].split()} if found else set()
        return [count for count in counts if width / count in good] or counts


def _timed() -> str:
    """Return what the machine wants.

    Raises:
        OptionError: It could not be timed.
    """
    command = [sys.executable, "-m", "evo_tune.training.probing.timing", "cuda:0" if has_gpu() else "cpu", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        why = f"this machine could not be timed ({last})"
        raise OptionError(f"-o profile=true: {why}: expected false, or a GPU that is free")
    wants = json.loads(done.stdout)["wants"]
    return f"width {wants['width']}, heads {' '.join(map(str, wants['head_sizes']))}"
