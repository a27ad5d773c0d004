"""A GPT on text: any file, folder or language, as bytes or byte pairs; minimises val_loss (nats per token).

The text is read as bytes, so there is nothing to download. A tenth of it is held out: one half of that judges every
genome by the same bytes, the other is the test set; val_bpb compares vocabularies. All genomes have the same budget:
time (the default), text (`-o tokens=`) or arithmetic (`-o flops=`). The budget also chooses the default size.
`evo-tune evaluators language_model` prints the options.

This file says what a genome is as a training; how to train is `evo_tune.training`'s, where torch is loaded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evo_tune import Choice, Float, Gene, Int, Minimize, SearchSpace, option
from evo_tune.errors import OptionError
from evo_tune.recipe import (
    MOST_EPOCHS,
    Corpus,
    GPTConfig,
    LanguageOptions,
    LanguageTask,
    carry_language,
    check_integer,
    divisor_below,
    flops_per_token,
    foreign_text,
    has_gpu,
    hidden_width,
    idle_fields,
    tests_of,
    units_of,
    usual_head,
    usual_steps,
)

if TYPE_CHECKING:
    from evo_tune import Context
    from evo_tune.training import Ranks

OBJECTIVES = [Minimize("val_loss")]

METRICS = units_of("language")
TEST = tests_of("language")
SUPPORTS = ["budget", "curve", "timing"]
BASELINE = "an n-gram model"


@dataclass(frozen=True, kw_only=True)
class Size:
    """A default genome's shape and batch, from which the ranges of a search space follow.

    Args:
        depth: Number of blocks.
        width: Width of the model.
        context: Tokens in a window.
        batch: Tokens in a step.
    """

    depth: int
    width: int
    context: int
    batch: int

    @classmethod
    def parse(cls, text: str) -> Size:
        """Return a size by its name, or by its notation: '4x128' or '4x128x64x1024' (depth, width, context, batch).

        Raises:
            OptionError: The text is neither.
        """
        if text in SIZES:
            return SIZES[text]
        numbers = [int(part) for part in text.split("x")] if SHAPED.fullmatch(text) else []
        if len(numbers) not in (2, 4) or not all(1 <= number <= 1 << 20 for number in numbers) or numbers[1] % 8:
            expected = f"auto, {', '.join(SIZES)}, or DEPTHxWIDTH with a width that is a multiple of 8, such as 4x128"
            raise OptionError(f"-o size={text[:60]}: expected {expected}")
        size = cls(depth=numbers[0], width=numbers[1], context=0, batch=0)
        context, batch = numbers[2:] or usual_steps(size.tokens)
        return replace(size, context=context, batch=max(batch, context))

    def __str__(self) -> str:
        return f"{self.depth}x{self.width}x{self.context}x{self.batch}"

    @property
    def head_dim(self) -> int:
        """Channels of a head: up to 64, fewer in narrow models so that there are three heads or more."""
        return usual_head(self.width)

    @property
    def heads(self) -> int:
        """Number of attention heads."""
        return self.width // self.head_dim

    @property
    def most_heads(self) -> int:
        """Largest number of heads: those of 16 channels in the widest model, up to 32."""
        return min(32, max(4, self.widths[1] // 16))

    @property
    def weights(self) -> int:
        """Number of weights in the blocks, 12 d² each."""
        return 12 * self.depth * self.width**2

    @property
    def tokens(self) -> float:
        """Tokens of a training that suits this size (see `LEAST_PER_WEIGHT`)."""
        share = math.log(max(1.0, self.weights / 1e6)) / math.log(100)
        return self.weights * min(LEAST_PER_WEIGHT * (MOST_PER_WEIGHT / LEAST_PER_WEIGHT) ** share, MOST_PER_WEIGHT)

    @property
    def flops(self) -> float:
        """Default budget: the FLOPs of such a training."""
        shape = {"depth": self.depth, "width": self.width, "heads": self.heads, "context": self.context}
        return float(f"{self.tokens * flops_per_token(GPTConfig(**shape)):.2g}")

    @property
    def usual(self) -> dict[str, Any]:
        """Shape, batch and budget of the default training."""
        shape = {"depth": self.depth, "width": self.width, "heads": self.heads, "context": self.context}
        return {**shape, "batch": self.batch, "flops": self.flops}

    @property
    def lr(self) -> float:
        """Default learning rate, of Muon and of AdamW: `BASE_LR` at width 128, inversely to the root of the width."""
        return float(f"{BASE_LR * (128 / self.width) ** 0.5:.2g}")

    @property
    def step(self) -> int:
        """Step of the widths."""
        return next(one for one in (64, 32, 16, 8) if self.width >= 6 * one or one == 8)

    @property
    def widths(self) -> tuple[int, int]:
        """Smallest and largest width."""
        return max(16, self.width // 2 // self.step * self.step), 2 * self.width // self.step * self.step

    @property
    def contexts(self) -> tuple[int, ...]:
        """Values of the gene context."""
        return tuple(sorted({max(8, self.context // 2), *(self.context * 2**power for power in range(3))}))

    @property
    def batches(self) -> tuple[int, ...]:
        """Values of the gene batch."""
        return tuple(batch for batch in (self.batch * 2**power // 4 for power in range(5)) if batch >= 16)


LEAST_PER_WEIGHT, MOST_PER_WEIGHT = 7.0, 20.0
"""Tokens per weight of a good training: 7 up to 1 M weights, measured on nanoGPT's example (benchmarks/LOG.md); from
there it rises by a power of the weights to Chinchilla's 20 (arXiv:2203.15556) at 100 M."""

