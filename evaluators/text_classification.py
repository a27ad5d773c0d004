"""A Transformer encoder on texts with labels: CSV, JSONL, or docstrings by their package; minimises val_loss (nats).

`-o data=FILE` is a CSV or a JSONL file (one object a line) with a column of texts and one of labels, named `text` and
`label` or by `-o text=` and `-o label=`. The default data is at hand wherever this runs: the first paragraphs of
docstrings, and which package each comes from, of five that evo-tune needs or that torch brings (numpy, pandas, torch,
sympy, networkx), 800 of each at most, their names blotted out. It differs a little between versions of these; nothing
is imported to read it.

A text is read as words and punctuation marks, each by its hash, or as bytes (`-o unit=bytes`, for languages that
put no spaces between words): the first `length` of them (a gene; `-o length=256` fixes it). There is no tokenizer to
fit. A quarter of each class is held out, the same texts for every genome and seed. What is held equal between
genomes is arithmetic (`-o flops=2e10`, the default) or passes over the texts (`-o epochs=10`).

The default genome is a pre-norm encoder that reads the mean of its tokens (after fast baselines: Joulin et al.,
arXiv:1607.01759), with the dropout of 0.1 and feed-forward layers of 4 of Vaswani et al. (arXiv:1706.03762). How to
train is `evo_tune.training`'s. The parent process imports this file too, so torch is imported inside functions only.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from evo_tune import Choice, Float, Int, Minimize, SearchSpace
from evo_tune.errors import OptionError
from evo_tune.training import CLASSIFIER_METRICS, Plan, TextConfig, nearest_divisor, stratified, tokens_of

if TYPE_CHECKING:
    from evo_tune import Context
    from evo_tune.training import TextClassifier

OBJECTIVES = [Minimize("val_loss")]

METRICS = CLASSIFIER_METRICS

MOST_CLASSES = 1000

SOURCES = {
    "networkx": ("algorithms", "generators", "classes"),
    "numpy": ("lib", "linalg", "polynomial", "ma", "_core", "core"),
    "pandas": ("core", "io", "plotting", "tseries"),
    "sympy": ("core", "functions", "geometry", "matrices", "physics", "solvers", "stats"),
    "torch": ("nn", "optim", "distributions", "utils", "fx", "ao"),
}
"""Packages whose docstrings are the default data, and the folders of each that are read, where they exist."""

PER_SOURCE, SHORTEST = 800, 40
"""Most docstrings of a package, and characters of the shortest."""

SIZES: dict[str, dict[str, Any]] = {
    "small": {
        "flops": 2e10,
        "lr": (3e-4, 3e-2, 3e-3),
        "batch": (32, 64, 128, 256),
        "depth": (1, 4, 1),
        "width": (32, 96, 16, 48),
        "heads": (1, 8, 4),
        "length": (8, 16, 32, 64),
        "default_length": 32,
    },
    "large": {
        "flops": 1e15,
        "lr": (1e-4, 3e-3, 5e-4),
        "batch": (32, 64, 128, 256),
        "depth": (1, 6, 4),
        "width": (64, 384, 64, 256),
        "heads": (1, 12, 8),
        "length": (64, 128, 256, 512),
        "default_length": 256,
    },
}
"""Default budget, and bounds and default of each gene: lr, depth and heads (low, high, default), width (low,
high, step, default), batch in texts (its first value is the default), length in tokens."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `evaluate`, checked; their defaults stand in its signature."""

    data: str
    text: str
    label: str
    unit: str
    length: int | None
    held_out: float
    size: str
    flops: float | None
    epochs: float | None
    schedule: str
    min_lr_ratio: float
    decay_fraction: float
    clip: float
    save: bool

    def __post_init__(self) -> None:
        if self.length is not None and not 2 <= self.length <= 4096:
            raise OptionError(f"-o length={self.length}: expected 2 to 4096 tokens")
        if not self.data and (self.text, self.label) != ("text", "label"):
            raise OptionError("-o text and -o label name columns of a file: give one with -o data=FILE")
        _ = self.plan  # checks the rest

    @property
    def plan(self) -> Plan:
        """Budget and schedule."""
        names = ("flops", "epochs", "schedule", "min_lr_ratio", "decay_fraction", "clip")
        return Plan.of(SIZES[self.size]["flops"], **{name: getattr(self, name) for name in names})


