"""Every kind of file of a finished run is edited, one value at a time: `verify` notices each edit."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evo_tune.errors import EvoTuneError
from evo_tune.loop import slots
from evo_tune.loop.code import load_code
from evo_tune.loop.search import Search
from evo_tune.loop.verifying import Verification, verify_run
from evo_tune.report.page import write_beside
from evo_tune.store.journal import seal_line
from evo_tune.store.run import Run
from evo_tune.trust.decide import Consent
from tests.conftest import QUICK, copy_state, open_here
from tests.journals import events_of, make_older

Edit = Callable[[], object]

JOURNAL, COMPARISON, TRIALS, REPORT = "_journal.jsonl", "_comparison.parquet", "trials-0000.parquet", "_report.html"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Store of a finished run with a baseline, a final comparison, a planned one and a report."""
    folder = tmp_path_factory.mktemp("edits")
    (folder / "quick.py").write_text(QUICK)
    settings: dict[str, Any] = {"trials": 6, "population": 4, "slots": 1, "final_seeds": 1, "seed": 1, "strategy": "ga"}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(slots, "open_slots", open_here)
        search = Search(
            str(folder / "quick.py"), store=folder / "store", name="mine", options={"failing": 0.2}, **settings
        )
        run = search.run().saved
    again = Search.resume("mine", store=run.folder.parent).saved
    again.plan_comparison((run.ranked()[0].id,), None, (2,))
    again.record_baseline("simple", run.outcomes[0])
    again.end("by hand")
    again.close()
    write_beside(Run.open(run.folder))
    return Path(shutil.copytree(folder / "store", folder / "original")).with_name("store")


@pytest.fixture
def folder(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: None) -> Path:
    """That run where it was made, and a copy of what this machine remembers of it."""
    copy_state(tmp_path / "state", monkeypatch)
    shutil.rmtree(original)
    return Path(shutil.copytree(original.with_name("original"), original)) / "mine"


def verified(folder: Path, trust: bool = False, retrain: int = 0) -> Verification:
    run = Run.open(folder)
    bound, rules = load_code(run, Consent(trust))
    return verify_run(run, bound, rules, retrain, run.session)


def answer(folder: Path, trust: bool = False) -> str:
    """Return what `verify` says of a run, in words; '' if all agrees."""
    try:
        row = verified(folder, trust)
    except EvoTuneError as error:
        return f"refused: {error}"
    files = [f"{file.file} differs" for file in row.files or ()]
    if row.broken_at is not None:
        files.append("chain broken")
    if row.results == "changed":
        files.append("results changed")
    if row.disagreements:
        files.append("proposals differ")
    if row.files is None:
        files.append("not ended")
    return ", ".join(sorted(files))


