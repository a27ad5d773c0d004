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
from evo_tune.training.notes import training_notes
from evo_tune.training.recipe.models.base import read_base
from evo_tune.training.session import train
from evo_tune.training.training_run import Run
from evo_tune.training.tuned import TuningPlan, TuningTraining, evaluate_windows, rebuild_tuned_model, split_windows
from evo_tune.training.tuning.pretrained import TuningText, load_pretrained, save_merged
from evo_tune.training.tuning.weights import LoRA, load_adapter, save_adapter, trainable_weights

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
        found = _written(folder / "averaged", task, run, average.module, metrics, merged=merged, with_base=with_base)
        metrics["val_loss_ema"] = found["val_loss"]
    return _written(folder, task, run, training_run.model, metrics, merged=merged, with_base=with_base)


def _written(
    folder: Path, task: TuningPlan, run: Run, network: nn.Module, metrics: Mapping[str, float], **how: bool
) -> dict[str, float]:
    """Write a tuned model and the notes on it, and return its metrics."""
    _write(folder, task, trainable_weights(network), **how)
    text = TuningTraining(task, run).whole_text
    judged = {**metrics, **_judged(load_exported(folder, task), text, run)}
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
    first, others = (evaluate_windows(model, part, **how) for part in split_windows(text.held_out_windows()))
    return first + others


def _judged(model: nn.Module, text: TuningText, run: Run) -> dict[str, float]:
    """Return loss and bits per byte on the held-out part, and on the test part if the run has one."""
    found: dict[str, float] = {}
    model = model.to(run.device)
    with reproducible(run.threads, run.device):
        for loss, bits, part in (("val_loss", "val_bpb", text), ("test_loss", "test_bpb", text.on_test_set())):
            if loss == "val_loss" or run.test:
                judged = evaluate_text(model, part, device=run.device)
                size = judged.count / part.tokens_per_byte
                found |= {loss: judged.loss, bits: judged.nll / math.log(2.0) / size}
    return found
