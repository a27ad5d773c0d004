"""A GPT on text: any file, folder or language, as bytes or byte pairs; minimises val_loss (nats per token).

The text is read as bytes, so there is nothing to download. A tenth of it is held out: one half of that judges every
genome by the same bytes, the other is the test set; val_bpb compares vocabularies. All genomes have the same budget:
time (the default), text (`-o tokens=`) or arithmetic (`-o flops=`). The budget also chooses the default size.
`evo-tune evaluators language_model` prints the options.

This file says what a genome is as a training; how to train is `evo_tune.training`'s, where torch is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evo_tune import Choice, Float, Gene, Int, Minimize, SearchSpace, option
from evo_tune.training.recipe import (
    GPT_SIZES,
    UNIT_COSTS,
    Corpus,
    GPTSize,
    LanguageOptions,
    LanguageTask,
    SaveOptions,
    check_integer,
    describe_text,
    encoding_warnings,
    fitting_size,
    has_gpu,
    hidden_width,
    largest_head_divisor,
    metric_units,
    names_on_test_set,
    transfer_language_recipe,
    unused_schedule_fields,
)

if TYPE_CHECKING:
    from evo_tune import Context
    from evo_tune.training import Ranks

OBJECTIVES = [Minimize("val_loss")]

METRICS = metric_units("language")
TEST = names_on_test_set("language")
SUPPORTS = ["budget", "curve", "timing"]
CPU_COSTS = UNIT_COSTS
BASELINE = "an n-gram model"


def _size(options: Options, device: str | None = None) -> GPTSize:
    """Return the size; of an 'auto' that was not settled, the one that suits the budget."""
    return GPTSize.parse(options.size) if options.size != "auto" else fitting_size(options, has_gpu(device))


def describe(options: Options) -> list[str]:
    """Return what was read: files, documents and bytes, and the vocabulary that suits so much text."""
    return describe_text(options.data)


def remarks(options: Options) -> list[str]:
    """Say where the text is not UTF-8, or too short for the budget."""
    return [*encoding_warnings(options.data), *options.short_text_warnings(**_size(options).default_training)]


@dataclass(frozen=True, kw_only=True)
class Options(SaveOptions, LanguageOptions):
    """The search, and what it leaves."""

    size: str = option(
        "auto",
        gene=None,
        help="Space to search: tiny, small, medium, large, or around DEPTHxWIDTH; auto: what suits the budget",
    )

    def settled(self, rungs: bool) -> Options:  # the optimizer is a gene, unless one is given
        size = self.size
        if size == "auto":
            fitting = _size(self)
            size = next((name for name, named in GPT_SIZES.items() if named == fitting), str(fitting))
        options = super(Options, replace(self, size=size)).settled(rungs)
        schedule = "wsd" if self.schedule == "auto" else options.schedule
        return replace(options, optimizer=self.optimizer, schedule=schedule)

    def check(self) -> None:
        if self.size != "auto":
            largest = max(GPTSize.parse(self.size).batches)
            for name in ("context", "micro_batch"):
                if isinstance(getattr(self, name), int):
                    check_integer(name, getattr(self, name), 2, largest)

    @property
    def default_training(self) -> dict[str, Any]:
        """Shape and budget of the size's default training."""
        return _size(self).default_training

    @property
    def longest(self) -> int:
        """Tokens in the longest window that any genome may ask for."""
        return self.context or max(_size(self).contexts)


OPEN = {
    "position": Choice(("learned", "rope")),
    "qk_norm": Choice((False, True)),
    "value_embeddings": Choice((False, True)),
    "lr_embedding": Float(0.3, 30.0, log=True),
    "decay_fraction": Float(0.1, 0.8, widest=(0.0, 1.0)),
    "ngrams": Choice((1, 3, 5), ordered=True),
}
"""Genes of options that matter at every size; an option that differs from its default is fixed instead."""