def other(value: Any) -> Any:
    """Return another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, list):
        return [*value, 1]
    return {**value, "y": 1} if isinstance(value, dict) else 1


def table_edits(path: Path) -> Iterator[tuple[str, Edit]]:
    table = pq.read_table(path, partitioning=None)

    def write(changed: pa.Table) -> None:
        pq.write_table(changed, path)

    for place, field in enumerate(table.schema):
        values = table.column(place).to_pylist()
        number = next((number for number, value in enumerate(values) if value is not None), 0)
        text = "x" if field.type == pa.string() else [1] if pa.types.is_list(field.type) else 1
        values[number] = text if values[number] is None else other(values[number])
        changed = table.set_column(place, field, pa.array(values, field.type))
        yield f"column {field.name}", lambda changed=changed: write(changed)
    yield "a row removed", lambda: write(table.slice(1))
    yield "a row twice", lambda: write(pa.concat_tables([table, table.slice(0, 1)]))
    yield "rows swapped", lambda: write(pa.concat_tables([table.slice(1), table.slice(0, 1)]))
    yield "a column removed", lambda: write(table.drop_columns(["device"]))
    yield "a column more", lambda: write(table.append_column("more", table["id"]))
    yield "the file removed", path.unlink
    yield "the file cut", lambda: path.write_bytes(path.read_bytes()[:-9])
    yield "the file copied", lambda: path.with_name("trials-0009.parquet").write_bytes(path.read_bytes())


LEFT_OUT = ("crc32", "sha256_before")


def sealed(events: list[dict[str, Any]], links: list[str]) -> bytes:
    """Return the lines of events with checksums that match, and with given hashes of the lines before."""
    data = [json.dumps({key: value for key, value in event.items() if key not in LEFT_OUT}) for event in events]
    return b"".join(seal_line(line.encode(), link) + b"\n" for line, link in zip(data, links, strict=True))


def forged(events: list[dict[str, Any]]) -> bytes:
    """Return the lines of events with checksums and hashes that all agree, as somebody who knows the format can."""
    data = b""
    for event in events:
        data += sealed([event], [hashlib.sha256(data).hexdigest()])
    return data


def record_edits(events: list[dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield the events with one edit: a value of each key of each kind of record, records removed and swapped."""
    seen = set()
    for place, event in enumerate(events):
        for key in event.keys() - {"event", *LEFT_OUT}:
            if (event["event"], key) not in seen:
                seen.add((event["event"], key))
                yield (
                    f"{event['event']}: {key}",
                    [*events[:place], {**event, key: other(event[key])}, *events[place + 1 :]],
                )
        if (event["event"], "removed") not in seen:
            seen.add((event["event"], "removed"))
            yield f"{event['event']}: removed", [*events[:place], *events[place + 1 :]]
        if event["event"] == "recorded" and event["outcome"]["status"] == "ok":
            metrics = {**event["outcome"]["metrics"], "loss": -1.0}
            changed = {**event, "outcome": {**event["outcome"], "metrics": metrics}}
            yield f"recorded: loss of trial {event['id']}", [*events[:place], changed, *events[place + 1 :]]
    yield "the last record removed", events[:-1]
    yield "the last trial removed", events[: max(n for n, event in enumerate(events) if event["event"] == "proposed")]
    for place in (2, len(events) - 2):
        yield "two records swapped", [*events[:place], events[place + 1], events[place], *events[place + 2 :]]


def journal_edits(path: Path) -> Iterator[tuple[str, Edit]]:
    whole, events = path.read_bytes(), events_of(path.parent)
    for name, changed in record_edits(events):
        kept = [event["sha256_before"] for event in changed]
        yield (
            f"{name}, as an editor does",
            lambda changed=changed: path.write_bytes(b"".join(json.dumps(event).encode() + b"\n" for event in changed)),
        )
        yield f"{name}, with checksums", lambda changed=changed, kept=kept: path.write_bytes(sealed(changed, kept))
        yield f"{name}, without hashes", lambda changed=changed: path.write_bytes(sealed(changed, [""] * len(changed)))
        yield f"{name}, all forged", lambda changed=changed: path.write_bytes(forged(changed))
    yield "the line end removed", lambda: path.write_bytes(whole[:-1])


def manifest_edits(path: Path) -> Iterator[tuple[str, Edit]]:
    fields = json.loads(path.read_bytes())
    for key, value in fields.items():
        changed = {**fields, key: other(value)}
        yield key, lambda changed=changed: path.write_text(json.dumps(changed))
        if isinstance(value, dict):
            for inner, part in value.items():
                changed = {**fields, key: {**value, inner: other(part)}}
                yield f"{key}.{inner}", lambda changed=changed: path.write_text(json.dumps(changed))


def report_edits(path: Path) -> Iterator[tuple[str, Edit]]:
    page = path.read_text()
    yield "a number", lambda: path.write_text(page.replace("0.", "1.", 1))
    yield "the journal's hash", lambda: path.write_text(page.replace("SHA-256 ", "SHA-256 0", 1))
    yield "no hash", lambda: path.write_text(page.replace("SHA-256 ", "", 1))


EDITS: dict[str, Callable[[Path], Iterator[tuple[str, Edit]]]] = {
    TRIALS: table_edits,
    COMPARISON: table_edits,
    JOURNAL: journal_edits,
    "_run.json": manifest_edits,
    REPORT: report_edits,
}


