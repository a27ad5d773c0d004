"""LoRA, DoRA or adapters on a pre-trained language model and your text; minimises val_loss (nats per token).

The base (`-o base=FOLDER`) is a model that `evo-tune export` or `GPT.save` wrote, or a Hugging Face folder of a
causal language model (with the extra hf: local files, safetensors, none of the folder's code). Its weights
stay as they are; a few new ones are trained. Without a base, a small one is trained once on a part of the
built-in text and kept in the user's cache; it is then tuned to another part. The last tenth of the text is
held out; the same tokens judge every genome. What is held equal is chosen by one of two budgets:

    -o tokens=65536  text (the default)
    -o flops=1e11    arithmetic: more trained weights see less text

This file knows how genomes become trainings; how to train is `evo_tune.training`'s. It is imported by the
parent process too, so torch is imported inside functions only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from evo_tune import Choice, Float, Minimize, SearchSpace, option
from evo_tune.errors import OptionError
from evo_tune.training import (
    Base,
    Clipping,
    ToZero,
    check_integer,
    check_number,
    hash_of,
    planned_small_base,
    read_base,
    read_tuning_text,
    small_base,
    small_base_key,
    units_of,
)

if TYPE_CHECKING:
    from evo_tune import Context
    from evo_tune.training import Adapters, LoRA, Trainer, TuningText

OBJECTIVES = [Minimize("val_loss")]

METRICS = units_of("tuning")

TOKENS = 65536
"""Default budget."""


@dataclass(frozen=True, kw_only=True)
class Options(ToZero, Clipping):
    """The base, the text, and what is trained."""

    data: str = option("", gene=None, help="File, folder or glob; empty: a part of Python's own documentation")
    base: str = option("", gene=None, help="Folder of the model to begin from; empty: a small one, trained once")
    method: Literal["lora", "dora", "adapter"] = option(
        "lora", gene=None, help="What is trained beside the base"
    )  # a gene of SPACE
    targets: str = option(
        "", gene=None, help="Which layers, instead of a gene: qv, attention, all-linear or names with * and commas"
    )
    context: int | None = option(None, bounds="[2, inf)", unit="tokens", gene=None, help="A window; none: up to 512")
    tokens: int | None = option(None, bounds="[1, inf)", gene=None, help="Budget in tokens of text; 65536 if no other")
    flops: float | None = option(None, bounds="(0, inf)", gene=None, help="Budget in FLOPs")
    micro_batch: int | None = option(
        None, bounds="[1, inf)", unit="windows", gene=None, help="Most in one pass; the gradient is the whole batch's"
    )
    # Not 0.95, as for language models from scratch: tuning keeps Adam's own default.
    beta2: float = option(0.999, bounds="[0, 1)", gene="0.95|0.98|0.99|0.999", help="Decay of Adam's second moment")
    eval_tokens: int = option(16384, bounds="[1, inf)", gene=None, help="Held-out tokens that are scored at the end")
    keep: Literal["merged", "adapter"] = option(
        "merged", gene=None, help="What export writes: the base with what was learnt merged into it, or only that"
    )

    def check(self) -> None:
        """Require one budget at most.

        Raises:
            OptionError: There are two.
        """
        if self.tokens is not None and self.flops is not None:
            raise OptionError("-o tokens and -o flops are both given: give one budget, or none")

    @property
    def planned(self) -> Base:
        """The base, read without torch; the small one need not have been trained yet."""
        return read_base(self.base) if self.base else planned_small_base()

    @property
    def ready(self) -> Base:
        """The base, trained if it has to be."""
        return read_base(self.base or small_base())


def fingerprint(options: Options) -> str:
    """Return the SHA-256 of the text, how it is split, and the base: its files, or how the small one is made."""
    parts = read_tuning_text(options.data, options.planned.window(options.context))
    base = options.planned.sha256() if options.base else small_base_key()
    return hash_of(f"{'+'.join(str(len(part)) for part in parts)}:{base}:".encode(), *parts)


# ---------------------------------------------------------------- the space

RANKS, BOTTLENECKS = (2, 4, 8, 16, 32, 64), (4, 8, 16, 32, 64)

LR = {"small": (2e-4, 2e-2, 1e-2), "large": (2e-5, 2e-3, 2e-4)}
"""Bounds and default of lr, for bases narrower than 256 and others: small models take ten times as much."""


NUMBERS = {"lr": "(0, 1]", "warmup": "[0, 0.5]", "dropout": "[0, 1)", "alpha_ratio": "(0, inf)"}
"""What genes of the user's own may be."""


