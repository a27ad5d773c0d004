"""What is due and which curves are hopeless, counted anew from all that was told: memos must agree with it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from evo_tune.genome.history import History
from evo_tune.genome.trial import DECAYED, EXTRA_SEED, PROMOTION, Candidate, Proposal
from evo_tune.genome.values import genome_key, ranks
from evo_tune.genome.view import GenomeTrials, ranks_by_rung, trials_by_genome
from evo_tune.rules.extra_seeds import SeedGains
from evo_tune.rules.fidelity import (
    LOOKS,
    MEDIAN,
    MIN_CURVES,
    PROMOTION_MARGIN,
    audit_numbers,
    rank_trust,
    share_to_keep,
)
from evo_tune.rules.promotions import LEADER_COUNT
from evo_tune.settings import RunSettings

Told = Sequence[GenomeTrials]


def next_promotion_or_seed(settings: RunSettings, history: History) -> Proposal | None:
    """Return the further trial that is due, without its bounds."""
    told = list(trials_by_genome(history).values())
    out = [(genome_key(one.genome), one) for one in history.pending]
    births = history.fresh_proposals
    audits = {genome_key(births[number].genome) for number in audit_numbers(len(births))}
    promoted = {(key, one.budget) for key, one in out if not one.extra_seed}
    found = promotion(told, promoted, audits, settings.rungs)
    if settings.seeds_are_automatic:
        doubt = SeedGains(history.space, settings.most_seeds, not settings.own_seeds)
        for trial in history.trials:
            doubt.update(trial, history.proposed_units[trial.id])
        return found or doubt.best_extra_seed(history.pending, cost(told, settings.rungs))
    return found or leader_again(told, out, settings.most_seeds)


def cost(told: Told, rungs: Sequence[float]) -> float:
    """Return what a genome that gave a value took on the average, in full trainings; with no rungs, one."""
    there = [[rung in entry.trial_by_budget and entry.trial_by_budget[rung].ok for rung in rungs] for entry in told]
    born = sum(one[0] for one in there)
    if len(rungs) == 1 or not born:
        return 1.0
    steps = np.diff([0.0, *rungs])
    return sum(float(step) * sum(one[place] for one in there) for place, step in enumerate(steps)) / born


def promotion(
    told: Told, promoted: set[tuple[str, float]], audits: set[str], rungs: Sequence[float]
) -> Proposal | None:
    """Return the continuation that is due."""
    steps = list(pairwise(rungs))

    def waits(entry: GenomeTrials, high: float) -> bool:
        return high not in entry.trial_by_budget and (entry.key, high) not in promoted

    for low, high in steps:
        for entry in told:
            if (
                entry.key in audits
                and entry.losses(low) is not None
                and entry.trial_by_budget[low].ok
                and waits(entry, high)
            ):
                return _continued(entry, high)
    for low, high in reversed(steps):
        ranked = _ranked(told, low)
        share = max(low / high, _share(told, ranked))
        for entry in ranked[: math.floor(share * len(ranked))]:
            if waits(entry, high):
                return _continued(entry, high)
    return None


def _continued(entry: GenomeTrials, budget: float) -> Proposal:
    latest = entry.latest_trial
    return Proposal(latest.genome, PROMOTION, latest.candidate.parents, budget, resumes=latest.id)


def _ranked(told: Told, rung: float) -> list[GenomeTrials]:
    there = [entry for entry in told if rung in entry.trial_by_budget and entry.trial_by_budget[rung].ok]
    losses = np.array([entry.trial_by_budget[rung].losses for entry in there], dtype=float)
    if not there:
        return []
    if losses.shape[1] == 1:
        order = ranks(losses[:, 0])
    else:
        below = (losses[:, None, :] <= losses[None, :, :]).all(axis=2) & (losses[:, None, :] < losses[None]).any(axis=2)
        order = below.sum(axis=0)
    rows = zip(there, order.tolist(), strict=True)
    return [
        entry
        for entry, _ in sorted(
            rows, key=lambda row: (row[0].trial_by_budget[rung].violation, row[1], row[0].first_candidate.id)
        )
    ]


def _share(told: Told, ranked: Sequence[GenomeTrials]) -> float:
    place = {entry.key: place for place, entry in enumerate(ranked, 1)}
    late = [entry for entry in _ranked(told, 1.0) if entry.key in place]
    measured = rank_trust([place[entry.key] for entry in late], range(len(late)))
    depth = max((place[entry.key] for entry in late[:LEADER_COUNT]), default=0)
    return max(share_to_keep(measured, max(1, len(ranked)), PROMOTION_MARGIN), depth / max(1, len(ranked)))


def bounds(told: Told, metric: str, sign: float, start: float, budget: float) -> tuple[tuple[float, str, float], ...]:
    """Return the bounds of a candidate."""
    found = []
    for look in LOOKS:
        if not start < look < budget:
            continue
        reached = [(value, entry) for entry in told if (value := _value_at(entry, metric, sign, look)) is not None]
        full = [
            (value, losses[0]) for value, entry in reached if (losses := entry.losses(1.0)) and losses[0] < math.inf
        ]
        if len(full) < MIN_CURVES:
            continue
        share = max(MEDIAN, share_to_keep(rank_trust(*zip(*full, strict=True)), len(reached), 2.0))
        kept = math.ceil(share * len(reached))
        if kept < len(reached):
            found.append((look, metric, sorted(value for value, _ in reached)[kept - 1]))
    return tuple(found)


def _value_at(entry: GenomeTrials, metric: str, sign: float, look: float) -> float | None:
    before = [(fraction, point) for fraction, point in entry.curve if not point.get(DECAYED)]
    if not before or before[-1][0] < look:
        return None
    values = [sign * point[metric] for fraction, point in before if fraction <= look and metric in point]
    return values[-1] if values and math.isfinite(values[-1]) else None


def leader_again(told: Told, out: Sequence[tuple[str, Candidate]], seeds: int) -> Proposal | None:
    """Return the further seed that is due."""
    full = [entry for entry in told if (trial := entry.trial_by_budget.get(1.0)) and trial.ok]
    if seeds == 1 or not full:
        return None
    leader = min(
        full, key=lambda entry: (entry.trial_by_budget[1.0].violation, entry.losses(1.0), entry.first_candidate.id)
    )
    had = 1 + len(leader.extra_seed_trials) + sum(key == leader.key and one.extra_seed > 0 for key, one in out)
    if had >= seeds:
        return None
    return Proposal(leader.first_candidate.genome, EXTRA_SEED, leader.first_candidate.parents, extra_seed=had)


def places(told: Sequence[GenomeTrials], rungs: Sequence[float], objectives: int) -> dict[str, tuple[float, ...]]:
    """Return the place of each genome in the order of each objective, from 1; failed ones have none.

    Counted from the entries alone; `Ledger.places` must agree.
    """
    alive = [entry for entry in told if not entry.failed]
    good = [entry for entry in alive if entry.latest_trial.violation == 0.0]
    bad = [entry for entry in alive if entry.latest_trial.violation > 0.0]
    behind = len(good) + ranks([entry.latest_trial.violation for entry in bad])
    found = {entry.key: (float(place),) * objectives for entry, place in zip(bad, behind, strict=True)}
    if good:
        columns = [list(ranks_by_rung(_known(good, rungs, objective)))[-1] for objective in range(objectives)]
        found |= {entry.key: tuple(row) for entry, row in zip(good, np.stack(columns, axis=1).tolist(), strict=True)}
    return found


def _known(good: Sequence[GenomeTrials], rungs: Sequence[float], objective: int) -> list[np.ndarray]:
    """Return the losses of genomes at each rung, NaN where there is none; infinite where they were pruned."""
    found = []
    for rung in rungs:
        known = [entry.losses(rung) for entry in good]
        rows = [math.nan if row is None else row[objective] if len(row) > objective else math.inf for row in known]
        found.append(np.array(rows))
    return found
