"""A tuning as options: its base, its text, and what it takes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from evo_tune.errors import OptionError
from evo_tune.options.declare import option
from evo_tune.recipe.data.corpus import python_paragraphs, read_text, split_text
from evo_tune.recipe.data.tables import hash_of
from evo_tune.recipe.hardware.memory import NewWeights, tuning_memory
from evo_tune.recipe.models.base import Base, read_base
from evo_tune.recipe.plan import ToZero, Training

SMALL: dict[str, Any] = {
    "version": 1,
    "model": {"vocab_size": 256, "context": 128, "depth": 2, "width": 64, "heads": 4, "init": "fan_in"},
    "windows": 5000,
    "batch": 4,
    "lr": 4e-3,
    "weight_decay": 0.1,
    "seed": 0,
}
"""How the small base is trained: always on one thread of a CPU, so that every slot has the same."""

SUBJECTS = ("bltin", "dict", "format", "sequence", "string", "types")
"""First letters of the topics of the built-in text that the small base is tuned to; it is trained on the others."""


@lru_cache
def built_in_text(*, tuning: bool) -> bytes:
    """Return one of the two parts of the text that Python brings along: to tune the small base to, or to make it of."""
    paragraphs = python_paragraphs(first=SUBJECTS)
    return "\n\n".join(text for text, topic in paragraphs.items() if topic.startswith(SUBJECTS) == tuning).encode()


def read_tuning_text(data: str, context: int) -> tuple[bytes, bytes, bytes]:
    """Return the text to train on, the validation text and the test text.

    Args:
        data: File, folder or glob; empty: the part of Python's own documentation that the small base never saw.
        context: Tokens in a window, taken for bytes.

    Raises:
        OptionError: It is too short.
        RecipeError: It is missing or unreadable.
    """
    return split_text(read_text(data) if data else built_in_text(tuning=True), context, data)


def planned_small_base() -> Base:
    """Return what the small base will be, which need not have been trained yet."""
    return Base(Path(), {"model": SMALL["model"]}, {})


def small_base_key() -> str:
    """Return the SHA-256 of how the small base is made, and of what."""
    digest = hashlib.sha256(json.dumps(SMALL, sort_keys=True).encode())
    digest.update(built_in_text(tuning=False))
    return digest.hexdigest()


TOKENS = 65536
"""Default budget."""


@dataclass(frozen=True, kw_only=True)
class Tuning(ToZero, Training):
    """The base, the text, and what is trained."""

    data: str = option("", gene=None, help="File, folder or glob; empty: a part of Python's own documentation")
    base: str = option("", gene=None, help="Folder of the model to begin from; empty: a small one, trained once")
    method: Literal["lora", "dora", "adapter"] = option(
        "lora", gene=None, help="What is trained beside the base"
    )  # a gene of SPACE
    targets: str = option(
        "", gene=None, help="Which layers, instead of a gene: qv, attention, all-linear or names with * and commas"
    )
    context: int | None = option(None, bounds="[2, inf)", unit="tokens", gene=None, help="A window; none: up to 512")
    tokens: int | None = option(None, bounds="[1, inf)", gene=None, help="Budget in tokens of text; 65536 if no other")
    flops: float | None = option(None, bounds="(0, inf)", gene=None, help="Budget in FLOPs")
    seconds: float | None = option(None, bounds="(0, 1e9]", unit="s", gene=None, help="Budget in time, by timed steps")
    weight_decay: float = option(0.0, bounds="[0, 1]", gene="log(1e-4,0.3)", help="Of the new weights")
    # Not 0.95, as for language models from scratch: tuning keeps Adam's own default.
    beta2: float = option(
        0.999, bounds="[0, 0.99999]", gene="0.95|0.98|0.99|0.999", help="Decay of Adam's second moment"
    )
    eval_tokens: int = option(16384, bounds="[1, inf)", gene=None, help="Held-out tokens that are scored at the end")

    def check(self) -> None:
        """Require one budget at most.

        Raises:
            OptionError: There are two.
        """
        given = [name for name in ("tokens", "flops", "seconds") if getattr(self, name) is not None]
        if len(given) > 1:
            raise OptionError(f"-o {given[0]} and -o {given[1]} are both given: give one budget, or none")
        if self.seconds is not None and self.ranks > 1:
            raise OptionError("-o ranks and -o seconds are both given: give flops or tokens beside ranks")

    @property
    def planned(self) -> Base:
        """The base, read without torch; the small one need not have been trained yet."""
        return read_base(self.base) if self.base else planned_small_base()

    @property
    def window(self) -> int:
        """Tokens in a window."""
        return self.planned.window(self.context)

    def windows(self, trainable: int) -> int | None:
        """Return the number of windows in the full training; None: only a clock can tell.

        Args:
            trainable: Number of trained weights.
        """
        if self.seconds is not None:
            return None
        if self.flops is None:
            return max(1, round((self.tokens or TOKENS) / self.window))
        return max(1, round(self.flops / self.planned.flops_per_token(self.window, trainable) / self.window))

    def spent(self, trainable: int) -> dict[str, float]:
        """Return the tokens and flops of the full training; nothing where only a clock can tell."""
        windows = self.windows(trainable)
        if windows is None:
            return {}
        tokens = windows * self.window
        return {"tokens": float(tokens), "flops": tokens * self.planned.flops_per_token(self.window, trainable)}

    def known(self, new: NewWeights, batch: int) -> dict[str, float]:
        """Return what is known before a tuning: trainable_params, gpu_memory, tokens and flops.

        gpu_memory is what a GPU of any size would hold of it, its batch in one pass (or in passes of the option), in
        bf16 unless told otherwise, bytes; of several ranks', each.

        Args:
            new: What is trained.
            batch: Windows in a step.
        """
        base, windows = self.planned, -(-batch // self.ranks)
        if isinstance(self.micro_batch, int):
            windows = min(windows, max(1, self.micro_batch // self.window))
        predicted = tuning_memory(
            base,
            new,
            self.window,
            windows,
            **self.on_gpu,
        )
        memory, trainable = predicted.peak - predicted.context, new.count(base)
        return {"trainable_params": float(trainable), "gpu_memory": memory, **self.spent(trainable)}

    def fingerprint(self) -> str:
        """Return the SHA-256 of the text, how it is split, and the base: its files, or how the small one is made."""
        parts = read_tuning_text(self.data, self.window)
        base = self.planned.sha256() if self.base else small_base_key()
        return hash_of(f"{'+'.join(str(len(part)) for part in parts)}:{base}:".encode(), *parts)
