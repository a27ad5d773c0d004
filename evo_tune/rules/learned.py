"""Promotions by the strategy's model of early results, for strategies that declare `scores`.

As in `promotions`, enough genomes are promoted that the eventual best one is probably among them. Here the strategy's
model of (genome, share of a training) ranks the genomes and says how far early results can be trusted. Nothing here
proposes a new genome.

Sources: Swersky, Snoek & Adams, Freeze-thaw Bayesian optimization (2014); Wistuba, Kadra & Grabocka, Supervising the
multi-fidelity race of hyperparameter configurations (NeurIPS 2022), who also learn a model but use another rule.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from evo_tune.genome.history import GrowingArray, History
from evo_tune.genome.importance import ranks
from evo_tune.genome.trial import Proposal, Trial
from evo_tune.genome.view import genome_table
from evo_tune.plugins.strategy import GenomeResults, Prospects, Strategy
from evo_tune.rules.fidelity import PROMOTION_MARGIN, share_to_keep
from evo_tune.rules.promotions import Rungs, promotion_of

LEAST = 0.6
"""Minimum promoted share, as a fraction of the budgets' ratio: a good model may be more selective than halving."""

MOST = 96
"""Maximum number of genomes at a rung for which the model predicts; it bounds the cost of a proposal."""


@dataclass
class _Memo:
    """The model of the results reported so far, fitted on first use; the state of a fold."""

    asked: bool = False
    found: Prospects | None = None

    def anew(self, trial: Trial) -> _Memo:
        """Return an empty memo, because a new result makes the model outdated."""
        del trial
        return _Memo()


def fit_prospects(history: History, rungs: Sequence[float], strategy: Strategy) -> Prospects | None:
    """Return the strategy's model of a run, or None without one; fitted at most once per result."""
    memo = history.fold((__name__, strategy, tuple(rungs)), _Memo, _Memo.anew)
    if not memo.asked:
        seen, memo.asked = partial_results(history, rungs), True
        memo.found = None if seen is None else strategy.learn(seen, history.space)
    return memo.found


def partial_results(history: History, rungs: Sequence[float]) -> GenomeResults | None:
    """Return the ranks of a run's genomes at each rung. The run has one objective; rows are those of its ledger.

    Returns:
        The ranks; None before a genome was trained in full.
    """
    ledger = genome_table(history)
    count, nothing = len(ledger.rows), GrowingArray(math.nan)
    losses = np.stack([ledger.losses.get(rung, nothing).get(count)[:, 0] for rung in rungs], axis=1)
    alive, violation = ledger.alive.get(count)[:, 0] > 0.0, ledger.violation.get(count)[:, 0]
    if not np.isfinite(losses[alive, -1]).any():
        return None
    good, bad = np.flatnonzero(alive & (violation == 0.0)), np.flatnonzero(alive & (violation > 0.0))
    places = np.full(losses.shape, math.nan)
    if len(good):
        places[good] = np.stack(ledger.by_rung(losses[good], 0), axis=1)
    places[bad] = (len(good) + ranks(violation[bad]))[:, None]
    places[np.isnan(losses)] = math.nan
    failed = ~alive
    places[failed] = math.nan
    places[failed, -1] = alive.sum() + (failed.sum() + 1) / 2
    return GenomeResults(tuple(rungs), places, ledger.births.get(count)[:, 0], history.proposed_units)


def next_model_promotion(rungs: Rungs, prospects: Prospects, promoted: set[tuple[str, float]]) -> Proposal | None:
    """Return the promotion that is due, or None: the most promising genome at the highest rung with one.

    Args:
        rungs: Genomes at each rung.
        prospects: Predictions of the strategy's model for these genomes.
        promoted: Keys and budgets of pending promotions.
    """
    for low, high in reversed(list(pairwise(rungs.budgets))):
        there = rungs.numbers_best_first(low)
        share = max(
            LEAST * low / high,
            share_to_keep(prospects.trust(low), max(1, len(there)), PROMOTION_MARGIN),
            _depth(rungs, low),
        )
        among = there if len(there) <= MOST else np.sort(there)[np.linspace(0, len(there) - 1, MOST).astype(int)]
        kept = math.floor(share * len(among))
        waiting = [entry for entry in rungs.not_promoted(low, MOST) if (entry.key, high) not in promoted]
        if not kept or not waiting:
            continue
        mine = np.array([rungs.number(entry) for entry in waiting])
        asked = np.union1d(among, mine)  # each once, so that a genome's two values are bit-identical
        worth = prospects.worth(asked)
        bar = np.sort(worth[np.searchsorted(asked, among)])[-kept]
        hopes = worth[np.searchsorted(asked, mine)]
        if hopes.max() >= bar:
            return promotion_of(waiting[int(np.argmax(hopes))], high)
    return None


def _depth(rungs: Rungs, low: float) -> float:
    """Return the rank at a rung of the genome that leads after full training, as a share of the genomes there."""
    there, ended = rungs.numbers_best_first(low), rungs.numbers_best_first(1.0)
    came = np.flatnonzero(there == ended[0]) if len(ended) else np.empty(0)
    return float((came[0] + 1) / len(there)) if len(came) else 0.0
