"""LoRA, DoRA or adapters on a pre-trained language model and your text; minimises val_loss (nats per token).

The base (`-o base=FOLDER`) is a model that `evo-tune export` or `GPT.save` wrote, or a Hugging Face folder of a
causal language model (with the extra hf: local files, safetensors, none of the folder's code). Its weights stay as
they are; a few new ones are trained. Without a base, a small one is trained once on a part of the built-in text and
kept in the user's cache; it is then tuned to another part. The last tenth of the text is held out: one half judges
every genome by the same tokens, the other is the test set. All genomes have the same budget:

    -o seconds=60    time (by default that of the default genome with tokens=65536)
    -o tokens=65536  text
    -o flops=1e11    arithmetic: with more trained weights, a genome sees less text

This file knows how genomes become trainings; how to train is `evo_tune.training`'s. It is imported by the
parent process too, so torch is imported inside functions only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from evo_tune import Choice, Float, Minimize, SearchSpace, option
from evo_tune.training.recipe import (
    UNIT_COSTS,
    BaseModel,
    NewWeights,
    TuningOptions,
    check_integer,
    check_number,
    encoding_warnings,
    metric_units,
    names_on_test_set,
)

if TYPE_CHECKING:
    from evo_tune import Context
    from evo_tune.training import Adapters, LoRA, Ranks, TuningPlan

OBJECTIVES = [Minimize("val_loss")]

METRICS = metric_units("tuning")
TEST = names_on_test_set("tuning")
SUPPORTS = ["budget", "curve", "timing"]
CPU_COSTS = UNIT_COSTS


@dataclass(frozen=True, kw_only=True)
class Options(TuningOptions):
    """The base, the text, and what is trained."""

    keep: Literal["merged", "adapter"] = option(
        "merged", gene=None, help="Weights that export writes: base and adapter merged, or the adapter alone"
    )


def fingerprint(options: Options) -> str:
    """Return the SHA-256 of the text, how it is split, and the base: its files, or how the small one is made."""
    return options.fingerprint()


def remarks(options: Options) -> list[str]:
    """Say where the text is not UTF-8."""
    return encoding_warnings(options.data)


# ---------------------------------------------------------------- the space

RANKS, BOTTLENECKS, BATCHES = (2, 4, 8, 16, 32, 64), (4, 8, 16, 32, 64), (4, 8, 16, 32, 64)

LR = {
    "small": Float(2e-4, 2e-2, log=True, default=5e-3),
    "large": Float(2e-5, 2e-3, log=True, default=2e-4),
}
"""The gene lr, for small bases and others: small models take ten times as much."""

USUAL_RANK = {"small": 32, "large": 16}
"""Default rank of LoRA. Small bases are better with 32 (benchmarks/LOG.md)."""


def _base_size(base: BaseModel) -> Literal["small", "large"]:
    return "small" if base.width < 256 else "large"


NUMBERS = {"dropout": "[0, 1)", "alpha_ratio": "(0, inf)"}
"""What genes of the user's own may be."""


def search_space(options: Options) -> SearchSpace:
    """Return the genes under these options.

    Raises:
        OptionError: An option is out of its range, or two budgets are given.
        RecipeError: The base is no checkpoint, or targets name no layers of it.
    """
    base = options.base_description
    base.window(options.context)
    common: dict[str, Any] = {
        "lr": LR[_base_size(base)].times(options.lr_factor),
        "batch": Choice(BATCHES, ordered=True, default=BATCHES[0]),
        "warmup": Float(0.0, 0.1, default=0.05),
    }
    adapter: dict[str, Any] = {"bottleneck": Choice(BOTTLENECKS, ordered=True, default=16)}
    if options.method == "adapter":
        base.targets(options.targets or "branch-outputs")
        return SearchSpace(**common, **adapter).near_default()
    lora = _lora_genes(options, base)
    optional = {"method": Choice(("lora", "dora", "adapter"), default=options.method), **adapter}

    def repair(genome: dict[str, Any], genes: Mapping[str, Any]) -> dict[str, Any]:
        """Give genes that the method does not look at their defaults, so that equal trainings are equal genomes."""
        unused = lora if genome.get("method", options.method) == "adapter" else adapter
        return {**genome, **{name: genes[name].middle() for name in unused if name in genome}}

    return SearchSpace(repair, optional=optional, **common, **lora).near_default()


SPACE = search_space


def _lora_genes(options: Options, base: BaseModel) -> dict[str, Any]:
    presets = () if options.targets else tuple(name for name in ("qv", "attention", "all-linear") if base.has(name))
    chosen = base.targets(options.targets or "all-linear")
    smallest = min(min(base.linears[name]) for name in chosen)
    ranks = tuple(rank for rank in RANKS if rank <= smallest) or (1,)
    genes: dict[str, Any] = {
        "rank": Choice(ranks, ordered=True, default=min(USUAL_RANK[_base_size(base)], ranks[-1])),
        "alpha_ratio": Choice((0.5, 1.0, 2.0, 4.0), ordered=True, default=2.0),
        "dropout": Choice((0.0, 0.05, 0.1), ordered=True, default=0.05),
    }
    return {**genes, "targets": Choice(presets, ordered=True, default=presets[-1])} if presets else genes


