"""The tools of a coding agent over MCP: start, continue, watch, stop and read runs, in folders that were named.

Each tool runs a command of evo-tune in a process of its own, so it can do nothing that the command line could not. A
run that it starts continues if the agent leaves. This module refuses names of files that are outside of the folder,
links included; the code that a run executes is not watched.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, TypeAlias

import msgspec

from evo_tune.cli.shared import WORD, option_text
from evo_tune.errors import StoreError, UsageError, explain_error
from evo_tune.genome.values import Value
from evo_tune.plugins.command import is_command
from evo_tune.store.manifest import MANIFEST
from evo_tune.store.run_folders import DEFAULT_STORE, TRIALS, list_runs
from evo_tune.text import escape_unprintable, one_line
from evo_tune.trust import safe_files
from evo_tune.trust.decide import describe_paths, paths_outside_folder

# Genomes as an agent gives them: values of genes by name.
Genomes: TypeAlias = list[dict[str, Value]] | None

# Code of a command's process: it takes this process's path, and imports nothing from the working directory.
START = "import sys; sys.path[:] = sys.argv.pop(1).split('\\n'); from evo_tune.cli import main; main()"

# Seconds that a run has to begin before `start` answers.
BEGINS = 60.0

# Characters that are returned of the end of a log, and the most bytes of a log that is read.
LONGEST_LOG, LARGEST_LOG = 20_000, 1 << 28

# Most trials that `results` returns.
MOST = 50

# What may be before or behind a path in an option, in a gene or in a word of a command.
SEPARATORS = r"[=|,;:(){}?@\s]+"


class Workplace:
    """The folders that an agent may use, and the runs that it has started in them.

    Args:
        folders: Existing folders, as the user named them. The runs of each are in its `populations`.

    Raises:
        UsageError: One of them is no folder.
    """

    def __init__(self, folders: Sequence[str]) -> None:
        if missing := next((folder for folder in folders if not os.path.isdir(folder)), None):
            raise UsageError(f"{missing} is no folder: expected existing folders, such as '.'")
        self.folders = [os.path.realpath(folder) for folder in folders]
        self._started: dict[tuple[str, str], subprocess.Popen[bytes]] = {}
        methods = (self.start, self.resume, self.propose, self.status, self.results, self.runs, self.log, self.stop)
        # The tools by name; docstrings and annotations describe them to the agent.
        self.tools: dict[str, Callable[..., str]] = {tool.__name__: tool for tool in methods}

    def start(
        self,
        run: str,
        evaluator: str = "language_model",
        options: dict[str, Value] | None = None,
        genes: list[str] | None = None,
        objectives: list[str] | None = None,
        trials: int | None = None,
        hours: float | None = None,
        slots: int | None = None,
        seed: int | None = None,
        folder: str = "",
    ) -> str:
        """Start a run, and return its state once it has begun.

        Give a limit: trials or hours. The run continues in the background; `status` watches it.

        Args:
            run: Name of the new run.
            evaluator: A bundled evaluator, the path of an evaluator's file in the folder, or the command of a Python
                script in the folder with a placeholder for each gene: 'python train.py --lr {lr}'.
            options: Options of the evaluator by name.
            genes: Genes as the flag --gene takes them: 'lr=log(1e-4,1e-2)', 'depth=int(1,8)', 'kind=a|b'.
            objectives: METRIC:min or METRIC:max.
            trials: Maximum number of trials.
            hours: Maximum time in hours.
            slots: Number of trainings at the same time.
            seed: Seed of the search.
            folder: One of the named folders; by default the first.
        """
        root, option_texts = self._root(folder), {name: option_text(value) for name, value in (options or {}).items()}
        for option in option_texts:  # a plain name, and none that is a command or hands one to a shell
            if not re.fullmatch(r"[A-Za-z]\w*", option) or option.lower() in ("shell", "judge", "template"):
                shown = one_line(repr(option), 60)
                raise UsageError(f"option {shown} cannot be given here: expected the name of an option")
        _check_evaluator(root, evaluator)
        _check_paths(root, [*option_texts.values(), *(genes or ())])
        if safe_files.exists(root, DEFAULT_STORE, _check_run_name(run)):
            raise UsageError(f"run {run} exists: choose another name, or use `resume`")
        words = [f"-o{option}={text}" for option, text in option_texts.items()]
        words += [f"--gene={text}" for text in genes or ()] + [f"--objective={text}" for text in objectives or ()]
        words += _flags(trials=trials, hours=hours, slots=slots, seed=seed)
        return self._begin(root, run, ["run", f"--name={run}", *words, "--", evaluator])

    def resume(
        self,
        run: str,
        trials: int | None = None,
        hours: float | None = None,
        slots: int | None = None,
        folder: str = "",
    ) -> str:
        """Continue a saved run, and return its state. Limits are totals, so give a larger one.

        Args:
            run: Name of the run.
            trials: Maximum number of trials, those of earlier sessions included.
            hours: Maximum time in hours of all sessions.
            slots: Number of trainings at the same time.
            folder: One of the named folders; by default the first.
        """
        root, run = self._run(folder, run)
        return self._begin(root, run, ["resume", *_flags(trials=trials, hours=hours, slots=slots), "--", run])

    def propose(
        self, run: str, genomes: Genomes = None, folder: str = "", patches: dict[str, str] | None = None
    ) -> str:
        """Propose genomes or patches to a run, which trains them next, and return them as JSON.

        They count for the limits of the run, and are recorded as proposed by 'agent'. `results` predicts values of
        genomes before, and tells what became of patches. If the run has ended, `resume` trains them.

        Args:
            run: Name of the run.
            genomes: Values of genes by name, such as {"lr": 0.003, "depth": 4}; all others have their defaults.
            folder: One of the named folders; by default the first.
            patches: Unified diffs by name, for a run that the user started with --allow-patches. Each is a gene, and so
                is a placeholder such as {momentum=log(0.8,0.99)} in it. One that does not apply is an error.
        """
        root, run = self._run(folder, run)
        texts = [msgspec.json.encode(genome).decode() for genome in genomes or ()]
        with tempfile.TemporaryDirectory() as drafts:
            words = []
            for name, text in (patches or {}).items():
                if not WORD.fullmatch(name):
                    raise UsageError(f"patch {one_line(repr(name), 60)}: expected a name of letters, digits, _ and -")
                path = Path(drafts, f"{name}.patch")
                path.write_text(text, encoding="utf-8")
                words.append(f"--patch={path}")
            return _command_output(root, ["propose", "--source=agent", "--format=json", *words, "--", run, *texts])

    def status(self, run: str = "", folder: str = "") -> str:
        """Return the state of a run as JSON: whether it is running, its best trial, its forecast and its slots.

        Args:
            run: Name of the run; by default the latest one.
            folder: One of the named folders; by default the first.
        """
        root, run = self._run(folder, run)
        return _command_output(root, ["status", "--format=json", "--", run])

    def results(self, run: str = "", top: int = 10, genomes: Genomes = None, folder: str = "") -> str:
        """Return all that a run has learned, as JSON, and predicted values of genomes before they are trained.

        It has the recommended trial and the best ones, failures, effects of genes, open questions, waiting proposals.

        Args:
            run: Name of the run; by default the latest one.
            top: Number of best trials, at most 50.
            genomes: Genomes to predict, as `propose` takes them.
            folder: One of the named folders; by default the first.
        """
        root, run = self._run(folder, run)
        words = [f"--predict={msgspec.json.encode(genome).decode()}" for genome in genomes or ()]
        return _command_output(root, ["show", f"--top={min(max(1, top), MOST)}", "--format=json", *words, "--", run])

    def runs(self, folder: str = "") -> str:
        """Return all runs of a folder as JSON.

        Args:
            folder: One of the named folders; by default the first.
        """
        return _command_output(self._root(folder), ["list", "--format=json"])

    def log(self, run: str, trial: int, folder: str = "") -> str:
        """Return the end of what a trial's training printed, or the traceback of its error.

        Args:
            run: Name of the run.
            trial: Number of the trial.
            folder: One of the named folders; by default the first.
        """
        root, run = self._run(folder, run)
        for file in ("error.txt", "log.txt"):
            if safe_files.exists(root, DEFAULT_STORE, run, TRIALS, f"{trial:06d}", file):
                text = safe_files.read(root, DEFAULT_STORE, run, TRIALS, f"{trial:06d}", file, limit=LARGEST_LOG)
                lines = text.decode("utf-8", "replace")[-LONGEST_LOG:].splitlines()
                return "\n".join(map(escape_unprintable, lines))
        return f"trial {trial} of {run} has no log"

    def stop(self, run: str, folder: str = "") -> str:
        """Stop a run that was started here, as Ctrl-C does: running trials finish and are saved.

        A second call stops at once; trials that are lost run again with `resume`.

        Args:
            run: Name of the run.
            folder: One of the named folders; by default the first.
        """
        process = self._started.get((self._root(folder), _check_run_name(run)))
        if process is None:
            raise UsageError(f"run {run} was not started here: stop it where it runs, with Ctrl-C")
        if process.poll() is not None:
            return f"run {run} has ended already"
        process.send_signal(signal.SIGINT)
        return f"run {run} is stopping: its running trials finish; `stop` again stops at once"

    def _root(self, folder: str) -> str:
        """Return a named folder whose store, if there is one, is no link."""
        root = self.folders[0] if not folder else os.path.realpath(folder)
        if root not in self.folders:
            raise UsageError(f"folder {folder!r} was not named at the start: expected one of {', '.join(self.folders)}")
        if safe_files.exists(root, DEFAULT_STORE):
            refused = f"{DEFAULT_STORE} in {root} cannot be used"
            with explain_error(UsageError, refused), safe_files.folder(root, DEFAULT_STORE):
                pass
        return root

    def _run(self, folder: str, run: str) -> tuple[str, str]:
        """Return a named folder, and the run in it with a name, or the latest one; no run that is behind a link."""
        root = self._root(folder)
        paths = list_runs(Path(root, DEFAULT_STORE))
        names = [path.name for path in paths if WORD.fullmatch(path.name) and not path.is_symlink()]
        if run in names or (names and not run):
            return root, run or names[-1]
        latest = ", ".join(reversed(names[-MOST:])) or "none"
        raise UsageError(f"there is no run {one_line(repr(run), 60)} in {root}: it holds {latest}")

    def _begin(self, root: str, run: str, words: list[str]) -> str:
        """Start a command that runs in the background, and return its state once its run is saved."""
        process = self._started.get((root, run))
        if process is not None and process.poll() is None:
            raise UsageError(f"run {run} is running already: `status` watches it")
        output = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the process)
        process = _start_process(root, [words[0], "--quiet", *words[1:]], output)
        self._started[root, run] = process
        deadline = time.monotonic() + BEGINS
        while time.monotonic() < deadline and process.poll() is None:
            if words[0] == "run" and safe_files.exists(root, DEFAULT_STORE, run, MANIFEST):
                break
            time.sleep(0.2)
            if words[0] == "resume" and time.monotonic() > deadline - BEGINS + 3.0:  # an error comes at once
                break
        if process.poll():
            raise StoreError(_last_line(output) or f"evo-tune {words[0]} ended with code {process.returncode}")
        if not safe_files.exists(root, DEFAULT_STORE, run, MANIFEST):
            return f"run {run} is being planned; `status` will tell when it has begun"
        return self.status(run, root)


def _start_process(root: str, words: Sequence[str], output: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", "-c", START, "\n".join(path for path in sys.path if path), *words],
        cwd=root,
        stdin=subprocess.DEVNULL,  # ours is the protocol's
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _command_output(root: str, words: Sequence[str]) -> str:
    """Return what a command prints in a folder.

    Raises:
        StoreError: It ended with an error.
    """
    with tempfile.TemporaryFile() as output:
        if _start_process(root, words, output).wait():
            raise StoreError(_last_line(output))
        output.seek(0)
        return output.read().decode("utf-8", "replace")


def _last_line(output: IO[bytes]) -> str:
    output.seek(0)
    lines = output.read().decode("utf-8", "replace").strip().splitlines()
    return one_line(lines[-1]).removeprefix("Error: ") if lines else ""


def _flags(**values: float | None) -> list[str]:
    return [f"--{name}={value}" for name, value in values.items() if value is not None]


def _check_run_name(name: str) -> str:
    """Return a run's name, which is no path and no flag."""
    if not WORD.fullmatch(name):
        raise UsageError(f"{name!r} is no name of a run: expected letters, digits, '.', '_' and '-'")
    return name


