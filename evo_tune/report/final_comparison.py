"""The final comparison: which trainings on fresh seeds it still needs, and its verdict.

It answers two questions, each with its own seeds. *Which finalist?* Sequential halving (Karnin, Koren & Somekh 2013)
trains all finalists and keeps the better half. *Does it beat the default?* Both are trained on extra seeds, which
had no part in the choice, and compared seed by seed with Student's t. If the metric takes few values, its step counts
as further noise. As in irace (López-Ibáñez et al. 2016), compared genomes share their seeds, and a decided comparison
trains no more.

The second comparison has up to three looks at its results. Each look may end it with 'beats', and the looks share one
error `ALPHA` by a spending function (Lan & DeMets 1983): after the share s of the cap, ALPHA · s³ is spent (Kim &
DeMets 1987, close to O'Brien & Fleming: little is spent early, when few seeds say little). Each look's share is tested
by itself, as if the looks were independent, so the sum holds for any spread between seeds and any correlation. A look
may also end the comparison as hopeless, which cannot raise the error.

A run with patches asks a third question: *Which patches of the chosen genome are real?* Once the second is decided, the
genome is trained without each of its patches, on the same seeds, at the same looks. The p-values of a look are
corrected for the number of patches (Holm) and share its part of a second error `ALPHA`: a group sequential Holm
procedure (Ye, Li, Liu & Yao 2013). Only patches that are neither decided nor hopeless get the seeds of a further look.

These are pure functions of the results so far. A comparison that was killed therefore continues exactly, and the order
of the results changes neither the work nor the verdict.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Literal, TypeAlias

from evo_tune.report.inference import HARMFUL, NOT_SHOWN, REAL, Difference, differences_to_one, holm, paired_difference

# Highest probability of 'beats' for a finalist that is no better than the default.
ALPHA = 0.05

# Most seeds of the comparison with the default, as a multiple of those that were asked for.
MAX_SEEDS_FACTOR = 2

# Most looks at the results.
MAX_LOOKS = 3

# Fewest reporting seeds, those of the comparison with the default: one pair has no standard error.
MIN_REPORT_SEEDS = 2

# Power of the spending function.
SPENDING_POWER = 3

# Least gain, in standard errors, for which more seeds are worth their cost, times the share of the most seeds used.
MIN_PROMISING_GAIN = 1.5

# Losses of at least this size (and NaN) count as failures: their sums overflow.
FAILURE_LOSS = 1e300

Purpose: TypeAlias = Literal["choose", "report"]


@dataclass(frozen=True)
class FreshTraining:
    """One training of the final comparison.

    Args:
        id: Id of the trial whose genome is trained.
        purpose: 'choose' among the finalists, or 'report'; the two share no seed.
        seed_number: Number of the seed, from 1; the same for every genome.
        without: Gene of the patch that is off in the training, against the genome; '' for none.
    """

    id: int
    purpose: Purpose
    seed_number: int
    without: str = ""


# Loss of each finished training; None for a failure.
Results: TypeAlias = Mapping[FreshTraining, float | None]


@dataclass(frozen=True)
class PatchVerdict:
    """The effect of a patch in the chosen genome, which was also trained without it. JSON has null for NaN.

    Args:
        gene: Gene that switches it on.
        pairs: Number of fresh seeds on which both succeeded.
        gain: Mean loss without it minus that with it; NaN without pairs. Unit: the metric's.
        error: Standard error of the gain; NaN for fewer than two pairs. Unit: the metric's.
        verdict: real, harmful or not shown; '' while that is open.
    """

    gene: str
    pairs: int = 0
    gain: float = math.nan
    error: float = math.nan
    verdict: str = ""


@dataclass(frozen=True)
class ComparisonState:
    """The state of the final comparison.

    Args:
        next_trainings: Trainings to do next, the most useful first; all of them may run at the same time.
        chosen: The chosen finalist; None while that is open, or if all have failed.
        seeds: Number of reporting seeds that count so far.
        pairs: Number of these seeds on which both genomes succeeded.
        gain: Mean loss of the default minus that of the chosen finalist, over the pairs; NaN without any.
        error: Standard error of the gain; NaN for fewer than two pairs.
        beats: Whether the chosen finalist beats the default; None while that is open, or if they cannot be compared.
        effects: Effect of each patch of the chosen finalist, in a run with patches.
        ignores_seeds: Whether the trainings seem to ignore their seeds, so that one of each was compared.
    """

    next_trainings: tuple[FreshTraining, ...] = ()
    chosen: int | None = None
    seeds: int = 0
    pairs: int = 0
    gain: float = math.nan
    error: float = math.nan
    beats: bool | None = None
    effects: tuple[PatchVerdict, ...] = ()
    ignores_seeds: bool = False

    @property
    def over(self) -> bool:
        """Whether the comparison is complete."""
        return not self.next_trainings


@dataclass(frozen=True)
class FinalComparison:
    """The finalists of a run against its default genome.

    Args:
        finalists: Trial ids, the best of the search first; ties go to the earlier one.
        default: Trial id of the default; None if it has no value: then only the chosen finalist is trained.
        seeds: Number of seeds asked for: each halving uses a third of it. 0: no comparison.
        planned_look_seeds: Numbers of reporting seeds at each look, increasing, if time allows fewer than the default;
            empty for `default_look_seeds(seeds)`. They may depend on the clock, but on no loss, so `ALPHA` still bounds
            the error.
        is_fine_grained: Whether the metric takes so many values that equal losses mean equal models, not rounding.
        patches: Genes of the patches that are on in each finalist, by its id; empty in a run without patches.
        lacks_seed: Whether trainings are not told their seeds. If two of the default and of the best finalist are equal
            then, the finalist is chosen, and no more seeds are trained.
    """

    finalists: tuple[int, ...]
    default: int | None
    seeds: int
    planned_look_seeds: tuple[int, ...] = ()
    is_fine_grained: bool = False
    patches: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    lacks_seed: bool = False

    @property
    def look_seeds(self) -> tuple[int, ...]:
        """Numbers of reporting seeds at each look."""
        return self.planned_look_seeds or tuple(default_look_seeds(self.seeds))

    @property
    def max_seeds(self) -> dict[Purpose, int]:
        """Most seeds of each purpose that the comparison may use."""
        halvings = math.ceil(math.log2(max(1, len(self.finalists))))
        return {"choose": math.ceil(self.seeds / 3) * halvings, "report": self.look_seeds[-1] if self.seeds else 0}

    def largest_first_alternatives(self) -> "list[FinalComparison]":
        """Return the comparison and smaller ones, the largest first: with fewer seeds, then with fewer finalists.

        Of each, the one that does not leave out patches follows the one that does.
        """
        comparisons, count = [], len(self.finalists)
        while count and self.seeds:
            plans = [self.look_seeds[:number] for number in range(len(self.look_seeds), 0, -1)]
            while plans[-1][0] > MIN_REPORT_SEEDS:  # one look, with fewer and fewer seeds
                plans.append((max(MIN_REPORT_SEEDS, plans[-1][0] * 3 // 4),))
            for plan in plans:
                comparison = replace(self, finalists=self.finalists[:count], planned_look_seeds=plan)
                comparisons += [comparison, replace(comparison, patches={})] if self.patches else [comparison]
            if count == 1:
                break
            count = math.ceil(count / 2)
        return comparisons

    def state(self, results: Results) -> ComparisonState:
        """Return the state that follows from some results; results that were not wanted change nothing."""
        if not self.seeds or not self.finalists:
            return ComparisonState()
        if (state := self._compare_repeats(results)) is not None:
            return state
        chosen, missing = self.choose(results)
        if chosen is not None:
            state = self._compare(chosen, results)
            return self._judge_patches(chosen, state, results) if state.over else state
        # The default is needed whichever finalist is chosen, so it need not wait; it ends even if all finalists fail.
        return ComparisonState((*missing, *missing_trainings(self.look_seeds[0], [self.default], results)))

    def _compare_repeats(self, results: Results) -> ComparisonState | None:
        """Return the state of a comparison whose trainings may ignore their seeds; None if they are known not to."""
        # Results of an earlier version may have begun with the choice.
        if not self.lacks_seed or self.default is None or any(done.purpose == "choose" for done in results):
            return None
        ids = (self.default, self.finalists[0])
        if missing := missing_trainings(MIN_REPORT_SEEDS, ids, results):
            return ComparisonState(missing)
        losses = [_losses(id, "report", MIN_REPORT_SEEDS, results) for id in ids]
        (default_loss, default_repeat), (loss, repeat) = losses
        if default_loss is None or loss is None or (default_loss, loss) != (default_repeat, repeat):
            return None
        gain, seeds = default_loss - loss, MIN_REPORT_SEEDS
        state = ComparisonState((), ids[1], seeds, seeds, gain, 0.0, gain > 0.0, ignores_seeds=True)
        return self._judge_patches(ids[1], state, results)

    def choose(self, results: Results) -> tuple[int | None, tuple[FreshTraining, ...]]:
        """Return the chosen finalist and the trainings that the next halving lacks.

        The finalist is None while trainings are missing; if none are, it is None because all finalists failed.
        """
        finalists, seeds_so_far = list(self.finalists), 0
        while len(finalists) > 1:
            seeds_so_far += math.ceil(self.seeds / 3)
            if missing := missing_trainings(seeds_so_far, finalists, results, purpose="choose"):
                return None, missing

            def rank(id: int, seeds: int = seeds_so_far) -> tuple[int, float]:
                """Return the sort key of a finalist: fewest failures first, then the lowest mean."""
                losses = [loss for loss in _losses(id, "choose", seeds, results) if loss is not None]
                return -len(losses), fmean(losses) if losses else math.inf

            finalists = sorted(finalists, key=rank)[: math.ceil(len(finalists) / 2)]
        losses = _losses(finalists[0], "choose", seeds_so_far, results)
        all_failed = bool(losses) and all(loss is None for loss in losses)  # a single finalist is not trained to choose
        return (None if all_failed else finalists[0]), ()

    def _compare(self, chosen: int, results: Results) -> ComparisonState:
        """Return the state of the comparison with the default, look by look until one decides it."""
        alpha_spent, state = 0.0, ComparisonState()
        for seeds in self.look_seeds:
            if missing := missing_trainings(seeds, [self.default, chosen], results):
                return replace(state, next_trainings=missing, chosen=chosen, beats=None)
            if self.default is None:
                return ComparisonState((), chosen, seeds)
            share_of_max_seeds, alpha_of_look = self._share_and_alpha(seeds, alpha_spent)
            alpha_spent += alpha_of_look
            losses = list(zip(*(_losses(id, "report", seeds, results) for id in (chosen, self.default)), strict=True))
            pairs = [
                (loss, default_loss) for loss, default_loss in losses if loss is not None and default_loss is not None
            ]
            difference, count = paired_difference(pairs, self.is_fine_grained), len(pairs)
            gain, error, beats = difference.gain, difference.error, None
            if any(loss is None and default_loss is not None for loss, default_loss in losses):
                beats = False  # it failed where the default did not
            elif count > 1:
                if gain > 0.0 and difference.tail <= alpha_of_look:
                    beats = True
                else:
                    is_hopeless = gain <= 0.0 or gain < MIN_PROMISING_GAIN * share_of_max_seeds * error
                    is_last_look = share_of_max_seeds == 1.0
                    beats = False if is_hopeless or is_last_look else None
            state = ComparisonState((), chosen, seeds, count, gain, error, beats)
            if beats is not None:
                break
        return state

    def _share_and_alpha(self, seeds: int, alpha_spent: float) -> tuple[float, float]:
        """Return the share of the most seeds that a look has, and the part of `ALPHA` that it may spend."""
        share_of_max_seeds = seeds / self.look_seeds[-1]
        return share_of_max_seeds, ALPHA * share_of_max_seeds**SPENDING_POWER - alpha_spent

    def _judge_patches(self, chosen: int, state: ComparisonState, results: Results) -> ComparisonState:
        """Return the state with the effect of each patch, look by look until all are decided."""
        effects = {gene: PatchVerdict(gene) for gene in self.patches.get(chosen, ())}
        alpha_spent = 0.0
        for seeds in self.look_seeds:
            open_genes = [gene for gene, effect in effects.items() if not effect.verdict]
            if not open_genes:
                break
            if missing := missing_trainings(seeds, [chosen], results, ("", *open_genes)):
                return replace(state, next_trainings=missing, effects=tuple(effects.values()))
            share_of_max_seeds, alpha_of_look = self._share_and_alpha(seeds, alpha_spent)
            alpha_spent += alpha_of_look
            with_all = _losses(chosen, "report", seeds, results)
            without = {gene: _losses(chosen, "report", seeds, results, gene) for gene in open_genes}
            differences = self._patch_differences(with_all, without)
            for gene, difference in differences.items():
                pairs = sum(None not in pair for pair in zip(with_all, without[gene], strict=True))
                effects[gene] = PatchVerdict(gene, pairs, difference.gain, difference.error)
            # Those shown at an earlier look count as certain, those given up then as not tested.
            p_values = [
                differences[gene].p_value if gene in differences else math.nan if effect.verdict == NOT_SHOWN else 0.0
                for gene, effect in effects.items()
            ]
            for effect, p in zip(list(effects.values()), holm(p_values), strict=True):
                if effect.gene in differences:
                    is_hopeless = (
                        effect.gain == 0.0
                        or not abs(effect.gain) >= MIN_PROMISING_GAIN * share_of_max_seeds * effect.error
                    )
                    verdict = NOT_SHOWN if is_hopeless or share_of_max_seeds == 1.0 else ""
                    verdict = (REAL if effect.gain > 0.0 else HARMFUL) if p <= alpha_of_look else verdict
                    effects[effect.gene] = replace(effect, verdict=verdict)
        return replace(state, effects=tuple(effects.values()))

    def _patch_differences(
        self, losses: Sequence[float | None], without: Mapping[str, Sequence[float | None]]
    ) -> dict[str, Difference]:
        """Return the gain of a genome by each of its patches; one that fails without a patch has its own error."""
        complete = {gene: row for gene, row in without.items() if None not in (*losses, *row)}
        rows = [[loss or 0.0 for loss in row] for row in (losses, *complete.values())]
        differences = dict(zip(complete, differences_to_one(rows[0], rows[1:], self.is_fine_grained), strict=True))
        for gene in without.keys() - complete.keys():
            pairs = [(a, b) for a, b in zip(losses, without[gene], strict=True) if a is not None and b is not None]
            differences[gene] = paired_difference(pairs, self.is_fine_grained)
        return {gene: differences[gene] for gene in without}


def missing_trainings(
    seeds: int,
    ids: Sequence[int | None],
    results: Results,
    without: Sequence[str] = ("",),
    purpose: Purpose = "report",
) -> tuple[FreshTraining, ...]:
    """Return the trainings that some genomes lack at a look.

    Args:
        seeds: Number of seeds.
        ids: Trial ids of the genomes; None is skipped.
        results: Results so far.
        without: Genes of the patches that are left out of each genome, one at a time; '' for none.
        purpose: See `FreshTraining`.
    """
    trained_ids = [id for id in ids if id is not None]
    numbers = range(1, seeds + 1)
    needed = (FreshTraining(id, purpose, number, gene) for number in numbers for id in trained_ids for gene in without)
    return tuple(training for training in needed if training not in results)


def default_look_seeds(seeds: int) -> list[int]:
    """Return the numbers of reporting seeds at each look: thirds of the maximum, and at least 2."""
    seed_counts = (math.ceil(MAX_SEEDS_FACTOR * seeds * look / MAX_LOOKS) for look in range(1, MAX_LOOKS + 1))
    return sorted({max(MIN_REPORT_SEEDS, seed_count) for seed_count in seed_counts})


def _losses(id: int, purpose: Purpose, seeds: int, results: Results, without: str = "") -> list[float | None]:
    losses = (results[FreshTraining(id, purpose, number, without)] for number in range(1, seeds + 1))
    return [loss if loss is not None and abs(loss) < FAILURE_LOSS else None for loss in losses]
