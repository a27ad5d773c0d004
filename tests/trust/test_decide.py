"""What a user trusts: files that they named, and runs that they began, as long as they stay as they were."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from evo_tune.errors import UsageError
from evo_tune.trust import decide as trust
from evo_tune.trust.decide import Consent

NO, YES = Consent(), Consent(trust=True)


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


def content(path: Path) -> str:
    return path.read_text()


def allow(path: Path, user: Consent = NO) -> None:
    trust.allow(path, "evaluator", content, "say --trust", user)


def remember(path: Path) -> None:
    trust.remember_file(path, content(path))


def refused(path: Path, said: str, user: Consent = NO) -> None:
    with pytest.raises(UsageError) as caught:
        allow(path, user)
    message = str(caught.value)
    assert said in message
    assert "continuing would run its code; look at it, then " in message
    assert message.endswith("say --trust")
    assert "\n" not in message


def test_what_was_never_named_is_refused_until_the_user_says_so(code: Path) -> None:
    refused(code, "which you have not named yourself")
    refused(code, "which you have not named yourself", Consent(changes=True))
    allow(code, YES)
    allow(code)  # said once


def test_what_was_named_is_allowed(code: Path) -> None:
    remember(code)
    allow(code)


def test_what_has_changed_since_it_was_named_is_refused_until_the_user_says_so(code: Path) -> None:
    remember(code)
    for text, user in (("import os", YES), ("import sys", Consent(changes=True))):
        code.write_text(text)
        refused(code, "which has changed since you named it")
        allow(code, user)
        allow(code)  # said once


def test_an_answer_counts_and_is_remembered(code: Path) -> None:
    asked: list[str] = []

    def ask(question: str) -> bool:
        asked.append(question)
        return len(asked) > 1

    with pytest.raises(UsageError):
        allow(code, Consent(ask=ask))
    allow(code, Consent(ask=ask))
    allow(code, Consent(ask=ask))
    assert len(asked) == 2
    assert asked[0].startswith(f"the run names the evaluator {str(code)!r}, which you have not named")


def test_no_name_steers_the_terminal(tmp_path: Path) -> None:
    code = tmp_path / "a\n\x1b[2K\u202ey" / "x.py"
    code.parent.mkdir()
    code.write_text("")
    code.parent.chmod(0o777)
    refused(code, "which you have not named yourself")
    remember(code)
    refused(code, r"others may write")
    with pytest.raises(UsageError) as caught:
        trust.allow_run(code.parent, HELD, {"executes it": None}, NO)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("mode", [0o666, 0o646])
def test_a_file_that_others_may_write_is_not_trusted(code: Path, mode: int) -> None:
    remember(code)
    code.chmod(mode)
    refused(code, f"and others may write {code}")
    refused(code, f"and others may write {code}", Consent(changes=True))


def test_a_folder_that_others_may_write_is_not_trusted(code: Path) -> None:
    remember(code)
    code.parent.chmod(0o777)
    refused(code, f"and others may write {code.parent}")
    code.parent.chmod(0o1777)  # as /tmp: others may not replace what is not theirs
    allow(code)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_file_of_another_user_is_not_trusted(code: Path) -> None:
    remember(code)
    os.chown(code, 12345, 12345)
    refused(code, "belongs to another user")


def test_a_link_is_what_it_points_to(code: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.py"
    link.symlink_to(code)
    remember(link)
    allow(code)
    other = tmp_path / "other.py"
    other.write_text("pass")
    link.unlink()
    link.symlink_to(other)
    refused(link, "which you have not named yourself")


HELD = {"_run.json": "abc", "genes": "def"}


def test_a_run_is_known_by_its_place_and_its_content(tmp_path: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    trust.remember_run(run, HELD)
    assert trust.reason_for_distrust(run, HELD) == ""
    (tmp_path / "link").symlink_to(run)
    assert trust.reason_for_distrust(tmp_path / "link", HELD) == ""
    assert trust.reason_for_distrust(other, HELD) == "was not begun by you here"
    assert (
        trust.reason_for_distrust(run, {**HELD, "_run.json": ""})
        == "was begun by you here and has changed since (_run.json)"
    )
    assert "(_run.json, genes)" in trust.reason_for_distrust(run, dict.fromkeys(HELD, "x"))
    trust.remember_run(other, {"places": "x", "genes": "def"})
    assert trust.reason_for_distrust(other, HELD) == "was not begun by you here", "a part is not the run"


def wish(folder: Path, user: Consent, held: dict[str, str] = HELD, **wishes: object) -> Consent:
    return trust.allow_run(folder, held, wishes, user)


def test_what_a_strangers_run_wishes_is_asked_about_once_for_this_content(tmp_path: Path) -> None:
    assert wish(tmp_path, NO) == NO, "nothing is asked for"
    with pytest.raises(UsageError, match=r"was not begun by you here; it reads: look at it, then give --trust"):
        wish(tmp_path, Consent(changes=True), reads=["a"])
    asked: list[str] = []
    answered = wish(tmp_path, Consent(ask=lambda text: not asked.append(text)), reads=["a"])
    assert answered.trust, "all else that the run names was shown as well"
    assert asked == [f"run {tmp_path.name} was not begun by you here; it reads. Go on?"]
    assert wish(tmp_path, NO, reads=["a"]) == NO, "said once"
    for other in ({"reads": ["b"]}, {"reads": ["a"], "executes": None}):
        with pytest.raises(UsageError):
            wish(tmp_path, NO, **other)
    with pytest.raises(UsageError):
        wish(tmp_path, NO, {**HELD, "_run.json": "x"}, reads=["a"])


def test_a_run_of_ones_own_is_asked_about_only_when_it_has_changed(tmp_path: Path) -> None:
    trust.remember_run(tmp_path, HELD)
    assert wish(tmp_path, NO, executes=None) == NO
    changed = {**HELD, "_run.json": "x"}
    with pytest.raises(UsageError, match=r"has changed since \(_run\.json\): look at it, then give --trust"):
        wish(tmp_path, NO, changed)
    wish(tmp_path, YES, changed)
    wish(tmp_path, NO, changed)  # said once


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
        '{"files": {}, "runs": {"x": 3}}',
    ],
)
def test_a_damaged_memory_trusts_nothing_and_is_made_anew(memory: Path, code: Path, text: str) -> None:
    memory.parent.mkdir(parents=True)
    memory.write_text(text)
    memory.chmod(0o600)
    refused(code, "which you have not named yourself")
    remember(code)
    allow(code)


def test_a_memory_that_others_may_write_trusts_nothing(memory: Path, code: Path) -> None:
    remember(code)
    memory.chmod(0o666)
    refused(code, "which you have not named yourself")


def test_a_memory_that_is_a_link_or_a_pipe_trusts_nothing(memory: Path, code: Path, tmp_path: Path) -> None:
    remember(code)
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
    with pytest.warns(UserWarning, match="cannot remember that .* is yours .Not a directory.: evo-tune will ask again"):
        remember(code)
    refused(code, "which you have not named yourself")
    with pytest.warns(UserWarning, match="cannot remember"):
        allow(code, YES)


def test_a_relative_state_folder_is_ignored(code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The XDG specification says so; it would be a folder of whoever made the working directory."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    remember(code)
    for given in ("state", "./state", ""):
        monkeypatch.setenv("XDG_STATE_HOME", given)
        refused(code, "which you have not named yourself")
    remember(code)
    assert (tmp_path / "home" / ".local" / "state" / "evo-tune" / "trusted.json").is_file()


def test_the_memory_is_for_the_user_alone_and_bounded(
    memory: Path, code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust, "MOST", 3)
    for number in range(5):
        trust.remember_run(tmp_path / f"run-{number}", HELD)
    remember(code)
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


def test_a_memory_that_cannot_be_written_is_told(memory: Path, code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk: else the user's own run is a stranger's later, without a word."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.warns(UserWarning, match=f"cannot remember that {code.name} is yours .No space left on device."):
        remember(code)
    assert not [*memory.parent.glob(".trusted-*")]
