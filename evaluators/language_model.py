"""A GPT on text: any file, folder or language, as bytes or byte pairs; minimises val_loss (nats per token).

The text is read as bytes, so there is nothing to download. Its last tenth is held out; the same held-out bytes judge
every genome. What is held equal between genomes is chosen by exactly one of three budgets:

    -o flops=1.5e11   arithmetic (the default): a larger model sees less text; about equal time
    -o tokens=500000  text: favours large models, which take longer
    -o seconds=5      time on this machine: ten steps are timed and the number of steps fixed from them;
                      not reproducible to the bit, since two timings differ

The text and the model:

    data=             file, folder (with all below it) or glob; empty: 373 kB of English about Python
    size=auto         which space to search: small, medium, large; auto: large on a GPU, else small
    context=          tokens in a window; left out, it is a gene
    vocab=256         256: a token is a byte; more: so many byte-pair tokens, learned from the text to train on.
                      val_loss is then per such a token; val_bpb compares vocabularies
    position=learned  learned, sinusoidal or rope (base rope_base=10000)
    window=           tokens that a token sees, up to the context; window_pattern=S: which blocks have it (SSSL)
    ffn=gelu          gelu or swiglu, of ffn_mult=4 times the width
    kv_heads=         heads of keys and values, at most; the next divisor of heads below is taken
    qk_norm=false     norm queries and keys
    bias=false, tied=true, attention_dropout=0
    init=fan_in       fan_in suits small widths, normal is GPT-2's N(0, 0.02)

The training:

    optimizer=adamw   adamw, muon or sgd (for which the gene lr is fifty times larger);
                      beta1=0.9, beta2=0.95, eps=1e-8, momentum=0.95 (muon, sgd)
    schedule=cosine   cosine, linear, constant, wsd, multi_step, sgdr or cosine_step, after the warm-up (a gene),
                      down to min_lr_ratio=0.1 of the peak; wsd: decay_fraction=0.2, decay_shape=linear (sqrt,
                      cosine); sgdr, cosine_step: cycle=0.1 of the training, cycle_growth=1, gamma=0.9
    lr_rule=none      how lr, which is meant for the default batch, moves with the batch: none, sqrt, linear
    weight_decay_end= where the weight decay, which begins at its gene, ends; weight_decay_shape=linear or cosine.
                      With gap_patience=3 it rises by gap_factor=1.5, up to there, only when held-out loss has risen
                      and training loss fallen in so many evaluations
    ramp_from=        tokens in the first step's batch, which grows to the gene's over the first ramp_share=0.03 of all
    clip=1            largest norm of the gradient
    z_loss=0          weight of the z-loss; 1e-4 keeps logits from drifting
    ema=              decay of a moving average of the weights, judged beside them as val_loss_ema
    evaluations=4     evaluations along the training, each on every fourth held-out block: the learning curve
    patience=         stop after so many evaluations without an improvement of min_delta=0, and take the best weights
    micro_batch=auto  most tokens in one pass; the gradient is that of the whole batch all the same. auto: what the
                      device's whole memory has room for, whatever else runs there
    ranks=1           processes on this machine that train together, each with the slot's threads or a GPU of its own:
                      a slot has so many
    precision=auto    fp32 or bf16, for the products; auto: bf16 where this machine gains from it. A training that goes
                      on keeps what it began with; it is always judged in fp32
    recompute=        compute every so-manieth block again for the gradient: memory for time
    eval_tokens=16384 held-out bytes that are scored at the end
    save=false        keep a checkpoint of a full training too

`--inherit 1/3`: a genome may begin with the weights of one of the same width and heads, whose blocks, hidden units and
positions are made more or fewer. Not with `extend_from`.

Long texts: `-o context=2048 -o extend_from=1024` trains at 1024, extends the positions (extension=linear; with rope
ntk or yarn too) and spends the last extend_share=0.2 of the budget at 2048.

Genes that are off until `--gene` names them, each in place of the option: schedule, position, ffn, ffn_mult, window,
kv_heads, qk_norm, beta2, z_loss, decay_fraction. `--gene position`, or `--gene 'position=learned|rope'`.

This file knows how genomes become trainings; how to train is `evo_tune.training`'s. It is imported by the
parent process too, so torch is imported inside functions only.
"""

from __future__ import annotations

import hashlib
import math
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal, cast

from evo_tune import Choice, Float, Gene, Int, Minimize, SearchSpace
from evo_tune.errors import OptionError, RecipeError
from evo_tune.training import units_of

if TYPE_CHECKING:
    from torch import Tensor

    from evo_tune import Context
    from evo_tune.training import (
        GPT,
        Course,
        Fit,
        GapDecay,
        GPTConfig,
        Phase,
        Ranks,
        Schedule,
        Tokenizer,
        Trainer,
        TrainingWindows,
        WeightDecay,
    )

OBJECTIVES = [Minimize("val_loss")]

METRICS = units_of("language")

HELD_OUT = 0.1
"""Share of the text, at its end, that is never trained on."""

SUPPORTS = ["budget", "curve", "inherit"]

BLOCK = 4
"""Bytes in a held-out block, for each token of the longest window: more than a byte-pair token usually has."""

CHECKPOINT = "checkpoint.pt"
MODEL = "model"
"""What a trial leaves: to go on from, and to inherit."""

