"""The file that `evo-tune new NAME` writes: an evaluator that runs as it is, to be changed piece by piece.

It shows every part that an evaluator may have and needs nothing beyond numpy, so that the first run of
a new file takes seconds. This module only writes it; what the parts mean is in `evaluator`.
"""

from __future__ import annotations

import keyword
from pathlib import Path

from evo_tune.errors import UsageError

__all__ = ["check_name", "render", "write"]

TEMPLATE = '''\
"""NAME: one line that says what is tuned; `evo-tune evaluators` prints it."""

# It runs as it is (evo-tune run NAME): a network with one hidden layer learns sin(5x).
# Put your own data and training in its place. Import torch and the like inside functions: this file
# is imported by the command line as well, which trains nothing.

import math

import numpy as np

from evo_tune import Choice, Context, Float, Minimize, SearchSpace


def repair(genome: dict) -> dict:
    """Make any combination of genes valid: warm-up and decay share one training."""
    return {**genome, "decay": min(genome["decay"], 1.0 - genome["warmup"])}


# What evolves. The defaults are born first: every run is measured against them, so choose them well.
# SPACE may also be a function of the options: def SPACE(*, steps: int = 300) -> SearchSpace.
SPACE = SearchSpace(
    repair,
    lr=Float(0.001, 0.3, log=True, default=0.03),
    width=Choice([8, 16, 32, 64, 128], ordered=True, default=32),
    momentum=Float(0.0, 0.95, default=0.9),
    warmup=Float(0.0, 0.5, default=0.1),
    decay=Float(0.0, 1.0, default=0.5),
)

# What is optimised, the most important first; with several, the run keeps the whole front.
OBJECTIVES = [Minimize("val_loss")]  # beside it perhaps Minimize("params"), Maximize("accuracy")

# Optional: all that evaluate returns, with units. Another --objective is then refused before training.
METRICS = {"val_loss": "mean squared error", "params": ""}

# Optional: a test set that no trial of the search sees. What val_loss is called there; evaluate returns it only where
# context.test asks for it, and the closing table compares the best with the default by it.
TEST = {"val_loss": "test_loss"}

# Optional: what evaluate takes care of. "budget": it trains the fraction context.budget of the full training and goes
# on from context.resume_folder, as --fidelity needs it; "curve": it reports the first objective, for --prune. A
# part is a whole training in small: it has a final fall of the learning rate of its own, is judged, and what goes on
# goes on from the state before the fall.
SUPPORTS = ["budget", "curve"]


def evaluate(genome: dict, context: Context, *, steps: int = 300, points: int = 200) -> dict[str, float]:
    """Train once and return the metrics: the objectives, and whatever else deserves a column.

    Args:
        genome: One value per gene, already repaired.
        context: Has device, threads, seed, budget, folder, resume_folder, test and report.
        steps: An option: `-o steps=1000`; its type is checked.
        points: Another one. Many options, or some with bounds and help, are better declared as a dataclass:

            @dataclass(frozen=True, kw_only=True)
            class Own(Options):
                steps: int = option(300, bounds="[1, 1e6]", help="How long", gene=None)

            def evaluate(genome: dict, context: Context, options: Own) -> dict[str, float]:

            SPACE, estimate and fingerprint then take the same options (docs/evaluators.md).
    """
    rng = np.random.default_rng(context.seed)  # the only source of chance
    (x, y), held_out, test = data(points)
    first = rng.normal(0.0, 2.0, (2, genome["width"]))  # slope and offset of each unit
    second = rng.normal(0.0, genome["width"] ** -0.5, genome["width"])
    weights = [first, second]
    speeds = [np.zeros_like(weight) for weight in weights]
    done = 0
    saved = context.resume_folder / "state.npy" if context.resume_folder else None
    if saved and saved.exists():  # if it is gone: from the start
        done, weights, speeds = unpack(np.load(saved), genome["width"])
        first, second = weights
    last = math.ceil(context.budget * steps)  # a part of the training may be asked for first
    fork = last - math.ceil(genome["decay"] * last)  # up to here it is the full training; then its own fall begins
    for step in range(done + 1, last + 1):
        lr = genome["lr"] * schedule(step / steps, (last - step) / last, genome["warmup"], genome["decay"])
        for weight, speed, slope in zip(weights, speeds, slopes(first, second, x, y), strict=True):
            speed *= genome["momentum"]
            speed -= lr * slope
            weight += speed
        if step == fork and context.budget < 1.0:  # context.folder is this trial's own folder, made on first use
            np.save(context.folder / "state.npy", np.concatenate([[step], *map(np.ravel, weights + speeds)]))
        if step % 50 == 0 or step in (fork, last):
            # A point of the learning curve: its place is the share of the full training; decayed: its fall has begun.
            context.report(step / steps, decayed=step > fork, val_loss=loss(first, second, *held_out))
    # Raise if the training failed: the trial is saved as failed, with your message, and the run goes on.
    tested = {"test_loss": loss(first, second, *test)} if context.test else {}
    return {"val_loss": loss(first, second, *held_out), **tested, **estimate(genome)}


def estimate(genome: dict) -> dict[str, float]:
    """Optional: the metrics that are known before training."""
    return {"params": 3 * genome["width"]}


def fingerprint(*, points: int) -> str:
    """Optional: what identifies the data. A run is not resumed on other data unawares."""
    return f"sin(5x) at {points} points"


def unpack(state: np.ndarray, width: int) -> tuple:
    """Return step, weights and speeds from what was saved."""
    first, second, *speeds = np.split(state[1:], [2 * width, 3 * width, 5 * width])
    return int(state[0]), [first.reshape(2, -1), second], [speeds[0].reshape(2, -1), speeds[1]]


def data(points: int) -> tuple:
    """Return points to train on, to choose by and to test with, the same ones for every trial and every seed."""
    rng = np.random.default_rng(0)
    return tuple((x, np.sin(5.0 * x)) for x in np.split(rng.uniform(-1.0, 1.0, 3 * points), 3))


def schedule(done: float, left: float, warmup: float, decay: float) -> float:
    """Return the factor of the learning rate: up from 0, flat, down to 0.

    Args:
        done: Share of the full training that is done: all parts of it warm up alike.
        left: Share of this part that is left: each part falls at its end.
        warmup: Share of the full training.
        decay: Share of this part.
    """
    up = done / warmup if warmup else 1.0
    down = left / decay if decay else 1.0
    return min(1.0, up, down)


def slopes(first: np.ndarray, second: np.ndarray, x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    """Return the gradient of the loss for both layers, each clipped to length 1."""
    hidden = np.tanh(np.outer(x, first[0]) + first[1])
    error = 2.0 * (hidden @ second - y) / len(x)
    inner = np.outer(error, second) * (1.0 - hidden**2)
    both = [np.stack([x @ inner, inner.sum(axis=0)]), error @ hidden]
    return [slope / max(1.0, float(np.linalg.norm(slope))) for slope in both]


def loss(first: np.ndarray, second: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
    """Return the mean squared error."""
    return float(np.mean((np.tanh(np.outer(x, first[0]) + first[1]) @ second - y) ** 2))
'''


