"""How one `run` or `resume` goes about it: limits and slots, which may differ from session to session.

Knows nothing of files.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
from msgspec import Struct

from evo_tune.errors import OptionError
from evo_tune.store.schema import Finite, Whole
from evo_tune.text import one_line

__all__ = ["BACKENDS", "LIMITS", "Session"]

BACKENDS = ("joblib", "dask", "ray")
"""Where slots may be: processes of this machine (joblib's own engine), or a cluster."""

LIMITS = ("trials", "generations", "budget", "hours")
"""Fields of a session that end it; new ones replace all of the old."""


MOST = {"slots": 10_000, "per_device": 1000, "retries": 10_000, "calibrate": 1000, "calibrate_best": 1000}
"""Of what is made one by one: no stranger's journal can have us make more."""


class Session(Struct, frozen=True, forbid_unknown_fields=True):
    """How one `run` or `resume` goes about it; limits are totals over all sessions (law 2).

    Args:
        trials: Most births that count (see Candidate.fresh).
        generations: The same in generations.
        budget: Most training, in full trainings; promotions count what they add, failed ones what they had.
        hours: Most hours of work, the calibration included.
        slots: Number of slots; None: what the machine offers.
        devices: As typed; None: what the machine offers.
        per_device: Slots on one GPU; 'auto': as many as its memory has room for.
        timeout: Seconds after which an evaluation is given up; None: never.
        retries: Further tries of an evaluation whose process died.
        calibrate: How many fresh seeds the closing race is about (see `report.racing`); 0: there is none.
        calibrate_best: Finalists of that race; one of them is compared with the default.
        backend: Where the slots are: 'joblib' (processes of this machine), 'dask' or 'ray'.
        address: Of a cluster that runs already; None starts one on this machine.
        max_slots: On a cluster, slots there may be: those that no machine is there for wait for one.
        stop_when_done: Stop once another generation is unlikely to improve by more than seeds differ (see
            `report.further`).
    """

    trials: Whole | None = None
    generations: Whole | None = None
    hours: Finite | None = None
    slots: int | None = None
    devices: str | None = None
    per_device: int | str = 1
    timeout: Finite | None = None
    retries: int = 0
    calibrate: int = 0
    budget: Finite | None = None
    calibrate_best: int = 1
    backend: str = "joblib"
    address: str | None = None
    max_slots: int | None = None
    stop_when_done: bool = False

    def __post_init__(self) -> None:
        least = {"trials": 1, "generations": 1, "retries": 0, "calibrate": 0, "calibrate_best": 1, "max_slots": 1}
        for name, low in least.items():
            number = getattr(self, name)
            if number is not None and (not isinstance(number, int) or number < low):
                raise OptionError(f"{_flag(name)} {number} is not allowed: expected a whole number of at least {low}")
        for name, most in {**MOST, "max_slots": MOST["slots"]}.items():
            number = getattr(self, name)
            if isinstance(number, int) and number > most:
                raise OptionError(f"{_flag(name)} {one_line(str(number), 30)} is not allowed: expected at most {most}")
        for name in ("hours", "budget"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise OptionError(f"--{name} {getattr(self, name)} is not allowed: expected more than 0")
        if self.backend not in BACKENDS:
            raise OptionError(f"--backend {self.backend} is unknown: expected one of {', '.join(BACKENDS)}")
        for name in ("address", "max_slots"):
            if self.backend == "joblib" and getattr(self, name) is not None:
                raise OptionError(f"{_flag(name)} is for clusters: give --backend dask or --backend ray with it")
        if self.backend != "joblib" and not isinstance(self.per_device, int):
            raise OptionError(f"--per-device {self.per_device} is for GPUs of this machine: expected a number")

    @property
    def limited(self) -> bool:
        """Whether it has any limit."""
        return any(getattr(self, name) is not None for name in LIMITS)

    def unlimited(self) -> Session:
        """Return it without its limits."""
        return self.but(trials=None, generations=None, budget=None, hours=None, stop_when_done=False)

    def but(self, **changes: Any) -> Session:
        """Return it with some fields changed.

        Raises:
            OptionError: One is out of range.
        """
        return msgspec.structs.replace(self, **changes)

    def births(self, population: int) -> float:
        """Return the most births that count, from trials and generations together."""
        by_generation = math.inf if self.generations is None else self.generations * population
        return min(by_generation, math.inf if self.trials is None else self.trials)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
