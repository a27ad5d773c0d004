"""What commands make in the temporary folder, as another user of the machine sees it: no name to foresee, none open."""

from __future__ import annotations

import ctypes
import os
import select
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

CREATED, MOVED_IN = 0x100, 0x80

TABULAR = ["run", "tabular", "--trials", "2", "--final-seeds", "0", "--quiet", "-o", "epochs=1"]


@contextmanager
def names_made_in(folder: Path) -> Iterator[dict[str, int]]:
    """Yield the names that appear directly in a folder meanwhile, with modes; 0 for one that was gone at once."""
    libc = ctypes.CDLL(None, use_errno=True)
    watch, ended = libc.inotify_init1(os.O_NONBLOCK), threading.Event()
    assert libc.inotify_add_watch(watch, os.fsencode(folder), CREATED | MOVED_IN) > 0
    modes: dict[str, int] = {}

    def read() -> None:
        while select.select([watch], [], [], 0.05)[0] or not ended.is_set():
            try:
                events = os.read(watch, 1 << 16)
            except BlockingIOError:
                continue
            while events:
                size = struct.unpack_from("I", events, 12)[0]
                name, events = os.fsdecode(events[16 : 16 + size].rstrip(b"\0")), events[16 + size :]
                try:
                    modes[name] = (folder / name).lstat().st_mode
                except FileNotFoundError:
                    modes.setdefault(name, 0)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield modes
    finally:
        ended.set()
        thread.join()
        os.close(watch)


@pytest.fixture
def names_of(tmp_path: Path) -> Iterator[Callable[..., dict[str, int]]]:
    """Yield a function that types a command and returns the names that it makes in its temporary folder."""
    temporary = Path(tempfile.mkdtemp(dir="/tmp"))  # Ray's sockets have short paths
    temporary.chmod(0o1777)

    def names(*words: str) -> dict[str, int]:
        environment = {**os.environ, "TMPDIR": str(temporary), "RAY_TMPDIR": str(temporary)}
        environment.pop("TORCHINDUCTOR_CACHE_DIR", None)
        with names_made_in(temporary) as modes:
            arguments = [sys.executable, "-m", "evo_tune", *words]
            ended = subprocess.run(arguments, cwd=tmp_path, env=environment, text=True, capture_output=True)
        assert ended.returncode == 0, ended.stderr[-2000:]
        return modes

    yield names
    shutil.rmtree(temporary)


def check(first: dict[str, int], second: dict[str, int], allowed: tuple[str, ...] = ()) -> None:
    """Check the names that two equal commands make: no name twice, and no other user may read or write."""
    foreseen = {name for name in first.keys() & second.keys() if not name.startswith(allowed or ("/",))}
    assert not foreseen, f"names that another user can foresee: {foreseen}"
    open_names = {name: stat.filemode(mode) for name, mode in {**first, **second}.items() if mode & 0o077}
    assert not open_names, f"names that are open to other users: {open_names}"


def test_a_name_that_is_foreseen_or_open_is_noticed(tmp_path: Path) -> None:
    with names_made_in(tmp_path) as modes:
        (tmp_path / "open").mkdir()
        (tmp_path / "private").mkdir(mode=0o700)
    assert modes.keys() == {"open", "private"}
    with pytest.raises(AssertionError, match="foresee"):
        check(modes, modes)
    with pytest.raises(AssertionError, match="open to other users"):
        check(modes, {})


EVALUATORS = {
    "tabular": ["-o", "epochs=1"],
    "text_classification": ["-o", "epochs=1"],
    "image_classification": ["-o", "epochs=1"],
    "forecasting": ["-o", "epochs=1"],
    "language_model": ["-o", "tokens=2000"],
    "fine_tuning": ["-o", "tokens=2000"],
}


PROOFS = ("text_classification", "image_classification", "forecasting", "fine_tuning")


@pytest.mark.slow
@pytest.mark.parametrize(
    "evaluator", [pytest.param(name, marks=[pytest.mark.proof] * (name in PROOFS)) for name in EVALUATORS]
)
def test_no_evaluator_makes_a_name_that_others_foresee(names_of: Callable[..., dict[str, int]], evaluator: str) -> None:
    words = ["evaluate", evaluator, *EVALUATORS[evaluator]]
    check(names_of(*words), names_of(*words))


@pytest.mark.proof
@pytest.mark.timeout(1200)
def test_no_command_makes_a_name_that_others_foresee(names_of: Callable[..., dict[str, int]], tmp_path: Path) -> None:
    """Commands that write or train; each is typed twice, with other names of its outputs."""
    (tmp_path / "table.csv").write_text(
        "a,kind\n" + "".join(f"{n * 37 % 101 / 7:.3f},{'xy'[n * n % 7 % 2]}\n" for n in range(60))
    )
    (tmp_path / "seeds.csv").write_text("variant,seed,loss\n" + "".join(f"{n % 2},{n},{n}.5\n" for n in range(20)))
    data = ["-o", "data=table.csv", "-o", "target=kind"]
    commands = [
        [*TABULAR, *data, "--name", "run@"],
        ["export", "run1", "model@"],
        ["predict", "model1", "table.csv", "--output", "out@.csv"],
        ["report", "run1", "-o", "report@.html"],
        ["report", "run1", "run2", "-o", "both@.html"],
        ["convert", "run1", "--to", "optuna", "-o", "study@.log"],
        ["resume", "run1", "--as", "copy@", "--trials", "3", "--quiet"],
        ["verify", "run1"],
        ["status", "run1"],
        ["auto", "table.csv", "--target", "kind", "--trials", "2", "--out", "auto@", "--name", "auto@", "--quiet"],
        [
            "run",
            "language_model",
            "--trials",
            "2",
            "--quiet",
            "-o",
            "tokens=2000",
            "--final-seeds",
            "0",
            "--name",
            "prose@",
        ],
        ["scale", "prose1", "--depth", "2", "--width", "64", "--tokens", "1e6", "--emit", "target@.toml"],
        ["devices"],
        ["verdict", "seeds.csv", "--baseline", "0", "--objective", "loss:min"],
    ]
    for words in commands:
        if (first := names_of(*(word.replace("@", "1") for word in words))) or words[0] == "run":
            check(first, names_of(*(word.replace("@", "2") for word in words)))
