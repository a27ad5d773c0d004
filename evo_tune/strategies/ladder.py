"""A ladder of model sizes: from small to large, as long as size pays.

Each rung is a search of its own over the space with depth and width fixed. `ga` runs it unchanged, on a history of this
rung's trials only. This module decides which rung is next.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import numpy as np

from evo_tune.errors import OptionError, SpaceError
from evo_tune.genome.genes import Choice
from evo_tune.genome.history import History, RunHistory
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Objective, Proposal
from evo_tune.options.declare import option
from evo_tune.options.target_size import check_depth_first
from evo_tune.plugins.strategy import Strategy
from evo_tune.strategies import unseen
from evo_tune.strategies.ga import GA

GENES = ("depth", "width")


class Size(NamedTuple):
    """The size of a model."""

    depth: int
    width: int

    @property
    def cost(self) -> int:
        """Relative arithmetic per token: depth · width²."""
        return self.depth * self.width**2

    def __str__(self) -> str:
        return f"{self.depth}x{self.width}"


def parse_sizes(text: str) -> tuple[Size, ...]:
    """Read '2x64,4x96,6x128'.

    Raises:
        OptionError: The text is not such a list, a depth exceeds its width, or a size is not above the one before.
    """
    parts = [re.fullmatch(r"\s*(\d{1,6})x(\d{1,6})\s*", part) for part in text.split(",")]
    sizes = tuple(Size(int(part[1]), int(part[2])) for part in parts if part)
    if len(sizes) < len(parts) or min(min(size) for size in sizes) < 1:
        raise OptionError(f"sizes={text}: expected DEPTHxWIDTH, and a comma between two: 2x64,4x96,6x128")
    for size in sizes:
        check_depth_first(f"sizes={text}", *size)
    for small, large in itertools.pairwise(sizes):
        if large.cost <= small.cost:
            raise OptionError(f"sizes={text}: {large} is not larger than {small}: expected depth · width² to rise")
    return sizes


@dataclass(frozen=True)
class Ladder(GA):
    """Search ladder: the genetic algorithm at one size (depth x width) after another, as long as size pays.

    The next rung starts only if the last step up lowered the best loss by `threshold` or more for each doubling of
    depth · width², at equal cost of a training. The rest of the run goes to the best rung. A rung starts with the best
    genomes of the one before, at its own size.
    """

    widens: ClassVar[bool] = False  # rungs are compared in one space

    sizes: str = option("", help="Sizes of the rungs, DEPTHxWIDTH with commas between: 2x64,4x96,6x128.")
    trials: int = option(0, bounds="[0, inf)", help="Trials that judge a rung; 0: the population.")
    # 0.02 nats is about the effect of another seed on the default language model: a smaller gain may be noise.
    threshold: float = option(
        0.02, bounds="(-inf, inf)", unit="units of the objective", help="Smallest gain for each doubling of size."
    )

    def check(self) -> None:
        parse_sizes(self.sizes or "1x1")

    def unsuited(self, space: SearchSpace, objectives: Sequence[Objective]) -> str:
        if not self.sizes:
            return "needs -s sizes=DEPTHxWIDTH,… (or run --ladder 2x64,4x96,6x128)"
        missing = [name for name in GENES if name not in space.genes]
        if missing:
            lacks, names = " and no ".join(missing), ", ".join(space.genes)
            return f"needs genes depth and width; the evaluator has no {lacks}: its genes are {names}"
        for size in parse_sizes(self.sizes):
            for name, value in zip(GENES, size, strict=True):
                try:
                    space.genes[name].check(value)
                except SpaceError as error:
                    return f"cannot have rung {size}: {name} {error}; give other sizes, or the gene: --gene {name}=…"
            try:
                _fix_size(space, size).default()
            except SpaceError as error:
                return f"cannot have rung {size}: the evaluator's repair does not leave it alone: {error}"
        return super().unsuited(space, objectives)

    def propose(self, history: History, rng: np.random.Generator) -> Proposal | None:
        rungs, _, end_reason = self._climb(history)
        rung = rungs[-1]
        if end_reason:
            for rung in sorted(rungs, key=Rung.lowest_loss):
                proposal = rung.as_run_proposal(super().propose(rung.history, rng))
                if proposal is not None or rung.history.pending:
                    return proposal
            return None
        if len(rung.ids) >= rung.count:  # waits for results
            return None
        starts = max(1, self.population // 2)
        if len(rungs) > 1 and len(rung.ids) < starts:
            smaller = rungs[-2]
            for trial in [trial for trial in smaller.history.ranking if trial.id < smaller.count][:starts]:
                genome = rung.history.space.check({**trial.genome, **rung.size._asdict()})
                if not history.seen(genome):
                    return Proposal(genome, "climb", (smaller.ids[trial.id],))
        return rung.as_run_proposal(super().propose(rung.history, rng))

    def survivors(self, history: History) -> Sequence[int]:
        for rung in sorted(self._climb(history)[0], key=Rung.lowest_loss):
            ids = [rung.ids[id] for id in super().survivors(rung.history)]
            if ids:
                return ids
        return Strategy.survivors(self, history)

    def status(self, history: History) -> str:
        (rungs, gains, end_reason), texts = self._climb(history), []
        for rung, gain in zip(rungs, [None, *gains, None], strict=False):
            loss = rung.lowest_loss()
            best = f"{history.objectives[0].value(loss):.4f}" if loss < math.inf else "-"
            texts.append(f"{rung.size} {best}" + ("" if gain is None else f" (gain {gain:.3g} per doubling)"))
        return f"ladder: {', '.join(texts)}; {end_reason or f'on rung {rungs[-1].size}'}"

    def _climb(self, history: History) -> tuple[list[Rung], list[float], str]:
        """Return the rungs that have started, the gains of the judged ones, and why no further one will start or ''."""
        rungs, gains = list[Rung](), list[float]()
        for size in parse_sizes(self.sizes):
            rung = Rung(history, size, self.trials or self.population)
            rungs.append(rung)
            if not rung.is_complete():
                return rungs, gains, ""
            if len(rungs) > 1:
                before, after = (judged.lowest_loss(judged.count) for judged in rungs[-2:])
                doublings = math.log2(size.cost / rungs[-2].size.cost)
                gains.append((before - after) / doublings if after < math.inf else -math.inf)
                if not gains[-1] >= self.threshold:
                    reason = f"gain {gains[-1]:.3g} per doubling is below {self.threshold:g}"
                    return rungs, gains, f"stopped at rung {size}: {reason}"
        return rungs, gains, f"reached the last rung {rungs[-1].size}"


class Rung:
    """The trials of one size, as a history of their own whose ids count from 0.

    Args:
        history: History of the run.
        size: Size of the models.
        count: Number of first trials by which the rung is judged. Later ones do not change the decision.
    """

    def __init__(self, history: History, size: Size, count: int) -> None:
        self.size = size
        self.count = count
        self.history = RunHistory(_fix_size(history.space, size), history.objectives)
        candidates = [*(trial.candidate for trial in history.trials), *history.pending]
        # Ids in the run, by the ids of the rung.
        self.ids: list[int] = []
        rung_ids: dict[int, int] = {}
        for candidate in sorted(candidates, key=lambda candidate: candidate.id):
            if all(candidate.genome[name] == value for name, value in size._asdict().items()):
                parents = tuple(rung_ids[id] for id in candidate.parents if id in rung_ids)
                self.history.add_candidate(replace(candidate, id=len(self.ids), parents=parents))
                rung_ids[candidate.id] = len(self.ids)
                self.ids.append(candidate.id)
        for trial in history.trials:
            if trial.id in rung_ids:
                self.history.tell(rung_ids[trial.id], trial.outcome)

    def is_complete(self) -> bool:
        """Return whether the trials that judge the rung are complete; fewer are enough without a further genome."""
        pending = [candidate.id for candidate in self.history.pending]
        if len(self.ids) >= self.count:
            return not pending or min(pending) >= self.count
        return not pending and unseen(self.history, np.random.default_rng(0)) is None

    def lowest_loss(self, count: float = math.inf) -> float:
        """Return the lowest loss of the first `count` trials of the rung; infinite without any."""
        losses = (trial.losses[0] for trial in self.history.ranking if trial.id < count and trial.losses)
        return next(losses, math.inf)

    def as_run_proposal(self, proposal: Proposal | None) -> Proposal | None:
        """Return a proposal of the rung's history as one of the run."""
        return proposal and replace(proposal, parents=tuple(self.ids[id] for id in proposal.parents))


def _fix_size(space: SearchSpace, size: Size) -> SearchSpace:
    genes = {name: Choice((value,)) for name, value in size._asdict().items()}
    return SearchSpace(space.repair, None, **{**space.genes, **genes})
