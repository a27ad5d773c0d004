"""Write a run for another tool: continuously during the run (`--track`), or once (`convert --to optuna`).

A tracker is a process of its own that reads the run's folder, so the run never waits for it, and a tracker that dies or
hangs costs a warning. It ends when its standard input closes: at the end of the run, or with the process that started
it.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path

from evo_tune.errors import EvoTuneError, OptionError, StoreError, UsageError, require_extra
from evo_tune.integrations.rows import Sink, silence_loggers
from evo_tune.store.heartbeat import Curve, running_curves
from evo_tune.store.journal import JOURNAL
from evo_tune.store.run import Run
from evo_tune.text import one_line
from evo_tune.trust.safe_files import complete_or_absent

# Module and class of the sink of each tool, and a module that its extra brings. The extra has the tool's name.
TOOLS = {
    "optuna": ("optuna_journal", "OptunaJournal", "optuna.storages"),
    "tensorboard": ("boards", "TensorBoardFolder", "tensorboard.plugins.hparams.summary_v2"),
    "wandb": ("boards", "WandbFolder", "wandb"),
}


def open_sink(tool: str, path: Path, flag: str) -> Sink:
    """Return the target of a tool.

    Args:
        tool: Key of TOOLS.
        path: File or folder of the target.
        flag: Flag that the user wrote, for errors.

    Raises:
        UsageError: The tool is not installed, or the path is not usable for it.
    """
    module, name, package = TOOLS[tool]
    with require_extra(flag, tool), silence_loggers():
        import_module(package)
    is_usable, expected = (path.is_file(), "file") if tool == "optuna" else (path.is_dir(), "folder")
    if os.path.lexists(path) and not is_usable:
        raise UsageError(f"{flag}: {path} is no {expected}; choose another")
    make: Callable[[Path, str], Sink] = getattr(import_module(f"evo_tune.integrations.{module}"), name)
    return make(path, flag)


def convert(run: Run, path: Path) -> None:
    """Write a run into a new Optuna journal.

    Raises:
        UsageError: The path exists, or Optuna is not installed.
        StoreError: The path cannot be written.
    """
    flag = "--to optuna"
    if os.path.lexists(path):
        raise UsageError(f"{flag}: {path} exists: choose another -o PATH, or remove it")
    try:
        with complete_or_absent(path) as part:
            open_sink("optuna", part, flag).update(run)
    except EvoTuneError:
        raise
    except Exception as error:
        why = getattr(error, "strerror", None) or one_line(f"{type(error).__name__}: {error}")
        raise StoreError(f"cannot write {path}: {why}; choose another -o PATH") from error


# ---------------------------------------------------------------------------------------------------------
# Tracking

# Least seconds between two looks at the run's journal.
EVERY = 2.0

# Seconds that a tracker rests per second that it wrote, so that it takes at most a tenth of a core.
REST = 10

# Seconds that a tracker gets at the end of a run.
PATIENCE = 15.0

# Code of the tracker's process: it takes this process's path, and nothing from the working directory.
START = (
    "import sys; sys.path[:] = sys.argv[3:]; "
    "from evo_tune.integrations.tracking import main; main(sys.argv[1], sys.argv[2])"
)


@contextlib.contextmanager
def tracking(folder: Path, tracks: Sequence[str], patience: float = PATIENCE) -> Iterator[None]:
    """Track a run inside this context.

    Args:
        folder: Folder of the run.
        tracks: Targets: tensorboard:DIR, optuna:FILE or wandb:DIR.
        patience: Seconds that the trackers get at the end.

    Raises:
        UsageError: A target is not understood, or its tool is not installed.
    """
    for text in tracks:
        check_track(text)
    trackers = [_Tracker(folder, text) for text in tracks]
    try:
        yield
    finally:
        until = time.monotonic() + patience
        for tracker in trackers:
            tracker.end()
        for tracker in trackers:
            tracker.wait(max(0.0, until - time.monotonic()))


def check_track(text: str) -> Sink:
    """Return the target of `--track TOOL:PATH`.

    Raises:
        OptionError: The text is not understood.
        UsageError: The tool is not installed, or the path is not usable for it.
    """
    tool, colon, path = text.partition(":")
    if not colon or not path or tool not in TOOLS:
        raise OptionError(f"--track {text!r} is not understood: expected tensorboard:DIR, optuna:FILE or wandb:DIR")
    return open_sink(tool, Path(path), f"--track {text}")


class _Tracker:
    """Process that follows a run.

    Args:
        folder: Folder of the run.
        text: Target: tensorboard:DIR, optuna:FILE or wandb:DIR.
    """

    def __init__(self, folder: Path, text: str) -> None:
        self._text = text
        self._folder = folder
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the process)
        path = [os.path.abspath(place) for place in sys.path]
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", START, os.path.abspath(folder), text, *path],
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=self._output,
            start_new_session=True,  # Ctrl-C in the terminal is for the run
        )
        self._is_late = False
        self._watching = threading.Thread(target=self._watch, daemon=True)
        self._watching.start()

    def _watch(self) -> None:
        """Warn at once when the process dies: in a long run the user may still fix the cause."""
        if not self._process.wait():
            return
        self._output.seek(0)
        lines = self._output.read().decode("utf-8", "replace").strip().splitlines()
        why = one_line(lines[-1]) if lines else f"it ended with code {self._process.returncode}"
        why = "it does not answer" if self._is_late else why
        warnings.warn(
            f"--track {self._text} is given up ({why}); the run continues, and all its results are saved: "
            f"`evo-tune resume {self._folder} --track {self._text}` writes it afterwards",
            stacklevel=2,
        )

    def end(self) -> None:
        """Tell the process that the run has ended."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def wait(self, seconds: float) -> None:
        """Wait for the process to end, and kill it after a number of seconds."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._is_late = True
            self._process.kill()
        self._watching.join()
        self._output.close()


def follow(folder: Path, text: str, ended: threading.Event) -> None:
    """Write the results of a run for a tool while the run continues, and once more at its end.

    Args:
        folder: Folder of the run.
        text: Target: tensorboard:DIR, optuna:FILE or wandb:DIR.
        ended: Set at the end of the run.

    Raises:
        EvoTuneError: The run cannot be read at its end, or the target is not usable.
        OSError: The target cannot be written.
    """
    target = check_track(text)
    version, pause, last = (-1, -1), 0.0, False
    run: Run | None = None
    written: dict[int, Curve] = {}
    while not last:
        last = ended.wait(max(EVERY if version != (-1, -1) else 0.0, pause))
        now, pending_curves, began = (-1, -1), running_curves(folder), time.monotonic()
        with contextlib.suppress(OSError):
            status = (folder / JOURNAL).lstat()
            now = status.st_size, status.st_mtime_ns
        if now != version:
            try:
                run = Run.open(folder)
            except StoreError:  # half a line, or a shared folder that is not mounted
                if last:
                    raise
                continue
        if run is not None and (now != version or pending_curves != written):
            target.update(run, pending_curves)
            version, written, pause = now, pending_curves, REST * (time.monotonic() - began)


def main(folder: str, text: str) -> None:
    """Follow a run until standard input closes: the main function of a tracker's process.

    Args:
        folder: Folder of the run.
        text: Target: tensorboard:DIR, optuna:FILE or wandb:DIR.
    """
    with contextlib.suppress(OSError):
        os.nice(10)  # trainings have priority
    ended = threading.Event()

    def listen() -> None:
        while os.read(0, 1):  # unlike sys.stdin, this does not keep the interpreter from closing
            pass
        ended.set()

    threading.Thread(target=listen, daemon=True).start()
    try:
        follow(Path(folder), text, ended)
    except OSError as error:
        sys.exit(one_line(f"cannot write {error.filename or text.partition(':')[2]}: {error.strerror or error}"))
    except Exception as error:
        sys.exit(one_line(str(error)) or type(error).__name__)
