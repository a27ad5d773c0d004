"""The training of one trial in its own copy of the project, and the judge: a program that measures what it wrote."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from evo_tune.genome.trial import Objective, TrialCode
from evo_tune.genome.values import Genome
from evo_tune.plugins.context import Context
from evo_tune.plugins.patches.project import check_protected, remove_copy, write_copy
from evo_tune.plugins.scripts.script import Script

# Folders of the copies in that of the trial.
COPY, JUDGE_COPY = "project", "judge"


def run_trial(script: Script, judge: Script | None, genome: Genome, context: Context) -> dict[str, float]:
    """Train once, and return the metrics; those of the judge replace the training's own.

    With patches, both run in copies of the project, the judge in one without patches. The copies are removed.

    Args:
        script: Command of the training.
        judge: Command that measures the objectives. Its {folder} is the trial's folder if the training's command names
            that, else the folder where the training ran. None: the training's own metrics count.
        genome: Values of the genes.
        context: Context of the evaluation.

    Raises:
        RunError: A program failed, or the training changed a protected file.
        PluginError: The code of the run has changed.
    """
    copies: list[Path] = []
    try:
        place = listing = None
        if context.code is not None:
            run_folder, place = run_folder_of(context), context.folder.absolute() / COPY
            copies.append(place)
            listing = write_copy(run_folder, context.code, genome, place)
        training = context if judge is None else _part_of(context, context.folder, ())
        metrics = script.run(genome, training, place)
        if listing is not None and place is not None:
            check_protected(listing, place)
        if judge is None:
            return metrics
        output, clean = context.folder if "folder" in script.command.names or place is None else place, None
        if context.code is not None:
            clean = context.folder.absolute() / JUDGE_COPY
            copies.append(clean)
            write_copy(run_folder_of(context), TrialCode(context.code.project), genome, clean)
        own = {objective.metric for objective in context.objectives}
        judged = judge.run(genome, _part_of(context, output, context.objectives), clean)
        return {**{name: value for name, value in metrics.items() if name not in own}, **judged}
    finally:
        for copy in copies:
            remove_copy(copy)


def run_folder_of(context: Context) -> Path:
    """Return the folder of the run that an evaluation belongs to."""
    return Path(os.path.abspath(context.folder)).parents[1]


def _part_of(context: Context, folder: Path, objectives: Sequence[Objective]) -> Context:
    """Return the context of a part of an evaluation, with its own folder and objectives, and no bounds."""
    return Context(
        device=context.device,
        threads=context.threads,
        seed=context.seed,
        budget=context.budget,
        folder=folder,
        resume_folder=context.resume_folder,
        objectives=objectives,
        test=context.test,
        code=context.code,
    )
