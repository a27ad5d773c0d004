"""Kill commands at random moments, type them again, and look for half files, lost results and processes left behind.

    python benchmarks/killed_commands.py --kills 20

A kill is a SIGKILL of the command's process, at a moment drawn evenly from the duration of the undisturbed command.
After it, each file under a final name is complete or absent, the recorded trials are those of before, and no process of
the command is left. The same command then ends well, or says that its result exists, which is then complete. Complete
means the files of the undisturbed command, of the same sizes but for 5 %.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evo_tune import load

QUICK = '''"""A quadratic."""
from evo_tune import Float, Minimize, SearchSpace

SPACE = SearchSpace(x=Float(-1, 1, default=0.5), y=Float(-1, 1))
OBJECTIVES = [Minimize("loss")]


def evaluate(genome, context):
    return {"loss": genome["x"] ** 2 + genome["y"] ** 2}
'''

# Seconds for a command, and for its other processes to end after a kill.
LONGEST, ENDING = 300.0, 30.0


@dataclass(frozen=True)
class Command:
    """A command to kill.

    Args:
        words: Its words; {n} is the number of the attempt.
        results: Files and folders that it writes.
        runs: Runs whose recorded trials may not become fewer.
    """

    words: str
    results: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()


TABULAR = "table.csv --target kind --families linear --trials 2 --slots 1"
COMMANDS = {
    "auto": Command(f"auto {TABULAR} --name a{{n}} --out model{{n}}", ("model{n}",), ("a{n}",)),
    "scale": Command(
        "scale text --width {width} --depth 3 --tokens 2048 --probe 2 --emit flags{n}.toml",
        ("flags{n}.toml",),
        ("text", "text-probe-3x{width}", "text-probe-3x{width}-short"),
    ),
    "export": Command("export table exported{n}", ("exported{n}",), ("table",)),
    "predict": Command("predict model rows.csv --output rows{n}.csv", ("rows{n}.csv",)),
    "report": Command("report quick -o report{n}.html", ("report{n}.html",), ("quick",)),
    "report in the store": Command("report quick", ("populations/quick/report.html",), ("quick",)),
    "convert to Optuna": Command("convert quick --to optuna -o optuna{n}", ("optuna{n}",), ("quick",)),
    "propose": Command("propose quick x=0.{n}7", (), ("quick",)),
}

PREPARATION = (
    "run quick.py --name quick --population 4 --generations 2 --slots 1 --quiet",
    f"auto {TABULAR} --name table --out model --quiet",
    "run language_model -o data=text.txt -o tokens=2048 -o eval_tokens=512 -o size=2x64x64x512 --gene width=32|64"
    " --gene depth=1|2 --trials 1 --final-seeds 0 --slots 1 --name text --quiet",
)


def start(words: str) -> subprocess.Popen[bytes]:
    """Start a command of evo-tune in its own session, with all that it prints in log.txt."""
    with open("log.txt", "ab") as log:
        line = [sys.executable, "-m", "evo_tune", *words.split(" ")]
        return subprocess.Popen(line, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)


def finish(words: str) -> tuple[int, float]:
    """Type a command; return its exit status, and how long it took in seconds."""
    began = time.monotonic()
    return start(words).wait(LONGEST), time.monotonic() - began


def sizes(path: Path) -> dict[str, int]:
    """Return the sizes of a file, or of the files in a folder, by name without what changes from write to write."""
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path] * path.exists()
    # The names of event files have a time and a process.
    return {str(file.relative_to(path)).split(".tfevents")[0]: file.stat().st_size for file in files}


def is_complete(path: str, example: str) -> bool:
    """Return whether a result is that of an undisturbed command."""
    present, wanted = sizes(Path(path)), sizes(Path(example))
    return present.keys() == wanted.keys() and all(
        abs(size - wanted[name]) <= 0.05 * wanted[name] for name, size in present.items()
    )


def recorded(names: Sequence[str]) -> dict[str, list[int]]:
    """Return the trials of runs that are recorded, and their waiting proposals."""
    counts = {}
    for name in names:
        folder = Path("populations", name)
        if folder.exists():
            counts[name] = [len(load(folder).trials), len(list(folder.glob("_inbox/[0-9]*")))]
    return counts


def is_running(session: int) -> bool:
    """Return whether a process of a session is left."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, *fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == session and state != "Z":
            return True
    return False


