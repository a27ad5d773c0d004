"""Tune a pre-trained model, the base, to a text, and write the result; and the small base itself.

A `TuningPlan` is the plan, `TuningTraining` the task.
"""

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import nn

import evo_tune.training.recipe.tuning as planned
from evo_tune.errors import OptionError, RecipeError, StoreError
from evo_tune.plugins.context import Context
from evo_tune.training.data.batches import TrainingWindows
from evo_tune.training.evaluation import Evaluation, evaluate_windows
from evo_tune.training.hardware.device import MicroBatch, reproducible, seed_for
from evo_tune.training.hardware.precision import Precision
from evo_tune.training.models.gpt import GPT
from evo_tune.training.optim.optimizer import AdamW
from evo_tune.training.recipe.hardware.memory import Memory, NewWeights, tuning_memory
from evo_tune.training.recipe.models.base import BaseModel, read_base
from evo_tune.training.recipe.models.gpt_config import GPTConfig
from evo_tune.training.recipe.optim.schedule import Schedule, WeightDecay, optimizer_steps
from evo_tune.training.recipe.plan import TrainingPlan
from evo_tune.training.recipe.tuning import TuningOptions
from evo_tune.training.session import replace_options, train, training_notes
from evo_tune.training.stepping.recipe import Recipe
from evo_tune.training.trainer import Trainer
from evo_tune.training.training_run import SinglePhase, Task, TrainingResult, TrainingRun
from evo_tune.training.tuning import pretrained
from evo_tune.training.tuning.weights import Adapters, LoRA, add_adapter, load_adapter, save_adapter, trainable_weights
from evo_tune.trust.safe_files import cache_folder


@dataclass(frozen=True, kw_only=True)
class TuningPlan(TrainingPlan):
    """Plan to tune a base; batches are in windows.

    Args:
        options: The text, and the training options.
        base: The pre-trained model.
        new: Weights to train in addition to the base.
        numbers: The same weights as plain numbers.
    """

    options: TuningOptions
    base: BaseModel
    new: LoRA | Adapters
    numbers: NewWeights

    @property
    def weight_decay(self) -> float:
        return self.options.weight_decay

    @property
    def identity(self) -> dict[str, Any]:
        return {"genome": dict(self.genome), "data": self.options.fingerprint()}


class TuningTraining(Task):
    """Tune a base to a text; a point of the curve is computed from every fourth held-out window."""

    group = "tuning"
    plan: TuningPlan

    @cached_property
    def whole_text(self) -> pretrained.TuningText:
        options = self.plan.options
        return pretrained.load_tuning_text(self.plan.base, options.data, options.window, options.eval_tokens)

    @property
    def text(self) -> pretrained.TuningText:
        """The text in the base's tokens."""
        return self.whole_text.on_test_set() if self.testing else self.whole_text

    @property
    def ceiling(self) -> float:
        return 1.5 * math.log(self.plan.base.vocab_size)

    @property
    def flops_per_token(self) -> float:
        """FLOPs of training on one token."""
        plan = self.plan
        return plan.base.flops_per_token(plan.options.window, plan.numbers.count(plan.base))

    def plan_phases(self) -> Sequence[SinglePhase]:
        windows = self.plan.options.windows(self.plan.numbers, self.plan.batch)
        return [SinglePhase(windows, self.plan.batch, optimizer_steps(windows, self.plan.batch))]

    def model(self, phase: SinglePhase) -> nn.Module:
        plan, recompute = self.plan, self.plan.options.recompute
        model = pretrained.load_pretrained(plan.base, self.run.device)
        add_adapter(model, plan.new, seed_for(self.run.seed, "weights"))
        pretrained.halve_frozen(model, plan.options.precision)
        if isinstance(model, GPT):
            model.recompute = recompute
        elif recompute is not None:
            if recompute > 1:
                raise OptionError(f"-o recompute={recompute}: a Hugging Face model computes all or none again: give 1")
            model.recompute_blocks()
        return model

    def source(self, phase: SinglePhase, micro_batch: int) -> TrainingWindows:
        return TrainingWindows(
            self.text.training,
            context=self.plan.options.window,
            batch=phase.per_step,
            total=phase.windows,
            seed=self.run.seed,
            micro_batch=micro_batch,
        )

    @property
    def tokens_per_sample(self) -> int:  # type: ignore[override]
        return self.plan.options.window

    def pass_memory(self, model: nn.Module) -> Callable[[int], Memory]:
        return partial(tuning_memory, self.plan.base, self.plan.numbers, self.plan.options.window, **self.memory_setup)

    # Judging.

    def curve_point(self, trainer: Trainer) -> Mapping[str, float]:
        inputs, targets = self.text.held_out_windows()
        return {"val_loss": self.evaluate(trainer, (inputs[::4], targets[::4])).loss}

    def training_loss(self, trainer: Trainer) -> float:
        return self.evaluate(trainer, self.text.training_windows()).loss

    def evaluate(self, trainer: Trainer, windows: MicroBatch) -> Evaluation:
        """Evaluate the trainer's model on windows, in the precision of the stored base."""
        return evaluate_windows(trainer.model, windows, **trainer.evaluation)

    def base_loss(self) -> float:
        """Return the loss of the base on the held-out text."""
        plan, options, run = self.plan, self.plan.options, self.run
        where = (plan.base.folder, plan.base.sha256(), options.data, options.window, options.eval_tokens)
        return _loss_of_base(*where, run.device, run.threads, options.precision)

    def result(self, training_run: TrainingRun, resumed: int | None) -> "TuningResult":
        return TuningResult(self, training_run, resumed)


