"""A GPT on text: any file, folder or language, as bytes or byte pairs; minimises val_loss (nats per token).

The text is read as bytes, so there is nothing to download. A tenth of it is held out: one half of that judges every
genome by the same bytes, the other is the test set; val_bpb compares vocabularies. What is held equal between genomes
is one of three budgets: arithmetic (the default: a larger model sees less text, in about equal time), text or time.
`evo-tune evaluators language_model` prints the options.

This file says what a genome is as a training; how to train is `evo_tune.training`'s, where torch is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from evo_tune import Choice, Float, Gene, Int, Minimize, SearchSpace, option
from evo_tune.recipe import (
    Corpus,
    LanguageOptions,
    LanguageTask,
    carry_language,
    check_integer,
    divisor_below,
    has_gpu,
    hidden_width,
    idle_fields,
    tests_of,
    units_of,
)

if TYPE_CHECKING:
    from evo_tune import Context
    from evo_tune.recipe import GPTConfig
    from evo_tune.training import GPT, Ranks

OBJECTIVES = [Minimize("val_loss")]

METRICS = units_of("language")
TEST = tests_of("language")
SUPPORTS = ["budget", "curve", "timing"]


@dataclass(frozen=True, kw_only=True)
class Size:
    """A search space: its genes, and what goes with them."""

    lr: Float
    depth: Int
    heads: Int
    width: Int
    head_dim: tuple[int, int]
    """Fewest and most channels of a head."""
    context: tuple[int, ...]
    """Tokens in a window."""
    batch: tuple[int, ...]
    """Tokens in a step."""
    default_batch: int
    flops: float
    """Default budget."""

    @property
    def usual(self) -> dict[str, Any]:
        """Shape and budget of its default training."""
        shape = {"depth": self.depth.default, "width": self.width.default, "heads": self.heads.default}
        context = self.context[(len(self.context) - 1) // 2]
        return {**shape, "context": context, "batch": self.default_batch, "flops": self.flops}


SIZES = {
    "tiny": Size(
        lr=Float(1e-3, 6e-2, log=True, default=1e-2, widest=(None, 1.0)),
        depth=Int(1, 4, default=2),
        heads=Int(1, 8, default=4),
        width=Int(16, 96, step=8, default=48),
        head_dim=(8, 96),
        context=(8, 16, 32, 64, 128),
        batch=(64, 128, 256, 512, 1024, 2048),
        default_batch=512,
        flops=6e10,
    ),
    "small": Size(
        lr=Float(3e-4, 3e-2, log=True, default=4e-3, widest=(None, 1.0)),
        depth=Int(1, 4, default=2),
        heads=Int(1, 8, default=4),
        width=Int(32, 128, step=16, default=64),
        head_dim=(8, 128),
        context=(64, 128),
        batch=(512, 1024, 2048, 4096, 8192),
        default_batch=512,
        flops=1.5e11,
    ),
    "medium": Size(
        lr=Float(3e-4, 1e-2, log=True, default=2e-3, widest=(None, 1.0)),
        depth=Int(2, 8, default=4),
        heads=Int(1, 12, default=4),
        width=Int(64, 384, step=32, default=256),
        head_dim=(16, 128),
        context=(64, 128, 256),
        batch=(2048, 4096, 8192, 16384, 32768),
        default_batch=4096,
        flops=2.5e13,
    ),
    "large": Size(
        lr=Float(1e-4, 3e-3, log=True, default=6e-4, widest=(None, 1.0)),
        depth=Int(4, 24, default=8),
        heads=Int(2, 32, default=8),
        width=Int(256, 1024, step=64, default=512),
        head_dim=(16, 128),
        context=(256, 512, 1024),
        batch=(8192, 16384, 32768, 65536, 131072, 262144),
        default_batch=32768,
        flops=1e15,
    ),
}
USUAL = {name: size.usual for name, size in SIZES.items()}


def _wanted(options: Options, device: str | None = None) -> str:
    """Return the size that an 'auto' means that was not settled: large with a GPU and text enough, else small."""
    return options.size if options.size != "auto" else "large" if has_gpu(device) else "small"


def _size(options: Options, device: str | None = None) -> str:
    sizes = {name: usual for name, usual in USUAL.items() if name != "tiny"}
    return options.fitting(sizes, _wanted(options, device)) if options.size == "auto" else options.size


def remarks(options: Options) -> list[str]:
    """Say where the text is too short for the size."""
    return options.too_short(USUAL, _size(options), _wanted(options))


@dataclass(frozen=True, kw_only=True)
class Options(LanguageOptions):
    """The search, and what it leaves."""

    size: Literal["auto", "tiny", "small", "medium", "large"] = option(
        "auto", gene=None, help="Which space to search; auto: tiny, on a GPU the largest with text enough"
    )
    save: bool = option(False, gene=None, help="Keep a checkpoint of a full training too")

    def settled(self, rungs: bool) -> Options:  # the optimizer is a gene of the tiny space, unless one is given
        size = self.size if self.size != "auto" else _size(self) if has_gpu() else "tiny"
        return replace(super(Options, replace(self, size=size)).settled(rungs), optimizer=self.optimizer)

    def check(self) -> None:
        largest = max(SIZES[_size(self)].batch)
        for name in ("context", "micro_batch"):
            if isinstance(getattr(self, name), int):
                check_integer(name, getattr(self, name), 2, largest)

    @property
    def usual(self) -> dict[str, Any]:
        """Shape and budget of the size's default training."""
        return SIZES[_size(self)].usual

    @property
    def longest(self) -> int:
        """Tokens in the longest window that any genome may ask for."""
        return max(*SIZES[_size(self)].context, self.context or 0)


