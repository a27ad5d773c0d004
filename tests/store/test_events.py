"""The events' one schema: what is written is read back the same, and whatever else a line may hold is refused."""

from __future__ import annotations

import hashlib
import json
import math
import pickle
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evo_tune.genome.genes import Choice, Float, Gene, Int
from evo_tune.genome.trial import STATUSES, Candidate, Outcome
from evo_tune.settings import SessionSettings
from evo_tune.store import events
from evo_tune.store.events import (
    CandidateRecord,
    Changed,
    ComparisonPlanned,
    Ended,
    Event,
    Proposed,
    Recorded,
    Reported,
    Result,
    SessionBegun,
    Widened,
    check_event,
    ranges_of,
    read,
    write,
)
from evo_tune.store.journal import seal_line, split_link, unseal_line

ROOT = Path(__file__).parents[2]
NUMBER = st.floats(allow_nan=True, allow_infinity=True)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(st.characters(), max_size=8)
"""Halves of surrogate pairs as well: file names that are not UTF-8 have them."""
METRICS = st.dictionaries(TEXT, NUMBER, max_size=4)
WHOLE = st.integers(0, 2**63 - 1)
VALUE = st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), FINITE, TEXT)

OUTCOMES = st.builds(
    Outcome,
    status=st.sampled_from(STATUSES),
    metrics=METRICS,
    curve=st.lists(st.tuples(st.floats(0, 1, exclude_min=True), METRICS), max_size=3).map(tuple),
    seconds=st.floats(0, 1e6),
    device=st.sampled_from(["cpu", "cuda:0", ""]),
    error=st.none() | TEXT,
)
CANDIDATES = st.builds(
    Candidate,
    id=WHOLE,
    generation=WHOLE,
    seed=st.integers(0, 2**32 - 1),
    reported_before=WHOLE,
    genome=st.dictionaries(TEXT, VALUE, min_size=1, max_size=4),
    operator=TEXT,
    parents=st.lists(WHOLE, max_size=3).map(tuple),
    budget=st.floats(0, 1, exclude_min=True),
    resumes=st.none() | WHOLE,
    extra_seed=st.integers(0, 5),
    stop_if=st.lists(st.tuples(st.floats(0, 1), TEXT, FINITE), max_size=2).map(tuple),
)
COUNT = st.none() | st.integers(1, 10**9)
SLOTS = st.none() | st.integers(1, 10_000)
POSITIVE = st.none() | st.floats(0, 1e9, exclude_min=True)
SESSIONS = st.builds(
    lambda backend, **given: SessionSettings(
        backend=backend, **(given if backend != "joblib" else {"per_device": "auto"})
    ),
    backend=st.sampled_from(["joblib", "dask", "ray"]),
    trials=COUNT,
    generations=COUNT,
    slots=SLOTS,
    max_slots=SLOTS,
    hours=POSITIVE,
    budget=POSITIVE,
    timeout=POSITIVE,
    devices=st.none() | TEXT,
    address=st.none() | TEXT,
    retries=st.integers(0, 9),
    final_seeds=st.integers(0, 9),
    finalists=st.integers(1, 9),
)
WIDER = st.sampled_from(
    [
        Float(-1.0, 1e300),
        Float(1e-9, 1.0, log=True, default=0.5, prior=0.1, spread=2.0),
        Int(-(2**40), 8, step=8),
        Choice((1, 1.5, "a", True), when={"lr": [0.5, 1]}),  # type: ignore[arg-type]
        Choice((8, 16), ordered=True, default=16),
    ]
)
EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.builds(Widened, genes=st.dictionaries(TEXT, WIDER, max_size=3).map(ranges_of), time=FINITE),
    st.builds(Proposed, candidate=CANDIDATES.map(CandidateRecord.of), time=FINITE),
    st.builds(Recorded, id=WHOLE, outcome=OUTCOMES.map(Result.of), time=FINITE),
    st.builds(Reported, id=WHOLE, time=FINITE),
    st.builds(SessionBegun, session=SESSIONS.map(SessionSettings.to_json), time=FINITE),
    st.builds(Changed, evaluator_hash=TEXT, fingerprint=TEXT, strategy_hash=TEXT, time=FINITE),
    st.builds(
        ComparisonPlanned,
        finalists=st.lists(WHOLE, min_size=1, max_size=3).map(tuple),
        default=st.none() | WHOLE,
        looks=st.sampled_from([(2,), (2, 4, 6)]),
        time=FINITE,
    ),
    st.builds(Ended, reason=TEXT, time=FINITE),
)


