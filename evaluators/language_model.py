"""A GPT on text, byte by byte: any file, folder or language; minimises val_loss (nats per byte).

The text is read as bytes, so there is no tokenizer to fit and nothing to download. Its last tenth is held
out; the same held-out bytes judge every genome. What is held equal between genomes is chosen by exactly
one of three budgets:

    -o flops=1e11     arithmetic (the default): a larger model sees less text; about equal time
    -o tokens=500000  text: favours large models, which take longer
    -o seconds=5      time on this machine: ten steps are timed and the number of steps fixed from them;
                      not reproducible to the bit, since two timings differ

This file knows how genomes become trainings; how to train is `evo_tune.training`'s. It is imported by the
parent process too, so torch is imported inside functions only.
"""

from __future__ import annotations

import glob
import hashlib
import math
import os
import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from evo_tune import Choice, Float, Int, Minimize, SearchSpace
from evo_tune.errors import OptionError

if TYPE_CHECKING:
    from torch import Tensor

    from evo_tune import Context
    from evo_tune.training import GPT, GPTConfig, Trainer

OBJECTIVES = [Minimize("val_loss")]

METRICS = {
    "val_loss": "nats per byte",
    "val_bpb": "bits per byte",
    "train_loss": "nats per byte",
    "tokens": "bytes",
    "steps": "",
    "flops": "",
    "params": "",
    "tokens_per_second": "1/s",
    "final_lr_fraction": "",
    "clipped_fraction": "",
}

SUPPORTS = ["budget", "curve"]

HELD_OUT = 0.1
"""Share of the text, at its end, that is never trained on."""

CURVE_POINTS = 4
"""Points of the learning curve over the full training, each from every fourth held-out block."""

CHECKPOINT = "checkpoint.pt"