FLOPS = {"small": 1.5e11, "medium": 2.5e13, "large": 1e15}
"""Default budget of each size."""

SCHEDULES = ("cosine", "linear", "constant", "wsd", "multi_step", "sgdr", "cosine_step")


class Options(SimpleNamespace):
    """The options of `evaluate`, where each is declared once, checked: types by whoever binds them, bounds here.

    Args:
        given: Some of them; the others take their defaults.

    Raises:
        UsageError: One is out of its range, or does not go with another.
    """

    def __init__(self, **given: Any) -> None:
        from evo_tune.training import check_integer, check_name, check_number

        defaults = evaluate.__kwdefaults__ or {}
        for name in given.keys() - defaults.keys():
            raise OptionError(f"-o {name}: expected one of {', '.join(defaults)}")
        super().__init__(**{**defaults, **given})
        for name, interval in INTERVALS.items():
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), interval)
        largest = max(SIZES[_size(self.size)]["batch"])
        for name, (low, high) in {**WHOLE, "context": (2, largest), "micro_batch": (2, largest)}.items():
            if getattr(self, name) not in (None, "auto"):
                check_integer(name, getattr(self, name), low, high)
        check_name("optimizer", self.optimizer, ("adamw", "muon", "sgd"))
        if self.optimizer == "muon" and tuple(map(int, metadata.version("torch").split(".")[:2])) < (2, 9):
            raise OptionError(f"-o optimizer=muon: torch {metadata.version('torch')} has no Muon; 2.9 brought it")
        self._check_together()
        self.rates(steps=10, warmup=0.0)
        self.decay(start=1e-3)

    def _check_together(self) -> None:
        given = [name for name in ("flops", "tokens", "seconds") if getattr(self, name) is not None]
        if len(given) > 1:
            raise OptionError(f"-o {given[0]} and -o {given[1]} are both given: give one budget, or none")
        if self.gap_patience is not None and self.weight_decay_end is None:
            raise OptionError("-o gap_patience needs -o weight_decay_end=…, up to which the weight decay rises")
        if self.patience is not None and self.schedule == "sgdr" and self.patience <= self.cycle * self.evaluations:
            raise OptionError(
                f"-o patience={self.patience}: expected more than the {self.cycle * self.evaluations:g} evaluations of "
                "one cycle of sgdr, whose waves it must outlast"
            )
        if self.extend_from is not None and (self.context is None or self.extend_from >= self.context):
            raise OptionError(f"-o extend_from={self.extend_from}: expected less than -o context, which must be given")
        if self.extend_from is not None and self.patience is not None:
            raise OptionError(
                "-o patience stops by a loss that -o extend_from changes the meaning of: give one of them"
            )
        if self.extend_from is not None and self.seconds is not None:
            raise OptionError("-o extend_from shares out flops or tokens: give one of these instead of -o seconds")
        if self.ranks > 1 and self.seconds is not None:
            raise OptionError("-o ranks and -o seconds are both given: give flops or tokens beside ranks")
        if self.ramp_from is not None and self.seconds is not None:
            raise OptionError("-o ramp_from and -o seconds are both given: give flops or tokens beside ramp_from")

    @property
    def block(self) -> int:
        """Bytes in a block of held-out text: enough for the longest window that any genome may ask for."""
        longest: int = max(*SIZES[_size(self.size)]["context"], self.context or 0)
        return BLOCK * longest

    def with_genes(self, genome: Mapping[str, Any]) -> Options:
        """Return the options with those genes in their places that are one (see OPTIONAL)."""
        return Options(**{**vars(self), **{name: genome[name] for name in OPTIONAL if name in genome}})

    def rates(self, steps: int, warmup: float) -> Schedule:
        """Return the schedule over so many steps."""
        from evo_tune.training import Schedule

        return Schedule(
            steps=steps,
            name=self.schedule,
            warmup_fraction=warmup,
            min_lr_ratio=self.min_lr_ratio,
            decay_fraction=self.decay_fraction,
            decay_shape=self.decay_shape,
            cycle=max(1, round(self.cycle * steps)),
            cycle_growth=self.cycle_growth,
            gamma=self.gamma,
        )

    def decay(self, start: float) -> WeightDecay | GapDecay:
        """Return the weight decay that begins at `start`."""
        from evo_tune.training import GapDecay, WeightDecay

        if self.gap_patience is None:
            return WeightDecay(start=start, end=self.weight_decay_end, shape=self.weight_decay_shape)
        end = max(start, self.weight_decay_end or 0.0)
        return GapDecay(start=start, end=end, patience=self.gap_patience, factor=self.gap_factor)


INTERVALS = {
    "flops": "(0, 1e30]",
    "tokens": "(0, 1e18]",
    "seconds": "(0, 1e9]",
    "beta1": "[0, 0.99999]",
    "beta2": "[0, 0.99999]",
    "momentum": "[0, 0.99999]",
    "eps": "(0, 1)",
    "min_lr_ratio": "[0, 1]",
    "cycle": "(0, 1]",
    "clip": "(0, inf)",
    "z_loss": "[0, 1]",
    "ema": "[0, 1)",
    "min_delta": "[0, inf)",
    "extend_share": "(0, 1)",
    "ramp_share": "(0, 1]",
}
WHOLE = {
    "vocab": (256, 65536),
    "window": (1, None),
    "kv_heads": (1, None),
    "gap_patience": (1, None),
    "evaluations": (1, 10_000),
    "patience": (1, None),
    "recompute": (1, None),
    "ranks": (1, 64),
    "ramp_from": (1, None),
    "extend_from": (2, None),
    "eval_tokens": (1, None),
}
"""Bounds of options that no part of the recipe checks without loading torch; the rest is checked by those parts."""