def options_from(given: Mapping[str, Any]) -> Options:
    """Return options, those not given at their defaults."""
    return Options(**{**(evaluate.__kwdefaults__ or {}), **given})


# ---------------------------------------------------------------- the texts


@dataclass(frozen=True)
class Texts:
    """Texts, their class numbers (n,), and the classes' names."""

    texts: tuple[str, ...]
    classes: np.ndarray
    labels: tuple[str, ...]


@lru_cache(maxsize=1)  # a worker trains on the same texts again and again
def _read(data: str, text: str, label: str) -> Texts:
    """Return the texts of a file, or the docstrings.

    Raises:
        OptionError: They cannot be read, a column is missing, or the labels are not those of two classes or more.
    """
    rows = _rows(data, text, label) if data else _docstrings()
    labels, classes = np.unique([name for _, name in rows], return_inverse=True)
    counts = np.bincount(classes)
    if not 2 <= len(labels) <= MOST_CLASSES:
        raise OptionError(f"-o label={label} has {len(labels)} different values: expected 2 to {MOST_CLASSES} classes")
    if counts.min() < 2:
        raise OptionError(f"-o data={data}: one text only of class {labels[counts.argmin()]!s}: expected 2 or more")
    return Texts(tuple(string for string, _ in rows), classes, tuple(map(str, labels)))


def _rows(data: str, text: str, label: str) -> list[tuple[str, str]]:
    """Return text and label of each row of a file."""
    path = Path(data).expanduser()
    if not path.is_file():
        raise OptionError(f"-o data={data} is no file (from {Path.cwd()}): give a CSV or JSONL file, or leave it out")
    try:
        rows = _jsonl(path) if path.suffix in (".jsonl", ".ndjson", ".json") else _csv(path)
    except (ValueError, OSError) as error:  # a wrong encoding, JSON or CSV is a ValueError too
        reason = " ".join(str(error).split())
        raise OptionError(f"-o data={data}: cannot read it ({reason}): give a CSV or JSONL file in UTF-8") from None
    known = list(dict.fromkeys(name for row in rows[:1000] for name in row))
    for option, name in (("text", text), ("label", label)):
        if name not in known:
            raise OptionError(f"-o {option}={name}: no such column; -o data={data} has {', '.join(known) or 'none'}")
    found = []
    for number, row in enumerate(rows, 1):
        for name in (text, label):
            if row.get(name) in (None, ""):
                raise OptionError(f"-o data={data}: row {number} has no {name!r}: fill it in, or remove the row")
        found.append((str(row[text]), str(row[label])))
    return found


def _csv(path: Path) -> list[dict[str, Any]]:
    import pandas as pd

    frame = pd.read_csv(path, dtype=str, keep_default_na=False, na_values=[""], encoding="utf-8-sig")
    rows: list[dict[str, Any]] = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return rows or [dict.fromkeys(frame.columns)]


