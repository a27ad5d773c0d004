"""Write a tuned model to a folder: merged in the format of its base, or the adapter alone; and the notes on it."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from evo_tune.training.evaluation import Evaluation
from evo_tune.training.hardware.device import reproducible
from evo_tune.training.notes import notes_of
from evo_tune.training.recipe.models.base import read_base
from evo_tune.training.session import train
from evo_tune.training.training_run import Run
from evo_tune.training.tuned import Tuned, TuningTask, divided_windows, judge_windows, tuned_model
from evo_tune.training.tuning.pretrained import TuningText, load_pretrained, save_merged
from evo_tune.training.tuning.weights import LoRA, load_adapter, save_adapter, trained_weights

NOTES = "fine_tuning.json"


def export_tuned(task: TuningTask, run: Run, folder: Path | str, *, merged: bool, with_base: bool) -> dict[str, float]:
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
    training_run, metrics = train(task, run, Tuned)
    average, folder = training_run.trainer.averaged, Path(folder)
    if average is not None:
        found = _written(folder / "averaged", task, run, average.module, metrics, merged=merged, with_base=with_base)
        metrics["val_loss_ema"] = found["val_loss"]
    return _written(folder, task, run, training_run.model, metrics, merged=merged, with_base=with_base)


def _written(
    folder: Path, task: TuningTask, run: Run, network: nn.Module, metrics: Mapping[str, float], **how: bool
) -> dict[str, float]:
    """Write a tuned model and the notes on it, and return its metrics."""
    _write(folder, task, trained_weights(network), **how)
    text = Tuned(task, run).whole_text
    judged = {**metrics, **_judged(load_written(folder, task), text, run)}
    notes = notes_of(task, run, "fp32", judged, judged={"block": text.context, "count": text.scored})
    (folder / NOTES).write_text(json.dumps(notes, indent=2) + "\n", encoding="utf-8")
    return judged


def _write(folder: Path, task: TuningTask, trained: Mapping[str, Tensor], *, merged: bool, with_base: bool) -> None:
    model, base = tuned_model(task, trained), task.base
    if merged and isinstance(task.new, LoRA):
        save_merged(model, base, folder)
        return
    origin = str(base.folder)
    if with_base:
        origin = str(shutil.copytree(base.folder, folder / "base"))
    save_adapter(model, task.new, folder, base=origin, base_sha256=base.sha256())


def load_written(folder: Path, task: TuningTask) -> nn.Module:
    """Return the model that was written for a tuning."""
    if not (folder / "adapter.json").exists():
        return load_pretrained(read_base(folder))
    model = load_pretrained(task.base)
    load_adapter(model, folder)
    return model.eval()


def judge_text(model: nn.Module, text: TuningText, **how: Any) -> Evaluation:
    """Evaluate a model on the windows that judge a tuning; see `judge_windows`."""
    first, others = (judge_windows(model, part, **how) for part in divided_windows(text.to_judge()))
    return first + others


def _judged(model: nn.Module, text: TuningText, run: Run) -> dict[str, float]:
    """Return loss and bits per byte on the held-out part, and on the test part if the run has one."""
    found: dict[str, float] = {}
    model = model.to(run.device)
    with reproducible(run.threads, run.device):
        for loss, bits, part in (("val_loss", "val_bpb", text), ("test_loss", "test_bpb", text.tested())):
            if loss == "val_loss" or run.test:
                judged = judge_text(model, part, device=run.device)
                size = judged.count / part.tokens_per_byte
                found |= {loss: judged.loss, bits: judged.nll / math.log(2.0) / size}
    return found
