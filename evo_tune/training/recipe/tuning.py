"""Options of a fine-tuning: base model, text and cost."""

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from evo_tune.options.declare import fixed_option, option, redeclare
from evo_tune.training.recipe.data.corpus import TextOptions
from evo_tune.training.recipe.data.tables import data_hash
from evo_tune.training.recipe.data.texts import python_paragraphs, read_text, split_text
from evo_tune.training.recipe.hardware.computing import tuning_work
from evo_tune.training.recipe.hardware.memory import NewWeights, tuning_memory
from evo_tune.training.recipe.models.base import BaseModel, read_base
from evo_tune.training.recipe.optim.optimisation import OptimizerOptions
from evo_tune.training.recipe.plan import TextBudget, TrainingOptions

# Recipe of the small base. It is trained on one CPU thread, so that every slot gets the same model.
SMALL: dict[str, Any] = {
    "version": 1,
    "model": {"vocab_size": 256, "context": 128, "depth": 2, "width": 64, "heads": 4, "init": "fan_in"},
    "windows": 5000,
    "batch": 4,
    "lr": 4e-3,
    "weight_decay": 0.1,
    "seed": 0,
}

# First letters of the topics of the built-in text that the small base is tuned to; it is trained on the others.
SUBJECTS = ("bltin", "dict", "format", "sequence", "string", "types")


@lru_cache
def built_in_text(*, tuning: bool) -> bytes:
    """Return the part of Python's own documentation for tuning the small base, or the part for training it."""
    paragraphs = python_paragraphs(first=SUBJECTS)
    return "\n\n".join(text for text, topic in paragraphs.items() if topic.startswith(SUBJECTS) == tuning).encode()


def read_tuning_text(data: str, context: int) -> tuple[bytes, bytes, bytes]:
    """Return the text to train on, the validation text and the test text.

    Args:
        data: File, folder or glob; empty: the part of Python's own documentation not used to train the small base.
        context: Tokens per window, counted as bytes.

    Raises:
        OptionError: The text is too short.
        RecipeError: The text is missing or unreadable.
    """
    return split_text(read_text(data) if data else built_in_text(tuning=True), context, data)


def small_base_key() -> str:
    """Return the SHA-256 of the recipe and the text of the small base."""
    digest = hashlib.sha256(json.dumps(SMALL, sort_keys=True).encode())
    digest.update(built_in_text(tuning=False))
    return digest.hexdigest()


# Default budget, in tokens.
TOKENS = 65536


@dataclass(frozen=True, kw_only=True)
class TuningOptions(TextBudget, TrainingOptions):
    """Base model, text and trained weights."""

    data: str = fixed_option("", help="Text: file, folder or glob; empty: a part of Python's own documentation")
    base: str = fixed_option("", help="Folder of the base model; empty: a small one, trained once")
    method: Literal["lora", "dora", "adapter"] = fixed_option(
        "lora", help="Kind of weights trained on top of the base"
    )  # a gene of SPACE
    targets: str = fixed_option(
        "", help="Tuned layers, instead of a gene: qv, attention, all-linear, or names with * and commas"
    )
    context: int | None = redeclare(TextOptions, "context")
    weight_decay: float = option(0.0, bounds="[0, 1]", gene="log(1e-4,0.3)", help="Weight decay of the new weights")
    beta2: float = redeclare(OptimizerOptions, "beta2", 0.999, reason="Adam's own default, which suits a tuning")
    eval_tokens: int = fixed_option(16384, bounds="[1, inf)", help="Number of held-out tokens scored at the end")

    @property
    def base_description(self) -> BaseModel:
        """The base, read without torch; the small base may not be trained yet."""
        return read_base(self.base) if self.base else BaseModel(Path(), {"model": SMALL["model"]}, {})

    @property
    def window(self) -> int:
        """Tokens per window."""
        return self.base_description.window(self.context)

    def work(self, new: NewWeights, batch: int) -> dict[str, float]:
        """Return the work of a step.

        Args:
            new: Weights that are trained.
            batch: Windows per step.
        """
        judged = self.eval_tokens * (self.evaluations / 4 + 1.0)
        return tuning_work(self.base_description, new, self.window, batch, judged)

    def windows(self, new: NewWeights, batch: int) -> int:
        """Return the number of windows in the full training.

        Args:
            new: Weights that are trained.
            batch: Windows per step.

        Raises:
            OptionError: The budget is in seconds, and the cost of a step was not measured.
        """
        if self.seconds is not None:
            return batch * max(1, round(self.steps_in_time(self.work(new, batch))))
        if self.flops is None:
            return max(1, round((self.tokens or TOKENS) / self.window))
        base = self.base_description
        return max(1, round(self.flops / base.flops_per_token(self.window, new.count(base)) / self.window))

    def estimate(self, new: NewWeights, batch: int) -> dict[str, float]:
        """Return the figures known before a tuning: trainable_params, gpu_memory, steps, tokens, flops and seconds.

        gpu_memory is the GPU memory per rank, in bytes, that a step needs in one pass (or in passes of micro_batch), in
        bf16 unless precision says otherwise. seconds is left out if the cost of a step was not measured.

        Args:
            new: Weights that are trained.
            batch: Windows per step.
        """
        base, pass_windows = self.base_description, self.pass_size(batch, self.window)
        memory = tuning_memory(base, new, self.window, pass_windows, **self.gpu_setup)
        windows = self.windows(new, batch)
        steps, tokens = -(-windows // batch), windows * self.window
        return {
            "trainable_params": float(new.count(base)),
            "gpu_memory": memory.peak - memory.context,
            "steps": float(steps),
            "tokens": float(tokens),
            "flops": tokens * base.flops_per_token(self.window, new.count(base)),
            **self.seconds_estimate(self.work(new, batch), steps),
        }

    def fingerprint(self) -> str:
        """Return the SHA-256 of the text, its split, and the base (its files, or the recipe of the small base)."""
        parts = read_tuning_text(self.data, self.window)
        base = self.base_description.sha256() if self.base else small_base_key()
        return data_hash(f"{'+'.join(str(len(part)) for part in parts)}:{base}:".encode(), *parts)
