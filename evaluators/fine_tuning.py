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

import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from evo_tune import Choice, Float, Minimize, SearchSpace
from evo_tune.errors import OptionError, StoreError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from evo_tune import Context
    from evo_tune.training import Adapters, Base, Evaluation, LoRA, Trainer

OBJECTIVES = [Minimize("val_loss")]

METRICS = {
    "val_loss": "nats per token",
    "val_bpb": "bits per byte",
    "base_val_loss": "nats per token",
    "train_loss": "nats per token",
    "trainable_params": "",
    "tokens": "",
    "steps": "",
    "flops": "",
    "tokens_per_second": "1/s",
    "final_lr_fraction": "",
    "clipped_fraction": "",
}

CURVE_POINTS = 4
"""Points of the learning curve over the full training, each from every fourth held-out window."""

CHECKPOINT = "checkpoint.pt"

TOKENS = 65536
"""Default budget."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `evaluate`, checked; their defaults stand in its signature."""

    data: str
    base: str
    method: str
    targets: str
    context: int | None
    tokens: int | None
    flops: float | None
    micro_batch: int | None
    schedule: str
    min_lr_ratio: float
    decay_fraction: float
    beta2: float
    clip: float
    eval_tokens: int
    keep: str

    def __post_init__(self) -> None:
        if self.tokens is not None and self.flops is not None:
            raise OptionError("-o tokens and -o flops are both given: give one budget, or none")
        for name in ("tokens", "flops", "eval_tokens", "clip"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise OptionError(f"-o {name}={value:g}: expected a number above 0")
        for name, low, high in (("min_lr_ratio", 0, 1), ("decay_fraction", 1e-3, 1), ("beta2", 0, 0.99999)):
            if not low <= getattr(self, name) <= high:
                raise OptionError(f"-o {name}={getattr(self, name):g}: expected a number from {low} to {high}")
        if self.micro_batch is not None and self.micro_batch < 1:
            raise OptionError(f"-o micro_batch={self.micro_batch}: expected a number of windows from 1")

    @property
    def planned(self) -> Base:
        """The base, read without torch; the small one need not have been trained yet."""
        from evo_tune.training import Base, read_base

        return read_base(self.base) if self.base else Base(Path(), {"model": SMALL["model"]}, {})

    def window(self, base: Base) -> int:
        """Return the tokens in a window.

        Raises:
            OptionError: More than the base takes.
        """
        longest = base.context or 1 << 20
        context = min(longest, 512) if self.context is None else self.context
        if not 2 <= context <= longest:
            raise OptionError(f"-o context={context}: expected 2 to {longest} tokens, what the base takes")
        return context


def options_from(given: Mapping[str, Any]) -> Options:
    """Return options, those not given at their defaults."""
    return Options(**{**(evaluate.__kwdefaults__ or {}), **given})


# ---------------------------------------------------------------- the space

RANKS, BOTTLENECKS = (2, 4, 8, 16, 32, 64), (4, 8, 16, 32, 64)

LR = {"small": (2e-4, 2e-2, 1e-2), "large": (2e-5, 2e-3, 2e-4)}
"""Bounds and default of lr, for bases narrower than 256 and others: small models take ten times as much."""


def search_space(**given: Any) -> SearchSpace:
    """Return the genes for these options of `evaluate`.

    Raises:
        OptionError: An option is out of its range, or two budgets are given.
        RecipeError: The base is no checkpoint, or targets name no layers of it.
    """
    options = options_from(given)
    base = options.planned
    options.window(base)
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
        unused = lora if _method(genome, options) == "adapter" else adapter
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


def _method(genome: Mapping[str, Any], options: Options) -> str:
    method: str = genome.get("method", options.method)
    return method


def _layers(genome: Mapping[str, Any], options: Options, base: Base) -> tuple[str, ...]:
    if _method(genome, options) == "adapter":
        return base.targets(options.targets or "branch-outputs")
    return base.targets(options.targets or genome["targets"])


def _trainable(genome: Mapping[str, Any], options: Options, base: Base) -> int:
    """Return the number of trained weights: r · (d_in + d_out) a layer, d_out more for DoRA; 2md + d + m an adapter."""
    method, sizes = _method(genome, options), [base.linears[name] for name in _layers(genome, options, base)]
    if method == "adapter":
        m: int = genome.get("bottleneck", 16)
        return sum(2 * m * outputs + outputs + m for _, outputs in sizes)
    lengths = sum(outputs for _, outputs in sizes) if method == "dora" else 0
    rank: int = genome["rank"]
    return sum(rank * (inputs + outputs) for inputs, outputs in sizes) + lengths


def _new_weights(genome: Mapping[str, Any], options: Options, base: Base) -> LoRA | Adapters:
    from evo_tune.training import Adapters, LoRA

    method, layers = _method(genome, options), _layers(genome, options, base)
    if method == "adapter":
        return Adapters(bottleneck=genome.get("bottleneck", 16), targets=layers)
    alpha = genome["alpha_ratio"] * genome["rank"]
    return LoRA(rank=genome["rank"], alpha=alpha, dropout=genome["dropout"], targets=layers, dora=method == "dora")


# ---------------------------------------------------------------- the text

SUBJECTS = ("bltin", "dict", "format", "sequence", "string", "types")
"""First letters of the topics of the built-in text that the small base is tuned to; it is trained on the others."""


@lru_cache
def _built_in(*, tuning: bool) -> bytes:
    """Return one of the two parts of the text that Python brings along."""
    from evo_tune.training import python_paragraphs

    paragraphs = python_paragraphs(first=SUBJECTS)
    return "\n\n".join(text for text, topic in paragraphs.items() if topic.startswith(SUBJECTS) == tuning).encode()


def _text(options: Options) -> tuple[bytes, bytes]:
    """Return the text to train on and the text held out.

    Raises:
        OptionError: It is too short.
        RecipeError: It is missing or unreadable.
    """
    from evo_tune.training import read_text, split_text

    text = read_text(options.data) if options.data else _built_in(tuning=True)
    return split_text(text, options.window(options.planned), options.data)


def fingerprint(**given: Any) -> str:
    """Return the SHA-256 of the text, how it is split, and the base: its files, or how the small one is made."""
    options = options_from(given)
    training, held_out = _text(options)
    base = options.planned.sha256() if options.base else _small_base_key()
    digest = hashlib.sha256(f"{len(training)}+{len(held_out)}:{base}:".encode())
    digest.update(training)
    digest.update(held_out)
    return digest.hexdigest()


@lru_cache(maxsize=1)  # a worker trains on the same text again and again
def _tokens(options: Options, sha256: str) -> tuple[Tensor, Tensor, float]:
    """Return the tokens of both parts, and the tokens in a byte of the held-out one."""
    from evo_tune.training import encode

    del sha256  # of the base, so that another one at the same place is not taken for it
    base = _base(options)
    training, held_out = _text(options)
    tokens = encode(base, held_out)
    return encode(base, training), tokens, len(tokens) / len(held_out)


# ---------------------------------------------------------------- the base

SMALL: dict[str, Any] = {
    "version": 1,
    "model": {"vocab_size": 256, "context": 128, "depth": 2, "width": 64, "heads": 4, "init": "fan_in"},
    "windows": 5000,
    "batch": 4,
    "lr": 4e-3,
    "weight_decay": 0.1,
    "seed": 0,
}
"""How the small base is trained: always on one thread of a CPU, so that every slot has the same."""


def _base(options: Options) -> Base:
    from evo_tune.training import read_base

    return read_base(options.base or _small_base())


def _small_base_key() -> str:
    digest = hashlib.sha256(json.dumps(SMALL, sort_keys=True).encode())
    digest.update(_built_in(tuning=False))
    return digest.hexdigest()


def _small_base() -> Path:
    """Return the folder of the small base; whoever needs it first trains it, the others wait.

    One folder of the user's cache for each recipe, text and version of torch. What is damaged is made anew.

    Raises:
        StoreError: The cache cannot be written.
    """
    from importlib.metadata import version

    from filelock import FileLock

    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "evo-tune"
    folder = cache / f"base-{_small_base_key()[:16]}-torch-{version('torch')}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not _is_sound(folder):
                partial = folder.with_name(f"{folder.name}.partial")
                for rest in (partial, folder):
                    shutil.rmtree(rest, ignore_errors=True)
                _train_small_base(partial)
                partial.replace(folder)
    except OSError as error:
        raise StoreError(
            f"cannot write {folder}: {error.strerror}; give -o base=FOLDER, or set XDG_CACHE_HOME"
        ) from error
    return folder


def _is_sound(folder: Path) -> bool:
    from evo_tune.errors import RecipeError
    from evo_tune.training import read_base

    try:
        return read_base(folder).sha256() == (folder / "sha256").read_text()
    except (OSError, ValueError, RecipeError):
        return False


def _train_small_base(folder: Path) -> None:
    import torch

    from evo_tune import training

    with training.reproducible(1):
        config = training.GPTConfig.from_json(SMALL["model"])
        source = training.TrainingWindows(
            torch.frombuffer(bytearray(_built_in(tuning=False)), dtype=torch.uint8),
            context=config.context,
            batch=SMALL["batch"],
            total=SMALL["windows"],
            seed=SMALL["seed"],
        )
        recipe = training.Recipe(
            optimizer=training.AdamW(lr=SMALL["lr"]),
            schedule=training.Schedule(steps=source.steps),
            weight_decay=training.WeightDecay(start=SMALL["weight_decay"]),
        )
        model = training.GPT(config, seed=SMALL["seed"])
        training.Trainer(model, source, recipe, seed=SMALL["seed"]).run(source.steps)
        model.save(folder, made=SMALL)
    (folder / "sha256").write_text(training.read_base(folder).sha256())


# ---------------------------------------------------------------- the budget


def _windows(genome: Mapping[str, Any], options: Options, base: Base) -> int:
    """Return the number of windows in the full training."""
    context = options.window(base)
    if options.flops is None:
        return max(1, round((options.tokens or TOKENS) / context))
    return max(1, round(options.flops / base.flops_per_token(context, _trainable(genome, options, base)) / context))


def estimate(genome: Mapping[str, Any], **given: Any) -> dict[str, float]:
    """Return what is known before training: trained weights, and tokens and flops of the full training.

    Raises:
        RecipeError: A gene of the user's own is out of what can be trained.
    """
    options = options_from(given)
    base = options.planned
    _check(genome, options, base)
    context, trainable = options.window(base), _trainable(genome, options, base)
    tokens = _windows(genome, options, base) * context
    return {
        "trainable_params": float(trainable),
        "tokens": float(tokens),
        "flops": tokens * base.flops_per_token(context, trainable),
    }


def _check(genome: Mapping[str, Any], options: Options, base: Base) -> None:
    from evo_tune.training import check_integer, check_number

    smallest = min(min(base.linears[name]) for name in _layers(genome, options, base))
    for name, largest in (("batch", None), ("bottleneck", None), ("rank", smallest)):
        if name in genome:
            check_integer(name, genome[name], 1, largest)
    for name, interval in (
        ("lr", "(0, 1]"),
        ("warmup", "[0, 0.5]"),
        ("dropout", "[0, 1)"),
        ("alpha_ratio", "(0, inf)"),
    ):
        if name in genome:
            check_number(name, genome[name], interval)


# ---------------------------------------------------------------- the training


def evaluate(
    genome: Mapping[str, Any],
    run: Context,
    *,
    data: str = "",
    base: str = "",
    method: Literal["lora", "dora", "adapter"] = "lora",
    targets: str = "",
    context: int | None = None,
    tokens: int | None = None,
    flops: float | None = None,
    micro_batch: int | None = None,
    schedule: Literal["cosine", "linear", "constant", "wsd", "multi_step"] = "cosine",
    min_lr_ratio: float = 0.0,
    decay_fraction: float = 0.2,
    beta2: float = 0.999,
    clip: float = 1.0,
    eval_tokens: int = 16384,
    keep: Literal["merged", "adapter"] = "merged",
) -> dict[str, float]:
    """Tune the base with one genome and judge it on the held-out text.

    The default genome is the usual recipe: all linear layers, rank 8, α/r 2, dropout 0.05, no weight decay, and
    a learning rate about ten times that of full fine-tuning (LoRA, arXiv:2106.09685; QLoRA, arXiv:2305.14314).

    Args:
        genome: Values of the genes.
        run: Device, seed, budget and folders.
        data: File, folder (with all below it) or glob; empty: a part of Python's own documentation.
        base: Folder of the model to begin from; empty: a small one, trained once.
        method: What is trained beside the base; `--gene method` makes it a gene.
        targets: Which layers, instead of a gene: qv, attention, all-linear or names with * and commas.
        context: Tokens in a window; left out, what the base takes, up to 512.
        tokens: Budget in tokens of text.
        flops: Budget in FLOPs.
        micro_batch: Most windows in one pass; the gradient is that of the whole batch all the same.
        schedule: Shape of the learning rate after warm-up.
        min_lr_ratio: Its end, as a share of its peak.
        decay_fraction: Share of the steps in which the schedule wsd decays.
        beta2: Decay of Adam's second moment.
        clip: Largest norm of the gradient.
        eval_tokens: Held-out tokens that are scored at the end.
        keep: What `export` writes: the base with what was learned merged into it, or only that.

    Returns:
        val_loss (nats per token), val_bpb (bits per byte), base_val_loss (that of the base, before training),
        train_loss (nats per token, of the final weights on fixed windows of the training text), and what was
        spent: trainable_params, tokens, steps, flops, tokens_per_second, final_lr_fraction, clipped_fraction;
        resumed_step if it was to go on from a checkpoint.

    Raises:
        Diverged: The training was lost.
    """
    given = {name: value for name, value in locals().items() if name not in ("genome", "run")}
    return _train(genome, run, Options(**given))[1]


def _train(genome: Mapping[str, Any], run: Context, options: Options) -> tuple[Trainer, dict[str, float]]:
    """Train up to the run's budget, from its checkpoint if there is one; return the trainer and metrics."""
    from evo_tune.training import keep_freed_memory, reproducible, save_checkpoint, trained_weights

    keep_freed_memory()
    base = _base(options)
    with reproducible(run.threads, run.device):
        task = {"genome": dict(genome), "fingerprint": fingerprint(**asdict(options))}
        saved = _saved(run, task)
        trainer = _trainer(genome, run, options, base)
        if saved:
            frozen = trainer.model.state_dict()
            trainer.restore({**saved["trainer"], "model": {**frozen, **saved["trainer"]["model"]}})
        start = trainer.step
        metrics = _run(trainer, run, options, base)
        trainable = _trainable(genome, options, base)
        metrics["trainable_params"] = trainable
        metrics["flops"] = trainer.targets * base.flops_per_token(options.window(base), trainable)
        metrics["base_val_loss"] = _base_loss(options, base.sha256(), run.device, run.threads)
        if run.resume_folder:
            metrics["resumed_step"] = start
        if trainer.step < trainer.recipe.schedule.steps:
            state = {**trainer.state(), "model": trained_weights(trainer.model)}
            save_checkpoint(run.folder / CHECKPOINT, {"task": task, "trainer": state})
        return trainer, metrics


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


def _trainer(genome: Mapping[str, Any], run: Context, options: Options, base: Base) -> Trainer:
    """Return a trainer at step 0, its schedules laid over the full training."""
    from evo_tune import training

    source = training.TrainingWindows(
        _tokens(options, base.sha256())[0],
        context=options.window(base),
        batch=genome["batch"],
        total=_windows(genome, options, base),
        seed=run.seed,
        micro_batch=options.micro_batch,
    )
    recipe = training.Recipe(
        optimizer=training.AdamW(lr=genome["lr"], beta2=options.beta2),
        schedule=training.Schedule(
            steps=source.steps,
            name=options.schedule,
            warmup_fraction=genome["warmup"],
            min_lr_ratio=options.min_lr_ratio,
            decay_fraction=options.decay_fraction,
        ),
        weight_decay=training.WeightDecay(start=0.0),
        clip=options.clip,
        ceiling=1.5 * math.log(base.vocab_size),
    )
    model = training.load_pretrained(base, run.device)
    training.add_adapter(model, _new_weights(genome, options, base), training.seed_for(run.seed, "weights"))
    return training.Trainer(model, source, recipe, seed=run.seed, device=run.device)


def _run(trainer: Trainer, run: Context, options: Options, base: Base) -> dict[str, float]:
    """Train up to the budget, reporting along the way, and return the metrics."""
    import torch

    from evo_tune.training import stop_step

    steps = trainer.recipe.schedule.steps
    stop = stop_step(steps, run.budget)
    training, held_out, tokens_per_byte = _tokens(options, base.sha256())
    inputs, targets = _scored(held_out, options.eval_tokens, options, base)
    curve = torch.arange(len(inputs)) % 4 == 0
    first_step, first_targets, seconds = trainer.step, trainer.targets, 0.0
    marks = {-(-steps * point // CURVE_POINTS) for point in range(1, CURVE_POINTS)}
    for mark in sorted({mark for mark in marks if first_step < mark < stop} | {stop}):
        before = time.perf_counter()
        trainer.run(max(mark, trainer.step))
        seconds += time.perf_counter() - before
        judged = _judge(trainer.model, (inputs[curve], targets[curve]), run.device)
        run.report(trainer.step / steps, val_loss=judged.loss)
    judged += _judge(trainer.model, (inputs[~curve], targets[~curve]), run.device)
    seen = _scored(training, max(1, options.eval_tokens // 4), options, base)
    return {
        "val_loss": judged.loss,
        "val_bpb": judged.bits * tokens_per_byte,
        "train_loss": _judge(trainer.model, seen, run.device).loss,
        "tokens": trainer.targets,
        "steps": trainer.step,
        "tokens_per_second": (trainer.targets - first_targets) / max(seconds, 1e-9),
        "final_lr_fraction": trainer.recipe.schedule(max(0, trainer.step - 1)),
        "clipped_fraction": trainer.clipped / max(1, trainer.step),
    }


@lru_cache(maxsize=1)  # the same for every genome
def _base_loss(options: Options, sha256: str, device: str, threads: int) -> float:
    """Return the loss of the base on the held-out text, nats per token."""
    from evo_tune.training import load_pretrained

    del threads  # sums depend on it, in the last bits
    base = _base(options)
    scored = _scored(_tokens(options, sha256)[1], options.eval_tokens, options, base)
    return _judge(load_pretrained(base, device), scored, device).loss


def _scored(tokens: Tensor, count: int, options: Options, base: Base) -> tuple[Tensor, Tensor]:
    from evo_tune.training import fixed_windows

    context = options.window(base)
    return fixed_windows(tokens, context=context, count=count, block=context)


def _judge(model: Module, windows: tuple[Tensor, Tensor], device: str) -> Evaluation:
    from evo_tune.training import evaluate as judge

    return judge(model, windows, device=device, batch=max(1, 4096 // windows[0].shape[1]))


# ---------------------------------------------------------------- the model, to keep

README = """# A language model tuned by evo-tune

{snippet}

fine_tuning.json has the genome, the options and the metrics: {before:.4f} nats per token on held-out text before,
{after:.4f} after ({bpb:.3f} bits per byte).
"""

MERGED_GPT = """    from evo_tune.training import GPT
    model = GPT.load({folder!r})
    print(model.generate("The ", 200))"""

MERGED_HUGGING_FACE = """    from transformers import AutoModelForCausalLM, AutoTokenizer
    model = AutoModelForCausalLM.from_pretrained({folder!r})
    tokenizer = AutoTokenizer.from_pretrained({folder!r})
    prompt = tokenizer("The ", return_tensors="pt", return_token_type_ids=False)
    print(tokenizer.decode(model.generate(**prompt, max_new_tokens=50)[0]))"""

ADAPTER = """    from evo_tune.training import load_adapter, load_pretrained, read_base
    model = load_pretrained(read_base({base!r}))
    load_adapter(model, {folder!r})

The model maps tokens to logits. The adapter belongs to this base and to no other."""


def export(genome: Mapping[str, Any], run: Context, folder: Path | str, **given: Any) -> dict[str, float]:
    """Train a genome once more and write the tuned model, in the format of its base, or the adapter alone.

    Args:
        genome: Values of the genes.
        run: Device, seed and threads.
        folder: Where; made if it is not there.
        given: The options of `evaluate`. An adapter (method=adapter) cannot be merged, and is always written
            alone; the small base is written beside an adapter for it, in base/.

    Returns:
        What `evaluate` returns.
    """
    from evo_tune.training import LoRA, save_adapter, save_merged

    options, folder = options_from(given), Path(folder)
    trainer, metrics = _train(genome, run, options)
    base, new = _base(options), _new_weights(genome, options, _base(options))
    origin = str(base.folder)
    if options.keep == "merged" and isinstance(new, LoRA):
        save_merged(trainer.model, base, folder)
        snippet = MERGED_GPT if base.gpt else MERGED_HUGGING_FACE
    else:
        if not options.base:
            origin = str(shutil.copytree(base.folder, folder / "base"))
        save_adapter(trainer.model, new, folder, base=origin, base_sha256=base.sha256())
        snippet = ADAPTER
    notes = {"genome": dict(genome), "options": asdict(options), "seed": run.seed, "metrics": metrics}
    (folder / "fine_tuning.json").write_text(json.dumps(notes, indent=2) + "\n", encoding="utf-8")
    text = README.format(
        snippet=snippet.format(folder=str(folder), base=origin),
        before=metrics["base_val_loss"],
        after=metrics["val_loss"],
        bpb=metrics["val_bpb"],
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
    return metrics
