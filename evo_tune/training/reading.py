"""Train a `GPT` on a text in phases of rising context or size, judge it on held-out blocks, and write it to disk."""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from evo_tune.plugins.context import Context
from evo_tune.training.data.batches import TextMaterial
from evo_tune.training.evaluation import Evaluation, evaluate_by_position, evaluate_windows, windows_per_pass
from evo_tune.training.extension import extend_trainer
from evo_tune.training.hardware.device import MicroBatch, fit_device, seed_for
from evo_tune.training.models.gpt import GPT
from evo_tune.training.recipe.hardware.memory import predict_memory
from evo_tune.training.recipe.language import LanguageTask
from evo_tune.training.recipe.models.gpt_config import flops_per_token
from evo_tune.training.recipe.plan import Phase, tokens_and_flops
from evo_tune.training.session import train_and_export
from evo_tune.training.stepping.feeding import Source
from evo_tune.training.trainer import Trainer
from evo_tune.training.training_run import StepSplit, Task, TrainingResult, TrainingRun


class LanguageTraining(Task):
    """Train a `GPT` on a text; a point of the curve is computed from every fourth held-out block."""

    group = "language"
    plan: LanguageTask

    @cached_property
    def material(self) -> TextMaterial:
        """The text."""
        return TextMaterial(self.plan.corpus, count=self.plan.scored, seed=self.run.seed)

    @property
    def ceiling(self) -> float:
        return 1.5 * math.log(self.plan.options.vocab)

    def plan_phases(self) -> Sequence[Phase]:
        return self.plan.phases()

    def model(self, phase: Phase) -> GPT:
        recompute = self.plan.options.recompute
        return GPT(phase.config, seed=seed_for(self.run.seed, "weights"), recompute=recompute).to(self.run.device)

    def source(self, phase: Phase, micro_batch: int) -> Source:
        return self.material.source(phase, micro_batch)

    def fit(self, phase: Phase, model: nn.Module | None) -> StepSplit:
        options, config, per_process = self.plan.options, phase.config, self.share_of(phase)
        if options.micro_batch != "auto":
            return StepSplit(options.pass_size(phase.per_step, config.context), options.recompute)
        fit = fit_device(config, per_process, self.run.device, sharing=self.processes, **options.memory_setup)
        micro, recompute = fit.micro_batch, fit.recompute
        if self.ranks is not None:
            # All ranks use the smallest: if one ran out of memory later, the others would wait for it.
            micro, plain = self.ranks.least(micro, recompute is None)
            recompute = None if plain else 1
        return StepSplit(micro, options.recompute or recompute)

    def predict_peak_memory(self, trainer: Trainer, largest: int) -> float:
        phase, setup = self.phase_of(trainer), self.plan.options.memory_setup
        setup |= {"recompute": cast(GPT, trainer.model).recompute}
        return predict_memory(
            phase.config, largest, accumulated=largest * self.processes < phase.per_step, **setup
        ).peak

    # Phases.

    def phase_of(self, trainer: Trainer) -> Phase:
        """Return the phase of a trainer's model."""
        context = cast(GPT, trainer.model).config.context
        return cast(Phase, next(phase for phase in self.phases if phase.config.context == context))

    def share(self, step: int) -> float:
        return tokens_and_flops(self.phases, step)["flops"] / tokens_and_flops(self.phases, self.ends[-1])["flops"]

    def largest_step(self, trainer: Trainer) -> int:
        phase = self.phase_of(trainer)
        return max(phase.first_step, phase.end - 2)  # a growing batch is largest at the end

    def next_trainer(self, trainer: Trainer) -> Trainer:
        phase = self.phases[self.phases.index(self.phase_of(trainer)) + 1]
        passes, extension = self.passes(phase), self.plan.options.extension
        source = self.source(phase, passes.micro_batch)
        longer = extend_trainer(trainer, source, phase.config.context, extension)
        cast(GPT, longer.model).recompute = passes.recompute
        return longer

    # Judging.

    def curve_point(self, trainer: Trainer) -> Mapping[str, float]:
        return {"val_loss": self.evaluate(trainer, self.held_out(trainer)[::4]).loss}

    def training_loss(self, trainer: Trainer) -> float:
        return self.evaluate(trainer, [self.material.training_windows(self.phase_of(trainer).config.context)]).loss

    def held_out(self, trainer: Trainer) -> list[MicroBatch]:
        """Return the blocks for evaluation, in windows of the model's context."""
        return self.material.held_out(self.phase_of(trainer).config.context, self.testing)

    def evaluate(self, trainer: Trainer, blocks: Sequence[MicroBatch], model: nn.Module | None = None) -> Evaluation:
        """Evaluate the trainer's model, or another, on blocks of windows."""
        evaluated_model = trainer.model if model is None else model
        return evaluate_windows(evaluated_model, _join_blocks(blocks), **trainer.evaluation)

    def result(self, training_run: TrainingRun, resumed: int | None) -> "LanguageResult":
        return LanguageResult(self, training_run, resumed)


