"""Which trainings of GPTs may be a pack, and of how many it pays; plain arithmetic, no torch until they are trained."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from evo_tune.errors import EvoTuneError
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


MOST_TOKENS, MOST_WIDTH, AT_ONCE = 512, 64, 8
"""Of a step and a model from which on a CPU is as busy with one as with several; and how many are one below."""


def _pays(task: LanguageTask, device: str) -> int:
    """Return how many to train as one: by what benchmarks/pack.py measured on a CPU; on others nothing is known yet."""
    if _key(task) is None or device.split(":")[0] != "cpu":
        return 1
    small = task.batch <= MOST_TOKENS and task.config.width <= MOST_WIDTH
    return AT_ONCE if small else 1