# ---------------------------------------------------------------- the space

SIZES: dict[str, dict[str, Any]] = {
    "small": {
        "lr": (3e-4, 3e-2, 4e-3),
        "batch": (512, 1024, 2048, 4096, 8192),
        "depth": (1, 4, 2),
        "width": (32, 128, 16, 64),
        "heads": (1, 8, 4),
        "context": (64, 128),
        "head_dim": (8, 128),
        "default_batch": 512,
    },
    "medium": {
        "lr": (3e-4, 1e-2, 2e-3),
        "batch": (2048, 4096, 8192, 16384, 32768),
        "depth": (2, 8, 4),
        "width": (64, 384, 32, 256),
        "heads": (1, 12, 4),
        "context": (64, 128, 256),
        "head_dim": (16, 128),
        "default_batch": 4096,
    },
    "large": {
        "lr": (1e-4, 3e-3, 6e-4),
        "batch": (8192, 16384, 32768, 65536, 131072, 262144),
        "depth": (4, 24, 8),
        "width": (256, 1024, 64, 512),
        "heads": (2, 32, 8),
        "context": (256, 512, 1024),
        "head_dim": (16, 128),
        "default_batch": 32768,
    },
}
"""Bounds and default of each gene: lr (low, high, default), depth and heads (likewise), width (low, high,
step, default), batch in tokens, context in tokens."""

OPTIONAL = (
    "schedule",
    "position",
    "ffn",
    "ffn_mult",
    "window",
    "kv_heads",
    "qk_norm",
    "beta2",
    "z_loss",
    "decay_fraction",
)
"""Options that may be genes."""


def _size(size: str, device: str | None = None) -> str:
    """Return the size that 'auto' means: large where there is an NVIDIA GPU, else small.

    The parent must not load torch, so it looks for the driver's device files and at
    CUDA_VISIBLE_DEVICES; a training knows its device.
    """
    if size != "auto":
        return size
    if device is None:
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1")
        present = Path("/proc/driver/nvidia/gpus").is_dir() or Path("/dev/nvidia0").exists()
        return "large" if present and not hidden else "small"
    return "large" if device.startswith("cuda") else "small"


