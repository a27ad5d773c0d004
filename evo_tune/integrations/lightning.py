"""Use Lightning's `Trainer` in an evaluator: curves, pruning, rungs.

    def evaluate(genome, context, *, steps: int = 1000):
        made = trainer(context, max_steps=steps, val_check_interval=100)
        return fit(made, Model(genome), context, train_loader, validation_loader)

The file may declare `SUPPORTS = ["budget", "curve"]`: a partial training is the first steps, under the schedule of the
full one if the module takes its length from `self.trainer.estimated_stepping_batches`, and its promotion continues from
the checkpoint. For several GPUs per training see `integrations.ranks`. Importing this module imports Lightning.
"""

import inspect
import math
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from evo_tune.errors import RunError, require_extra
from evo_tune.integrations.ranks import last_step, numbers, place, report
from evo_tune.plugins.context import Context

with require_extra("evo_tune.integrations.lightning", "lightning"):
    import torch
    from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything

# Name of a rung's checkpoint in its folder.
CHECKPOINT = "rung.ckpt"

# State of the random number generators, as plain data and tensors.
RandomState = dict[str, Any]


def trainer(context: Context, **fixed: Any) -> Trainer:
    """Return a trainer on the evaluation's device and seed everything; call it before making the module.

    Args:
        context: Context of the evaluation, for device, seed and folder.
        fixed: Further arguments of Lightning's `Trainer`. By default only the checkpoints of rungs are saved, nothing
            is logged elsewhere, and there is no progress bar.
    """
    seed_everything(context.seed % 2**32, verbose=False)
    ranks = place()[1]
    usual = {
        "accelerator": {"cuda": "gpu"}.get(context.device.partition(":")[0], context.device.partition(":")[0]),
        "devices": ranks,
        "strategy": "ddp" if ranks > 1 else "auto",
        "default_root_dir": str(context.folder),
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    return Trainer(**{**usual, **fixed})


class Report(Callback):  # type: ignore[misc] # mypy does not read Lightning
    """Callback that reports validations, stops at the end of the budget and saves a checkpoint; `fit` adds it.

    The random state is restored after a validation. So a rung, which ends with an extra validation, is the same
    training as without one.

    Args:
        context: Context of the evaluation.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        # Metrics of the last validation.
        self.last_metrics: dict[str, float] | None = None
        self._steps = 0
        self._random: RandomState | None = None

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        steps = trainer.estimated_stepping_batches
        if not math.isfinite(steps) or steps < 1:
            raise RunError("the Trainer has no end: give it max_steps, or max_epochs and data with a length")
        self._steps = int(steps)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *hook_arguments: Any) -> None:
        self._random = _random_state()
        last = last_step(self.context, self._steps)
        if trainer.global_step >= last and not trainer.should_stop:
            trainer.should_stop = True
            if last < self._steps:
                trainer.save_checkpoint(self.context.folder / CHECKPOINT)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.sanity_checking or not self._steps:
            return
        if self._random is not None:
            _set_random_state(self._random)
        self.last_metrics = numbers(trainer.callback_metrics)
        report(self.context, min(1.0, trainer.global_step / self._steps), self.last_metrics)

    def state_dict(self) -> dict[str, Any]:
        return {"random": self._random}


class Resumable:
    """DataLoader that a checkpoint can resume within an epoch: in the same order, each batch once.

    Args:
        loader: Any DataLoader; its length and attributes are passed on.
    """

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self._begun: RandomState = _random_state()
        self._done = 0
        self._restored: dict[str, Any] | None = None

    def __len__(self) -> int:
        return len(self._loader)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._loader, name)

    def __iter__(self) -> Iterator[Any]:
        restored, self._restored, self._done = self._restored, None, 0
        if restored is not None:
            whole = restored["done"] >= len(self)
            _set_random_state(restored["random"] if whole else restored["begun"])
        self._begun = _random_state()
        batches = iter(self._loader)
        if restored is not None and not whole:
            for _ in range(restored["done"]):
                next(batches)
                self._done += 1
            _set_random_state(restored["random"])
        for batch in batches:
            self._done += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the epoch, for a checkpoint."""
        return {"begun": self._begun, "done": self._done, "random": _random_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a checkpoint with the next pass."""
        self._restored = state


def fit(
    trainer: Trainer,
    module: LightningModule,
    context: Context,
    train: Any = None,
    validation: Any = None,
    **fit_arguments: Any,
) -> dict[str, float]:
    """Train for the budget, from the checkpoint of the promoted trial if there is one, and validate.

    Args:
        trainer: Lightning's trainer, such as `trainer(context, …)` returns.
        module: Module to train; it logs its objective by `self.log("val_loss", …)` in `validation_step`.
        context: Context of the evaluation.
        train: DataLoader of the training. With other data, or several ranks, a promotion within an epoch continues with
            batches from the start of the epoch.
        validation: DataLoader of the validation.
        fit_arguments: Further arguments of `trainer.fit`, such as `datamodule`.

    Returns:
        The trainer's `callback_metrics` at the end.

    Raises:
        Pruned: The learning curve passed a bound.
        RunError: There was no validation, or the trainer has no end.
    """
    reported = Report(context)
    trainer.callbacks.insert(0, reported)
    if isinstance(train, torch.utils.data.DataLoader) and trainer.world_size == 1:
        train = Resumable(train)
    before = None if context.resume_folder is None else context.resume_folder / CHECKPOINT
    if before is not None and before.is_file():
        fit_arguments["ckpt_path"] = str(before)
        if "weights_only" in inspect.signature(trainer.fit).parameters:  # since Lightning 2.6
            fit_arguments["weights_only"] = True  # a run folder may come from a stranger
    trainer.fit(module, train, validation, **fit_arguments)
    if reported.last_metrics is None:
        remedy = "give the Trainer validation data, and log the objective in validation_step"
        raise RunError(f"Lightning validated nothing: {remedy}")
    return reported.last_metrics


def _random_state() -> RandomState:
    name, key, *position = np.random.get_state()
    state: RandomState = {"python": random.getstate(), "numpy": [name, np.asarray(key).tolist(), *position]}
    state["torch"] = torch.get_rng_state()
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def _set_random_state(state: Mapping[str, Any]) -> None:
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, key, *position = state["numpy"]
    np.random.set_state((name, np.array(key, dtype=np.uint32), *position))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