def search_space(options: Options) -> SearchSpace:
    """Return the genes under these options.

    Raises:
        OptionError: An option is out of its range, or two budgets are given.
        RecipeError: The base is no checkpoint, or targets name no layers of it.
    """
    base = options.planned
    base.window(options.context)
    low, high, lr = LR["small" if base.width < 256 else "large"]
    common: dict[str, Any] = {
        "lr": Float(low, high, log=True, default=lr),
        "batch": Choice((4, 8, 16, 32, 64), ordered=True, default=4),
        "warmup": Float(0.0, 0.1, default=0.05),
    }
    adapter: dict[str, Any] = {"bottleneck": Choice(BOTTLENECKS, ordered=True, default=16)}
    if options.method == "adapter":
        base.targets(options.targets or "branch-outputs")
        return SearchSpace(**common, **adapter)
    lora = _lora_genes(options, base)
    optional = {"method": Choice(("lora", "dora", "adapter"), default=options.method), **adapter}

    def repair(genome: dict[str, Any], genes: Mapping[str, Any]) -> dict[str, Any]:
        """Give genes that the method does not look at their defaults, so that equal trainings are equal genomes."""
        unused = lora if genome.get("method", options.method) == "adapter" else adapter
        return {**genome, **{name: genes[name].middle() for name in unused if name in genome}}

    return SearchSpace(repair, optional=optional, **common, **lora)


SPACE = search_space


def _lora_genes(options: Options, base: Base) -> dict[str, Any]:
    presets = () if options.targets else tuple(name for name in ("qv", "attention", "all-linear") if base.has(name))
    chosen = base.targets(options.targets or "all-linear")
    smallest = min(min(base.linears[name]) for name in chosen)
    ranks = tuple(rank for rank in RANKS if rank <= smallest) or (1,)
    genes: dict[str, Any] = {
        "rank": Choice(ranks, ordered=True, default=min(16, ranks[-1])),
        "alpha_ratio": Choice((0.5, 1.0, 2.0, 4.0), ordered=True, default=2.0),
        "dropout": Choice((0.0, 0.05, 0.1), ordered=True, default=0.05),
    }
    return {**genes, "targets": Choice(presets, ordered=True, default=presets[-1])} if presets else genes


def _layers(genome: Mapping[str, Any], options: Options, base: Base) -> tuple[str, ...]:
    preset = "branch-outputs" if options.method == "adapter" else genome.get("targets", "all-linear")
    return base.targets(options.targets or preset)


def _trainable(genome: Mapping[str, Any], options: Options, base: Base) -> int:
    layers = _layers(genome, options, base)
    if options.method == "adapter":
        return base.new_weights(layers, bottleneck=genome.get("bottleneck", 16))
    return base.new_weights(layers, rank=genome["rank"], dora=options.method == "dora")


def _new_weights(genome: Mapping[str, Any], options: Options, base: Base) -> LoRA | Adapters:
    from evo_tune.training import Adapters, LoRA

    layers, dora = _layers(genome, options, base), options.method == "dora"
    if options.method == "adapter":
        return Adapters(bottleneck=genome.get("bottleneck", 16), targets=layers)
    alpha = genome["alpha_ratio"] * genome["rank"]
    return LoRA(rank=genome["rank"], alpha=alpha, dropout=genome["dropout"], targets=layers, dora=dora)


# ---------------------------------------------------------------- the budget


def _windows(genome: Mapping[str, Any], options: Options, base: Base) -> int:
    """Return the number of windows in the full training."""
    context = base.window(options.context)
    if options.flops is None:
        return max(1, round((options.tokens or TOKENS) / context))
    return max(1, round(options.flops / base.flops_per_token(context, _trainable(genome, options, base)) / context))


