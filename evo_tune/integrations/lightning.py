"""Lightning's `Trainer` as an evaluator: curves, pruning, rungs.

    def evaluate(genome, context, *, steps: int = 1000):
        made = trainer(context, max_steps=steps, val_check_interval=100)
        return fit(made, Model(genome), context, train_loader, validation_loader)

`SUPPORTS = ["budget", "curve"]` may stand beside it: a part of the training is its first steps, under the schedule of
the full one where the module asks `self.trainer.estimated_stepping_batches` for its length, and the next part goes on
from the checkpoint. Several GPUs a training: `integrations.ranks`. Importing this imports Lightning.
"""

from __future__ import annotations

import inspect
import math
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from evo_tune.errors import RunError
from evo_tune.integrations.needed import needing
from evo_tune.integrations.reporting import last_step, numbers, place, report
from evo_tune.plugins.context import Context

with needing("evo_tune.integrations.lightning", "lightning"):
    import torch
    from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything

__all__ = ["Report", "Resumable", "fit", "trainer"]

CHECKPOINT = "rung.ckpt"
"""What a rung leaves in its folder."""

Random = dict[str, Any]
"""State of the generators of random numbers, as plain data and tensors."""


def trainer(context: Context, **fixed: Any) -> Trainer:
    """Return a trainer on the evaluation's device, all seeded: make it before the module.

    Args:
        context: The evaluation's: its device, seed and folder.
        fixed: Other arguments of Lightning's `Trainer`. Unless they say otherwise nothing is saved but what a rung
            goes on from, nothing is logged elsewhere and no progress bar drawn.
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
    """Reports what each validation says, stops where the budget ends and saves what goes on; `fit` adds it.

    Validations leave the random numbers of the training alone, so that a rung, which ends with one of its own, is the
    training that had none there.

    Args:
        context: The evaluation's.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.validated: dict[str, float] | None = None
        """What the last validation said, of the last step or one before it."""
        self._steps = 0
        self._random: Random | None = None

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        steps = trainer.estimated_stepping_batches
        if not math.isfinite(steps) or steps < 1:
            raise RunError("the Trainer has no end: give it max_steps, or max_epochs and data that has a length")
        self._steps = int(steps)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *more: Any) -> None:
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
        self.validated = numbers(trainer.callback_metrics)
        report(self.context, min(1.0, trainer.global_step / self._steps), self.validated)

    def state_dict(self) -> dict[str, Any]:
        return {"random": self._random}


class Resumable:
    """A DataLoader that can be gone on with in the midst of an epoch: the same order, each batch once.

    Args:
        loader: Any DataLoader; its length and attributes are this one's.
    """

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self._begun: Random = _random_state()
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
        """Return where the epoch stands, for a checkpoint."""
        return {"begun": self._begun, "done": self._done, "random": _random_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there with the next pass."""
        self._restored = state


def fit(
    trainer: Trainer, module: LightningModule, context: Context, train: Any = None, validation: Any = None, **more: Any
) -> dict[str, float]:
    """Train for the budget, from where the trial before left it, and return what the validation at its end says.

    Args:
        trainer: Lightning's, such as `trainer(context, …)` makes.
        module: What is trained; it logs what it is judged by, `self.log("val_loss", …)` in `validation_step`.
        context: The evaluation's.
        train: The DataLoader of the training. With anything else, and with several ranks, a rung that ends within an
            epoch goes on with batches from the epoch's start.
        validation: The DataLoader of the validation.
        more: Other arguments of `trainer.fit`, such as `datamodule`.

    Returns:
        The trainer's `callback_metrics` at the end.

    Raises:
        Pruned: A bound fixed at birth is passed.
        RunError: Nothing was validated, or the trainer has no end.
    """
    told = Report(context)
    trainer.callbacks.insert(0, told)
    if isinstance(train, torch.utils.data.DataLoader) and trainer.world_size == 1:
        train = Resumable(train)
    before = None if context.resume_folder is None else context.resume_folder / CHECKPOINT
    if before is not None and before.is_file():
        more["ckpt_path"] = str(before)
        if "weights_only" in inspect.signature(trainer.fit).parameters:  # from Lightning 2.6 on
            more["weights_only"] = True  # a run's folder may be a stranger's
    trainer.fit(module, train, validation, **more)
    if told.validated is None:
        raise RunError(
            "Lightning validated nothing: give the Trainer validation data, and log in validation_step what counts"
        )
    return told.validated


def _random_state() -> Random:
    name, key, *rest = np.random.get_state()
    state: Random = {"python": random.getstate(), "numpy": [name, np.asarray(key).tolist(), *rest]}
    state["torch"] = torch.get_rng_state()
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def _set_random_state(state: Mapping[str, Any]) -> None:
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, key, *rest = state["numpy"]
    np.random.set_state((name, np.array(key, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
