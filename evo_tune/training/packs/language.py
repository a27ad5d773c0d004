"""Which trainings of GPTs may be a pack, and of how many it pays; plain arithmetic, no torch until they are trained."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from evo_tune.errors import EvoTuneError
from evo_tune.training.hardware.flops import flops_per_token
from evo_tune.training.language import LanguageTask

if TYPE_CHECKING:
    from evo_tune.training.session import Run

    PackKey = Callable[[Mapping[str, Any], Any], str | None]
    PackPays = Callable[[Mapping[str, Any], Any, str], int]
    Ends = list[dict[str, float] | BaseException]
    EvaluatePack = Callable[[Sequence[Mapping[str, Any]], Sequence[Run], Sequence[Any]], Ends]

__all__ = ["language_pack"]


def language_pack(task: Callable[..., LanguageTask]) -> tuple[PackKey, PackPays, EvaluatePack]:
    """Return what an evaluator of GPTs needs so that its trainings may be packed.

    Args:
        task: Makes a task of a genome, options and a device, which may be left out.

    Returns:
        pack_key(genome, options), which is the same for genomes that may be one pack, None for those that may be in
        none; pack_pays(genome, options, device), how many of such are worth training as one there, 1 where it does not
        pay; and evaluate_pack(genomes, contexts, options), which does it (see `train_pack`).
    """

    def pack_key(genome: Mapping[str, Any], options: Any) -> str | None:
        try:
            return _key(task(genome, options))
        except EvoTuneError:  # what is wrong with it is said where it is trained
            return None

    def pack_pays(genome: Mapping[str, Any], options: Any, device: str) -> int:
        try:
            return _pays(task(genome, options, device), device)
        except EvoTuneError:
            return 1

    def evaluate_pack(genomes: Sequence[Mapping[str, Any]], contexts: Sequence[Run], options: Sequence[Any]) -> Ends:
        from evo_tune.training.building import language_course
        from evo_tune.training.packs.session import train_pack

        members = zip(genomes, options, contexts, strict=True)
        return train_pack([task(one, own, run.device) for one, own, run in members], contexts, language_course)

    return pack_key, pack_pays, evaluate_pack


def _key(task: LanguageTask) -> str | None:
    """Return what tasks of one pack have in common: the model's shape and the steps', and the kind of recipe."""
    options, phases = task.options, task.phases()
    alone = (
        phases is None or len(phases) > 1,  # how long it is follows from a clock, or its shape changes midway
        options.ranks > 1,
        options.compile,
        options.recompute is not None,
        options.precision == "fp16",  # whose loss has a scale of its own
        options.optimizer_name == "sgd",
    )
    if phases is None or any(alone):
        return None
    only = phases[0]
    alike = {
        "model": replace(only.config, dropout=0.0).to_json(),
        "steps": [only.windows, only.per_step, only.ramp and [only.ramp.start, only.ramp.fraction]],
        "optimizer": options.optimizer_name,
        "computing": [options.precision, options.deterministic, options.micro_batch],
        "ema": options.ema is not None,
        "vocab": options.vocab,
    }
    return json.dumps(alike, sort_keys=True)


MOST, LARGEST = 8, 100_000
"""Trainings in a pack on a CPU, and tokens of a step times width up to which it pays.

By benchmarks/pack.py eight as one are 2.3 times as fast at 25,000, 1.9 at 33,000, 1.4 at 50,000, 1.3 at 100,000, and
0.9 times at 400,000: products of that size keep a core busy by themselves, out of its caches.
"""

LAUNCH, SLOWEST = 5e-6, 0.3 * 65e12
"""Seconds that a GPU's host needs for a kernel, and FLOP/s that the slowest of the GPUs in `chips` reaches, a T4.

No pack has been measured on a card. A step of a pack is about 110 kernels and 67 for each block, however many members
it has (by count); so many as keep the slowest card busy meanwhile cost no time.
"""


def _pays(task: LanguageTask, device: str) -> int:
    """Return how many to train as one: by measure on a CPU, by arithmetic on a GPU."""
    if _key(task) is None:
        return 1
    tokens = max(task.batch, task.config.context)
    if device.startswith("cuda"):
        meanwhile = LAUNCH * (110 + 67 * task.config.depth) * SLOWEST
        return max(1, min(MOST, int(meanwhile / (tokens * flops_per_token(task.config)))))
    return MOST if device.startswith("cpu") and tokens * task.config.width <= LARGEST else 1