NEAR = 0.7
"""Share of the suitable tokens for which a size still fits a budget."""

BASE_LR = 0.01
"""Best learning rate at width 128 (benchmarks/LOG.md); updates of Muon have the size of AdamW's."""

SHAPED = re.compile(r"[0-9]{1,7}(x[0-9]{1,7}){1,3}")

LADDER = (
    *("1x32", "2x32", "2x48", "2x64", "3x64", "3x96", "3x128", "4x128", "4x192"),
    *("6x256", "6x384", "8x512", "12x768", "16x1024", "24x1024"),
)
"""Sizes among which a budget chooses."""


SIZES = {
    "tiny": Size(depth=2, width=32, context=32, batch=512),
    "small": Size(depth=3, width=96, context=128, batch=2048),
    "medium": Size(depth=6, width=256, context=256, batch=8192),
    "large": Size(depth=12, width=768, context=1024, batch=131072),
}


def _size(options: Options, device: str | None = None) -> Size:
    """Return the size; of an 'auto' that was not settled, the one that suits the budget."""
    return Size.parse(options.size) if options.size != "auto" else _fitting(options, has_gpu(device))


def _fitting(options: Options, gpu: bool) -> Size:
    """Return the largest size of the ladder that reads as many tokens as suit it, within the budget.

    Without a budget: tiny on a CPU; on a GPU, the largest that reads the text `MOST_EPOCHS` times or less.
    """
    ladder = [Size.parse(text) for text in LADDER]
    if options.has_budget:
        fits = [size for size in ladder if options.tokens_in(**size.usual) >= NEAR * size.tokens]
    elif gpu:
        fits = [size for size in ladder if size.tokens <= MOST_EPOCHS * options.bytes_to_train_on]
    else:
        fits = [SIZES["tiny"]]
    return fits[-1] if fits else ladder[0]


def remarks(options: Options) -> list[str]:
    """Say where the text is not UTF-8, or too short for the budget."""
    return [*foreign_text(options.data), *options.too_short(**_size(options).usual)]


@dataclass(frozen=True, kw_only=True)
class Options(LanguageOptions):
    """The search, and what it leaves."""

    size: str = option(
        "auto",
        gene=None,
        help="Space to search: tiny, small, medium, large, or around DEPTHxWIDTH; auto: what suits the budget",
    )
    save: bool = option(False, gene=None, help="Keep a checkpoint of a full training too")

    def settled(self, rungs: bool) -> Options:  # the optimizer is a gene, unless one is given
        size = self.size
        if size == "auto":
            found = _size(self)
            size = next((name for name, one in SIZES.items() if one == found), str(found))
        made = replace(super(Options, replace(self, size=size)).settled(rungs), optimizer=self.optimizer)
        return replace(made, schedule="wsd" if self.schedule == "auto" else made.schedule)

    def check(self) -> None:
        if self.size != "auto":
            largest = max(Size.parse(self.size).batches)
            for name in ("context", "micro_batch"):
                if isinstance(getattr(self, name), int):
                    check_integer(name, getattr(self, name), 2, largest)

    @property
    def usual(self) -> dict[str, Any]:
        """Shape and budget of the size's default training."""
        return _size(self).usual

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
}
"""Genes of options that matter at every size; an option that differs from its default is fixed instead."""


