"""An FT-Transformer on a table: CSV or Parquet, or scikit-learn's breast cancer; minimises val_loss (nats).

`-o data=FILE -o target=COLUMN` names the table and what is to be told from its other columns. Columns of numbers
are standardised by the training rows' mean and deviation, columns of texts are embedded; `-o categorical=a,b` takes
columns of numbers as categories too, and `-o ignore=id,date` leaves columns out. Missing values need no care: a
missing number counts as the mean plus something learnt, a missing category, or one that no training row has, as a
category of its own. Rows without a target are an error. A quarter of each class is held out, the same rows for every
genome and seed. What is held equal between genomes is arithmetic (`-o flops=3e10`, the default) or passes over the
rows (`-o epochs=30`).

Gradient boosting is what a Transformer on a table has to be measured against. scikit-learn's
HistGradientBoostingClassifier, with its defaults, is trained on the same rows once per worker, and its scores on the
held-out ones stand beside each trial's as baseline_loss, baseline_auc and baseline_accuracy. `-o baseline=false`
does without, and without scikit-learn.

The default genome is FT-Transformer's own default (Gorishniy et al., arXiv:2106.11959, appendix: 3 blocks of width
192 with 8 heads, feed-forward layers of 4/3, dropout 0.1, weight decay 1e-5), smaller and with a larger learning rate
where the data is small (see `SIZES`); dropout is that of the residual branches, and attention has none. How to train
is `evo_tune.training`'s. The parent process imports this file too, so torch is imported inside functions only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from evo_tune import Choice, Float, Int, Minimize, SearchSpace
from evo_tune.errors import OptionError
from evo_tune.training import CLASSIFIER_METRICS, Columns, FTConfig, Plan, nearest_divisor, stratified

if TYPE_CHECKING:
    import pandas as pd

    from evo_tune import Context
    from evo_tune.training import FTTransformer

OBJECTIVES = [Minimize("val_loss")]

METRICS = {**CLASSIFIER_METRICS, "baseline_loss": "nats", "baseline_auc": "", "baseline_accuracy": ""}

MOST_CLASSES, MOST_CATEGORIES = 100, 1000
"""More of them look like a target to be regressed, or like an identifier."""

SIZES: dict[str, dict[str, Any]] = {
    "small": {
        "flops": 3e10,
        "lr": (1e-4, 3e-2, 1e-3),
        "batch": (32, 64, 128, 256),
        "depth": (1, 4, 2),
        "width": (16, 64, 8, 32),
        "heads": (1, 8, 4),
    },
    "large": {
        "flops": 1e14,
        "lr": (1e-5, 1e-3, 1e-4),
        "batch": (256, 512, 1024, 2048),
        "depth": (1, 6, 3),
        "width": (64, 512, 64, 192),
        "heads": (1, 16, 8),
    },
}
"""Default budget, and bounds and default of each gene: lr, depth and heads (low, high, default), width (low,
high, step, default), batch (its first value is the default)."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `evaluate`, checked; their defaults stand in its signature."""

    data: str
    target: str
    categorical: str
    ignore: str
    held_out: float
    baseline: bool
    size: str
    flops: float | None
    epochs: float | None
    schedule: str
    min_lr_ratio: float
    decay_fraction: float
    clip: float
    save: bool

    def __post_init__(self) -> None:
        if self.data and not self.target:
            raise OptionError(f"-o data={self.data} needs -o target=COLUMN: the column to be told from the others")
        if not self.data and (self.target or self.categorical):
            raise OptionError("-o target and -o categorical name columns of a file: give one with -o data=FILE")
        _ = self.plan  # checks the rest

    @property
    def plan(self) -> Plan:
        """Budget and schedule."""
        names = ("flops", "epochs", "schedule", "min_lr_ratio", "decay_fraction", "clip")
        return Plan.of(SIZES[self.size]["flops"], **{name: getattr(self, name) for name in names})


def options_from(given: Mapping[str, Any]) -> Options:
    """Return options, those not given at their defaults."""
    return Options(**{**(evaluate.__kwdefaults__ or {}), **given})


# ---------------------------------------------------------------- the table


