"""Replay a saved run: would its strategy propose the same again, seeing what it saw then?

This is the proof of law 1: if every proposal of a finished run comes out again from its history alone,
nothing hidden shaped it. It reads a run and writes nothing.
"""

from __future__ import annotations

from msgspec import Struct

from evo_tune.genome.history import History
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Candidate, Proposal
from evo_tune.loop.begin import versions_of
from evo_tune.loop.code import hash_of
from evo_tune.loop.proposing import propose
from evo_tune.plugins.strategy import Strategy
from evo_tune.store.learned import history_of, widen
from evo_tune.store.manifest import Manifest
from evo_tune.store.run import Run

__all__ = ["Disagreement", "Verification", "other_strategy", "other_versions", "verify"]


class Disagreement(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A proposal that the strategy would not make again.

    Args:
        id: Number of the trial.
        recorded: Proposal in the journal.
        replayed: Proposal that the strategy makes now; null if it makes none. If it equals the recorded one, then the
            seed, the generation or the number of results seen does not follow from the rules of the run.
    """

    id: int
    recorded: Proposal
    replayed: Proposal | None


class Verification(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The result of replaying the proposals of a run.

    Args:
        run: Name of the run.
        proposals: Number of proposals that were replayed.
        disagreements: Proposals that differ; the exit code is 1 if there are any.
        notes: Changes since the run began, a sentence each.
    """

    run: str
    proposals: int
    disagreements: list[Disagreement]
    notes: list[str]


def verify(run: Run, space: SearchSpace, strategy: Strategy) -> list[Disagreement]:
    """Propose every candidate of a run again and return those that come out differently.

    Args:
        run: A saved run, finished or not.
        space: Its space, repair included.
        strategy: Its strategy.

    Raises:
        RunError: The strategy raises, so nothing can be said.
    """
    history = history_of(run, space)
    order = run.sequence()
    found = []
    for candidate, told in zip(run.candidates, run.told_at_birth, strict=True):
        for id in order[len(history.trials) : told]:
            history.tell(id, run.outcomes[id])
        widen(history, run)
        replayed = propose(strategy, history, run, candidate.id)
        recorded = Proposal(**{name: getattr(candidate, name) for name in Proposal.__dataclass_fields__})
        if replayed != recorded or not _consistent(candidate, history, run):
            found.append(Disagreement(id=candidate.id, recorded=recorded, replayed=replayed))
        history.born(candidate)
    return found


def other_strategy(manifest: Manifest, place: str) -> str:
    """Say that a strategy's file is not what it was when the run began; '' if it is.

    Args:
        manifest: The run's.
        place: Where the strategy is now.
    """
    if hash_of(place) == manifest.strategy_hash:
        return ""
    return f"the strategy's file {place} (or a module that it imports) has changed since the run began"


def other_versions(manifest: Manifest) -> list[str]:
    """Say which packages that shape results have another version than when the run began, each in a few words."""
    then = manifest.versions
    now = versions_of(name for name in then if name != "python")
    return [f"{name} was {then[name]}, and is {now[name]}" for name in then if now[name] != then[name]]


def _consistent(candidate: Candidate, history: History, run: Run) -> bool:
    """Whether generation, seed and told_before are what the run's rules make of them."""
    return (
        candidate.generation == history.fresh_count // run.manifest.population
        and candidate.seed == run.manifest.seed_of(candidate.genome, candidate.replicate)
        and candidate.told_before == len(history.trials)
    )