class LanguageResult(TrainingResult):
    """A finished training of a `GPT`.

    Args:
        reading: Task of the training.
        training_run: See `TrainingResult`.
        resumed: See `TrainingResult`.
    """

    def __init__(self, reading: LanguageTraining, training_run: TrainingRun, resumed: int | None) -> None:
        self.reading, trainer = reading, training_run.trainer
        config = reading.phase_of(trainer).config
        cost = tokens_and_flops(reading.phases, trainer.step)
        super().__init__(training_run, resumed, flops=cost["flops"], flops_per_target=flops_per_token(config))
        self.micro_batch *= config.context
        self.blocks = reading.held_out(trainer)
        self.halves = evaluate_halves(trainer.model, self.blocks, **trainer.evaluation)
        self.scores = self.halves[0] + self.halves[1]
        self.bits_per_byte = self.scores.nll / math.log(2.0) / reading.material.held_out_bytes(reading.testing)
        self.training_scores = reading.evaluate(trainer, [reading.material.training_windows(config.context)])
        self.tokens, self.parameters = cost["tokens"], float(config.parameters)

    def loss_of(self, model: nn.Module) -> float:
        return self.reading.evaluate(self.trainer, self.blocks, model).loss

    @property
    def context_gain(self) -> float | None:
        """Loss at the first phase's context minus loss at the current one, in nats; None if both contexts are equal."""
        first = self.reading.phases[0]
        if self.reading.phase_of(self.trainer).config.context == first.config.context:
            return None
        short = self.reading.material.held_out(first.config.context, self.reading.testing)
        return self.reading.evaluate(self.trainer, short).loss - self.scores.loss


def evaluate_halves(model: nn.Module, blocks: Sequence[MicroBatch], **how: Any) -> tuple[Evaluation, Evaluation]:
    """Evaluate a model on blocks of windows, separately for the first and the second half of each window.

    Args:
        model: The model.
        blocks: See `evaluation_blocks`.
        how: Device, ranks and precision, as in `evaluate`.
    """
    windows, nothing = _join_blocks(blocks), Evaluation(0.0, 0)
    places = evaluate_by_position(model, windows, batch=windows_per_pass(windows), **how)
    half = len(places) // 2
    return sum(places[:half], nothing), sum(places[half:], nothing)


def _join_blocks(blocks: Sequence[MicroBatch]) -> MicroBatch:
    return torch.cat([inputs for inputs, _ in blocks]), torch.cat([targets for _, targets in blocks])


def export_language(task: LanguageTask, run: Context, folder: Path | str) -> dict[str, float]:
    """Train in one process, write weights and config.json to a folder, and return the metrics.

    Args:
        task: Training to run.
        run: Device, seed, budget and folders.
        folder: Folder to write; created if missing. Its `averaged` has the moving average of the weights, if any.
    """
    judged = {"block": task.corpus.block, "count": task.scored}
    return train_and_export(
        task, run, LanguageTraining, folder, tokenizer=task.corpus.prepared.tokenizer, judged=judged
    )