def _layers(genome: Mapping[str, Any], options: Options, base: BaseModel) -> tuple[str, ...]:
    preset = "branch-outputs" if options.method == "adapter" else genome.get("targets", "all-linear")
    return base.targets(options.targets or preset)


def _weight_counts(genome: Mapping[str, Any], options: Options, base: BaseModel) -> NewWeights:
    """Return what is trained beside the base, as numbers."""
    layers, dora = _layers(genome, options, base), options.method == "dora"
    if options.method == "adapter":
        return NewWeights(layers=layers, bottleneck=genome.get("bottleneck", 16))
    return NewWeights(layers=layers, rank=genome["rank"], dora=dora, dropout=genome["dropout"])


def _new_weights(genome: Mapping[str, Any], options: Options, base: BaseModel) -> LoRA | Adapters:
    from evo_tune.training import Adapters, LoRA

    layers, dora = _layers(genome, options, base), options.method == "dora"
    if options.method == "adapter":
        return Adapters(bottleneck=genome.get("bottleneck", 16), targets=layers)
    alpha = genome["alpha_ratio"] * genome["rank"]
    return LoRA(rank=genome["rank"], alpha=alpha, dropout=genome["dropout"], targets=layers, dora=dora)


def estimate(genome: Mapping[str, Any], options: Options) -> dict[str, float]:
    """Return what is known before training: trained weights, gpu_memory, and tokens and flops of the full training.

    Raises:
        RecipeError: A gene of the user's own is out of what can be trained.
    """
    base = options.base_description
    smallest = min(min(base.linears[name]) for name in _layers(genome, options, base))
    for name, largest in (("batch", None), ("bottleneck", None), ("rank", smallest)):
        if name in genome:
            check_integer(name, genome[name], 1, largest)
    for name, interval in NUMBERS.items():
        if name in genome:
            check_number(name, genome[name], interval)
    options.check_genes(lr=genome["lr"], weight_decay=options.weight_decay, warmup=genome["warmup"])
    return options.estimate(_weight_counts(genome, options, base), genome["batch"])


def work(genome: Mapping[str, Any], options: Options) -> dict[str, float]:
    """Return the work of a step, whose cost a run measures."""
    base = options.base_description
    return options.work(_weight_counts(genome, options, base), genome["batch"])


# ---------------------------------------------------------------- the training


def _task(genome: Mapping[str, Any], options: Options) -> TuningPlan:
    """Return a genome as a training."""
    from evo_tune.training import TuningPlan, prepare_base

    base = prepare_base(options)
    return TuningPlan(
        options=options,
        genome=genome,
        base=base,
        new=_new_weights(genome, options, base),
        numbers=_weight_counts(genome, options, base),
        reference=BATCHES[0],
    )


def evaluate(genome: Mapping[str, Any], context: Context, options: Options) -> dict[str, float]:
    """Tune the base with one genome and judge it on the held-out text.

    The default genome is the usual recipe: all linear layers, rank 16 (small bases: 32), α/r 2, dropout 0.05, no weight
    decay, and a learning rate about ten times that of full fine-tuning (LoRA, arXiv:2106.09685; QLoRA,
    arXiv:2305.14314).

    Returns:
        Metrics of METRICS; resumed_step if the training continued from a checkpoint.

    Raises:
        Diverged: The training was lost.
    """
    from evo_tune.training import TuningTraining, evaluate_task

    return evaluate_task(_task(genome, options), TuningTraining, train_rank, context)


def train_rank(
    ranks: Ranks, tell: Callable[[dict[str, float]], None], *, genome: Any, run: Any, options: Any
) -> dict[str, float]:
    """Train as one of the processes of a training."""
    from evo_tune.training import RankRun, TuningTraining, train

    return train(_task(genome, Options(**options)), RankRun.of(ranks, tell, run), TuningTraining, ranks)[1]


# ---------------------------------------------------------------- the model, to keep


def export(genome: Mapping[str, Any], context: Context, folder: Path | str, options: Options) -> dict[str, float]:
    """Train a genome once more and write the tuned model, in the format of its base, or the adapter alone.

    One process trains, even if ranks is larger. An adapter (method=adapter) cannot be merged, so it is always written
    alone. An adapter of the bundled small base is written with this base, in base/. Returns the metrics of `evaluate`.
    """
    from evo_tune.training import export_tuning

    merged, with_base = options.keep == "merged", not options.base
    return export_tuning(_task(genome, options), context, folder, merged=merged, with_base=with_base)
