"""Another chance for values that looked worse at first: births of a search that has come to a stand.

What is best under one value of a gene without order need not be what is best under another. The models learn most of
what they know where the best is, so they believe of a value that was tried twice, at a bad place, that it is bad. While
results improve there is something better to do; once they do not, the value with the fewest births is searched by
itself, by a process that knows its results only and wants to be better than the best of these.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np

from evo_tune.genome.history import History
from evo_tune.genome.models.features import features_of, sizes_of
from evo_tune.genome.trial import Proposal
from evo_tune.strategies.surrogate.process import Process
from evo_tune.strategies.surrogate.rounds import Bred, News
from evo_tune.strategies.surrogate.scores import normal_scores
from evo_tune.strategies.surrogate.screen import expected_improvement

__all__ = ["another_chance"]

STALLED = 12
"""Results, since the best was told, after which a search stands; as many as are out at least, which did not know it."""

ENOUGH = 2.0
"""A value with so many births, times the root of all births, had its chance."""

RECENT = 256
"""Births that are counted, and best trials and failures that are looked through, at most: what bounds the cost."""

POINTS = 96
"""Trials that a value's process learns from, at most: the best."""

CHILDREN, RANDOM = 24, 36
"""Candidates of a chance, all with its value: what was bred, and random genomes."""


def another_chance(news: News, bred: Iterable[Bred], chances: float, rng: np.random.Generator) -> Proposal | None:
    """Return a birth with the value that had the fewest, while the search stands; None if there is to be none.

    Only the order of results says that it stands, as all else of this strategy. With several objectives each birth
    weighs them anew, so none is the best for long, and there are no chances.

    Args:
        news: Says what is new to a history, which is all that is known.
        bred: Candidates of the birth, of which the first are taken with this value in place of theirs.
        chances: Probability of such a birth. Nothing is drawn from `rng` while the search goes on.
        rng: The only source of randomness.
    """
    history = news.history
    best = history.best
    if chances == 0.0 or best is None or len(history.objectives) > 1:
        return None
    if len(history.trials) - 1 - best.told_order <= max(STALLED, len(history.out)):
        return None
    sizes = sizes_of(history.space)
    rare = _rarest(features_of(np.stack(history.born_units[-RECENT:]), sizes), sizes, rng)
    if rare is None or rng.random() >= chances:
        return None
    gene, value = rare
    found, points = [], []
    for proposal in news.of_bred(_with_value(history, bred, gene, (value + 0.5) / sizes[gene], rng)):
        features = features_of(history.space.encode(proposal.genome)[None], sizes)[0]
        if features[gene] == value:  # repair, or a gene that does not count, may have another mind
            found.append(proposal)
            points.append(features)
    if not found:
        return None
    return found[int(np.argmax(_promise(history, gene, value, np.stack(points), sizes)))]


def _rarest(features: np.ndarray, sizes: np.ndarray, rng: np.random.Generator) -> tuple[int, int] | None:
    """Return the gene and the value of fewest births for the size of its gene; None if all had enough.

    Args:
        features: Of births, shape (births, genes).
        sizes: See `sizes_of`.
        rng: Decides between equals.
    """
    rows = []
    for gene in np.flatnonzero(sizes).tolist():
        size = int(sizes[gene])
        counts = np.bincount(features[:, gene].astype(int), minlength=size)
        rows += [(count * size, rng.random(), count, gene, value) for value, count in enumerate(counts.tolist())]
    if not rows:
        return None
    _, _, count, gene, value = min(rows)
    return (gene, value) if count < ENOUGH * math.sqrt(len(features)) else None


def _with_value(
    history: History, bred: Iterable[Bred], gene: int, unit: float, rng: np.random.Generator
) -> Iterator[Bred]:
    """Yield candidates whose gene has this unit coordinate."""
    for one in islice(bred, CHILDREN):
        units = np.array(one.units, dtype=np.float64)
        units[gene] = unit
        yield Bred(units, "chance", one.parents)
    for units in rng.random((RANDOM, len(history.space.genes))):
        units[gene] = unit
        yield Bred(units, "chance")


def _promise(history: History, gene: int, value: int, points: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return how promising candidates are by what is known of their value alone, shape (candidates,).

    With fewer than two results of it, how far they are from its births, or from all where it has none.

    Args:
        history: All that is known.
        gene: The gene.
        value: Index of its value, which all candidates have.
        points: Features of the candidates, shape (candidates, genes).
        sizes: See `sizes_of`.
    """

    def of(ids: list[int]) -> np.ndarray:
        units = np.array([history.born_units[id] for id in ids]).reshape(-1, len(sizes))
        features = features_of(units, sizes)
        return np.asarray(features[features[:, gene] == value])

    told = of([trial.id for trial in history.ranking[:RECENT]])[:POINTS]
    failed = of([trial.id for trial in history.failed[-RECENT:]])[-POINTS:]
    out = of([one.id for one in history.out[-RECENT:]])
    known = np.concatenate([told, failed])
    if len(known) < 2:
        there = np.concatenate([known, out])
        steps = np.abs(points[:, None] - (there if len(there) else features_of(_recent(history), sizes))[None])
        steps[:, :, sizes > 0] = steps[:, :, sizes > 0] > 0
        return np.asarray((steps**2).sum(axis=2).min(axis=1))
    places = np.append(np.arange(1.0, len(told) + 1), np.full(len(failed), len(told) + (len(failed) + 1) / 2))
    scores = normal_scores(places, len(places))
    process = Process.fit(known, scores, sizes > 0)
    mean, variance = (process.believing(out) if len(out) else process).predict(points)
    return expected_improvement(mean, np.sqrt(variance), float(scores.max()))


def _recent(history: History) -> np.ndarray:
    return np.stack(history.born_units[-RECENT:])
