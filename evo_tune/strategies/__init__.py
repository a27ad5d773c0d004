"""Strategies, one file each, and what they share: proposals, spread out or random, of genomes that are new.

A strategy in a file of your own can use `spread`, `fresh` and `unseen`, which propose no genome twice, and `fold_seed`
for random decisions in a fold. This module does not know parents, selection or DEAP.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from evo_tune.genome.history import History
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Proposal
from evo_tune.genome.values import Genome, genome_key

__all__ = ["fold_seed", "fresh", "spread", "unseen"]

# Number of random genomes from which `spread` takes the most remote one, without priors and with. The most remote one
# of many that follow a prior is the least likely one.
SAMPLES, LIKELY = 20, 3

# Number of random genomes tried before a finite space is enumerated.
DRAWS = 32

# Maximum number of cells to enumerate, which takes about a second, once in a run.
GRID = 50_000

# Number of additional random genomes tried if there are too many cells to enumerate.
LAST_DRAWS = 2_000


def spread(history: History, rng: np.random.Generator) -> Proposal | None:
    """Return the random genome that is farthest from all proposed ones; None if the space has no new genome.

    Best-candidate sampling (Mitchell, 1991) fills a space evenly around the genomes that exist, so the default and
    warm starts count. Two different values of a Choice without order have distance 1, as the ends of a scale. Genes
    with a prior are drawn from it.
    """
    space = history.space
    samples = [space.sample_prior(rng) for _ in range(LIKELY if space.has_priors else SAMPLES)]
    genomes = [genome for genome in samples if not history.seen(genome)]
    if not genomes or not history.proposed_count:
        return unseen(history, rng)
    steps = np.abs(np.stack([space.encode(genome) for genome in genomes])[:, None] - np.stack(history.proposed_units))
    steps[:, :, space.unordered] = steps[:, :, space.unordered] > 0
    distances = np.sqrt((steps**2).sum(axis=2))  # shape (genomes, proposals)
    return Proposal(genomes[int(np.argmax(distances.min(axis=1)))], "spread")


def fresh(history: History, rng: np.random.Generator, children: Iterable[Proposal]) -> Proposal | None:
    """Return the first child that was never proposed, else a random genome that was not.

    Args:
        history: History of the run.
        rng: Generator for the random genome.
        children: Proposals in order of preference; may be a generator.
    """
    for child in children:
        if not history.seen(child.genome):
            return child
    return unseen(history, rng)


def unseen_from_prior(history: History, rng: np.random.Generator) -> Proposal | None:
    """Return a random genome that was never proposed, drawn from priors; None if the space has no new genome."""
    return _first_new(history, rng, history.space.sample_prior, DRAWS) or unseen(history, rng)


def unseen(history: History, rng: np.random.Generator) -> Proposal | None:
    """Return a random genome that was never proposed; None if the space has no new genome.

    A finite space is enumerated when random draws have failed, so all of it is proposed in the end. A space with more
    than GRID cells counts as exhausted when LAST_DRAWS additional draws in a row find nothing new.
    """
    if history.space.size > GRID:
        return _first_new(history, rng, history.space.sample, DRAWS + LAST_DRAWS)
    proposal = _first_new(history, rng, history.space.sample, DRAWS)
    if proposal is not None:
        return proposal
    genomes = history.fold(f"{__name__}.grid", lambda: distinct_genomes(history.space), lambda genomes, trial: genomes)
    remaining = [genome for genome in genomes if not history.seen(genome)]  # those of pending trials are seen
    return Proposal(remaining[int(rng.integers(len(remaining)))], "enumeration") if remaining else None


def distinct_genomes(space: SearchSpace) -> list[Genome]:
    """Return the genomes of a finite space, each once."""
    return list({genome_key(genome): genome for genome in space.grid()}.values())


def _first_new(
    history: History, rng: np.random.Generator, sample: Callable[[np.random.Generator], Genome], draws: int
) -> Proposal | None:
    """Return the first new genome of `draws` random ones; None if none is new."""
    samples = (sample(rng) for _ in range(draws))
    return next((Proposal(genome, "random") for genome in samples if not history.seen(genome)), None)


def fold_seed(ids: Iterable[int]) -> int:
    """Return a seed for random decisions in a step of `History.fold`, which gets no generator.

    The same trials give the same seed: `np.random.default_rng(fold_seed([trial.id]))` is a generator for one trial. The
    generator of a proposal must not be used in a fold, because the state of a fold outlives the proposal.

    Args:
        ids: Ids of the trials that the step decides about.

    Returns:
        A seed for any kind of generator (0 ≤ int < 2**32).
    """
    return sum(ids) % 2**32
