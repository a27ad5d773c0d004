"""What a run learns from: earlier runs, copied into its manifest as plain data, so that it needs nothing else.

Knows nothing of strategies: what they make of it is theirs.
"""

from __future__ import annotations

from evo_tune.errors import UsageError
from evo_tune.genome.history import History
from evo_tune.genome.lessons import Lesson, digest
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Objective
from evo_tune.store.lessons import TRIALS, Learned
from evo_tune.store.run import Run

__all__ = ["history_of", "learned_from"]


def learned_from(run: Run, objective: Objective) -> Learned:
    """Return what is to be learned from a run.

    Args:
        run: It.
        objective: The one of the run that learns, whose metric the other must have measured.

    Raises:
        UsageError: There is nothing to learn from it.
    """
    found = [
        (objective.loss(trial.outcome.metrics), trial.genome)
        for trial in run.ranked()
        if objective.metric in trial.outcome.metrics
    ]
    if len(found) < 2:
        raise UsageError(
            f"--learn-from {run.name}: it has {len(found)} trainings in full with the metric {objective.metric!r}: "
            "expected 2 or more; leave it out, or learn from another run"
        )
    found.sort(key=lambda row: row[0])
    if len(found) > TRIALS:
        half, step = TRIALS // 2, (len(found) - TRIALS // 2) / (TRIALS // 2)
        found = [*found[:half], *(found[half + int(step * place)] for place in range(half))]
    genomes, losses = [genome for _, genome in found], [loss for loss, _ in found]
    return Learned(name=run.name, sha256=digest(genomes, losses), genomes=genomes, losses=losses)


def history_of(run: Run, space: SearchSpace) -> History:
    """Return the history of a run in which nothing is born yet, with what it has learned from.

    Args:
        run: It.
        space: Its space, repair included.
    """
    lessons = [Lesson.of(one["name"], one["genomes"], one["losses"], space) for one in run.manifest.learned]
    return History(space, run.objectives, run.constraints, [one for one in lessons if len(one.losses)])