def proposed(candidate: Candidate) -> Proposed:
    return Proposed(candidate=CandidateRecord.of(candidate), time=1.0)


@given(EVENTS)
def test_every_event_is_read_as_it_was_written(event: Event) -> None:
    line = write(event)
    assert b"\n" not in line
    assert read(line) == event

    def refuse(name: str) -> None:
        raise AssertionError(name)

    json.loads(line, parse_constant=refuse)  # JSON proper: other programs read it


@given(WIDER)
def test_a_gene_survives_the_journal(gene: Gene) -> None:
    event = read(write(Widened(genes=ranges_of({"x": gene}), time=1.0)))
    assert isinstance(event, Widened)
    assert repr(event.genes["x"].gene()) == repr(gene)


@given(CANDIDATES)
def test_a_candidate_survives_the_journal(candidate: Candidate) -> None:
    event = read(write(proposed(candidate)))
    assert isinstance(event, Proposed)
    assert event.candidate.candidate() == candidate
    assert repr(event.candidate.candidate()) == repr(candidate), "1, 1.0 and true are three values"
    assert pickle.loads(pickle.dumps(candidate)) == candidate


@given(OUTCOMES)
def test_an_outcome_is_settled_by_one_trip_through_the_journal(outcome: Outcome) -> None:

    def read_back(outcome: Outcome) -> Outcome:
        event = check_event(Recorded(id=0, outcome=Result.of(outcome), time=0.0))[1]
        assert isinstance(event, Recorded)
        return event.outcome.outcome()

    settled = read_back(outcome)
    assert repr(read_back(settled)) == repr(settled)
    assert settled.status == outcome.status
    assert list(settled.metrics) == list(outcome.metrics)
    for name, value in outcome.metrics.items():
        assert settled.metrics[name] == value or (math.isnan(settled.metrics[name]) and not math.isfinite(value))


LEFT_OUT = ("test", "timing", "baseline", "code")
"""Of a candidate: no trial has the first three, and the last follows from the genome."""


def test_the_schema_has_the_fields_of_what_it_stands_for() -> None:
    assert list(CandidateRecord.__struct_fields__) == [
        field.name for field in fields(Candidate) if field.name not in LEFT_OUT
    ]
    assert list(Result.__struct_fields__) == [field.name for field in fields(Outcome)]


JOURNALS = [ROOT / "populations" / "sample", *sorted((ROOT / "tests" / "written_by_1_0_0" / "runs").iterdir())]


@pytest.mark.parametrize("folder", JOURNALS, ids=[folder.name for folder in JOURNALS])
def test_a_saved_journal_would_be_written_the_same(folder: Path) -> None:
    is_linked, lines_hash = folder.name == "sample", hashlib.sha256()  # 1.0.0 wrote no hash of the lines before
    for line in (folder / "_journal.jsonl").read_bytes().splitlines(keepends=True):
        sealed_event = unseal_line(line.rstrip(b"\n"))
        assert sealed_event is not None
        event, sha256_before = split_link(sealed_event)
        assert sha256_before == (lines_hash.hexdigest() if is_linked else "")
        assert seal_line(write(read(event)), sha256_before) + b"\n" == line
        lines_hash.update(line)


CANDIDATE = Candidate(1, 0, 7, 0, {"n": 1}, "given", stop_if=((0.5, "loss", 1.0),))
RESULT = Result.of(Outcome("ok", {"loss": 1.0}, ((0.5, {"loss": 2.0}),)))
BORN = json.loads(write(proposed(CANDIDATE)))
RECORDED = json.loads(write(Recorded(id=1, outcome=RESULT, time=1.0)))
SESSION = json.loads(write(SessionBegun(session=SessionSettings(trials=3).to_json(), time=1.0)))
DEEP: Any = "[" * 90_000 + "]" * 90_000
WRONG = [None, True, "1", [1], {}, math.nan, math.inf, 10**30, 10**400, -1, 1.5, DEEP]


def changed(event: dict[str, Any], path: tuple[Any, ...], value: Any) -> bytes:
    """Return a line in which one value is another; DEEP stands for itself, unquoted."""
    event = json.loads(json.dumps(event))
    inner: Any = event
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return json.dumps(event).replace(json.dumps(DEEP), DEEP).encode()


def refused(line: bytes) -> str:
    """Return why a line is refused; '' for an event."""
    try:
        read(line)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("value", WRONG, ids=lambda value: repr(value)[:12])
