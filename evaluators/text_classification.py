"""A Transformer or a linear model on texts with labels: CSV, JSONL or docstrings by package; minimises val_loss (nats).

`-o data=FILE` is a CSV or a JSONL file (one object a line) with a column of texts and one of labels, named `text` and
`label` or by `-o text=` and `-o label=`. The default data is at hand wherever this runs: the first paragraphs of
docstrings, and which package each comes from, of five that evo-tune needs or that torch brings (numpy, pandas, torch,
sympy, networkx), 800 of each at most, their names blotted out. It differs a little between versions of these; nothing
is imported to read it.

A text is read as words and punctuation marks, each by its hash, or as bytes (`-o unit=bytes`, for languages that put
no spaces between words): the first `length` of them (a gene; `-o length=256` fixes it). There is no tokenizer to fit.
A fifth of each class judges trials and a fifth is the test set, the same texts for every genome and seed. All
genomes have the same budget: time (by default that of the default genome with `-o flops=2e10`), arithmetic
(`-o flops=`) or passes over the texts (`-o epochs=10`).

`-o families=auto` searches over a linear model on TF-IDF of words and characters as well; `family` is then a gene (see
`evo_tune.training.recipe.families`).

The default genome is a pre-norm encoder that reads the mean of its tokens (after fast baselines: Joulin et al.,
arXiv:1607.01759), with the dropout and label smoothing of 0.1 of Vaswani et al. (arXiv:1706.03762), whose feed-forward
layers of 4 `size=large` has too; it is trained by Muon (`-o optimizer=adamw` is the other). How to train is
`evo_tune.training`'s. The parent process imports this file too, so torch is imported inside functions only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from evo_tune import Choice, Float, Int, Minimize, SearchSpace, option
from evo_tune.errors import OptionError
from evo_tune.training.recipe import (
    FAMILY_COSTS,
    TEXT_RIVALS,
    TRANSFORMER,
    UNIT_COSTS,
    ClassifierOptions,
    ClassifierTask,
    EncoderSize,
    FittedFamilyOptions,
    LabelledTexts,
    LinearTextConfig,
    OptimizerOptions,
    SplitOptions,
    TextConfig,
    encode_pieces,
    encode_texts,
    encoder_estimate,
    encoder_step_work,
    fitted_estimate,
    full_steps,
    metric_units,
    names_on_test_set,
    read_labelled_texts,
    redeclare,
    repair_heads,
)

if TYPE_CHECKING:
    from evo_tune import Context
    from evo_tune.training import Ranks

OBJECTIVES = [Minimize("val_loss")]

METRICS = metric_units("classes")
TEST = names_on_test_set("classes")
SUPPORTS = ["budget", "curve", "timing", "ensemble"]
CPU_COSTS = UNIT_COSTS | FAMILY_COSTS
BASELINE = "a linear model on TF-IDF"


@dataclass(frozen=True, kw_only=True)
class Size(EncoderSize):
    """A search space of texts."""

    ffn_mult: Choice
    length: Choice
    """Tokens of a text that are read."""


SIZES = {
    "small": Size(
        flops=2e10,
        lr=Float(3e-4, 3e-2, log=True, default=3e-3),
        batch=Choice((32, 64, 128, 256), ordered=True, default=32),
        depth=Int(1, 4, default=1),
        width=Int(32, 96, step=16, default=48),
        heads=Int(1, 8, default=4),
        ffn_mult=Choice((1, 2, 4), ordered=True, default=1),
        length=Choice((8, 16, 32, 64), ordered=True, default=64),
    ),
    "large": Size(
        flops=1e15,
        lr=Float(1e-4, 3e-3, log=True, default=5e-4),
        batch=Choice((32, 64, 128, 256), ordered=True, default=32),
        depth=Int(1, 6, default=4),
        width=Int(64, 384, step=64, default=256),
        heads=Int(1, 12, default=8),
        ffn_mult=Choice((1, 2, 4), ordered=True, default=4),
        length=Choice((64, 128, 256, 512), ordered=True, default=256),
    ),
}


# Number of hashes that words fall on; words that share one are the same to the model.
BUCKETS = 65536


@dataclass(frozen=True, kw_only=True)
class Options(FittedFamilyOptions, SplitOptions, ClassifierOptions):
    """The texts."""

    sizes = SIZES
    rivals = TEXT_RIVALS

    dropped: ClassVar[dict[str, object]] = {"buckets": 65536}  # options of earlier versions

    data: str = option("", gene=None, help="CSV or JSONL file; empty: docstrings of installed packages")
    text: str = option("text", gene=None, help="Name of the column of texts")
    label: str = option("label", gene=None, help="Name of the column of labels")
    unit: Literal["words", "bytes"] = option("words", help="Tokens of a text")
    length: int | None = option(
        None,
        bounds="[2, 4096]",
        unit="tokens",
        gene=None,
        help="Number of tokens read from the start of a text; by default a gene",
    )
    optimizer: Literal["auto", "adamw", "muon", "sgd"] = redeclare(
        OptimizerOptions, "optimizer", "muon", reason="at these sizes far ahead of AdamW: see docs/evaluators.md"
    )

    def check(self) -> None:
        """Require a file where columns are named.

        Raises:
            OptionError: There is none.
        """
        if not self.data and (self.text, self.label, self.split_by) != ("text", "label", ""):
            raise OptionError("-o text, label and split_by name columns of a file: give one with -o data=FILE")

    @property
    def texts(self) -> LabelledTexts:
        """What there is to learn from."""
        return read_labelled_texts(self.data, self.text, self.label, self.split_by)

    def token_statistics(self, config: TextConfig) -> tuple[int, float]:
        """Return the number of training texts, and the mean number of their tokens that are read."""
        return self.texts.token_statistics((self.validation, self.test), config)


# ---------------------------------------------------------------- the texts


def fingerprint(options: Options) -> str:
    """Return the SHA-256 of the texts, their labels and of how they are split."""
    return options.texts.fingerprint(options.validation, options.test)


def describe(options: Options) -> list[str]:
    """Return what was read: texts, their words, and the classes."""
    return options.texts.lines()


def baseline(options: Options) -> dict[str, float]:
    """Return the metrics of a logistic regression on TF-IDF, on the same texts.

    Raises:
        OptionError: scikit-learn is not installed.
    """
    from evo_tune.training import text_baseline

    texts = options.texts
    parts = texts.parts(options.validation, options.test)
    return text_baseline(texts.texts, texts.classes, parts, options.unit)


# ---------------------------------------------------------------- the space


def search_space(options: Options) -> SearchSpace:
    """Return the genes under these options.

    Raises:
        OptionError: An option is out of its range, or the texts cannot be used.
    """
    _ = options.texts  # they can be read
    size = SIZES[options.size]
    transformer = {
        **size.steps(options.lr_factor),
        **size.shape,
        "ffn_mult": size.ffn_mult,
        "dropout": Float(0.0, 0.5, default=0.1),
        "weight_decay": Float(1e-4, 0.3, log=True, default=0.1),
        "label_smoothing": Float(0.0, 0.2, default=0.1),
        "warmup": Float(0.0, 0.1, default=0.05),
    }
    if options.length is None:
        transformer["length"] = size.length
    has_heads = TRANSFORMER in options.family_names
    repair = (lambda genome: repair_heads(genome, size.heads.high)) if has_heads else None
    return SearchSpace(repair, **options.family_genes(transformer)).near_default()


SPACE = search_space


def _config(genome: Mapping[str, Any], options: Options) -> TextConfig:
    return TextConfig(
        outputs=len(options.texts.labels),
        unit=options.unit,
        buckets=BUCKETS,
        length=genome.get("length", options.length),
        scaling=options.scaling,
        **{name: genome[name] for name in ("depth", "width", "heads", "ffn_mult", "dropout")},
    )


def _workload(genome: Mapping[str, Any], options: Options) -> dict[str, Any]:
    """Return the model's shape, the number of training samples, and the FLOPs of one of mean length."""
    config = _config(genome, options)
    rows, tokens = options.token_statistics(config)
    return {"config": config, "rows": rows, "flops_per_sample": config.flops_per_sample(tokens)}


