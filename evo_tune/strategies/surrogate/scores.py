"""What models learn of a result in place of its loss: scores of variance about 1, the best highest.

This file knows places and losses only, nothing of trials, genes or strategies.

Source: Blom, Statistical estimates and transformed beta-variables (1958), for normal scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

__all__ = ["Spacing", "normal_scores"]


def normal_scores(places: np.ndarray, count: int) -> np.ndarray:
    """Return the normal scores of some places among so many (Blom, 1958), the best highest, shape (places,).

    So no scale and no outlier of a loss matters.
    """
    normal = NormalDist()
    return np.array([-normal.inv_cdf((place - 0.375) / (count + 0.25)) for place in places])


@dataclass(frozen=True)
class Spacing:
    """Scores of which those of the better results are as far apart as their losses are.

    Ranks say of a smooth surface that it is steepest at its lowest point: the few best of many have the largest
    distances. So between the best result and the last of the better half, which keep their scores, a score is linear in
    the loss. How bad the others are matters no more than it did, nor does the scale of a loss.

    Args:
        best: Loss of the best result.
        last: Loss of the last one of the better half; where it is no more than the best, scores stay as they are.
        high: Score of the best.
        low: Score of the last.
    """

    best: float
    last: float
    high: float
    low: float

    @classmethod
    def of(cls, places: np.ndarray, losses: np.ndarray, count: int) -> Spacing:
        """Return the spacing of some results.

        Args:
            places: Theirs among so many, the best 1, shape (results,).
            losses: Theirs, rising with the place; NaN where one is not to count, as of failures. Shape (results,).
            count: So many.
        """
        better = np.flatnonzero((places <= (count + 1) / 2) & np.isfinite(losses))
        if not len(better):
            return cls(0.0, 0.0, 0.0, 0.0)
        ends = better[[np.argmin(places[better]), np.argmax(places[better])]]
        return cls(*losses[ends].tolist(), *normal_scores(places[ends], count).tolist())

    def __call__(self, scores: np.ndarray, losses: np.ndarray) -> np.ndarray:
        """Return the scores of results, shape (results,).

        Args:
            scores: Their normal scores, of the same shape.
            losses: Likewise; NaN as above.
        """
        span = self.last / 2.0 - self.best / 2.0  # halves, since the whole may overflow
        if not span > 0.0:
            return scores
        found, better = np.array(scores), losses <= self.last
        away = (self.last / 2.0 - losses[better] / 2.0) / span
        found[better] = self.low + (self.high - self.low) * away
        return found
