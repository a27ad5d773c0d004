"""What earlier runs lead one to expect, as far as they rank this run's results as they are.

A Gaussian process is made of each; their mean, weighted by how well each ranks what was told, is where the models of
this run begin, which then learn what is left. A run that ranks at random or the other way round gets no weight.

Source: Feurer, Letham & Bakshy, Scalable meta-learning for Bayesian optimization using ranking-weighted Gaussian
process ensembles (AutoML at ICML 2018), from which this departs: weights are rank correlations, and the ensemble is a
prior mean instead of a vote. This file knows points and scores only, nothing of trials or strategies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evo_tune.genome.importance import rank_correlation, ranks
from evo_tune.genome.lessons import Lesson
from evo_tune.genome.models.features import features_of
from evo_tune.strategies.surrogate.process import Process

__all__ = ["Expectation", "scores_of"]

POINTS = 96
"""Trials of an earlier run that are learned from, at most: half the best, the others spread over the ranks."""

FADE = 10.0
"""Results of this run from which on what earlier ones lead one to expect fades: these say it better."""

DOUBT = 5.0
"""Results of this run that count against any earlier one: what few results show may be luck."""


def scores_of(lesson: Lesson) -> np.ndarray:
    """Return a run's trials as scores of variance about 1, the best highest, shape (trials,)."""
    places = ranks(lesson.losses)
    return np.asarray(math.sqrt(12.0) * (0.5 - (places - 0.5) / len(places)))


def _process(lesson: Lesson, sizes: np.ndarray) -> Process:
    """Return the process of an earlier run; it is made once."""
    if "process" not in lesson.memo:
        order = np.argsort(lesson.losses, kind="stable")
        if len(order) > POINTS:
            others = np.linspace(POINTS // 2, len(order) - 1, POINTS - POINTS // 2).astype(int)
            order = np.append(order[: POINTS // 2], order[others])
        points = features_of(lesson.units[order], sizes)[:, lesson.shared]
        lesson.memo["process"] = Process.fit(points, scores_of(lesson)[order], sizes[lesson.shared] > 0)
    found: Process = lesson.memo["process"]
    return found


@dataclass(frozen=True)
class Expectation:
    """What the earlier runs lead one to expect in this one.

    Args:
        lessons: They, those with a weight.
        weights: How much of each is believed, shape (lessons,).
        sizes: Number of values of each gene without order, 0 for one with an order. Shape (genes,).
        middle: What is expected on the mean of the points told.
    """

    lessons: tuple[Lesson, ...]
    weights: np.ndarray
    sizes: np.ndarray
    middle: float

    @classmethod
    def of(cls, lessons: Sequence[Lesson], points: np.ndarray, scores: np.ndarray, sizes: np.ndarray) -> Expectation:
        """Return what to expect after some results.

        Args:
            lessons: The earlier runs.
            points: Features of the results, shape (results, genes).
            scores: Theirs, the best highest, shape (results,).
            sizes: See the class.
        """
        means = [_process(one, sizes).predict(points[:, one.shared])[0] for one in lessons]
        count = len(scores)
        trusts = [max(0.0, rank_correlation(mean.tolist(), scores.tolist()) - 1.0 / math.sqrt(count)) for mean in means]
        kept = [place for place, trust in enumerate(trusts) if trust > 0.0]
        shares = np.array([trusts[place] ** 2 for place in kept])
        if not kept:
            return cls((), shares, sizes, 0.0)
        shares /= shares.sum()
        together = shares @ np.stack([means[place] for place in kept])
        away = together - together.mean()
        slope = float(away @ (scores - scores.mean()) / (away @ away + DOUBT * max(1e-9, float(together.var()))))
        slope = min(1.0, max(0.0, slope)) * min(1.0, FADE / count)
        return cls(tuple(lessons[place] for place in kept), slope * shares, sizes, slope * float(together.mean()))

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Return what is expected of some points, 0 on the mean of those told, shape (points,)."""
        total = np.full(len(points), -self.middle)
        for lesson, weight in zip(self.lessons, self.weights.tolist(), strict=True):
            total += weight * _process(lesson, self.sizes).predict(points[:, lesson.shared])[0]
        return total
