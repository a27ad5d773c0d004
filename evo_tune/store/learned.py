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


def copy_results(run: Run, objective: Objective) -> Learned:
    """Return the results of an earlier run for the manifest of a new run.

    Args:
        run: Earlier run.
        objective: Objective of the new run; the earlier run must have measured its metric.

    Raises:
        UsageError: The earlier run has fewer than two full trainings with this metric.
    """
    results = [
        (objective.loss(trial.outcome.metrics), trial.genome)
        for trial in run.ranked()
        if objective.metric in trial.outcome.metrics
    ]
    if len(results) < 2:
        raise UsageError(
            f"--learn-from {run.name}: it has {len(results)} trainings in full with the metric {objective.metric!r}: "
            "expected 2 or more; leave it out, or learn from another run"
        )
    results.sort(key=lambda row: row[0])
    if len(results) > MOST_LEARNED:
        half, step = MOST_LEARNED // 2, (len(results) - MOST_LEARNED // 2) / (MOST_LEARNED // 2)
        results = [*results[:half], *(results[half + int(step * place)] for place in range(half))]
    genomes, losses = [genome for _, genome in results], [loss for loss, _ in results]
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
    lessons = [
        Lesson.of(earlier_run["name"], earlier_run["genomes"], earlier_run["losses"], space)
        for earlier_run in run.manifest.learned
    ]
    return [earlier_run for earlier_run in lessons if len(earlier_run.losses)]


def widen(history: RunHistory, run: Run) -> None:
    """Widen the space of a history as its run did before the next candidate."""
    for widening in run.widened[len(history.spaces) - 1 :]:
        if widening.proposed > history.proposed_count:
            break
        widen_once(history, run, widening)


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
    for id in run.reported:
        history.tell(id, run.outcomes[id])