@pytest.mark.parametrize(
    ("event", "path"),
    [
        *((BORN, ("candidate", name)) for name in ("id", "generation", "seed", "reported_before", "extra_seed")),
        (BORN, ("candidate", "parents", 0)),
        (RECORDED, ("id",)),
    ],
    ids=str,
)
def test_ids_and_counts_are_whole_and_in_range(event: dict[str, Any], path: tuple[Any, ...], value: Any) -> None:
    if path[-1] == 0:
        event = json.loads(changed(event, path[:-1], [0]))
    assert refused(changed(event, path, value))


@pytest.mark.parametrize(
    "value", [True, "1", [1], {}, math.nan, math.inf, -math.inf, 10**400, DEEP], ids=lambda v: repr(v)[:9]
)
@pytest.mark.parametrize(
    ("event", "path"),
    [
        (BORN, ("time",)),
        (BORN, ("candidate", "budget")),
        (BORN, ("candidate", "stop_if", 0, 0)),
        (BORN, ("candidate", "stop_if", 0, 2)),
        (RECORDED, ("outcome", "metrics", "loss")),
        (RECORDED, ("outcome", "curve", 0, 0)),
        (RECORDED, ("outcome", "curve", 0, 1, "loss")),
        (RECORDED, ("outcome", "seconds")),
        (SESSION, ("session", "hours")),
    ],
    ids=str,
)
def test_numbers_are_finite_and_numbers(event: dict[str, Any], path: tuple[Any, ...], value: Any) -> None:
    assert refused(changed(event, path, value))


@pytest.mark.parametrize(
    "value", [[1], {"n": None}, {"n": [1]}, {"n": {}}, {"n": math.nan}, None, DEEP], ids=lambda v: repr(v)[:9]
)
def test_a_genome_is_names_and_plain_values(value: Any) -> None:
    assert refused(changed(BORN, ("candidate", "genome"), value))


@pytest.mark.parametrize(
    ("event", "path", "value"),
    [
        (BORN, ("event",), "evil"),
        (BORN, ("event",), []),
        (BORN, ("event",), "reported"),
        (BORN, ("evil",), 1),
        (BORN, ("candidate", "evil"), 1),
        (BORN, ("candidate", "operator"), 1),
        (BORN, ("candidate", "budget"), 1.5),
        (RECORDED, ("outcome", "evil"), DEEP),
        (RECORDED, ("outcome", "status"), "fine"),
        (RECORDED, ("outcome", "curve"), [[0.5]]),
        (RECORDED, ("outcome", "curve"), [[0.5, {}, 1]]),
        (RECORDED, ("outcome", "curve"), [[2.0, {}]]),
        (RECORDED, ("outcome", "device"), None),
        (SESSION, ("session", "evil"), 1),
        (SESSION, ("session", "trials"), True),
        (SESSION, ("session", "trials"), -1),
        (SESSION, ("session", "backend"), "evil"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_whatever_else_breaks_the_schema_is_refused(event: dict[str, Any], path: tuple[Any, ...], value: Any) -> None:
    assert refused(changed(event, path, value))


def test_a_missing_field_is_refused_by_name() -> None:
    event = {**RECORDED, "outcome": {"status": "ok", "curve": []}}
    assert "metrics" in refused(json.dumps(event).encode())
    del event["outcome"]
    assert "outcome" in refused(json.dumps(event).encode())


@pytest.mark.parametrize(
    "line", [b"", b"[]", b"null", b"7", b'{"other":1}', b'{"event":"proposed"', b"\xff", b"[" * 100_000]
)
def test_what_is_no_event_at_all_is_refused(line: bytes) -> None:
    assert refused(line)


@pytest.mark.parametrize(
    "make",
    [
        lambda: proposed(Candidate(0, 0, 0, 0, {"n": 1}, "given", parents=("a",))),  # type: ignore[arg-type]
        lambda: proposed(Candidate(0, 0, 0, 0, {"n": 1}, "given", budget=math.nan)),
        lambda: proposed(Candidate(0, 0, 0, 0, {"n": object()}, "given")),  # type: ignore[dict-item]
        lambda: Reported(id=-1, time=1.0),
        lambda: Reported(id=True, time=1.0),
    ],
)
def test_what_could_not_be_read_back_is_not_written(make: Callable[[], Event]) -> None:
    with pytest.raises(ValueError, match=r"Expected|cannot be saved"):
        events.check_event(make())