def _jsonl(path: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        if line.strip():
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is no object")
            rows.append(row)
    return rows


DOCSTRING = re.compile(
    r'^[ \t]*(?:def|class)\s[^\n]*(?:\n[^\n]*){0,20}?:\n\s*[rR]?"""(.+?)(?:"""|\n\s*\n)', re.M | re.S
)
"""First paragraph of a function's or a class's docstring. To parse the files would take many times as long."""


def _docstrings() -> list[tuple[str, str]]:
    """Return the first paragraphs of docstrings, and the package of each."""
    names = re.compile("|".join(SOURCES) + r"|\bnp\b|\bnx\b|\bpd\b", re.I)
    rows = []
    for package, folders in SOURCES.items():
        spec = importlib.util.find_spec(package)  # imports nothing
        if spec is None or spec.origin is None:
            raise OptionError(
                f"the default data is made of docstrings, and {package} is not installed: give -o data=FILE"
            )
        root, found = Path(spec.origin).parent, set()
        files = sorted(
            file for folder in folders for file in (root / folder).rglob("*.py") if "tests" not in file.parts
        )
        for file in files:
            for paragraph in DOCSTRING.findall(file.read_text(encoding="utf-8", errors="replace")):
                found.add(" ".join(names.sub("_", paragraph).split()))
        usable = [paragraph for paragraph in sorted(found) if len(paragraph) >= SHORTEST]
        # By their hash: neither the first of the alphabet nor another sample in each process.
        usable.sort(key=lambda paragraph: hashlib.sha256(paragraph.encode("utf-8", "replace")).digest())
        rows += [(paragraph, package) for paragraph in usable[:PER_SOURCE]]
    return rows


def _texts(options: Options) -> Texts:
    return _read(options.data, options.text, options.label)


def fingerprint(**given: Any) -> str:
    """Return the SHA-256 of the texts, their labels and of how they are split."""
    options = options_from(given)
    texts = _texts(options)
    _, held_out = stratified(texts.classes, options.held_out)
    digest = hashlib.sha256(json.dumps([texts.labels, texts.texts]).encode())
    for array in (texts.classes.astype(np.int64), held_out):
        digest.update(array.tobytes())
    return digest.hexdigest()


# ---------------------------------------------------------------- the space


def search_space(**given: Any) -> SearchSpace:
    """Return the genes for these options of `evaluate`.

    Raises:
        OptionError: An option is out of its range, or the texts cannot be used.
    """
    options = options_from(given)
    _texts(options)
    size = SIZES[options.size]
    lr, depth, widths, heads = size["lr"], size["depth"], size["width"], size["heads"]

    def repair(genome: dict[str, Any]) -> dict[str, Any]:
        """Move heads to the nearest divisor of width."""
        return {**genome, "heads": nearest_divisor(genome["width"], genome["heads"], heads[1])}

    genes = {
        "lr": Float(lr[0], lr[1], log=True, default=lr[2]),
        "batch": Choice(size["batch"], ordered=True, default=size["batch"][0]),
        "depth": Int(depth[0], depth[1], default=depth[2]),
        "width": Int(widths[0], widths[1], step=widths[2], default=widths[3]),
        "heads": Int(heads[0], heads[1], default=heads[2]),
        "ffn_mult": Choice((1, 2, 4), ordered=True, default=4),
        "dropout": Float(0.0, 0.5, default=0.1),
        "weight_decay": Float(1e-4, 0.3, log=True, default=0.01),
        "label_smoothing": Float(0.0, 0.2, default=0.0),
        "warmup": Float(0.0, 0.1, default=0.05),
    }
    if options.length is None:
        genes["length"] = Choice(size["length"], ordered=True, default=size["default_length"])
    return SearchSpace(repair, **genes)


SPACE = search_space


def _config(genome: Mapping[str, Any], options: Options) -> TextConfig:
    return TextConfig(
        classes=len(_texts(options).labels),
        unit=options.unit,
        length=genome.get("length", options.length),
        **{name: genome[name] for name in ("depth", "width", "heads", "ffn_mult", "dropout")},
    )


@lru_cache(maxsize=64)
def _seen(options: Options, config: TextConfig) -> tuple[int, float]:
    """Return the number of training texts, and the mean number of their tokens that are read."""
    texts = _texts(options)
    training, _ = stratified(texts.classes, options.held_out)
    sizes = [len(tokens_of(texts.texts[row], config)) for row in training]
    return len(sizes), sum(sizes) / len(sizes)


def estimate(genome: Mapping[str, Any], **given: Any) -> dict[str, float]:
    """Return what is known before training: params, and flops and samples of the full training.

    FLOPs are those of texts of mean length.
    """
    options = options_from(given)
    config = _config(genome, options)
    rows, tokens = _seen(options, config)
    each = config.flops_per_sample(tokens)
    samples = options.plan.samples(rows, each)
    return {"params": config.parameters, "samples": samples, "flops": samples * each}


# ---------------------------------------------------------------- the training


def evaluate(
    genome: Mapping[str, Any],
    run: Context,
    *,
    data: str = "",
    text: str = "text",
    label: str = "label",
    unit: Literal["words", "bytes"] = "words",
    length: int | None = None,
    held_out: float = 0.25,
    size: Literal["small", "large"] = "small",
    flops: float | None = None,
    epochs: float | None = None,
    schedule: Literal["cosine", "linear", "constant", "wsd", "multi_step", "sgdr", "cosine_step"] = "cosine",
    min_lr_ratio: float = 0.0,
    decay_fraction: float = 0.2,
    clip: float = 1.0,
    save: bool = False,
) -> dict[str, float]:
    """Train one genome and judge it on the held-out texts.

    Args:
        genome: Values of the genes.
        run: Device, seed, budget and folders.
        data: CSV or JSONL file; empty: docstrings of installed packages.
        text: Name of the column of texts.
        label: Name of the column of labels.
        unit: What a text is cut into: what its tokens are.
        length: Tokens of a text that are read, from its start; left out, it is a gene.
        held_out: Share of each class that is held out.
        size: Which space to search: small for a CPU, large for a GPU and tens of thousands of texts.
        flops: Budget in FLOPs (the default, as in SIZES).
        epochs: Budget in passes over the training texts.
        schedule: Shape of the learning rate after warm-up.
        min_lr_ratio: Its end, as a share of its peak.
        decay_fraction: Share of the steps in which the schedule wsd decays.
        clip: Largest norm of the gradient.
        save: Keep a checkpoint of a full training too.

    Returns:
        The metrics in METRICS; resumed_step if it was to go on from a checkpoint.

    Raises:
        Diverged: The training was lost.
    """
    given = {**locals()}
    del given["genome"], given["run"]
    return _train(genome, run, Options(**given))[1]


def _train(genome: Mapping[str, Any], run: Context, options: Options) -> tuple[TextClassifier, dict[str, float]]:
    import torch

    from evo_tune.training import Examples, TextClassifier, encode_texts, fit, reproducible, seed_for

    texts, config = _texts(options), _config(genome, options)
    inputs, classes = torch.from_numpy(encode_texts(texts.texts, config)), torch.from_numpy(texts.classes).long()
    training, held = (torch.from_numpy(rows) for rows in stratified(texts.classes, options.held_out))
    examples = Examples(inputs[training], classes[training], inputs[held], classes[held])
    with reproducible(run.threads, run.device):
        model = TextClassifier(config, seed=seed_for(run.seed, "weights"), labels=texts.labels)
        metrics = fit(
            model.to(run.device),
            examples,
            run,
            options.plan,
            **{name: genome[name] for name in ("lr", "batch", "weight_decay", "warmup", "label_smoothing")},
            flops_per_sample=config.flops_per_sample(_seen(options, config)[1]),
            task={"genome": dict(genome), "data": options.data, "texts": len(inputs)},
            keep=options.save,
        )
    return model, metrics


# ---------------------------------------------------------------- the model, to keep

USAGE = """# A text classifier, found by evo-tune

    from evo_tune.training import TextClassifier
    model = TextClassifier.load({folder!r})
    print(model.classify(["Return the shortest path between two nodes."]))

It tells the classes {labels}. `probabilities`, of what `encode_texts` makes of texts, gives the probability of each.
model.safetensors holds the weights, config.json the shape, the classes, the genome, the options and the metrics:
{accuracy:.1%} of the held-out texts classified rightly.
"""


def export(genome: Mapping[str, Any], run: Context, folder: Path | str, **given: Any) -> dict[str, float]:
    """Train a genome once more and write it as something to use: weights, config.json and README.md.

    Args:
        genome: Values of the genes.
        run: Device, seed and threads.
        folder: Where; made if it is not there.
        given: The options of `evaluate`.

    Returns:
        What `evaluate` returns.
    """
    options = options_from(given)
    model, metrics = _train(genome, run, options)
    model.save(folder, genome=dict(genome), options=asdict(options), seed=run.seed, metrics=metrics)
    text = USAGE.format(folder=str(folder), labels=", ".join(model.labels), accuracy=metrics["accuracy"])
    (Path(folder) / "README.md").write_text(text, encoding="utf-8")
    return metrics


def load(folder: Path | str) -> TextClassifier:
    """Return a model that `export` wrote."""
    from evo_tune.training import TextClassifier

    return TextClassifier.load(folder)