def SPACE(options: Options) -> SearchSpace:  # noqa: N802
    """Return the genes under these options."""
    size = _size(options)

    def repair(genome: dict[str, Any], genes: Mapping[str, Gene]) -> dict[str, Any]:
        return _canonical({**genome, "heads": _sound_heads(genome, genes, size, options)}, genes, options)

    batches = tuple(batch for batch in size.batches if batch >= (options.context or 0))
    widths = options.snapped((*size.widths, size.step, size.width))
    depth, width = options.larger((max(1, size.depth // 2), 2 * size.depth, size.depth), widths)
    rate = Float(
        float(f"{size.lr / 6:.2g}"), float(f"{size.lr * 6:.2g}"), log=True, default=size.lr, widest=(None, 1.0)
    )
    genes: dict[str, Gene] = {
        "lr": rate.times(50 if options.optimizer == "sgd" else 1),
        "batch": Choice(batches, ordered=True, default=max(size.batch, batches[0])),
        "depth": Int(depth[0], depth[1], default=depth[2]),
        "width": Int(width[0], width[1], step=width[2], default=width[3]),
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
        grown = name == "value_embeddings" and options.grow_from is not None  # not every depth can grow with them
        if getattr(options, name) == usual and not grown:
            genes[name] = replace(gene, default=usual)
    return SearchSpace(repair, _optional_genes(options, size), **genes)


def _optional_genes(options: Options, size: Size) -> dict[str, Gene]:
    """Return those that depend on the space, the option being the default wherever it is among the values."""
    longest = options.extend_from or options.context or max(size.contexts)
    windows = (*(2**n for n in range(3, 20) if 2**n < longest), longest)
    heads = tuple(2**n for n in range(6) if 2**n <= size.most_heads)
    genes: dict[str, Gene] = {}
    for name, values, most in (("window", windows, longest), ("kv_heads", heads, max(heads))):
        value = getattr(options, name) or most
        genes[name] = Choice(values, ordered=True, default=value if value in values else None)
    return genes


def _sound_heads(genome: Mapping[str, Any], genes: Mapping[str, Gene], size: Size, options: Options) -> int:
    """Return the number of heads nearest to the gene's or the base head's, ties down, that leaves a multiple of 8."""
    width, most = genome["width"], max(_values(genes["heads"]))
    low, high = (8, 128) if size.width <= 128 else (16, 128)
    asked = genome["heads"] if options.scaling is None else width / options.scaling.head
    counts = [n for n in range(1, most + 1) if options.fits(width // n)] or range(1, most + 1)
    sound = [n for n in counts if width % (8 * n) == 0 and low <= width // n <= high]
    sound = sound or [n for n in counts if width % (2 * n) == 0] or [n for n in counts if width % n == 0]  # own widths
    return min(options.fast_heads(width, sound), key=lambda n: (abs(n - asked), n))


def _canonical(genome: dict[str, Any], genes: Mapping[str, Gene], options: Options) -> dict[str, Any]:
    """Return the genome with what changes nothing at one value, so that the same training is one genome."""
    context = genome.get("context", options.context)
    if genome["batch"] < context:  # a step has one window at least
        genome["batch"] = min((n for n in _values(genes["batch"]) if n >= context), default=genome["batch"])
    longest = options.extend_from or context
    if "window" in genome and genome["window"] >= longest:
        genome["window"] = max(_values(genes["window"]))
    if "kv_heads" in genome:
        heads, given = genome["heads"], genome["kv_heads"]
        same = [n for n in _values(genes["kv_heads"]) if divisor_below(heads, n) == divisor_below(heads, given)]
        genome["kv_heads"] = min(same, default=given)
    if "ffn_mult" in genome:
        genome["ffn_mult"] = _least_alike(genome, genes["ffn_mult"], genome.get("ffn", options.ffn))
    if "lr_head" in genome and genome.get("tied", options.tied):
        genome["lr_head"] = genes["lr_head"].middle()
    for name in genome.keys() & idle_fields(genome.get("schedule", options.schedule)):
        genome[name] = genes[name].middle()
    return genome


def _least_alike(genome: Mapping[str, Any], gene: Gene, ffn: str) -> Any:
    """Return one value of ffn_mult for all that make feed-forward layers of the same width."""
    width, given = genome["width"], genome["ffn_mult"]
    hidden = hidden_width(width, given, ffn)
    exact = hidden / width * (1.5 if ffn == "swiglu" else 1.0)
    values = gene.values if isinstance(gene, Choice) else [gene.decode(min(1.0, max(0.0, gene.encode(exact))))]
    return min((value for value in values if hidden_width(width, value, ffn) == hidden), default=given)


def _values(gene: Gene) -> Sequence[Any]:
    """Return the values of a gene; of one with many, some, the largest among them."""
    return gene.values if isinstance(gene, Choice) else [gene.decode(u / 100) for u in range(101)]


def _task(genome: Mapping[str, Any], options: Options, device: str | None = None) -> LanguageTask:
    """Return a genome as a training."""
    size = _size(options, device)
    own = {name: genome[name] for name in ("optimizer", *OPEN) if name in genome}  # genes of the space that are options
    options = replace(options, **own)
    return LanguageTask(
        options=options,
        genome=genome,
        config=_config(genome, options),
        longest=options.longest,
        lr=genome["lr"],
        batch=genome["batch"],
        reference=size.batch,
        weight_decay=genome["weight_decay"],
        warmup=genome["warmup"],
        flops=size.flops,
        scored=options.judging_bytes(**size.usual),
        save=options.save,
    )


def _config(genome: Mapping[str, Any], options: Options) -> GPTConfig:
    sizes = {name: genome[name] for name in ("depth", "width", "heads", "dropout")}
    context = genome.get("context", options.context)
    shape = options.shape(vocab=options.vocab, context=context, scaling=options.scaling, **sizes)
    return options.grown(replace(shape, boundary=options.boundary))


def fingerprint(options: Options) -> str:
    """Return the SHA-256 of the text, of how it is split, and of the byte pairs learned from it."""
    return Corpus.of(options, options.longest).fingerprint()


def baseline(options: Options) -> dict[str, float]:
    """Return the metrics of an n-gram model, on the same held-out text."""
    from evo_tune.training import TextMaterial, ngram_entropy

    scored = options.judging_bytes(**_size(options).usual)
    material = TextMaterial(Corpus.of(options, options.longest), count=scored, seed=0)
    return ngram_entropy(material, options.longest)


def estimate(genome: Mapping[str, Any], options: Options) -> dict[str, float]:
    """Return what is known before training: params, flops and tokens of the full training, and gpu_memory."""
    return _task(genome, options).estimate()


def work(genome: Mapping[str, Any], options: Options) -> dict[str, float]:
    """Return the work of a step, whose cost a run measures."""
    return _task(genome, options).work()


def evaluate(genome: Mapping[str, Any], context: Context, options: Options) -> dict[str, float]:
    """Train one genome and judge it on the held-out text; return METRICS, and resumed_step if it was to go on.

    Raises `Diverged` where the training was lost.
    """
    from evo_tune.training import Reading, evaluate_task

    return evaluate_task(_task(genome, options, context.device), Reading, train_rank, context)


def train_rank(
    ranks: Ranks, tell: Callable[[dict[str, float]], None], *, genome: Any, run: Any, options: Any
) -> dict[str, float]:
    """Be one of the processes that train together."""
    from evo_tune.training import Place, Reading, train

    place = Place.of(ranks, tell, run)
    return train(_task(genome, Options(**options), place.device), place, Reading, ranks)[1]


def carry(genome: Mapping[str, Any], target: Mapping[str, Any], options: Options) -> dict[str, Any]:
    """Return a genome at another size, and what its training takes there (see `training.carry_language`)."""
    return carry_language(_task, genome, target, replace(options, size=str(_size(options))))


def export(genome: Mapping[str, Any], context: Context, folder: Path | str, options: Options) -> dict[str, float]:
    """Train a genome once more, in one process; write weights and config.json; return the metrics."""
    from evo_tune.training import export_language

    return export_language(_task(genome, options, context.device), context, folder)
