"""Attribution of a failure to the genome or to the device. The module decides; it trains, records and warns nothing.

A device on which trainings fail at once would take most of a run's candidates, and their failures would be told to the
strategy as the genomes'. So what fails there is held back and tried elsewhere, the same candidate with the same seed.
Only if it does well there was the first outcome the device's; several such in a row and the device is set aside.
Where nobody else can say, the default genome is the test, once several have failed in a row.

Knows devices by name and candidates by id, and nothing of slots, threads and clocks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from enum import Enum, auto

from evo_tune.genome.trial import Outcome

__all__ = ["SICK", "Health", "Verdict"]

FAILING = ("failed", "crashed", "timeout", "out_of_memory")
"""Statuses that may be a device's doing; any other is of a training that took place."""

SICK = 3
"""Candidates in a row that a device must have failed, and others not, to be set aside; never one alone."""

RARELY = 4 * SICK
"""Failures in a row after which the default genome is a test again, at most: often they are the genomes'."""

AT_ONCE = 30.0
"""Seconds within which a failure has come at once: to try the candidate elsewhere costs next to nothing."""

SHARE = 0.1
"""The same, as a share of what trainings that did well have taken."""


class Verdict(Enum):
    """What is to be done with an outcome."""

    RECORD = auto()
    """It is the candidate's."""
    HOLD = auto()
    """It is in doubt and not to be recorded: the candidate is to be tried elsewhere."""
    TEST = auto()
    """The default genome is to be trained on the same device first; `Health.tested` then says."""


class _Record:
    """What is known of a device."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        """How many trainings ended there in which way."""
        self.error: str | None = None
        """Of the last that failed."""
        self.row: list[int] = []
        """Candidates that failed there since it last did well, but for those that have failed elsewhere as well."""
        self.blamed: set[int] = set()
        """Those among them that did well elsewhere."""
        self.seconds = 0.0
        """What trainings that did well have taken there."""

    @property
    def well(self) -> int:
        """How many trainings took place there."""
        return sum(count for status, count in self.counts.items() if status not in FAILING)

    @property
    def proven(self) -> bool:
        """Whether the last thing that it did was to do well."""
        return bool(self.well) and not self.row


class Health:
    """State of the devices of a run, from the outcomes of their trainings."""

    def __init__(self) -> None:
        self.aside: dict[str, str] = {}
        """Devices that are set aside, and why."""
        self._records: dict[str, _Record] = {}
        self._tried: dict[int, list[str]] = {}
        """By candidate whose outcomes are in doubt: the devices that it failed on."""
        self._row: list[int] = []
        """Failures that were the candidates', since any device last did well."""
        self._test_at = SICK
        """Length of that row at which the default genome is trained."""

    def came(self, device: str, id: int, outcome: Outcome, others: Collection[str], testable: bool) -> Verdict:
        """Record the outcome of a candidate on a device, and attribute a failure.

        Args:
            device: Device that trained the candidate.
            id: Id of the candidate.
            outcome: Outcome of the training.
            others: Other devices that may be given a candidate.
            testable: Whether the default genome succeeded in this run, so that it can serve as a test.
        """
        record = self._noted(device, outcome)
        if outcome.status not in FAILING:
            self._did_well(device, id, outcome)
            return Verdict.RECORD
        proven = record.proven
        if id not in record.row:
            record.row.append(id)
        tried = {*self._tried.get(id, ()), device}
        left = set(others) - tried - self.aside.keys()
        if left and (not proven if id in self._tried else self._in_doubt(record, outcome, others)):
            self._hold(id, device)
            return Verdict.HOLD
        self._row.append(id)
        if testable and len(self._row) >= self._test_at:
            self._hold(id, device)
            return Verdict.TEST
        self._settle(id, confirmed=len(tried) > 1)
        return Verdict.RECORD

    def tested(self, device: str, id: int, outcome: Outcome) -> Verdict:
        """Attribute an outcome after a test, given the outcome of the default genome on the same device."""
        self._noted(device, outcome)
        if outcome.status not in FAILING:
            self._test_at = min(RARELY, 2 * max(SICK, len(self._row)))
            self._settle(id, confirmed=True)
            return Verdict.RECORD
        if id in self._row:
            self._row.remove(id)
        self._tried[id] = [device]  # those that it failed on before may be ill as well
        self.set_aside(device, f"it fails the default genome too, which did well before, with '{outcome.error}'")
        return Verdict.HOLD

    def set_aside(self, device: str, why: str) -> None:
        """Set a device aside for good."""
        self.aside.setdefault(device, why)

    def may_work(self, device: str) -> bool:
        """Return whether a device may be given a new candidate: not while unclear failures may set it aside."""
        doubts = sum(device in tried for tried in self._tried.values())
        blamed = len(self._records[device].blamed) if device in self._records else 0
        return device not in self.aside and doubts + blamed < SICK

    def may_try(self, device: str, id: int, at_work: Collection[str]) -> bool:
        """Return whether a device may be given a candidate with an unclear failure.

        Args:
            device: Device to check.
            id: Id of the candidate.
            at_work: All devices that may be given one. If it failed on each of them, any will do.
        """
        tried = self._tried.get(id, [])
        return device not in self.aside and (device not in tried or not set(at_work) - set(tried) - self.aside.keys())

    def counts(self) -> str:
        """Return the counts of outcomes by device, in words."""
        return "; ".join(
            f"{device}: {', '.join(f'{count} {status}' for status, count in sorted(record.counts.items()))}"
            + (f", the last failure with '{record.error}'" if record.error else "")
            for device, record in self._records.items()
        )

    def _noted(self, device: str, outcome: Outcome) -> _Record:
        record = self._records.setdefault(device, _Record())
        record.counts[outcome.status] += 1
        if outcome.status in FAILING:
            record.error = outcome.error
        return record

    def _did_well(self, device: str, id: int, outcome: Outcome) -> None:
        record = self._records[device]
        record.seconds += outcome.seconds or 0.0
        record.row.clear()
        record.blamed.clear()
        self._row.clear()
        for other in self._tried.pop(id, ()):
            if other != device:
                self._blame(other, id)

    def _blame(self, device: str, id: int) -> None:
        record = self._records[device]
        if id not in record.row:  # it has done well since
            return
        record.blamed.add(id)
        if len(record.blamed) >= SICK:
            which = f"{len(record.blamed)} trainings in a row that did well elsewhere"
            self.set_aside(device, f"it failed {which}, the last with '{record.error}'")

    def _in_doubt(self, record: _Record, outcome: Outcome, others: Collection[str]) -> bool:
        """Whether a first failure of a candidate may be the device's, and is worth a second opinion."""
        if not record.well:
            return True
        if outcome.status == "out_of_memory":  # on GPUs of several sizes it would do well elsewhere, again and again
            return False
        if (outcome.seconds or 0.0) <= max(AT_ONCE, SHARE * record.seconds / record.well):
            return True
        return len(record.row) > 1 and any(self._records[one].proven for one in others if one in self._records)

    def _hold(self, id: int, device: str) -> None:
        tried = self._tried.setdefault(id, [])
        if device not in tried:
            tried.append(device)

    def _settle(self, id: int, confirmed: bool) -> None:
        """End the doubt: a failure is the candidate's; if others confirm it, it is no mark against any device."""
        self._tried.pop(id, None)
        if confirmed:
            for record in self._records.values():
                if id in record.row:
                    record.row.remove(id)