def search_space(**given: Any) -> SearchSpace:
    """Return the genes for these options of `evaluate`.

    Raises:
        UsageError: An option is out of its range, or two budgets are given.
    """
    options = Options(**given)
    size = SIZES[_size(options.size)]

    def repair(genome: dict[str, Any], genes: Mapping[str, Gene]) -> dict[str, Any]:
        return _canonical({**genome, "heads": _sound_heads(genome, size)}, genes, options)

    batches = tuple(batch for batch in size["batch"] if batch >= (options.context or 0))
    depth, width, heads = size["depth"], size["width"], size["heads"]
    low, high, lr = (value * (50 if options.optimizer == "sgd" else 1) for value in size["lr"])
    genes = {
        "lr": Float(low, high, log=True, default=lr),
        "batch": Choice(batches, ordered=True, default=max(size["default_batch"], batches[0])),
        "depth": Int(depth[0], depth[1], default=depth[2]),
        "width": Int(width[0], width[1], step=width[2], default=width[3]),
        "heads": Int(heads[0], heads[1], default=heads[2]),
        "dropout": Float(0.0, 0.3, default=0.0),
        "weight_decay": Float(0.01, 0.3, log=True, default=0.1),
        "warmup": Float(0.0, 0.1, default=0.05),
    }
    if options.context is None:
        genes["context"] = Choice(
            size["context"], ordered=True, default=size["context"][(len(size["context"]) - 1) // 2]
        )
    return SearchSpace(repair, _optional_genes(options, size), **genes)


SPACE = search_space


def _optional_genes(options: Options, size: Mapping[str, Any]) -> dict[str, Gene]:
    """Return the genes of OPTIONAL, the option being the default wherever it is among the values."""
    longest = options.extend_from or options.context or max(size["context"])
    genes: dict[str, Gene] = {
        "schedule": Choice(SCHEDULES),
        "position": Choice(("learned", "sinusoidal", "rope")),
        "ffn": Choice(("gelu", "swiglu")),
        "ffn_mult": Choice((2.0, 2.667, 4.0), ordered=True),
        "window": Choice((*(2**n for n in range(3, 20) if 2**n < longest), longest), ordered=True),
        "kv_heads": Choice(tuple(2**n for n in range(6) if 2**n <= size["heads"][1]), ordered=True),
        "qk_norm": Choice((False, True)),
        "beta2": Choice((0.9, 0.95, 0.98, 0.99, 0.995, 0.999), ordered=True),
        "z_loss": Choice((0.0, 1e-5, 1e-4, 1e-3), ordered=True),
        "decay_fraction": Float(0.1, 0.7),
    }
    plain = {"window": longest, "kv_heads": max(cast("Choice", genes["kv_heads"]).values)}
    for name, gene in genes.items():
        option = getattr(options, name)
        value = plain.get(name) if option is None else option
        fits = isinstance(gene, Float) or value in cast("Choice", gene).values
        genes[name] = replace(gene, default=value) if fits else gene  # type: ignore[type-var]
    return genes


def _sound_heads(genome: Mapping[str, Any], size: Mapping[str, Any]) -> int:
    """Return the nearest number of heads (ties down) that leaves a multiple of 8 as head_dim."""
    width, (low, high) = genome["width"], size["head_dim"]
    counts = range(1, size["heads"][1] + 1)
    sound = [n for n in counts if width % (8 * n) == 0 and low <= width // n <= high]
    # A width that the user's own gene brought in may leave nothing sound.
    sound = sound or [n for n in counts if width % (2 * n) == 0] or [n for n in counts if width % n == 0]
    return min(sound, key=lambda n: (abs(n - genome["heads"]), n))


def _canonical(genome: dict[str, Any], genes: Mapping[str, Gene], options: Options) -> dict[str, Any]:
    """Return the genome with what changes nothing at one value, so that the same training is one genome."""
    longest = options.extend_from or genome.get("context", options.context)
    if "window" in genome and genome["window"] >= longest:
        genome["window"] = max(_values(genes["window"]))
    if "kv_heads" in genome:
        heads, given = genome["heads"], genome["kv_heads"]
        same = [n for n in _values(genes["kv_heads"]) if _kv_heads(heads, n) == _kv_heads(heads, given)]
        genome["kv_heads"] = min(same, default=given)
    if "decay_fraction" in genome and genome.get("schedule", options.schedule) != "wsd":
        genome["decay_fraction"] = genes["decay_fraction"].middle()
    return genome


def _values(gene: Gene) -> Sequence[Any]:
    """Return the values of a gene; of one with many, some, the largest among them."""
    return gene.values if isinstance(gene, Choice) else [gene.decode(u / 100) for u in range(101)]


# ---------------------------------------------------------------- the text


@dataclass(frozen=True)
class Corpus:
    """A text, ready to train on.

    Args:
        training: Tokens of the part that is trained on, (n,).
        held_out: The part that judges, as bytes.
        tokenizer: What the tokens are; it has seen the first part only.
    """

    training: Tensor
    held_out: bytes
    tokenizer: Tokenizer


def _text(options: Options) -> tuple[bytes, bytes]:
    """Return the text to train on and the text held out.

    Raises:
        UsageError: The text is missing, unreadable, empty, or too short for the longest window.
    """
    text = _read(options.data)
    longest = options.block // BLOCK
    needed = math.ceil((longest + 2) / HELD_OUT)
    if len(text) < needed:
        amount = "is empty" if not text else f"holds {len(text)} bytes"
        raise OptionError(
            f"-o data={options.data} {amount}: expected at least {needed} for windows of "
            f"{longest}; give more text, or a smaller -o context"
        )
    cut = round(len(text) * (1 - HELD_OUT))
    return text[:cut], text[cut:]


@lru_cache(maxsize=1)  # a worker trains on the same text again and again
def _read(data: str) -> bytes:
    from evo_tune.training import read_text

    return read_text(data)


@lru_cache(maxsize=1)
def _tokens(text: bytes, vocab: int) -> tuple[Any, Tokenizer]:
    """Return the tokens of the text to train on, a numpy array, and the tokenizer that was learned from it."""
    from evo_tune.training import tokenizer_for

    tokenizer = tokenizer_for(text, vocab)
    return tokenizer.encode(text), tokenizer


def fingerprint(**given: Any) -> str:
    """Return the SHA-256 of the text, of how it is split, and of the byte pairs learned from it."""
    options = Options(**given)
    training, held_out = _text(options)
    digest = hashlib.sha256(f"{len(training)}+{len(held_out)}:".encode())
    digest.update(training)
    digest.update(held_out)
    if options.vocab != 256:
        tokens, tokenizer = _tokens(training, options.vocab)
        longest = options.block // BLOCK
        if len(tokens) <= longest:
            raise OptionError(
                f"-o vocab={options.vocab}: the text to train on has {len(tokens)} tokens: expected more than "
                f"{longest}, the longest window; give more text, or a smaller -o context"
            )
        digest.update(tokenizer.to_json().encode())
    return digest.hexdigest()


def _corpus(options: Options) -> Corpus:
    import torch

    training, held_out = _text(options)
    tokens, tokenizer = _tokens(training, options.vocab)
    # TrainingWindows indexes it: torch has no indexing of uint16.
    made = torch.from_numpy(tokens.copy() if options.vocab == 256 else tokens.astype("int32"))
    return Corpus(made, held_out, tokenizer)


@dataclass(frozen=True)
class Material:
    """What a genome is trained on and judged by: a `Course`'s material.

    Args:
        corpus: The text.
        options: How it is cut.
        seed: Of the order in which it is read.
        fits: How a phase fits into the device.
    """

    corpus: Corpus
    options: Options
    seed: int
    fits: Callable[[Phase], Fit]

    def source(self, phase: Phase) -> TrainingWindows:
        from evo_tune.training import TrainingWindows

        return TrainingWindows(
            self.corpus.training,
            context=phase.config.context,
            batch=phase.per_step,
            total=phase.windows,
            seed=self.seed,
            micro_batch=self.fits(phase).micro_batch,
            first_step=phase.first_step,
            ramp=phase.ramp,
        )

    def held_out(self, context: int) -> list[tuple[Tensor, Tensor]]:
        import torch

        from evo_tune.training import held_out_blocks

        def encode(text: bytes) -> Tensor:
            return torch.from_numpy(self.corpus.tokenizer.encode(text).astype("int32"))

        text, count, block = self.corpus.held_out, self.options.eval_tokens, self.options.block
        return held_out_blocks(text, encode, context=context, count=count, block=block)

    def seen(self, context: int) -> tuple[Tensor, Tensor]:
        from evo_tune.training import fixed_windows

        count = max(1, self.options.eval_tokens // 4)
        return fixed_windows(self.corpus.training, context=context, count=count, block=self.options.block)

    @property
    def held_out_bytes(self) -> int:
        """Bytes in the held-out blocks: as many blocks for any context, each as long."""
        block = min(self.options.block, len(self.corpus.held_out) - 1)
        return block * len(self.held_out(block))


# ---------------------------------------------------------------- the budget


def _kv_heads(heads: int, most: int | None) -> int | None:
    """Return the largest divisor of `heads` up to `most`; None for one each."""
    return None if most is None or most >= heads else max(n for n in range(1, most + 1) if heads % n == 0)


def _config(genome: Mapping[str, Any], options: Options) -> GPTConfig:
    from evo_tune.training import GPTConfig

    context = genome.get("context", options.context)
    seen = options.extend_from or context
    return GPTConfig(
        vocab_size=options.vocab,
        context=context,
        depth=genome["depth"],
        width=genome["width"],
        heads=genome["heads"],
        ffn_mult=options.ffn_mult,
        dropout=genome["dropout"],
        attention_dropout=options.attention_dropout,
        bias=options.bias,
        tied=options.tied,
        init=options.init,
        position=options.position,
        rope_base=options.rope_base,
        extended_from=options.extend_from,
        extension=options.extension,
        window=options.window if options.window is None or options.window < seen else None,
        window_pattern=options.window_pattern,
        kv_heads=_kv_heads(genome["heads"], options.kv_heads),
        qk_norm=options.qk_norm,
        ffn=options.ffn,
    )


def _phases(
    genome: Mapping[str, Any], options: Options, device: str | None = None, share: float = 1.0
) -> tuple[Phase, ...] | None:
    """Return the phases of a training with a share of the budget; None if only a clock can tell how long it is."""
    from evo_tune.training import BatchRamp, plan_phases

    if options.seconds is not None:
        return None
    config = _config(genome, options)
    shares = [(1.0, config)]
    if options.extend_from is not None:
        short = replace(config, context=options.extend_from, extended_from=None)
        shares = [(1.0 - options.extend_share, short), (options.extend_share, config)]
    flops = options.flops or FLOPS[_size(options.size, device)]
    start = options.ramp_from
    ramp = None if start is None else BatchRamp(start=start, fraction=options.ramp_share)
    tokens = options.tokens and options.tokens * share
    return plan_phases(shares, genome["batch"], tokens=tokens, flops=flops * share, ramp=ramp)


def _phase(genome: Mapping[str, Any], options: Options, windows: int) -> Phase:
    """Return the only phase of a training of so many windows."""
    from evo_tune.training import Phase

    config = _config(genome, options)
    return Phase(config=config, windows=windows, per_step=max(1, genome["batch"] // config.context))


def estimate(genome: Mapping[str, Any], **given: Any) -> dict[str, float]:
    """Return what is known before training: params, flops and tokens of the full training, and gpu_memory.

    gpu_memory is what a GPU of any size would hold of it, its batch in one pass (or in micro-batches of the option),
    in bf16 unless told otherwise, bytes: by it `--per-device auto` packs trainings onto a GPU.

    Raises:
        UsageError: A value of the genome is out of its range.
    """
    from evo_tune.training import check_number, spent

    options = Options(**given).with_genes(genome)
    check_number("lr", genome["lr"], "(0, 10]" if options.optimizer == "sgd" else "(0, 1]")
    options.rates(steps=10, warmup=genome["warmup"])
    options.decay(genome["weight_decay"])
    phases = _phases(genome, options)
    known = {"params": float(_config(genome, options).parameters)}
    known["gpu_memory"] = max(_gpu_memory(phase, options) for phase in phases or (_phase(genome, options, 1),))
    return known if phases is None else {**known, **spent(phases, phases[-1].end)}


def _gpu_memory(phase: Phase, options: Options) -> float:
    """Return what a GPU would hold of a phase, without CUDA's own libraries, bytes; of several ranks', each."""
    from evo_tune.training import predict_memory

    micro = -(-phase.per_step // options.ranks)
    if options.micro_batch not in ("auto", None):
        micro = min(micro, max(1, options.micro_batch // phase.config.context))
    predicted = predict_memory(
        phase.config,
        micro,
        precision="fp32" if options.precision == "fp32" else "bf16",
        recompute=options.recompute,
        device="cuda",
        optimizer=options.optimizer,
        ema=options.ema is not None,
    )
    return predicted.peak - predicted.context


def inherits(genome: Mapping[str, Any], other: Mapping[str, Any], **given: Any) -> bool:
    """Say whether a model of a genome can begin with the weights of one of another."""
    options = Options(**given)
    mine, theirs = (_config(one, options.with_genes(one)) for one in (genome, other))
    return options.extend_from is None and not mine.unlike(theirs)  # an extended model has no short beginning


# ---------------------------------------------------------------- the training


def evaluate(
    genome: Mapping[str, Any],
    run: Context,
    *,
    data: str = "",
    size: Literal["auto", "small", "medium", "large"] = "auto",
    context: int | None = None,
    vocab: int = 256,
    flops: float | None = None,
    tokens: int | None = None,
    seconds: float | None = None,
    micro_batch: int | Literal["auto"] | None = "auto",
    ranks: int = 1,
    position: Literal["learned", "sinusoidal", "rope"] = "learned",
    rope_base: float = 10000.0,
    window: int | None = None,
    window_pattern: str = "S",
    ffn: Literal["gelu", "swiglu"] = "gelu",
    ffn_mult: float = 4.0,
    kv_heads: int | None = None,
    qk_norm: bool = False,
    bias: bool = False,
    tied: bool = True,
    attention_dropout: float = 0.0,
    init: Literal["fan_in", "normal"] = "fan_in",
    optimizer: Literal["adamw", "muon", "sgd"] = "adamw",
    beta1: float = 0.9,
    beta2: float = 0.95,
    eps: float = 1e-8,
    momentum: float = 0.95,
    schedule: Literal["cosine", "linear", "constant", "wsd", "multi_step", "sgdr", "cosine_step"] = "cosine",
    min_lr_ratio: float = 0.1,
    decay_fraction: float = 0.2,
    decay_shape: Literal["linear", "sqrt", "cosine"] = "linear",
    cycle: float = 0.1,
    cycle_growth: int = 1,
    gamma: float = 0.9,
    lr_rule: Literal["none", "sqrt", "linear"] = "none",
    ramp_from: int | None = None,
    ramp_share: float = 0.03,
    weight_decay_end: float | None = None,
    weight_decay_shape: Literal["linear", "cosine"] = "linear",
    gap_patience: int | None = None,
    gap_factor: float = 1.5,
    clip: float = 1.0,
    z_loss: float = 0.0,
    ema: float | None = None,
    evaluations: int = 4,
    patience: int | None = None,
    min_delta: float = 0.0,
    recompute: int | None = None,
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    extend_from: int | None = None,
    extension: Literal["linear", "ntk", "yarn"] = "linear",
    extend_share: float = 0.2,
    eval_tokens: int = 16384,
    save: bool = False,
) -> dict[str, float]:
    """Train one genome and judge it on the held-out text.

    `genome` holds the genes, `run` device, seed, budget and folders; the options stand at the top of the file.

    Returns:
        val_loss (nats per token), val_bpb (bits per byte) and perplexity; val_loss_first_half and _second_half, by
        the place in a window; train_loss (of the final weights on fixed windows of the training text), and what was
        spent: bf16 (1 if it was trained in it, 0 in fp32), tokens, steps, flops, params, tokens_per_second (median
        over steps), final_lr_fraction, clipped_fraction, micro_batch (tokens in a pass),
        peak_memory (measured on a GPU, predicted on a CPU), and mfu
        where the device's peak is known. With `ema` val_loss_ema; after an extension context_gain, by how much the
        loss falls when a window is as long as the context and not as `extend_from`. resumed_step if it was to go on
        from a checkpoint (0: there was none, it was trained from scratch).

    Raises:
        Diverged: The training was lost.
    """
    given = locals()
    options = Options(**{name: given[name] for name in evaluate.__kwdefaults__ or {}})
    return _train_on_ranks(genome, run, options) if options.ranks > 1 else _train(genome, run, options)[1]


def _train_on_ranks(genome: Mapping[str, Any], run: Context, options: Options) -> dict[str, float]:
    """Have several processes train it together, and return the metrics."""
    from evo_tune.training import fastest_precision, launch

    if options.precision == "auto" and not run.resume_folder:  # one answer for all
        options = Options(**{**vars(options), "precision": fastest_precision(run.device)})
    context = {"threads": run.threads, "seed": run.seed, "budget": run.budget, "folder": str(run.folder)}
    context["resume_folder"] = run.resume_folder and str(run.resume_folder)
    context.update(inherit_folder=run.inherit_folder and str(run.inherit_folder), keep=run.keep)
    metrics: dict[str, float] = launch(
        train_rank,
        {"genome": dict(genome), "context": context, "options": vars(options)},
        ranks=options.ranks,
        device=run.device,
        threads=run.threads,
        on_message=lambda point: run.report(**point),
    )
    return metrics


def train_rank(
    ranks: Ranks, tell: Callable[[dict[str, float]], None], *, genome: Any, context: Any, options: Any
) -> dict[str, float]:
    """Be one of the processes that `_train_on_ranks` starts."""
    from evo_tune import Context

    run = Context(device=str(ranks.device), **context)
    # The curve is the first process's, and the one that asked keeps it.
    run.report = lambda fraction, **metrics: tell({"fraction": fraction, **metrics}) if ranks.rank == 0 else None
    return _train(genome, run, Options(**options), ranks)[1]


def _train(
    genome: Mapping[str, Any], run: Context, options: Options, ranks: Ranks | None = None
) -> tuple[Trainer, dict[str, float]]:
    """Train up to the run's budget, from what it goes on from or inherits; return trainer and metrics."""
    from evo_tune.training import fastest_precision, keep_freed_memory, reproducible, save_checkpoint, stop_step

    keep_freed_memory()
    options = options.with_genes(genome)
    with reproducible(run.threads, run.device):
        corpus = _corpus(options)
        task = {
            "genome": dict(genome),
            "data": options.data,
            "bytes": len(_read(options.data)),
            "model": _config(genome, options).to_json(),
        }
        saved = _saved(run, task)
        if options.precision == "auto":  # another machine may answer otherwise, but not in the middle of a training
            precision = saved.get("precision", "fp32") if saved else fastest_precision(run.device)
            options = Options(**{**vars(options), "precision": precision})
        share = _share(run)
        phases = _phases(genome, options, run.device, share)
        if phases is None:  # a clock was asked once, and its answer stands
            windows = saved["windows"] if saved else _windows_in(options, genome, run, corpus)
            phases = (_phase(genome, options, max(1, round(share * windows))),)
        material = _material(genome, run, options, corpus, ranks)
        course = _course(genome, run, options, material, phases, saved, ranks)
        start, stop = course.trainer.step, stop_step(phases[-1].end, run.budget / share)
        course.run(stop)
        if (options.save or stop < phases[-1].end) and (ranks is None or ranks.rank == 0):
            state = {"task": task, "windows": phases[0].windows, "precision": options.precision}
            state.update(course.state())
            save_checkpoint(run.folder / CHECKPOINT, state)
        metrics = course.metrics(material.held_out_bytes, start if run.resume_folder else None)
        if run.keep and (ranks is None or ranks.rank == 0):
            course.model.save(run.folder / MODEL)
        return course.trainer, metrics


def _course(
    genome: Mapping[str, Any],
    run: Context,
    options: Options,
    material: Material,
    phases: Sequence[Phase],
    saved: Mapping[str, Any],
    ranks: Ranks | None,
) -> Course:
    """Return the training: at step 0, or where a checkpoint ends."""
    from evo_tune.training import Course, EarlyStopping

    step = saved["trainer"]["step"] if saved else 0
    phase = next((phase for phase in phases if step <= phase.end), phases[-1])
    stopping = None
    if options.patience is not None:
        stopping = EarlyStopping(patience=options.patience, min_delta=options.min_delta)
    course = Course(
        _trainer(genome, run, options, material, phase, phases[-1].end, ranks),
        phases,
        material,
        evaluations=options.evaluations,
        extension=options.extension,
        stopping=stopping,
        report=lambda fraction, loss: run.report(fraction * _share(run), val_loss=loss),
    )
    if saved:
        course.restore(dict(saved))
    return course


def _share(run: Context) -> float:
    """Return the share of the full budget over which schedules are laid: an heir's training is whole in itself."""
    return 1.0 if run.inherit_folder is None else run.budget


def _seed(run: Context) -> int:
    """Return the training's seed: an heir reads the text in another order than the one whose weights it has."""
    from evo_tune.training import seed_for

    return run.seed if run.inherit_folder is None else seed_for(run.seed, "inheritance") % 2**32


def _model(run: Context, config: GPTConfig, recompute: int | None) -> GPT:
    """Return the model at step 0: new, or with the weights of another trial in its own shape.

    Raises:
        RecipeError: The other trial's weights are gone, or do not fit.
    """
    from evo_tune import training

    seed = training.seed_for(_seed(run), "weights")
    if run.inherit_folder is None:
        return training.GPT(config, seed=seed, recompute=recompute)
    if not (run.inherit_folder / MODEL).is_dir():
        expected = "one with a model: was _trials emptied, or is it not the same for all machines?"
        raise RecipeError("inherit_folder", str(run.inherit_folder), expected)
    return training.reshape(training.GPT.load(run.inherit_folder / MODEL), config, seed, recompute=recompute)


def _saved(run: Context, task: dict[str, Any]) -> dict[str, Any]:
    """Return the checkpoint to go on from; empty if there is none."""
    from evo_tune.training import load_checkpoint

    file = run.resume_folder / CHECKPOINT if run.resume_folder else None
    if file is None or not file.is_file():
        return {}
    saved = load_checkpoint(file)
    if saved["task"] != task:
        raise OptionError(f"{file} belongs to {saved['task']}: expected {task}; train from scratch instead")
    return saved


def _material(
    genome: Mapping[str, Any], run: Context, options: Options, corpus: Corpus, ranks: Ranks | None = None
) -> Material:
    """Return the text, in micro-batches by the device's whole memory, which is looked at once a phase."""
    from evo_tune import training

    @cache
    def fits(phase: Phase) -> Fit:
        size, config = ranks.size if ranks else 1, phase.config
        each = -(-phase.per_step // size)
        if options.micro_batch != "auto":
            micro = min(each, max(1, (options.micro_batch or each * config.context) // config.context))
            return training.Fit(micro, None, training.predict_memory(config, micro))
        return training.fit_device(
            config,
            each,
            run.device,
            sharing=size,
            probe=None if ranks else partial(one_step, phase),
            optimizer=options.optimizer,
            ema=options.ema is not None,
            precision="fp32" if options.precision == "auto" else options.precision,
        )

    def one_step(phase: Phase, fit: Fit) -> None:
        one = replace(phase, windows=phase.per_step, first_step=0, ramp=None)
        material = Material(corpus, options, _seed(run), lambda phase: fit)
        _trainer({**genome, "lr": 1e-6}, run, options, material, one, 1).run(1)

    return Material(corpus, options, _seed(run), fits)


def _trainer(
    genome: Mapping[str, Any],
    run: Context,
    options: Options,
    material: Material,
    phase: Phase,
    steps: int,
    ranks: Ranks | None = None,
) -> Trainer:
    """Return a trainer of a phase at step 0, its schedules laid over all `steps`."""
    from evo_tune import training

    reference = SIZES[_size(options.size, run.device)]["default_batch"]
    lr = training.scale_lr(genome["lr"], genome["batch"], reference, options.lr_rule)
    betas = {"beta1": options.beta1, "beta2": options.beta2, "eps": options.eps}
    optimizer: Any = {
        "adamw": lambda: training.AdamW(lr=lr, **betas),
        "muon": lambda: training.Muon(lr=lr, momentum=options.momentum, **betas),
        "sgd": lambda: training.SGD(lr=lr, momentum=options.momentum),
    }[options.optimizer]()
    recipe = training.Recipe(
        optimizer=optimizer,
        schedule=options.rates(steps, genome["warmup"]),
        weight_decay=options.decay(genome["weight_decay"]),
        clip=options.clip,
        ceiling=1.5 * math.log(options.vocab),
        z_loss=options.z_loss,
        ema=options.ema,
        precision=training.Precision(name=options.precision),
    )
    model = _model(run, phase.config, options.recompute or material.fits(phase).recompute).to(run.device)
    return training.Trainer(model, material.source(phase), recipe, seed=_seed(run), device=run.device, ranks=ranks)


def _windows_in(options: Options, genome: Mapping[str, Any], run: Context, corpus: Corpus) -> int:
    """Return how many windows fit in the budget of seconds, by the median of ten steps after three."""
    warm, timed = 3, 10
    phase = _phase(genome, options, windows=1)
    phase = replace(phase, windows=phase.per_step * (warm + timed))
    # A trainer of its own, to be thrown away; at a learning rate with which nothing diverges.
    material = _material(genome, run, options, corpus)
    trial = _trainer({**genome, "lr": 1e-6}, run, options, material, phase, warm + timed)
    trial.run(warm)
    times = []
    for step in range(warm, warm + timed):
        before = time.perf_counter()
        trial.run(step + 1)
        times.append(time.perf_counter() - before)
    return phase.per_step * max(1, int(float(options.seconds or 0.0) / statistics.median(times)))


# ---------------------------------------------------------------- the model, to keep

USAGE = """# A GPT, found by evo-tune

    from evo_tune.training import GPT
    model = GPT.load({folder!r})
    print(model.generate("The ", 200))

`generate` takes `temperature`, `top_k` and `seed` as well. model.safetensors holds the weights, config.json
the shape, the genome, the options and the metrics: {val_bpb:.3f} bits per byte on held-out text.{more}
"""
TOKENS = " tokenizer.json has\nits tokens; `pip install tokenizers` reads it."
AVERAGED = "\n\nThe folder averaged has the moving average of the weights, as a model of its own."


def export(
    genome: Mapping[str, Any],
    run: Context,
    folder: Path | str,
    *,
    tokens: int | None = None,
    seconds: float | None = None,
    **given: Any,
) -> dict[str, float]:
    """Train a genome once more and write it as something to use: weights, config.json and README.md.

    Args:
        genome: Values of the genes.
        run: Device, seed and threads.
        folder: Where; made if it is not there.
        tokens: Budget in tokens; it or seconds takes the place of a budget among `given`.
        seconds: Budget in seconds.
        given: The other options of `evaluate`; one process trains, whatever ranks says.

    Returns:
        What `evaluate` returns.
    """
    if tokens is not None or seconds is not None:
        given = {**given, "flops": None, "tokens": tokens, "seconds": seconds}
    options, folder = Options(**given), Path(folder)
    trainer, metrics = _train(genome, run, options)
    averaged = None if trainer.averaged is None else trainer.averaged.module
    notes = {"genome": dict(genome), "options": vars(options), "seed": run.seed, "metrics": metrics}
    for model, into in ((trainer.model, folder), (averaged, folder / "averaged")):
        if model is not None:
            model.tokenizer = _corpus(options).tokenizer
            cast("GPT", model).save(into, **notes)
    more = (TOKENS if options.vocab != 256 else "") + (AVERAGED if averaged is not None else "")
    text = USAGE.format(folder=str(folder), val_bpb=metrics["val_bpb"], more=more)
    (folder / "README.md").write_text(text, encoding="utf-8")
    return metrics


def load(folder: Path | str) -> GPT:
    """Return a model that `export` wrote."""
    from evo_tune.training import GPT

    return GPT.load(folder)
