"""Tune a pre-trained model, the base, to a text, and write the result; and the small base itself.

A `TuningPlan` is the plan, `TuningTraining` the task.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import torch
from filelock import FileLock
from torch import Tensor, nn

from evo_tune.errors import OptionError, RecipeError, StoreError
from evo_tune.training.data.batches import TrainingWindows
from evo_tune.training.evaluation import Evaluation, evaluate
from evo_tune.training.hardware.device import MicroBatch, reproducible, seed_for
from evo_tune.training.hardware.memory import PassMemory, fit_pass
from evo_tune.training.hardware.precision import Precision
from evo_tune.training.models.gpt import GPT
from evo_tune.training.optim.optimizer import AdamW
from evo_tune.training.recipe import tuning as planned
from evo_tune.training.recipe.data.reading import cache_folder
from evo_tune.training.recipe.hardware.memory import NewWeights
from evo_tune.training.recipe.models.base import BaseModel, read_base
from evo_tune.training.recipe.models.gpt_config import GPTConfig
from evo_tune.training.recipe.optim.schedule import Schedule, WeightDecay, optimizer_steps
from evo_tune.training.recipe.tuning import TuningOptions
from evo_tune.training.session import train, training_notes
from evo_tune.training.stepping.recipe import Recipe
from evo_tune.training.trainer import Trainer
from evo_tune.training.training_run import Run, SinglePhase, StepSplit, Task, TrainingResult, TrainingRun
from evo_tune.training.tuning.pretrained import (
    CausalLM,
    TuningText,
    halve_frozen,
    load_pretrained,
    load_tuning_text,
    save_merged,
)
from evo_tune.training.tuning.weights import Adapters, LoRA, add_adapter, load_adapter, save_adapter, trainable_weights

AT_ONCE = 4096
"""Maximum number of tokens in one evaluation pass."""


@dataclass(frozen=True, kw_only=True)
class TuningPlan:
    """Plan to tune a base.

    Args:
        options: The text, and the training options.
        genome: Values of the genes, plain data. A checkpoint belongs to one genome.
        base: The pre-trained model.
        new: Weights to train in addition to the base.
        numbers: The same weights as plain numbers.
        lr: Peak learning rate, at the reference batch.
        batch: Windows in a step.
        reference: Batch for which learning rates are given (see `scale_lr`).
        warmup: Share of the steps for warm-up.
    """

    options: TuningOptions
    genome: Mapping[str, Any]
    base: BaseModel
    new: LoRA | Adapters
    numbers: NewWeights
    lr: float
    batch: int
    reference: int
    warmup: float
    save: ClassVar[bool] = False
    narrow: ClassVar[bool] = False

    @property
    def weight_decay(self) -> float:
        """Initial weight decay λ."""
        return self.options.weight_decay

    @property
    def identity(self) -> dict[str, Any]:
        """Plain data that a checkpoint must match."""
        return {"genome": dict(self.genome), "data": self.options.fingerprint()}

    def in_precision(self, precision: Any) -> TuningPlan:
        """Return the same plan with another precision."""
        return replace(self, options=replace(self.options, precision=precision))


def rebuild_tuned_model(task: TuningPlan, trained: Mapping[str, Tensor], device: str = "cpu") -> GPT | CausalLM:
    """Return the base in float32 with the trained weights added.

    Args:
        task: Plan of the tuning.
        trained: Trained weights, by name (see `trainable_weights`).
        device: Device of the model.
    """
    model = load_pretrained(task.base, device)
    add_adapter(model, task.new)
    model.load_state_dict({**model.state_dict(), **trained})
    return model


class TuningTraining(Task):
    """Tune a base to a text; a point of the curve is computed from every fourth held-out window."""

    group = "tuning"
    plan: TuningPlan

    @cached_property
    def whole_text(self) -> TuningText:
        options = self.plan.options
        return load_tuning_text(self.plan.base, options.data, options.window, options.eval_tokens)

    @property
    def text(self) -> TuningText:
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
        model = load_pretrained(plan.base, self.run.device)
        add_adapter(model, plan.new, seed_for(self.run.seed, "weights"))
        halve_frozen(model, plan.options.precision)
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

    def fit(self, phase: SinglePhase, model: nn.Module | None) -> StepSplit:
        options, window, per_process = self.plan.options, self.plan.options.window, -(-phase.per_step // self.processes)
        if options.micro_batch != "auto":
            return StepSplit(min(per_process, max(1, (options.micro_batch or per_process * window) // window)))
        assert model is not None
        return StepSplit(fit_pass(self._memory(model), per_process, self.run.device, sharing=self.processes))

    def predict_peak_memory(self, trainer: Trainer, largest: int) -> float:
        return self._memory(trainer.model)(largest).peak

    def _memory(self, model: nn.Module) -> PassMemory:
        options, base, device = self.plan.options, self.plan.base, torch.device(self.run.device)
        return PassMemory(
            model,
            torch.zeros(2, options.window, dtype=torch.long, device=device),
            autocast=lambda: Precision(name=options.precision).autocast(device),
            optimizer=options.optimizer_name,
            ema=options.ema is not None,
            outputs=options.window * base.vocab_size,
            blocks=base.depth,
            recompute=options.recompute,
            block_input=options.window * base.width,
        )

    # Judging.

    def curve_point(self, trainer: Trainer) -> Mapping[str, float]:
        return {"val_loss": self.evaluate(trainer, self.parts()[0]).loss}

    def training_loss(self, trainer: Trainer) -> float:
        return self.evaluate(trainer, self.text.training_windows()).loss

    def parts(self) -> tuple[MicroBatch, MicroBatch]:
        """Return the held-out windows used for the curve, and the others."""
        return split_windows(self.text.held_out_windows())

    def evaluate(self, trainer: Trainer, windows: MicroBatch, model: nn.Module | None = None) -> Evaluation:
        """Evaluate the trainer's model, or another, on windows, in the precision of the stored base."""
        return evaluate_windows(trainer.model if model is None else model, windows, **trainer.evaluation)

    def base_loss(self) -> float:
        """Return the loss of the base on the held-out text."""
        plan, options, run = self.plan, self.plan.options, self.run
        where = (plan.base.folder, plan.base.sha256(), options.data, options.window, options.eval_tokens)
        return _loss_of_base(*where, run.device, run.threads, options.precision)

    def result(self, training_run: TrainingRun, resumed: int | None) -> TuningResult:
        return TuningResult(self, training_run, resumed)


