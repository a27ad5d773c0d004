"""What the README and the pages of docs/ tell to type, and a folder with the few things that they take for granted.

A block of `sh` is typed line by line, a block of `python` is run, or written to the file that its first line names:
`# evaluators/mine.py`. What a test cannot do (a cluster, eight GPUs, a download) stands in a block of `console`, or is
indented: it is parsed, and not run.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = {path.name: path for path in [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]}

RUNS = {"files.md": "RUN", "report.md": "mine"}
"""Pages that look at a run of this name, which the reader is to have: a copy of the sample."""

TOO_LONG = ["evo-tune run"]
"""Takes minutes: it is what `make run` does, and the parent of the main job has tests of its own."""

FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"# ([\w./-]+\.py)\n")

TRAINED = {"language_model": "tokens", "fine_tuning": "tokens"}
"""Evaluators and the budget that makes a toy of them; the other bundled ones take epochs."""


def text_of(page: str) -> str:
    return PAGES[page].read_text(encoding="utf-8")


def typed(page: str, folder: Path) -> list[list[str] | str]:
    """Write a page's files, and return what it types: the words of commands, and Python."""
    found: list[list[str] | str] = []
    for language, body in FENCE.findall(text_of(page)):
        file = FILE.match(body)
        if language == "python" and file is not None:
            (folder / file[1]).parent.mkdir(parents=True, exist_ok=True)
            (folder / file[1]).write_text(body)
        elif language == "python":
            found.append(body)
        elif language == "sh":
            for line in body.splitlines():
                words = shlex.split(line, comments=True)
                if line.startswith("printf "):  # makes a file of the reader's
                    subprocess.run(line, shell=True, cwd=folder, check=True)
                elif words and shlex.join(words) not in TOO_LONG:
                    found.append(words)
    return found


def command_lines(page: str) -> Iterator[list[str]]:
    """Yield the words of every command of ours that a page shows in a block, or indented."""
    text = text_of(page)
    code = [body for language, body in FENCE.findall(text) if language != "python"]
    code += re.findall(r"^(?: {4}|      )(evo-tune .*)$", text, re.MULTILINE)
    for line in "\n".join(code).splitlines():
        found = re.search(r"(?:^|[\s;&|])evo-tune (.*)$", line)
        if found is not None and "…" not in line:
            yield shlex.split(re.sub(r"\s[&|].*|;.*", "", found[1]), comments=True)


def mentioned(page: str) -> Iterator[list[str]]:
    """Yield the words of every command of ours that stands within a page's sentences: flags of it may lack a value."""
    for text in re.findall(r"`evo-tune ([a-z][^`]*)`", FENCE.sub("", text_of(page))):
        yield re.sub(r"[][]", "", text).split()


def shortened(what: list[str] | str) -> list[str] | str:
    """Leave out whatever takes long and has its own tests: most data sets, and final comparisons."""
    if isinstance(what, str):
        return what.replace('"tokens": 5000', '"tokens": 1500, "eval_tokens": 1000')
    words = [re.sub(r"^(tokens|epochs)=\S+$", lambda m: f"{m[1]}={TOY[m[1]]}", word) for word in what]
    known = {"forecasting", "tabular", "image_classification", "text_classification", *TRAINED} & {*words}
    if words[1] in ("run", "evaluate") and (known or len(words) == 2 or words[2].startswith("-")):
        name = next(iter(known), "language_model")
        budget = TRAINED.get(name, "epochs")
        if not any(word.startswith(f"{budget}=") for word in words) and "--config" not in words:
            words += ["-o", f"{budget}={TOY[budget]}"]
        if name == "language_model" and "--config" not in words:
            words += ["-o", "eval_tokens=1000"]
    if words[1] == "auto":
        words += ["-o", f"epochs={TOY['epochs']}"]
    if "--tokens" in words:
        words[words.index("--tokens") + 1] = TOY["tokens"]
    words = [re.sub(r"^(\S*4x|)256$", r"\g<1>128", word) for word in words]  # the target is wider than both proxies
    for flag, most in (("--trials", 6 if "--for-scale" in words else 3), ("--population", 2)):
        if flag in words and words[1] == "run":
            at = words.index(flag) + 1
            words[at] = str(min(most, int(words[at])))
    if words[1] in ("run", "resume") and not {"--final-seeds", "--config"} & {*words}:
        first = "--name mine" in shlex.join(words)  # the others read what it has saved
        words += ["--final-seeds", "1", "--finalists", "1"] if first else ["--final-seeds", "0"]
    return words


CORPUS = 69_000
"""Bytes of the text. What `--for-scale` chooses depends on it, so it must not grow with the pages."""

TOY = {"tokens": "1500", "epochs": "1"}


TRAIN = '''"""A training script of the reader's own: flags in, lines of JSON out."""

import argparse
import json

LR = 1e-3
flags = argparse.ArgumentParser()
flags.add_argument("--lr", type=float, default=LR)
flags.add_argument("--depth", type=int, default=4)
flags.add_argument("--config")
flags.add_argument("--out")
given = flags.parse_args()
losses = [abs(given.lr - 3e-3) + given.depth / 100 + 1 / step for step in range(1, 21)]
lines = [json.dumps({"step": step, "val_loss": loss}) for step, loss in enumerate(losses, 1)]
print("\\n".join(lines))
if given.out:
    with open(f"{given.out}/metrics.jsonl", "w") as file:
        file.write("\\n".join(lines))
'''


def furnish(folder: Path, page: str) -> None:
    """Put into a folder what a page's reader has: data, a script with a configuration, flags, genomes, the sample."""
    (folder / "corpus").mkdir()
    text = (text_of("running.md") + text_of("evaluators.md")).encode()
    (folder / "corpus" / "text.txt").write_bytes((text * (CORPUS // len(text) + 1))[:CORPUS])
    rows = [f"{number % 7},{number * number % 11},{'ab'[number % 7 > 3]}" for number in range(80)]
    (folder / "table.csv").write_text("\n".join(["width,height,kind", *rows]) + "\n")
    days = [date(2024, 1, 1) + timedelta(day) for day in range(120)]
    sold = [f"{day},{shop},{day.day + 20 * (day.weekday() > 4)}" for day in days for shop in ("north", "south")]
    (folder / "sales.csv").write_text("\n".join(["day,shop,sold", *sold]) + "\n")
    (folder / "run.toml").write_text(
        'trials = 2\nfinal-seeds = 0\nname = "fromtoml"\n[option]\ntokens = 1500\neval_tokens = 1000\n'
    )
    (folder / "train.py").write_text(TRAIN)
    (folder / "genomes.csv").write_text("lr,depth\n0.01,2\n0.02,1\n")
    (folder / "conf.yaml").write_text("model:\n  depth: 4\n")
    shutil.copytree(DOCS / "examples", folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("sample", *([RUNS[page]] if page in RUNS else [])):
        shutil.copytree(ROOT / "populations" / "sample", folder / "populations" / name)
    if page == "own-text.md":
        from tests.hugging_face import make_folder

        make_folder(folder / "base", "gpt2")
    if page == "strategies.md":
        from evo_tune.plugins.find import write

        write("my_task", folder / "evaluators")