def SPACE(options: Options) -> SearchSpace:  # noqa: N802
    """Return the genes under these options."""
    size = SIZES[_size(options)]

    def repair(genome: dict[str, Any], genes: Mapping[str, Gene]) -> dict[str, Any]:
        return _canonical({**genome, "heads": _sound_heads(genome, genes, size, options)}, genes, options)

    batches = tuple(batch for batch in size.batch if batch >= (options.context or 0))
    deep, wide = size.depth, size.width
    widths = options.snapped((wide.low, wide.high, wide.step, wide.middle()))
    depth, width = options.larger((deep.low, deep.high, deep.middle()), widths)
    genes = {
        "lr": size.lr.times(50 if options.optimizer == "sgd" else 1),
        "batch": Choice(batches, ordered=True, default=max(size.default_batch, batches[0])),
        "depth": Int(depth[0], depth[1], default=depth[2]),
        "width": Int(width[0], width[1], step=width[2], default=width[3]),
        "heads": size.heads,
        "dropout": Float(0.0, 0.3, default=0.0, widest=(0.0, 0.8)),
        "weight_decay": Float(0.01, 0.3, log=True, default=0.1),
        "warmup": Float(0.0, 0.1, default=0.05),
    }
    if options.size == "tiny" and options.optimizer == "auto":
        genes["optimizer"] = Choice(("adamw", "muon"), default="muon")
    if options.context is None:
        ends = size.context[0], size.context[-1]  # the held-out text depends on the longest context
        genes["context"] = Choice(size.context, ordered=True, default=size.usual["context"], widest=ends)
    return SearchSpace(repair, _optional_genes(options, size), **genes)


def _optional_genes(options: Options, size: Size) -> dict[str, Gene]:
    """Return those that depend on the space, the option being the default wherever it is among the values."""
    longest = options.extend_from or options.context or max(size.context)
    windows = (*(2**n for n in range(3, 20) if 2**n < longest), longest)
    heads = tuple(2**n for n in range(6) if 2**n <= size.heads.high)
    genes: dict[str, Gene] = {}
    for name, values, most in (("window", windows, longest), ("kv_heads", heads, max(heads))):
        value = getattr(options, name) or most
        genes[name] = Choice(values, ordered=True, default=value if value in values else None)
    return genes


def _sound_heads(genome: Mapping[str, Any], genes: Mapping[str, Gene], size: Size, options: Options) -> int:
    """Return the number of heads nearest to the gene's or the base head's, ties down, that leaves a multiple of 8."""
    width, (low, high), most = genome["width"], size.head_dim, max(_values(genes["heads"]))
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
    size = SIZES[_size(options, device)]
    return LanguageTask(
        options=replace(options, optimizer=genome.get("optimizer", options.optimizer)),  # a gene of the tiny space
        genome=genome,
        config=_config(genome, options),
        longest=options.longest,
        lr=genome["lr"],
        batch=genome["batch"],
        reference=size.default_batch,
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
    return carry_language(_task, genome, target, replace(options, size=_size(options)))


def export(genome: Mapping[str, Any], context: Context, folder: Path | str, options: Options) -> dict[str, float]:
    """Train a genome once more, in one process; write weights, config.json and README.md; return the metrics."""
    from evo_tune.training import export_language

    return export_language(_task(genome, options, context.device), context, folder)


def load(folder: Path | str) -> GPT:
    """Return a model that `export` wrote."""
    from evo_tune.training import GPT

    return GPT.load(folder)
