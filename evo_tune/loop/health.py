"""Attribution of a failure to the genome or to the device. The module decides; it trains, records and warns nothing.

A broken device fails quickly, takes most of a run's candidates, and would make their genomes look bad. So a failure is
held back, and another device trains the same candidate with the same seed. If that succeeds, the first device is
blamed. After several such failures in a row it is set aside. If no other device can confirm a failure, the default
genome is the test, once several candidates in a row have failed.

The module knows devices by name and candidates by id. It knows nothing of slots, threads and clocks.
"""

from collections.abc import Collection
from enum import Enum, auto

from evo_tune.genome.trial import Outcome

# Statuses that a device may cause. Any other status counts as a success here, because the training took place.
FAILING = ("failed", "crashed", "timeout", "out_of_memory")

# Number of candidates in a row that fail on a device and succeed elsewhere before the device is set aside.
SICK = 3

# Maximum number of failures in a row before the default genome is trained as a test again.
RARELY = 4 * SICK

# Seconds up to which a failure counts as immediate; to try its candidate elsewhere costs almost nothing.
AT_ONCE = 30.0

# The same limit as a share of the mean time of successful trainings; the larger limit counts.
SHARE = 0.1


class Verdict(Enum):
    """The next step for an outcome."""

    # Record the outcome: the candidate caused it.
    RECORD = auto()
    # Do not record the outcome: its cause is unclear, so another device trains the candidate.
    HOLD = auto()
    # Train the default genome on the same device first; `Health.tested` then decides.
    TEST = auto()


class _Record:
    """Outcomes of the trainings on a device."""

    def __init__(self) -> None:
        # Number of successful trainings.
        self.well = 0
        # Error of the last failure.
        self.error: str | None = None
        # Candidates that failed since the last success, except those that failed elsewhere as well.
        self.row: list[int] = []
        # Candidates in `row` that succeeded elsewhere.
        self.blamed: set[int] = set()
        # Total time of successful trainings, in seconds.
        self.seconds = 0.0

    @property
    def proven(self) -> bool:
        """Whether the device has succeeded, and has not failed since."""
        return bool(self.well) and not self.row


class Health:
    """State of the devices of a run, from the outcomes of their trainings."""

    def __init__(self) -> None:
        # Reason by device, for devices that are set aside.
        self.aside: dict[str, str] = {}
        self._records: dict[str, _Record] = {}
        # Devices that each candidate with an unclear failure failed on, by id.
        self._tried: dict[int, list[str]] = {}
        # Candidates whose failure was not held back for another device, since the last success on any device.
        self._row: list[int] = []
        # Length of `_row` from which the default genome is trained as a test.
        self._test_at = SICK

    def record_outcome(
        self, device: str, id: int, outcome: Outcome, other_devices: Collection[str], testable: bool
    ) -> Verdict:
        """Record the outcome of a candidate on a device, and attribute a failure.

        Args:
            device: Device that trained the candidate.
            id: Id of the candidate.
            outcome: Outcome of the training.
            other_devices: Other devices that may be given a candidate.
            testable: Whether the default genome succeeded in this run, so that it can serve as a test.
        """
        record = self._count(device, outcome)
        if outcome.status not in FAILING:
            record.seconds += outcome.seconds or 0.0
            record.row.clear()
            record.blamed.clear()
            self._row.clear()
            for device_tried in self._tried.pop(id, ()):
                if device_tried != device:
                    self._blame(device_tried, id)
            return Verdict.RECORD
        proven = record.proven
        if id not in record.row:
            record.row.append(id)
        tried = {*self._tried.get(id, ()), device}
        untried = set(other_devices) - tried - self.aside.keys()
        if untried and (not proven if id in self._tried else self._may_be_device(record, outcome, other_devices)):
            self._hold(id, device)
            return Verdict.HOLD
        self._row.append(id)
        if testable and len(self._row) >= self._test_at:
            self._hold(id, device)
            return Verdict.TEST
        self._settle(id, confirmed=len(tried) > 1)
        return Verdict.RECORD

    def record_test(self, device: str, id: int, outcome: Outcome) -> Verdict:
        """Attribute an outcome after a test, given the outcome of the default genome on the same device."""
        self._count(device, outcome)
        if outcome.status not in FAILING:
            self._test_at = min(RARELY, 2 * max(SICK, len(self._row)))
            self._settle(id, confirmed=True)
            return Verdict.RECORD
        if id in self._row:
            self._row.remove(id)
        self._tried[id] = [device]  # the other devices that it failed on may be broken as well
        self.aside.setdefault(device, f"it fails the default genome too, which did well before, with '{outcome.error}'")
        return Verdict.HOLD

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

    def _count(self, device: str, outcome: Outcome) -> _Record:
        record = self._records.setdefault(device, _Record())
        if outcome.status in FAILING:
            record.error = outcome.error
        else:
            record.well += 1
        return record

    def _blame(self, device: str, id: int) -> None:
        record = self._records[device]
        if id not in record.row:  # the device has succeeded since
            return
        record.blamed.add(id)
        if len(record.blamed) >= SICK:
            which = f"{len(record.blamed)} trainings in a row that did well elsewhere"
            self.aside.setdefault(device, f"it failed {which}, the last with '{record.error}'")

    def _may_be_device(self, record: _Record, outcome: Outcome, other_devices: Collection[str]) -> bool:
        """Return whether the device may have caused a candidate's first failure, so that another device should try."""
        if not record.well:
            return True
        if outcome.status == "out_of_memory":  # with GPUs of several sizes, large genomes would always be moved
            return False
        if (outcome.seconds or 0.0) <= max(AT_ONCE, SHARE * record.seconds / record.well):
            return True
        other_records = [self._records[device] for device in other_devices if device in self._records]
        return len(record.row) > 1 and any(other.proven for other in other_records)

    def _hold(self, id: int, device: str) -> None:
        tried = self._tried.setdefault(id, [])
        if device not in tried:
            tried.append(device)

    def _settle(self, id: int, confirmed: bool) -> None:
        """Attribute a failure to the candidate; if it is confirmed, it no longer counts against any device."""
        self._tried.pop(id, None)
        if confirmed:
            for record in self._records.values():
                if id in record.row:
                    record.row.remove(id)