def _linear_config(genome: Mapping[str, Any], options: Options) -> LinearTextConfig:
    """Return the shape of a linear model, before it is fitted."""
    names = ("word_ngrams", "character_ngrams")
    return LinearTextConfig(outputs=len(options.texts.labels), **{name: genome[name] for name in names})


def estimate(genome: Mapping[str, Any], options: Options) -> dict[str, float]:
    """Return what is known before training: params, steps and gpu_memory; of a Transformer also flops and samples."""
    if options.family_of(genome) != TRANSFORMER:
        return fitted_estimate(options, genome, _linear_config(genome, options), work(genome, options))
    return encoder_estimate(genome, options, **_workload(genome, options))


def work(genome: Mapping[str, Any], options: Options) -> dict[str, float]:
    """Return the work of a step, whose cost a run measures."""
    if options.family_of(genome) != TRANSFORMER:
        config = _linear_config(genome, options)
        characters = options.texts.count_characters((options.validation, options.test), config.length)
        return config.step_work(genome, characters, 0)
    return encoder_step_work(genome, options, **_workload(genome, options))


# ---------------------------------------------------------------- the training


def _task(genome: Mapping[str, Any], options: Options) -> ClassifierTask:
    """Return a genome as a training."""

    def build(seed: int) -> Any:
        from evo_tune.training import LinearTextClassifier, TextClassifier

        if not is_network:
            return LinearTextClassifier(_linear_config(genome, options), labels=texts.labels)
        return TextClassifier(_config(genome, options), seed=seed, labels=texts.labels)

    texts, family, step = options.texts, options.family_of(genome), work(genome, options)
    is_network = family == TRANSFORMER
    if is_network:
        inputs, flops = encode_texts(texts.texts, _config(genome, options)), _workload(genome, options)
    else:
        inputs, flops = encode_pieces(texts.texts, _linear_config(genome, options).length), {}
    return ClassifierTask(
        options=options,
        genome=genome,
        build=build,
        inputs=inputs,
        classes=texts.classes,
        division=texts.division,
        flops_per_sample=flops.get("flops_per_sample", 0.0),
        reference=SIZES[options.size].batch.values[0],
        data=fingerprint(options),
        work=step,
        fit_steps=None if is_network else full_steps(family, options, step),
    )


