"""A Transformer, boosted trees or a linear model on a table: CSV, Parquet or breast cancer; minimises val_loss.

`-o data=FILE -o target=COLUMN` names the table and the column to predict from the others. A target of numbers with
fractions, or of more than 20 different ones, is regression, any other classification; `-o task=` says otherwise.
val_loss is the cross-entropy in nats, or the squared error as a share of the target's variance.

Columns of numbers are brought to one scale by the training rows, columns of texts are embedded; `-o categorical=a,b`
takes columns of numbers as categories too, and `-o ignore=a,b` leaves columns out. A date becomes seven numbers: year,
month, day, day of the week and of the year, second of the day, days since 1970. Columns that are constant, count the
rows or have another text in every row are left out: `run --dry-run` says what each column is taken for. A missing
number counts as the mean plus something learnt, a missing category, or one that no training row has, as another. Rows
without a target are an error unless `-o drop_unlabelled=true` leaves them out. A fifth of the rows, and of each class,
judges trials and a fifth is the test set, the same rows for every genome and seed. All genomes have the same budget:
time (by default that of the default genome with `-o flops=3e10`), arithmetic (`-o flops=`) or passes over the rows (`-o
epochs=30`).

The baseline is gradient boosting: scikit-learn's HistGradientBoosting with its defaults, on the same rows. A run trains
it once and compares the best trial with it; `--no-baseline` leaves it out.

`-o families=auto` searches over boosted trees (LightGBM's) and a linear model as well; `family` is then a gene (see
`evo_tune.training.recipe.families`).

The default genome of the Transformer follows the default of FT-Transformer's paper (Gorishniy et al., arXiv:2106.11959,
appendix: 3 blocks of width 192 with 8 heads, feed-forward layers of 4/3, dropout 0.1, weight decay 1e-5), smaller and
with a larger learning rate where the data is small (see `SIZES`). Two things differ from the paper. Feed-forward layers
have a GELU instead of ReGLU, which was not better (-.007 ±.042 of the logarithm of the loss).
Dropout is that of the residual branches; the paper's is inside the feed-forward layers and in attention. How to train
is `evo_tune.training`'s. The parent process imports this file too, so torch is imported inside functions only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from evo_tune import Choice, Float, Int, Minimize, SearchSpace, option
from evo_tune.errors import OptionError
from evo_tune.training.recipe import (
    BOOSTING,
    FAMILY_COSTS,
    TABLE_RIVALS,
    TRANSFORMER,
    UNIT_COSTS,
    ClassifierOptions,
    ClassifierTask,
    EncoderSize,
    FittedFamilyOptions,
    FTConfig,
    LinearConfig,
    QuantileOptions,
    RegressionTask,
    SplitOptions,
    StoppingOptions,
    Table,
    TableConfig,
    TableOptions,
    TableSource,
    TreesConfig,
    data_hash,
    describe_table,
    encoder_estimate,
    encoder_step_work,
    fitted_estimate,
    full_steps,
    metric_units,
    names_on_test_set,
    read_table,
    redeclare,
    repair_heads,
)

if TYPE_CHECKING:
    from evo_tune import Context
    from evo_tune.training import Ranks, SampleTraining

OBJECTIVES = [Minimize("val_loss")]

METRICS = metric_units("classes", "regression")
TEST = names_on_test_set("classes", "regression")
SUPPORTS = ["budget", "curve", "timing", "ensemble"]
CPU_COSTS = UNIT_COSTS | FAMILY_COSTS
BASELINE = "gradient boosting"


# With fewer rows, trees and linear models are judged by cross-validation, and `families=auto` leaves out the
# Transformer, whose trainings take too long for that (benchmarks/LOG.md).
FEWEST_ROWS, FOLDS = 2000, 4

SIZES = {
    "small": EncoderSize(
        flops=3e10,
        lr=Float(1e-4, 3e-2, log=True, default=1e-3),
        batch=Choice((32, 64, 128, 256), ordered=True, default=32),
        depth=Int(1, 4, default=2),
        width=Int(16, 64, step=8, default=32),
        heads=Int(1, 8, default=4),
    ),
    "large": EncoderSize(
        flops=1e14,
        lr=Float(1e-5, 1e-3, log=True, default=1e-4),
        batch=Choice((256, 512, 1024, 2048), ordered=True, default=256),
        depth=Int(1, 6, default=3),
        width=Int(64, 512, step=64, default=192),
        heads=Int(1, 16, default=8),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Options(FittedFamilyOptions, TableOptions, SplitOptions, ClassifierOptions, QuantileOptions):
    """The table."""

    sizes = SIZES
    rivals = TABLE_RIVALS

    dropped: ClassVar[dict[str, object]] = {"ffn": "gelu"}  # options of earlier versions

    data: str = option("", gene=None, help="CSV, Parquet or JSONL file; empty: scikit-learn's breast cancer")
    header: Literal["first", "none"] = option(
        "first", gene=None, help="Where a CSV file names its columns; none: they are column1, column2, …"
    )
    target: str = option("", gene=None, help="The column to predict from the others")
    task: Literal["auto", "classification", "regression"] = option(
        "auto",
        gene=None,
        help="Kind of task; auto: regression for a number with fractions or more than 20 values, else classification",
    )
    folds: int | None = option(
        None,
        bounds="[1, 20]",
        gene=None,
        help="Fits of a trial of trees or a linear model, each judged by other rows of training and validation; none: "
        f"{FOLDS} for fewer than {FEWEST_ROWS} rows, else 1; 3 or more need families without transformer",
    )
    drop_unlabelled: bool = option(
        False, gene=None, help="Leave out rows without a target; otherwise they are an error"
    )
    categorical: str = option("", gene=None, help="Columns of numbers that are categories, with commas between them")
    # Small tables are learnt by heart soon after they are learnt. The patience is that of the paper.
    evaluations: int = redeclare(StoppingOptions, "evaluations", 32, reason="often, so that patience stops in time")
    patience: int | None = redeclare(StoppingOptions, "patience", 16, reason="small tables are soon learnt by heart")

    def check(self) -> None:
        """Require a target of a file, and a file where columns are named.

        Raises:
            OptionError: One is missing.
        """
        if self.data and not self.target:
            raise OptionError(f"-o data={self.data} needs -o target=COLUMN: the column to predict from the others")
        if not self.data and (self.target or self.categorical or self.split_by):
            raise OptionError("-o target, categorical and split_by name columns of a file: give one with -o data=FILE")

    @property
    def reasons_to_leave_out(self) -> dict[str, str]:
        reasons, rows = super().reasons_to_leave_out, len(self.table.inputs)
        if rows < FEWEST_ROWS:
            reasons[TRANSFORMER] = f"{rows} rows are too few to tell whether it is better"
        return reasons

    @property
    def fits(self) -> int:
        """Fits of a trial that is no training of a Transformer."""
        if self.folds is not None:
            return self.folds
        needs_folds = len(self.table.inputs) < FEWEST_ROWS and TRANSFORMER not in self.family_names
        return FOLDS if needs_folds and self.table.can_cross_validate(FOLDS) else 1

    def check_folds(self) -> None:
        """Require rows that can be divided into folds, and families without the Transformer.

        Raises:
            OptionError: Rows or families do not suit the folds that are given, or they are two.
        """
        if self.folds in (None, 1):
            return
        if self.folds == 2:
            raise OptionError("-o folds=2: expected 1, or 3 to 20")
        if TRANSFORMER in self.family_names:
            expected = (
                "families without transformer, which is trained once for a trial: give -o families=boosting,linear"
            )
            raise OptionError(f"-o folds={self.folds} needs {expected}")
        if not self.table.can_cross_validate(self.folds):
            problem = "a class or group has too few rows for so many folds, or the rows are divided by time"
            raise OptionError(f"-o folds={self.folds}: {problem}: leave folds out")

    @property
    def table(self) -> Table:
        """What there is to learn from.

        Raises:
            OptionError: The table cannot be used, or class_weights is given for numbers.
        """
        table = read_table(TableSource(**{field.name: getattr(self, field.name) for field in fields(TableSource)}))
        if table.regression and self.class_weights != "none":
            raise OptionError(
                f"-o class_weights={self.class_weights}: the target {table.target.name} is regression, which has no "
                "classes: leave class_weights out, or give -o task=classification"
            )
        return table


# ---------------------------------------------------------------- the rows


def describe(options: Options) -> list[str]:
    """Return what was read: rows, target, and the kind of each column; first a family that is left out."""
    return options.describe_families() + describe_table(options.table)


def fingerprint(options: Options) -> str:
    """Return the SHA-256 of the table and of how it is split."""
    table = options.table
    first = f"{table.columns}{table.target.labels}".encode()
    return data_hash(first, table.inputs, table.target.values, table.training, table.held_out, table.test)


def baseline(options: Options) -> dict[str, float]:
    """Return the metrics of gradient boosting with its defaults, on the same rows and folds.

    Raises:
        OptionError: scikit-learn is not installed.
    """
    from evo_tune.training import table_baseline

    return table_baseline(options.table, options.fits)


# ---------------------------------------------------------------- the space


def search_space(options: Options) -> SearchSpace:
    """Return the genes under these options.

    Raises:
        OptionError: An option is out of its range, or the table cannot be used.
    """
    options.check_folds()
    size = SIZES[options.size]
    of_classes = {} if options.table.regression else {"label_smoothing": Float(0.0, 0.2, default=0.0)}
    transformer = {
        **size.steps(options.lr_factor),
        **size.shape,
        "ffn_mult": Float(1.0, 4.0, default=1.333333),
        "dropout": Float(0.0, 0.5, default=0.1),
        "weight_decay": Float(1e-6, 0.3, log=True, default=1e-5),
        **of_classes,
        "warmup": Float(0.0, 0.1, default=0.05),
    }
    has_heads = TRANSFORMER in options.family_names
    repair = (lambda genome: repair_heads(genome, size.heads.high)) if has_heads else None
    return SearchSpace(repair, **options.family_genes(transformer)).near_default()


SPACE = search_space


def _config(genome: Mapping[str, Any], options: Options) -> FTConfig:
    table = options.table
    numeric, categories = table.columns.sizes
    return FTConfig(
        outputs=len(table.target.labels) or 1,
        numeric=numeric,
        categories=categories,
        quantiles=options.quantiles_of(len(table.training)),
        scaling=options.scaling,
        **{name: genome[name] for name in ("depth", "width", "heads", "ffn_mult", "dropout")},
    )


def _workload(genome: Mapping[str, Any], options: Options) -> dict[str, Any]:
    """Return a Transformer's shape, the number of training samples, and the FLOPs of one."""
    config = _config(genome, options)
    return {"config": config, "rows": len(options.table.training), "flops_per_sample": config.flops_per_sample}


