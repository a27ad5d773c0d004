"""Write a tuned model to a folder: merged in the format of its base, or the adapter alone; notes and README.md."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from evo_tune.recipe.models.base import Base
from evo_tune.training.course import Course
from evo_tune.training.tuned import TuningTask, tuned_model
from evo_tune.training.tuning.pretrained import save_merged
from evo_tune.training.tuning.weights import Adapters, LoRA, save_adapter, trained_weights

README = """# A language model tuned by evo-tune

{snippet}

fine_tuning.json has the genome, the options and the metrics: {before:.4f} nats per token on held-out text before,
{after:.4f} after ({bpb:.3f} bits per byte).
"""

MERGED_GPT = """    from evo_tune.training import GPT
    model = GPT.load({folder!r})
    print(model.generate("The ", 200))"""

MERGED_HUGGING_FACE = """    from transformers import AutoModelForCausalLM, AutoTokenizer
    model = AutoModelForCausalLM.from_pretrained({folder!r})
    tokenizer = AutoTokenizer.from_pretrained({folder!r})
    prompt = tokenizer("The ", return_tensors="pt", return_token_type_ids=False)
    print(tokenizer.decode(model.generate(**prompt, max_new_tokens=50)[0]))"""

ADAPTER = """    from evo_tune.recipe import read_base
    from evo_tune.training import load_adapter, load_pretrained
    model = load_pretrained(read_base({base!r}))
    load_adapter(model, {folder!r})

The model maps tokens to logits. The adapter belongs to this base and to no other."""


def write_tuned(
    folder: Path | str, task: TuningTask, course: Course, *, merged: bool, with_base: bool, notes: Mapping[str, Any]
) -> None:
    """Write a tuned model in float32 for any training precision; its moving average, if any, in averaged/.

    Args:
        folder: Folder to write; created if missing.
        task: Plan of the tuning; adapters cannot be merged and are always written alone.
        course: The finished training run.
        merged: Whether to merge the learned weights into the base and write the base's format.
        with_base: Whether to copy the base of an adapter to base/.
        notes: Plain data for fine_tuning.json, including the metrics.
    """
    folder, average = Path(folder), course.trainer.averaged
    model = tuned_model(task, trained_weights(course.model))
    _write(folder, model, task.base, task.new, merged=merged, with_base=with_base, notes=notes)
    if average is not None:
        loss = notes["metrics"]["val_loss_ema"]
        told = {**notes["metrics"], "val_loss": loss}
        told["val_bpb"] *= loss / notes["metrics"]["val_loss"]
        model = tuned_model(task, trained_weights(average.module))
        about = {**notes, "metrics": told}
        _write(folder / "averaged", model, task.base, task.new, merged=merged, with_base=with_base, notes=about)


def _write(
    folder: Path,
    model: nn.Module,
    base: Base,
    new: LoRA | Adapters,
    *,
    merged: bool,
    with_base: bool,
    notes: Mapping[str, Any],
) -> None:
    origin = str(base.folder)
    if merged and isinstance(new, LoRA):
        save_merged(model, base, folder)
        snippet = MERGED_GPT if base.gpt else MERGED_HUGGING_FACE
    else:
        if with_base:
            origin = str(shutil.copytree(base.folder, folder / "base"))
        save_adapter(model, new, folder, base=origin, base_sha256=base.sha256())
        snippet = ADAPTER
    (folder / "fine_tuning.json").write_text(json.dumps(notes, indent=2) + "\n", encoding="utf-8")
    metrics = notes["metrics"]
    text = README.format(
        snippet=snippet.format(folder=str(folder), base=origin),
        before=metrics["base_val_loss"],
        after=metrics["val_loss"],
        bpb=metrics["val_bpb"],
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