def _check_evaluator(root: str, text: str) -> None:
    """Check that an evaluator is bundled, or a file or a Python script in the folder."""
    if is_command(text):
        words = shlex.split(text)
        if words[0] not in ("python", "python3") or len(words) < 2:
            raise UsageError(f"program {words[0]!r} is refused: expected 'python SCRIPT.py …' with a script in {root}")
        for word in words:  # a value that is joined to other text could make any path
            if re.search("[{}]", word) and not re.fullmatch(r"([^{}=]*=)?\{[^{}]*\}", word):
                raise UsageError(f"{word!r}: expected placeholders that are whole words, or behind '='")
        _check_file(root, words[1])
        _check_paths(root, words[1:])
    elif re.fullmatch(r"\w+", text):
        _check_paths(root, [text, f"{text}.py", f"evaluators/{text}.py"])
    else:
        _check_file(root, text.partition(":")[0])


def _check_file(root: str, path: str) -> None:
    """Check that a path is that of a file in the folder, with no link on the way."""
    parts = Path(path).parts
    with explain_error(UsageError, f"{path!r} is no file in {root} that can be used"):
        if os.path.isabs(path) or not parts or path.startswith("-"):
            raise UsageError(f"{path!r}: expected the path of a file in {root}, without a link on the way")
        with safe_files.open_to_read(root, *parts, limit=LARGEST_LOG):
            pass


