"""Transfer of a recipe from the size where it was found to another size, each number by its rule, without torch.

| | rule | source |
|---|---|---|
| width, depth, heads | as requested; channels per head stay constant | arXiv:2203.03466 |
| batch | by the ratio of Step Law's batches for the two trainings (see `proxies`) | arXiv:2503.04715 |
| learning rate | constant across sizes (see `models.rules`) | arXiv:2203.03466, 2505.01618 |
| ... with the batch | by the square root of the batch; SGD: in proportion | arXiv:2205.10287, 1706.02677 |
| weight decay | constant time scale B / (ηλD) | Wang & Aitchison, arXiv:2405.13698 |
| ... the alternative | time scale proportional to tokens per parameter to the power of -0.52 | arXiv:2505.13738 |
| warm-up | the same number of tokens, at least 2 / (1 - β2) steps | Ma & Yarats, arXiv:1910.04209 |

A recipe found without a parametrisation can be transferred too. All parametrisations agree at the base size, so the
recipe's own size becomes the base.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from evo_tune.errors import OptionError, RecipeError
from evo_tune.options.bounds import check_integer
from evo_tune.training.recipe.data.corpus import bytes_to_train_on
from evo_tune.training.recipe.hardware.memory import fit_memory
from evo_tune.training.recipe.language import LanguageOptions, LanguageTask
from evo_tune.training.recipe.models.gpt_config import GPTConfig
from evo_tune.training.recipe.proxies import default_batch

TIME_POWER = 0.52
"""Exponent by which the best time scale of decay shrinks with tokens per parameter (arXiv:2505.13738).