@dataclass(frozen=True)
class Table:
    """Rows as numbers (n, columns; see `Columns`), their class numbers (n,), the split into rows, and the names."""

    inputs: np.ndarray
    classes: np.ndarray
    training: np.ndarray
    held_out: np.ndarray
    columns: Columns
    labels: tuple[str, ...]


def _table(options: Options) -> Table:
    return _prepare(options.data, options.target, options.categorical, options.ignore, options.held_out)


@lru_cache(maxsize=1)  # a worker trains on the same table again and again
def _prepare(data: str, target: str, categorical: str, ignore: str, held_out: float) -> Table:
    frame, target = (_read(data), target) if data else (_breast_cancer(), "diagnosis")
    known = f"-o data={data} has the columns {', '.join(map(str, frame.columns))}"
    names = {
        option: [name for name in text.split(",") if name]
        for option, text in (("categorical", categorical), ("ignore", ignore))
    }
    for option, given in (("target", [target]), *names.items()):
        for name in given:
            if name not in frame.columns:
                raise OptionError(f"-o {option}={name}: no such column; {known}")
    labels, classes = _classes(frame[target], target)
    frame = frame.drop(columns=[target, *names["ignore"]], errors="ignore")
    if not len(frame.columns):
        raise OptionError(f"{known}: expected one at least beside target and ignore")
    training, held = stratified(classes, held_out)
    columns = Columns.learn(frame.iloc[training], *_kinds(frame, names["categorical"]))
    for name, categories in columns.categorical.items():
        if len(categories) > MOST_CATEGORIES:
            raise OptionError(
                f"column {name!r} holds {len(categories)} different texts: expected at most {MOST_CATEGORIES}; "
                f"leave it out with -o ignore={name}"
            )
    return Table(columns.encode(frame), classes, training, held, columns, labels)


def _read(data: str) -> pd.DataFrame:
    import pandas as pd

    path = Path(data).expanduser()
    if not path.is_file():
        raise OptionError(f"-o data={data} is no file (from {Path.cwd()}): give a CSV or Parquet file, or leave it out")
    try:
        frame = pd.read_parquet(path) if path.suffix in (".parquet", ".pq") else pd.read_csv(path)
    except Exception as error:  # pandas and pyarrow raise half a dozen kinds
        reason = " ".join(str(error).split())
        raise OptionError(f"-o data={data}: cannot read it as a table ({reason}): give a CSV or Parquet file") from None
    frame.columns = frame.columns.map(str)
    if not frame.columns.is_unique:
        raise OptionError(f"-o data={data}: two columns have the same name: rename one")
    return frame


def _breast_cancer() -> pd.DataFrame:
    try:
        from sklearn.datasets import load_breast_cancer
    except ImportError:
        raise OptionError(
            "the default data comes with scikit-learn, which is not installed: pip install 'evo-tune[sklearn]', or "
            "give your own with -o data=FILE -o target=COLUMN"
        ) from None
    loaded = load_breast_cancer(as_frame=True)
    return loaded.data.assign(diagnosis=loaded.target_names[loaded.target])


