"""Builds the tuning of a base to a text: model, recipe, batches that fit the device, and the course.

From a `TuningTask`, which says what it is, and a `Run`, which says where it stands. Knows nothing of genomes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from evo_tune.errors import OptionError
from evo_tune.recipe.models.base import Base, read_base
from evo_tune.recipe.tuning import Tuning
from evo_tune.training.course import Course
from evo_tune.training.data.windows import TrainingWindows
from evo_tune.training.evaluation import evaluate
from evo_tune.training.hardware.device import seed_for
from evo_tune.training.hardware.memory import PassMemory, fit_pass
from evo_tune.training.hardware.precision import Precision
from evo_tune.training.hardware.throughput import SAFE, TIMED, steps_in
from evo_tune.training.models.gpt import GPT
from evo_tune.training.optim.watching import EarlyStopping
from evo_tune.training.session import Run, told_to
from evo_tune.training.stepping.recipe import recipe_of
from evo_tune.training.trainer import Trainer
from evo_tune.training.tuned import Tuned
from evo_tune.training.tuning.pretrained import CausalLM, TuningText, halve_frozen, load_pretrained, tuning_text
from evo_tune.training.tuning.weights import Adapters, LoRA, add_adapter

if TYPE_CHECKING:
    from evo_tune.training.hardware.distributed import Ranks

__all__ = ["TuningTask", "tuned_model", "tuning_course"]


@dataclass(frozen=True, kw_only=True)
class TuningTask:
    """A tuning of a base.

    Args:
        options: How it is trained, and to what text.
        genome: What told it from others, plain data: its checkpoints go on under the same only.
        base: What is tuned.
        new: What is trained beside the base.
        trainable: Number of trained weights.
        lr: Peak learning rate, at the reference batch.
        batch: Windows in a step.
        reference: Batch for which learning rates are meant (see `scale_lr`).
        warmup: Share of the steps for warm-up.
    """

    options: Tuning
    genome: Mapping[str, Any]
    base: Base
    new: LoRA | Adapters
    trainable: int
    lr: float
    batch: int
    reference: int
    warmup: float
    save: ClassVar[bool] = False
    narrow: ClassVar[bool] = False

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint belongs to, plain data."""
        return {"genome": dict(self.genome), "data": self.options.fingerprint()}

    def in_precision(self, precision: Any) -> TuningTask:
        """Return the same tuning in a precision."""
        return replace(self, options=replace(self.options, precision=precision))


def tuning_course(
    task: TuningTask, run: Run, precision: str, saved: dict[str, Any], ranks: Ranks | None = None
) -> Course:
    """Return the tuning at step 0, or where a checkpoint ends.

    Args:
        task: What is tuned.
        run: Where.
        precision: In what it computes, by name; the frozen weights are stored in it too.
        saved: What was saved of it; empty: nothing.
        ranks: The processes that train it together.

    Raises:
        OptionError: The text is too short, or the base cannot do what an option asks for.
        RecipeError: A number is out of its range, or base or text cannot be read.
    """
    return _Builder(task.in_precision(precision), run, ranks).course(saved)


def tuned_model(task: TuningTask, trained: Mapping[str, Tensor], device: str = "cpu") -> GPT | CausalLM:
    """Return the base in float32 with what was trained beside it.

    Args:
        task: What was tuned.
        trained: The trained weights, by name (see `trained_weights`).
        device: Where.
    """
    model = load_pretrained(task.base, device)
    add_adapter(model, task.new)
    model.load_state_dict({**model.state_dict(), **trained})
    return model