def SPACE(options: Options) -> SearchSpace:  # noqa: N802
    """Return the genes under these options."""
    size = _size(options)

    def repair(genome: dict[str, Any], genes: Mapping[str, Gene]) -> dict[str, Any]:
        return _merge_equal_genomes({**genome, "heads": _nearest_heads(genome, genes, size, options)}, genes, options)

    batches = tuple(batch for batch in size.batches if batch >= (options.context or 0))
    least_width, largest_width, step, width = *size.widths, size.step, size.width
    rate = Float(
        float(f"{size.lr / 6:.2g}"), float(f"{size.lr * 6:.2g}"), log=True, default=size.lr, widest=(None, 1.0)
    )
    genes: dict[str, Gene] = {
        "lr": rate.times(50 if options.optimizer == "sgd" else 1),
        "batch": Choice(batches, ordered=True, default=max(size.batch, batches[0])),
        "depth": Int(max(1, size.depth // 2), 2 * size.depth, default=size.depth),
        "width": Int(least_width, largest_width, step=step, default=width),
        "heads": Int(1, size.most_heads, default=size.heads),
        "dropout": Float(0.0, 0.3, default=0.0, widest=(0.0, 0.8)),
        "weight_decay": Float(0.01, 0.3, log=True, default=0.1),
        "warmup": Float(0.0, 0.1, default=0.05),
    }
    if options.optimizer == "auto":
        genes["optimizer"] = Choice(("adamw", "muon"), default="muon")
    if options.context is None:
        ends = size.contexts[0], size.contexts[-1]  # the held-out text depends on the longest context
        genes["context"] = Choice(size.contexts, ordered=True, default=size.context, widest=ends)
    for name, gene in OPEN.items():
        usual = getattr(Options, name)  # a default of a dataclass
        if getattr(options, name) == usual:
            genes[name] = replace(gene, default=usual)
    if "ngrams" in genes:
        genes["ngrams"] = replace(genes["ngrams"], default=options.default_ngrams(**size.default_training))
    return SearchSpace(repair, _optional_genes(options, size), **genes).near_default()


def _optional_genes(options: Options, size: GPTSize) -> dict[str, Gene]:
    """Return those that depend on the space, the option being the default wherever it is among the values."""
    longest = options.extend_from or options.context or max(size.contexts)
    windows = (*(2**n for n in range(3, 20) if 2**n < longest), longest)
    heads = tuple(2**n for n in range(6) if 2**n <= size.most_heads)
    genes: dict[str, Gene] = {}
    for name, values, most in (("window", windows, longest), ("kv_heads", heads, max(heads))):
        value = getattr(options, name) or most
        genes[name] = Choice(values, ordered=True, default=value if value in values else None)
    return genes


def _nearest_heads(genome: Mapping[str, Any], genes: Mapping[str, Gene], size: GPTSize, options: Options) -> int:
    """Return the number of heads nearest to the gene's or the base head's, ties down, that leaves a multiple of 8."""
    width, most = genome["width"], _largest(genes["heads"])
    low, high = (8, 128) if size.width <= 128 else (16, 128)
    wanted_heads = genome["heads"] if options.scaling is None else width / options.scaling.head
    counts = range(1, most + 1)
    suitable = [n for n in counts if width % (8 * n) == 0 and low <= width // n <= high]
    for multiple in (2, 1):  # for widths of the user's own
        suitable = suitable or [n for n in counts if width % (multiple * n) == 0]
    return min(suitable, key=lambda n: (abs(n - wanted_heads), n))


def _merge_equal_genomes(genome: dict[str, Any], genes: Mapping[str, Gene], options: Options) -> dict[str, Any]:
    """Return the genome with what changes nothing at one value, so that the same training is one genome.

    A window that takes more time than full attention becomes full attention.
    """
    context = genome.get("context", options.context)
    if genome["batch"] < context:  # a step has one window at least
        genome["batch"] = min((n for n in _values(genes["batch"]) if n >= context), default=genome["batch"])
    longest = options.extend_from or context
    if "window" in genome and (most := _largest(genes["window"])) >= longest:
        genome["window"] = most if options.is_slow_window(genome["window"], longest) else genome["window"]
    if "kv_heads" in genome:
        divisor = largest_head_divisor(genome["heads"], genome["kv_heads"])
        values = _values(genes["kv_heads"])
        same = [value for value in values if largest_head_divisor(genome["heads"], value) == divisor]
        genome["kv_heads"] = min(same, default=genome["kv_heads"])
    if "ffn_mult" in genome:
        genome["ffn_mult"] = _representative_ffn_mult(genome, genes["ffn_mult"])
    for name in genome.keys() & unused_schedule_fields(genome.get("schedule", options.schedule)):
        genome[name] = genes[name].middle()
    return genome


def _representative_ffn_mult(genome: Mapping[str, Any], gene: Gene) -> Any:
    """Return one value of ffn_mult for all that make feed-forward layers of the same width."""
    width, ffn_mult = genome["width"], genome["ffn_mult"]
    hidden = hidden_width(width, ffn_mult)
    exact = hidden / width
    values = gene.values if isinstance(gene, Choice) else [gene.decode(min(1.0, max(0.0, gene.encode(exact))))]
    return min((value for value in values if hidden_width(width, value) == hidden), default=ffn_mult)


def _largest(gene: Gene) -> Any:
    """Return the largest value of a gene."""
    return max(gene.values) if isinstance(gene, Choice) else gene.decode(1.0)


def _values(gene: Gene) -> Sequence[Any]:
    """Return the values of a gene; of one with many, some, the largest among them."""
    return gene.values if isinstance(gene, Choice) else [gene.decode(u / 100) for u in range(101)]


def _task(genome: Mapping[str, Any], options: Options, device: str | None = None) -> LanguageTask:
    """Return a genome as a training."""
    size = _size(options, device)
    # Genes of the space that are options too.
    options = options.with_values(**{name: genome[name] for name in ("optimizer", *OPEN) if name in genome})
    sizes = {name: genome[name] for name in ("depth", "width", "heads", "dropout")}
    context = genome.get("context", options.context)
    given = {"vocab": options.vocab, "scaling": options.scaling, "boundary": options.boundary}
    return LanguageTask(
        options=options,
        genome=genome,
        config=options.shape(context=context, **given, **sizes),
        longest=options.longest,
        reference=size.batch,
        flops=size.flops,
        scored=options.bytes_to_score(**size.default_training),
    )


def fingerprint(options: Options) -> str:
    """Return the SHA-256 of the text, of how it is split, and of the byte pairs learned from it."""
    return Corpus.of(options, options.longest).fingerprint()


def baseline(options: Options) -> dict[str, float]:
    """Return the metrics of an n-gram model, on the same held-out text."""
    from evo_tune.training import TextMaterial, ngram_baseline

    scored = options.bytes_to_score(**_size(options).default_training)
    material = TextMaterial(Corpus.of(options, options.longest), count=scored, seed=0)
    return ngram_baseline(material, options.longest)


def estimate(genome: Mapping[str, Any], options: Options) -> dict[str, float]:
    """Return what is known before training: params, flops and tokens of the full training, and gpu_memory."""
    return _task(genome, options).estimate()


def work(genome: Mapping[str, Any], options: Options) -> dict[str, float]:
    """Return the work of a step, whose cost a run measures."""
    return _task(genome, options).work()


def evaluate(genome: Mapping[str, Any], context: Context, options: Options) -> dict[str, float]:
    """Train one genome and evaluate it on the held-out text; return METRICS, and resumed_step after a checkpoint.

    Raises `Diverged` where the training was lost.
    """
    from evo_tune.training import LanguageTraining, evaluate_task

    return evaluate_task(_task(genome, options, context.device), LanguageTraining, train_rank, context)


def train_rank(
    ranks: Ranks, tell: Callable[[dict[str, float]], None], *, genome: Any, run: Any, options: Any
) -> dict[str, float]:
    """Be one of the processes that train together."""
    from evo_tune.training import LanguageTraining, RankRun, train

    place = RankRun.of(ranks, tell, run)
    return train(_task(genome, Options(**options), place.device), place, LanguageTraining, ranks)[1]


def transfer(genome: Mapping[str, Any], target: Mapping[str, Any], options: Options) -> dict[str, Any]:
    """Return a genome at another size, and what its training takes there (see `transfer_language_recipe`)."""
    return transfer_language_recipe(_task, genome, target, replace(options, size=str(_size(options))))


def export(genome: Mapping[str, Any], context: Context, folder: Path | str, options: Options) -> dict[str, float]:
    """Train a genome once more, in one process; write weights and config.json; return the metrics."""
    from evo_tune.training import export_language

    return export_language(_task(genome, options, context.device), context, folder)