def _fitted_config(genome: Mapping[str, Any], options: Options) -> TableConfig:
    """Return the shape of a model of another family, before it is fitted."""
    table = options.table
    numeric, categories = table.columns.sizes
    shape: dict[str, Any] = {"outputs": len(table.target.labels) or 1, "numeric": numeric, "categories": categories}
    if options.family_of(genome) == BOOSTING:
        return TreesConfig(**shape)
    return LinearConfig(**shape, knots=genome["knots"])


def estimate(genome: Mapping[str, Any], options: Options) -> dict[str, float]:
    """Return what is known before training: params, steps and gpu_memory; of a Transformer also flops and samples."""
    if options.family_of(genome) != TRANSFORMER:
        return fitted_estimate(options, genome, _fitted_config(genome, options), work(genome, options))
    return encoder_estimate(genome, options, **_workload(genome, options))


def work(genome: Mapping[str, Any], options: Options) -> dict[str, float]:
    """Return the work of a step, whose cost a run measures."""
    if options.family_of(genome) != TRANSFORMER:
        rows, held_out = len(options.table.training), len(options.table.held_out)
        step = _fitted_config(genome, options).step_work(genome, rows, held_out)
        return {kind: options.fits * amount for kind, amount in step.items()}
    return encoder_step_work(genome, options, **_workload(genome, options))


