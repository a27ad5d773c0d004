"""Hugging Face's `Trainer` as an evaluator: genes as its arguments, curves, pruning, rungs.

    def evaluate(genome, context, *, steps: int = 1000):
        arguments = training_arguments(context, genome, max_steps=steps, eval_strategy="steps", eval_steps=100)
        trainer = Trainer(model, arguments, train_dataset=…, eval_dataset=…)
        return train(trainer, context)

`SUPPORTS = ["budget", "curve"]` may stand beside it: a part of the training is its first steps under the schedule of
the full one, and the next part goes on from the checkpoint, data order and dropout included. Several GPUs a training:
`integrations.ranks`. Importing this imports transformers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from evo_tune.errors import OptionError, RunError
from evo_tune.genome.values import Value
from evo_tune.integrations.needed import needing
from evo_tune.integrations.reporting import last_step, numbers, report
from evo_tune.plugins.context import Context

with needing("evo_tune.integrations.transformers", "hf"):
    import accelerate  # noqa: F401  (the Trainer needs it)
    from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
    from transformers.trainer_utils import get_last_checkpoint

__all__ = ["Report", "train", "training_arguments"]

SPEED = ("runtime", "per_second", "epoch")
"""What names of metrics end with that tell of the machine and not of the model."""


def training_arguments(context: Context, genome: Mapping[str, Value], **fixed: Any) -> TrainingArguments:
    """Return the arguments of a training: the genome's where a gene has the name of one, and these.

    Without a word here nothing is saved but what a rung goes on from, nothing is sent anywhere and no progress bar
    drawn. `warmup_ratio` is understood by every version, as a gene and as an argument.

    Args:
        context: The evaluation's: its device, seed and folder.
        genome: Its genes; those that are no arguments are left to the model and the data.
        fixed: Other arguments of transformers' `TrainingArguments`.

    Raises:
        OptionError: One is a gene and fixed, or none that transformers knows.
    """
    known = {field.name for field in dataclasses.fields(TrainingArguments) if field.init} | {"warmup_ratio"}
    if wrong := sorted(fixed.keys() - known):
        raise OptionError(f"training_arguments({wrong[0]}=…): transformers' TrainingArguments have no such argument")
    if twice := sorted(fixed.keys() & genome.keys()):
        raise OptionError(f"training_arguments({twice[0]}=…): {twice[0]} is a gene; leave one of the two out")
    usual = {
        "output_dir": str(context.folder),
        "seed": context.seed % 2**32,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": context.device == "cpu",
    }
    given = {**usual, **{name: value for name, value in genome.items() if name in known}, **fixed}
    fields = {field.name for field in dataclasses.fields(TrainingArguments)}
    if "warmup_ratio" in given and "warmup_ratio" not in fields:  # from transformers 5 on a number of steps below 1
        ratio = float(given.pop("warmup_ratio"))
        given.setdefault("warmup_steps", min(ratio, 1 - 1e-9))
    return TrainingArguments(**given)


class Report(TrainerCallback):  # type: ignore[misc] # mypy does not read transformers
    """Reports what is logged and evaluated, and stops where the budget ends; `train` adds it.

    Args:
        context: The evaluation's.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.evaluated: tuple[int, dict[str, float]] | None = None
        """The last evaluation: at which step, and what came of it."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> TrainerControl:
        last = last_step(self.context, state.max_steps)
        if state.global_step >= last:
            control.should_training_stop = True
            control.should_save |= last < state.max_steps  # what the next rung goes on from
        return control

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **more: Any
    ) -> None:
        if logs and "loss" in logs:  # not what an evaluation logs as well, nor the summary at the end
            self._report(state, logs)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: Any = None, **more: Any
    ) -> None:
        self.evaluated = state.global_step, _of_model(metrics or {})
        self._report(state, metrics or {})

    def _report(self, state: TrainerState, metrics: Mapping[str, Any]) -> None:
        if state.max_steps > 0:
            report(self.context, min(1.0, state.global_step / state.max_steps), _of_model(metrics))


def train(trainer: Trainer, context: Context) -> dict[str, float]:
    """Train for the budget, from where the trial before left it, and return what the evaluation at its end says.

    Args:
        trainer: Hugging Face's, with arguments from `training_arguments`, and an `eval_dataset`.
        context: The evaluation's.

    Returns:
        The numbers of `trainer.evaluate()` that tell of the model, such as 'eval_loss'.

    Raises:
        Pruned: A bound fixed at birth is passed.
        RunError: The trainer has nothing to evaluate on.
    """
    if trainer.eval_dataset is None:
        raise RunError("the Trainer has no eval_dataset, by which its training would be judged: give it one")
    told = Report(context)
    trainer.add_callback(told)
    before = None if context.resume_folder is None else get_last_checkpoint(str(context.resume_folder))
    trainer.train(resume_from_checkpoint=before)
    # After the checkpoint: an evaluation draws random numbers, and the training without this rung had none here.
    if told.evaluated is None or told.evaluated[0] != trainer.state.global_step:
        trainer.evaluate()
    assert told.evaluated is not None
    return told.evaluated[1]


def _of_model(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in numbers(metrics).items() if not name.endswith(SPEED)}