def evaluate(genome: Mapping[str, Any], context: Context, options: Options) -> dict[str, float]:
    """Train one genome and judge it on the held-out texts.

    Returns:
        Metrics of METRICS; resumed_step if the training continued from a checkpoint.

    Raises:
        Diverged: The training was lost.
    """
    from evo_tune.training import ClassifierTraining, evaluate_task, fit_task

    task = _task(genome, options)
    if task.fit_steps is not None:
        return fit_task(task, ClassifierTraining, context).metrics
    return evaluate_task(task, ClassifierTraining, train_rank, context)


def train_rank(
    ranks: Ranks, tell: Callable[[dict[str, float]], None], *, genome: Any, run: Any, options: Any
) -> dict[str, float]:
    """Be one of the processes that train together."""
    from evo_tune.training import ClassifierTraining, RankRun, train

    return train(_task(genome, Options(**options)), RankRun.of(ranks, tell, run), ClassifierTraining, ranks)[1]


# ---------------------------------------------------------------- the model, to keep


def export(genome: Mapping[str, Any], context: Context, folder: Path | str, options: Options) -> dict[str, float]:
    """Train a genome once more and write it as something to use: weights and config.json.

    One process trains, whatever ranks says. Returns what `evaluate` returns.
    """
    from evo_tune.training import ClassifierTraining, export_encoder, export_fitted

    task = _task(genome, options)
    if task.fit_steps is not None:
        return export_fitted(task, ClassifierTraining, context, folder)
    return export_encoder(task, context, folder)
