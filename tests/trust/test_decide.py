"""What a user trusts: what they named and began themselves, as long as nobody else may write it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from evo_tune.errors import UsageError
from evo_tune.trust import decide as trust


@pytest.fixture(autouse=True)
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "evo-tune" / "trusted.json"


@pytest.fixture
def code(tmp_path: Path) -> Path:
    path = tmp_path / "mine" / "task.py"
    path.parent.mkdir(mode=0o755)
    path.write_text("pass")
    path.chmod(0o644)
    return path


def refused(path: Path, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        trust.allow(path, "evaluator", False, "say --trust")
    message = str(caught.value)
    assert said in message
    assert message.endswith("continuing would run its code; look at it, then say --trust")
    assert "\n" not in message


def test_what_was_never_named_is_refused_until_the_user_says_so(code: Path) -> None:
    refused(code, "which you have not named yourself")
    trust.allow(code, "evaluator", True, "")
    trust.allow(code, "evaluator", False, "")  # said once


def test_what_was_named_is_allowed(code: Path) -> None:
    trust.remember_file(code)
    trust.allow(code, "evaluator", False, "")


def test_an_answer_counts_and_is_remembered(code: Path) -> None:
    asked: list[str] = []

    def ask(question: str) -> bool:
        asked.append(question)
        return len(asked) > 1

    with pytest.raises(UsageError):
        trust.allow(code, "strategy", False, "", ask)
    trust.allow(code, "strategy", False, "", ask)
    trust.allow(code, "strategy", False, "", ask)
    assert len(asked) == 2
    assert asked[0].startswith(f"the run names the strategy {str(code)!r}, which you have not named")


@pytest.mark.parametrize(("mode", "whose"), [(0o666, "task.py"), (0o646, "task.py")])
def test_a_file_that_others_may_write_is_not_trusted(code: Path, mode: int, whose: str) -> None:
    trust.remember_file(code)
    code.chmod(mode)
    refused(code, f"and others may write {code.parent / whose}")


def test_a_folder_that_others_may_write_is_not_trusted(code: Path) -> None:
    trust.remember_file(code)
    code.parent.chmod(0o777)
    refused(code, f"and others may write {code.parent}")
    code.parent.chmod(0o1777)  # as /tmp: others may not replace what is not theirs
    trust.allow(code, "evaluator", False, "")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_file_of_another_user_is_not_trusted(code: Path) -> None:
    trust.remember_file(code)
    os.chown(code, 12345, 12345)
    refused(code, "belongs to another user")


def test_a_link_is_what_it_points_to(code: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.py"
    link.symlink_to(code)
    trust.remember_file(link)
    trust.allow(code, "evaluator", False, "")
    other = tmp_path / "other.py"
    other.write_text("pass")
    link.unlink()
    link.symlink_to(other)
    refused(link, "which you have not named yourself")


def test_a_run_is_known_by_its_place_and_its_identity(tmp_path: Path) -> None:
    for name in ("run", "other", "old"):
        (tmp_path / name).mkdir()
    trust.remember_run(tmp_path / "run", "abc")
    assert trust.began(tmp_path / "run", "abc")
    assert not trust.began(tmp_path / "run", "abd")
    assert not trust.began(tmp_path / "other", "abc")
    assert not trust.began(tmp_path / "run", "")
    trust.remember_run(tmp_path / "old", "")
    assert not trust.began(tmp_path / "old", "")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "store" / "run"
    folder.mkdir(parents=True, mode=0o755)
    for name in ("_run.json", "_journal.jsonl"):
        (folder / name).write_text("{}")
        (folder / name).chmod(0o644)
    trust.remember_run(folder, "abc")
    return folder


@pytest.mark.parametrize("place", ["_journal.jsonl", "_run.json", ".", ".."])
def test_a_run_that_others_may_write_is_not_believed(run: Path, place: str) -> None:
    assert trust.began(run, "abc")
    (run / place).chmod(0o666 if (run / place).is_file() else 0o777)
    assert trust.doubt(run, "abc") == f"was begun by you, and others may write {(run / place).resolve()}"
    assert not trust.began(run, "abc")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("place", ["_journal.jsonl", "."])
def test_a_run_that_belongs_to_another_user_is_not_believed(run: Path, place: str) -> None:
    os.chown(run / place, 12345, 12345)
    assert trust.doubt(run, "abc") == f"was begun by you, and {(run / place).resolve()} belongs to another user"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        '{"files": [], "runs": {}}',
        '{"files": {}}',
        "[" * 100_000,
        '{"files": {"x": 1}, "runs": 3}',
    ],
)
def test_a_damaged_memory_trusts_nothing_and_is_made_anew(memory: Path, code: Path, text: str) -> None:
    memory.parent.mkdir(parents=True)
    memory.write_text(text)
    memory.chmod(0o600)
    refused(code, "which you have not named yourself")
    trust.remember_file(code)
    trust.allow(code, "evaluator", False, "")


def test_a_memory_that_others_may_write_trusts_nothing(memory: Path, code: Path) -> None:
    trust.remember_file(code)
    memory.chmod(0o666)
    refused(code, "which you have not named yourself")


def test_a_memory_that_is_a_link_or_a_pipe_trusts_nothing(memory: Path, code: Path, tmp_path: Path) -> None:
    trust.remember_file(code)
    memory.replace(tmp_path / "elsewhere.json")
    memory.symlink_to(tmp_path / "elsewhere.json")
    refused(code, "which you have not named yourself")
    memory.unlink()
    os.mkfifo(memory)
    refused(code, "which you have not named yourself")


def test_a_home_that_cannot_be_written_costs_a_question_and_no_run(
    code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    trust.remember_file(code)
    refused(code, "which you have not named yourself")
    trust.allow(code, "evaluator", True, "")


def test_the_memory_is_for_the_user_alone_and_bounded(
    memory: Path, code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust, "MOST", 3)
    for number in range(5):
        trust.remember_run(tmp_path / f"run-{number}", "x")
    trust.remember_file(code)
    assert memory.stat().st_mode & 0o077 == 0
    known = json.loads(memory.read_text())
    assert [Path(run).name for run in known["runs"]] == ["run-2", "run-3", "run-4"]
    assert list(known["files"]) == [os.path.realpath(code)]


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        *((name, True) for name in ("ga", "my-task", "a_b")),
        *((name, False) for name in ("../x", "a/b", "/etc/x", "", "a.py", "é", "a\n", "..", "a b")),
    ],
)
def test_plain_names_hide_no_path(name: str, plain: bool) -> None:
    assert trust.is_identifier(name) is plain