FLOPS = {"small": 1e11, "medium": 2.5e13, "large": 1e15}
"""Default budget of each size."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `evaluate`, checked; their defaults stand in its signature."""

    data: str
    size: str
    context: int | None
    flops: float | None
    tokens: int | None
    seconds: float | None
    micro_batch: int | None
    tied: bool
    init: str
    schedule: str
    min_lr_ratio: float
    decay_fraction: float
    lr_rule: str
    beta2: float
    clip: float
    eval_tokens: int
    save: bool

    def __post_init__(self) -> None:
        given = [name for name in ("flops", "tokens", "seconds") if getattr(self, name) is not None]
        if len(given) > 1:
            raise OptionError(f"-o {given[0]} and -o {given[1]} are both given: give one budget, or none")
        for name in (*given, "eval_tokens", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise OptionError(f"-o {name}={getattr(self, name):g}: expected a number above 0")
        for name, low, high in (("min_lr_ratio", 0, 1), ("decay_fraction", 1e-3, 1), ("beta2", 0, 0.99999)):
            if not low <= getattr(self, name) <= high:
                raise OptionError(f"-o {name}={getattr(self, name):g}: expected a number from {low} to {high}")
        largest = max(SIZES[_size(self.size)]["batch"])
        for name in ("context", "micro_batch"):
            value = getattr(self, name)
            if value is not None and not 2 <= value <= largest:
                raise OptionError(f"-o {name}={value}: expected 2 to {largest} tokens (the largest batch)")

    @property
    def block(self) -> int:
        """Bytes in a block of held-out text: the longest window that any genome may ask for, or more."""
        block: int = max(*SIZES[_size(self.size)]["context"], self.context or 0)
        return block


def options_from(given: Mapping[str, Any]) -> Options:
    """Return options, those not given at their defaults."""
    return Options(**{**(evaluate.__kwdefaults__ or {}), **given})


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
        OptionError: An option is out of its range, or two budgets are given.
    """
    options = options_from(given)
    size = SIZES[_size(options.size)]
    low, high = size["head_dim"]

    def repair(genome: dict[str, Any]) -> dict[str, Any]:
        """Move heads to the nearest number (ties down) that leaves a multiple of 8 as head_dim."""
        width = genome["width"]
        sound = [n for n in range(1, size["heads"][1] + 1) if width % (8 * n) == 0 and low <= width // n <= high]
        # A width that the user's own gene brought in may leave nothing sound.
        sound = sound or [n for n in range(1, size["heads"][1] + 1) if width % n == 0]
        return {**genome, "heads": min(sound, key=lambda n: (abs(n - genome["heads"]), n))}

    batches = tuple(batch for batch in size["batch"] if batch >= (options.context or 0))
    default_batch = max(size["default_batch"], batches[0])
    lr, depth, width, heads = size["lr"], size["depth"], size["width"], size["heads"]
    genes = {
        "lr": Float(lr[0], lr[1], log=True, default=lr[2]),
        "batch": Choice(batches, ordered=True, default=default_batch),
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
    return SearchSpace(repair=repair, **genes)


SPACE = search_space


# ---------------------------------------------------------------- the text


@lru_cache(maxsize=1)  # a worker trains on the same text again and again
def _read(data: str) -> bytes:
    """Return the bytes of a file, of a folder's files (in order of their paths), or of a glob's."""
    if not data:
        from pydoc_data.topics import topics  # English, 465 kB; it differs a little between Python versions

        return "\n".join(topics[name] for name in sorted(topics)).encode()
    path = Path(data).expanduser()
    if path.is_dir():
        found = [p for p in path.rglob("*") if not any(part[0] == "." for part in p.relative_to(path).parts)]
    else:
        found = [path] if path.exists() else [Path(name) for name in glob.glob(str(path), recursive=True)]
    files = sorted(file for file in found if file.is_file())
    if not files:
        what = "holds no files" if path.is_dir() else "is no file, folder or glob with a match"
        raise OptionError(
            f"-o data={data} {what} (from {Path.cwd()}): give a path to text, or leave it out for the built-in text"
        )
    try:
        return b"\n".join(file.read_bytes() for file in files)
    except OSError as error:
        raise OptionError(f"-o data={data}: cannot read {error.filename}: {error.strerror}") from error


def _text(options: Options) -> tuple[bytes, bytes]:
    """Return the text to train on and the text held out.

    Raises:
        OptionError: The text is missing, unreadable, empty, or too short for the longest window.
    """
    text = _read(options.data)
    needed = math.ceil((options.block + 2) / HELD_OUT)
    if len(text) < needed:
        amount = "is empty" if not text else f"holds {len(text)} bytes"
        raise OptionError(
            f"-o data={options.data} {amount}: expected at least {needed} for windows of "
            f"{options.block}; give more text, or a smaller -o context"
        )
    cut = round(len(text) * (1 - HELD_OUT))
    return text[:cut], text[cut:]


def fingerprint(**given: Any) -> str:
    """Return the SHA-256 of the text and of how it is split."""
    training, held_out = _text(options_from(given))
    digest = hashlib.sha256(f"{len(training)}+{len(held_out)}:".encode())
    digest.update(training)
    digest.update(held_out)
    return digest.hexdigest()


def _tensor(text: bytes) -> Tensor:
    import torch

    return torch.frombuffer(bytearray(text), dtype=torch.uint8)


# ---------------------------------------------------------------- the budget


def _config(genome: Mapping[str, Any], options: Options) -> GPTConfig:
    from evo_tune.training import GPTConfig

    return GPTConfig(
        vocab_size=256,
        context=genome.get("context", options.context),
        depth=genome["depth"],
        width=genome["width"],
        heads=genome["heads"],
        dropout=genome["dropout"],
        tied=options.tied,
        init=options.init,
    )


def _windows_per_step(genome: Mapping[str, Any], config: GPTConfig) -> int:
    batch: int = genome["batch"]
    return max(1, batch // config.context)


def _windows(config: GPTConfig, options: Options, device: str | None = None) -> int | None:
    """Return the number of windows in the full training; None if only a clock can tell."""
    from evo_tune.training import flops_per_token

    if options.seconds is not None:
        return None
    tokens: float
    if options.tokens is not None:
        tokens = options.tokens
    else:
        tokens = (options.flops or FLOPS[_size(options.size, device)]) / flops_per_token(config)
    return max(1, round(tokens / config.context))


def estimate(genome: Mapping[str, Any], **given: Any) -> dict[str, float]:
    """Return what is known before training: params, and flops and tokens of the full training."""
    from evo_tune.training import flops_per_token

    options = options_from(given)
    config = _config(genome, options)
    known = {"params": float(config.parameters)}
    windows = _windows(config, options)
    if windows is not None:
        tokens = float(windows * config.context)
        known.update(tokens=tokens, flops=tokens * flops_per_token(config))
    return known


# ---------------------------------------------------------------- the training


def evaluate(
    genome: Mapping[str, Any],
    run: Context,
    *,
    data: str = "",
    size: Literal["auto", "small", "medium", "large"] = "auto",
    context: int | None = None,
    flops: float | None = None,
    tokens: int | None = None,
    seconds: float | None = None,
    micro_batch: int | None = None,
    tied: bool = True,
    init: Literal["fan_in", "normal"] = "fan_in",
    schedule: Literal["cosine", "linear", "constant", "wsd", "multi_step", "sgdr", "cosine_step"] = "cosine",
    min_lr_ratio: float = 0.1,
    decay_fraction: float = 0.2,
    lr_rule: Literal["none", "sqrt", "linear"] = "none",
    beta2: float = 0.95,
    clip: float = 1.0,
    eval_tokens: int = 16384,
    save: bool = False,
) -> dict[str, float]:
    """Train one genome and judge it on the held-out text.

    Args:
        genome: Values of the genes.
        run: Device, seed, budget and folders.
        data: File, folder (with all below it) or glob; empty: 465 kB of English about Python.
        size: Which space to search: small, medium, large, or by the machine (large on a GPU).
        context: Tokens in a window; left out, it is a gene.
        flops: Budget in FLOPs (the default, as in FLOPS).
        tokens: Budget in bytes of text.
        seconds: Budget in seconds of training on this machine.
        micro_batch: Most tokens in one pass; the gradient is that of the whole batch all the same.
        tied: Whether head and embedding share their weights.
        init: How weights begin: fan_in suits small widths, normal is GPT-2's N(0, 0.02).
        schedule: Shape of the learning rate after warm-up.
        min_lr_ratio: Its end, as a share of its peak.
        decay_fraction: Share of the steps in which the schedule wsd decays.
        lr_rule: How lr, which is meant for the default batch, moves with the batch gene.
        beta2: Decay of Adam's second moment.
        clip: Largest norm of the gradient.
        eval_tokens: Held-out bytes that are scored at the end.
        save: Keep a checkpoint of a full training too.

    Returns:
        val_loss (nats per byte), val_bpb (bits per byte), train_loss (nats per byte, of the final weights
        on fixed windows of the training text), and what was spent: tokens, steps, flops, params,
        tokens_per_second, final_lr_fraction, clipped_fraction; resumed_step if it was to go on from a
        checkpoint (0: there was none, it was trained from scratch). The learning curve is that of a
        quarter of the held-out blocks, so its last val_loss is not quite the one returned.

    Raises:
        Diverged: The training was lost.
    """
    options = Options(
        data=data,
        size=size,
        context=context,
        flops=flops,
        tokens=tokens,
        seconds=seconds,
        micro_batch=micro_batch,
        tied=tied,
        init=init,
        schedule=schedule,
        min_lr_ratio=min_lr_ratio,
        decay_fraction=decay_fraction,
        lr_rule=lr_rule,
        beta2=beta2,
        clip=clip,
        eval_tokens=eval_tokens,
        save=save,
    )
    return _train(genome, run, options)[1]


def _train(genome: Mapping[str, Any], run: Context, options: Options) -> tuple[GPT, dict[str, float]]:
    """Train up to the run's budget, from its checkpoint if there is one; return model and metrics."""
    from evo_tune.training import keep_freed_memory, reproducible, save_checkpoint

    keep_freed_memory()
    with reproducible(run.threads, run.device):
        training, held_out = (_tensor(text) for text in _text(options))
        config = _config(genome, options)
        task = {"genome": dict(genome), "data": options.data, "bytes": len(training) + len(held_out)}
        saved = _saved(run, task)
        windows = _windows(config, options, run.device)
        if windows is None:  # a clock was asked once, and its answer stands
            windows = saved["windows"] if saved else _windows_in(options, genome, run, training)
        trainer = _trainer(genome, run, options, training, windows)
        if saved:
            trainer.restore(saved["trainer"])
        start = trainer.step
        metrics = _run(trainer, run, training, held_out, options)
        if run.resume_folder:
            metrics["resumed_step"] = start
        if options.save or trainer.step < trainer.recipe.schedule.steps:
            state = {"task": task, "windows": windows, "trainer": trainer.state()}
            save_checkpoint(run.folder / CHECKPOINT, state)
        return cast("GPT", trainer.model), metrics


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


def _trainer(genome: Mapping[str, Any], run: Context, options: Options, text: Tensor, windows: int) -> Trainer:
    """Return a trainer at step 0, its schedules laid over all `windows`."""
    from evo_tune import training

    config = _config(genome, options)
    source = training.TrainingWindows(
        text,
        context=config.context,
        batch=_windows_per_step(genome, config),
        total=windows,
        seed=run.seed,
        micro_batch=None if options.micro_batch is None else max(1, options.micro_batch // config.context),
    )
    reference = SIZES[_size(options.size, run.device)]["default_batch"]
    lr = training.scale_lr(genome["lr"], genome["batch"], reference, options.lr_rule)
    recipe = training.Recipe(
        optimizer=training.AdamW(lr=lr, beta2=options.beta2),
        schedule=training.Schedule(
            steps=source.steps,
            name=options.schedule,
            warmup_fraction=genome["warmup"],
            min_ratio=options.min_lr_ratio,
            decay_fraction=options.decay_fraction,
        ),
        weight_decay=training.WeightDecay(start=genome["weight_decay"]),
        clip=options.clip,
        ceiling=1.5 * math.log(config.vocab_size),
    )
    model = training.GPT(config, seed=training.seed_for(run.seed, "weights")).to(run.device)
    return training.Trainer(model, source, recipe, seed=run.seed, device=run.device)


def _windows_in(options: Options, genome: Mapping[str, Any], run: Context, text: Tensor) -> int:
    """Return how many windows fit in the budget of seconds, by the median of ten steps after three."""
    warm, timed = 3, 10
    per_step = _windows_per_step(genome, _config(genome, options))
    # A trainer of its own, to be thrown away; at a learning rate with which nothing diverges.
    trial = _trainer({**genome, "lr": 1e-6}, run, options, text, per_step * (warm + timed))
    trial.run(warm)
    times = []
    for step in range(warm, warm + timed):
        before = time.perf_counter()
        trial.run(step + 1)
        times.append(time.perf_counter() - before)
    return per_step * max(1, int(float(options.seconds or 0.0) / statistics.median(times)))


def _run(trainer: Trainer, run: Context, training: Tensor, held_out: Tensor, options: Options) -> dict[str, float]:
    """Train up to the budget, reporting along the way, and return the metrics."""
    from evo_tune.training import evaluate as judge
    from evo_tune.training import fixed_windows, flops_per_token, stop_step

    config: GPTConfig = cast("GPT", trainer.model).config
    steps = trainer.recipe.schedule.steps
    stop = stop_step(steps, run.budget)
    curve, rest = _held_out(held_out, config.context, options)
    batch = max(1, 4096 // config.context)
    first_step, first_targets, seconds = trainer.step, trainer.targets, 0.0
    marks = {-(-steps * point // CURVE_POINTS) for point in range(1, CURVE_POINTS)}
    for mark in sorted({mark for mark in marks if first_step < mark < stop} | {stop}):
        before = time.perf_counter()
        trainer.run(max(mark, trainer.step))
        seconds += time.perf_counter() - before
        judged = judge(trainer.model, curve, device=run.device, batch=batch)
        run.report(trainer.step / steps, val_loss=judged.loss)
    judged += judge(trainer.model, rest, device=run.device, batch=batch)
    seen = fixed_windows(training, context=config.context, count=options.eval_tokens // 4, block=options.block)
    last = max(0, trainer.step - 1)
    return {
        "val_loss": judged.loss,
        "val_bpb": judged.bits,
        "train_loss": judge(trainer.model, seen, device=run.device, batch=batch).loss,
        "tokens": trainer.targets,
        "steps": trainer.step,
        "flops": trainer.targets * flops_per_token(config),
        "params": config.parameters,
        "tokens_per_second": (trainer.targets - first_targets) / max(seconds, 1e-9),
        "final_lr_fraction": trainer.recipe.schedule(last),
        "clipped_fraction": trainer.clipped / max(1, trainer.step),
    }


def _held_out(text: Tensor, context: int, options: Options) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return the windows of every fourth held-out block, for the curve, and those of the others."""
    import torch

    from evo_tune.training import fixed_windows

    inputs, targets = fixed_windows(text, context=context, count=options.eval_tokens, block=options.block)
    per_block = -(-min(options.block, len(text) - 1) // inputs.shape[1])
    curve = torch.arange(len(inputs)) // per_block % 4 == 0
    return (inputs[curve], targets[curve]), (inputs[~curve], targets[~curve])


# ---------------------------------------------------------------- the model, to keep

USAGE = """# A byte-level GPT, found by evo-tune

    from evo_tune.training import GPT
    model = GPT.load({folder!r})
    print(model.generate("The ", 200))

`generate` takes `temperature`, `top_k` and `seed` as well. model.safetensors holds the weights, config.json
the shape, the genome, the options and the metrics: {val_bpb:.3f} bits per byte on held-out text.
"""


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
        tokens: Budget in bytes of text; it or seconds takes the place of a budget among `given`.
        seconds: Budget in seconds.
        given: The other options of `evaluate`.

    Returns:
        What `evaluate` returns.
    """
    if tokens is not None or seconds is not None:
        given = {**given, "flops": None, "tokens": tokens, "seconds": seconds}
    options = options_from(given)
    model, metrics = _train(genome, run, options)
    model.save(folder, genome=dict(genome), options=asdict(options), seed=run.seed, metrics=metrics)
    text = USAGE.format(folder=str(folder), val_bpb=metrics["val_bpb"])
    (Path(folder) / "README.md").write_text(text, encoding="utf-8")
    return metrics


def load(folder: Path | str) -> GPT:
    """Return a model that `export` wrote."""
    from evo_tune.training import GPT

    return GPT.load(folder)