def answers(folder: Path, name: str, trust: bool = False) -> dict[str, str]:
    """Return what `verify` says after each edit of a file of a run; nothing else of the run changes."""
    said, whole = {}, {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    for edit, change in EDITS[name](folder / name):
        change()
        said[edit] = answer(folder, trust)
        for path in set(folder.glob("*.parquet")) - whole.keys():
            path.unlink()
        for path, data in whole.items():
            path.write_bytes(data)
    return said


@pytest.mark.parametrize("name", EDITS)
def test_each_edit_is_noticed_where_the_run_was_made(folder: Path, name: str) -> None:
    assert answer(folder) == ""
    said = answers(folder, name)
    assert len(said) >= 3
    print(*Counter(text.partition(":")[0] for text in said.values()).most_common(), sep="\n")
    assert [edit for edit, text in said.items() if not text] == []


@pytest.mark.parametrize("name", EDITS)
def test_elsewhere_each_edit_is_noticed_but_a_report_and_an_identity(
    folder: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "elsewhere"))
    assert answer(folder, trust=True) == ""
    said = answers(folder, name, trust=True)
    print(*Counter(text.partition(":")[0] for text in said.values()).most_common(), sep="\n")
    unnoticed = {REPORT: ["a number", "no hash"], "_run.json": ["identity"]}
    assert [edit for edit, text in said.items() if not text] == unnoticed.get(name, [])


def test_a_run_that_is_forged_as_a_whole_is_found_where_it_was_made_and_by_training_elsewhere(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, state = Run.open(folder), os.environ["XDG_STATE_HOME"]
    best = run.ranked()[0].id
    last = next(id for id in reversed(run.recorded) if run.outcomes[id].status == "ok" and id != best)
    events = events_of(folder)
    for event in events:
        if event["event"] == "recorded" and event["id"] == last:
            event["outcome"]["metrics"]["loss"] += 1e-6
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "elsewhere"))
    (folder / JOURNAL).write_bytes(forged(events))
    (folder / TRIALS).unlink()
    Search.resume("mine", store=folder.parent, trust=True, slots=1).close()  # it writes the files again
    write_beside(Run.open(folder))
    assert answer(folder, trust=True) == "", "nothing is left to compare with"
    row = verified(folder, trust=True, retrain=100)
    assert not row.agrees
    assert [value.id for value in row.retrained if value.retrained != value.recorded] == [last]
    assert len(row.retrained) == sum(outcome.status == "ok" for outcome in run.outcomes.values())
    monkeypatch.setenv("XDG_STATE_HOME", state)
    assert "results changed" in answer(folder)


def test_a_run_of_version_1_0_is_not_bound_and_is_bound_from_the_next_session_on(folder: Path) -> None:
    make_older(folder)
    (folder / REPORT).unlink()
    row = verified(folder)
    assert row.agrees
    assert (row.bound_from, row.broken_at, row.results) == (None, None, "not known here")
    Search.resume("mine", store=folder.parent, trials=7).run()
    row = verified(folder)
    assert row.agrees
    assert row.bound_from is not None
    assert row.bound_from > 10
    assert (row.results, row.remembered) == ("unchanged", row.records)
    lines = (folder / JOURNAL).read_bytes().splitlines(keepends=True)
    changed = json.loads(lines[3])
    (folder / JOURNAL).write_bytes(b"".join([*lines[:3], sealed([{**changed, "time": 1.0}], [""]), *lines[4:]]))
    row = verified(folder)
    assert (row.broken_at, row.results) == (row.bound_from, "changed"), "what was not bound before is so by now"


def test_no_damage_of_a_table_is_a_traceback(folder: Path) -> None:
    whole = (folder / TRIALS).read_bytes()
    for place in range(0, len(whole), 101):
        data = bytearray(whole)
        data[place] ^= 0xFF
        (folder / TRIALS).write_bytes(data)
        assert answer(folder) in ("", f"{TRIALS} differs"), place


def test_a_copy_of_a_changed_run_has_changed_and_one_of_a_running_run_has_not(folder: Path) -> None:
    store = folder.parent
    running = Search.resume("mine", store=store, trials=8)
    Search.resume("mine", store=store, copy_as="copied").close()
    running.close()
    assert answer(store / "copied") == ""
    assert verified(store / "copied").results == "unchanged"
    events = events_of(folder)
    next(event for event in events if event["event"] == "recorded")["time"] += 1
    (folder / JOURNAL).write_bytes(forged(events))
    for copy in ("first", "second"):
        with pytest.warns(UserWarning, match="is not as this machine left it"):
            Search.resume("mine", store=store, copy_as=copy).close()
        assert "results changed" in answer(store / copy)