class TuningResult(TrainingResult):
    """A finished tuning.

    Args:
        task: The task.
        training_run: See `TrainingResult`.
        resumed: See `TrainingResult`.
    """

    def __init__(self, task: TuningTraining, training_run: TrainingRun, resumed: int | None) -> None:
        self.task, trainer, flops_per_token = task, training_run.trainer, task.flops_per_token
        super().__init__(
            training_run, resumed, flops=trainer.targets * flops_per_token, flops_per_target=flops_per_token
        )
        self.micro_batch *= task.text.context
        self.scores = evaluate_windows(trainer.model, task.text.held_out_windows(), **trainer.evaluation)
        self.bits_per_byte = self.scores.bits * task.text.tokens_per_byte
        self.training_scores = task.evaluate(trainer, task.text.training_windows())
        self.base_loss = task.base_loss()
        self.trainable, self.tokens = task.plan.numbers.count(task.plan.base), trainer.targets

    def loss_of(self, model: nn.Module) -> float:
        return evaluate_windows(model, self.task.text.held_out_windows(), **self.trainer.evaluation).loss


@lru_cache(maxsize=1)  # the loss is the same for every genome
def _loss_of_base(
    folder: Path, sha256: str, data: str, context: int, scored: int, device: str, threads: int, precision: str
) -> float:
    """Return the loss of the base on the held-out text, in nats per token, in the precision of the tuning."""
    del sha256, threads  # part of the cache key only: the number of threads changes the last bits of sums
    base = read_base(folder)
    text, model = pretrained.load_tuning_text(base, data, context, scored), pretrained.load_pretrained(base, device)
    model.requires_grad_(False)
    pretrained.halve_frozen(model, precision)
    precise = Precision(name=precision)
    return evaluate_windows(model, text.held_out_windows(), device=device, precision=precise).loss


FINE_TUNING_FILE = "fine_tuning.json"