def _classes(column: pd.Series[Any], target: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the names of the classes and each row's class number."""
    if column.isna().any():
        missing = int(column.isna().sum())
        raise OptionError(f"-o target={target}: {missing} of {len(column)} rows have none: remove them")
    labels, classes = np.unique(column.to_numpy(), return_inverse=True)
    if not 2 <= len(labels) <= MOST_CLASSES:
        raise OptionError(
            f"-o target={target} has {len(labels)} different values: expected 2 to {MOST_CLASSES} classes"
        )
    rarest = int(np.bincount(classes).argmin())
    if np.bincount(classes)[rarest] < 2:
        raise OptionError(
            f"-o target={target}: one row only of class {labels[rarest]!s}: expected at least 2, one to hold out"
        )
    return tuple(map(str, labels)), classes


def _kinds(frame: pd.DataFrame, categorical: list[str]) -> tuple[list[str], list[str]]:
    """Return the names of the numeric columns and of the others."""
    from pandas.api import types

    numeric, others = [], []
    for name in frame.columns:
        column = frame[name]
        if (
            types.is_datetime64_any_dtype(column)
            or types.is_timedelta64_dtype(column)
            or types.is_complex_dtype(column)
        ):
            raise OptionError(f"column {name!r} is of type {column.dtype}: expected numbers or texts; -o ignore={name}")
        if name in categorical or not types.is_numeric_dtype(column):
            others.append(name)
        elif np.isinf(column.to_numpy(float, na_value=np.nan)).any():
            raise OptionError(f"column {name!r} holds infinite numbers: expected finite ones; -o ignore={name}")
        else:
            numeric.append(name)
    return numeric, others


def fingerprint(**given: Any) -> str:
    """Return the SHA-256 of the table and of how it is split."""
    table = _table(options_from(given))
    digest = hashlib.sha256(f"{table.columns}{table.labels}".encode())
    for array in (table.inputs, table.classes, table.held_out):
        digest.update(array.tobytes())
    return digest.hexdigest()


# ---------------------------------------------------------------- gradient boosting, to compare with


def _baseline(options: Options) -> dict[str, float]:
    if not options.baseline:
        return {}
    return _boosted(options.data, options.target, options.categorical, options.ignore, options.held_out)


@lru_cache(maxsize=1)  # once per worker
def _boosted(*where: Any) -> dict[str, float]:
    """Return what gradient boosting with its defaults makes of the same rows."""
    try:
        from sklearn.ensemble import HistGradientBoostingClassifier
        from threadpoolctl import threadpool_limits  # comes with it
    except ImportError:
        raise OptionError(
            "the baseline is scikit-learn's, which is not installed: pip install 'evo-tune[sklearn]', or "
            "-o baseline=false"
        ) from None
    from evo_tune.training import auc

    table = _prepare(*where)
    first = len(table.columns.numeric)
    few = [len(categories) < 255 for categories in table.columns.categorical.values()]  # it takes no more
    model = HistGradientBoostingClassifier(random_state=0, categorical_features=[False] * first + few)
    with threadpool_limits(1):  # small tables gain nothing from more threads, and lose much on busy cores
        model.fit(table.inputs[table.training], table.classes[table.training])
    found, truth = model.predict_proba(table.inputs[table.held_out]), table.classes[table.held_out]
    own = np.maximum(found[np.arange(len(truth)), truth], 1e-15)
    return {
        "baseline_loss": float(-np.log(own).mean()),
        "baseline_auc": auc(found, truth),
        "baseline_accuracy": float((found.argmax(1) == truth).mean()),
    }


# ---------------------------------------------------------------- the space


def search_space(**given: Any) -> SearchSpace:
    """Return the genes for these options of `evaluate`.

    Raises:
        OptionError: An option is out of its range, or the table cannot be used.
    """
    options = options_from(given)
    _table(options)
    size = SIZES[options.size]
    lr, depth, widths, heads = size["lr"], size["depth"], size["width"], size["heads"]

    def repair(genome: dict[str, Any]) -> dict[str, Any]:
        """Move heads to the nearest divisor of width."""
        return {**genome, "heads": nearest_divisor(genome["width"], genome["heads"], heads[1])}

    return SearchSpace(
        repair,
        lr=Float(lr[0], lr[1], log=True, default=lr[2]),
        batch=Choice(size["batch"], ordered=True, default=size["batch"][0]),
        depth=Int(depth[0], depth[1], default=depth[2]),
        width=Int(widths[0], widths[1], step=widths[2], default=widths[3]),
        heads=Int(heads[0], heads[1], default=heads[2]),
        ffn_mult=Float(1.0, 4.0, default=1.333333),
        dropout=Float(0.0, 0.5, default=0.1),
        weight_decay=Float(1e-6, 0.3, log=True, default=1e-5),
        label_smoothing=Float(0.0, 0.2, default=0.0),
        warmup=Float(0.0, 0.1, default=0.05),
    )


SPACE = search_space


def _config(genome: Mapping[str, Any], options: Options) -> FTConfig:
    table = _table(options)
    return FTConfig(
        classes=len(table.labels),
        numeric=len(table.columns.numeric),
        categories=tuple(len(categories) for categories in table.columns.categorical.values()),
        **{name: genome[name] for name in ("depth", "width", "heads", "ffn_mult", "dropout")},
    )


def estimate(genome: Mapping[str, Any], **given: Any) -> dict[str, float]:
    """Return what is known before training: params, and flops and samples of the full training."""
    options = options_from(given)
    config = _config(genome, options)
    samples = options.plan.samples(len(_table(options).training), config.flops_per_sample)
    return {"params": config.parameters, "samples": samples, "flops": samples * config.flops_per_sample}


# ---------------------------------------------------------------- the training


def evaluate(
    genome: Mapping[str, Any],
    run: Context,
    *,
    data: str = "",
    target: str = "",
    categorical: str = "",
    ignore: str = "",
    held_out: float = 0.25,
    baseline: bool = True,
    size: Literal["small", "large"] = "small",
    flops: float | None = None,
    epochs: float | None = None,
    schedule: Literal["cosine", "linear", "constant", "wsd", "multi_step", "sgdr", "cosine_step"] = "cosine",
    min_lr_ratio: float = 0.0,
    decay_fraction: float = 0.2,
    clip: float = 1.0,
    save: bool = False,
) -> dict[str, float]:
    """Train one genome and judge it on the held-out rows.

    Args:
        genome: Values of the genes.
        run: Device, seed, budget and folders.
        data: CSV or Parquet file; empty: scikit-learn's breast cancer, 569 rows of 30 numbers.
        target: The column to be told from the others.
        categorical: Columns of numbers that are categories, with commas between them.
        ignore: Columns to leave out, with commas between them.
        held_out: Share of each class that is held out.
        baseline: Whether gradient boosting is trained too, once per worker.
        size: Which space to search: small for a CPU, large for tens of thousands of rows.
        flops: Budget in FLOPs (the default, as in SIZES).
        epochs: Budget in passes over the training rows.
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
    options = Options(**given)
    return {**_train(genome, run, options)[1], **_baseline(options)}


def _train(genome: Mapping[str, Any], run: Context, options: Options) -> tuple[FTTransformer, dict[str, float]]:
    import torch

    from evo_tune.training import Examples, FTTransformer, fit, reproducible, seed_for

    table, config = _table(options), _config(genome, options)
    inputs, classes = torch.from_numpy(table.inputs), torch.from_numpy(table.classes).long()
    training, held = torch.from_numpy(table.training), torch.from_numpy(table.held_out)
    examples = Examples(inputs[training], classes[training], inputs[held], classes[held])
    with reproducible(run.threads, run.device):
        seed = seed_for(run.seed, "weights")
        model = FTTransformer(config, seed=seed, labels=table.labels, columns=table.columns)
        model.standardise(examples.inputs)
        genes = ("lr", "batch", "weight_decay", "warmup", "label_smoothing")
        metrics = fit(
            model.to(run.device),
            examples,
            run,
            options.plan,
            **{name: genome[name] for name in genes},
            flops_per_sample=config.flops_per_sample,
            task={"genome": dict(genome), "data": options.data, "target": options.target, "rows": len(inputs)},
            keep=options.save,
        )
    return model, metrics


# ---------------------------------------------------------------- the model, to keep

USAGE = """# An FT-Transformer, found by evo-tune

    from evo_tune.training import FTTransformer
    model = FTTransformer.load({folder!r})
    table = {{name: [None] for name in model.columns.names}}
    print(model.classify(table))

Put your table in place of that one, whose one row is missing: a pandas DataFrame for one, with the same columns.
`model.columns.encode(table)` makes numbers of it, of which `probabilities` gives the probability of each class.
model.safetensors holds the weights, config.json the shape, columns and categories, the genome, the options and the
metrics: an AUC of {auc:.4f} on held-out rows.
"""


def export(genome: Mapping[str, Any], run: Context, folder: Path | str, **given: Any) -> dict[str, float]:
    """Train a genome once more and write it as something to use: weights, config.json and README.md.

    Args:
        genome: Values of the genes.
        run: Device, seed and threads.
        folder: Where; made if it is not there.
        given: The options of `evaluate`.

    Returns:
        What `evaluate` returns, without the baseline.
    """
    options = options_from(given)
    model, metrics = _train(genome, run, options)
    model.save(folder, genome=dict(genome), options=asdict(options), seed=run.seed, metrics=metrics)
    text = USAGE.format(folder=str(folder), auc=metrics["auc"])
    (Path(folder) / "README.md").write_text(text, encoding="utf-8")
    return metrics


def load(folder: Path | str) -> FTTransformer:
    """Return a model that `export` wrote."""
    from evo_tune.training import FTTransformer

    return FTTransformer.load(folder)
