"""Events of the journal: one class per kind, and the schema for writing, reading and checking lines.

Types are strict: an unknown field, a bool in place of a number, and a number that is not finite or out of range are
refused. A metric that is not finite is null in the file. This module does not know what a run does with its events.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from evo_tune.errors import OptionError, UsageError
from evo_tune.genome.genes import Gene, gene_from
from evo_tune.genome.trial import Candidate, Outcome, Status
from evo_tune.settings import SessionSettings, read_settings
from evo_tune.store.journal import LINK, LONGEST, SEAL
from evo_tune.store.manifest import Finite, Hash, PatchName, PatchRecord, Seeds, Share, Spent, Whole

# Metrics by name; None for a value that is not finite, because JSON has no such number.
Metrics: TypeAlias = dict[str, Finite | None]

# A value of a gene.
Plain: TypeAlias = bool | int | Finite | str

# Pattern of the name of a submission's source: up to 40 letters, digits and '._@-'.
SOURCE = r"[A-Za-z0-9._@-]{1,40}"

# Length in bytes above which an invalid line is not parsed a second time.
LONG = 1 << 20


class CandidateRecord(Struct, forbid_unknown_fields=True):
    """A Candidate in the journal: its fields in their order, without test, timing and baseline, which no trial has."""

    id: Whole
    generation: Whole
    seed: Whole
    reported_before: Whole
    genome: dict[str, Plain]
    operator: str
    parents: tuple[Whole, ...]
    budget: Share = 1.0
    resumes: Whole | None = None
    extra_seed: Whole = 0
    stop_if: tuple[tuple[Finite, str, Finite], ...] = ()

    @classmethod
    def of(cls, candidate: Candidate) -> CandidateRecord:
        """Return the record of a candidate."""
        return cls(*(getattr(candidate, name) for name in cls.__struct_fields__))

    def candidate(self) -> Candidate:
        """Return the candidate."""
        return Candidate(*msgspec.structs.astuple(self))


class Result(Struct, forbid_unknown_fields=True):
    """An Outcome in the journal: its fields in their order."""

    status: Status
    metrics: Metrics
    curve: tuple[tuple[Share, Metrics], ...]
    seconds: Finite = 0.0
    device: str = ""
    error: str | None = None

    @classmethod
    def of(cls, outcome: Outcome) -> Result:
        """Return the record of an outcome."""
        curve = tuple((fraction, _finite(metrics)) for fraction, metrics in outcome.curve)
        metrics, seconds = _finite(outcome.metrics), round(outcome.seconds, 4)
        return cls(outcome.status, metrics, curve, seconds, outcome.device, outcome.error)

    def outcome(self) -> Outcome:
        """Return the outcome; a metric that is null in the journal is NaN."""
        curve = tuple((fraction, _numbers(metrics)) for fraction, metrics in self.curve)
        return Outcome(self.status, _numbers(self.metrics), curve, self.seconds, self.device, self.error)


def _finite(metrics: Mapping[str, float]) -> Metrics:
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


def _numbers(metrics: Metrics) -> dict[str, float]:
    return {name: math.nan if value is None else value for name, value in metrics.items()}


class _Event(Struct, tag_field="event", forbid_unknown_fields=True, kw_only=True):
    """An event of the journal.

    Args:
        time: Time of writing, in seconds since 1970.
        spent: Seconds since the session began, by a monotonic clock: what `--hours` counts. 0 for an event that a
            resume writes before its session.
    """

    time: Finite
    spent: Spent = 0.0


class SessionBegun(_Event, tag="session"):
    """`run` or `resume` began.

    Args:
        session: Settings of the session by name.
        manifest: SHA-256 of the manifest's values, without its identity; missing in version 1.0.
    """

    session: dict[str, Plain | None]
    manifest: Hash | UnsetType = UNSET

    def __post_init__(self) -> None:
        self.settings()

    def settings(self) -> tuple[SessionSettings, dict[str, Any]]:
        """Return the settings of the session, and the values of dropped ones, which this version does not have.

        Raises:
            ValueError: A setting is unknown, of the wrong type or out of bounds.
        """
        try:
            return read_settings(SessionSettings, self.session)
        except (UsageError, OverflowError) as error:  # an integer that is no finite float
            raise ValueError(str(error)) from None


class Range(Struct, forbid_unknown_fields=True):
    """A gene as `Gene.describe` returns it; fields that its kind does not use are left out.

    Args:
        kind: 'float', 'int' or 'choice'.
        low: Lowest value of a float or int.
        high: Highest value of a float or int.
        log: Whether a float or int has a logarithmic scale.
        step: Distance between the values of an int.
        values: Values of a choice, in their order.
        ordered: Whether neighbouring values of a choice are similar.
        default: Value in the default genome; null: the middle.
        prior: Value around which random genomes are drawn.
        spread: Standard deviation around the prior, in unit coordinates.
        when: Values of other genes with which it is active, by gene.
        widest: Lowest and highest value to which its range may be widened; null for no limit.
    """

    kind: Literal["float", "int", "choice"]
    low: int | Finite | UnsetType = UNSET
    high: int | Finite | UnsetType = UNSET
    log: bool | UnsetType = UNSET
    step: int | UnsetType = UNSET
    values: list[Plain] | UnsetType = UNSET
    ordered: bool | UnsetType = UNSET
    default: Plain | None = None
    prior: Plain | UnsetType = UNSET
    spread: Finite | UnsetType = UNSET
    when: dict[str, list[Plain]] | UnsetType = UNSET
    widest: tuple[int | Finite | None, int | Finite | None] | UnsetType = UNSET

    def gene(self) -> Gene:
        """Return the gene.

        Raises:
            SpaceError: The fields do not describe a valid gene.
        """
        fields = {name: getattr(self, name) for name in self.__struct_fields__}
        return gene_from({name: value for name, value in fields.items() if value is not UNSET})


def ranges_of(genes: Mapping[str, Gene]) -> dict[str, Range]:
    """Return genes as the journal has them, by name."""
    return msgspec.convert({name: gene.describe() for name, gene in genes.items()}, dict[str, Range])


class Submission(Struct, forbid_unknown_fields=True, kw_only=True):
    """A genome that somebody submits to a run, as its file in the inbox has it.

    Args:
        source: Who proposes it: 'person', 'agent', 'python' or another name.
        genome: Values of genes by name; all others have their defaults.
    """

    source: Annotated[str, Meta(pattern=f"^{SOURCE}\\Z")]
    genome: dict[str, Plain]


class PatchSubmission(Struct, forbid_unknown_fields=True, kw_only=True):
    """A patch that somebody submits to a run, as its file in the inbox has it.

    Args:
        source: Who proposes it.
        name: Name of the patch.
        text: Its text.
    """

    source: Annotated[str, Meta(pattern=f"^{SOURCE}\\Z")]
    name: PatchName
    text: str


class Submitted(Submission, kw_only=True):
    """The submission that a candidate was made of.

    Args:
        file: Name of its file in the inbox, which no other submission of the run has.
        widened: Genes with wider ranges from this candidate on, by name.
    """

    file: Annotated[str, Meta(max_length=100)]
    widened: dict[str, Range]


class Proposed(_Event, tag="proposed"):
    """A candidate was proposed.

    Args:
        candidate: The candidate.
        submission: Where it comes from if it was proposed from outside; missing if the strategy proposed it.
    """

    candidate: CandidateRecord
    submission: Submitted | UnsetType = UNSET


class Recorded(_Event, tag="recorded"):
    """A result was recorded.

    Args:
        id: Trial id.
        outcome: The result.
    """

    id: Whole
    outcome: Result


class Reported(_Event, tag="reported"):
    """The strategy sees a result from here on.

    Args:
        id: Trial id.
    """

    id: Whole


class Changed(_Event, tag="changed"):
    """The evaluator, its data or the strategy's file changed, and the user accepted it (`--accept-changes`).

    Args:
        evaluator_hash: SHA-256 of the evaluator's code from here on.
        fingerprint: Identity of the data from here on.
        strategy_hash: SHA-256 of the strategy's file from here on; '' for a strategy of evo-tune.
    """

    evaluator_hash: str
    fingerprint: str
    strategy_hash: str


class Widened(_Event, tag="widened"):
    """These genes have wider ranges from here on.

    Args:
        genes: Wider genes by name.
        reason: Reason in words; '' if the user widened them on resume.
    """

    genes: dict[str, Range]
    reason: str = ""


class PatchAdded(_Event, tag="patch"):
    """A patch that somebody submitted joins the run from here on; it is off in all earlier trials.

    Args:
        patch: The patch.
        genes: Its genes by name, the one that switches it on included.
        source: Who proposed it.
        file: Name of its file in the inbox, which no other submission of the run has.
    """

    patch: PatchRecord
    genes: dict[str, Range]
    source: Annotated[str, Meta(pattern=f"^{SOURCE}\\Z")]
    file: Annotated[str, Meta(max_length=100)]


class ComparisonPlanned(_Event, tag="comparison"):
    """The final comparison that fits into the hours; it depends on the clock, so a resume does not plan it again.

    Args:
        finalists: Trial ids, the best first; empty if no comparison fits.
        default: Trial id of the default genome; null if it has no value.
        looks: Numbers of reporting seeds at each look, increasing.
        patches: True if the best genome is trained without each of its patches too; missing if not.
    """

    finalists: tuple[Whole, ...]
    default: Whole | None = None
    looks: tuple[Seeds, ...] = ()
    patches: bool | UnsetType = UNSET

    def __post_init__(self) -> None:
        if any(low >= high for low, high in pairwise((0, *self.looks))) or bool(self.finalists) != bool(self.looks):
            raise ValueError("its looks are not increasing numbers of seeds, or there are none for its finalists")


class BaselineTrained(_Event, tag="baseline"):
    """The evaluator's baseline was trained, on its present data. It is no trial: no strategy sees it.

    Args:
        name: Name of the baseline.
        outcome: Its result.
    """

    name: str
    outcome: Result


class FreshTrained(_Event, tag="fresh"):
    """A genome was trained with a fresh seed for the final comparison. It is no trial: no strategy sees it.

    Args:
        id: Id of the trial with this genome.
        seed: Seed of the training.
        outcome: The result.
        evaluator_hash: SHA-256 of the evaluator's code.
        fingerprint: Identity of the data.
        genome: Genome of the training if it differs from the trial's: without one of its patches; missing if not.
    """

    id: Whole
    seed: Whole
    outcome: Result
    evaluator_hash: str
    fingerprint: str
    genome: dict[str, Plain] | UnsetType = UNSET


class Ended(_Event, tag="ended"):
    """The session ended or was interrupted; the event is missing if its process was killed.

    Args:
        reason: Reason in words.
    """

    reason: str


Event: TypeAlias = (
    SessionBegun
    | Proposed
    | Recorded
    | Reported
    | Changed
    | Widened
    | PatchAdded
    | ComparisonPlanned
    | BaselineTrained
    | FreshTrained
    | Ended
)

# Decoder of every kind of event, by its tag.
_DECODER: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)


def read(line: bytes) -> Event:
    """Return the event of a line.

    Raises:
        ValueError: The line is not an event that the schema allows; the message says how.
    """
    try:
        try:
            return _DECODER.decode(line)
        except (ValueError, OptionError, RecursionError):
            if len(line) > LONG:
                raise
        # The decoder refuses half of a surrogate pair, which is allowed here.
        event: Event = msgspec.convert(json.loads(line), Event)
        return event
    except (ValueError, OptionError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise ValueError(str(error)) from None


def write(event: Event) -> bytes:
    """Return an event as a line without its line end, for `read`.

    Raises:
        TypeError: The event contains a value that is not plain data.
    """

    def plain(value: object) -> object:
        if isinstance(value, float):  # a NumPy float
            return float(value)
        raise TypeError(f"a {type(value).__name__} cannot be saved")

    try:
        return msgspec.json.encode(event, enc_hook=plain)
    except UnicodeEncodeError:  # half of a surrogate pair, from a file name that is not UTF-8
        return json.dumps(msgspec.to_builtins(event, enc_hook=plain), separators=(",", ":")).encode()


def check_event(event: Event) -> tuple[bytes, Event]:
    """Return the line of an event, and the event as `read` returns it, so that live and resumed runs see equal values.

    Raises:
        ValueError: The event violates the schema, so it could not be read back.
    """
    try:
        line = write(event)
    except TypeError as error:
        raise ValueError(str(error)) from None
    if len(line) >= LONGEST - LINK - SEAL:
        raise ValueError(f"it has {len(line)} bytes, expected less than {LONGEST}: report fewer points of a curve")
    return line, read(line)