def export_tuning(
    task: TuningPlan, run: Context, folder: Path | str, *, merged: bool, with_base: bool
) -> dict[str, float]:
    """Tune in one process, write the model in float32, and return the metrics of the written model.

    Merging rounds, and a base that was stored in bf16 is written in full. So val_loss, val_bpb and their values on the
    test set are computed again, from the files.

    Args:
        task: Plan of the tuning; adapters cannot be merged and are always written alone.
        run: Device, seed, budget and folders.
        folder: Folder to write; created if missing. Its `averaged` has the moving average of the weights, if any.
        merged: Whether to merge the learned weights into the base and write the base's format.
        with_base: Whether to copy the base of an adapter to base/.
    """
    task = replace_options(task, ranks=1)
    training_run, metrics = train(task, run, TuningTraining)
    average, base, text = training_run.trainer.averaged, task.base, TuningTraining(task, run).whole_text

    def write(folder: Path, network: nn.Module) -> dict[str, float]:
        """Write a tuned model and the notes on it, and return its metrics."""
        model = pretrained.load_pretrained(base)
        add_adapter(model, task.new)
        model.load_state_dict({**model.state_dict(), **trainable_weights(network)})
        if merged and isinstance(task.new, LoRA):
            pretrained.save_merged(model, base, folder)
            written = pretrained.load_pretrained(read_base(folder))
        else:
            origin = str(shutil.copytree(base.folder, folder / "base") if with_base else base.folder)
            save_adapter(model, task.new, folder, base=origin, base_sha256=base.sha256())
            written = pretrained.load_pretrained(base)
            load_adapter(written, folder)
        written_metrics, parts = dict(metrics), {"val": text, "test": text.on_test_set()}
        with reproducible(run.threads, run.device):
            for name in ("val", "test") if run.test else ("val",):
                windows = parts[name].held_out_windows()
                evaluation = evaluate_windows(written.to(run.device).eval(), windows, device=run.device)
                size = evaluation.count / parts[name].tokens_per_byte
                written_metrics[f"{name}_loss"] = evaluation.loss
                written_metrics[f"{name}_bpb"] = evaluation.nll / math.log(2.0) / size
        judged = {"block": text.context, "count": text.scored}
        notes = training_notes(task, run, "fp32", written_metrics, judged=judged)
        (folder / FINE_TUNING_FILE).write_text(json.dumps(notes, indent=2) + "\n", encoding="utf-8")
        return written_metrics

    if average is not None:
        metrics["val_loss_ema"] = write(Path(folder) / "averaged", average.module)["val_loss"]
    return write(Path(folder), training_run.model)


def prepare_base(options: TuningOptions) -> BaseModel:
    """Return the base of a tuning; train it if necessary."""
    return read_base(options.base or small_base_folder())


def small_base_folder() -> Path:
    """Return the folder of the small base; the first process that needs it trains it while others wait.

    The user's cache has one folder for each recipe, text and version of torch. A damaged folder is rebuilt.

    Raises:
        StoreError: The cache cannot be written.
    """
    cache = cache_folder()
    folder = cache / f"base-{planned.small_base_key()[:16]}-torch-{version('torch')}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            is_sound = False
            with suppress(OSError, ValueError, RecipeError):
                base = read_base(folder)
                is_sound = "files" in base.config and base.sha256() == (folder / "sha256").read_text()
            if not is_sound:
                partial = folder.with_name(f"{folder.name}.partial")
                for leftover_folder in (partial, folder):
                    shutil.rmtree(leftover_folder, ignore_errors=True)
                _train(partial)
                partial.replace(folder)
    except OSError as error:
        raise StoreError(
            f"cannot write {folder}: {error.strerror}; give -o base=FOLDER, or set XDG_CACHE_HOME"
        ) from error
    return folder


def _train(folder: Path) -> None:
    small, text = planned.SMALL, planned.built_in_text(tuning=False)
    with reproducible(1):
        config, tokens = GPTConfig.from_json(small["model"]), torch.frombuffer(bytearray(text), dtype=torch.uint8)
        size = {"context": config.context, "batch": small["batch"], "total": small["windows"]}
        source = TrainingWindows(tokens, **size, seed=small["seed"])
        schedule, decay = Schedule(steps=source.steps), WeightDecay(start=small["weight_decay"])
        recipe = Recipe(optimizer=AdamW(lr=small["lr"]), schedule=schedule, weight_decay=decay)
        model = GPT(config, seed=small["seed"])
        Trainer(model, source, recipe, seed=small["seed"]).run(source.steps)
        model.save(folder, made=small)
    (folder / "sha256").write_text(read_base(folder).sha256())
