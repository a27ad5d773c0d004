"""Candidates of `saea`: drafts of genomes, a test for new ones, and searches among them without training.

- `search_around` mutates the candidates with the highest predicted merit, in rounds.
- `propose_rare_value` proposes a rare value of a gene without order when the search has stalled.

This module knows spaces and merits, not how the merits were learned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from evo_tune.genome.history import History
from evo_tune.genome.kernel import encode_features, unordered_sizes
from evo_tune.genome.process import Process
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Proposal
from evo_tune.genome.values import Genome, genome_key
from evo_tune.strategies._models import MAX_FIT_POINTS, log_expected_improvement, normal_scores

MAX_RECENT_TRIALS = 256
"""Maximum number of latest trials that are used, which bounds the cost of a proposal in a long run."""

ROUNDS = 6
"""Rounds of mutation of a search around candidates."""

PARENTS_PER_ROUND, VARIANTS_PER_PARENT = 8, 6
"""Candidates around which a round searches, and variants of each."""

FIRST_STEP_DEVIATION = 0.1
"""Standard deviation of the steps of the first round, in unit coordinates. Each later round halves it."""

CONTINUOUS_FROM = 64
"""Minimum number of values of a gene that counts as continuous until a candidate is snapped."""

SMALLEST_DIFFERENCE = 1e-9
"""Difference in unit coordinates that is smaller than between any two values."""

RESULTS_UNTIL_STALLED = 12
"""Results without a new best after which a search has stalled; at least the number of pending trials, which were
proposed without knowing these results."""

PROGRESS = 0.02
"""Least improvement of the best loss, as a share of its distance from the median, that counts as a new best."""

SUFFICIENT_TRIALS_FACTOR = 2.0
"""A value counts as sufficiently tried after this factor times the square root of the number of all trials."""

RARE_BRED_DRAFTS, RARE_RANDOM_DRAFTS = 24, 36
"""Candidates with a rare value: bred ones and random ones."""

MeritFunction = Callable[[np.ndarray], np.ndarray]
"""Function from unit coordinates, shape (points, genes), to merits, shape (points,); higher is better."""


@dataclass(frozen=True)
class Draft:
    """A candidate before it is snapped to the values of its genes.

    Args:
        units: Unit coordinates. Shape (genes,).
        operator: See `Proposal`.
        parents: See `Proposal`.
    """

    units: Sequence[float] | np.ndarray
    operator: str
    parents: tuple[int, ...] = ()

    def proposal(self, space: SearchSpace) -> Proposal:
        """Return the candidate with its genes snapped to their values."""
        return Proposal(space.snap(self.units), self.operator, self.parents)


@dataclass(frozen=True)
class Novelty:
    """Test whether a genome is new: not tried before, and not too near to a tried one.

    Near the best genome, most drafts differ from it only in the third digit of one gene. Noisy losses cannot separate
    such drafts, and they crowd out other parents. To keep proposals apart is the clearing of Pétrowski (A clearing
    procedure as a niching method, 1996).

    Args:
        history: History of the run.
        units: Unit coordinates of the best and the latest trials. Shape (trials, genes).
        least: Minimum differences by gene; a new genome reaches at least one of them for each trial. Shape (trials,
            genes).
    """

    history: History
    units: np.ndarray
    least: np.ndarray

    @classmethod
    def of(cls, history: History, apart: float, pending: float | None = None) -> Novelty:
        """Return the rule for a history.

        Args:
            history: History of the run.
            apart: Minimum difference in one gene, in unit coordinates. In a gene with few values or without order, any
                difference is enough. With 0, every genome that was not tried is new.
            pending: The same for pending trials, whose results may still show that another place is better; None for
                `apart`.
        """
        genes = history.space.genes
        few = np.array([gene.size < CONTINUOUS_FROM for gene in genes.values()]) | (unordered_sizes(history.space) > 0)
        ids: list[int] = []
        if apart > 0.0:
            ids = [trial.id for trial in history.ranking[:MAX_FIT_POINTS]]
            ids += range(max(0, history.proposed_count - MAX_RECENT_TRIALS), history.proposed_count)
        waits = np.isin(ids, [one.id for one in history.pending])
        distances = np.where(waits, apart if pending is None else pending, apart)[:, None]
        units = np.array([history.proposed_units[id] for id in ids]).reshape(-1, len(genes))
        return cls(history, units, np.where(few, SMALLEST_DIFFERENCE, distances))

    def __call__(self, genome: Genome) -> bool:
        """Return whether a genome is new."""
        return self.units_if_new(genome) is not None

    def units_if_new(self, genome: Genome) -> np.ndarray | None:
        """Return the unit coordinates of a genome, shape (genes,); None if it is not new."""
        if self.history.seen(genome):
            return None
        units = self.history.space.encode(genome)
        far = (np.abs(self.units - units) >= self.least).any(axis=1)
        return units if far.all() else None

    def filter_new(self, drafts: Iterable[Draft]) -> Iterator[Proposal]:
        """Yield the distinct new genomes among drafts; each draft is snapped only when it is needed."""
        known = set()
        for draft in drafts:
            proposal = draft.proposal(self.history.space)
            key = genome_key(proposal.genome)
            if key not in known and self(proposal.genome):
                known.add(key)
                yield proposal


def best_among(novelty: Novelty, drafts: Sequence[Draft], merits: MeritFunction) -> Proposal | None:
    """Return the genome with the highest merit among drafts; None if no draft is new."""
    best = list(_best_new(novelty, drafts, merits, ()).values())
    if not best:
        return None
    return best[int(np.argmax(merits(np.stack([units for _, units in best]))))][0]


def search_around(
    novelty: Novelty, drafts: Sequence[Draft], merits: MeritFunction, rng: np.random.Generator
) -> Proposal | None:
    """Return the genome with the highest merit among drafts and their variants from rounds of mutation.

    Merits are computed before coordinates are snapped and repaired, because these steps are slow. Only the best of
    each round are snapped and judged again.

    Args:
        novelty: Test for new genomes.
        drafts: Candidates of the first round.
        merits: Function that returns the merits of candidates.
        rng: The only source of randomness.

    Returns:
        A proposal; None if no draft is new.
    """
    space = novelty.history.space
    found: dict[str, Proposal] = {}
    units, merit = np.empty((0, len(space.genes))), np.empty(0)
    young = list(drafts)
    for number in range(ROUNDS + 1):
        if number:
            proposals = list(found.values())
            top = np.repeat(np.argsort(-merit, kind="stable")[:PARENTS_PER_ROUND], VARIANTS_PER_PARENT)
            varied = _mutate_units(units[top], space, rng, FIRST_STEP_DEVIATION / 2.0 ** (number - 1))
            young = [Draft(row, "searched", proposals[place].parents) for row, place in zip(varied, top, strict=True)]
        best = _best_new(novelty, young, merits, found)
        if best:
            encoded = np.stack([row for _, row in best.values()])
            found |= {key: proposal for key, (proposal, _) in best.items()}
            units, merit = np.concatenate([units, encoded]), np.append(merit, merits(encoded))
        if not found:
            return None
    return list(found.values())[int(np.argmax(merit))]


def _best_new(
    novelty: Novelty, young: Sequence[Draft], merits: MeritFunction, known: Container[str]
) -> dict[str, tuple[Proposal, np.ndarray]]:
    """Return the LIKED drafts with the highest merits that are new and not known, by key, each with its coordinates."""
    likely = merits(move_to_cell_centres(novelty.history.space, np.stack([one.units for one in young])))
    best: dict[str, tuple[Proposal, np.ndarray]] = {}
    for index in np.argsort(-likely, kind="stable"):
        proposal = young[index].proposal(novelty.history.space)
        key = genome_key(proposal.genome)
        units = None if key in known or key in best else novelty.units_if_new(proposal.genome)
        if units is not None:
            best[key] = proposal, units
            if len(best) == PARENTS_PER_ROUND:
                break
    return best


def _mutate_units(units: np.ndarray, space: SearchSpace, rng: np.random.Generator, scale: float) -> np.ndarray:
    """Return coordinates with each active gene mutated with probability 1 / active genes, at least one in each row.

    Args:
        units: Unit coordinates. Shape (points, genes).
        space: Space of the genes.
        rng: The only source of randomness.
        scale: Standard deviation of a step, in unit coordinates. For a gene with few values it is at least most of the
            width of one value. A gene without order takes any value.

    Returns:
        Mutated coordinates. Shape (points, genes).
    """
    active = space.active(units)
    drawn = np.where(active, rng.random(units.shape), np.inf)
    struck = drawn < 1.0 / active.sum(axis=1, keepdims=True)
    struck[np.arange(len(units)), np.argmin(drawn, axis=1)] = True
    widths = np.array([max(scale, 0.7 / gene.size) for gene in space.genes.values()])
    moved = np.abs(units + widths * rng.normal(size=units.shape)) % 2.0
    moved = np.where(moved > 1.0, 2.0 - moved, moved)  # reflected at the bounds
    moved = np.where(unordered_sizes(space) > 0, rng.random(units.shape), moved)
    return np.where(struck, moved, units)


def move_to_cell_centres(space: SearchSpace, units: np.ndarray) -> np.ndarray:
    """Return unit coordinates with genes of few values moved to the middle of a value, nearly as in `encode`."""
    sizes = np.array([float(gene.size) for gene in space.genes.values()])
    few = sizes < CONTINUOUS_FROM
    sizes = np.where(few, sizes, 1.0)
    return np.where(few, (np.minimum(np.floor(units * sizes), sizes - 1) + 0.5) / sizes, units)


def propose_rare_value(
    novelty: Novelty, drafts: Iterable[Draft], probability: float, rng: np.random.Generator
) -> Proposal | None:
    """Return a proposal with the rarest value of the genes without order, if the search has stalled.

    A gene that conditions of others name divides the space into branches, and these are tried from the start.

    The best genes under one value need not be the best under another. The models know most about the surroundings of
    the best genome, so they reject a value after two trials at a bad place. When the search has stalled, a Gaussian
    process of the rarest value's own results looks for an improvement on the best of these.

    Args:
        novelty: Test for new genomes.
        drafts: Candidates; the first ones are used, with the rare value.
        probability: Probability of such a proposal in a stalled search. Nothing is drawn from `rng` otherwise.
        rng: The only source of randomness.

    Returns:
        A proposal; None while results improve, or if each value is sufficiently tried. Also None with several
        objectives: their weights differ for each proposal, so no trial stays the best.
    """
    history = novelty.history
    best = history.best
    if probability == 0.0 or best is None or len(history.objectives) > 1:
        return None
    sizes, counts = unordered_sizes(history.space), unordered_sizes(history.space)
    if not _stalled(history):
        counts[np.setdiff1d(np.arange(len(counts)), history.space.branching)] = 0
    rare = _rarest(encode_features(_recent(history), sizes), counts, rng)
    if rare is None or rng.random() >= probability:
        return None
    gene, value = rare
    found, points = [], []
    for proposal in novelty.filter_new(_with_value(history, drafts, gene, (value + 0.5) / sizes[gene], rng)):
        features = encode_features(history.space.encode(proposal.genome)[None], sizes)[0]
        if features[gene] == value:  # a repair may have changed the value
            found.append(proposal)
            points.append(features)
    if not found:
        return None
    return found[int(np.argmax(_promise(history, gene, value, np.stack(points), sizes)))]


def _stalled(history: History) -> bool:
    """Return whether the latest results have not improved the best loss, or by less than PROGRESS."""
    before = len(history.trials) - 1 - max(RESULTS_UNTIL_STALLED, len(history.pending))
    place = next((place for place, one in enumerate(history.ranking) if one.reported_order < before), None)
    if place is None or place == 0:
        return place == 0
    losses = history.scaled_losses() / 2.0  # the difference of whole ones may overflow
    if np.isnan(losses[place]) or np.isnan(losses[0]):
        return False
    return bool(losses[place] - losses[0] < PROGRESS * (np.nanmedian(losses) - losses[0]))


def _recent(history: History) -> np.ndarray:
    """Return the unit coordinates of the latest trials. Shape (trials, genes)."""
    return np.stack(history.proposed_units[-MAX_RECENT_TRIALS:])


def _rarest(features: np.ndarray, sizes: np.ndarray, rng: np.random.Generator) -> tuple[int, int] | None:
    """Return gene and value with the fewest trials, relative to the number of the gene's values.

    Args:
        features: Features of the trials. Shape (trials, genes).
        sizes: See `sizes_of`; 0 for a gene that is left out as well.
        rng: Generator that breaks ties.

    Returns:
        Index of the gene and index of the value; None if each value is sufficiently tried.
    """
    rows = []
    for gene in np.flatnonzero(sizes).tolist():
        size = int(sizes[gene])
        counts = np.bincount(features[:, gene].astype(int), minlength=size)
        rows += [(count * size, rng.random(), count, gene, value) for value, count in enumerate(counts.tolist())]
    if not rows:
        return None
    _, _, count, gene, value = min(rows)
    return (gene, value) if count < SUFFICIENT_TRIALS_FACTOR * math.sqrt(len(features)) else None


def _with_value(
    history: History, drafts: Iterable[Draft], gene: int, unit: float, rng: np.random.Generator
) -> Iterator[Draft]:
    """Yield drafts whose gene has this unit coordinate: variants of its best, some of the given ones, random ones."""
    ids = [
        one.id
        for one in history.ranking[:MAX_RECENT_TRIALS]
        if abs(history.proposed_units[one.id][gene] - unit) < SMALLEST_DIFFERENCE
    ][:ROUNDS]
    if ids:
        varied = _mutate_units(
            np.stack([history.proposed_units[id] for id in ids]).repeat(VARIANTS_PER_PARENT, 0),
            history.space,
            rng,
            FIRST_STEP_DEVIATION,
        )
        yield from (Draft(row, "chance", (ids[place // VARIANTS_PER_PARENT],)) for place, row in enumerate(varied))
    for one in islice(drafts, RARE_BRED_DRAFTS):
        units = np.array(one.units, dtype=np.float64)
        units[gene] = unit
        yield Draft(units, "chance", one.parents)
    for units in rng.random((RARE_RANDOM_DRAFTS, len(history.space.genes))):
        units[gene] = unit
        yield Draft(units, "chance")


def _promise(history: History, gene: int, value: int, points: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return the merits of candidates from the results of their value alone. Shape (candidates,).

    With fewer than two results of the value, the merit is the squared distance from the nearest trial with the value,
    or from the nearest of all trials if there are none.

    Args:
        history: History of the run.
        gene: Index of the gene.
        value: Index of the value, which all candidates have.
        points: Features of the candidates. Shape (candidates, genes).
        sizes: See `sizes_of`.
    """

    def of(ids: list[int]) -> np.ndarray:
        units = np.array([history.proposed_units[id] for id in ids]).reshape(-1, len(sizes))
        features = encode_features(units, sizes)
        return np.asarray(features[features[:, gene] == value])

    good = of([trial.id for trial in history.ranking[:MAX_RECENT_TRIALS]])[:MAX_FIT_POINTS]
    failed = of([trial.id for trial in history.failed[-MAX_RECENT_TRIALS:]])[-MAX_FIT_POINTS:]
    pending = of([one.id for one in history.pending[-MAX_RECENT_TRIALS:]])
    known = np.concatenate([good, failed])
    if len(known) < 2:
        there = np.concatenate([known, pending])
        steps = np.abs(points[:, None] - (there if len(there) else encode_features(_recent(history), sizes))[None])
        steps[:, :, sizes > 0] = steps[:, :, sizes > 0] > 0
        return np.asarray((steps**2).sum(axis=2).min(axis=1))
    places = np.append(np.arange(1.0, len(good) + 1), np.full(len(failed), len(good) + (len(failed) + 1) / 2))
    scores = normal_scores(places, len(places))
    process = Process.fit(known, scores, sizes > 0)
    mean, variance = (process.with_pending(pending) if len(pending) else process).predict(points)
    return log_expected_improvement(mean, np.sqrt(variance), float(scores.max()))
