"""Which fresh seeds a calibration still needs, and its verdict: pure functions of the results so far.

Two questions, each with seeds of its own. *Which finalist?* By sequential halving (Karnin, Koren & Somekh 2013): all
are trained, the better half goes on. *Does it beat the default?* Both are trained on further seeds, which had no part
in the choice, and compared seed by seed with Student's t. As in irace (López-Ibáñez et al. 2016), whatever is compared
shares its seeds, and what is decided is trained no further.

The comparison is looked at up to three times. At each look it may end with 'beats', and the looks share one error
`ALPHA` by a spending function (Lan & DeMets 1983): after the share s of the cap, ALPHA · s³ is spent (Kim & DeMets
1987, near to O'Brien & Fleming: little is spent early, where few seeds say little). What a look may spend is tested
by itself, as if the looks had nothing in common, so that the sum holds for any spread between seeds and any
correlation. A look may also end it as hopeless, which cannot raise the error.

This module knows nothing of runs, clocks, stores and trainings: a calibration that was killed goes on exactly, and
any order of arrival gives the same work and the same verdict.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Literal, TypeAlias

__all__ = ["ALPHA", "CAP", "ROUNDING", "Fresh", "Purpose", "Race", "Standing", "looks", "most_numbers", "student_tail"]

ALPHA = 0.05
"""Most probability of saying 'beats' of a finalist that is no better than the default."""

CAP = 2
"""Seeds on which the finalist and the default are compared at the most, for each that `--calibrate` names."""

LOOKS = 3
"""Times that the comparison may end."""

SPENDING = 3
"""Power of the spending function."""

HOPELESS = 1.5
"""Standard errors that the gain must have at the cap for going on to be worth it; in proportion before."""

ROUNDING = 1e-12
"""Share of a value below which a difference is taken for rounding: some thousand times that of one operation."""

LARGEST = 1e300
"""Losses from here on (and NaN) count as failed: sums of them are no numbers."""

Purpose: TypeAlias = Literal["choose", "report"]


@dataclass(frozen=True)
class Fresh:
    """One training of a calibration.

    Args:
        id: The trial whose genome is trained.
        purpose: 'choose' among the finalists, or 'report'; the two never share a seed.
        number: Of the seed, from 1; the same number is the same seed for every genome.
    """

    id: int
    purpose: Purpose
    number: int


Results: TypeAlias = Mapping[Fresh, float | None]
"""Loss of each training that is done; None if it failed."""


@dataclass(frozen=True)
class Standing:
    """Where a race stands.

    Args:
        wanted: Trainings that are needed next, in the order in which they help most; all may run side by side.
        chosen: The finalist that was chosen; None while that is open, or if all have failed.
        seeds: Reporting seeds that count so far: 1 to this one.
        pairs: Of these, the seeds on which both trained well.
        gain: Mean loss of the default less that of the chosen, over the pairs; NaN without any.
        error: Standard error of the gain; NaN for fewer than two pairs.
        beats: Whether the chosen beats the default; None while that is open, or where nothing can be compared.
    """

    wanted: tuple[Fresh, ...] = ()
    chosen: int | None = None
    seeds: int = 0
    pairs: int = 0
    gain: float = math.nan
    error: float = math.nan
    beats: bool | None = None

    @property
    def over(self) -> bool:
        """Whether nothing more is to be trained."""
        return not self.wanted


@dataclass(frozen=True)
class Race:
    """The finalists of a run against its default.

    Args:
        finalists: Trial ids, the best of the search first; ties go to the earlier one.
        default: The default's trial id; None if it has no value: then the chosen has its value over fresh seeds alone.
        seeds: What `--calibrate` says: the comparison takes at most `CAP` times as many; a halving takes a third.
    """

    finalists: tuple[int, ...]
    default: int | None
    seeds: int

    def standing(self, results: Results) -> Standing:
        """Return where the race stands; results that it has not asked for change nothing."""
        if not self.seeds or not self.finalists:
            return Standing()
        chosen, wanted = self._choose(results)
        if chosen is not None:
            return self._compare(chosen, results)
        # Whoever is chosen, the default is needed: it need not wait. Nor does it depend on how the choice goes.
        return Standing((*wanted, *self._lacking(looks(self.seeds)[0], [self.default], results)))

    def _lacking(self, look: int, ids: Sequence[int | None], results: Results) -> tuple[Fresh, ...]:
        needed = (Fresh(id, "report", number) for number in range(1, look + 1) for id in ids if id is not None)
        return tuple(one for one in needed if one not in results)

    def _choose(self, results: Results) -> tuple[int | None, tuple[Fresh, ...]]:
        """Halve the finalists until one is left; return it (None: all failed), or what is lacking for the next step."""
        alive, seeds = list(self.finalists), 0
        while len(alive) > 1:
            seeds += math.ceil(self.seeds / 3)
            needed = [Fresh(id, "choose", number) for number in range(1, seeds + 1) for id in alive]
            lacking = tuple(one for one in needed if one not in results)
            if lacking:
                return None, lacking
            ranked = sorted(alive, key=lambda id: _rank(_losses(id, "choose", seeds, results)))
            alive = ranked[: math.ceil(len(alive) / 2)]
        tried = _losses(alive[0], "choose", seeds, results)
        return (None if tried and all(loss is None for loss in tried) else alive[0]), ()

    def _compare(self, chosen: int, results: Results) -> Standing:
        spent, found = 0.0, Standing()
        for look in looks(self.seeds):
            if lacking := self._lacking(look, [self.default, chosen], results):
                return Standing(lacking, chosen, found.seeds, found.pairs, found.gain, found.error)
            if self.default is None:
                return Standing((), chosen, look)
            share = look / (CAP * self.seeds)
            level = ALPHA * share**SPENDING - spent
            spent += level
            found = _look(chosen, self.default, look, share, level, results)
            if found.beats is not None:
                break
        return found


def _look(chosen: int, default: int, look: int, share: float, level: float, results: Results) -> Standing:
    """Return what is known after so many seeds; `beats` is None if that is to be left open, or cannot be known."""
    mine, other = (_losses(id, "report", look, results) for id in (chosen, default))
    both = [(a, b) for a, b in zip(mine, other, strict=True) if a is not None and b is not None]
    gains = [b - a for a, b in both]
    gain = fmean(gains) if gains else math.nan
    error = _error(gains, gain)
    if any(a is None and b is not None for a, b in zip(mine, other, strict=True)):
        beats: bool | None = False  # it fails where the default does not
    elif len(gains) < 2:
        beats = None
    else:
        scale = ROUNDING * max(abs(loss) for pair in both for loss in pair)
        gain, error = (number if abs(number) > scale else 0.0 for number in (gain, error))
        beats = _beats(both, gain, error, scale, level, HOPELESS * share)
        if beats is None and share == 1.0:
            beats = False
    return Standing((), chosen, look, len(gains), gain, error, beats)


def _beats(
    pairs: Sequence[tuple[float, float]], gain: float, error: float, scale: float, level: float, hopeless: float
) -> bool | None:
    """Test the gain of one look; None: neither shown nor hopeless.

    Args:
        pairs: Losses of the finalist and of the default, two at least.
        gain: Their mean difference.
        error: Its standard error; 0 where all differences are the same.
        scale: Differences up to this are rounding.
        level: Error that this look may spend.
        hopeless: Standard errors below which going on is not worth it.
    """
    if error:
        if student_tail(gain / error, len(pairs) - 1) <= level:
            return True
        return False if gain < hopeless * error else None
    if gain <= 0.0:
        return False
    # The seed changes nothing at all, so the difference is exact; or it moves both by the same. That is chance where
    # the metric is coarse: its spread is then taken to be its resolution, the smallest step between two seeds.
    step = _resolution(pairs, scale)
    return True if not step or student_tail(gain * math.sqrt(len(pairs)) / step, len(pairs) - 1) <= level else None


def _resolution(pairs: Sequence[tuple[float, float]], scale: float) -> float:
    """Return the smallest step of a genome's losses between seeds; 0 if the seed changes nothing."""
    ordered = (sorted(losses) for losses in zip(*pairs, strict=True))
    steps = [b - a for losses in ordered for a, b in pairwise(losses) if b - a > scale]
    return min(steps, default=0.0)


