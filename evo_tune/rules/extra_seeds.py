"""Extra seeds: which genome is trained with one more seed, by one of two rules.

`LeaderRanking`: the genome with the best mean over its seeds, until it has had a fixed number. One lucky seed can bring
a genome to the top; extra seeds must confirm it.

`SeedGains`: the genome whose extra seed has the highest expected gain, as long as that exceeds the gain of a new
genome. The gain is the expected fall of the best genome's predicted loss once the result is known (`genome.seeds`).

Both are states of a fold over the history. Nothing here proposes a new genome.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from evo_tune.genome.history import GrowingArray
from evo_tune.genome.kernel import category_counts, encode_features
from evo_tune.genome.seeds import SeedModel, Trainings, choose_genomes, fit_seed_model, seeds_change_nothing
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import EXTRA_SEED, Candidate, Proposal, Trial
from evo_tune.genome.values import genome_key, mean_of
from evo_tune.genome.view import GenomeTrials

# Minimum number of genomes with a loss for the model.
MIN_GENOMES = 8

# Number of genomes with the lowest predicted losses that are considered for an extra seed.
CONTENDERS = 6

# Factor on the expected gain of a new genome, because the largest of many predictions is too optimistic.
PRICE = 0.5

# Maximum number of genomes that were not promoted and enter the model with the worst loss. Promoted genomes were
# selected; from these alone the model would predict that genomes elsewhere are as good.
MAX_UNPROMOTED = 24

# Number of candidates for a new genome: variants of the best, and a quarter as many anywhere.
VARIANTS = 64

# Standard deviation of a variant's steps, in unit coordinates.
STEP_DEVIATION = 0.2

# Factor of growth in trainings after which the model is fitted again, which bounds its cost. It is also fitted after
# each extra seed, because these results are few and say most about the noise.
GROWTH = 1.1


class LeaderRanking:
    """Ranking of the fully trained genomes by the mean over their seeds."""

    def __init__(self) -> None:
        # By genome key: violation of constraints, mean losses and id of the first trial; the lowest leads.
        self._genomes: dict[str, tuple[tuple[float, tuple[float, ...], int], GenomeTrials]] = {}

    def update(self, genome: GenomeTrials) -> None:
        """Update a genome with all of its results."""
        trial, losses = genome.trial_by_budget.get(1.0), genome.losses(1.0)
        self._genomes.pop(genome.key, None)
        if trial is not None and trial.ok and losses is not None:
            self._genomes[genome.key] = (trial.violation, losses, genome.first_candidate.id), genome

    def next_seed(self, pending: Sequence[Candidate], max_seeds: int) -> Proposal | None:
        """Return the extra seed of the leading genome; None if it has had enough, or no genome was fully trained.

        Args:
            pending: Pending candidates.
            max_seeds: Maximum number of seeds per genome.
        """
        _, leader = min(self._genomes.values(), key=lambda ranked: ranked[0], default=(None, None))
        if leader is None:
            return None
        pending_keys = [genome_key(candidate.genome) for candidate in pending if candidate.extra_seed]
        seed = 1 + len(leader.extra_seed_trials) + pending_keys.count(leader.key)
        first = leader.first_candidate
        return Proposal(first.genome, EXTRA_SEED, first.parents, extra_seed=seed) if seed < max_seeds else None


@dataclass
class GenomeLosses:
    """A genome with full or partial trainings.

    Args:
        first_candidate: First candidate with the genome.
        losses: Losses by number of the seed; empty if the result of the first seed does not count.
        extra_seeds: Number of reported extra seeds, with any outcome.
        partly_trained: Whether a partial training gave a value.
    """

    first_candidate: Candidate
    losses: dict[int, float] = field(default_factory=dict)
    extra_seeds: int = 0
    partly_trained: bool = False

    @property
    def key(self) -> str:
        """Identity of the genome."""
        return genome_key(self.first_candidate.genome)


class SeedGains:
    """Fully trained genomes within the constraints, and the expected gain of an extra seed of each.

    Args:
        space: Space of the run.
        max_seeds: Maximum number of seeds per genome.
        shared: Whether all genomes share their seeds.
    """

    def __init__(self, space: SearchSpace, max_seeds: int, shared: bool = True) -> None:
        self._max_seeds, self._shared = max_seeds, shared
        self._sizes = category_counts(space)
        self._rows: dict[str, int] = {}
        self._genomes: list[GenomeLosses] = []
        # By row of the genome: mean loss (infinite without one), number of losses, unit coordinates.
        self._means, self._counts = GrowingArray(math.inf), GrowingArray(0.0)
        self._units = GrowingArray(*[0.0] * len(self._sizes))
        self._result_count, self._next_fit = 0, MIN_GENOMES
        self._all_ties: bool | None = None  # whether no extra seed changed a loss so far; None before the first one
        self._fit_trainings: Trainings | None = None
        self._fit_logs: np.ndarray | None = None  # None until the fit to these trainings is needed
        self._model_state: tuple[int, set[str]] = 0, set()
        self._model: tuple[np.ndarray, SeedModel] | None = None

    def update(self, trial: Trial, units: np.ndarray) -> None:
        """Add a result, in the order of the history: the number of results decides when the model is fitted.

        Args:
            trial: Completed trial.
            units: Unit coordinates of its genome. Shape (genes,).
        """
        candidate = trial.candidate
        if not candidate.whole and not trial.ok:
            return
        row = self._rows.setdefault(genome_key(trial.genome), len(self._rows))
        if row == len(self._genomes):
            self._genomes.append(GenomeLosses(candidate))
            self._units.set(row, units)
        genome = self._genomes[row]
        if not candidate.whole:
            genome.partly_trained = True
            return
        genome.extra_seeds += candidate.extra_seed > 0
        if trial.feasible and trial.losses is not None:
            genome.losses[candidate.extra_seed] = trial.losses[0]
        elif not candidate.extra_seed:
            genome.losses.clear()
        losses = list(genome.losses.values())
        self._means.set(row, float(mean_of(losses)) if losses else math.inf)
        self._counts.set(row, len(losses))
        if len(losses) > 1:
            self._all_ties = self._all_ties is not False and len(set(losses)) == 1
        self._result_count += 1
        has_news = candidate.extra_seed > 0 and self._fit_trainings is not None
        if has_news or self._result_count >= self._next_fit:
            rows = self._feasible_rows()
            if len(rows) >= MIN_GENOMES:
                self._next_fit = math.ceil(GROWTH * self._result_count)
                self._fit_trainings = self._trainings(np.append(rows, self._rows_not_promoted(set())))
                self._fit_logs = None

    def best_extra_seed(self, pending: Sequence[Candidate], cost: float = 1.0) -> Proposal | None:
        """Return the extra seed with the highest expected gain; None if a new genome gains more.

        If extra seeds change no loss, and that is no chance, there are no more.

        Args:
            pending: Pending candidates. A genome with a pending seed is left out. At most a quarter of the pending
                candidates are extra seeds, because the results of the new genomes are not known yet.
            cost: Cost of a new genome, in full trainings; an extra seed costs one.
        """
        pending_seeds = {genome_key(candidate.genome) for candidate in pending if candidate.extra_seed}
        prediction = self._predict(pending)
        if prediction is None or 4 * len(pending_seeds) > len(pending):
            return None
        rows, model = prediction
        order = np.argsort(model.expected, kind="stable")
        contenders = [(index, self._genomes[rows[index]]) for index in order[:CONTENDERS].tolist()]
        gains = [
            (model.gain_of_seed(index, 1 + genome.extra_seeds), genome)
            for index, genome in contenders
            if genome.losses and genome.extra_seeds < self._max_seeds - 1 and genome.key not in pending_seeds
        ]
        gain, genome = max(gains, key=lambda pair: pair[0], default=(-math.inf, None))
        if genome is None or cost * gain <= PRICE * model.gain_of_new(self._new_features(rows[order])):
            return None
        first = genome.first_candidate
        return Proposal(first.genome, EXTRA_SEED, first.parents, extra_seed=1 + genome.extra_seeds)

    def predict_losses(self, pending: Sequence[Candidate]) -> dict[str, float]:
        """Return the predicted loss by genome key, lowest first: of the best few genomes and of some others.

        The result is empty without a model: with too few genomes, or if seeds do not change the loss.

        Args:
            pending: Pending candidates.
        """
        prediction = self._predict(pending)
        if prediction is None:
            return {}
        rows, model = prediction
        order = np.argsort(model.expected, kind="stable").tolist()
        genomes = [(self._genomes[rows[index]], float(model.expected[index])) for index in order]
        return {genome.key: loss for genome, loss in genomes if genome.losses}

    def _predict(self, pending: Sequence[Candidate]) -> tuple[np.ndarray, SeedModel] | None:
        """Return the rows of the model's genomes and the model; None without one. Cached between two results."""
        promoted = {genome_key(candidate.genome) for candidate in pending if candidate.resumes is not None}
        if self._model_state == (self._result_count, promoted):
            return self._model
        self._model_state, self._model = (self._result_count, promoted), None
        if self._fit_trainings is None:
            return None
        if self._all_ties and seeds_change_nothing([genome.losses for genome in self._genomes]):
            return None
        rows = np.append(self._feasible_rows(), self._rows_not_promoted(promoted))
        trainings = self._trainings(rows)
        if np.ptp(trainings.losses) > 0.0:
            if self._fit_logs is None:
                self._fit_logs = fit_seed_model(self._fit_trainings)
            self._model = rows, SeedModel(trainings, self._fit_logs)
        return self._model

    def _feasible_rows(self) -> np.ndarray:
        """Return the rows of the genomes with losses that the model uses, not sorted by predicted loss."""
        means, counts = self._means.first_column(len(self._genomes)), self._counts.first_column(len(self._genomes))
        rows = np.flatnonzero(np.isfinite(means))
        return np.asarray(rows[choose_genomes(means[rows], counts[rows])])

    def _rows_not_promoted(self, promoted: set[str]) -> np.ndarray:
        """Return the rows of at most MAX_UNPROMOTED genomes that were not promoted, spread evenly over the run.

        Args:
            promoted: Keys of genomes with a running promotion. They are excluded because they were selected.
        """
        excluded = {self._rows[key] for key in promoted if key in self._rows}
        unpromoted = (row for row, genome in enumerate(self._genomes) if genome.partly_trained and not genome.losses)
        rows = [row for row in unpromoted if row not in excluded]
        steps = np.linspace(0, max(0, len(rows) - 1), min(MAX_UNPROMOTED, len(rows)))
        return np.asarray(np.array(rows, dtype=int)[np.unique(steps.astype(int))])

    def _trainings(self, rows: np.ndarray) -> Trainings:
        """Return the trainings of genomes; those without a loss have the worst loss with the first seed."""
        worst = max(max(self._genomes[row].losses.values(), default=-math.inf) for row in rows)
        losses_by_seed = [self._genomes[row].losses or {0: worst} for row in rows]
        trainings = [(number, *pair) for number, by_seed in enumerate(losses_by_seed) for pair in by_seed.items()]
        numbers, seeds, losses = (np.array(column) for column in zip(*trainings, strict=True))
        points = encode_features(self._units.first_rows(len(self._genomes))[rows], self._sizes)
        return Trainings(points, numbers, seeds, losses, self._sizes > 0, self._shared)

    def _new_features(self, rows: np.ndarray) -> np.ndarray:
        """Return features of genomes that a strategy might propose: variants of the first rows, and random ones.

        The seed of the draw follows from the history.
        """
        rng = np.random.default_rng([self._result_count, len(self._genomes)])
        best = self._units.first_rows(len(self._genomes))[rows[:CONTENDERS]]
        units = best[np.arange(VARIANTS) % len(best)]
        mutates = rng.random(units.shape) < 1.5 / units.shape[1]
        mutates[np.arange(VARIANTS), rng.integers(units.shape[1], size=VARIANTS)] = True
        moved = np.abs(units + STEP_DEVIATION * rng.normal(size=units.shape)) % 2.0
        moved = np.where(moved > 1.0, 2.0 - moved, moved)  # reflected at the bounds
        moved = np.where(self._sizes > 0, rng.random(units.shape), moved)
        anywhere = rng.random((VARIANTS // 4, units.shape[1]))
        return encode_features(np.concatenate([np.where(mutates, moved, units), anywhere]), self._sizes)