# ---------------------------------------------------------------- the training


def _task(genome: Mapping[str, Any], options: Options) -> ClassifierTask | RegressionTask:
    """Return a genome as a training."""

    def build(seed: int) -> Any:
        from evo_tune.training import BoostedTrees, FTTransformer, LinearModel

        parts: dict[str, Any] = {"labels": labels, "columns": table.columns, "scale": scale}
        if family == TRANSFORMER:
            return FTTransformer(_config(genome, options), seed=seed, **parts)
        return (BoostedTrees if family == BOOSTING else LinearModel)(_fitted_config(genome, options), **parts)

    table, family, step = options.table, options.family_of(genome), work(genome, options)
    target, scale = table.target, table.scale if table.regression else None
    labels = target.labels or (target.name,)
    is_network = family == TRANSFORMER
    shared: dict[str, Any] = {
        "options": options,
        "genome": genome,
        "build": build,
        "inputs": table.inputs,
        "flops_per_sample": _config(genome, options).flops_per_sample if is_network else 0.0,
        "reference": SIZES[options.size].batch.values[0],
        "data": fingerprint(options),
        "work": step,
        "fit_steps": None if is_network else full_steps(family, options, step),
        "folds": table.folds(options.fits) if not is_network and options.fits > 1 else (),
    }
    if scale is None:
        return ClassifierTask(**shared, classes=target.values, division=table.division)
    parts = table.training, table.held_out, table.test
    return RegressionTask(**shared, numbers=target.values[:, None], split=parts, scale=scale)


def _kind(options: Options) -> type[SampleTraining]:
    from evo_tune.training import ClassifierTraining, RegressionTraining

    return RegressionTraining if options.table.regression else ClassifierTraining


def evaluate(genome: Mapping[str, Any], context: Context, options: Options) -> dict[str, float]:
    """Train one genome and judge it on the held-out rows.

    Returns:
        Metrics of METRICS; resumed_step if the training continued from a checkpoint.

    Raises:
        Diverged: The training was lost.
    """
    from evo_tune.training import evaluate_task, fit_task

    task = _task(genome, options)
    if task.fit_steps is not None:
        return fit_task(task, _kind(options), context).metrics
    return evaluate_task(task, _kind(options), train_rank, context)


def train_rank(
    ranks: Ranks, tell: Callable[[dict[str, float]], None], *, genome: Any, run: Any, options: Any
) -> dict[str, float]:
    """Be one of the processes that train together."""
    from evo_tune.training import RankRun, train

    bound_options = Options(**options)
    return train(_task(genome, bound_options), RankRun.of(ranks, tell, run), _kind(bound_options), ranks)[1]


# ---------------------------------------------------------------- the model, to keep


def export(genome: Mapping[str, Any], context: Context, folder: Path | str, options: Options) -> dict[str, float]:
    """Train a genome once more and write it as something to use: weights and config.json.

    One process trains, whatever ranks says. Returns what `evaluate` returns.
    """
    from evo_tune.training import export_encoder, export_fitted

    task = _task(genome, options)
    if task.fit_steps is not None:
        return export_fitted(task, _kind(options), context, folder)
    return export_encoder(task, context, folder, _kind(options))