@dataclass(frozen=True)
class _Builder:
    task: TuningTask
    run: Run
    ranks: Ranks | None

    def course(self, saved: dict[str, Any]) -> Course:
        options, task = self.task.options, self.task
        windows = saved.get("windows") or self._windows()
        trainer = self._trainer(windows, ranks=self.ranks)
        where = (task.base.folder, task.base.sha256(), options.data, options.window, options.eval_tokens)
        how = (self.run.device, self.run.threads, options.precision)
        subject = Tuned(
            self.text,
            steps=trainer.recipe.schedule.steps,
            windows=windows,
            trainable=task.trainable,
            flops_per_token=task.base.flops_per_token(task.options.window, task.trainable),
            base_loss=lambda: _loss_of_base(*where, *how),
            memory=lambda largest: self._memory(trainer.model)(largest),
        )
        course = Course(
            trainer,
            subject,
            evaluations=options.evaluations,
            stopping=EarlyStopping.of(options),
            report=told_to(self.run),
        )
        if saved:
            course.restore(saved)
        return course

    @cached_property
    def text(self) -> TuningText:
        options = self.task.options
        return tuning_text(self.task.base, options.data, options.window, options.eval_tokens)

    def _windows(self) -> int:
        """Return the windows of the full training; of a budget in seconds, by the clock."""
        task, options = self.task, self.task.options
        if (windows := options.windows(task.trainable)) is not None:
            return windows
        trial = self._trainer(task.batch * TIMED, lr=SAFE)  # one of its own, to be thrown away
        return task.batch * steps_in(options.seconds or 0.0, trial)

    def _trainer(self, windows: int, *, lr: float | None = None, ranks: Ranks | None = None) -> Trainer:
        """Return a trainer at step 0, its schedules laid over so many windows."""
        task, seed = self.task, self.run.seed
        model = self._model()
        source = TrainingWindows(
            self.text.training,
            context=task.options.window,
            batch=task.batch,
            total=windows,
            seed=seed,
            micro_batch=self._micro_batch(model),
        )
        recipe = recipe_of(
            task.options,
            source.steps,
            lr=task.lr if lr is None else lr,
            batch=task.batch,
            reference=task.reference,
            weight_decay=task.options.weight_decay,
            warmup=task.warmup,
            ceiling=1.5 * math.log(task.base.vocab_size),
        )
        compiled = task.options.compile
        return Trainer(model, source, recipe, seed=seed, device=self.run.device, ranks=ranks, compiled=compiled)

    def _model(self) -> nn.Module:
        task, recompute = self.task, self.task.options.recompute
        model = load_pretrained(task.base, self.run.device)
        add_adapter(model, task.new, seed_for(self.run.seed, "weights"))
        halve_frozen(model, task.options.precision)
        if isinstance(model, GPT):
            model.recompute = recompute
        elif recompute is not None:
            if recompute > 1:
                raise OptionError(f"-o recompute={recompute}: a Hugging Face model computes all or none again: give 1")
            model.recompute_blocks()
        return model

    def _micro_batch(self, model: nn.Module) -> int:
        """Return the windows in one pass."""
        task, options, size = self.task, self.task.options, self.ranks.size if self.ranks else 1
        each = -(-task.batch // size)
        if options.micro_batch == "auto":
            return fit_pass(self._memory(model), each, self.run.device, sharing=size)
        return min(each, max(1, (options.micro_batch or each * task.options.window) // task.options.window))

    def _memory(self, model: nn.Module) -> PassMemory:
        task, options, base, device = self.task, self.task.options, self.task.base, torch.device(self.run.device)
        return PassMemory(
            model,
            torch.zeros(2, task.options.window, dtype=torch.long, device=device),
            autocast=lambda: Precision(name=options.precision).autocast(device),
            optimizer=options.optimizer_name,
            ema=options.ema is not None,
            outputs=task.options.window * base.vocab_size,
            blocks=base.depth,
            recompute=options.recompute,
            block_input=task.options.window * base.width,
        )


@lru_cache(maxsize=1)  # the same for every genome
def _loss_of_base(
    folder: Path, sha256: str, data: str, context: int, scored: int, device: str, threads: int, precision: str
) -> float:
    """Return the loss of the base on the held-out text, nats per token, in the precision that it is tuned in."""
    del sha256, threads  # sums depend on threads, in the last bits
    base = read_base(folder)
    windows, model = tuning_text(base, data, context, scored).to_judge(), load_pretrained(base, device)
    model.requires_grad_(False)
    halve_frozen(model, precision)
    with Precision(name=precision).autocast(torch.device(device)):
        return evaluate(model, windows, device=device, batch=max(1, 4096 // windows[0].shape[1])).loss