def render(name: str) -> str:
    """Return the text of a new evaluator's file.

    Args:
        name: Its name, as `write` accepts it.
    """
    return TEMPLATE.replace("NAME", name)


def check_name(name: str) -> None:
    """Refuse a name that no evaluator can have.

    Raises:
        UsageError: It is none.
    """
    if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
        raise UsageError(
            f"an evaluator cannot be named {name!r}: expected letters, digits and '_', beginning with a letter, "
            "such as my_task"
        )


def write(name: str, folder: Path, text: str | None = None) -> Path:
    """Write a new evaluator and return its file, FOLDER/NAME.py; the folder is made if need be.

    Args:
        name: A Python identifier that does not begin with an underscore.
        folder: Where evaluators are looked for by name: ./evaluators.
        text: Its text; by default the template's.

    Raises:
        UsageError: The name is no such identifier, the file exists already, or it cannot be written.
    """
    check_name(name)
    path = folder / f"{name}.py"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(path, "x", encoding="utf-8") as file:
            file.write(render(name) if text is None else text)
    except FileExistsError as error:
        if error.filename == str(folder):
            raise UsageError(f"{folder} is not a folder: move it out of the way to write {path}") from None
        raise UsageError(f"{path} exists already: choose another name, or edit that file") from None
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}; choose a folder that can be written") from None
    return path
