"""The tuning of a base from where it is to where it stops: its text, steps, curve, checkpoint, and how it is judged.

Checkpoints hold the trained weights alone; the frozen ones are the base's. Knows nothing of genomes, and nothing of
which weights are trained.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from evo_tune.training.accounting import stop_step
from evo_tune.training.checkpoint import CHECKPOINT, save_checkpoint, saved_in
from evo_tune.training.data.batch import MicroBatch
from evo_tune.training.data.windows import fixed_windows
from evo_tune.training.evaluation import Evaluation, evaluate
from evo_tune.training.fitting import CURVE_POINTS
from evo_tune.training.metrics import measured
from evo_tune.training.session import Run
from evo_tune.training.trainer import Trainer
from evo_tune.training.tuning.adapter import trained_weights
from evo_tune.training.tuning.base import Base, read_base
from evo_tune.training.tuning.pretrained import encode, load_pretrained
from evo_tune.training.tuning.small_base import read_tuning_text

__all__ = ["Tuned", "TuningText", "tune", "tuning_text"]


@dataclass(frozen=True)
class TuningText:
    """A text in a base's tokens.

    Args:
        training: (n,), to train on.
        held_out: (m,), to judge by.
        test: (k,), to test with.
        tokens_per_byte: Of the held-out part.
        context: Tokens in a window.
        scored: Held-out tokens that are scored at the end.
    """

    training: Tensor
    held_out: Tensor
    test: Tensor
    tokens_per_byte: float
    context: int
    scored: int

    def to_judge(self) -> MicroBatch:
        """Return the windows that judge every training."""
        return fixed_windows(self.held_out, context=self.context, count=self.scored, block=self.context)

    def seen(self) -> MicroBatch:
        """Return fixed windows of the text that is trained on."""
        count = max(1, self.scored // 4)
        return fixed_windows(self.training, context=self.context, count=count, block=self.context)


def tuning_text(base: Base, data: str, context: int, scored: int) -> TuningText:
    """Return a text as it is tuned to.

    Args:
        base: Gives the tokens.
        data: File, folder or glob; empty: a part of Python's own documentation.
        context: Tokens in a window.
        scored: Held-out tokens that are scored at the end.

    Raises:
        OptionError: It is too short.
        RecipeError: It is missing or unreadable.
    """
    return TuningText(*_tokens(base.folder, base.sha256(), data, context), context, scored)


@lru_cache(maxsize=1)  # a worker trains on the same text again and again
def _tokens(folder: Path, sha256: str, data: str, context: int) -> tuple[Tensor, Tensor, Tensor, float]:
    """Return the tokens of all three parts, and the tokens in a byte of the second."""
    del sha256  # of the base, so that another one at the same place is not taken for it
    training, held_out, test = read_tuning_text(data, context)
    base = read_base(folder)
    tokens = encode(base, held_out)
    return encode(base, training), tokens, encode(base, test), len(tokens) / len(held_out)


@lru_cache(maxsize=1)  # the same for every genome
def _loss_of_base(folder: Path, sha256: str, data: str, context: int, scored: int, device: str, threads: int) -> float:
    """Return the loss of the base on the held-out text, nats per token."""
    del sha256, threads  # sums depend on threads, in the last bits
    base = read_base(folder)
    text = tuning_text(base, data, context, scored)
    return _judge(load_pretrained(base, device), text.to_judge(), device).loss


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """A tuning that is over: what the rows of `metrics.METRICS` look at.

    Args:
        trainer: At its end.
        judged: Score on the held-out text.
        seen: Score on training text.
        bits_per_byte: On the held-out text.
        base_loss: Loss of the base on the held-out text.
        trainable: Number of trained weights.
        flops: FLOPs spent.
        speed: Tokens a second.
        resumed: Step at which it went on; None: it was not to go on from anything.
    """

    trainer: Trainer
    judged: Evaluation
    seen: Evaluation
    bits_per_byte: float
    base_loss: float
    trainable: int
    flops: float
    speed: float
    resumed: int | None

    @property
    def tokens(self) -> int:
        """Tokens trained on."""
        return self.trainer.targets


def tune(
    trainer: Trainer,
    base: Base,
    data: str,
    text: TuningText,
    run: Run,
    *,
    trainable: int,
    task: Mapping[str, Any],
) -> dict[str, float]:
    """Tune up to the run's share of the full training, from its checkpoint if there is one.

    Args:
        trainer: At step 0, its schedule laid over the full training.
        base: What is tuned.
        data: Where the text is.
        text: Its tokens.
        run: Where it stands; the learning curve is reported there.
        trainable: Number of trained weights.
        task: Plain data that says what is trained; a checkpoint goes on under the same only.

    Returns:
        The metrics of tuned models (see `metrics.METRICS`).

    Raises:
        Diverged: The training was lost.
        OptionError: The checkpoint belongs to another training.
    """
    if saved := saved_in(run.resume_folder, dict(task)):  # the base's weights are not in it
        trainer.restore({**saved["trainer"], "model": {**trainer.model.state_dict(), **saved["trainer"]["model"]}})
    start, first = trainer.step, trainer.targets
    judged, seconds = _run(trainer, run, text)
    where = (base.folder, base.sha256(), data, text.context, text.scored)
    tuned = Tuned(
        trainer=trainer,
        judged=judged,
        seen=_judge(trainer.model, text.seen(), run.device),
        bits_per_byte=judged.bits * text.tokens_per_byte,
        base_loss=_loss_of_base(*where, run.device, run.threads),
        trainable=trainable,
        flops=trainer.targets * base.flops_per_token(text.context, trainable),
        speed=(trainer.targets - first) / max(seconds, 1e-9),
        resumed=start if run.resume_folder else None,
    )
    if trainer.step < trainer.recipe.schedule.steps:
        state = {**trainer.state(), "model": trained_weights(trainer.model)}
        save_checkpoint(run.folder / CHECKPOINT, {"task": dict(task), "trainer": state})
    return measured(tuned, "tuning")


def _run(trainer: Trainer, run: Run, text: TuningText) -> tuple[Evaluation, float]:
    """Train up to the budget, reporting along the way; return the last score and the seconds spent on steps.

    A point of the curve is from every fourth held-out window.
    """
    steps, seconds = trainer.recipe.schedule.steps, 0.0
    stop = stop_step(steps, run.budget)
    inputs, targets = text.to_judge()
    curve = torch.arange(len(inputs)) % 4 == 0
    marks = {-(-steps * point // CURVE_POINTS) for point in range(1, CURVE_POINTS)}
    for mark in sorted({mark for mark in marks if trainer.step < mark < stop} | {stop}):
        before = time.perf_counter()
        trainer.run(max(mark, trainer.step))
        seconds += time.perf_counter() - before
        judged = _judge(trainer.model, (inputs[curve], targets[curve]), run.device)
        run.report(trainer.step / steps, val_loss=judged.loss)
    return judged + _judge(trainer.model, (inputs[~curve], targets[~curve]), run.device), seconds


def _judge(model: nn.Module, windows: MicroBatch, device: str) -> Evaluation:
    return evaluate(model, windows, device=device, batch=max(1, 4096 // windows[0].shape[1]))
