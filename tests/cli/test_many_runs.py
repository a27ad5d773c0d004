"""Commands about many runs: list, rename and delete; and runs that are copied or brought by tar."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evo_tune.loop import slots
from evo_tune.loop.search import Search
from tests.cli.conftest import QUICK, Typed
from tests.conftest import open_here
from tests.extras import need

THREE = ("wide", "narrow", "best")
"""Names of three runs, in the order in which they began."""


@pytest.fixture(scope="module")
def store_of_three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("three")
    (folder / "quick.py").write_text(QUICK)
    for place, name in enumerate(THREE):
        settings: dict[str, Any] = {"trials": 2, "final_seeds": 0, "options": {"bias": 2 - place}}
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(slots, "open_slots", open_here)
            Search(str(folder / "quick.py"), name=name, store=folder / "store", **settings).run()
        manifest = folder / "store" / name / "_run.json"  # they may begin in the same second
        manifest.write_text(re.sub(r'("created": ?"[^"]*:)\d\d', rf"\g<1>1{place}", manifest.read_text(), count=1))
    return folder / "store"


@pytest.fixture
def three(store_of_three: Path, folder: Path) -> list[str]:
    shutil.copytree(store_of_three, folder / "populations")
    return [*THREE]


def listed(typed: Typed, *words: str) -> list[str]:
    return [row["run"] for row in json.loads(typed("list", "--format", "json", *words).out)]


def test_runs_are_listed_in_the_order_in_which_they_began(typed: Typed, three: list[str]) -> None:
    assert listed(typed) == three
    os.utime("populations/wide/_journal.jsonl")  # the last write does not count
    assert listed(typed) == three
    assert listed(typed, "--sort", "best") == ["best", "narrow", "wide"]
    assert listed(typed, "--sort", "run") == ["best", "narrow", "wide"]


def test_a_filter_looks_at_columns_and_notes(typed: Typed, three: list[str]) -> None:
    Path("populations/narrow/_note.txt").write_text("old data #Paper\n")
    assert listed(typed, "--filter", "#paper") == ["narrow"]
    assert listed(typed, "--filter", "#paper", "--filter", "WIDE") == []
    assert listed(typed, "--filter", "ended") == three
    assert "no saved run that matches" in typed("list", "--filter", "no such text").out


def test_a_note_is_in_the_report_and_obeyed_by_nothing(typed: Typed, three: list[str]) -> None:
    Path("populations/wide/_note.txt").write_text("\x1b[31m<b>red</b>")
    assert "\x1b[31m" not in typed("list").out
    assert typed("report", "wide", "-o", "page.html").code == 0
    page = Path("page.html").read_text()
    assert "<b>red" not in page
    assert "&lt;b&gt;red" in page


def test_what_is_no_text_is_no_note(typed: Typed, small_run: str) -> None:
    note = Path("populations", small_run, "_note.txt")
    for data in (b"\xff", b"x" * 20_000):
        note.write_bytes(data)
        assert json.loads(typed("list", "--format", "json").out)[0]["note"] == ""
    note.unlink()
    note.symlink_to("/etc/passwd")
    assert json.loads(typed("list", "--format", "json").out)[0]["note"] == ""


def test_a_store_that_is_missing_is_an_error(typed: Typed) -> None:
    result = typed("list", "--store", "nowhere")
    assert result.code == 1
    assert "there is no such folder" in result.err
    assert typed("list").code == 0  # nothing was run here yet


def test_a_renamed_run_is_still_the_users(typed: Typed, small_run: str) -> None:
    assert typed("rename", small_run, "other").code == 0
    assert not Path("populations", small_run).exists()
    assert typed("resume", "other", "--trials", "12", "--quiet").code == 0


@pytest.mark.parametrize("name", ["../out", "a b", ".hidden", "x.parquet"])
def test_wrong_names_change_nothing(typed: Typed, small_run: str, name: str) -> None:
    assert "a run cannot be named" in typed("rename", small_run, name).err
    assert listed(typed) == [small_run]


def test_a_taken_name_is_refused(typed: Typed, three: list[str]) -> None:
    assert "exists: choose another name" in typed("rename", "wide", "narrow").err
    assert listed(typed) == three


def test_a_moved_run_is_still_the_users_and_a_changed_one_is_not(typed: Typed, folder: Path) -> None:
    (folder / "script.py").write_text("import sys\nprint('loss:', float(sys.argv[1]))\n")
    words = ["--gene", "x=float(0,1)", "--objective", "loss:min", "--name", "mine", "--final-seeds", "0", "--quiet"]
    assert typed("run", f"{sys.executable} script.py {{x}}", *words, "--trials", "2").code == 0
    Path("elsewhere").mkdir()
    os.rename("populations/mine", "elsewhere/moved")
    assert typed("resume", "moved", "--store", "elsewhere", "--trials", "4", "--quiet").code == 0
    manifest = Path("elsewhere/moved/_run.json")
    changed = json.loads(manifest.read_text())
    changed["options"]["shell"] = True
    manifest.write_text(json.dumps(changed))
    os.rename("elsewhere/moved", "elsewhere/again")
    result = typed("resume", "again", "--store", "elsewhere", "--trials", "6", "--quiet")
    assert result.code == 2
    assert "was not begun by you here" in result.err


def test_only_what_is_confirmed_is_deleted(typed: Typed, three: list[str]) -> None:
    assert "give --yes" in typed("delete", "wide").err
    assert "there is no run 'lost'" in typed("delete", "narrow", "lost", "--yes").err
    assert listed(typed) == three
    assert typed("delete", "wide", "best", "--yes").code == 0
    assert listed(typed) == ["narrow"]
    assert os.listdir("populations") == ["narrow"] or sorted(os.listdir("populations"))[-1] == "narrow"


def test_a_run_in_progress_is_neither_deleted_nor_renamed(typed: Typed, folder: Path) -> None:
    words = [sys.executable, "-m", "evo_tune", "run", "quick.py", "--name", "going", "--trials", "99", "-o", "sleep=1"]
    with subprocess.Popen([*words, "--quiet"], cwd=folder) as process:
        while not (folder / "populations/going/_run.json").exists():
            time.sleep(0.05)
        for command in (["delete", "going", "--yes"], ["rename", "going", "gone"]):
            result = typed(*command)
            assert result.code == 1
            assert "is in use by another process" in result.err
        while json.loads(typed("list", "--format", "json").out)[0]["state"] != "running":  # after its first heartbeat
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)


def tar(*words: str) -> None:
    subprocess.run(["tar", *words], check=True)


def test_a_run_that_went_through_tar_is_looked_at_by_every_command(typed: Typed, small_run: str) -> None:
    before = json.loads(typed("show", small_run, "--format", "json").out)
    tar("-czf", "one.tar.gz", "--exclude=_trials", "-C", "populations", small_run)
    assert typed("rename", small_run, "kept").code == 0
    tar("-xzf", "one.tar.gz", "-C", "populations")
    assert json.loads(typed("show", small_run, "--format", "json").out) == before
    assert typed("verify", small_run).code == 0
    assert typed("report", small_run).code == 0


SCRIPT = "import sys\nprint('loss', float(sys.argv[1]) + int(sys.argv[2]) % 7)\n"


def test_a_run_of_another_machine_is_verified_without_its_script(
    typed: Typed, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "train.py").write_text(SCRIPT)
    command = f"{sys.executable} train.py {{x}} {{seed}}"
    words = ["--gene", "x=float(0,1)", "--objective", "loss:min", "--trials", "3", "--final-seeds", "0", "--quiet"]
    assert typed("run", command, *words, "--name", "mine").code == 0
    (folder / "train.py").unlink()
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "another machine"))
    os.rename("populations/mine", "populations/theirs")
    verified = typed("verify", "theirs")
    assert (verified.code, "all 3 proposals agree" in verified.out) == (0, True), verified
    assert verified.err.startswith("not checked: whether trials give these values again; --retrain N trains N of them")
    assert "was not begun by you here" in typed("verify", "theirs", "--retrain", "1").err, "nothing was allowed"
    refused = typed("verify", "theirs", "--retrain", "1", "--trust")
    assert refused.code == 2
    assert "--retrain trains with the code of the run: there is no script 'train.py'" in refused.err
    journal = folder / "populations" / "theirs" / "_journal.jsonl"
    journal.write_text(re.sub(r'"loss":[^,}]*', '"loss":0.5', journal.read_text()))
    assert typed("verify", "theirs").code == 1


RESULTS = "results unchanged since this machine last wrote the run (11 records)"


def test_a_run_is_verified_alike_under_each_name_and_after_what_is_refused(typed: Typed, folder: Path) -> None:
    (folder / "train.py").write_text(SCRIPT)
    command = f"{sys.executable} train.py {{x}} {{seed}}"
    words = ["--gene", "x=float(0,1)", "--objective", "loss:min", "--trials", "3", "--final-seeds", "0", "--quiet"]
    assert typed("run", command, *words, "--name", "mine").code == 0
    shutil.copytree("populations/mine", "populations/copied")
    assert typed("rename", "mine", "renamed").code == 0
    os.rename("train.py", "gone.py")
    for name in ("copied", "renamed"):
        before = typed("verify", name)
        assert (before.code, RESULTS in before.out) == (0, True), before
        assert typed("report", name).code == 0
        assert typed("verify", name).out == before.out
        for refused in (["resume", name, "--trials", "9"], ["verify", name, "--retrain", "1"]):
            assert typed(*refused).code == 2
            assert typed("verify", name).out == before.out, refused
        page = folder / "populations" / name / "_report.html"
        page.write_text(page.read_text().replace("0.", "1.", 1))
        edited = typed("verify", name)
        assert (edited.code, "_report.html does not agree: it is not as this machine" in edited.err) == (1, True)


@pytest.mark.parametrize("repair", ["", "lambda genome: {**genome, 'x': round(genome['x'], 1)}, None, "])
def test_a_run_is_verified_without_the_file_of_its_evaluator(typed: Typed, folder: Path, repair: str) -> None:
    (folder / "own.py").write_text(Path("quick.py").read_text().replace("SearchSpace(x", f"SearchSpace({repair}x"))
    assert typed("run", "own.py", "--trials", "4", "--final-seeds", "0", "--quiet", "--name", "mine").code == 0
    (folder / "own.py").rename(folder / "moved.py")
    verified = typed("verify", "mine")
    assert verified.code == 0, verified
    assert verified.err.startswith("not checked: all that needs the evaluator 'own.py', which is not here: --evaluator")
    assert ("all 4 proposals agree" in verified.out) == (repair == "")
    assert "results unchanged" in verified.out
    again = typed("verify", "mine", "--evaluator", "moved.py")
    assert (again.code, again.err, "all 4 proposals agree" in again.out) == (0, "", True)


@pytest.fixture
def address(three: list[str], folder: Path) -> Iterator[str]:
    """Address of the page of all runs."""
    need("web")
    words = [sys.executable, "-m", "evo_tune", "watch"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=folder) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[1]
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=20) in (0, 130)
        finally:
            process.kill()


def test_watch_without_a_run_serves_all_runs(typed: Typed, three: list[str], address: str) -> None:
    def read(path: str) -> str:
        with urllib.request.urlopen(address + path, timeout=20) as answer:
            return str(answer.read().decode())

    page = read("")
    positions = [page.index(f'<a href="{name}/">') for name in reversed(three)]
    assert positions == sorted(positions), "the latest first"
    for name in three:
        assert f"<h1>{name}</h1>" in read(f"{name}/")
        assert "version" in json.loads(read(f"{name}/changes?since="))
    for path in ("lost/", "../wide/", "wide/x", "x/wide/", "%2e%2e/"):
        with pytest.raises(urllib.error.HTTPError):
            read(path)


def test_a_space_that_is_used_up_is_said_and_no_longer_run_is_advised(typed: Typed, folder: Path) -> None:
    (folder / "script.py").write_text("import sys\nprint('loss:', float(sys.argv[1]))\n")
    words = ["--gene", "x=1|2|3", "--objective", "loss:min", "--name", "small", "--trials", "12", "--final-seeds"]
    result = typed("run", f"{sys.executable} script.py {{x}}", *words, "0")
    assert "stopped, since the strategy has nothing more to propose" in result.out
    assert "next: evo-tune show small   |   evo-tune best small" in result.out
    assert "{seed}" not in result.out + result.err, "no seed but the first is ever used"
    words[words.index("small")] = "other"
    assert "{seed}" in typed("run", f"{sys.executable} script.py {{x}}", *words, "1").err
