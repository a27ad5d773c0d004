"""Transfer of a recipe from the size where it was found to another size, each number by its rule, without torch.

| | rule | source |
|---|---|---|
| width, depth, heads | as requested; channels per head stay constant | arXiv:2203.03466 |
| batch | by the ratio of Step Law's batches for the two trainings (see `default_batch`) | arXiv:2503.04715 |
| learning rate | constant across sizes (see `models.rules`) | arXiv:2203.03466, 2505.01618 |
| ... with the batch | by the square root of the batch; SGD: in proportion | arXiv:2205.10287, 1706.02677 |
| weight decay | constant time scale B / (ηλD) | Wang & Aitchison, arXiv:2405.13698 |
| ... the alternative | time scale proportional to tokens per parameter to the power of -0.52 | arXiv:2505.13738 |
| warm-up | the same number of tokens, at least 2 / (1 - β2) steps | Ma & Yarats, arXiv:1910.04209 |

A recipe found without a parametrisation can be transferred too. All parametrisations agree at the base size, so the
recipe's own size becomes the base.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from msgspec import Struct

from evo_tune.errors import OptionError, RecipeError
from evo_tune.training.recipe.data.corpus import bytes_to_train_on
from evo_tune.training.recipe.hardware.memory import fit_memory
from evo_tune.training.recipe.language import MOST_EPOCHS, NGRAM_EPOCHS, LanguageTask
from evo_tune.training.recipe.models.rules import Parametrisation
from evo_tune.training.recipe.sizes import default_batch

# Exponent by which the best time scale of decay shrinks with tokens per parameter (arXiv:2505.13738). Fitted between 20
# and 1280 tokens per parameter, with R² = 0.975. The bootstrap interval (10 to 90 %) is 0.507 to 0.529; the paper also
# quotes 0.527. The fit is for one pass over the text, one model family, and AdamW under µP.
TIME_POWER = 0.52

# Memory of the GPUs that are reported by default, in GiB.
MEMORY = (24.0, 80.0)


class GeneMove(Struct, forbid_unknown_fields=True, kw_only=True):
    """The value of a gene at another size.

    Args:
        gene: Name of the gene.
        kind: kept, scaled or not transferable.
        found: Value in the run.
        target: Value at the target.
        factor: Target value divided by the found one; null unless both are numbers.
        rule: Rule that was applied.
        source: Reference for the rule; '' if it has none.
    """

    gene: str
    kind: str
    found: Any
    target: Any
    factor: float | None
    rule: str
    source: str


class TrainingSize(Struct, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """The size of a model and of its training.

    Args:
        width: Width of the model.
        depth: Blocks of the model.
        heads: Attention heads.
        context: Longest window. Unit: tokens.
        parameters: Number of weights.
        without_embeddings: Number of weights without embeddings.
        tokens: Length of the training. Unit: tokens.
        flops: Cost of the training. Unit: FLOPs.
        batch: Size of a step. Unit: tokens.
        steps: Number of updates of the weights.
        lr: Peak learning rate.
        lr_hidden: Peak learning rate of the matrices in blocks.
        epochs: Passes over the text. Given for the target only.
    """

    width: int
    depth: int
    heads: int
    context: int
    parameters: int
    without_embeddings: int
    tokens: float
    flops: float
    batch: int
    steps: int
    lr: float
    lr_hidden: float
    epochs: float | None = None


class MemoryFit(Struct, forbid_unknown_fields=True, kw_only=True):
    """A step of the target's training on GPUs of one memory size.

    Args:
        memory: Memory of each GPU. Unit: GiB.
        ranks: Number of GPUs that train together.
        micro_batch: Windows of each GPU in a pass; null if not even one fits.
        passes: Number of passes of each GPU in a step.
        recompute: Whether blocks are recomputed for the gradient.
        predicted: Memory used on each GPU. Unit: GiB.
    """

    memory: float
    ranks: int
    micro_batch: int | None
    passes: int | None
    recompute: bool | None
    predicted: float | None


class TransferResult(Struct, forbid_unknown_fields=True, kw_only=True):
    """A recipe at another size, as `transfer` of an evaluator returns it.

    Args:
        genome: Genome at the target.
        options: Options of the target's training that differ from those of the run.
        rows: Change of each gene.
        remarks: Further remarks, a sentence each.
        found: Size of the run's training.
        target: Size of the target's training.
        fits: Memory use on GPUs.
    """

    genome: dict[str, Any]
    options: dict[str, Any]
    rows: list[GeneMove]
    remarks: list[str]
    found: TrainingSize
    target: TrainingSize
    fits: list[MemoryFit]


def transfer_language_recipe(
    task_of: Callable[[Mapping[str, Any], Any], LanguageTask],
    genome: Mapping[str, Any],
    target: Mapping[str, Any],
    options: Any,
) -> dict[str, Any]:
    """Return a GPT's recipe at another size and the cost of training there, as plain data.

    Args:
        task_of: Function that returns the training of a genome under an evaluator's options.
        genome: Genome of the run.
        target: width, depth and tokens; optionally batch, and memory (GiB of one GPU).
        options: Evaluator options of the run.

    Returns:
        The fields of `TransferResult`.

    Raises:
        OptionError: The run has a budget in seconds, or the target's width does not suit its heads.
        RecipeError: A number is out of its range.
    """
    if options.seconds is not None:
        raise OptionError(f"-o seconds={options.seconds}: expected a run with a budget in tokens or flops, to scale it")
    task, epochs = task_of(genome, options), target["tokens"] / bytes_to_train_on(options.data)
    transfer = _Transfer(task, genome, target["width"], target["depth"], target["tokens"], target.get("batch"), epochs)
    changes: dict[str, Any] = {} if transfer.is_same else transfer.parametrisation
    changes |= {"flops": None, "seconds": None, "tokens": transfer.tokens}
    moves: dict[str, GeneMove] = {}
    if not transfer.is_same:
        moves = {row.gene: row for row in (*transfer.shape_moves(), *transfer.rate_moves(), *transfer.text_moves())}
        if "kv_heads" not in moves and task.options.kv_heads is not None:
            changes["kv_heads"] = transfer.key_value_heads
    rule = "the same training" if transfer.is_same else "does not depend on the size"
    rows = [moves.get(name) or _move(name, value, value, rule, kind="kept") for name, value in genome.items()]
    # Keep the run's number of scored bytes: the default of a longer training is larger, and the losses would differ.
    changes["eval_tokens"] = task.scored
    new_genome = {row.gene: row.target for row in rows}
    target_task = task_of(new_genome, replace(options, **changes))
    capacities = (target["memory"],) if target.get("memory") else MEMORY
    target_size = _training_size(target_task)
    target_size.epochs = epochs
    result = TransferResult(
        genome=new_genome,
        options={**changes, **({"size": options.size} if hasattr(options, "size") else {})},
        rows=rows,
        remarks=[] if transfer.is_same else transfer.remarks(),
        found=_training_size(task),
        target=target_size,
        fits=[_memory_fit(target_task, capacity, ranks) for capacity in capacities for ranks in (1, 8)],
    )
    return dict(msgspec.to_builtins(result))


def _move(gene: str, value: Any, new_value: Any, rule: str, source: str = "", kind: str = "scaled") -> GeneMove:
    numbers = all(isinstance(number, int | float) and not isinstance(number, bool) for number in (value, new_value))
    factor = new_value / value if numbers and value else None
    return GeneMove(gene=gene, kind=kind, found=value, target=new_value, factor=factor, rule=rule, source=source)


@dataclass(frozen=True)
class _Transfer:
    """The rules for a training and its target: width, depth, training tokens, and tokens per step if given."""

    task: LanguageTask
    genome: Mapping[str, Any]
    width: int
    depth: int
    tokens: int
    wanted_batch: int | None
    epochs: float

    @property
    def run_tokens(self) -> float:
        """Tokens of the run's training."""
        return self.task.estimate()["tokens"]

    @property
    def is_same(self) -> bool:
        """Whether the target is the training of the run."""
        config, batch = self.task.config, self.genome["batch"]
        same_tokens = abs(self.tokens - self.run_tokens) < batch  # a training has whole steps
        size = (self.width, self.depth, self.wanted_batch or batch)
        return same_tokens and size == (config.width, config.depth, batch)

    @property
    def head(self) -> int:
        """Channels per head."""
        return self.task.config.width // self.task.config.heads

    @property
    def key_value_heads(self) -> int:
        """Heads of keys and values at the target, in the proportion of the run."""
        return max(1, self.width // self.head * self.task.config.key_value_heads // self.task.config.heads)

    @property
    def batch(self) -> int:
        """Tokens per step of the target, rounded to whole windows."""
        growth = default_batch(self.tokens) / default_batch(self.run_tokens)
        batch = self.wanted_batch or self.genome["batch"] * 2 ** round(math.log2(growth))
        context = self.task.config.context
        return int(max(1, round(batch / context)) * context)

    @property
    def parametrisation(self) -> dict[str, Any]:
        """Options of the parametrisation: the run's, or completep with the run's size as the base."""
        config = self.task.config
        run_size = Parametrisation(name="completep", width=config.width, depth=config.depth, head=self.head)
        base = self.task.options.scaling or run_size
        return {"param": base.name, "base_width": base.width, "base_depth": base.depth, "base_head": base.head}

    def shape_moves(self) -> list[GeneMove]:
        """Return the moves of width, depth and heads.

        Raises:
            OptionError: The width is not a multiple of the channels per head.
        """
        genome, head = self.genome, self.head
        if self.width % head:
            nearest = max(1, round(self.width / head)) * head
            raise OptionError(f"--width {self.width}: expected a multiple of {head}, as a head has: {nearest}")
        rule = f"{head} channels per head, as in the run"
        rows = [
            _move("width", genome["width"], self.width, "given"),
            _move("depth", genome["depth"], self.depth, "given"),
            _move("heads", genome["heads"], self.width // head, rule, "arXiv:2203.03466"),
        ]
        if "kv_heads" in genome:
            rule = "the same number of heads share keys"
            rows.append(_move("kv_heads", genome["kv_heads"], self.key_value_heads, rule))
        return rows

    def rate_moves(self) -> list[GeneMove]:
        """Return the moves of learning rate, batch and weight decay."""
        genome, options, config = self.genome, self.task.options, self.task.config
        batch_ratio, sgd = self.batch / float(genome["batch"]), options.optimizer_name == "sgd"
        lr_ratio = 1.0 if options.lr_rule != "none" else batch_ratio if sgd else batch_ratio**0.5
        lr_rule, lr_source = "the same by completep", "arXiv:2505.01618"
        if lr_ratio != 1.0:
            lr_rule += ", times the ratio of batches" if sgd else ", times the root of the ratio of batches"
            lr_source += ", arXiv:1706.02677" if sgd else ", arXiv:2205.10287"
        batch_rule, batch_source = "given", ""
        if not self.wanted_batch:
            batches = f"{default_batch(self.run_tokens):,.0f} and {default_batch(self.tokens):,.0f}"
            batch_rule = f"the ratio of Step Law's batches, {batches}, as a power of 2"
            batch_source = "arXiv:2503.04715"
        token_ratio = self.tokens / self.run_tokens
        size_ratio = float(self.depth * self.width**2) / float(config.depth * config.width**2)
        decay = float(genome["weight_decay"]) * (batch_ratio / max(lr_ratio, 1e-12)) / token_ratio
        decay_by_power = min(1.0, decay * (token_ratio / size_ratio) ** TIME_POWER)
        decay_rule = f"the same B / (ηλD); {decay_by_power:.3g} by tokens per parameter (arXiv:2505.13738)"
        lr_kind = "kept" if lr_ratio == 1.0 else "scaled"
        return [
            _move("lr", genome["lr"], genome["lr"] * lr_ratio, lr_rule, lr_source, lr_kind),
            _move("batch", genome["batch"], self.batch, batch_rule, batch_source),
            _move("weight_decay", genome["weight_decay"], min(1.0, decay), decay_rule, "arXiv:2405.13698"),
        ]

    def text_moves(self) -> list[GeneMove]:
        """Return the moves of warm-up, dropout, context and window, which depend on the text."""
        genome, warmup = self.genome, self.genome["warmup"]
        least = 2.0 / (1.0 - self.task.options.beta2) * self.batch
        share = min(warmup, max(warmup * self.run_tokens, least) / self.tokens)
        warmup_rule = "the same number of tokens, at least 2 / (1 - β2) steps"
        dropout, dropout_rule = genome["dropout"], f"depends on the text, which is read {self.epochs:.2g} times"
        if self.epochs < 1.0:
            dropout, dropout_rule = 0.0, "0, since no text is read twice"
        unknown = "not transferable"
        return [
            _move("warmup", warmup, share, warmup_rule, "arXiv:1910.04209"),
            _move("dropout", genome["dropout"], dropout, dropout_rule, kind=unknown),
            *(
                _move(name, genome[name], genome[name], "depends on the text", kind=unknown)
                for name in ("context", "window")
                if name in genome
            ),
        ]

    def remarks(self) -> list[str]:
        """Return what else a user of the recipe should know, a line each."""
        options, config, remarks = self.task.options, self.task.config, []
        if options.scaling is None:
            remarks.append(
                f"the search ran under param=standard: its own size, {config.depth}x{config.width}, is "
                "the base, at which completep equals standard"
            )
        if self.epochs > MOST_EPOCHS:
            remarks.append(
                f"the text is read {self.epochs:.3g} times, and more than 4 times teaches little (arXiv:2305.16264): "
                "give more text, or fewer --tokens"
            )
        if config.ngrams > 1 and self.epochs > NGRAM_EPOCHS:
            remarks.append(
                f"the text is read {self.epochs:.3g} times, and embeddings of n-grams learn by heart what is read more "
                f"than {NGRAM_EPOCHS:.0f} times: compare with -g ngrams=1"
            )
        return remarks


def _training_size(task: LanguageTask) -> TrainingSize:
    config, estimate = task.config, task.estimate()
    factors = config.scaling and config.scaling.factors(task.options.optimizer_name, "hidden", config)
    return TrainingSize(
        **{name: getattr(config, name) for name in ("width", "depth", "heads", "context", "parameters")},
        without_embeddings=config.parameters - config.width * config.embedding_rows,
        tokens=estimate["tokens"],
        flops=estimate["flops"],
        batch=task.batch,
        steps=math.ceil(estimate["tokens"] / task.batch),
        lr=task.lr,
        lr_hidden=task.lr * (factors.lr if factors else 1.0),
    )


def _memory_fit(task: LanguageTask, capacity: float, ranks: int) -> MemoryFit:
    """Return how a bf16 step fits into `ranks` GPUs of `capacity` GiB each."""
    windows = max(1, -(-task.batch // (task.config.context * ranks)))
    setup = {**task.options.gpu_setup, "precision": "bf16", "ranks": ranks}
    del setup["recompute"]  # fit_memory chooses it
    row = MemoryFit(memory=capacity, ranks=ranks, micro_batch=None, passes=None, recompute=None, predicted=None)
    try:
        fit = fit_memory(task.config, windows, capacity * 2**30, **setup)
    except RecipeError as error:
        if error.field != "capacity":
            raise
        return row
    row.micro_batch, row.passes = fit.micro_batch, -(-windows // fit.micro_batch)
    row.recompute, row.predicted = fit.recompute is not None, fit.memory.peak / 2**30
    return row
