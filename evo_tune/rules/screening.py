"""The rule for runs with patches: trainings that tell which on/off genes (switches) of the best genome pay.

A search that only looks for lower losses keeps what does no harm, because nothing tells it apart from what helps. From
the genome number `FIRST` on, two of three new genomes therefore belong to this rule, in turn:

- *screening*: the best genome with a random part of its uncertain switches on. Of many such genomes, it is the one that
  most reduces the variance of all effects (A-optimal design, Atkinson & Donev 1992). As in a factorial experiment, each
  training measures all switches. That takes fewer trainings than leaving one out at a time.
- *simplified*: the best genome without the switches whose gain is below `LEAST_GAIN` of its standard deviations.

Effects are those of a linear model of all full trainings (`genome.switches`). The other genes stay those of the best
trial; the strategy tunes them in between. A switch that has only failed stays off in all new genomes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from evo_tune.genome.history import History
from evo_tune.genome.switches import SwitchModel, fit_switches
from evo_tune.genome.trial import Proposal
from evo_tune.genome.values import Genome

# Operators of the two kinds of genomes.
SCREENING, SIMPLIFIED = "screening", "simplified"

# Number of the first genome of this rule (the default has 0), and the kinds of three in turn; '' is the strategy's.
FIRST, TURNS = 20, ("", SCREENING, SIMPLIFIED)

# A switch stays if its gain is at least this many standard deviations; up to `CERTAIN` of them, it is uncertain.
LEAST_GAIN, CERTAIN = 1.0, 2.5

# Number of failures after which a switch that never succeeded stays off.
FEW_FAILURES = 2

# Number of random genomes of which the most useful one is trained.
CANDIDATES = 200


def next_screening(
    history: History, switches: Sequence[str], budget: float, rng: np.random.Generator
) -> Proposal | None:
    """Return the genome that is due by this rule; None if the strategy's is.

    Args:
        history: History of the run; with several objectives, nothing is due.
        switches: Genes of the run's patches, each off by default.
        budget: Budget of new genomes.
        rng: Source of random numbers.
    """
    number = history.fresh_count
    kind = TURNS[(number - FIRST) % len(TURNS)] if number >= FIRST else ""
    if not kind or not switches or len(history.objectives) > 1 or not history.ranking:
        return None
    genomes = [trial.genome for trial in history.ranking]
    failing = failing_switches(history, switches)
    switches = [name for name in switches if name not in failing]
    model = fit_switches(history.space, switches, genomes, history.ranked_losses()[:, 0]) if switches else None
    if model is None:
        return None
    best = _improve(model, genomes[int(model.mean(model.features).argmin())])
    genome = _simplify(model, best)
    if kind == SIMPLIFIED and not history.seen(genome, budget):
        return Proposal(genome, SIMPLIFIED)
    genomes = [changed for changed in _variants(model, best, rng) if not history.seen(changed, budget)]
    return Proposal(genomes[_most_informative(model, best, genomes)], SCREENING) if genomes else None


def failing_switches(history: History, switches: Sequence[str]) -> set[str]:
    """Return the switches that have only failed: another training with them would tell no more.

    A failed trial accuses its switch that never succeeded, if there is just one; `FEW_FAILURES` of these are proof.
    """
    works = {name for name in switches if any(trial.genome[name] is True for trial in history.ranking)}
    accused = Counter[str]()
    for trial in history.failed:
        suspects = [name for name in switches if trial.genome[name] is True and name not in works]
        accused.update(suspects if len(suspects) == 1 else ())
    return {name for name, count in accused.items() if count >= FEW_FAILURES}


def without_failing(proposal: Proposal, history: History, switches: Sequence[str], budget: float) -> Proposal:
    """Return a strategy's proposal without switches that have only failed, unless that genome was proposed before.

    Args:
        proposal: The proposal; one that trains a known genome further stays as it is.
        history: History of the run.
        switches: Genes of the run's patches.
        budget: Budget of new genomes.
    """
    failing = failing_switches(history, switches) if proposal.fresh else set()
    off = {name: False for name in failing if proposal.genome[name] is True}
    genome = history.space.snap(history.space.encode({**proposal.genome, **off})) if off else proposal.genome
    return replace(proposal, genome=genome) if off and not history.seen(genome, budget) else proposal


def _improve(model: SwitchModel, genome: Genome) -> Genome:
    """Return a genome after single changes of switches, the best first, as long as they lower the predicted loss."""
    loss = model.mean(model.encode([genome]))[0]
    while True:
        changed = [_change(model, genome, {name: not genome[name]}) for name in model.switches]
        losses = model.mean(model.encode(changed))
        best = int(losses.argmin())
        if not losses[best] < loss:
            return genome
        genome, loss = changed[best], losses[best]


def _simplify(model: SwitchModel, genome: Genome) -> Genome:
    """Return a genome without the switches whose gain is too small or uncertain, dropped one at a time."""
    while on := [name for name in model.switches if genome[name] is True]:
        ratios = _certainties(model, genome, on)
        if ratios.min() >= LEAST_GAIN:
            break
        genome = _change(model, genome, {on[int(ratios.argmin())]: False})
    return genome


def _variants(model: SwitchModel, genome: Genome, rng: np.random.Generator) -> list[Genome]:
    """Return a genome with random values of its uncertain switches; of all, if fewer than two are."""
    ratios = _certainties(model, genome, model.switches)
    uncertain = [name for name, ratio in zip(model.switches, ratios, strict=True) if abs(ratio) < CERTAIN]
    names = uncertain if len(uncertain) > 1 else model.switches
    draws = rng.random((CANDIDATES, len(names))) < 0.5
    return [_change(model, genome, dict(zip(names, map(bool, row), strict=True))) for row in draws]


def _most_informative(model: SwitchModel, genome: Genome, candidates: Sequence[Genome]) -> int:
    """Return which candidate's training would most reduce the variances of all gains at a genome."""
    features = model.encode(candidates)
    covariances = model.covariance(model.contrasts(genome, model.switches), features)
    reductions = (covariances**2).sum(axis=0) / (model.variance(features) + model.noise**2)
    return int(reductions.argmax())


def _certainties(model: SwitchModel, genome: Genome, names: Sequence[str]) -> np.ndarray:
    """Return the gain by each switch, the others as in a genome, in its standard deviations."""
    contrasts = model.contrasts(genome, names)
    deviations = np.maximum(np.sqrt(model.variance(contrasts)), 1e-12 * model.deviation)
    return np.asarray(model.mean(contrasts) / deviations)


def _change(model: SwitchModel, genome: Genome, values: Genome) -> Genome:
    """Return the valid genome with other values."""
    return model.space.snap(model.space.encode({**genome, **values}))
