"""The inbox of a run: what is written, what is refused, and what a stranger may put there."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evo_tune.errors import EvoTuneError, SpaceError, StoreError, UsageError
from evo_tune.loop.search import Search
from evo_tune.store import inbox
from evo_tune.store.inbox import INBOX, submit, waiting_files
from evo_tune.store.run import Run
from tests.conftest import evaluate

Begin = Callable[..., Search]

NAME = "{:020d}-00000000000000ff.json"


def first(search: Search) -> None:
    """Train the default genome, which comes before everything from the inbox."""
    candidate = search.ask()
    assert candidate is not None
    search.tell(candidate, evaluate(search, candidate))


def put(search: Search, content: bytes, name: str = NAME.format(1)) -> Path:
    folder = search.saved.folder / INBOX
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_bytes(content)
    return path


def test_a_submission_is_a_file_with_the_given_values_only(begin: Begin) -> None:
    run = begin().saved
    assert submit(run, [{"n": 8}, {"x": 0.5, "kind": True}], "person") == [
        {"x": 0.0, "n": 8, "kind": "a"},
        {"x": 0.5, "n": 6, "kind": True},
    ]
    names = waiting_files(run)
    written = [json.loads((run.folder / INBOX / name).read_text()) for name in names]
    assert written == [
        {"source": "person", "genome": {"n": 8}},
        {"source": "person", "genome": {"x": 0.5, "kind": True}},
    ]
    assert sorted(os.listdir(run.folder / INBOX)) == names


@pytest.mark.parametrize(
    ("genome", "why"),
    [
        ({"y": 1}, "unknown gene y: expected x, n, kind"),
        ({"x": "high"}, "gene x: 'high' is not allowed"),
        ({"x": 5.0}, r"gene x: 5.0 is not allowed: .* widens its range to \[-3, 3\] at most"),
        ({"kind": "/etc/passwd"}, "gene kind: '/etc/passwd' is not allowed: expected one of"),
        ({"x": float("nan")}, "gene x: nan is not allowed"),
        ({}, "{}: expected values by gene: x, n, kind"),
        ([1], r"\[1\]: expected values by gene: x, n, kind"),
    ],
)
def test_nothing_is_written_if_one_genome_is_refused(begin: Begin, genome: Any, why: str) -> None:
    run = begin().saved
    with pytest.raises(SpaceError, match=f"genome 2: {why}"):
        submit(run, [{"x": 0.1}, genome], "person")
    assert not (run.folder / INBOX).exists()


def test_a_genome_that_was_proposed_is_refused_with_its_trial(begin: Begin) -> None:
    search = begin()
    first(search)
    with pytest.raises(SpaceError, match="trial 0 has this genome already"):
        submit(search.saved, [search.saved.candidates[0].genome], "person")


def test_a_genome_that_waits_already_is_refused(begin: Begin) -> None:
    run = begin().saved
    submit(run, [{"x": 0.25}], "person")
    with pytest.raises(SpaceError, match="a waiting proposal has this genome already"):
        submit(run, [{"x": 0.25}], "agent")
    with pytest.raises(SpaceError, match="genome 2: genome 1 has this genome already"):
        submit(run, [{"x": 0.5}, {"x": 0.5}], "person")
    assert len(waiting_files(run)) == 1


@pytest.mark.parametrize("source", ["", "a b", "x" * 41, "\x1b[31m", "a\n"])
def test_a_source_is_one_short_word(begin: Begin, source: str) -> None:
    with pytest.raises(UsageError, match="expected up to 40 letters, digits") as raised:
        submit(begin().saved, [{"x": 0.1}], source)
    assert str(raised.value).isprintable()


def test_no_more_than_so_many_wait(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    run = begin().saved
    monkeypatch.setattr(inbox, "MOST_WAITING", 2)
    submit(run, [{"x": 0.1}, {"x": 0.2}], "person")
    with pytest.raises(UsageError, match="more than 2 waiting genomes"):
        submit(run, [{"x": 0.3}], "person")


def test_a_folder_that_cannot_be_written_is_one_line(begin: Begin, tmp_path: Path) -> None:
    run = begin().saved
    (run.folder / INBOX).symlink_to(tmp_path)
    with pytest.raises(StoreError, match=r"cannot write .*_inbox: it is a link"):
        submit(run, [{"x": 0.1}], "person")
    assert waiting_files(run) == []


def test_a_full_disk_leaves_no_half_of_a_file(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    run = begin().saved

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"cannot write .*: No space left on device; mend that and propose again"):
        submit(run, [{"x": 0.1}], "person")
    assert os.listdir(run.folder / INBOX) == []


def hostile(name: str, folder: Path) -> None:
    """Put a file into an inbox as a stranger would."""
    folder.mkdir()
    path = folder / NAME.format(1)
    good = b'{"source": "person", "genome": {"x": 0.25}}'
    content = {
        "huge": b'{"source": "person", "genome": {"x": "' + b"a" * (1 << 21) + b'"}}',
        "no-json": b"\xff\x00{",
        "deep": b"[" * 100_000,
        "a-list": b"[]",
        "no-genome": b'{"source": "person", "genome": {}}',
        "nested": b'{"source": "person", "genome": {"x": {"y": 1}}}',
        "text-for-a-number": b'{"source": "person", "genome": {"x": "0.25"}}',
        "a-path": b'{"source": "person", "genome": {"kind": "/etc/passwd"}}',
        "beyond-all-limits": b'{"source": "person", "genome": {"x": 1e308}}',
        "long-number": b'{"source": "person", "genome": {"n": ' + b"9" * 5000 + b"}}",
        "not-finite": b'{"source": "person", "genome": {"x": 1e999}}',
        "unknown-gene": b'{"source": "person", "genome": {"\\u001b[31mred": 1}}',
        "bad-source": b'{"source": "\\u001b[31m", "genome": {"x": 0.25}}',
        "more-fields": b'{"source": "person", "genome": {"x": 0.25}, "patch": "rm"}',
    }.get(name)
    if content is not None:
        path.write_bytes(content)
    elif name == "link":
        (folder.parent / "secret").write_bytes(good)
        path.symlink_to(folder.parent / "secret")
    elif name == "folder":
        path.mkdir()
    elif name == "pipe":
        os.mkfifo(path)
    elif name == "control-characters":
        (folder / "\x1b[31m\n.json").write_bytes(good)
    elif name == "not-utf8":
        Path(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe.json")).write_bytes(good)


HOSTILE = (
    *("huge", "no-json", "deep", "a-list", "no-genome", "nested", "text-for-a-number", "a-path", "beyond-all-limits"),
    *("long-number", "not-finite", "unknown-gene", "bad-source", "more-fields", "link", "folder", "pipe"),
    *("control-characters", "not-utf8"),
)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_strangers_file_is_one_line_and_the_run_goes_on(begin: Begin, name: str) -> None:
    search = begin()
    first(search)
    hostile(name, search.saved.folder / INBOX)
    with pytest.warns(UserWarning, match="a proposed genome is refused: ") as warned:
        candidate = search.ask()
    assert len(warned) == 1
    assert str(warned[0].message).isprintable()
    assert len(str(warned[0].message)) < 500
    assert candidate is not None
    assert not search.saved.submissions
    with warnings.catch_warnings():  # it is refused once, and what comes after it is taken
        warnings.simplefilter("error")
        search.enqueue({"x": 0.375})
        next_candidate = search.ask()
    assert next_candidate is not None
    assert next_candidate.genome["x"] == 0.375


def test_an_inbox_that_is_a_link_is_one_line_and_the_run_goes_on(begin: Begin, tmp_path: Path) -> None:
    search = begin()
    first(search)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / NAME.format(1)).write_text('{"source": "person", "genome": {"x": 0.25}}')
    (search.saved.folder / INBOX).symlink_to(tmp_path / "elsewhere")
    with pytest.warns(UserWarning, match="a proposed genome is refused: _inbox: it is a link"):
        assert search.ask() is not None
    assert search.ask() is not None  # no second warning, which would be an error
    assert len(os.listdir(tmp_path / "elsewhere")) == 1


def test_a_file_that_cannot_be_read_now_is_left_for_the_next_session(
    begin: Begin, resume: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = begin()
    first(search)
    search.enqueue({"x": 0.25})

    def refuse(*_: Any, **__: Any) -> bytes:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr("evo_tune.trust.safe_files.read", refuse)
        with pytest.warns(UserWarning, match=r"refused: .*: Too many open files"):
            other = search.ask()
    assert other is not None
    assert other.genome["x"] != 0.25
    search.close()
    again = resume(search.name)
    taken = [again.ask(), again.ask()]
    assert [candidate.operator for candidate in taken if candidate][1:] == ["proposed by python"]


def test_ten_thousand_files_take_no_more_than_a_few_lines(begin: Begin, fast_disk: None) -> None:
    search = begin()
    first(search)
    folder = search.saved.folder / INBOX
    folder.mkdir()
    for number in range(10_000):
        (folder / NAME.format(number)).write_bytes(b"{}")
    put(search, b'{"source": "person", "genome": {"x": 0.25}}', NAME.format(10_000))
    with pytest.warns(UserWarning, match="refused") as warned:
        candidate = search.ask()
    assert [str(one.message) for one in warned][-1] == "9995 more proposals are refused"
    assert len(warned) == 6
    assert candidate is not None
    assert candidate.operator == "proposed by person"
    assert os.listdir(folder) == []


def test_a_file_that_cannot_be_removed_is_taken_once(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    search = begin()
    first(search)
    search.enqueue({"x": 0.25})

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", refuse)
        taken = search.ask()
        other = search.ask()
    assert taken is not None
    assert other is not None
    assert [taken.operator, other.operator] == ["proposed by python", "spread"]
    assert len(os.listdir(search.saved.folder / INBOX)) == 1  # the next proposal removes it
    search.ask()
    assert os.listdir(search.saved.folder / INBOX) == []


def test_a_journal_with_a_submission_twice_is_refused(begin: Begin) -> None:
    search = begin()
    first(search)
    search.enqueue({"x": 0.25})
    taken = search.ask()
    assert taken is not None
    run = search.saved
    submission = run.submissions[taken.id]
    with pytest.raises((EvoTuneError, ValueError), match="is proposed twice"):
        run.record_candidate(taken, submission)
    run.close()
    with pytest.raises(StoreError, match="is proposed twice"):
        Run.open(run.folder)