def split_windows(windows: MicroBatch) -> tuple[MicroBatch, MicroBatch]:
    """Return every fourth window, and the others."""
    inputs, targets = windows
    curve = torch.arange(len(inputs)) % 4 == 0
    return (inputs[curve], targets[curve]), (inputs[~curve], targets[~curve])


def evaluate_windows(model: nn.Module, windows: MicroBatch, **how: Any) -> Evaluation:
    """Evaluate a model on windows.

    Args:
        model: The model.
        windows: Inputs and targets.
        how: Device, ranks and precision, as in `evaluate`.
    """
    return evaluate(model, windows, batch=max(1, AT_ONCE // windows[0].shape[1]), **how)


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
        self.scores = self._on_all(trainer.model)
        self.bits_per_byte = self.scores.bits * task.text.tokens_per_byte
        self.training_scores = task.evaluate(trainer, task.text.training_windows())
        self.base_loss = task.base_loss()
        self.trainable, self.tokens = task.plan.numbers.count(task.plan.base), trainer.targets

    def _on_all(self, model: nn.Module) -> Evaluation:
        curve_part, other_part = (self.task.evaluate(self.trainer, part, model) for part in self.task.parts())
        return curve_part + other_part

    def loss_of(self, model: nn.Module) -> float:
        return self._on_all(model).loss


@lru_cache(maxsize=1)  # the loss is the same for every genome
def _loss_of_base(
    folder: Path, sha256: str, data: str, context: int, scored: int, device: str, threads: int, precision: str
) -> float:
    """Return the loss of the base on the held-out text, in nats per token, in the precision of the tuning."""
    del sha256, threads  # part of the cache key only: the number of threads changes the last bits of sums
    base = read_base(folder)
    windows, model = load_tuning_text(base, data, context, scored).held_out_windows(), load_pretrained(base, device)
    model.requires_grad_(False)
    halve_frozen(model, precision)
    batch = max(1, AT_ONCE // windows[0].shape[1])
    return evaluate(model, windows, device=device, batch=batch, precision=Precision(name=precision)).loss


NOTES = "fine_tuning.json"


def export_tuning(task: TuningPlan, run: Run, folder: Path | str, *, merged: bool, with_base: bool) -> dict[str, float]:
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
    task = replace(task, options=replace(task.options, ranks=1))
    training_run, metrics = train(task, run, TuningTraining)
    average, folder = training_run.trainer.averaged, Path(folder)
    if average is not None:
        averaged_metrics = _write_with_notes(
            folder / "averaged", task, run, average.module, metrics, merged=merged, with_base=with_base
        )
        metrics["val_loss_ema"] = averaged_metrics["val_loss"]
    return _write_with_notes(folder, task, run, training_run.model, metrics, merged=merged, with_base=with_base)


def _write_with_notes(
    folder: Path, task: TuningPlan, run: Run, network: nn.Module, metrics: Mapping[str, float], **how: bool
) -> dict[str, float]:
    """Write a tuned model and the notes on it, and return its metrics."""
    _write(folder, task, trainable_weights(network), **how)
    text = TuningTraining(task, run).whole_text
    judged = {**metrics, **_evaluate_exported(load_exported(folder, task), text, run)}
    notes = training_notes(task, run, "fp32", judged, judged={"block": text.context, "count": text.scored})
    (folder / NOTES).write_text(json.dumps(notes, indent=2) + "\n", encoding="utf-8")
    return judged


def _write(folder: Path, task: TuningPlan, trained: Mapping[str, Tensor], *, merged: bool, with_base: bool) -> None:
    model, base = rebuild_tuned_model(task, trained), task.base
    if merged and isinstance(task.new, LoRA):
        save_merged(model, base, folder)
        return
    origin = str(base.folder)
    if with_base:
        origin = str(shutil.copytree(base.folder, folder / "base"))
    save_adapter(model, task.new, folder, base=origin, base_sha256=base.sha256())


def load_exported(folder: Path, task: TuningPlan) -> nn.Module:
    """Return the model that was written for a tuning."""
    if not (folder / "adapter.json").exists():
        return load_pretrained(read_base(folder))
    model = load_pretrained(task.base)
    load_adapter(model, folder)
    return model.eval()


def evaluate_text(model: nn.Module, text: TuningText, **how: Any) -> Evaluation:
    """Evaluate a model on the windows that judge a tuning; see `judge_windows`."""
    curve_part, other_part = (evaluate_windows(model, part, **how) for part in split_windows(text.held_out_windows()))
    return curve_part + other_part


def _evaluate_exported(model: nn.Module, text: TuningText, run: Run) -> dict[str, float]:
    """Return loss and bits per byte on the held-out part, and on the test part if the run has one."""
    metrics: dict[str, float] = {}
    model = model.to(run.device)
    with reproducible(run.threads, run.device):
        for loss, bits, part in (("val_loss", "val_bpb", text), ("test_loss", "test_bpb", text.on_test_set())):
            if loss == "val_loss" or run.test:
                evaluation = evaluate_text(model, part, device=run.device)
                size = evaluation.count / part.tokens_per_byte
                metrics |= {loss: evaluation.loss, bits: evaluation.nll / math.log(2.0) / size}
    return metrics


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
            if not _is_sound(folder):
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


def _is_sound(folder: Path) -> bool:
    try:
        base = read_base(folder)
        return "files" in base.config and base.sha256() == (folder / "sha256").read_text()
    except (OSError, ValueError, RecipeError):
        return False


def _train(folder: Path) -> None:
    with reproducible(1):
        config = GPTConfig.from_json(planned.SMALL["model"])
        source = TrainingWindows(
            torch.frombuffer(bytearray(planned.built_in_text(tuning=False)), dtype=torch.uint8),
            context=config.context,
            batch=planned.SMALL["batch"],
            total=planned.SMALL["windows"],
            seed=planned.SMALL["seed"],
        )
        recipe = Recipe(
            optimizer=AdamW(lr=planned.SMALL["lr"]),
            schedule=Schedule(steps=source.steps),
            weight_decay=WeightDecay(start=planned.SMALL["weight_decay"]),
        )
        model = GPT(config, seed=planned.SMALL["seed"])
        Trainer(model, source, recipe, seed=planned.SMALL["seed"]).run(source.steps)
        model.save(folder, made=planned.SMALL)
    (folder / "sha256").write_text(read_base(folder).sha256())