def kill(command: Command, number: int, moment: float) -> list[str]:
    """Kill a command once, type it again, and return what is wrong.

    Args:
        command: The command.
        number: Number of the attempt, from 1; 0 is the undisturbed one.
        moment: Seconds from its start to the kill.
    """
    words, *results = (text.format(n=number, width=64 + 16 * number) for text in (command.words, *command.results))
    examples = [text.format(n=0, width=64) for text in command.results]
    runs = [text.format(n=number, width=64 + 16 * number) for text in command.runs]
    before, wrong = recorded(runs), list[str]()
    process = start(words)
    try:
        process.wait(moment)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    end = time.monotonic() + ENDING
    while is_running(process.pid) and time.monotonic() < end:
        time.sleep(0.1)
    if is_running(process.pid):
        wrong.append(f"a process is left after {ENDING:g} s")
    pairs = list(zip(results, examples, strict=True))
    complete = [os.path.lexists(result) and is_complete(result, example) for result, example in pairs]
    wrong += [f"{path} is half" for path, whole in zip(results, complete, strict=True) if os.path.lexists(path) > whole]
    after = recorded(runs)
    submitted = after.get("quick") != before.get("quick")
    status, _ = finish(words)
    if status != 0 and not (complete and all(complete)) and not submitted:
        wrong.append(f"the same command ends with status {status}")
    wrong += [
        f"{result} is missing or half at the end" for result, example in pairs if not is_complete(result, example)
    ]
    last = recorded(runs)
    for name in {*before, *after}:
        counts = [state.get(name, [-1, -1]) for state in (before, after, last)]
        if not counts[0][0] <= counts[1][0] <= counts[2][0] or not counts[0][1] <= counts[1][1] <= counts[2][1]:
            wrong.append(f"run {name}: trials and proposals {counts}")
    if "propose" in command.words and last["quick"][1] != before["quick"][1] + 1:
        wrong.append(f"{last['quick'][1] - before['quick'][1]} proposals instead of one")
    return wrong


def main() -> None:
    """Prepare runs and a model, kill each command, and print what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", nargs="*", default=list(COMMANDS))
    arguments = parser.parse_args()
    os.chdir(tempfile.mkdtemp())
    Path("quick.py").write_text(QUICK)
    rows = [f"{n % 7},{n * n % 11},{'ab'[n % 7 > 3]}\n" for n in range(80)]
    Path("table.csv").write_text("width,height,kind\n" + "".join(rows))
    Path("rows.csv").write_text("width,height\n" + "".join(f"{n % 7},{n * n % 11}\n" for n in range(20_000)))
    Path("text.txt").write_text("the cat sat on the mat and the dog sat on the log. " * 400)
    for words in PREPARATION:
        if finish(words)[0]:
            sys.exit(f"evo-tune {words} failed: {Path.cwd() / 'log.txt'}")
    moments, failures = random.Random(arguments.seed), 0
    for name in arguments.commands:
        command, wrong = COMMANDS[name], list[str]()
        status, seconds = finish(command.words.format(n=0, width=64))
        if status:
            sys.exit(f"{name} ended with status {status}: {Path.cwd() / 'log.txt'}")
        for number in range(1, arguments.kills + 1):
            moment = moments.uniform(0.0, seconds)
            wrong += [f"killed after {moment:.2f} s: {text}" for text in kill(command, number, moment)]
        hidden = sum(1 for path in Path.cwd().rglob(".*.part"))
        print(
            f"{name}: {seconds:.1f} s, {arguments.kills} kills, {len(wrong)} wrong, {hidden} hidden rests", flush=True
        )
        print(*(f"    {text}\n" for text in wrong), sep="", end="", flush=True)
        failures += len(wrong)
    print(f"in {Path.cwd()}: {failures} wrong")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
