"""The history of a run as its strategy sees it, with the earlier runs that are copied into its manifest.

This module does not know strategies.
"""

from __future__ import annotations

from evo_tune.errors import UsageError
from evo_tune.genome.history import Lesson, RunHistory, results_digest
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Objective
from evo_tune.store.manifest import MOST_LEARNED, Learned
from evo_tune.store.run import Run, Widening


def learned_from(run: Run, objective: Objective) -> Learned:
    """Return the results of an earlier run for the manifest of a new run.

    Args:
        run: Earlier run.
        objective: Objective of the new run; the earlier run must have measured its metric.

    Raises:
        UsageError: The earlier run has fewer than two full trainings with this metric.
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
    if len(found) > MOST_LEARNED:
        half, step = MOST_LEARNED // 2, (len(found) - MOST_LEARNED // 2) / (MOST_LEARNED // 2)
        found = [*found[:half], *(found[half + int(step * place)] for place in range(half))]
    genomes, losses = [genome for _, genome in found], [loss for loss, _ in found]
    return Learned(name=run.name, sha256=results_digest(genomes, losses), genomes=genomes, losses=losses)


def history_of(run: Run, space: SearchSpace) -> RunHistory:
    """Return the empty history of a run, with the earlier runs that it learns from.

    Args:
        run: Saved run.
        space: Space of the run. Its ranges may be wider by now: the history begins with those of the manifest.
    """
    first = space.with_genes(run.manifest.genes(), optional={})
    return RunHistory(first, run.objectives, run.constraints, _lessons(run, first))


def _lessons(run: Run, space: SearchSpace) -> list[Lesson]:
    lessons = [Lesson.of(one["name"], one["genomes"], one["losses"], space) for one in run.manifest.learned]
    return [one for one in lessons if len(one.losses)]


def widen(history: RunHistory, run: Run) -> None:
    """Widen the space of a history as its run did before the next candidate."""
    for one in run.widened[len(history.spaces) - 1 :]:
        if one.proposed > history.proposed_count:
            break
        widen_once(history, run, one)


def widen_once(history: RunHistory, run: Run, widening: Widening) -> None:
    """Widen the space of a history as one of its run's widenings says."""
    space = history.space.with_genes(widening.genes)
    history.widen(space, _lessons(run, space))


def replay(history: RunHistory, run: Run) -> None:
    """Add every candidate, widening and seen result of a run to an empty history, in their order."""
    for candidate in run.candidates:
        widen(history, run)
        history.add_candidate(candidate)
    widen(history, run)
    for id in run.told:
        history.tell(id, run.outcomes[id])