Fitted between 20 and 1280 tokens per parameter, with R² = 0.975. The bootstrap interval (10 to 90 %) is 0.507 to 0.529;
the paper also quotes 0.527. The fit is for one pass over the text, one model family, and AdamW under µP.
"""


@dataclass(frozen=True, kw_only=True)
class TransferTarget:
    """Size and budget to which a recipe is transferred.

    Args:
        width: Width of the model (int ≥ 1).
        depth: Number of blocks (int ≥ 1).
        tokens: Training tokens (int ≥ 1).
        batch: Tokens per step (int ≥ 1); None: by rule.

    Raises:
        RecipeError: A number is out of its range.
    """

    width: int
    depth: int
    tokens: int
    batch: int | None = None

    def __post_init__(self) -> None:
        for name in ("width", "depth", "tokens"):
            check_integer(name, getattr(self, name), 1)
        if self.batch is not None:
            check_integer("batch", self.batch, 1)


class Row(NamedTuple):
    """Transfer of one gene.

    Args:
        gene: Name of the gene.
        kind: 'kept' (unchanged), 'scaled', or 'not transferable' (unchanged; a new search is better).
        found: Value in the recipe that was found.
        target: Value at the target size.
        rule: Reason for the value.
        source: Citation of the rule; '' if there is none.
    """

    gene: str
    kind: str
    found: Any
    target: Any
    rule: str
    source: str = ""

    @property
    def factor(self) -> float | None:
        """Ratio of target to found; None if either is not a number or found is 0."""
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in self[2:4])
        return self.target / self.found if numbers and self.found else None


class Transferred(NamedTuple):
    """A recipe at another size.

    Args:
        genome: Values of the genes at that size.
        options: Options that differ from the run's.
        rows: One row per gene.
        remarks: Further remarks, one line each.
    """

    genome: dict[str, Any]
    options: dict[str, Any]
    rows: list[Row]
    remarks: list[str]


def transfer_recipe(
    genome: Mapping[str, Any],
    options: LanguageOptions,
    config: GPTConfig,
    tokens: float,
    epochs: float,
    target: TransferTarget,
) -> Transferred:
    """Return a recipe transferred to another size.

    Args:
        genome: Genome that was found, with lr, batch, depth, width, heads, dropout, weight_decay and warmup.
        options: Options that the genome was found with.
        config: Shape of the model that was found.
        tokens: Tokens that the found model was trained on.
        epochs: Number of passes of the target over its text.
        target: The size to transfer to.

    Raises:
        OptionError: The target's width is not a multiple of the channels per head.
    """
    return _Transfer(genome, options, config, tokens, epochs, target).done()


@dataclass(frozen=True)
class _Transfer:
    genome: Mapping[str, Any]
    options: LanguageOptions
    config: GPTConfig
    tokens: float
    epochs: float
    target: TransferTarget

    def done(self) -> Transferred:
        if self.same:
            rows = [Row(name, "kept", value, value, "the same training") for name, value in self.genome.items()]
            return Transferred(
                dict(self.genome), {"flops": None, "seconds": None, "tokens": self.target.tokens}, rows, []
            )
        known = {row.gene: row for row in (*self._shape(), *self._rates(), *self._data())}
        rows = [known.get(name) or self._other(name, value) for name, value in self.genome.items()]
        values = {row.gene: row.target for row in rows}
        return Transferred(values, self._options(known), rows, self._remarks())

    @property
    def same(self) -> bool:
        """Whether the target is the training that was found."""
        target = self.target
        found = (self.config.width, self.config.depth, self.genome["batch"])
        whole = abs(target.tokens - self.tokens) < self.genome["batch"]  # a training has whole steps
        return whole and found == (target.width, target.depth, target.batch or self.genome["batch"])

    @property
    def head(self) -> int:
        return self.config.width // self.config.heads

    @property
    def longer(self) -> float:
        return self.target.tokens / self.tokens

    @property
    def batch(self) -> int:
        """Tokens per step of the target, rounded to whole windows."""
        found = self.genome["batch"]
        usual = default_batch(self.target.tokens) / default_batch(self.tokens)
        wanted = self.target.batch or found * 2 ** round(math.log2(usual))
        context = self.config.context
        return int(max(1, round(wanted / context)) * context)

    @property
    def wider(self) -> float:
        """Ratio of the target's batch to the batch that was found."""
        return self.batch / float(self.genome["batch"])

    def _shape(self) -> list[Row]:
        target, genome = self.target, self.genome
        if target.width % self.head:
            near = max(1, round(target.width / self.head)) * self.head
            raise OptionError(f"--width {target.width}: expected a multiple of {self.head}, as a head has: {near}")
        heads, mup = target.width // self.head, "arXiv:2203.03466"
        rows = [
            Row("width", "scaled", genome["width"], target.width, "given"),
            Row("depth", "scaled", genome["depth"], target.depth, "given"),
            Row("heads", "scaled", genome["heads"], heads, f"{self.head} channels per head, as in the run", mup),
        ]
        if "kv_heads" in genome:
            kept = max(1, heads * self.config.key_value_heads // self.config.heads)
            rows.append(Row("kv_heads", "scaled", genome["kv_heads"], kept, "the same number of heads share keys"))
        return rows

    def _rates(self) -> list[Row]:
        genome, wider = self.genome, self.wider
        sgd = self.options.optimizer_name == "sgd"
        growth = 1.0 if self.options.lr_rule != "none" else wider if sgd else wider**0.5
        how = "times the ratio of batches" if sgd else "times the root of the ratio of batches"
        source = "arXiv:1706.02677" if sgd else "arXiv:2205.10287"
        name = self.parametrisation["param"]
        lr = Row(
            *("lr", "kept" if growth == 1.0 else "scaled", genome["lr"], genome["lr"] * growth),
            f"the same by {name}" + (f", {how}" if growth != 1.0 else ""),
            ("arXiv:2505.01618" if name == "completep" else "arXiv:2203.03466")
            + ("" if growth == 1.0 else f", {source}"),
        )
        rise = (
            f"the ratio of Step Law's batches, {default_batch(self.tokens):,.0f} and "
            f"{default_batch(self.target.tokens):,.0f}, as a power of 2"
        )
        batch_rule = "given" if self.target.batch else rise
        rows = [
            lr,
            Row(
                "batch",
                "scaled",
                genome["batch"],
                self.batch,
                batch_rule,
                "" if self.target.batch else "arXiv:2503.04715",
            ),
        ]
        constant, power = self._decays(wider / max(growth, 1e-12))
        beside = f"the same B / (ηλD); {power:.3g} by tokens per parameter (arXiv:2505.13738)"
        rows.append(Row("weight_decay", "scaled", genome["weight_decay"], constant, beside, "arXiv:2405.13698"))
        return rows

    def _decays(self, batch_by_lr: float) -> tuple[float, float]:
        """Return λ for a constant time scale, and λ by the power law in tokens per parameter."""
        constant = float(self.genome["weight_decay"]) * batch_by_lr / self.longer
        larger = self._parameters(self.target.width, self.target.depth) / self._parameters(
            self.config.width, self.config.depth
        )
        power = constant * (self.longer / larger) ** TIME_POWER
        return min(1.0, constant), min(1.0, power)

    def _parameters(self, width: int, depth: int) -> float:
        return float(depth * width**2)

    def _data(self) -> list[Row]:
        genome = self.genome
        least = 2.0 / (1.0 - self.options.beta2) * self.batch
        share = min(genome["warmup"], max(genome["warmup"] * self.tokens, least) / self.target.tokens)
        rows = [
            Row(
                "warmup",
                "scaled",
                genome["warmup"],
                share,
                "the same number of tokens, at least 2 / (1 - β2) steps",
                "arXiv:1910.04209",
            )
        ]
        dropout = 0.0 if self.epochs < 1.0 else genome["dropout"]
        why = (
            "0, since no text is read twice"
            if self.epochs < 1.0
            else f"depends on the text, which is read {self.epochs:.2g} times"
        )
        rows.append(Row("dropout", "not transferable", genome["dropout"], dropout, why))
        for name in ("context", "window"):
            if name in genome:
                rows.append(Row(name, "not transferable", genome[name], genome[name], "depends on the text"))
        return rows

    def _other(self, name: str, value: Any) -> Row:
        return Row(name, "kept", value, value, "does not depend on the size")

    @property
    def parametrisation(self) -> dict[str, Any]:
        """Options of the parametrisation: the run's, or completep with the found size as the base."""
        own = self.options.scaling
        if own is None:
            base = {"base_width": self.config.width, "base_depth": self.config.depth, "base_head": self.head}
            return {"param": "completep", **base}
        return {"param": own.name, "base_width": own.width, "base_depth": own.depth, "base_head": own.head}

    def _options(self, known: Mapping[str, Row]) -> dict[str, Any]:
        budget = {"flops": None, "seconds": None, "tokens": self.target.tokens}
        more = {}
        if "kv_heads" not in known and self.options.kv_heads is not None:
            heads = self.target.width // self.head
            more["kv_heads"] = max(1, heads * self.config.key_value_heads // self.config.heads)
        return {**self.parametrisation, **budget, **more}

    def _remarks(self) -> list[str]:
        said = []
        param, target = self.parametrisation["param"], self.target
        if self.options.scaling is None:
            said.append(
                f"the search ran under param=standard: its own size, {self.config.depth}x{self.config.width}, is "
                "the base, at which completep equals standard"
            )
        if param == "mup" and target.depth != self.config.depth:
            said.append(
                f"mup says nothing of depth, which goes from {self.config.depth} to {target.depth}: search with "
                "-o param=completep"
            )
        if self.epochs > 4.0:
            said.append(
                f"the text is read {self.epochs:.3g} times, and more than 4 times teaches little (arXiv:2305.16264): "
                "give more text, or fewer --tokens"
            )
        if self.options.extend_from is not None:
            said.append("extend_from is kept: check that it suits the target")
        return said


MEMORY = (24.0, 80.0)
"""Memory of the GPUs that are reported by default, in GiB."""


def transfer_language_recipe(
    task_of: Callable[[Mapping[str, Any], Any], LanguageTask],
    genome: Mapping[str, Any],
    target: Mapping[str, Any],
    options: Any,
) -> dict[str, Any]:
    """Return a GPT's recipe at another size and the cost of training there, as plain data.

    Args:
        task_of: Function that returns the training of a genome under an evaluator's options.
        genome: Genome that was found.
        target: Fields of `TransferTarget`, and optionally memory (GiB of one GPU).
        options: Evaluator options that the recipe was found with.

    Returns:
        genome, options (those that differ), rows (as `Row`, with its factor), remarks, found and target (sizes,
        tokens, FLOPs), fits (whether and how a step fits into GPU memory).

    Raises:
        OptionError: The recipe was found with a budget in seconds, or the width does not suit its heads.
        RecipeError: A number is out of its range.
    """
    sizes = {name: value for name, value in target.items() if name != "memory"}
    wanted, found = TransferTarget(**sizes), task_of(genome, options)
    if options.seconds is not None:
        raise OptionError(f"-o seconds={options.seconds}: expected a run with a budget in tokens or flops, to scale it")
    tokens = found.estimate()["tokens"]
    epochs = wanted.tokens / bytes_to_train_on(options.data)
    moved = transfer_recipe(genome, found.options, found.config, tokens, epochs, wanted)
    # Keep the run's number of scored bytes: the default of a longer training is larger, and the losses would differ.
    moved = moved._replace(options={**moved.options, "eval_tokens": found.scored})
    larger = task_of(moved.genome, replace(options, **moved.options))
    capacities = (target["memory"],) if target.get("memory") else MEMORY
    return {
        "genome": moved.genome,
        "options": {**moved.options, **({"size": options.size} if hasattr(options, "size") else {})},
        "rows": [{**row._asdict(), "factor": row.factor} for row in moved.rows],
        "remarks": moved.remarks,
        "found": _training_size(found),
        "target": {**_training_size(larger), "epochs": epochs},
        "fits": [_fit(larger, capacity, ranks) for capacity in capacities for ranks in (1, 8)],
    }


def _training_size(task: LanguageTask) -> dict[str, Any]:
    """Return the size of a training."""
    config, known = task.config, task.estimate()
    embeddings = config.vocab_size + (config.context if config.position == "learned" else 0)
    hidden = 1.0
    if config.scaling is not None:
        hidden = config.scaling.factors(task.options.optimizer_name, "hidden", config).lr
    return {
        "width": config.width,
        "depth": config.depth,
        "heads": config.heads,
        "context": config.context,
        "parameters": config.parameters,
        "without_embeddings": config.parameters - config.width * embeddings,
        "tokens": known["tokens"],
        "flops": known["flops"],
        "batch": task.batch,
        "steps": math.ceil(known["tokens"] / task.batch),
        "lr": task.lr,
        "lr_hidden": task.lr * hidden,
    }


def _fit(task: LanguageTask, capacity: float, ranks: int) -> dict[str, Any]:
    """Return how a bf16 step fits into `ranks` GPUs of `capacity` GiB each; micro_batch None: it does not fit."""
    config, options = task.config, task.options
    each = max(1, -(-task.batch // (config.context * ranks)))
    row: dict[str, Any] = {"memory": capacity, "ranks": ranks, "micro_batch": None, "passes": None, "recompute": None}
    try:
        fit = fit_memory(
            config,
            each,
            capacity * 2**30,
            precision="bf16",
            device="cuda",
            optimizer=options.optimizer_name,
            ema=options.ema is not None,
            z_loss=options.z_loss > 0.0,
            ranks=ranks,
        )
    except RecipeError as error:
        if error.field != "capacity":
            raise
        return {**row, "predicted": None}
    passes = -(-each // fit.micro_batch)
    own = {"micro_batch": fit.micro_batch, "passes": passes, "recompute": fit.recompute is not None}
    return {**row, **own, "predicted": fit.memory.peak / 2**30}