def _check_paths(root: str, texts: Sequence[str]) -> None:
    """Check that texts name nothing outside of the folder, as a whole or in a part, such as one value of a gene."""
    patterns = (r"\Z", "=", r"[=|]", SEPARATORS, r"[^\w./~-]+")
    parts = {part.strip() for text in texts for pattern in patterns for part in re.split(pattern, text)}
    texts_and_values = parts | {part[2:] for part in parts if re.match("-[^-]", part)}  # -d/etc
    paths = [text if text.startswith(("/", "~")) else os.path.join(root, text) for text in texts_and_values if text]
    if outside := paths_outside_folder(paths, Path(root)):
        raise UsageError(f"{describe_paths(outside)}: outside of {root}, where this server may not read")


def server(workplace: Workplace) -> Any:
    """Return the MCP server of a workplace.

    Raises:
        UsageError: The extra `mcp` is not installed.
    """
    from functools import wraps

    from evo_tune import __version__
    from evo_tune.errors import EvoTuneError, require_extra

    with require_extra("evo-tune mcp", "mcp"):
        from mcp.server import MCPServer
        from mcp.server.mcpserver.exceptions import ToolError

    mcp_server = MCPServer(
        "evo-tune",
        instructions="Searches hyperparameters and architectures by evolution. Start a run, watch its status, read its "
        f"results, propose genomes. Folders: {', '.join(workplace.folders)}.",
        version=__version__,
        log_level="ERROR",
    )

    def with_tool_errors(tool: Callable[..., str]) -> Callable[..., str]:
        @wraps(tool)
        def answer(*args: Any, **kwargs: Any) -> str:
            try:
                return tool(*args, **kwargs)
            except (EvoTuneError, OSError, ValueError) as error:  # text that no process can be given
                raise ToolError(one_line(str(error))) from None

        return answer

    for tool in workplace.tools.values():
        mcp_server.add_tool(with_tool_errors(tool))
    return mcp_server
