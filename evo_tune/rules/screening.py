"""The rule for runs with patches: genomes that tell which on/off genes (switches) pay, and that use those that do.

A strategy that knows nothing of switches spends its first trainings on random sets of them, and keeps what does no
harm, because nothing tells it apart from what helps. From the genome number `FIRST` on, this rule therefore proposes
most new genomes. It has three kinds, in turn, and then it is the strategy's turn:

- *improvement*: one of the best genomes with a few switches and other genes changed. Of many such genomes, it is the
  one with the largest expected improvement.
- *screening*: the best genome with a random part of its uncertain switches on. Of many such genomes, it is the one that
  most reduces the variance of all effects (A-optimal design, Atkinson & Donev 1992). As in a factorial experiment, each
  training measures all switches. That takes fewer trainings than leaving one out at a time.
- *simplified*: the best genome without the switches whose gain is below `LEAST_GAIN` of its standard deviations.

Effects are those of a linear model of all full trainings (`genome.switches`). A switch that has only failed stays off
in all new genomes.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from evo_tune.genome.history import History
from evo_tune.genome.switches import SwitchModel, fit_switches
from evo_tune.genome.trial import Proposal
from evo_tune.genome.values import Genome

# Operators of the three kinds of genomes.
IMPROVEMENT, SCREENING, SIMPLIFIED = "improvement", "screening", "simplified"

# Number of the first genome of this rule (the default has 0), and the kinds in turn; '' is the strategy's.
FIRST, TURNS = 2, (IMPROVEMENT, SCREENING, "", SIMPLIFIED)

# A switch stays if its gain is at least this many standard deviations; up to `CERTAIN` of them, it is uncertain.
LEAST_GAIN, CERTAIN = 1.0, 2.5

# Number of failures after which a switch that never succeeded stays off.
FEW_FAILURES = 2

# A simplified genome is trained if its predicted loss is above the best one by at most this times the noise.
LEVEL = 3.0

# Number of random genomes of which the most useful one is trained.
CANDIDATES = 200

# Number of the best genomes that are changed for an improvement, the probability of exactly one changed switch
# (geometric), and for the other genes, the probability of a change and its standard deviation in unit coordinates.
LEADERS, CHANGED, ONE_CHANGE, MOVED, MOVE = 4, 0.85, 0.5, 0.5, 0.12


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
    failing, suspects = failing_switches(history, switches), suspected_switches(history, switches)
    working = [name for name in switches if name not in failing]
    model = fit_switches(history.space, working, genomes, history.ranked_losses()[:, 0]) if working else None
    if model is None:
        return None
    means = model.mean(model.features)
    best = _improve(model, genomes[int(means.argmin())])
    simple = _simplify(model, best)
    worse = float(model.mean(model.encode([simple]))[0] - means.min())
    if kind == SIMPLIFIED and worse <= LEVEL * model.noise and not history.seen(simple, budget):
        return Proposal(simple, SIMPLIFIED)
    if kind == SCREENING:
        drawn = _draw_switches(model, best, rng)
    else:
        leaders = [genomes[place] for place in np.argsort(means, kind="stable")[:LEADERS]]
        drawn = _draw_changes(model, leaders, switches, rng)
    snap, encode = history.space.snap, history.space.encode
    genomes = [snap(encode(_with_one_of(suspects - failing, genome, rng))) for genome in drawn]
    genomes = [genome for genome in genomes if not history.seen(genome, budget)]
    if not genomes:
        return None
    if kind == SCREENING:
        return Proposal(genomes[_most_informative(model, best, genomes)], SCREENING)
    gains = model.expected_improvements(genomes, float(means.min()))
    return Proposal(genomes[int(gains.argmax())], IMPROVEMENT)


def failing_switches(history: History, switches: Sequence[str]) -> set[str]:
    """Return the switches that have only failed: another training with them would tell no more.

    A failed trial accuses its suspected switch, if there is just one; `FEW_FAILURES` of these are proof.
    """
    suspects, accused = suspected_switches(history, switches), Counter[str]()
    for trial in history.failed:
        names = [name for name in suspects if trial.genome[name] is True]
        accused.update(names if len(names) == 1 else ())
    return {name for name, count in accused.items() if count >= FEW_FAILURES}


def suspected_switches(history: History, switches: Sequence[str]) -> set[str]:
    """Return the switches that were on in a failed trial and in no successful one."""
    failed, ranked = ([trial.genome for trial in trials] for trials in (history.failed, history.ranking))
    return {name for name in switches if any(g[name] is True for g in failed) and not any(g[name] for g in ranked)}


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


def _draw_changes(
    model: SwitchModel, leaders: Sequence[Genome], switches: Sequence[str], rng: np.random.Generator
) -> list[Genome]:
    """Return random changes of some genomes: of a few switches, of genes that are no switches, or of both."""
    others = np.isin(list(model.space.genes), switches, invert=True)
    genomes = []
    for _ in range(CANDIDATES):
        leader = leaders[int(rng.integers(len(leaders)))]
        count = min(int(rng.geometric(ONE_CHANGE)), len(model.switches)) if rng.random() < CHANGED else 0
        names = rng.choice(model.switches, count, replace=False)
        units = model.space.encode({**leader, **{name: not leader[name] for name in names}})
        moved = others & (rng.random(len(units)) < MOVED)
        units[moved] += rng.normal(0.0, MOVE, int(moved.sum()))
        genomes.append(model.space.snap(np.clip(units, 0.0, 1.0)))
    return genomes


def _draw_switches(model: SwitchModel, genome: Genome, rng: np.random.Generator) -> list[Genome]:
    """Return a genome with random values of its uncertain switches; of all, if fewer than two are."""
    ratios = _certainties(model, genome, model.switches)
    uncertain = [name for name, ratio in zip(model.switches, ratios, strict=True) if abs(ratio) < CERTAIN]
    names = uncertain if len(uncertain) > 1 else model.switches
    draws = rng.random((CANDIDATES, len(names))) < 0.5
    return [{**genome, **dict(zip(names, map(bool, row), strict=True))} for row in draws]


def _with_one_of(suspects: Collection[str], genome: Genome, rng: np.random.Generator) -> Genome:
    """Return a genome with at most one suspected switch on: if it fails, it is that one."""
    on = sorted(name for name in suspects if genome[name] is True)
    return {**genome, **dict.fromkeys(on, False), on[int(rng.integers(len(on)))]: True} if on else genome


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