def looks(seeds: int) -> list[int]:
    """Return after how many reporting seeds the comparison is looked at: thirds of the cap, and never fewer than 2."""
    return sorted({max(2, math.ceil(CAP * seeds * part / LOOKS)) for part in range(1, LOOKS + 1)})


def most_numbers(race: Race) -> dict[Purpose, int]:
    """Return how many seeds of each purpose a race can come to."""
    halvings = math.ceil(math.log2(max(1, len(race.finalists))))
    return {"choose": math.ceil(race.seeds / 3) * halvings, "report": CAP * race.seeds}


def _losses(id: int, purpose: Purpose, seeds: int, results: Results) -> list[float | None]:
    found = (results[Fresh(id, purpose, number)] for number in range(1, seeds + 1))
    return [loss if loss is not None and abs(loss) < LARGEST else None for loss in found]


def _error(values: Sequence[float], mean: float) -> float:
    """Return the standard error of a mean; NaN for fewer than two values."""
    if len(values) < 2:
        return math.nan
    return math.hypot(*(value - mean for value in values)) / math.sqrt(len(values) * (len(values) - 1))


def _rank(losses: Sequence[float | None]) -> tuple[int, float]:
    """Order finalists: fewest failures, then lowest mean."""
    good = [loss for loss in losses if loss is not None]
    return len(losses) - len(good), fmean(good) if good else math.inf


def student_tail(t: float, freedom: int) -> float:
    """Return the probability that Student's t exceeds a number.

    The finite sums for whole degrees of freedom (Abramowitz & Stegun 1964, 26.7.3 and 26.7.4), exact to some 1e-15.

    Args:
        t: The number.
        freedom: Degrees of freedom, at least 1.
    """
    if math.isinf(t):
        return 0.0 if t > 0 else 1.0
    angle = math.atan2(t, math.sqrt(freedom))
    cosine = freedom / (freedom + t * t)  # squared
    odd = freedom % 2
    term = math.sqrt(cosine) if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(3 if odd else 2, freedom - 1, 2):
        term *= cosine * (k - 1) / k
        total += term
    inside = (angle + math.sin(angle) * total) * 2 / math.pi if odd else math.sin(angle) * total
    return 0.5 - inside / 2