def estimate(genome: Mapping[str, Any], options: Options) -> dict[str, float]:
    """Return what is known before training: trained weights, and tokens and flops of the full training.

    Raises:
        RecipeError: A gene of the user's own is out of what can be trained.
    """
    base = options.planned
    smallest = min(min(base.linears[name]) for name in _layers(genome, options, base))
    for name, largest in (("batch", None), ("bottleneck", None), ("rank", smallest)):
        if name in genome:
            check_integer(name, genome[name], 1, largest)
    for name, interval in NUMBERS.items():
        if name in genome:
            check_number(name, genome[name], interval)
    context, trainable = base.window(options.context), _trainable(genome, options, base)
    tokens = _windows(genome, options, base) * context
    flops = tokens * base.flops_per_token(context, trainable)
    return {"trainable_params": float(trainable), "tokens": float(tokens), "flops": flops}


# ---------------------------------------------------------------- the training


def evaluate(genome: Mapping[str, Any], run: Context, options: Options) -> dict[str, float]:
    """Tune the base with one genome and judge it on the held-out text.

    The default genome is the usual recipe: all linear layers, rank 8, α/r 2, dropout 0.05, no weight decay, and
    a learning rate about ten times that of full fine-tuning (LoRA, arXiv:2106.09685; QLoRA, arXiv:2305.14314).

    Args:
        genome: Values of the genes.
        run: Device, seed, budget and folders.
        options: What to tune to what, how much, along which schedule.

    Returns:
        The metrics in METRICS; resumed_step if it was to go on from a checkpoint.

    Raises:
        Diverged: The training was lost.
    """
    return _train(genome, run, options)[1]


def _train(genome: Mapping[str, Any], run: Context, options: Options) -> tuple[Trainer, dict[str, float]]:
    """Train up to the run's budget, from its checkpoint if there is one; return the trainer and metrics."""
    from evo_tune.training import keep_freed_memory, reproducible, tune, tuning_text

    keep_freed_memory()
    base = options.ready
    with reproducible(run.threads, run.device):
        text = tuning_text(base, options.data, base.window(options.context), options.eval_tokens)
        trainable = _trainable(genome, options, base)
        trainer = _trainer(genome, run, options, base, text)
        task = {"genome": dict(genome), "fingerprint": fingerprint(options)}
        return trainer, tune(trainer, base, options.data, text, run, trainable=trainable, task=task)


def _trainer(genome: Mapping[str, Any], run: Context, options: Options, base: Base, text: TuningText) -> Trainer:
    """Return a trainer at step 0, its schedules laid over the full training."""
    from evo_tune import training

    source = training.TrainingWindows(
        text.training,
        context=text.context,
        batch=genome["batch"],
        total=_windows(genome, options, base),
        seed=run.seed,
        micro_batch=options.micro_batch,
    )
    recipe = training.Recipe(
        optimizer=training.AdamW(lr=genome["lr"], beta2=options.beta2),
        schedule=options.rates(source.steps, genome["warmup"]),
        weight_decay=training.WeightDecay(start=0.0),
        clip=options.clip,
        ceiling=1.5 * math.log(base.vocab_size),
    )
    model = training.load_pretrained(base, run.device)
    training.add_adapter(model, _new_weights(genome, options, base), training.seed_for(run.seed, "weights"))
    return training.Trainer(model, source, recipe, seed=run.seed, device=run.device)


# ---------------------------------------------------------------- the model, to keep


def export(genome: Mapping[str, Any], run: Context, folder: Path | str, options: Options) -> dict[str, float]:
    """Train a genome once more and write the tuned model, in the format of its base, or the adapter alone.

    Args:
        genome: Values of the genes.
        run: Device, seed and threads.
        folder: Where; made if it is not there.
        options: As in `evaluate`. An adapter (method=adapter) cannot be merged, and is always written alone; the
            small base is written beside an adapter for it, in base/.

    Returns:
        What `evaluate` returns.
    """
    from evo_tune.training import write_tuned

    trainer, metrics = _train(genome, run, options)
    base = options.ready
    notes = {"genome": dict(genome), "options": options.to_json(), "seed": run.seed, "metrics": metrics}
    new, merged = _new_weights(genome, options, base), options.keep == "merged"
    write_tuned(folder, trainer.model, base, new, merged=merged, with_base=not options.base, notes=notes)
    return metrics
