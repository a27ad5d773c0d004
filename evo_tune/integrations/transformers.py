"""Use Hugging Face's `Trainer` in an evaluator: genes as its arguments, curves, pruning, rungs.

    def evaluate(genome, context, *, steps: int = 1000):
        arguments = training_arguments(context, genome, max_steps=steps, eval_strategy="steps", eval_steps=100)
        trainer = Trainer(model, arguments, train_dataset=…, eval_dataset=…)
        return train(trainer, context)

The file may declare `SUPPORTS = ["budget", "curve"]`: a partial training is the first steps under the schedule of the
full one, and its promotion continues from the checkpoint, data order and dropout included. For several GPUs per
training see `integrations.ranks`. Importing this module imports transformers.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from evo_tune.errors import OptionError, RunError, require_extra
from evo_tune.genome.values import Value
from evo_tune.integrations.ranks import last_step, numbers, report
from evo_tune.plugins.context import Context

with require_extra("evo_tune.integrations.transformers", "hf"):
    import accelerate  # noqa: F401  (the Trainer needs it)
    from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

# Endings of metrics that describe the machine rather than the model.
SPEED = ("runtime", "per_second", "epoch")


def training_arguments(context: Context, genome: Mapping[str, Value], **fixed: Any) -> TrainingArguments:
    """Return the arguments of a training: genes that have the name of an argument, and `fixed`.

    By default only the checkpoints of rungs are saved, nothing is logged elsewhere, and there is no progress bar. A
    gene or argument `warmup_ratio` works with every version of transformers.

    Args:
        context: Context of the evaluation, for device, seed and folder.
        genome: Genome; genes that are no arguments are ignored.
        fixed: Further arguments of transformers' `TrainingArguments`.

    Raises:
        OptionError: An argument is also a gene, or transformers does not know it.
    """
    fields = {field.name for field in dataclasses.fields(TrainingArguments) if field.init}
    names = fields | {"warmup_ratio"}
    if wrong := sorted(fixed.keys() - names):
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
    arguments = {**usual, **{name: value for name, value in genome.items() if name in names}, **fixed}
    # transformers 5 takes a share as warmup_steps below 1
    if "warmup_ratio" in arguments and "warmup_ratio" not in fields:
        ratio = float(arguments.pop("warmup_ratio"))
        arguments.setdefault("warmup_steps", min(ratio, 1 - 1e-9))
    return TrainingArguments(**arguments)


class Report(TrainerCallback):  # type: ignore[misc] # mypy does not read transformers
    """Callback that reports logs and evaluations, and stops at the end of the budget; `train` adds it.

    Args:
        context: Context of the evaluation.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        # Step and metrics of the last evaluation.
        self.last_evaluation: tuple[int, dict[str, float]] | None = None

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **others: Any) -> TrainerControl:
        last = last_step(self.context, state.max_steps)
        if state.global_step >= last:
            control.should_training_stop = True
            control.should_save |= last < state.max_steps  # for the promotion
        return control

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Any = None, **others: Any) -> None:
        if logs and "loss" in logs:  # neither an evaluation nor the final summary
            self._report(state, logs)

    def on_evaluate(self, args: Any, state: TrainerState, control: Any, metrics: Any = None, **others: Any) -> None:
        self.last_evaluation = state.global_step, _of_model(metrics or {})
        self._report(state, metrics or {})

    def _report(self, state: TrainerState, metrics: Mapping[str, Any]) -> None:
        if state.max_steps > 0:
            report(self.context, min(1.0, state.global_step / state.max_steps), _of_model(metrics))


def train(trainer: Trainer, context: Context) -> dict[str, float]:
    """Train for the budget, from the checkpoint of the promoted trial if there is one, and evaluate.

    Args:
        trainer: Hugging Face's `Trainer` with arguments from `training_arguments`, and an `eval_dataset`.
        context: Context of the evaluation.

    Returns:
        Metrics of the model at the end, such as 'eval_loss'.

    Raises:
        Pruned: The learning curve passed a bound.
        RunError: The trainer has no data to evaluate on.
    """
    if trainer.eval_dataset is None:
        raise RunError("the Trainer has no eval_dataset to evaluate the training: give it one")
    reported = Report(context)
    trainer.add_callback(reported)
    saved = [] if context.resume_folder is None else [*context.resume_folder.glob("checkpoint-*")]
    last = max(saved, key=lambda path: int(path.name.rpartition("-")[2]), default=None)  # checkpoint-STEP
    trainer.train(resume_from_checkpoint=None if last is None else str(last))
    # After the checkpoint: evaluating draws random numbers, and a full training does not evaluate here.
    if reported.last_evaluation is None or reported.last_evaluation[0] != trainer.state.global_step:
        trainer.evaluate()
    assert reported.last_evaluation is not None
    return reported.last_evaluation[1]


def _of_model(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in numbers(metrics).items() if not name.endswith(SPEED)}
